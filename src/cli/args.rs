//! The flags that several commands share, and how their values are read: durations, sizes.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::builder::{OsStringValueParser, PossibleValue, TypedValueParser};
use clap::{Args, ValueEnum};

use crate::error::{Error, Result};
use crate::fleet::passwords;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::password::Source;
use crate::seal::decrypt::Identities;
use crate::seal::keys::Keys;
use crate::seal::sign::{SigningKey, Trust};
use crate::sql::letters::Letters;
use crate::store::config::{Checksums, LockMode, Sse};
use crate::store::{self, Store};

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0 done; 1 failed; 2 wrong usage or configuration; 3 done, but partial;
  4 verification or drill found damage; 130, 143 interrupted";

/// Settings every command shares.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Print one JSON document on stdout instead of text.
    #[arg(long, help_heading = "Global options", global = true, env = "PGSTOW_JSON", value_parser = clap::builder::BoolishValueParser::new(), default_value_t = false, default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    pub json: bool,
    /// Form of log lines on stderr.
    #[arg(long, value_name = "FORMAT", help_heading = "Global options", global = true, env = "PGSTOW_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Level of the log: error, warn, info, debug, trace, or a tracing filter.
    #[arg(
        long,
        value_name = "LEVEL",
        help_heading = "Global options",
        global = true,
        env = "PGSTOW_LOG",
        default_value = "info"
    )]
    pub log: String,
    /// When to draw progress bars.
    #[arg(long, value_name = "WHEN", help_heading = "Global options", global = true, env = "PGSTOW_PROGRESS", value_enum, default_value_t = Progress::Auto)]
    pub progress: Progress,
    /// Where backups are kept and how to reach it.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// When to draw progress bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never: log lines only.
    Never,
}

