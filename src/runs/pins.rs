//! Pins: a run with an object `pins/<run>` is never pruned. The object says why and since when.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Result};
use crate::format::layout;
use crate::store::Store;

/// Why a run is kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Pin {
    /// When it was pinned, RFC 3339 in UTC; empty where the object does not say.
    #[serde(default)]
    pub(crate) at: String,
    /// Why, in the words of whoever did it.
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
