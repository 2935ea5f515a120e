//! One module a command. Each puts the parts below together and returns how it ended.

mod detect;

use crate::cli::{Command, Global};
use crate::error::{Error, Result};
use crate::shutdown::Shutdown;

/// How a command that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done. Exit 0.
    Done,
    /// Done, but partial. Exit 3.
    Partial,
    /// Damage or a difference was found and reported. Exit 4.
    Damage,
}

/// Runs a command.
///
/// # Errors
/// What the command failed with; `main` prints it and decides the exit code.
pub async fn run(command: Command, global: Global, shutdown: Shutdown) -> Result<Outcome> {
    match command {
        Command::Detect(arguments) => detect::run(arguments, &global, &shutdown).await,
        _ => Err(Error::usage("this command is being written")),
    }
}
