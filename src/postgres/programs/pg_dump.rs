//! pg_dump and pg_dumpall as children: the catalogue through a pipe, and the roles script.
//!
//! pg_dump has succeeded when the announced number of entries was parsed; then it is ended (pipe closed, SIGTERM,
//! reaped). It writes header and table of contents before any row when its output is a pipe
//! (`pg_backup_custom.c`), so a catalogue costs no table scan. Passwords travel in the child's environment, never in
//! its arguments.

use std::io::BufReader;
use std::process::Stdio;
use std::time::Duration;

use libpgdump::format::ArchiveMetadata;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;

use crate::archive::head;
use crate::error::{Context as _, Error, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::refuses_options;
use crate::postgres::programs::tools::PgTools;

/// How much of a child's stderr is kept for messages.
const KEEP_STDERR: usize = 64 << 10;
/// How long a child that was told to end may take before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// What to ask pg_dump for.
#[derive(Debug, Clone)]
pub(crate) struct Request<'a> {
    /// The exported snapshot.
    pub(crate) snapshot: &'a str,
    /// Longest wait for a lock; a waiting migration behind the leader's lock would otherwise block for ever.
    pub(crate) lock_timeout: Duration,
    /// Encoding of names and text: `UTF8`, or `SQL_ASCII` for such a database.
    pub(crate) encoding: &'a str,
    /// Startup options that give pg_dump the settings of a backup, where it would not have them by itself.
    pub(crate) options: String,
    /// Name of the run, for `application_name`.
    pub(crate) run: &'a str,
    /// Further arguments (`--exclude-table=...`), patterns already quoted.
    pub(crate) leave_out: Vec<String>,
}

/// Why there is no catalogue.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A lock was not to be had in time: let everything go and start over. Holds pg_dump's words.
    Lock(String),
    /// Anything else.
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The table of contents of the whole database at the snapshot, and pg_dump's warnings.
pub(crate) async fn table_of_contents(
    tools: &PgTools,
    info: &ConnInfo,
    request: &Request<'_>,
) -> Result<(ArchiveMetadata, Vec<String>), Failure> {
    let with = info.with_options(&request.options);
    match ask(tools, &with, request).await {
        Err(Failure::Failed(error)) if !request.options.is_empty() && refuses_options(info, &with).await => {
            tracing::warn!(
                "startup options are refused on the way to the server ({error}); pg_dump runs without {}",
                request.options
            );
            ask(tools, info, request).await
        }
        other => other,
    }
}

async fn ask(
    tools: &PgTools,
    info: &ConnInfo,
    request: &Request<'_>,
) -> Result<(ArchiveMetadata, Vec<String>), Failure> {
    let mut command = Command::new(tools.pg_dump());
    command
        .args(["--format=custom", "--compress=0", "--no-password"])
        .arg(format!("--encoding={}", request.encoding))
        .arg(format!("--snapshot={}", request.snapshot))
        .arg(format!("--lock-wait-timeout={}", request.lock_timeout.as_millis()))
        .args(&request.leave_out);
    info.apply(&mut command);
    command.env("PGAPPNAME", format!("pgstow pg_dump {}", request.run)).env("PGTZ", "UTC");
    let mut child = spawn(&mut command, "pg_dump")?;
    let stderr = drain_stderr(child.stderr.take());
    let stdout = child.stdout.take().ok_or_else(|| Error::failed("pg_dump has no stdout"))?;
    let pipe = stdout.into_owned_fd().context("read from pg_dump")?;
    let reading = tokio::task::spawn_blocking(move || {
        let mut reader = BufReader::with_capacity(1 << 20, std::fs::File::from(pipe));
        head::read(&mut reader)
    });
    let parsed = reading.await.map_err(|error| Error::failed(format!("read pg_dump's table of contents: {error}")))?;
    end(&mut child, parsed.is_ok()).await;
    let words = stderr.await.unwrap_or_default();
    match parsed {
        Ok(meta) => Ok((meta, warnings(&words))),
        Err(error) => Err(explain(&words, &error)),
    }
}

fn spawn(command: &mut Command, name: &str) -> Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .env("LC_MESSAGES", "C")
        .spawn()
        .with_context(|| format!("start {name}"))
}

/// Reads a child's stderr to its end and keeps its beginning for messages.
pub(crate) fn drain_stderr(stderr: Option<ChildStderr>) -> JoinHandle<String> {
    tokio::spawn(async move {
        let mut kept = Vec::new();
        let mut buffer = vec![0; 8192];
        if let Some(mut stderr) = stderr {
            while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
                kept.extend(buffer.iter().take(read.min(KEEP_STDERR.saturating_sub(kept.len()))));
            }
        }
        String::from_utf8_lossy(&kept).into_owned()
    })
}

