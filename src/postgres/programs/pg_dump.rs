//! pg_dump and pg_dumpall as children: the catalogue through a pipe, and the roles script.
//!
//! pg_dump has succeeded when the announced number of entries was parsed; then it is ended (pipe closed, SIGTERM,
//! reaped). It writes header and table of contents before any row when its output is a pipe
//! (`pg_backup_custom.c`), so a catalogue costs no table scan. Passwords travel in the child's environment, never in
//! its arguments.

use std::io::BufReader;
use std::time::Duration;

use libpgdump::format::ArchiveMetadata;
use tokio::io::AsyncReadExt as _;
use tokio::process::{ChildStderr, Command};
use tokio::task::JoinHandle;

use crate::archive::head;
use crate::error::{Context as _, Error, Result};
use crate::postgres::connect::conninfo::{ConnInfo, as_given};
use crate::postgres::connect::one_server::NAME_ONE;
use crate::postgres::connect::refuses_options;
use crate::postgres::connect::session::Session;
use crate::postgres::programs::child::Program;
use crate::postgres::programs::tools::PgTools;

/// Bytes of a child's stderr that are kept for messages.
const KEEP_STDERR: usize = 64 << 10;
/// Times that the roles are read: a connection may not be free at once, a role may be dropped meanwhile.
const ROLES_ATTEMPTS: u32 = 3;
/// Longest time to find out what a server takes at the start of a session.
const PROBE: Duration = Duration::from_secs(5);

/// The request to pg_dump.
#[derive(Debug, Clone)]
pub(crate) struct Request<'a> {
    /// The exported snapshot.
    pub(crate) snapshot: &'a str,
    /// Longest wait for a lock; a waiting migration behind the leader's lock would otherwise block for ever.
    pub(crate) lock_timeout: Duration,
    /// Encoding of names and text: `UTF8`, or that of the database where UTF-8 cannot say them.
    pub(crate) encoding: &'a str,
    /// Startup options that give pg_dump the settings of a backup, where it would not have them by itself.
    pub(crate) options: String,
    /// Name of the run, for `application_name`.
    pub(crate) run: &'a str,
    /// Further arguments (`--exclude-table=...`), patterns already quoted.
    pub(crate) leave_out: Vec<String>,
}

/// The reasons why there is no catalogue.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The program itself failed, perhaps because of what others did meanwhile: a lock, an object that was dropped.
    Program(Error),
    /// Nothing that another attempt could mend.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// The application name of a run's pg_dump.
#[must_use]
pub(crate) fn application(run: &str) -> String {
    format!("pgstow pg_dump {run}")
}

/// Further words for `PGOPTIONS` of programs on this server: how soon a backend notices that its client is gone. None
/// where the server has no such setting, or a pooler stands in between, which may refuse start-up options.
pub(crate) async fn backend_options(session: &Session) -> Option<&'static str> {
    const OPTIONS: &str = "-c client_connection_check_interval=1s";
    // The leader's session has set it where server and system can.
    let sql = "SELECT coalesce(pg_catalog.current_setting('client_connection_check_interval', true), '0') <> '0'";
    let can: bool = session.client.query_typed_one(sql, &[]).await.ok()?.get(0);
    let info = session.info().with_options(OPTIONS);
    let probe = async {
        let probe = Session::open(&info, PROBE, "probe").await.ok()?;
        let row = probe.client.query_typed_one(
            "SELECT pg_catalog.current_setting('client_connection_check_interval') OPERATOR(pg_catalog.=) '1s'",
            &[],
        );
        let works: bool = row.await.ok()?.get(0);
        probe.close().await;
        works.then_some(OPTIONS)
    };
    if can { tokio::time::timeout(PROBE, probe).await.ok().flatten() } else { None }
}

