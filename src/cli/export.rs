//! `pgstow export`: its flags and what it prints.

use clap::Args;

use crate::cli::args::{EXIT_CODES, Global, KeyArgs};
use crate::cli::outcome::Outcome;
use crate::cli::output;
use crate::cli::progress::Shown;
use crate::error::Result;
use crate::export::{self, Options, Summary};
use crate::human;
use crate::shutdown::Shutdown;
use crate::store::{Config, Store};

/// `pgstow export`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Export {
    /// Run: its name, the beginning of its name, or `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// Where the Parquet files go: a directory, or `s3://bucket/prefix` with the settings of the store.
    #[arg(long, value_name = "PLACE", env = "PGSTOW_PARQUET")]
    pub parquet: String,
    /// Export only this schema (repeatable).
    #[arg(long)]
    pub schema: Vec<String>,
    /// Export only this table, as `schema.table` (repeatable). A partitioned table is its partitions.
    #[arg(long)]
    pub table: Vec<String>,
    /// Large tables written at the same time, each with up to some 100 MiB of memory.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// The secret keys of an encrypted run.
    #[command(flatten)]
    pub keys: KeyArgs,
}

/// Exports a run.
pub(crate) async fn run(arguments: Export, global: &Global, shutdown: &Shutdown) -> Result<Outcome> {
    let from = global.store.open_existing().await?;
    let to = Store::open(place(&arguments.parquet, global.store.config())).await;
    let to = to.map_err(|error| error.context("--parquet"))?;
    let options = Options {
        keys: arguments.keys.read()?,
        run: arguments.run,
        schemas: arguments.schema,
        tables: arguments.table,
        jobs: usize::from(arguments.jobs),
    };
    let progress = Shown::reading(global, &from);
    let result = tokio::select! {
        result = Box::pin(export::export(&from, &to, &options)) => result,
        error = shutdown.requested() => Err(error),
    };
    progress.end();
    // What was dropped aborts its uploads.
    to.drain().await;
    let summary = result?;
    let is_partial = summary.left_out.iter().any(|one| one.skipped);
    if global.json {
        output::print_json(&summary)?;
    } else {
        output::print(&text(&summary))?;
    }
    Ok(if is_partial { Outcome::Partial } else { Outcome::Done })
}

/// The place of the files: what belongs to backups alone does not count there.
fn place(location: &str, store: Config) -> Config {
    let is_s3 = location.starts_with("s3://");
    Config {
        location: location.to_owned(),
        lock_mode: None,
        lock_retain: None,
        at: None,
        sse: store.sse.filter(|_| is_s3),
        sse_kms_key_id: store.sse_kms_key_id.clone().filter(|_| is_s3),
        storage_class: None,
        ..store
    }
}

fn text(summary: &Summary) -> String {
    let mut text = String::new();
    for table in &summary.tables {
        for column in &table.columns {
            let (Some(instead), Some(row)) = (&column.instead_of, column.row) else { continue };
            text.push_str(&format!(
                "{}.{}: {} is {}, not {instead}, which cannot hold the value of row {}\n",
                human::plain(&table.schema),
                human::plain(&table.table),
                human::plain(&column.name),
                column.parquet,
                human::count(row)
            ));
        }
    }
    for one in &summary.left_out {
        text.push_str(&format!("{}.{}: {}\n", human::plain(&one.schema), human::plain(&one.table), one.reason));
    }
    text.push_str(&format!(
        "run {} is in {}: {} Parquet files, {} rows, {}, {:.1}s\n",
        summary.run,
        summary.to,
        human::count(summary.files),
        human::count(summary.rows),
        human::size(summary.bytes),
        summary.seconds
    ));
    text
}
