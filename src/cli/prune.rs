//! `pgstow prune`: its flags.

use std::time::Duration;

use clap::Args;

use crate::cli::args::{EXIT_CODES, duration};

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
