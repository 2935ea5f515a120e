//! What a person may type: clap definitions only, nothing else in the program knows clap.
//!
//! Every flag `--foo-bar` is also `PGSTOW_FOO_BAR`; the database URL and the AWS settings have their usual names.
//! Flags win over the environment, the environment over `.env` (loaded by `main` before parsing).

pub mod args;
pub mod backup;
pub(crate) mod completions;
pub(crate) mod detect;
pub(crate) mod diff;
pub(crate) mod doctor;
pub mod download;
pub mod drill;
pub(crate) mod list;
pub(crate) mod manual;
pub mod outcome;
pub(crate) mod output;
pub(crate) mod pin;
pub mod progress;
pub(crate) mod promote;
pub mod prune;
pub mod report;
pub mod restore;
pub mod run;
pub mod schema;
pub(crate) mod show;
pub(crate) mod status;
pub mod verify;

use clap::{Parser, Subcommand};

use crate::cli::args::{EXIT_CODES, Global};
pub use crate::cli::args::{LogFormat, StoreArgs};
use crate::cli::backup::Backup;
use crate::cli::completions::{Completions, SchemaCommand};
use crate::cli::detect::Detect;
use crate::cli::diff::Diff;
use crate::cli::doctor::Doctor;
use crate::cli::download::Download;
use crate::cli::drill::Drill;
use crate::cli::list::List;
use crate::cli::manual::Manual;
use crate::cli::pin::{Pin, Unpin};
use crate::cli::promote::Promote;
use crate::cli::prune::Prune;
pub(crate) use crate::cli::report::Report;
use crate::cli::restore::Restore;
use crate::cli::show::Show;
use crate::cli::status::Status;
use crate::cli::verify::Verify;

/// Complete logical backups of PostgreSQL and Supabase databases, streamed into S3-compatible storage.
#[derive(Debug, Parser)]
#[command(name = "pgstow", version, about, after_help = EXIT_CODES, propagate_version = true)]
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
    /// Make one full run.
    Backup(Backup),
    /// Show what a run would cover: schemas, tables, sizes, extension-owned, unreadable.
    Detect(Detect),
    /// Check now what could stop the next backup: database, permissions, programs, store.
    Doctor(Doctor),
    /// List the runs of the store.
    List(List),
    /// Show one run's manifest.
    Show(Show),
    /// Compare two runs by their manifests.
    Diff(Diff),
    /// Read every object of a run back and recompute everything the manifest says.
    Verify(Verify),
    /// Fetch a run by its manifest, verified.
    Download(Download),
    /// Restore a run into a database, straight from the store.
    Restore(Restore),
    /// Prove a run: restore it into a scratch database, compare every table, drop it.
    Drill(Drill),
    /// Tell by the exit code whether there is a recent backup, for monitoring.
    Status(Status),
    /// Write a page about all runs (HTML).
    Report(Report),
    /// Delete old runs by rules, and what failed runs left behind.
    Prune(Prune),
    /// Keep a run from ever being pruned.
    Pin(Pin),
    /// Take a pin away.
    Unpin(Unpin),
    /// Let `latest` name a run.
    Promote(Promote),
    /// Print a page of the manual.
    Manual(Manual),
    /// Print the JSON Schema of the manifest.
    Schema(SchemaCommand),
    /// Print shell completions.
    Completions(Completions),
}
