//! Receipts that `verify` and `drill` leave in the store: `receipts/<run>/<utc>-<kind>.json`.
//!
//! The moment in the name is that of writing, in milliseconds, so that the newest is found by name alone and none
//! replaces another.

use bytes::Bytes;
use serde::Serialize;
use tracing::warn;

use crate::error::{Context as _, Error, Result};
use crate::format::layout;
use crate::store::{Condition, Store};

/// A receipt in the store.
pub(crate) struct Found {
    pub(crate) run: String,
    pub(crate) key: String,
}

impl Found {
    fn file(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }

    /// Whether a drill left it.
    pub(crate) fn is_of_drill(&self) -> bool {
        self.file().ends_with("-drill.json")
    }
}

/// Leaves a receipt. Reading must work with read-only credentials, so a refusal is told, no more.
pub(crate) async fn leave(store: &Store, run: &str, kind: &str, receipt: &impl Serialize) {
    let at = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ");
    let key = format!("{}{at}-{kind}.json", layout::receipts(run));
    let left = match serde_json::to_vec_pretty(receipt) {
        Ok(body) => store.put(&key, Bytes::from(body), Condition::None).await.map(drop),
        Err(error) => Err(Error::failed(error.to_string())),
    };
    if let Err(error) = left {
        warn!("no receipt was left in the store: {error}");
    }
}

/// Receipts of all runs, newest first.
///
/// # Errors
/// When the store can't be listed.
pub(crate) async fn all(store: &Store) -> Result<Vec<Found>> {
    let objects = store.list(layout::RECEIPTS).await.context("list the receipts")?;
    let mut all: Vec<Found> = objects
        .into_iter()
        .filter_map(|object| {
            let mut parts = object.key.split('/').skip(1);
            let (Some(run), Some(_file), None) = (parts.next(), parts.next(), parts.next()) else { return None };
            Some(Found { run: run.to_owned(), key: object.key })
        })
        .collect();
    all.sort_by(|a, b| b.file().cmp(a.file()));
    Ok(all)
}