/// Where backups are kept and how to reach it.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// Store of the runs: `s3://bucket/prefix`, or a directory.
    #[arg(long, value_name = "STORE", help_heading = "Store", global = true, env = "PGSTOW_STORE")]
    pub store: Option<String>,
    /// Endpoint of an S3-compatible server, a URL that may have a path. Also AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL.
    #[arg(long, value_name = "URL", help_heading = "Store", global = true, env = "PGSTOW_S3_ENDPOINT")]
    pub s3_endpoint: Option<String>,
    /// Address buckets as a path instead of a host name. Default: yes with an endpoint, no without.
    #[arg(long, hide_short_help = true, help_heading = "Store", global = true, env = "PGSTOW_S3_PATH_STYLE", value_parser = clap::builder::BoolishValueParser::new(), num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub s3_path_style: Option<bool>,
    /// Region. Also AWS_REGION; `us-east-1` where an endpoint is given and no region.
    #[arg(long, value_name = "REGION", help_heading = "Store", global = true, env = "PGSTOW_S3_REGION")]
    pub s3_region: Option<String>,
    /// Most parts of one upload that the provider allows (some allow 1000).
    #[arg(long, hide_short_help = true, value_name = "N", help_heading = "Store", global = true, env = "PGSTOW_S3_MAX_PARTS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub s3_max_parts: u32,
    /// Smallest part of an upload in MiB. Larger objects get larger parts by themselves.
    #[arg(long, hide_short_help = true, value_name = "MIB", help_heading = "Store", global = true, env = "PGSTOW_S3_PART_SIZE_MIB", default_value_t = 8, value_parser = clap::value_parser!(u64).range(5..=5120))]
    pub s3_part_size_mib: u64,
    /// Checksum headers on requests.
    #[arg(long, hide_short_help = true, value_name = "WHEN", help_heading = "Store", global = true, env = "PGSTOW_S3_CHECKSUMS", value_enum, default_value_t = Checksums::WhenRequired)]
    pub s3_checksums: Checksums,
    /// PEM file with certificates to trust for the store besides the system's.
    #[arg(
        long,
        hide_short_help = true,
        value_name = "FILE",
        help_heading = "Store",
        global = true,
        env = "PGSTOW_S3_CA_FILE"
    )]
    pub s3_ca_file: Option<PathBuf>,
    /// Encryption by the provider.
    #[arg(
        long,
        hide_short_help = true,
        value_name = "KIND",
        help_heading = "Store",
        global = true,
        env = "PGSTOW_S3_SSE",
        value_enum
    )]
    pub s3_sse: Option<Sse>,
    /// Key to encrypt with, for --s3-sse aws:kms. Default: the account's own.
    #[arg(
        long,
        hide_short_help = true,
        value_name = "KEY",
        help_heading = "Store",
        global = true,
        env = "PGSTOW_S3_SSE_KMS_KEY_ID"
    )]
    pub s3_sse_kms_key_id: Option<String>,
    /// Storage class of every object, as the provider names it: STANDARD_IA, INTELLIGENT_TIERING, ...
    #[arg(long, hide_short_help = true, value_name = "CLASS", help_heading = "Store", global = true, env = "PGSTOW_S3_STORAGE_CLASS", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub s3_storage_class: Option<String>,
    /// Lock the objects of each run against deletion (the bucket must have Object Lock); with --s3-object-lock-retain.
    #[arg(
        long,
        hide_short_help = true,
        value_name = "MODE",
        help_heading = "Store",
        global = true,
        env = "PGSTOW_S3_OBJECT_LOCK_MODE",
        value_enum
    )]
    pub s3_object_lock_mode: Option<LockMode>,
    /// Time for which --s3-object-lock-mode locks the objects: 30d.
    #[arg(long, hide_short_help = true, value_name = "DURATION", help_heading = "Store", global = true, env = "PGSTOW_S3_OBJECT_LOCK_RETAIN", value_parser = duration)]
    pub s3_object_lock_retain: Option<Duration>,
    /// Send Content-MD5 with every object and part. Always with --s3-object-lock-mode.
    #[arg(long, hide_short_help = true, help_heading = "Store", global = true, env = "PGSTOW_S3_CONTENT_MD5", value_parser = clap::builder::BoolishValueParser::new(), default_value_t = false, default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    pub s3_content_md5: bool,
    /// Read a bucket that keeps versions as it was at this moment (2026-11-22T18:00:00Z): for runs that were deleted or
    /// overwritten since. For list, show, diff, verify, download, restore, drill and report.
    #[arg(long, hide_short_help = true, value_name = "TIME", help_heading = "Store", global = true, env = "PGSTOW_AT", value_parser = moment)]
    pub at: Option<SystemTime>,
    /// Attempts for each request, the first included.
    #[arg(long, hide_short_help = true, value_name = "N", help_heading = "Store", global = true, env = "PGSTOW_S3_ATTEMPTS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub s3_attempts: u32,
    /// Abort a request when no byte moved for this long.
    #[arg(long, hide_short_help = true, value_name = "DURATION", help_heading = "Store", global = true, env = "PGSTOW_S3_STALL_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub s3_stall_timeout: Duration,
}

/// Where backups are kept when nothing is named, for somebody who tries the program on a terminal.
const DEFAULT_STORE: &str = "./pgstow-store";

impl StoreArgs {
    /// Refuses to go on without a named store where nobody watches: a setting that was forgotten or misspelt must not
    /// make backups into a folder that goes away with a container.
    ///
    /// # Errors
    /// Kind `Usage`.
    pub(crate) fn refuse_default(&self) -> Result<()> {
        if self.store.is_some() || std::io::stderr().is_terminal() {
            return Ok(());
        }
        Err(Error::usage("no store is named").hint(format!(
            "--store or PGSTOW_STORE says where backups are kept: s3://bucket/prefix, or a directory; {DEFAULT_STORE} is \
             the default on a terminal only"
        )))
    }

    /// Opens a store that must be there already.
    ///
    /// # Errors
    /// Kind `Usage` where its directory does not exist; as [`Store::open`].
    pub(crate) async fn open_existing(&self) -> Result<Store> {
        let store = Store::open(self).await?;
        match store.local_path() {
            Some(path) if !path.is_dir() => {
                Err(Error::usage(format!("no store at {}: the directory does not exist", path.display()))
                    .hint("--store or PGSTOW_STORE says where backups are kept; `pgstow backup` makes a new store"))
            }
            _ => Ok(store),
        }
    }

