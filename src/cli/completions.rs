//! `pgstow completions`: completions of a shell on stdout.

use clap::{Args, CommandFactory as _};

use crate::cli::{Cli, output};
use crate::error::{Error, Result};

/// Prints them.
pub(crate) fn run(arguments: &Completions) -> Result<()> {
    let text = String::from_utf8(completions(arguments.shell))
        .map_err(|error| Error::failed(format!("completions: {error}")))?;
    output::print(&text)
}

/// `pgstow schema`
#[derive(Debug, Clone, Args)]
pub struct SchemaCommand {}

/// `pgstow completions`
#[derive(Debug, Clone, Args)]
pub struct Completions {
    /// Shell to print the completions of.
    pub shell: clap_complete::Shell,
}

/// The completion script of a shell.
#[must_use]
pub(crate) fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pgstow", &mut script);
    script
}
