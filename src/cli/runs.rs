//! Flags of the commands about many runs: what to keep, what to point at, what to tell about them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::{EXIT_CODES, duration};

/// `pgstow prune`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Prune {
    /// Keep the newest N runs.
    #[arg(long, value_name = "N", env = "PGSTOW_KEEP_LAST", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_last: Option<u32>,
    /// Keep every run that began at most so long before the newest one: 30d.
    #[arg(long, value_name = "DURATION", env = "PGSTOW_KEEP_WITHIN", value_parser = duration)]
    pub keep_within: Option<Duration>,
    /// Keep the newest run of each of the last N days (UTC) that have one.
    #[arg(long, value_name = "N", env = "PGSTOW_KEEP_DAILY", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_daily: Option<u32>,
    /// Keep the newest run of each of the last N ISO weeks (UTC) that have one.
    #[arg(long, value_name = "N", env = "PGSTOW_KEEP_WEEKLY", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_weekly: Option<u32>,
    /// Keep the newest run of each of the last N months (UTC) that have one.
    #[arg(long, value_name = "N", env = "PGSTOW_KEEP_MONTHLY", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_monthly: Option<u32>,
    /// Remove runs without a manifest and unfinished uploads that began longer ago.
    #[arg(long, value_name = "DURATION", env = "PGSTOW_INCOMPLETE_OLDER_THAN", default_value = "24h", value_parser = duration)]
    pub incomplete_older_than: Duration,
    /// Say what would be deleted and delete nothing.
    #[arg(long, env = "PGSTOW_DRY_RUN")]
    pub dry_run: bool,
}

/// `pgstow pin`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Pin {
    /// The run; default `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// Why it is kept, for those who come later.
    #[arg(long, value_name = "TEXT", env = "PGSTOW_REASON")]
    pub reason: Option<String>,
}

/// `pgstow unpin`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Unpin {
    /// The run.
    pub run: String,
}

/// `pgstow promote`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Promote {
    /// The run that `latest` is to name.
    pub run: String,
    /// Also when `latest` names a newer run now, one of another database, or cannot be read.
    #[arg(long, env = "PGSTOW_BACKWARDS")]
    pub backwards: bool,
    /// Also when the run is partial.
    #[arg(long, env = "PGSTOW_ALLOW_PARTIAL_LATEST")]
    pub allow_partial_latest: bool,
}

/// `pgstow status`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Status {
    /// Fail when `latest` finished longer ago.
    #[arg(long, value_name = "DURATION", env = "PGSTOW_MAX_AGE", default_value = "26h", value_parser = duration)]
    pub max_age: Duration,
}

/// `pgstow diff`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Diff {
    /// The run to compare from.
    pub a: String,
    /// The run to compare with.
    pub b: String,
}

/// `pgstow report`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Report {
    /// File to write; `-` is stdout.
    #[arg(long, value_name = "FILE", env = "PGSTOW_OUT", default_value = "pgstow-report.html")]
    pub out: PathBuf,
}