    /// The store's settings, without clap.
    #[must_use]
    pub fn config(&self) -> store::Config {
        store::Config {
            location: self.store.clone().unwrap_or_else(|| DEFAULT_STORE.to_owned()),
            endpoint: self.s3_endpoint.clone(),
            path_style: self.s3_path_style,
            region: self.s3_region.clone(),
            max_parts: self.s3_max_parts,
            part_bytes: self.s3_part_size_mib << 20,
            checksums: self.s3_checksums,
            ca_file: self.s3_ca_file.clone(),
            sse: self.s3_sse,
            sse_kms_key_id: self.s3_sse_kms_key_id.clone(),
            storage_class: self.s3_storage_class.clone(),
            lock_mode: self.s3_object_lock_mode,
            lock_retain: self.s3_object_lock_retain,
            content_md5: self.s3_content_md5,
            at: self.at,
            attempts: self.s3_attempts,
            stall_timeout: self.s3_stall_timeout,
        }
    }
}

impl From<&StoreArgs> for store::Config {
    fn from(args: &StoreArgs) -> Self {
        args.config()
    }
}

// The enums belong to the store, which knows no clap: their names on the command line are given here.

impl ValueEnum for Checksums {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::WhenRequired, Self::WhenSupported]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::WhenRequired => PossibleValue::new("when-required").help("Only where S3 requires one"),
            Self::WhenSupported => PossibleValue::new("when-supported").help("Always (CRC32)"),
        })
    }
}

impl ValueEnum for Sse {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Aes256, Self::AwsKms]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Aes256 => PossibleValue::new("AES256").alias("aes256").help("With keys of the store's own (SSE-S3)"),
            Self::AwsKms => PossibleValue::new("aws:kms").help("With a key of a key management service (SSE-KMS)"),
        })
    }
}

impl ValueEnum for LockMode {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Governance, Self::Compliance]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Governance => PossibleValue::new("GOVERNANCE")
                .alias("governance")
                .help("Users with a permission of their own can end it"),
            Self::Compliance => PossibleValue::new("COMPLIANCE").alias("compliance").help("Nobody can end it"),
        })
    }
}

/// A connection string: names in it are bytes to the server, in whatever encoding.
pub(crate) fn connection() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().map(|text| Letters::default().decode(text.as_encoded_bytes()))
}

/// The database to read.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// Connection string: a URL or `key=value` words, as libpq reads them. Also DATABASE_URL, SUPABASE_DB_URL,
    /// PGHOST...
    #[arg(
        long,
        value_name = "URL",
        help_heading = "Database",
        env = "PGSTOW_DATABASE_URL",
        hide_env_values = true,
        value_parser = connection()
    )]
    pub database_url: Option<String>,
    /// Command that prints the password, or token, of the database: run by sh for each session and each program, with PGHOST,
    /// PGPORT, PGUSER and PGDATABASE set.
    #[arg(
        long,
        value_name = "COMMAND",
        help_heading = "Database",
        env = "PGSTOW_PASSWORD_COMMAND",
        hide_env_values = true
    )]
    pub password_command: Option<String>,
    /// Make a token of Amazon RDS or Aurora for each session and each program, and use it as the password: the role needs
    /// rds_iam, the credentials rds-db:connect.
    #[arg(long, help_heading = "Database", env = "PGSTOW_RDS_IAM")]
    pub rds_iam: bool,
    /// Folder of pg_dump, pg_dumpall and pg_restore. Default: PATH, then the usual folders.
    #[arg(long, value_name = "DIR", help_heading = "Database", env = "PGSTOW_PG_BIN_DIR")]
    pub pg_bin_dir: Option<PathBuf>,
    /// Abort when a connection takes longer than this.
    #[arg(long, value_name = "DURATION", help_heading = "Database", env = "PGSTOW_CONNECT_TIMEOUT", default_value = "15s", value_parser = duration)]
    pub connect_timeout: Duration,
}

