//! `pgstow pin`, `pgstow unpin`: their flags and what they print.

use clap::Args;
use serde::Serialize;

use crate::cli::output;
use crate::error::Result;
use crate::human;
use crate::runs::pins;
use crate::store::Store;

#[derive(Debug, Serialize)]
struct Document {
    run: String,
    pinned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Pins a run.
pub(crate) async fn pin(store: &Store, arguments: &Pin, json: bool) -> Result<()> {
    let (run, pin) = pins::pin(store, &arguments.run, arguments.reason.clone()).await?;
    if json {
        return output::print_json(&Document { run, pinned: true, reason: pin.reason });
    }
    output::print(&format!("run {run} is {}\n", human::plain(&pin.text())))
}

/// Takes a pin away.
pub(crate) async fn unpin(store: &Store, arguments: &Unpin, json: bool) -> Result<()> {
    let (run, was) = pins::unpin(store, &arguments.run).await?;
    if json {
        return output::print_json(&Document { run, pinned: false, reason: None });
    }
    output::print(&format!("run {run} {}\n", if was { "is no longer pinned" } else { "was not pinned" }))
}

/// `pgstow pin`
#[derive(Debug, Clone, Args)]
pub struct Pin {
    /// Run: its name, the beginning of its name, or `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// Reason of the pin, for those who come later.
    #[arg(long, value_name = "TEXT", env = "PGSTOW_REASON")]
    pub reason: Option<String>,
}

/// `pgstow unpin`
#[derive(Debug, Clone, Args)]
pub struct Unpin {
    /// Run: its name, or the beginning of it.
    pub run: String,
}
