//! `pgstow report`: its flags.

use std::path::PathBuf;

use clap::Args;

use crate::cli::args::EXIT_CODES;

/// `pgstow report`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Report {
    /// File to write; `-` is stdout.
    #[arg(long, value_name = "FILE", env = "PGSTOW_OUT", default_value = "pgstow-report.html")]
    pub out: PathBuf,
}
