//! What a person may type: clap definitions only, nothing else in the program knows clap.
//!
//! Every flag `--foo-bar` is also `PGSTOW_FOO_BAR`; the database URL and the AWS settings have their usual names.
//! Flags win over the environment, the environment over `.env` (loaded by `main` before parsing).

pub(crate) mod completions;
pub(crate) mod detect;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod list;
pub(crate) mod output;
pub(crate) mod pin;
pub mod progress;
pub(crate) mod promote;
pub mod run;
pub(crate) mod runs;
pub mod schema;
pub(crate) mod seal;
pub(crate) mod show;
pub(crate) mod status;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

pub use crate::cli::doctor::Doctor;
pub use crate::cli::runs::{Diff, Pin, Promote, Prune, Report, Status, Unpin};
pub use crate::cli::seal::{IdentityArgs, SealArgs};
use crate::pipeline::rate::BytesPerSecond;

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed, nothing was promoted; 2 wrong usage or configuration; 3 done, but partial; \
4 verification or drill found damage; 130 / 143 interrupted.";

/// Complete logical backups of PostgreSQL and Supabase databases, streamed into S3-compatible storage.
#[derive(Debug, Parser)]
#[command(name = "pgstow", version, about, after_help = EXIT_CODES, propagate_version = true)]
pub struct Cli {
    /// Settings every command shares.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Settings every command shares.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Print one JSON document on stdout instead of text.
    #[arg(long, global = true, env = "PGSTOW_JSON", value_parser = clap::builder::BoolishValueParser::new(), default_value_t = false, default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    pub json: bool,
    /// Form of log lines on stderr.
    #[arg(long, global = true, env = "PGSTOW_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// How much to log: error, warn, info, debug, trace, or a tracing filter.
    #[arg(long, global = true, env = "PGSTOW_LOG", default_value = "info")]
    pub log: String,
    /// When to draw progress bars.
    #[arg(long, global = true, env = "PGSTOW_PROGRESS", value_enum, default_value_t = Progress::Auto)]
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
#[command(next_help_heading = "Store")]
pub struct StoreArgs {
    /// `s3://bucket/prefix`, or a directory.
    #[arg(long, global = true, env = "PGSTOW_STORE", default_value = "./pgstow-store")]
    pub store: String,
    /// Endpoint of an S3-compatible server; may have a path. Also AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL.
    #[arg(long, global = true, env = "PGSTOW_S3_ENDPOINT")]
    pub s3_endpoint: Option<String>,
    /// Address buckets as a path instead of a host name. Default: yes with an endpoint, no without.
    #[arg(long, global = true, env = "PGSTOW_S3_PATH_STYLE", value_parser = clap::builder::BoolishValueParser::new(), num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub s3_path_style: Option<bool>,
    /// Region. Also AWS_REGION; `us-east-1` where an endpoint is given and no region.
    #[arg(long, global = true, env = "PGSTOW_S3_REGION")]
    pub s3_region: Option<String>,
    /// Most parts of one upload the provider allows (some allow 1000).
    #[arg(long, global = true, env = "PGSTOW_S3_MAX_PARTS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub s3_max_parts: u32,
    /// Smallest part of an upload in MiB.
    #[arg(long, global = true, env = "PGSTOW_S3_PART_SIZE_MIB", default_value_t = 8, value_parser = clap::value_parser!(u64).range(5..=5120))]
    pub s3_part_size_mib: u64,
    /// Checksum headers on requests: only where S3 requires one, or always.
    #[arg(long, global = true, env = "PGSTOW_S3_CHECKSUMS", value_enum, default_value_t = Checksums::WhenRequired)]
    pub s3_checksums: Checksums,
    /// PEM file with certificates to trust for the store besides the system's.
    #[arg(long, global = true, env = "PGSTOW_S3_CA_FILE")]
    pub s3_ca_file: Option<PathBuf>,
    /// Encryption by the provider: AES256 (SSE-S3) or aws:kms.
    #[arg(long, global = true, env = "PGSTOW_S3_SSE", value_enum)]
    pub s3_sse: Option<Sse>,
    /// Key of KMS to encrypt with, for --s3-sse aws:kms. Default: the account's own.
    #[arg(long, global = true, env = "PGSTOW_S3_SSE_KMS_KEY_ID")]
    pub s3_sse_kms_key_id: Option<String>,
    /// Storage class of every object, as the provider names it: STANDARD_IA, INTELLIGENT_TIERING, ...
    #[arg(long, global = true, env = "PGSTOW_S3_STORAGE_CLASS", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub s3_storage_class: Option<String>,
    /// Lock the objects of each run against deletion (the bucket must have Object Lock); with --s3-object-lock-retain.
    #[arg(long, global = true, env = "PGSTOW_S3_OBJECT_LOCK_MODE", value_enum)]
    pub s3_object_lock_mode: Option<LockMode>,
    /// How long they stay locked: 30d.
    #[arg(long, global = true, env = "PGSTOW_S3_OBJECT_LOCK_RETAIN", value_parser = duration)]
    pub s3_object_lock_retain: Option<Duration>,
    /// Send Content-MD5 with every object and part. Always with --s3-object-lock-mode.
    #[arg(long, global = true, env = "PGSTOW_S3_CONTENT_MD5", value_parser = clap::builder::BoolishValueParser::new(), default_value_t = false, default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    pub s3_content_md5: bool,
    /// Attempts for each request, the first included.
    #[arg(long, global = true, env = "PGSTOW_S3_ATTEMPTS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub s3_attempts: u32,
    /// Give up on a request when not a byte moved for so long.
    #[arg(long, global = true, env = "PGSTOW_S3_STALL_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub s3_stall_timeout: Duration,
}

/// When requests carry checksum headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Checksums {
    /// Only where S3 requires one: many compatible stores refuse the SDK's default.
    WhenRequired,
    /// Always (CRC32).
    WhenSupported,
}

