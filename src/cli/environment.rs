//! The environment before anything is parsed: `.env`, values as containers and secrets bring them, names nobody knows.
//!
//! `.env` is read from the working directory only, and only where the caller or root owns it and nobody else can write
//! to it: who can change it can send backups elsewhere. Of its lines only settings of this program, libpq, AWS and
//! OpenTelemetry are taken, and none that names a program or a file that names one: whoever can write a line must not get
//! to run code.
//! Nothing in it is expanded: a password arrives as it is written.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::error::{Context as _, Error, Result};
use crate::runs::select;

const FILE: &str = ".env";

/// Settings that lead to a program: `pg_dump` itself, or a `credential_process`.
const PROGRAMS: &[&str] =
    &["PGSTOW_PG_BIN_DIR", "PGSTOW_PASSWORD_COMMAND", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "PGSYSCONFDIR"];
/// Settings that are not flags.
const NOT_FLAGS: &[&str] = &[
    "PGSTOW_SIGN_PASSWORD",
    crate::fleet::child::SUPERVISED,
    crate::postgres::source::server::PLACE,
    crate::postgres::source::server::PLACES,
    crate::notify::message::SECRET,
    crate::notify::mail::SMTP,
    crate::notify::mail::FROM,
    crate::cli::copy::ACCESS_KEY,
    crate::cli::copy::SECRET_KEY,
];
/// Settings whose value may be a text of several lines.
const TEXTS: &[&str] = &["PGSTOW_SIGN_KEY"];
/// Connection strings: no valid one stands in quotes.
const URLS: &[&str] = &["DATABASE_URL", "SUPABASE_DB_URL", "PGSTOW_DATABASE_URL"];

/// True for a variable that this program, libpq, the AWS SDK or OpenTelemetry reads.
fn is_setting(name: &str) -> bool {
    const PROXIES: &[&str] = &["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"];
    name.starts_with("PG")
        || name.starts_with("AWS_")
        || name.starts_with("OTEL_")
        || URLS.contains(&name)
        || name == "NO_COLOR"
        || PROXIES.contains(&name.to_ascii_uppercase().as_str())
}

/// Reads `.env` and mends values of the environment. Returns what a person should know.
///
/// # Errors
/// Kind `Usage` for a setting that makes no sense; the value is never in the message.
pub fn prepare() -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let mut settings = Vec::new();
    if let Some(text) = read(Path::new(FILE), &mut notes)? {
        for (name, value) in parse(&text)? {
            if PROGRAMS.contains(&name.as_str()) {
                notes.push(format!(
                    "{name} in {FILE} is not taken: a program's place is given by the environment or a flag"
                ));
            } else if std::env::var_os(&name).is_none() {
                settings.push((name, value));
            }
        }
    }
    for (name, value) in std::env::vars_os() {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
        if is_setting(name)
            && let Some(mended) = mended(name, value)?
        {
            settings.push((name.to_owned(), mended));
        }
    }
    let text: String = settings.iter().map(|(name, value)| assignment(name, value)).collect();
    // A crate whose function sets variables: doing so is unsafe once threads run, and there are none yet.
    dotenvy::from_read_override(text.as_bytes())
        .map_err(|_quotes_the_value| Error::failed("set the environment: a value cannot be set"))?;
    Ok(notes)
}

/// A line that assigns exactly this value, whatever is in it.
fn assignment(name: &str, value: &str) -> String {
    format!("{name}='{}'\n", value.replace('\'', "'\\''"))
}