/// The table of contents of the whole database at the snapshot, and pg_dump's warnings.
///
/// Cancel by dropping: pg_dump is asked to end, and cancels its statement.
pub(crate) async fn table_of_contents(
    tools: &PgTools,
    info: &ConnInfo,
    request: &Request<'_>,
) -> Result<(ArchiveMetadata, Vec<String>), Failure> {
    let with = info.with_options(&request.options);
    match ask(tools, &with, request).await {
        Err(Failure::Program(error)) if !request.options.is_empty() && refuses_options(info, &with).await => {
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
    info.fresh().await?.apply(&mut command);
    command.env("PGAPPNAME", application(request.run)).env("PGTZ", "UTC");
    let mut program = Program::spawn(&mut command, "pg_dump")?;
    let child = program.child().ok_or_else(|| Error::failed("pg_dump was not started"))?;
    let stderr = drain_stderr(child.stderr.take());
    let stdout = child.stdout.take().ok_or_else(|| Error::failed("pg_dump has no stdout"))?;
    let pipe = stdout.into_owned_fd().context("read from pg_dump")?;
    let reading = tokio::task::spawn_blocking(move || {
        let mut reader = BufReader::with_capacity(1 << 20, std::fs::File::from(pipe));
        head::read(&mut reader)
    });
    let parsed = reading.await.map_err(|error| Error::failed(format!("read pg_dump's table of contents: {error}")))?;
    // One that failed has ended; one that delivered would go on with the rows.
    program.end().await;
    let words = stderr.await.unwrap_or_default();
    match parsed {
        Ok(meta) => Ok((meta, warnings(&words))),
        Err(error) => Err(explain(&words, &error)),
    }
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

/// The reason for a failure, with what to do. Only hints are chosen by words: a server's may be in any language.
fn explain(words: &str, error: &libpgdump::Error) -> Failure {
    let text = words.trim();
    let error = if text.is_empty() {
        Error::failed(format!("pg_dump ended before its table of contents did: {error}"))
    } else {
        Error::failed(format!("pg_dump failed: {}", first_error(text)))
    };
    Failure::Program(if text.contains("max_locks_per_transaction") {
        error
            .hint("raise max_locks_per_transaction on the server: every table needs a lock, twice (leader and pg_dump)")
    } else if text.contains("server version mismatch") {
        error.hint("install a pg_dump at least as new as the server and name its folder with --pg-bin-dir")
    } else if text.contains("permission denied") {
        error.hint("run `pgstow detect` to see what the role cannot read, and the statements that cure it")
    } else if text.contains("SET TRANSACTION SNAPSHOT") {
        // The statement that failed, which no language changes: the snapshot is one of another server.
        error.hint(NAME_ONE)
    } else {
        error
    })
}

/// The error about a program whose connection no longer moves.
pub(crate) fn lost(program: &str, silence: Duration) -> Error {
    let silence = humantime::format_duration(silence);
    Error::failed(format!("{program}'s connection is lost: nothing moved on it for {silence}, and nobody closed it"))
}

/// The application name of a run's pg_dumpall.
pub(crate) fn roles_application(run: &str) -> String {
    format!("pgstow pg_dumpall {run}")
}

/// The lines that say what went wrong, on one line.
fn first_error(words: &str) -> String {
    let lines: Vec<&str> = words.lines().filter(|line| !line.contains("warning:")).take(4).collect();
    lines.join("; ").replace("pg_dump: ", "").replace("pg_dumpall: ", "")
}

/// The roles script of the cluster, `passwords` included where the role may read `pg_authid`. A comment on a role may hold
/// bytes that UTF-8 cannot say: then the script is in the encoding of the database, as it says itself.
///
/// Memory: the script (some hundred bytes a role).
pub(crate) async fn roles(
    tools: &PgTools,
    info: &ConnInfo,
    passwords: bool,
    run: &str,
    encoding: &str,
) -> Result<Vec<u8>> {
    let mut attempt = 1;
    loop {
        let encoding = if attempt == 1 { "UTF8" } else { encoding };
        match dumpall(tools, info, passwords, run, encoding).await? {
            Ok(script) => return Ok(script),
            Err(words) if attempt >= ROLES_ATTEMPTS => return Err(roles_failed(&words)),
            Err(words) => tracing::debug!("pg_dumpall failed and is tried again: {}", first_error(words.trim())),
        }
        tokio::time::sleep(Duration::from_millis(300) * attempt).await;
        attempt += 1;
    }
}

fn roles_failed(words: &str) -> Error {
    Error::failed(format!("pg_dumpall failed: {}", first_error(words.trim())))
}

async fn dumpall(
    tools: &PgTools,
    info: &ConnInfo,
    passwords: bool,
    run: &str,
    encoding: &str,
) -> Result<Result<Vec<u8>, String>> {
    let mut command = Command::new(tools.pg_dumpall());
    command.args(["--roles-only", "--no-password"]).arg(format!("--encoding={encoding}"));
    info.fresh().await?.apply(&mut command);
    command.env("PGAPPNAME", roles_application(run));
    // Without a database name pg_dumpall connects to `postgres`, which the role may not be allowed to.
    command.arg(as_given(&format!("--database={}", conninfo_database(info.database()))));
    if !passwords {
        command.arg("--no-role-passwords");
    }
    let mut program = Program::spawn(&mut command, "pg_dumpall")?;
    let child = program.child().ok_or_else(|| Error::failed("pg_dumpall was not started"))?;
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
