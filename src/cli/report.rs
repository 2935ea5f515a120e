//! `pgstow report`: its flags and what it prints.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::fleet::ConfigArgs;
use crate::cli::output;
use crate::error::{Error, Result};
use crate::human;
use crate::report::gather;
use crate::report::page::compose;
use crate::store::Store;

#[derive(Debug, Serialize)]
struct Document {
    file: String,
    bytes: u64,
    runs: u64,
    latest: Option<String>,
}

/// Writes the page.
pub(crate) async fn run(store: &Store, arguments: &Report, json: bool) -> Result<()> {
    let stdout = arguments.out == Path::new("-");
    if stdout && json {
        return Err(Error::usage("--out - and --json both want stdout").hint("give --out a file's name"));
    }
    let facts = gather(store).await?;
    let page = compose(&facts);
    if stdout {
        return output::print(&page);
    }
    let file = arguments.out.display().to_string();
    tokio::fs::write(&arguments.out, &page).await.map_err(|error| {
        Error::failed(format!("write {file}: {error}")).hint("--out names the file to write; its folder must exist")
    })?;
    let runs = facts.inventory.runs.len() as u64;
    if json {
        return output::print_json(&Document { file, bytes: page.len() as u64, runs, latest: facts.inventory.latest });
    }
    let s = if runs == 1 { "" } else { "s" };
    output::print(&format!("{file}: {runs} run{s}, {}\n", human::size(page.len() as u64)))
}

/// `pgstow report`
#[derive(Debug, Clone, Args)]
pub struct Report {
    /// File to write; `-` is stdout.
    #[arg(long, value_name = "FILE", env = "PGSTOW_OUT", default_value = "pgstow-report.html")]
    pub out: PathBuf,
    /// The file of all databases.
    #[command(flatten)]
    pub config: ConfigArgs,
}
