//! All runs of a store, newest first, with what is known of each: what `list`, `prune` and `report` go by.
//!
//! It keeps sums only: manifests of large databases are megabytes. One damaged thing, be it a manifest, a receipt or
//! `latest.json`, never hides the other runs.

use std::collections::HashMap;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;

use crate::error::{Kind, Result};
use crate::format::layout;
use crate::format::manifest::{Anomaly, Status, Totals};
use crate::runs::pins::Pin;
use crate::runs::receipts::{Receipt, Verdicts};
use crate::runs::{find, listing, pins, pointer, receipts};
use crate::seal::hash;
use crate::store::Store;

/// Small objects read at once; enough to hide a store's latency.
const READS: usize = 16;

/// The state of a run as far as its manifest tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Everything was saved.
    Complete,
    /// Some relations were left out on request.
    Partial,
    /// No manifest: the run never finished, or is still being made.
    Incomplete,
    /// The manifest cannot be read.
    Unreadable,
}

impl State {
    /// The word for it, as in `--json`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Incomplete => "incomplete",
            Self::Unreadable => "unreadable",
        }
    }
}

/// One run.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) run: String,
    /// True when `latest.json` points to it.
    pub(crate) latest: bool,
    #[serde(rename = "status")]
    pub(crate) state: State,
    /// The reason why its manifest is unreadable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
    /// Totals and moments of its manifest.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verified: Option<Receipt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drilled: Option<Receipt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pin: Option<Pin>,
    /// The reason why the run is not sound, where its receipts or (if asked for) its listing say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) damage: Option<String>,
}

/// A manifest's facts about its run as a whole.
#[derive(Debug, Serialize)]
pub(crate) struct Details {
    pub(crate) started_at: String,
    pub(crate) finished_at: String,
    pub(crate) seconds: f64,
    pub(crate) database: String,
    pub(crate) host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) round: Option<String>,
    /// True where the run did not become `latest` because of what is odd about it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) held: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) anomalies: Vec<Anomaly>,
    /// SHA-256 of the manifest, which holds those of all objects of the run.
    pub(crate) manifest_sha256: String,
    pub(crate) totals: Totals,
}

/// All runs of a store.
#[derive(Debug, Serialize)]
pub(crate) struct Inventory {
    /// The store's name.
    pub(crate) store: String,
    /// The run that `latest.json` points to.
    pub(crate) latest: Option<String>,
    /// The reason why `latest.json` cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latest_problem: Option<String>,
    /// Newest first.
    pub(crate) runs: Vec<Row>,
}

/// The effort for each run: what is requested from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Manifest, receipts and pin.
    Manifests,
    /// Its listing too, compared with the manifest.
    Listings,
}

/// Reads what there is to know of all runs without reading their objects.
///
/// # Errors
/// When the store fails. Damaged documents are part of the answer.
pub(crate) async fn inventory(store: &Store, depth: Depth) -> Result<Inventory> {
    let (latest, latest_problem) = match pointer::latest(store).await {
        Ok(latest) => (latest.map(|latest| latest.run), None),
        Err(error) if error.kind() == Kind::Damage => (None, Some(error.message())),
        Err(error) => return Err(error),
    };
    let names = find::names(store).await?;
    let receipts = receipt_keys(store).await?;
    let mut pins = pins::all(store).await?;
    let mut runs: Vec<Row> = stream::iter(names)
        .map(|name| {
            let latest = latest.as_ref() == Some(&name);
            row(store, name, latest, &receipts, depth)
        })
        .buffered(READS)
        .try_collect()
        .await?;
    for row in &mut runs {
        row.pin = pins.remove(&row.run);
    }
    Ok(Inventory { store: store.describe(), latest, latest_problem, runs })
}

/// Keys of the receipts of each run, newest first.
async fn receipt_keys(store: &Store) -> Result<HashMap<String, Vec<String>>> {
    let mut keys: HashMap<String, Vec<String>> = HashMap::new();
    for found in receipts::all(store).await? {
        keys.entry(found.run).or_default().push(found.key);
    }
    Ok(keys)
}

async fn row(
    store: &Store,
    run: String,
    latest: bool,
    receipts: &HashMap<String, Vec<String>>,
    depth: Depth,
) -> Result<Row> {
    let mut row = Row {
        latest,
        run,
        state: State::Incomplete,
        problem: None,
        details: None,
        verified: None,
        drilled: None,
        pin: None,
        damage: None,
    };
    let found = match find::manifest(store, &row.run).await {
        Ok(None) => return Ok(row),
        Ok(Some(found)) => found,
        // A manifest that makes no sense must not hide the other runs; a store that fails does end the list.
        Err(error) if store.get(layout::LATEST).await.is_ok() => {
            row.state = State::Unreadable;
            row.problem = Some(error.message());
            return Ok(row);
        }
        Err(error) => return Err(error),
    };
    let keys = receipts.get(&row.run).map_or(&[][..], Vec::as_slice);
    let manifest_sha256 = hash::sha256(&found.bytes);
    let verdicts = Verdicts::read(store, keys, &manifest_sha256).await?;
    row.damage = verdicts.damage();
    if row.damage.is_none() && depth == Depth::Listings {
        row.damage = listing::incomplete(store, &found.manifest).await?;
    }
    (row.verified, row.drilled) = (verdicts.verified, verdicts.drilled);
    let manifest = found.manifest;
    row.state = match manifest.status {
        Status::Complete => State::Complete,
        Status::Partial => State::Partial,
    };
    row.details = Some(Details {
        seconds: seconds(&manifest.started_at, &manifest.finished_at).unwrap_or_default(),
        started_at: manifest.started_at,
        finished_at: manifest.finished_at,
        database: manifest.source.database,
        host: manifest.source.host,
        note: manifest.note,
        round: manifest.round,
        held: manifest.held,
        anomalies: manifest.anomalies,
        manifest_sha256,
        totals: manifest.totals,
    });
    Ok(row)
}

fn seconds(from: &str, to: &str) -> Option<f64> {
    let from: jiff::Timestamp = from.parse().ok()?;
    let to: jiff::Timestamp = to.parse().ok()?;
    Some(to.duration_since(from).as_secs_f64())
}
