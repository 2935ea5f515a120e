//! `pgstow restore`: its flags.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cli::args::{EXIT_CODES, IdentityArgs, duration};

/// `pgstow restore`
#[allow(clippy::struct_excessive_bools, reason = "flags a person may combine, not states")]
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Restore {
    /// The run; default `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// The database to restore into: a URL or `key=value` words, as libpq reads them.
    #[arg(long, env = "PGSTOW_RESTORE_TO", hide_env_values = true)]
    pub to: String,
    /// What the target is, where it is no plain database: a Supabase project.
    #[arg(long, env = "PGSTOW_PROFILE", value_enum)]
    pub profile: Option<Profile>,
    /// Create that database first, with the properties of the saved one.
    #[arg(long)]
    pub create: bool,
    /// Create roles that are missing; those that exist are never touched.
    #[arg(long)]
    pub roles: bool,
    /// Give the roles that --roles creates their saved passwords.
    #[arg(long, requires = "roles")]
    pub role_passwords: bool,
    /// Only this schema (repeatable).
    #[arg(long)]
    pub schema: Vec<String>,
    /// Only this table, as `schema.table` (repeatable).
    #[arg(long)]
    pub table: Vec<String>,
    /// Rows and sequence values only, into tables that exist.
    #[arg(long, conflicts_with_all = ["schema_only", "create"])]
    pub data_only: bool,
    /// Definitions only, no rows.
    #[arg(long)]
    pub schema_only: bool,
    /// Restore although the database is not empty.
    #[arg(long)]
    pub into_existing: bool,
    /// With --data-only: empty all the tables, in one transaction, before their rows come. With --profile supabase: those
    /// of the platform.
    #[arg(long)]
    pub truncate: bool,
    /// Restore although the database is the very one that was saved.
    #[arg(long)]
    pub allow_source: bool,
    /// Everything belongs to the role that restores, not to its saved owner.
    #[arg(long)]
    pub no_owner: bool,
    /// Do not gather the planner's statistics at the end.
    #[arg(long)]
    pub no_analyze: bool,
    /// Gather full statistics at the end also where autovacuum would: by itself restore gathers rough ones there.
    #[arg(long, conflicts_with = "no_analyze")]
    pub full_analyze: bool,
    /// Sessions that load rows and build indexes at the same time.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// Folder of pg_restore and psql. Default: PATH, then the usual folders.
    #[arg(long, env = "PGSTOW_PG_BIN_DIR")]
    pub pg_bin_dir: Option<PathBuf>,
    /// Give up connecting after so long.
    #[arg(long, env = "PGSTOW_CONNECT_TIMEOUT", default_value = "15s", value_parser = duration)]
    pub connect_timeout: Duration,
    /// The secret keys of an encrypted run.
    #[command(flatten)]
    pub identity: IdentityArgs,
}

/// A target that is no plain database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// A Supabase project: the role is no superuser, and the platform's schemas are there.
    Supabase,
}
