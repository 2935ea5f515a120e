//! `pgstow pin`, `pgstow unpin`: a run with an object `pins/<run>` is never pruned. The object says why and since when.

use bytes::Bytes;
use clap::Args;
use serde::Serialize;

use crate::cli::args::EXIT_CODES;
use crate::cli::output;
use crate::error::{Context as _, Error, Result};
use crate::format::layout;
use crate::human;
use crate::runs::{find, pins};
use crate::store::{Condition, Store};

#[derive(Debug, Serialize)]
struct Document {
    run: String,
    pinned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Pins a run; a run that is pinned gets the new reason.
pub(crate) async fn pin(store: &Store, arguments: &Pin, json: bool) -> Result<()> {
    let run = find::run(store, &arguments.run).await?.name;
    let at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let pin = pins::Pin { at, reason: arguments.reason.clone().filter(|reason| !reason.is_empty()) };
    let body = serde_json::to_vec_pretty(&pin).map_err(|error| Error::failed(format!("write the pin: {error}")))?;
    store.put(&layout::pin(&run), Bytes::from(body), Condition::None).await.with_context(|| format!("pin {run}"))?;
    // A prune that was about to delete the run has read the pins before this one was there.
    if find::manifest(store, &run).await?.is_none() {
        return Err(Error::failed(format!("run {run} was deleted while it was being pinned")));
    }
    if json {
        return output::print_json(&Document { run, pinned: true, reason: pin.reason });
    }
    output::print(&format!("run {run} is {}\n", human::plain(&pin.text())))
}

/// Takes a pin away; a run that has none is fine.
pub(crate) async fn unpin(store: &Store, arguments: &Unpin, json: bool) -> Result<()> {
    let pins = pins::all(store).await?;
    let matching: Vec<&String> = pins.keys().filter(|run| run.starts_with(&arguments.run)).collect();
    let (run, was) = match matching.as_slice() {
        // The run of a pin may be gone.
        [one] if !arguments.run.is_empty() => ((*one).clone(), true),
        _ => {
            let run = find::run(store, &arguments.run).await?.name;
            let was = pins.contains_key(&run);
            (run, was)
        }
    };
    store.delete(&layout::pin(&run)).await.with_context(|| format!("unpin {run}"))?;
    if json {
        return output::print_json(&Document { run, pinned: false, reason: None });
    }
    output::print(&format!("run {run} {}\n", if was { "is no longer pinned" } else { "was not pinned" }))
}

/// `pgstow pin`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Pin {
    /// The run; default `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// Why it is kept, for those who come later.
    #[arg(long, value_name = "TEXT", env = "PGSTOW_REASON")]
    pub reason: Option<String>,
}

/// `pgstow unpin`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Unpin {
    /// The run.
    pub run: String,
}
