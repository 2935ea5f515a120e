//! A program of PostgreSQL's as a child that never outlives its use: asked to end (SIGTERM, on which pg_dump cancels
//! its statement) when it is dropped, killed when it does not, and ended by a watchdog should this program be killed
//! itself.
//!
//! A child that is killed leaves its backend waiting for a lock, with all its locks: the server notices a client that
//! is gone only when it reads from it, or every `client_connection_check_interval`. So a child is given a short one
//! where the server has it and nothing stands in between; who ends a run ends its backends too (`backup::cleanup`).

use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::error::{Context as _, Result};

/// Longest time that a child may take to end before it is killed.
pub(crate) const GRACE: Duration = Duration::from_secs(3);

/// Waits for the end of its input, which comes with the end of this program, and then ends the child.
const WATCHDOG: &str = "cat > /dev/null; kill -TERM \"$0\" 2> /dev/null";

/// Makes a program's own words English, whatever the user's language: its warnings are recognised by a word.
pub(crate) fn in_english(command: &mut Command) -> &mut Command {
    command.env("LC_MESSAGES", "C").env_remove("LC_ALL")
}

/// A running program.
#[derive(Debug)]
pub(crate) struct Program {
    /// `None` once it was reaped.
    child: Option<Child>,
    /// Killed when dropped, before it can act.
    _watchdog: Option<Child>,
}

impl Program {
    /// Starts a program with its output piped and no input.
    pub(crate) fn spawn(command: &mut Command, name: &str) -> Result<Self> {
        let child = in_english(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let watchdog = child.id().and_then(watchdog);
        Ok(Self { child: Some(child), _watchdog: watchdog })
    }

    /// The child itself.
    pub(crate) const fn child(&mut self) -> Option<&mut Child> {
        self.child.as_mut()
    }

    /// Asks the program to end, and kills it when it does not.
    pub(crate) async fn end(mut self) {
        if let Some(child) = self.child.take() {
            end(child).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else { return };
        terminate(&child);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(end(child));
        }
    }
}

fn terminate(child: &Child) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
        && let Err(gone) = rustix::process::kill_process(pid, rustix::process::Signal::TERM)
    {
        tracing::debug!("the program ended by itself: {gone}");
    }
}

async fn end(mut child: Child) {
    terminate(&child);
    if tokio::time::timeout(GRACE, child.wait()).await.is_err()
        && let Err(error) = child.kill().await
    {
        tracing::warn!("end a program: {error}");
    }
}

/// Nothing where there is no shell: the child then ends when its server does.
fn watchdog(child: u32) -> Option<Child> {
    let mut command = Command::new("sh");
    command.args(["-c", WATCHDOG, &child.to_string()]).env_clear().env("PATH", "/usr/bin:/bin");
    let started = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    match started {
        Ok(watchdog) => Some(watchdog),
        Err(error) => {
            tracing::debug!("start a watchdog: {error}");
            None
        }
    }
}