/// Who encrypts stored objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sse {
    /// The store, with keys of its own (SSE-S3).
    #[value(name = "AES256", alias = "aes256")]
    Aes256,
    /// The store, with a key of a key management service (SSE-KMS).
    #[value(name = "aws:kms")]
    AwsKms,
}

/// Who may end a lock of an object before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LockMode {
    /// Users with a permission of their own.
    #[value(name = "GOVERNANCE", alias = "governance")]
    Governance,
    /// Nobody.
    #[value(name = "COMPLIANCE", alias = "compliance")]
    Compliance,
}

/// The database to read.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Database")]
pub struct SourceArgs {
    /// Connection string: a URL or `key=value` words, as libpq reads them. Also DATABASE_URL, SUPABASE_DB_URL, PGHOST...
    #[arg(long, env = "PGSTOW_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Folder of pg_dump, pg_dumpall and pg_restore. Default: PATH, then the usual folders.
    #[arg(long, env = "PGSTOW_PG_BIN_DIR")]
    pub pg_bin_dir: Option<PathBuf>,
    /// Give up connecting after so long.
    #[arg(long, env = "PGSTOW_CONNECT_TIMEOUT", default_value = "15s", value_parser = duration)]
    pub connect_timeout: Duration,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make one full run.
    Backup(Backup),
    /// Show what a run would cover: schemas, tables, sizes, extension-owned, unreadable.
    Detect(Detect),
    /// Check now what could stop the next backup: database, permissions, programs, store.
    Doctor(Doctor),
    /// List the runs of the store.
    List(List),
    /// Show one run's manifest.
    Show(Show),
    /// Compare two runs by their manifests.
    Diff(Diff),
    /// Read every object of a run back and recompute everything the manifest says.
    Verify(Verify),
    /// Fetch a run by its manifest, verified.
    Download(Download),
    /// Restore a run into a database, straight from the store.
    Restore(Restore),
    /// Prove a run: restore it into a scratch database, compare every table, drop it.
    Drill(Drill),
    /// Tell by the exit code whether there is a recent backup, for monitoring.
    Status(Status),
    /// Write a page about all runs (HTML).
    Report(Report),
    /// Delete old runs by rules, and what failed runs left behind.
    Prune(Prune),
    /// Keep a run from ever being pruned.
    Pin(Pin),
    /// Take a pin away.
    Unpin(Unpin),
    /// Let `latest` name a run.
    Promote(Promote),
    /// Print the JSON Schema of the manifest.
    Schema(SchemaCommand),
    /// Print shell completions.
    Completions(Completions),
}