/// Ends a child that delivered (SIGTERM makes pg_dump cancel its statement), or reaps one that failed.
async fn end(child: &mut Child, delivered: bool) {
    if delivered
        && let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
        && let Err(gone) = rustix::process::kill_process(pid, rustix::process::Signal::TERM)
    {
        tracing::debug!("pg_dump ended by itself: {gone}");
    }
    if tokio::time::timeout(GRACE, child.wait()).await.is_err()
        && let Err(error) = child.kill().await
    {
        tracing::warn!("end pg_dump: {error}");
    }
}

/// pg_dump's warnings, without its name, each with its details. What it says of its own end (a broken pipe) is none.
fn warnings(words: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in words.lines() {
        if let Some(warning) = line.strip_prefix("pg_dump: warning: ") {
            found.push(warning.to_owned());
        } else if let (Some(detail), Some(last)) = (line.strip_prefix("pg_dump: detail: "), found.last_mut()) {
            last.push_str(&format!(" {detail}"));
        }
    }
    found
}

fn explain(words: &str, error: &libpgdump::Error) -> Failure {
    let text = words.trim();
    // --lock-wait-timeout is a statement_timeout around LOCK TABLE. The server's words may be in any language, so
    // what failed decides: the leader has locked these tables, and only waiting or a missing right can stop pg_dump.
    if text.contains("max_locks_per_transaction") {
        return Failure::Failed(Error::failed(format!("pg_dump failed: {}", first_error(text))).hint(
            "raise max_locks_per_transaction on the server: every table needs a lock, twice (leader and pg_dump)",
        ));
    }
    if text.contains("LOCK TABLE") && !text.contains("permission denied") {
        return Failure::Lock(first_error(text));
    }
    if let libpgdump::Error::InvalidUtf8(wrong) = error {
        return Failure::Failed(
            Error::failed(format!("read the catalogue: a name or definition is not UTF-8: {wrong}"))
                .hint("a SQL_ASCII database holds bytes of unknown encoding; rename what is not UTF-8, or give the database an encoding"),
        );
    }
    let error = if text.is_empty() {
        Error::failed(format!("pg_dump ended before its table of contents did: {error}"))
    } else {
        Error::failed(format!("pg_dump failed: {}", first_error(text)))
    };
    Failure::Failed(if text.contains("server version mismatch") {
        error.hint("install a pg_dump at least as new as the server and name its folder with --pg-bin-dir")
    } else if text.contains("permission denied") {
        error.hint("run `pgstow detect` to see what the role cannot read, and the statements that cure it")
    } else {
        error
    })
}

/// The lines that say what went wrong, on one line.
fn first_error(words: &str) -> String {
    let lines: Vec<&str> = words.lines().filter(|line| !line.contains("warning:")).take(4).collect();
    lines.join("; ").replace("pg_dump: ", "").replace("pg_dumpall: ", "")
}

/// The roles script of the cluster, and whether it holds passwords. A failure to read `pg_authid` means a script
/// without them only where the role `may` not read it: a lost connection names the same table.
///
/// Memory: the script (some hundred bytes a role).
pub(crate) async fn roles(tools: &PgTools, info: &ConnInfo, may: bool) -> Result<(Vec<u8>, bool)> {
    match dumpall(tools, info, true).await? {
        Ok(script) => Ok((script, true)),
        Err(words) if !may && words.contains("pg_authid") => match dumpall(tools, info, false).await? {
            Ok(script) => Ok((script, false)),
            Err(words) => Err(roles_failed(&words)),
        },
        Err(words) => Err(roles_failed(&words)),
    }
}

fn roles_failed(words: &str) -> Error {
    Error::failed(format!("pg_dumpall failed: {}", first_error(words.trim())))
}

async fn dumpall(tools: &PgTools, info: &ConnInfo, passwords: bool) -> Result<Result<Vec<u8>, String>> {
    let mut command = Command::new(tools.pg_dumpall());
    command.args(["--roles-only", "--no-password", "--encoding=UTF8"]);
    info.apply(&mut command);
    command.env("PGAPPNAME", "pgstow pg_dumpall");
    // Without a database name pg_dumpall connects to `postgres`, which the role may not be allowed to.
    command.arg(format!("--database={}", conninfo_database(info.database())));
    if !passwords {
        command.arg("--no-role-passwords");
    }
    let mut child = spawn(&mut command, "pg_dumpall")?;
    let stderr = drain_stderr(child.stderr.take());
    let mut script = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut script).await.context("read from pg_dumpall")?;
    }
    let status = child.wait().await.context("wait for pg_dumpall")?;
    let words = stderr.await.unwrap_or_default();
    Ok(if status.success() {
        Ok(script)
    } else if words.trim().is_empty() {
        Err(format!("it ended with {status}"))
    } else {
        Err(words)
    })
}

/// pg_dumpall's `-d` is a connection string; a database's name must be quoted into one.
fn conninfo_database(name: &str) -> String {
    format!("dbname='{}'", name.replace('\\', "\\\\").replace('\'', "\\'"))
}
