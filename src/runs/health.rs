//! The health of a store's backups, for `status`.
//!
//! Healthy means: `latest` points to a complete run whose manifest is the one it was, which finished recently enough,
//! which nobody found damaged, and whose objects the store lists, each with its size. Nothing is read but pointer,
//! manifest, receipts and listing: `verify` reads.

use std::time::Duration;

use serde::Serialize;

use crate::error::Result;
use crate::format::manifest;
use crate::human;
use crate::runs::receipts::Verdicts;
use crate::runs::{find, is_future, listing};
use crate::seal::hash;
use crate::store::Store;

/// The state of the newest backup; fields of what was not reached are `None`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Health {
    /// True when all is well.
    pub(crate) ok: bool,
    pub(crate) store: String,
    /// The reason why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The cures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hints: Vec<String>,
    pub(crate) max_age_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<manifest::Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) finished_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) age_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) objects: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stored_bytes: Option<u64>,
}

/// Examines the run that `latest` points to. A store that cannot be reached is an answer too: there is no backup that
/// could be restored now.
pub(crate) async fn examine(store: &Store, max_age: Duration) -> Health {
    let mut found = Health { store: store.describe(), max_age_seconds: max_age.as_secs(), ..Health::default() };
    match judge(store, max_age, &mut found).await {
        Ok(None) => found.ok = true,
        Ok(Some(reason)) => found.reason = Some(reason),
        Err(error) => {
            found.reason = Some(error.message());
            found.hints = error.hints().to_vec();
        }
    }
    found
}

/// `None` when all is well.
async fn judge(store: &Store, max_age: Duration, found: &mut Health) -> Result<Option<String>> {
    let run = find::run(store, "latest").await?;
    let manifest = run.manifest;
    found.run = Some(manifest.run.clone());
    found.status = Some(manifest.status);
    found.finished_at = Some(manifest.finished_at.clone());
    found.objects = Some(manifest.totals.objects + 1);
    found.stored_bytes = Some(manifest.totals.stored_bytes);
    if manifest.status != manifest::Status::Complete {
        let count = manifest.skipped.len();
        return Ok(Some(format!("run {} is partial: {count} relations were left out", manifest.run)));
    }
    let Ok(finished) = manifest.finished_at.parse::<jiff::Timestamp>() else {
        return Ok(Some(format!("run {}: finished_at {:?} is not a timestamp", manifest.run, manifest.finished_at)));
    };
    let age = jiff::Timestamp::now().duration_since(finished).as_secs();
    found.age_seconds = Some(age);
    if is_future(finished) {
        return Ok(Some(format!("run {} finished in {}: a clock is wrong", manifest.run, human::passed(-age))));
    }
    if u64::try_from(age).unwrap_or_default() >= max_age.as_secs() {
        let allowed = humantime::format_duration(max_age);
        return Ok(Some(format!("run {} is {} old, {allowed} are allowed", manifest.run, human::passed(age))));
    }
    if let Some(damage) = Verdicts::of(store, &manifest.run, &hash::sha256(&run.bytes)).await?.damage() {
        return Ok(Some(format!("run {}: {damage}", manifest.run)));
    }
    Ok(listing::incomplete(store, &manifest).await?.map(|problem| format!("run {}: {problem}", manifest.run)))
}
