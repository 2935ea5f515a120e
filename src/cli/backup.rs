//! `pgstow backup`: its flags.

use std::time::Duration;

use clap::Args;

use crate::cli::args::{EXIT_CODES, SealArgs, SourceArgs, duration};
use crate::pipeline::rate::BytesPerSecond;

/// `pgstow backup`
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Backup {
    /// The database to read.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Sessions that read rows at the same time.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// `zstd[:level]` (level 1 unless given), `gzip[:level]` (6) or `none`.
    #[arg(long, env = "PGSTOW_COMPRESSION", default_value = "zstd")]
    pub compression: String,
    /// Encryption and the size of objects.
    #[command(flatten)]
    pub seal: SealArgs,
    /// How long to wait for a table's lock before giving up.
    #[arg(long, env = "PGSTOW_LOCK_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub lock_timeout: Duration,
    /// Give up when another session has waited so long for a table because of the backup. Default: warn only.
    #[arg(long, env = "PGSTOW_MAX_BLOCK", value_parser = duration)]
    pub max_block: Option<Duration>,
    /// End the run, cleanly, when it has taken so long. Set it a minute below the platform's own time limit.
    #[arg(long, env = "PGSTOW_DEADLINE", value_parser = duration)]
    pub deadline: Option<Duration>,
    /// Read at most so much a second, all sessions together: `50MiB`, `800kB`.
    #[arg(long, env = "PGSTOW_RATE_LIMIT")]
    pub rate_limit: Option<BytesPerSecond>,
    /// When no row came for so long, ask the server whether it is still at work; if not, connect again.
    #[arg(long, env = "PGSTOW_STALL_TIMEOUT", default_value = "10m", value_parser = duration)]
    pub stall_timeout: Duration,
    /// Leave out what the role cannot read: a partial run, exit code 3.
    #[arg(long, env = "PGSTOW_ALLOW_UNREADABLE")]
    pub allow_unreadable: bool,
    /// Let a partial run become `latest`.
    #[arg(long, env = "PGSTOW_ALLOW_PARTIAL_LATEST")]
    pub allow_partial_latest: bool,
    /// Use this prefix although it belongs to another database.
    #[arg(long, env = "PGSTOW_ADOPT_PREFIX")]
    pub adopt_prefix: bool,
    /// Allow backing a Supabase project up into its own Storage, whose index lives in the database being saved.
    #[arg(long, env = "PGSTOW_ALLOW_SAME_PROJECT")]
    pub allow_same_project: bool,
}
