//! What a person may type for `pgstow doctor`.

use std::time::Duration;

use clap::Args;

use crate::cli::args::{EXIT_CODES, SourceArgs, duration};

/// `pgstow doctor`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Doctor {
    /// The database to read.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Sessions that the backup will read rows with.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// How long the backup will wait for a table's lock.
    #[arg(long, env = "PGSTOW_LOCK_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub lock_timeout: Duration,
    /// Check the store only.
    #[arg(long, env = "PGSTOW_SKIP_DATABASE")]
    pub skip_database: bool,
    /// Check the database only.
    #[arg(long, env = "PGSTOW_SKIP_STORE", conflicts_with = "skip_database")]
    pub skip_store: bool,
}