impl SourceArgs {
    /// The connection.
    ///
    /// # Errors
    /// Kind `Usage`.
    pub(crate) fn connection(&self) -> Result<ConnInfo> {
        let info = ConnInfo::resolve(self.database_url.as_deref())?;
        info.with_passwords(self.passwords()?)
    }

    /// The source of passwords that are made.
    ///
    /// # Errors
    /// Kind `Usage`.
    pub(crate) fn passwords(&self) -> Result<Option<Source>> {
        passwords::source(self.password_command.as_deref(), self.rds_iam)
    }
}

/// A moment: RFC 3339, or date and time of day in UTC.
fn moment(text: &str) -> Result<SystemTime, String> {
    let at = text.parse::<jiff::Timestamp>().or_else(|error| {
        let civil: jiff::civil::DateTime = text.parse().map_err(|_neither| error)?;
        civil.to_zoned(jiff::tz::TimeZone::UTC).map(|zoned| zoned.timestamp())
    });
    at.map(SystemTime::from).map_err(|error| format!("{error}; write it like 2026-11-22T18:00:00Z"))
}

/// A duration as humantime reads it: `30s`, `2h 15m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    // humantime takes a bare 0.
    if text.trim().bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("time unit needed; write it like 30s, 5m or 2h 15m".to_owned());
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 30s, 5m or 2h 15m"))
}

/// The form in which objects of a run are stored.
#[derive(Debug, Clone, Default, Args)]
pub struct SealArgs {
    /// Encrypt every object but the manifest and RESTORE.md to this public key of age (`age1...`), or to those in this
    /// file, one a line (repeatable).
    #[arg(long, help_heading = "Objects", value_name = "KEY|FILE", env = "PGSTOW_ENCRYPT", hide_env_values = true)]
    pub encrypt: Vec<String>,
    /// Store larger objects as numbered volumes of this size (`50MB`, `2GiB`), for providers that limit it.
    #[arg(long, help_heading = "Objects", value_name = "SIZE", env = "PGSTOW_MAX_OBJECT_SIZE", value_parser = object_size)]
    pub max_object_size: Option<u64>,
    /// Sign the manifest with this secret key of minisign; PGSTOW_SIGN_KEY may also hold the key itself. The password
    /// of a key that has one comes from PGSTOW_SIGN_PASSWORD.
    #[arg(long, help_heading = "Objects", value_name = "FILE", env = "PGSTOW_SIGN_KEY", hide_env_values = true)]
    pub sign_key: Option<String>,
}

impl SealArgs {
    /// Reads the key that signs manifests. Its text is taken from the environment only.
    ///
    /// # Errors
    /// Kind `Usage`: a key that cannot be read.
    pub(crate) fn signing_key(&self) -> Result<Option<SigningKey>> {
        let Some(given) = self.sign_key.as_deref().filter(|given| !given.is_empty()) else { return Ok(None) };
        let from_environment = std::env::var("PGSTOW_SIGN_KEY").is_ok_and(|value| value == given);
        let password = std::env::var("PGSTOW_SIGN_PASSWORD").ok().filter(|password| !password.is_empty());
        SigningKey::read(given, from_environment, password.as_deref()).map(Some)
    }
}

/// The keys that a run is read with.
#[derive(Debug, Clone, Default, Args)]
pub struct KeyArgs {
    /// File with the secret key of an encrypted run, as `age-keygen` writes it (repeatable).
    #[arg(
        long,
        help_heading = "Encrypted and signed runs",
        value_name = "FILE",
        env = "PGSTOW_IDENTITY",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub identity: Vec<PathBuf>,
    /// The keys whose signatures are trusted.
    #[command(flatten)]
    pub trust: TrustArgs,
}

