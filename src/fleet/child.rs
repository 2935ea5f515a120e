//! One step as a process of its own: this very program. Its log lines go on to ours, each behind the database's name, and
//! the last of them are kept for who asks what went wrong.
//!
//! Our end of its input stays open as long as we live: it ends, cleanly, when that closes, even should this program be
//! killed. A second process that does the same database afterwards therefore finds it free.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio_util::sync::CancellationToken;

use crate::error::{Context as _, Error, Result};
use crate::fleet::plan::Call;
use crate::notify::telemetry::context;

/// Lines of its log that are kept.
const TAIL: usize = 60;
/// The time that a step may take to end cleanly: a backup aborts its uploads, and ends its sessions.
const GRACE: Duration = Duration::from_secs(30);

/// Set in the environment of a step.
pub(crate) const SUPERVISED: &str = "PGSTOW_SUPERVISED";

/// Takes each line of a step's log: the database's name and the line.
pub(crate) type Relay = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// The end of a step.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    /// The last lines of its log.
    pub(crate) tail: VecDeque<String>,
    /// Its `error:` line, without the word.
    pub(crate) error: Option<String>,
    pub(crate) hints: Vec<String>,
}

/// Runs a step to its end. When `stop` is cancelled it is asked to end, and its end is waited for.
///
/// # Errors
/// When it cannot be started or its output cannot be read.
pub(crate) async fn run(
    program: &Path,
    name: &str,
    call: &Call,
    relay: &Relay,
    stop: &CancellationToken,
) -> Result<Ended> {
    let mut command = Command::new(program);
    command.args(&call.words).envs(call.env.iter().map(|(name, value)| (name, value)));
    command.env("PGSTOW_PROGRESS", "never").env(SUPERVISED, "1");
    if let Some(context) = context::context() {
        command.env(context::TRACEPARENT, context);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
    let input = child.stdin.take();
    let (Some(mut out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Error::failed("start a step: it has no output"));
    };
    let mut stdout = Vec::new();
    let mut work = Box::pin(async {
        let (read, log) = tokio::join!(out.read_to_end(&mut stdout), log(err, name, relay));
        read.context("read the output of a step")?;
        let status = child.wait().await.context("wait for a step")?;
        Ok::<_, Error>((status.code(), log))
    });
    let done = tokio::select! {
        done = &mut work => done,
        () = stop.cancelled() => {
            drop(input);
            match tokio::time::timeout(GRACE, &mut work).await {
                Ok(done) => done,
                Err(_elapsed) => {
                    drop(work);
                    kill(child).await;
                    return Err(Error::failed("a step did not end in time and was killed"));
                }
            }
        }
    };
    drop(work);
    let (code, (tail, error, hints)) = done?;
    Ok(Ended { code, stdout: String::from_utf8_lossy(&stdout).into_owned(), tail, error, hints })
}

async fn kill(mut child: Child) {
    if let Err(error) = child.kill().await {
        tracing::warn!("kill a step: {error}");
    }
}

/// Hands the lines on until there are no more.
async fn log(err: ChildStderr, name: &str, relay: &Relay) -> (VecDeque<String>, Option<String>, Vec<String>) {
    let (mut tail, mut error, mut hints) = (VecDeque::new(), None, Vec::new());
    let mut lines = BufReader::new(err).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line).into_owned();
        match line.split_once(": ") {
            Some(("error", text)) => error = Some(text.to_owned()),
            Some(("hint", text)) => hints.push(text.to_owned()),
            _ => {}
        }
        relay(name, &line);
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    (tail, error, hints)
}