/// `pgstow backup`
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Backup {
    /// The database to read.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Sessions that read rows at the same time.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// `zstd[:level]` (level 1 unless given), `gzip[:level]` (6) or `none`.
    #[arg(long, env = "PGSTOW_COMPRESSION", default_value = "zstd")]
    pub compression: String,
    /// Encryption and the size of objects.
    #[command(flatten)]
    pub seal: SealArgs,
    /// How long to wait for a table's lock before giving up.
    #[arg(long, env = "PGSTOW_LOCK_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub lock_timeout: Duration,
    /// Give up when another session has waited so long for a table because of the backup. Default: warn only.
    #[arg(long, env = "PGSTOW_MAX_BLOCK", value_parser = duration)]
    pub max_block: Option<Duration>,
    /// End the run, cleanly, when it has taken so long. Set it a minute below the platform's own time limit.
    #[arg(long, env = "PGSTOW_DEADLINE", value_parser = duration)]
    pub deadline: Option<Duration>,
    /// Read at most so much a second, all sessions together: `50MiB`, `800kB`.
    #[arg(long, env = "PGSTOW_RATE_LIMIT")]
    pub rate_limit: Option<BytesPerSecond>,
    /// When no row came for so long, ask the server whether it is still at work; if not, connect again.
    #[arg(long, env = "PGSTOW_STALL_TIMEOUT", default_value = "10m", value_parser = duration)]
    pub stall_timeout: Duration,
    /// Leave out what the role cannot read: a partial run, exit code 3.
    #[arg(long, env = "PGSTOW_ALLOW_UNREADABLE")]
    pub allow_unreadable: bool,
    /// Let a partial run become `latest`.
    #[arg(long, env = "PGSTOW_ALLOW_PARTIAL_LATEST")]
    pub allow_partial_latest: bool,
    /// Use this prefix although it belongs to another database.
    #[arg(long, env = "PGSTOW_ADOPT_PREFIX")]
    pub adopt_prefix: bool,
    /// Allow backing a Supabase project up into its own Storage, whose index lives in the database being saved.
    #[arg(long, env = "PGSTOW_ALLOW_SAME_PROJECT")]
    pub allow_same_project: bool,
}

/// `pgstow detect`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Detect {
    /// The database to read.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Names of the schemas only, one a line.
    #[arg(long)]
    pub schemas: bool,
}

/// `pgstow list`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct List {}

/// `pgstow show`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Show {
    /// The run; default `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// Only this schema, with what its archive needs from elsewhere.
    #[arg(long)]
    pub schema: Option<String>,
}

/// `pgstow verify`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Verify {
    /// The run; default `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// Objects read at the same time.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// The secret keys of an encrypted run.
    #[command(flatten)]
    pub identity: IdentityArgs,
}

/// `pgstow download`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Download {
    /// The run; default `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// Folder to put the files into.
    #[arg(long, default_value = "backups/latest", env = "PGSTOW_TO")]
    pub to: PathBuf,
    /// Only this schema (repeatable).
    #[arg(long)]
    pub schema: Vec<String>,
    /// Only this table, as `schema.table` (repeatable).
    #[arg(long)]
    pub table: Vec<String>,
    /// Keep the objects as stored instead of plain `.dump` and `.sql`.
    #[arg(long)]
    pub raw: bool,
    /// Objects fetched at the same time.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// The secret keys of an encrypted run.
    #[command(flatten)]
    pub identity: IdentityArgs,
}