impl KeyArgs {
    /// Reads the keys.
    ///
    /// # Errors
    /// Kind `Usage`: a file that cannot be read, or holds no key.
    pub(crate) fn read(&self) -> Result<Keys> {
        Ok(Keys { identities: Identities::read(&self.identity)?, trust: self.trust.read()? })
    }
}

/// Sessions of a database, or large objects of a store, at the same time, unless given.
pub(crate) const JOBS: u16 = 4;

/// The sessions, programs and keys of a command that restores.
#[derive(Debug, Clone, Args)]
pub struct RestoringArgs {
    /// Sessions at the same time, which load rows, build indexes and, in a drill, compare. Small tables far away are loaded
    /// by up to 4 in the place of one, of those that the server has free.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = JOBS, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// Folder of pg_dump, pg_restore and psql. Default: PATH, then the usual folders.
    #[arg(long, env = "PGSTOW_PG_BIN_DIR")]
    pub pg_bin_dir: Option<PathBuf>,
    /// Abort when a connection takes longer than this.
    #[arg(long, env = "PGSTOW_CONNECT_TIMEOUT", default_value = "15s", value_parser = duration)]
    pub connect_timeout: Duration,
    /// When the server owed an answer for this long, ask it whether it is still at work; if not, the connection is lost.
    #[arg(long, env = "PGSTOW_STALL_TIMEOUT", default_value = "10m", value_parser = duration)]
    pub stall_timeout: Duration,
    /// The secret keys of an encrypted run.
    #[command(flatten)]
    pub keys: KeyArgs,
}

/// The server counts in milliseconds, and takes 0 for no limit at all.
pub(crate) const LOCK_TIMEOUTS: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_millis(i32::MAX as u64));

/// The keys whose signatures are trusted.
#[derive(Debug, Clone, Default, Args)]
pub struct TrustArgs {
    /// Refuse a run that is not signed by this public key of minisign, the line RW... or a .pub file (repeatable).
    #[arg(
        long,
        help_heading = "Encrypted and signed runs",
        value_name = "PUBLIC_KEY",
        env = "PGSTOW_TRUST",
        value_delimiter = ','
    )]
    pub trust: Vec<String>,
}

impl TrustArgs {
    /// Reads the public keys.
    ///
    /// # Errors
    /// Kind `Usage`: what is not a public key.
    pub(crate) fn read(&self) -> Result<Trust> {
        let given: Vec<&String> = self.trust.iter().filter(|key| !key.trim().is_empty()).collect();
        Trust::read(&given)
    }
}

/// Smaller volumes would be more requests than bytes.
const SMALLEST: u64 = 1_000_000;

fn object_size(text: &str) -> Result<u64, String> {
    let size = size(text)?;
    if size < SMALLEST { Err("at least 1MB".to_owned()) } else { Ok(size) }
}

/// A size as people write it: `50MB` (of 1000), `50MiB` (of 1024), `1.5 GB`, `1048576`.
///
/// # Errors
/// A text that is not a size, with examples.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size; write it like 50MB, 512MiB or 1.5GB");
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "kib" => 1 << 10,
        "m" | "mb" => 1_000_000,
        "mib" => 1 << 20,
        "g" | "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        "t" | "tb" => 1_000_000_000_000,
        "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 =
        if whole.is_empty() && !fraction.is_empty() { 0 } else { whole.parse().map_err(|_digits| wrong())? };
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 6).ok_or_else(wrong)?;
    let part: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_digits| wrong())? };
    let part = part.checked_mul(factor).ok_or_else(wrong)? / 10_u64.pow(digits);
    whole.checked_mul(factor).and_then(|bytes| bytes.checked_add(part)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("50MB", 50_000_000),
            ("50 MiB", 52_428_800),
            ("1.5GB", 1_500_000_000),
            ("1048576", 1_048_576),
            (".5kib", 512),
            ("5gib", 5 << 30),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MB", "1.2.3MB", "5 apples", "-1MB", "99999999999TB", "1e6", "."] {
            assert!(size(text).is_err(), "{text}");
        }
        assert!(object_size("900kB").is_err());
    }
}
