//! The command line: clap definitions only, nothing else in the program knows clap.
//!
//! Every flag `--foo-bar` is also `PGSTOW_FOO_BAR`; the database URL and the AWS settings have their usual names.
//! Flags win over the environment, the environment over `.env` (loaded by `main` before parsing).

pub mod alarm;
pub mod args;
pub mod backup;
pub(crate) mod ci;
pub(crate) mod completions;
pub(crate) mod copy;
pub(crate) mod detect;
pub(crate) mod diff;
pub(crate) mod doctor;
pub mod download;
pub mod drill;
pub mod environment;
#[cfg(feature = "export")]
pub(crate) mod export;
pub mod fleet;
pub mod forget;
pub(crate) mod help;
pub(crate) mod list;
pub(crate) mod manual;
pub(crate) mod metrics;
pub mod outcome;
pub mod output;
pub(crate) mod peek;
pub(crate) mod pin;
pub mod progress;
pub(crate) mod promote;
pub mod prune;
pub mod report;
pub(crate) mod rescue;
pub mod restore;
pub(crate) mod rows;
pub mod run;
pub mod schema;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod timings;
pub mod verify;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::cli::args::Global;
pub use crate::cli::args::{LogFormat, StoreArgs};
use crate::cli::backup::Backup;
use crate::cli::completions::Completions;
use crate::cli::copy::Copy;
use crate::cli::detect::Detect;
use crate::cli::diff::Diff;
use crate::cli::doctor::Doctor;
use crate::cli::download::Download;
use crate::cli::drill::Drill;
#[cfg(feature = "export")]
use crate::cli::export::Export;
use crate::cli::fleet::config::ConfigCommand;
use crate::cli::fleet::night::Run;
use crate::cli::list::List;
use crate::cli::manual::Manual;
use crate::cli::peek::Peeking;
use crate::cli::pin::{Pin, Unpin};
use crate::cli::promote::Promote;
use crate::cli::prune::Prune;
pub(crate) use crate::cli::report::Report;
use crate::cli::rescue::Rescue;
use crate::cli::restore::Restore;
use crate::cli::schema::SchemaCommand;
use crate::cli::show::Show;
use crate::cli::status::Status;
use crate::cli::verify::Verify;

