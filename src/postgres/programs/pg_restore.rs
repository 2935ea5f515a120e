//! `pg_restore` as a child: definitions from a small archive in a file, large objects from a pipe.
//!
//! A `pg_restore` of version 17 or newer sets `transaction_timeout`, which an older server does not know: there its
//! script goes through psql, without that line. A child that is dropped gets SIGTERM, so that `pg_restore` cancels the
//! statements of all its connections; SIGKILL would leave its workers behind.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::error::{Context as _, Error, Result};
use crate::postgres::connect::conninfo::{ConnInfo, as_given};
use crate::postgres::connect::refuses_options;
use crate::postgres::connect::session::Session;
use crate::postgres::programs::child::in_english;
use crate::postgres::programs::pg_dump::drain_stderr;
use crate::postgres::programs::tools::PgTools;
use crate::postgres::settings;
use crate::sql::letters::Letters;

/// The line an older server does not know; it stands in the first lines of a script.
const UNKNOWN: &[u8] = b"SET transaction_timeout = 0;\n";
/// Longest time to connect for asking how definitions are printed.
const CONNECT: Duration = Duration::from_secs(15);
/// The text that is searched for that line.
const HEAD: usize = 16 << 10;

/// Runs `pg_restore` against one database.
#[derive(Debug, Clone)]
pub(crate) struct PgRestore {
    /// The programs; at least as new as the `pg_dump` that made the archive.
    pub(crate) tools: PgTools,
    /// The database.
    pub(crate) info: ConnInfo,
    /// `server_version_num` of its server.
    pub(crate) server_version_num: u32,
    /// Keeps event triggers from firing, as far as the role may.
    pub(crate) no_event_triggers: bool,
}

/// The definitions of an archive in a file, as text, and those of a database, by programs of the same version.
///
/// # Errors
/// The error of the program.
pub(crate) async fn definitions_of_archive(tools: &PgTools, archive: &Path) -> Result<String> {
    let mut command = Command::new(tools.pg_restore());
    command.args(["--schema-only", "--file=-"]).arg(archive);
    text(&mut command, "`pg_restore`").await
}

/// As [`definitions_of_archive`], of a database, in that encoding.
///
/// # Errors
/// The error of the program.
pub(crate) async fn definitions_of_database(tools: &PgTools, info: &ConnInfo, encoding: &str) -> Result<String> {
    let session = Session::connect(info, CONNECT, "definitions").await?;
    let info = info.with_options(&settings::differing(&session.client).await?);
    session.close().await;
    let mut command = Command::new(tools.pg_dump());
    command.args(["--schema-only", "--no-password"]).arg(format!("--encoding={encoding}"));
    info.apply(&mut command);
    command.env("PGTZ", "UTC");
    text(&mut command, "`pg_dump`").await
}

async fn text(command: &mut Command, name: &'static str) -> Result<String> {
    in_english(command).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = Running::start(command, name)?;
    let mut text = Vec::new();
    if let Some(mut stdout) = running.child.stdout.take() {
        stdout.read_to_end(&mut text).await.with_context(|| format!("read from {name}"))?;
    }
    running.end().await?;
    Ok(Letters::default().decode(&text))
}

