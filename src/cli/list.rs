//! `pgstow list`: the runs of the store, newest first, with what `verify` and `drill` found out about each, and pins.
//!
//! [`inventory`] is also what `prune` and `report` go by. It keeps sums only: manifests of large databases are megabytes.

use std::collections::HashMap;

use clap::Args;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};

use crate::cli::args::EXIT_CODES;
use crate::cli::output;
use crate::error::Result;
use crate::format::manifest::{Status, Totals};
use crate::human;
use crate::human::age;
use crate::runs::pins::Pin;
use crate::runs::{find, pins, receipts};
use crate::store::Store;
use crate::verify::HASHES;

/// Small objects read at once; enough to hide a store's latency.
const READS: usize = 16;

/// One run as `--json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// Its name.
    pub(crate) run: String,
    /// Whether `latest.json` names it.
    pub(crate) latest: bool,
    /// `complete`, `partial`, `incomplete` (no manifest) or `unreadable`.
    pub(crate) status: &'static str,
    /// Why its manifest is unreadable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
    /// What its manifest says.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) details: Option<Details>,
    /// Newest receipt of `verify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verified: Option<Receipt>,
    /// Newest receipt of `drill`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drilled: Option<Receipt>,
    /// Its pin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pin: Option<Pin>,
}

/// What a manifest says of its run as a whole.
#[derive(Debug, Serialize)]
pub(crate) struct Details {
    pub(crate) started_at: String,
    pub(crate) finished_at: String,
    pub(crate) seconds: f64,
    pub(crate) database: String,
    pub(crate) host: String,
    pub(crate) totals: Totals,
}

/// What `list` reads of a receipt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Receipt {
    #[serde(skip_serializing)]
    kind: String,
    /// When, RFC 3339 in UTC.
    pub(crate) at: String,
    /// Whether the run was found sound.
    pub(crate) ok: bool,
    /// Of `drill`: of which tables it was, where not of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sample: Option<Sample>,
    /// Of `verify`: how deep it looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checked: Option<String>,
}

/// Of which tables a drill was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    of: usize,
    tables: Vec<String>,
}

/// All runs of a store.
#[derive(Debug, Serialize)]
pub(crate) struct Inventory {
    /// The store's name.
    pub(crate) store: String,
    /// The run that `latest.json` names.
    pub(crate) latest: Option<String>,
    /// Newest first.
    pub(crate) runs: Vec<Row>,
}

/// Lists the runs.
pub(crate) async fn run(store: &Store, json: bool) -> Result<()> {
    let found = inventory(store).await?;
    if json { output::print_json(&found) } else { output::print(&text(&found)) }
}

/// Reads what there is to know of all runs without reading their objects.
///
/// # Errors
/// When the store fails, or `latest.json` makes no sense. A manifest that makes no sense is a row's problem.
pub(crate) async fn inventory(store: &Store) -> Result<Inventory> {
    let latest = find::latest(store).await?.map(|latest| latest.run);
    let names = find::names(store).await?;
    let receipts = receipts(store).await?;
    let mut pins = pins::all(store).await?;
    let mut runs: Vec<Row> = stream::iter(names)
        .map(|name| row(store, name, latest.as_deref(), &receipts))
        .buffered(READS)
        .try_collect()
        .await?;
    for row in &mut runs {
        row.pin = pins.remove(&row.run);
    }
    Ok(Inventory { store: store.describe(), latest, runs })
}

/// Keys of the receipts of each run, newest first.
async fn receipts(store: &Store) -> Result<HashMap<String, Vec<String>>> {
    let mut keys: HashMap<String, Vec<String>> = HashMap::new();
    for found in receipts::all(store).await? {
        keys.entry(found.run).or_default().push(found.key);
    }
    Ok(keys)
}

