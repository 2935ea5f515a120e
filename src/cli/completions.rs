//! `pgstow completions`: completions of a shell on stdout.

use crate::cli;
use crate::cli::{Completions, output};
use crate::error::{Error, Result};

/// Prints them.
pub(crate) fn run(arguments: &Completions) -> Result<()> {
    let text = String::from_utf8(cli::completions(arguments.shell))
        .map_err(|error| Error::failed(format!("completions: {error}")))?;
    output::print(&text)
}