/// The source of the archive.
enum Input<'a> {
    File(&'a Path),
    Pipe(&'a mut (dyn AsyncRead + Send + Unpin)),
}

impl PgRestore {
    /// Restores from an archive in a file. `what` names the step in messages.
    ///
    /// # Errors
    /// `pg_restore`'s own words, when it fails.
    pub(crate) async fn file(&self, what: &str, arguments: &[&str], archive: &Path) -> Result<()> {
        match self.run(what, arguments, Input::File(archive), true).await {
            // PgBouncer refuses startup options it does not know, before anything was done.
            Err(_) if self.refuses_options().await => self.run(what, arguments, Input::File(archive), false).await,
            other => other,
        }
    }

    /// True when the startup options are what was refused.
    async fn refuses_options(&self) -> bool {
        refuses_options(&self.info, &self.info.with_options(&self.options())).await
    }

    /// Restores from an archive that is read once.
    ///
    /// # Errors
    /// As [`Self::file`]; an error of `archive` itself comes out unchanged.
    pub(crate) async fn pipe(
        &self,
        what: &str,
        arguments: &[&str],
        archive: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<()> {
        self.run(what, arguments, Input::Pipe(archive), false).await
    }

    async fn run(&self, what: &str, arguments: &[&str], input: Input<'_>, options: bool) -> Result<()> {
        let through_psql = self.tools.major >= 17 && self.server_version_num < 170_000;
        let mut command = Command::new(self.tools.pg_restore());
        command.args(["--exit-on-error", "--no-password"]);
        // A script is made by one process; what psql runs is in one transaction only where `pg_restore` would do so.
        let kept =
            arguments.iter().filter(|a| !through_psql || !(a.starts_with("--jobs") || **a == "--single-transaction"));
        command.args(kept);
        self.environment(&mut command, options);
        if through_psql {
            command.args(["--file", "-"]);
        } else {
            command.arg(as_given(&format!("--dbname={}", database_word(self.info.database()))));
        }
        if let Input::File(path) = &input {
            command.arg(path);
        }
        command.stdin(if matches!(input, Input::File(_)) { Stdio::null() } else { Stdio::piped() });
        command.stdout(if through_psql { Stdio::piped() } else { Stdio::null() });
        let mut restore = Running::start(&mut command, "pg_restore")?;
        let script = restore.child.stdout.take();
        let consumed = async {
            match script {
                Some(script) => self.psql(script, options).await,
                None => Ok(()),
            }
        };
        let stdin = restore.child.stdin.take();
        let fed = async {
            let (Input::Pipe(archive), Some(mut stdin)) = (input, stdin) else { return Ok(()) };
            let mut buffer = vec![0; 256 << 10];
            loop {
                let size = archive.read(&mut buffer).await?;
                let part = buffer.get(..size).unwrap_or_default();
                // A child that ended early says why on stderr.
                if part.is_empty() || stdin.write_all(part).await.is_err() {
                    return Ok::<(), Error>(());
                }
            }
        };
        let (fed, consumed, ended) = tokio::join!(fed, consumed, restore.end());
        fed?;
        consumed.context(what)?;
        ended.context(what)
    }

    /// Runs a script in which an older server finds nothing it does not know.
    async fn psql(&self, mut script: impl AsyncRead + Send + Unpin, options: bool) -> Result<()> {
        let mut command = Command::new(self.tools.psql());
        command.args(["--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--file=-"]);
        self.environment(&mut command, options);
        command.arg(as_given(&format!("--dbname={}", database_word(self.info.database()))));
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut psql = Running::start(&mut command, "psql")?;
        let stdin = psql.child.stdin.take();
        let feed = async {
            let Some(mut stdin) = stdin else { return };
            let mut head = Vec::new();
            let mut limited = (&mut script).take(HEAD as u64);
            if limited.read_to_end(&mut head).await.is_err() {
                return;
            }
            if let Some(at) = memchr::memmem::find(&head, UNKNOWN) {
                head.drain(at..at + UNKNOWN.len());
            }
            // When psql ends early, its stderr says why.
            if stdin.write_all(&head).await.is_ok()
                && let Err(error) = tokio::io::copy(&mut script, &mut stdin).await
            {
                tracing::debug!("psql took no more: {error}");
            }
        };
        let ((), ended) = tokio::join!(feed, psql.end());
        ended
    }

    fn environment(&self, command: &mut Command, options: bool) {
        let info = if options { self.info.with_options(&self.options()) } else { self.info.clone() };
        info.apply(command);
        in_english(command).env("PGAPPNAME", crate::postgres::target::APPLICATION);
    }

    fn options(&self) -> String {
        // The restore is not done before a later, synchronous commit has flushed all of this.
        let replica = if self.no_event_triggers { " -c session_replication_role=replica" } else { "" };
        let settings = settings::loading(self.server_version_num, self.info.own_money());
        format!("{settings} -c synchronous_commit=off{replica}")
    }
}

/// A child that gets SIGTERM when it is dropped while it runs.
struct Running {
    child: Child,
    name: &'static str,
    stderr: JoinHandle<String>,
}

impl Running {
    fn start(command: &mut Command, name: &'static str) -> Result<Self> {
        let mut child = command.stderr(Stdio::piped()).spawn().with_context(|| format!("start {name}"))?;
        let stderr = drain_stderr(child.stderr.take());
        Ok(Self { child, name, stderr })
    }

    async fn end(&mut self) -> Result<()> {
        let status = self.child.wait().await.with_context(|| format!("wait for {}", self.name))?;
        let words = (&mut self.stderr).await.unwrap_or_default();
        for warning in words.lines().filter(|line| line.contains("warning: ") || line.contains("WARNING: ")) {
            tracing::warn!("{warning}");
        }
        if status.success() {
            return Ok(());
        }
        let lines: Vec<&str> =
            words.lines().map(str::trim).filter(|l| !l.is_empty() && !l.contains("arning: ")).take(6).collect();
        let told = if lines.is_empty() { format!("it ended with {status}") } else { lines.join("; ") };
        Err(Error::failed(format!("{} failed: {}", self.name, told.replace("pg_restore: ", ""))))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) =
            self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
            && let Err(gone) = rustix::process::kill_process(pid, rustix::process::Signal::TERM)
        {
            tracing::debug!("{} ended by itself: {gone}", self.name);
        }
    }
}

/// `--dbname` may be a connection string; a name must be quoted into one.
fn database_word(name: &str) -> String {
    format!("dbname='{}'", name.replace('\\', "\\\\").replace('\'', "\\'"))
}
