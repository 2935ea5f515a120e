//! One HTML page about all runs of a store, to look at or to send to somebody.
//!
//! The page needs nothing but itself: no script, no font, no image from elsewhere, and it says so to the browser. What
//! comes from a database or a store is escaped by [`html::text`] wherever it is put in.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes and times become lengths of a picture and rounded words; nothing is decided by them"
)]

pub(crate) mod changes;
pub(crate) mod chart;
pub(crate) mod check;
pub(crate) mod evidence;
pub(crate) mod html;
pub(crate) mod index;
pub(crate) mod latest;
pub(crate) mod page;
pub(crate) mod treemap;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::format::layout;
use crate::format::manifest::{Manifest, Status};
use crate::report::check::Check;
use crate::runs::find;
use crate::runs::inventory::{Depth, Inventory, Row, State, inventory};
use crate::seal::sign;
use crate::store::Store;

/// The contents of the page.
pub(crate) struct Facts {
    /// The moment it was made, RFC 3339 in UTC.
    at: String,
    pub(crate) inventory: Inventory,
    /// The manifest of the latest run, or why there is none to show.
    latest: std::result::Result<Manifest, String>,
    /// The manifest of the complete run before it.
    before: Option<Manifest>,
    /// The key that signed the latest run, as its signature says; nobody has checked it here.
    signer: Option<String>,
}

/// The latest run in a few words, for the page of many databases.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Glance {
    pub(crate) run: String,
    pub(crate) status: Status,
    pub(crate) finished_at: String,
    pub(crate) rows: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) encrypted: bool,
    pub(crate) signed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verified: Option<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drilled: Option<Check>,
}

impl Facts {
    /// The latest run, where there is one to show.
    pub(crate) fn glance(&self) -> Option<Glance> {
        let manifest = self.latest.as_ref().ok()?;
        let row = self.inventory.runs.iter().find(|row| row.run == manifest.run);
        Some(Glance {
            run: manifest.run.clone(),
            status: manifest.status,
            finished_at: manifest.finished_at.clone(),
            rows: manifest.totals.rows,
            stored_bytes: manifest.totals.stored_bytes,
            encrypted: manifest.encryption.is_some(),
            signed: self.signer.is_some(),
            verified: row.and_then(|row| row.verified.as_ref()).map(Check::from),
            drilled: row.and_then(|row| row.drilled.as_ref()).map(Check::from),
        })
    }

    /// HTML about the signature of the latest run.
    fn signed_by(&self) -> String {
        match &self.signer {
            Some(key) => format!("minisign key <code>{}</code> (<code>--trust</code> checks it)", html::text(key)),
            None => "none".to_owned(),
        }
    }
}

/// Gathers what the page is about.
///
/// # Errors
/// When the store fails.
pub(crate) async fn gather(store: &Store) -> Result<Facts> {
    let inventory = inventory(store, Depth::Manifests).await?;
    let latest = find::run(store, "latest").await;
    let at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let latest = latest.map(|found| found.manifest).map_err(|error| error.message());
    let (mut before, mut signer) = (None, None);
    if let Ok(manifest) = &latest {
        let older = |row: &&Row| row.state == State::Complete && row.run < manifest.run;
        if let Some(row) = inventory.runs.iter().find(older) {
            before = find::manifest(store, &row.run).await?.map(|found| found.manifest);
        }
        let signature = store.get(&layout::in_run(&manifest.run, layout::SIGNATURE)).await?;
        signer = signature.as_deref().and_then(sign::signer);
    }
    Ok(Facts { at, inventory, latest, before, signer })
}