/// Complete logical backups of PostgreSQL and Supabase databases, streamed into S3-compatible storage.
#[derive(Debug, Parser)]
#[command(name = "pgstow", version, about, after_help = help::ending(""), propagate_version = true)]
pub struct Cli {
    /// Settings every command shares.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Save a database: one complete run.
    #[command(after_help = help::ending("backup"))]
    Backup(Backup),
    /// Back up, verify, prune and drill all databases of a file, as it says.
    #[command(after_help = help::ending("run"))]
    Run(Run),
    /// Check the file of all databases: every key, every reference, every connection.
    #[command(after_help = help::ending("config"))]
    Config(ConfigCommand),
    /// Show what a backup would save, and what the role cannot read.
    #[command(after_help = help::ending("detect"))]
    Detect(Detect),
    /// Check what could stop the next backup: database, permissions, programs, store.
    #[command(after_help = help::ending("doctor"))]
    Doctor(Doctor),
    /// List the runs of the store.
    #[command(after_help = help::ending("list"))]
    List(List),
    /// Show the contents of a run, by its manifest.
    #[command(after_help = help::ending("show"))]
    Show(Show),
    /// Compare two runs, by their manifests.
    #[command(after_help = help::ending("diff"))]
    Diff(Diff),
    /// Read every byte of a run back and recompute its hashes, rows and digests.
    #[command(after_help = help::ending("verify"))]
    Verify(Verify),
    /// Fetch a run, or a part of it, as plain files, verified.
    #[command(after_help = help::ending("download"))]
    Download(Download),
    /// Write the rows of a run as Parquet files, for DuckDB, Athena, Spark and their kin.
    #[cfg(feature = "export")]
    #[command(after_help = help::ending("export"))]
    Export(Export),
    /// Show rows of a table of a run, without a database.
    #[command(after_help = help::ending("peek"), override_usage = "pgstow peek [OPTIONS] [RUN] <TABLE>")]
    Peek(Peeking),
    /// Compare rows of a table of a run with the live table, and bring them back.
    #[command(after_help = help::ending("rescue"))]
    Rescue(Rescue),
    /// Copy a run into a second store, every hash checked on the way.
    #[command(after_help = help::ending("copy"))]
    Copy(Copy),
    /// Restore a run, or a part of it, into a database.
    #[command(after_help = help::ending("restore"))]
    Restore(Restore),
    /// Prove a run: restore it into a scratch database, compare every table, drop it.
    #[command(after_help = help::ending("drill"))]
    Drill(Drill),
    /// Check that a recent backup exists; the exit code is the answer.
    #[command(after_help = help::ending("status"))]
    Status(Status),
    /// Write an HTML page about all runs.
    #[command(after_help = help::ending("report"))]
    Report(Report),
    /// Delete old runs by rules, and the leftovers of failed runs.
    #[command(after_help = help::ending("prune"))]
    Prune(Prune),
    /// Pin a run, so that it is never pruned.
    #[command(after_help = help::ending("pin"))]
    Pin(Pin),
    /// Remove the pin of a run.
    #[command(after_help = help::ending("unpin"))]
    Unpin(Unpin),
    /// Make a run `latest`.
    #[command(after_help = help::ending("promote"))]
    Promote(Promote),
    /// Print a page of the manual.
    #[command(after_help = help::ending("manual"), help_template = help::WITHOUT_STORE)]
    Manual(Manual),
    /// Print a JSON Schema: of the manifest, or of pgstow.toml.
    #[command(after_help = help::ending("schema"), help_template = help::WITHOUT_STORE)]
    Schema(SchemaCommand),
    /// Print shell completions.
    #[command(after_help = help::ending("completions"), help_template = help::WITHOUT_STORE)]
    Completions(Completions),
}

impl Command {
    /// True for a command that is there to change what a store holds, or judges it as it is now.
    pub(crate) const fn changes_store(&self) -> bool {
        matches!(
            self,
            Self::Backup(_)
                | Self::Doctor(_)
                | Self::Status(_)
                | Self::Prune(_)
                | Self::Pin(_)
                | Self::Unpin(_)
                | Self::Promote(_)
        )
    }

    /// True for a command that reads or writes backups.
    pub(crate) const fn uses_store(&self) -> bool {
        match self {
            Self::Detect(_)
            | Self::Schema(_)
            | Self::Completions(_)
            | Self::Manual(_)
            | Self::Run(_)
            | Self::Config(_) => false,
            Self::Doctor(doctor) => !doctor.skip_store && doctor.config.config.is_none(),
            Self::List(list) => list.config.config.is_none(),
            Self::Status(status) => status.config.config.is_none(),
            Self::Report(report) => report.config.config.is_none(),
            _ => true,
        }
    }

    /// The verb, more words of its command line, and the file, where the command speaks of all databases of a file.
    pub(crate) fn of_all(&self) -> Option<(&'static str, Vec<String>, PathBuf)> {
        match self {
            Self::List(List { config }) => Some(("list", Vec::new(), config.config.clone()?)),
            // An age that is given in the file counts for its database.
            Self::Status(Status { config, prometheus, .. }) => {
                let words = prometheus.then(|| fleet::all::PROMETHEUS.to_owned());
                Some(("status", Vec::from_iter(words), config.config.clone()?))
            }
            Self::Doctor(Doctor { config, skip_database, skip_store, .. }) => {
                let skips = [(*skip_database, "--skip-database"), (*skip_store, "--skip-store")];
                let words = skips.into_iter().filter(|(given, _)| *given).map(|(_, word)| word.to_owned());
                Some(("doctor", words.collect(), config.config.clone()?))
            }
            _ => None,
        }
    }
}