async fn row(store: &Store, run: String, latest: Option<&str>, receipts: &HashMap<String, Vec<String>>) -> Result<Row> {
    let mut row = Row {
        latest: latest == Some(run.as_str()),
        run,
        status: "incomplete",
        problem: None,
        details: None,
        verified: None,
        drilled: None,
        pin: None,
    };
    match find::manifest(store, &row.run).await {
        Ok(None) => return Ok(row),
        Ok(Some(found)) => {
            let manifest = found.manifest;
            row.status = match manifest.status {
                Status::Complete => "complete",
                Status::Partial => "partial",
            };
            row.details = Some(Details {
                seconds: seconds(&manifest.started_at, &manifest.finished_at).unwrap_or_default(),
                started_at: manifest.started_at,
                finished_at: manifest.finished_at,
                database: manifest.source.database,
                host: manifest.source.host,
                totals: manifest.totals,
            });
        }
        // A manifest that makes no sense must not hide the other runs; a store that fails does end the list.
        Err(error) if store.get(crate::format::layout::LATEST).await.is_ok() => {
            row.status = "unreadable";
            row.problem = Some(error.message());
        }
        Err(error) => return Err(error),
    }
    for key in receipts.get(&row.run).into_iter().flatten().take(READS) {
        let Some(bytes) = store.get(key).await? else { continue };
        let Ok(receipt) = serde_json::from_slice::<Receipt>(&bytes) else { continue };
        match receipt.kind.as_str() {
            "verify" if row.verified.is_none() => row.verified = Some(receipt),
            "drill" if row.drilled.is_none() => row.drilled = Some(receipt),
            _ => {}
        }
        if row.verified.is_some() && row.drilled.is_some() {
            break;
        }
    }
    Ok(row)
}

fn seconds(from: &str, to: &str) -> Option<f64> {
    let from: jiff::Timestamp = from.parse().ok()?;
    let to: jiff::Timestamp = to.parse().ok()?;
    Some(to.duration_since(from).as_secs_f64())
}

impl Receipt {
    /// What it speaks for, in words, where that is not everything: `hashes`, `2 of 30 tables`.
    pub(crate) fn extent(&self) -> Option<String> {
        match (self.checked.as_deref(), &self.sample) {
            (Some(HASHES), _) => Some(HASHES.to_owned()),
            (_, Some(sample)) => Some(format!("{} of {} tables", sample.tables.len(), sample.of)),
            _ => None,
        }
    }
}

fn receipt(receipt: Option<&Receipt>) -> String {
    let Some(receipt) = receipt else { return "-".to_owned() };
    match receipt.extent() {
        _ if !receipt.ok => "DAMAGED".to_owned(),
        Some(extent) => format!("{} ago ({extent})", age(&receipt.at)),
        None => format!("{} ago", age(&receipt.at)),
    }
}

fn text(document: &Inventory) -> String {
    if document.runs.is_empty() {
        return format!("no backups in {} yet\n", document.store);
    }
    let head = ["RUN", "STATUS", "AGE", "DATABASE", "TABLES", "ROWS", "RAW", "STORED", "TOOK", "VERIFIED", "DRILLED"];
    let rows: Vec<Vec<String>> = document.runs.iter().map(cells).collect();
    let mut text = output::table(&head, &[4, 5, 6, 7, 8], &rows);
    match &document.latest {
        Some(_) => text.push_str("* latest\n"),
        None => text.push_str("no run is latest\n"),
    }
    for row in &document.runs {
        if let Some(problem) = &row.problem {
            text.extend([row.run.as_str(), ": ", problem, "\n"]);
        }
        if let Some(pin) = &row.pin {
            text.extend([row.run.as_str(), ": ", &human::plain(&pin.text()), "\n"]);
        }
    }
    text
}

fn cells(row: &Row) -> Vec<String> {
    let mark = if row.latest { "*" } else { "" };
    let mut cells = vec![format!("{}{mark}", row.run), row.status.to_owned()];
    if let Some(details) = &row.details {
        cells.extend([
            age(&details.finished_at),
            human::plain(&details.database),
            human::count(details.totals.tables),
            human::count(details.totals.rows),
            human::size(details.totals.raw_bytes),
            human::size(details.totals.stored_bytes),
            format!("{:.1}s", details.seconds),
            receipt(row.verified.as_ref()),
            receipt(row.drilled.as_ref()),
        ]);
    }
    cells
}

/// `pgstow list`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct List {}
