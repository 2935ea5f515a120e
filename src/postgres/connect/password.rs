//! Passwords that are made for each session and each program: the tokens of RDS, Cloud SQL, Entra or Vault live for
//! minutes. A command prints them, or a function of ours makes them. The command never sees a password and none becomes an
//! argument.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::error::{Context as _, Error, Result};
use crate::postgres::connect::secret::Secret;

/// Makes the password for a host, a port and a role.
type Make = dyn Fn(String, u16, String) -> BoxFuture<'static, Result<String>> + Send + Sync;

/// The source of passwords that are made.
#[derive(Clone)]
pub(crate) enum Source {
    /// A line for `sh`.
    Command(Secret),
    /// A token, which nobody may read on the way: connections to a server at a distance are encrypted.
    Token(Arc<Make>),
}

impl Source {
    /// The command, where it is one.
    pub(crate) fn command(line: &str) -> Option<Self> {
        (!line.trim().is_empty()).then(|| Self::Command(Secret(line.to_owned())))
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Command(one), Self::Command(two)) => one == two,
            (Self::Token(one), Self::Token(two)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }
}

impl Eq for Source {}

/// Longest time that the command may take.
const COMMAND: Duration = Duration::from_mins(1);

/// Runs the command, by `sh`, with these variables: host, port, user and database of the connection.
///
/// # Errors
/// A command that fails, or prints nothing. What it prints is never in an error.
pub(super) async fn ask(line: &Secret, variables: [(&str, String); 4]) -> Result<String> {
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", line.reveal()]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.envs(variables).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND, command.output())
        .await
        .map_err(|_elapsed| Error::failed("the password command gave no password within a minute"))?
        .context("run the password command")?;
    if !output.status.success() {
        return Err(Error::failed(format!("the password command ended with {}", output.status))
            .hint("--password-command is run by sh, with PGHOST, PGPORT, PGUSER and PGDATABASE set"));
    }
    let text = String::from_utf8(output.stdout)
        .map_err(|_bytes| Error::failed("the password command printed what is no text"))?;
    let password = text.trim_end_matches(['\n', '\r']);
    if password.is_empty() || password.contains('\n') {
        return Err(Error::failed("the password command did not print one line"));
    }
    Ok(password.to_owned())
}
