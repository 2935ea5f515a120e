//! `pgstow verify`: its flags.

use clap::Args;

use crate::cli::args::{EXIT_CODES, IdentityArgs};

/// `pgstow verify`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Verify {
    /// The run; default `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// Objects read at the same time.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// The secret keys of an encrypted run.
    #[command(flatten)]
    pub identity: IdentityArgs,
}
