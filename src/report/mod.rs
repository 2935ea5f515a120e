//! `pgstow report`: one HTML page about all runs of a store, to look at or to send to somebody.
//!
//! The page needs nothing but itself: no script, no font, no image from elsewhere, and it says so to the browser. What
//! comes from a database or a store is escaped by [`html::text`] wherever it is put in.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes and times become lengths of a picture and rounded words; nothing is decided by them"
)]

pub(crate) mod chart;
pub(crate) mod html;
pub(crate) mod latest;
pub(crate) mod page;

use std::path::Path;

use serde::Serialize;

use crate::cli::list::Inventory;
use crate::cli::report::Report;
use crate::cli::{list, output};
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::human;
use crate::runs::find;
use crate::store::Store;

/// What the page is about.
pub(crate) struct Facts {
    /// When it was made, RFC 3339 in UTC.
    at: String,
    inventory: Inventory,
    /// The manifest of the latest run, or why there is none to show.
    latest: std::result::Result<Manifest, String>,
}

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
    let inventory = list::inventory(store).await?;
    let latest = find::run(store, "latest").await;
    let at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let latest = latest.map(|found| found.manifest).map_err(|error| error.message());
    let facts = Facts { at, inventory, latest };
    let page = page::compose(&facts);
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
    output::print(&format!(
        "{file}: {runs} run{}, {}\n",
        if runs == 1 { "" } else { "s" },
        human::size(page.len() as u64)
    ))
}
