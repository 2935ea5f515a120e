//! Pins: a run with an object `pins/<run>` is never pruned. The object says why and since when.

use std::collections::HashMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Error, Result};
use crate::format::layout;
use crate::runs::find;
use crate::store::{Condition, Store};

/// The reason why a run is kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Pin {
    /// The moment it was pinned, RFC 3339 in UTC; empty where the object does not say.
    #[serde(default)]
    pub(crate) at: String,
    /// The reason, in the words of the person.
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

impl Pin {
    /// For people: `pinned: the reason`.
    pub(crate) fn text(&self) -> String {
        self.reason.as_ref().map_or_else(|| "pinned".to_owned(), |reason| format!("pinned: {reason}"))
    }
}

/// All pins by run. The key alone pins; contents that make no sense have no reason.
///
/// # Errors
/// When the store fails.
pub(crate) async fn all(store: &Store) -> Result<HashMap<String, Pin>> {
    let mut pins = HashMap::new();
    for object in store.list("pins/").await.context("list the pins")? {
        let Some(run) = object.key.strip_prefix("pins/").filter(|run| layout::is_run(run)) else { continue };
        pins.insert(run.to_owned(), of(store, run).await?.unwrap_or_default());
    }
    Ok(pins)
}

/// The pin of a run.
///
/// # Errors
/// When the store fails.
pub(crate) async fn of(store: &Store, run: &str) -> Result<Option<Pin>> {
    let bytes = store.get(&layout::pin(run)).await.with_context(|| format!("read the pin of {run}"))?;
    Ok(bytes.map(|bytes| serde_json::from_slice(&bytes).unwrap_or_default()))
}

/// Pins a run. A run that is pinned keeps its reason unless another one is given.
///
/// # Errors
/// Where the run is unknown, or the store fails.
pub(crate) async fn pin(store: &Store, wanted: &str, reason: Option<String>) -> Result<(String, Pin)> {
    let run = find::run(store, wanted).await?.name;
    let before = of(store, &run).await?.unwrap_or_default();
    let at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let reason = reason.filter(|reason| !reason.is_empty()).or(before.reason);
    let pin = Pin { at, reason };
    let body = serde_json::to_vec_pretty(&pin).map_err(|error| Error::failed(format!("write the pin: {error}")))?;
    store.put(&layout::pin(&run), Bytes::from(body), Condition::None).await.with_context(|| format!("pin {run}"))?;
    // A prune that was about to delete the run has read the pins before this one was there.
    if find::manifest(store, &run).await?.is_none() {
        return Err(Error::failed(format!("run {run} was deleted while it was being pinned")));
    }
    Ok((run, pin))
}

/// Takes a pin away; a run that has none is fine. Returns the run and true where it was pinned.
///
/// # Errors
/// Where the run is unknown, or the store fails.
pub(crate) async fn unpin(store: &Store, wanted: &str) -> Result<(String, bool)> {
    let pins = all(store).await?;
    let matching: Vec<&String> = pins.keys().filter(|run| run.starts_with(wanted)).collect();
    let (run, was) = match matching.as_slice() {
        // The run of a pin may be gone.
        [one] if !wanted.is_empty() => ((*one).clone(), true),
        _ => {
            let run = find::run(store, wanted).await?.name;
            let was = pins.contains_key(&run);
            (run, was)
        }
    };
    store.delete(&layout::pin(&run)).await.with_context(|| format!("unpin {run}"))?;
    Ok((run, was))
}
