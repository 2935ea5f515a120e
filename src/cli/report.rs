//! `pgstow report`: its flags and what it prints.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::fleet::ConfigArgs;
use crate::cli::output;
use crate::error::{Context as _, Error, Result};
use crate::format::layout;
use crate::human;
use crate::report::page::compose;
use crate::report::{Glance, gather};
use crate::store::{Condition, Store};

#[derive(Debug, Serialize)]
struct Document {
    file: String,
    bytes: u64,
    runs: u64,
    latest: Option<String>,
    /// The run that `latest` names, in a few words.
    #[serde(skip_serializing_if = "Option::is_none")]
    latest_run: Option<Glance>,
    /// The place of the page in the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    uploaded: Option<String>,
}

/// Writes the page.
pub(crate) async fn run(store: &Store, arguments: &Report, json: bool) -> Result<()> {
    let stdout = arguments.out == Path::new("-");
    if stdout && json {
        return Err(Error::usage("--out - and --json both want stdout").hint("give --out a file's name"));
    }
    let facts = gather(store).await?;
    let page = compose(&facts, arguments.evidence);
    let uploaded = if arguments.upload { Some(upload(store, &page).await?) } else { None };
    if stdout {
        return output::print(&page);
    }
    let file = arguments.out.display().to_string();
    tokio::fs::write(&arguments.out, &page).await.map_err(|error| {
        Error::failed(format!("write {file}: {error}")).hint("--out names the file to write; its folder must exist")
    })?;
    let runs = facts.inventory.runs.len() as u64;
    if json {
        return output::print_json(&Document {
            file,
            bytes: page.len() as u64,
            runs,
            latest_run: facts.glance(),
            latest: facts.inventory.latest,
            uploaded,
        });
    }
    let s = if runs == 1 { "" } else { "s" };
    let stored = uploaded.map(|place| format!("{place}: the same page\n")).unwrap_or_default();
    output::print(&format!("{file}: {runs} run{s}, {}\n{stored}", human::size(page.len() as u64)))
}

/// Stores the page beside the runs; returns its place. It replaces the page that was there.
async fn upload(store: &Store, page: &str) -> Result<String> {
    let body = bytes::Bytes::from(page.to_owned());
    store.put(layout::REPORT, body, Condition::None).await.with_context(|| format!("store {}", layout::REPORT))?;
    Ok(format!("{}/{}", store.describe().trim_end_matches('/'), layout::REPORT))
}

/// `pgstow report`
#[derive(Debug, Clone, Args)]
pub struct Report {
    /// File to write; `-` is stdout.
    #[arg(long, value_name = "FILE", env = "PGSTOW_OUT", default_value = "pgstow-report.html")]
    pub out: PathBuf,
    /// Store the page beside the runs as well, as report.html.
    #[arg(long, env = "PGSTOW_UPLOAD")]
    pub upload: bool,
    /// Add what auditors ask for: period, gaps, restore times, hashes of all manifests.
    #[arg(long, env = "PGSTOW_EVIDENCE")]
    pub evidence: bool,
    /// The file of all databases.
    #[command(flatten)]
    pub config: ConfigArgs,
}
