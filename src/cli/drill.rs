//! `pgstow drill`: its flags.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::args::{EXIT_CODES, IdentityArgs, duration};

/// `pgstow drill`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Drill {
    /// The run; default `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// A database on the server where the scratch database is made: a URL or `key=value` words.
    #[arg(long, env = "PGSTOW_DRILL_ON", hide_env_values = true)]
    pub on: String,
    /// Name of the scratch database, which must not exist. Default: made from the run's name.
    #[arg(long, env = "PGSTOW_SCRATCH_NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub scratch_name: Option<String>,
    /// Load and compare only some tables, all definitions all the same: a percentage of the tables (10%), which are
    /// others each time, or a table as `schema.table` (repeatable).
    #[arg(long, env = "PGSTOW_TABLES")]
    pub tables: Vec<String>,
    /// Create roles that are missing on that server.
    #[arg(long)]
    pub roles: bool,
    /// Sessions that load and compare rows at the same time.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// Folder of pg_dump, pg_restore and psql. Default: PATH, then the usual folders.
    #[arg(long, env = "PGSTOW_PG_BIN_DIR")]
    pub pg_bin_dir: Option<PathBuf>,
    /// Give up connecting after so long.
    #[arg(long, env = "PGSTOW_CONNECT_TIMEOUT", default_value = "15s", value_parser = duration)]
    pub connect_timeout: Duration,
    /// The secret keys of an encrypted run.
    #[command(flatten)]
    pub identity: IdentityArgs,
}
