//! `pgstow completions`: completions of a shell on stdout.

use clap::Args;

use crate::cli::output;
use crate::error::{Error, Result};

/// Prints the completions of the program.
pub(crate) fn run(arguments: &Completions, program: &mut clap::Command) -> Result<()> {
    let text = String::from_utf8(completions(arguments.shell, program))
        .map_err(|error| Error::failed(format!("completions: {error}")))?;
    output::print(&text)
}

/// `pgstow completions`
#[derive(Debug, Clone, Args)]
pub struct Completions {
    /// Shell to print the completions of.
    pub shell: clap_complete::Shell,
}

/// The completion script of a shell.
#[must_use]
pub(crate) fn completions(shell: clap_complete::Shell, program: &mut clap::Command) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, program, "pgstow", &mut script);
    script
}