/// `pgstow restore`
#[allow(clippy::struct_excessive_bools, reason = "flags a person may combine, not states")]
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Restore {
    /// The run; default `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// The database to restore into: a URL or `key=value` words, as libpq reads them.
    #[arg(long, env = "PGSTOW_RESTORE_TO", hide_env_values = true)]
    pub to: String,
    /// What the target is, where it is no plain database: a Supabase project.
    #[arg(long, env = "PGSTOW_PROFILE", value_enum)]
    pub profile: Option<Profile>,
    /// Create that database first, with the properties of the saved one.
    #[arg(long)]
    pub create: bool,
    /// Create roles that are missing; those that exist are never touched.
    #[arg(long)]
    pub roles: bool,
    /// Give the roles that --roles creates their saved passwords.
    #[arg(long, requires = "roles")]
    pub role_passwords: bool,
    /// Only this schema (repeatable).
    #[arg(long)]
    pub schema: Vec<String>,
    /// Only this table, as `schema.table` (repeatable).
    #[arg(long)]
    pub table: Vec<String>,
    /// Rows and sequence values only, into tables that exist.
    #[arg(long, conflicts_with_all = ["schema_only", "create"])]
    pub data_only: bool,
    /// Definitions only, no rows.
    #[arg(long)]
    pub schema_only: bool,
    /// Restore although the database is not empty.
    #[arg(long)]
    pub into_existing: bool,
    /// With --data-only: empty all the tables, in one transaction, before their rows come. With --profile supabase: those
    /// of the platform.
    #[arg(long)]
    pub truncate: bool,
    /// Restore although the database is the very one that was saved.
    #[arg(long)]
    pub allow_source: bool,
    /// Everything belongs to the role that restores, not to its saved owner.
    #[arg(long)]
    pub no_owner: bool,
    /// Do not gather the planner's statistics at the end.
    #[arg(long)]
    pub no_analyze: bool,
    /// Gather full statistics at the end also where autovacuum would: by itself restore gathers rough ones there.
    #[arg(long, conflicts_with = "no_analyze")]
    pub full_analyze: bool,
    /// Sessions that load rows and build indexes at the same time.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// Folder of pg_restore and psql. Default: PATH, then the usual folders.
    #[arg(long, env = "PGSTOW_PG_BIN_DIR")]
    pub pg_bin_dir: Option<PathBuf>,
    /// Give up connecting after so long.
    #[arg(long, env = "PGSTOW_CONNECT_TIMEOUT", default_value = "15s", value_parser = duration)]
    pub connect_timeout: Duration,
    /// The secret keys of an encrypted run.
    #[command(flatten)]
    pub identity: IdentityArgs,
}

/// A target that is no plain database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// A Supabase project: the role is no superuser, and the platform's schemas are there.
    Supabase,
}

/// `pgstow drill`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Drill {
    /// The run; default `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// A database on the server where the scratch database is made: a URL or `key=value` words.
    #[arg(long, env = "PGSTOW_DRILL_ON", hide_env_values = true)]
    pub on: String,
    /// Name of the scratch database, which must not exist. Default: made from the run's name.
    #[arg(long, env = "PGSTOW_SCRATCH_NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub scratch_name: Option<String>,
    /// Load and compare only some tables, all definitions all the same: a percentage of the tables (10%), which are
    /// others each time, or a table as `schema.table` (repeatable).
    #[arg(long, env = "PGSTOW_TABLES")]
    pub tables: Vec<String>,
    /// Create roles that are missing on that server.
    #[arg(long)]
    pub roles: bool,
    /// Sessions that load and compare rows at the same time.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// Folder of pg_dump, pg_restore and psql. Default: PATH, then the usual folders.
    #[arg(long, env = "PGSTOW_PG_BIN_DIR")]
    pub pg_bin_dir: Option<PathBuf>,
    /// Give up connecting after so long.
    #[arg(long, env = "PGSTOW_CONNECT_TIMEOUT", default_value = "15s", value_parser = duration)]
    pub connect_timeout: Duration,
    /// The secret keys of an encrypted run.
    #[command(flatten)]
    pub identity: IdentityArgs,
}

/// `pgstow schema`
#[derive(Debug, Clone, Args)]
pub struct SchemaCommand {}

/// `pgstow completions`
#[derive(Debug, Clone, Args)]
pub struct Completions {
    /// The shell.
    pub shell: clap_complete::Shell,
}

/// The completion script of a shell.
#[must_use]
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pgstow", &mut script);
    script
}

/// A duration as humantime reads it: `30s`, `2h 15m`.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 30s, 5m or 2h 15m"))
}
