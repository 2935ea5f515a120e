//! `pgstow download`: its flags.

use std::path::PathBuf;

use clap::Args;

use crate::cli::args::{EXIT_CODES, IdentityArgs};

/// `pgstow download`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Download {
    /// The run; default `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// Folder to put the files into.
    #[arg(long, default_value = "backups/latest", env = "PGSTOW_TO")]
    pub to: PathBuf,
    /// Only this schema (repeatable).
    #[arg(long)]
    pub schema: Vec<String>,
    /// Only this table, as `schema.table` (repeatable).
    #[arg(long)]
    pub table: Vec<String>,
    /// Keep the objects as stored instead of plain `.dump` and `.sql`.
    #[arg(long)]
    pub raw: bool,
    /// Objects fetched at the same time.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// The secret keys of an encrypted run.
    #[command(flatten)]
    pub identity: IdentityArgs,
}