/// A value without the line end that a mounted secret brings, or the quotes that `docker --env-file` keeps; `None` where
/// it is as it should be.
fn mended(name: &str, value: &str) -> Result<Option<String>> {
    let line = value.trim_end_matches(['\n', '\r']);
    let quoted = ['"', '\''].into_iter().find_map(|quote| line.strip_prefix(quote)?.strip_suffix(quote));
    let is_url = URLS.contains(&name);
    let plain = quoted.filter(|_| is_url || name.starts_with("PGSTOW_") || name.starts_with("AWS_")).unwrap_or(line);
    // The AWS SDK panics on them in a header.
    let refused = |c: char| c.is_control() && !(TEXTS.contains(&name) && c == '\n');
    if (name.starts_with("AWS_") || name.starts_with("PGSTOW_")) && plain.chars().any(refused) {
        return Err(Error::usage(format!("{name} has a line end or another control character in it"))
            .hint(format!("set {name} to the value alone, on one line")));
    }
    Ok((plain != value).then(|| plain.to_owned()))
}

/// The text of the file; `None` where there is none, or it is not to be trusted.
fn read(path: &Path, notes: &mut Vec<String>) -> Result<Option<String>> {
    // Opened only where it is a file: opening a pipe would wait for a writer.
    if !path.is_file() {
        return Ok(None);
    }
    let operation = || format!("read {}", path.display());
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            notes.push(format!("{} is not read: {error}", path.display()));
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(operation),
    };
    let metadata = file.metadata().with_context(operation)?;
    let own = rustix::process::geteuid().as_raw();
    let problem = if metadata.uid() != own && metadata.uid() != 0 {
        "it belongs to another user"
    } else if metadata.mode() & 0o022 != 0 {
        "others can write to it (chmod go-w)"
    } else {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(operation)?;
        return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
    };
    notes.push(format!("{} is not read: {problem}", path.display()));
    Ok(None)
}

/// The settings among the lines; lines of other programs are passed over.
///
/// `NAME=value`, with or without `export`. A value in single quotes is taken as it is, one in double quotes knows `\"`,
/// `\\`, `\n` and `\$`, one without quotes ends at ` #` or the end of the line.
fn parse(text: &str) -> Result<Vec<(String, String)>> {
    let mut settings = Vec::new();
    let text = text.trim_start_matches('\u{feff}');
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let Some((name, value)) = line.split_once('=') else { continue };
        let name = name.trim_end();
        if !is_setting(name) || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            continue;
        }
        let Some(value) = plain(value.trim_start()) else {
            return Err(Error::usage(format!("read {FILE}: line {}, {name}: a quote is not closed", at + 1))
                .hint("put the value into single quotes; inside double quotes write \\\" for a quote"));
        };
        settings.push((name.to_owned(), value));
    }
    Ok(settings)
}

/// The value of a line; `None` where a quote is not closed, or something follows it.
fn plain(text: &str) -> Option<String> {
    let is_end = |rest: &str| rest.trim().is_empty() || rest.trim_start().starts_with('#');
    if let Some(rest) = text.strip_prefix('\'') {
        let (value, rest) = rest.split_once('\'')?;
        return is_end(rest).then(|| value.to_owned());
    }
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(" #").or_else(|| text.find("\t#")).unwrap_or(text.len());
        let value = if text.starts_with('#') { "" } else { text.get(..end)? };
        return Some(value.trim_end().to_owned());
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => return is_end(chars.as_str()).then_some(value),
            '\\' => match chars.next()? {
                'n' => value.push('\n'),
                other @ ('"' | '\\' | '$') => value.push(other),
                other => {
                    value.push('\\');
                    value.push(other);
                }
            },
            other => value.push(other),
        }
    }
    None
}

