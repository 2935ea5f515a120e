//! `pgstow download`: its flags and what it prints.

use std::path::PathBuf;

use clap::Args;

use crate::cli::args::{Global, KeyArgs};
use crate::cli::output;
use crate::cli::progress::Shown;
use crate::download::{Options, download};
use crate::error::Result;
use crate::human;
use crate::store::Store;

/// Downloads a run.
pub(crate) async fn run(store: &Store, arguments: Download, global: &Global) -> Result<()> {
    let options = Options {
        keys: arguments.keys.read()?,
        run: arguments.run,
        to: arguments.to,
        schemas: arguments.schema,
        tables: arguments.table,
        raw: arguments.raw,
        jobs: usize::from(arguments.jobs),
    };
    let progress = Shown::reading(global, store);
    let summary = download(store, &options).await;
    progress.end();
    let summary = summary?;
    if global.json {
        return output::print_json(&summary);
    }
    let kept = if summary.kept > 0 { format!(" ({} were already there)", summary.kept) } else { String::new() };
    output::print(&format!(
        "run {} is in {}: {} files{kept}, {}, {:.1}s\n",
        summary.run,
        summary.to.display(),
        human::count(summary.files + 1),
        human::size(summary.bytes),
        summary.seconds
    ))
}

/// `pgstow download`
#[derive(Debug, Clone, Args)]
pub struct Download {
    /// Run: its name, the beginning of its name, or `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// Folder to put the files into.
    #[arg(long, default_value = "backups/latest", env = "PGSTOW_TO")]
    pub to: PathBuf,
    /// Fetch only this schema (repeatable).
    #[arg(long)]
    pub schema: Vec<String>,
    /// Fetch only this table, as `schema.table` (repeatable).
    #[arg(long)]
    pub table: Vec<String>,
    /// Keep the objects as stored instead of plain `.dump` and `.sql`.
    #[arg(long)]
    pub raw: bool,
    /// Large objects fetched at the same time; of small ones up to 32 times as many, 256 at most.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// The secret keys of an encrypted run.
    #[command(flatten)]
    pub keys: KeyArgs,
}