/// The command line of the program. A variable that is set to nothing counts as not set.
#[must_use]
pub fn command() -> clap::Command {
    fn without_empty(command: clap::Command) -> clap::Command {
        let is_empty = |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        command
            .mut_args(|arg| if is_empty(&arg) { arg.env(None::<&'static str>) } else { arg })
            .mut_subcommands(without_empty)
    }
    without_empty(Cli::command())
}

/// Refuses a `PGSTOW_...` variable that no flag knows: a misspelt setting must not make a backup elsewhere, or one that
/// is not encrypted.
///
/// # Errors
/// Kind `Usage`, with the nearest name.
pub fn refuse_unknown() -> Result<()> {
    let mut known: BTreeSet<String> = NOT_FLAGS.iter().map(|name| (*name).to_owned()).collect();
    collect(&Cli::command(), &mut known);
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    // Kubernetes makes PGSTOW_SERVICE_HOST and the like for a service of this name; tests and their setup have names of
    // their own.
    let of_others = ["PGSTOW_SERVICE_", "PGSTOW_PORT_", "PGSTOW_TEST_", "PGSTOW_TOOLS"];
    let mut unknown: Vec<String> = names
        .filter(|name| name.starts_with("PGSTOW_") && !known.contains(name) && name != "PGSTOW_PORT")
        .filter(|name| !of_others.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    unknown.sort_unstable();
    let Some(first) = unknown.first() else { return Ok(()) };
    let mut message = format!("the environment variable {first} is not a setting of pgstow");
    if unknown.len() > 1 {
        let written = write!(message, " (nor are {} others)", unknown.len() - 1);
        debug_assert!(written.is_ok(), "writing to a String does not fail");
    }
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let near = select::nearest(first, &known);
    Err(Error::usage(message).hint(if near.is_empty() {
        "unset it; `pgstow manual settings` lists all settings".to_owned()
    } else {
        format!("did you mean {}? otherwise unset it", near.join(" or ").replace('"', ""))
    }))
}

fn collect(command: &clap::Command, known: &mut BTreeSet<String>) {
    known.extend(command.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned())));
    for sub in command.get_subcommands() {
        collect(sub, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_file_arrive_as_they_are_written() {
        let text = "\u{feff}# comment\nPGPASSWORD=pa$$w0rd$HOME\nexport PGUSER = 'a b' # who\nRAILS_ENV=x y\nfoo\n\
                    DATABASE_URL=\"postgres://u:a\\$b\\\"c@h/x\"\nPGHOST=h # here\nPGDATABASE=a#b\nLD_PRELOAD=/x.so\nPATH=/x\n\
                    PGSTOW_STORE=\n";
        let found = parse(text).unwrap();
        let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            found,
            [
                ("PGPASSWORD", "pa$$w0rd$HOME"),
                ("PGUSER", "a b"),
                ("DATABASE_URL", "postgres://u:a$b\"c@h/x"),
                ("PGHOST", "h"),
                ("PGDATABASE", "a#b"),
                ("PGSTOW_STORE", ""),
            ]
        );
        for wrong in ["PGPASSWORD='x", "PGPASSWORD=\"x", "PGPASSWORD='x'y"] {
            assert!(parse(wrong).unwrap_err().message().contains("PGPASSWORD"), "{wrong}");
        }
    }

    #[test]
    fn any_value_can_be_assigned() {
        for value in ["", "a'b", "'", "$HOME ${x} \\ \" #", "a\nb", " x ", "''"] {
            let read: Vec<_> = dotenvy::from_read_iter(assignment("X", value).as_bytes()).collect();
            assert_eq!(read.len(), 1, "{value:?}");
            assert_eq!(read.first().unwrap().as_ref().unwrap(), &("X".to_owned(), value.to_owned()), "{value:?}");
        }
    }

    #[test]
    fn line_ends_and_quotes_around_values_go() {
        let mended = |name, value| mended(name, value).unwrap();
        assert_eq!(mended("AWS_REGION", "eu-central-1\n").as_deref(), Some("eu-central-1"));
        assert_eq!(mended("DATABASE_URL", "\"postgres://h/x\"").as_deref(), Some("postgres://h/x"));
        assert_eq!(mended("PGPASSWORD", "\"quoted\""), None);
        assert_eq!(mended("AWS_REGION", "eu-central-1"), None);
        assert!(
            super::mended("AWS_SECRET_ACCESS_KEY", "a\nb").unwrap_err().message().contains("AWS_SECRET_ACCESS_KEY")
        );
    }
}
