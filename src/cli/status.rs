//! `pgstow status`: its flags and its line for monitoring. The exit code is the answer.

use std::time::Duration;

use clap::Args;

use crate::cli::args::duration;
use crate::cli::fleet::ConfigArgs;
use crate::cli::metrics;
use crate::cli::outcome::Outcome;
use crate::cli::output;
use crate::error::Result;
use crate::human;
use crate::runs::health::{self, Health};
use crate::store::Store;

/// Prints the health of the store's backups.
pub(crate) async fn run(store: &Store, arguments: &Status, json: bool) -> Result<Outcome> {
    let found = health::examine(store, arguments.max_age).await;
    if arguments.prometheus {
        let metrics = metrics::of_health(&serde_json::to_value(&found).unwrap_or_default(), None);
        output::print(&metrics::text(&metrics))?;
    } else if json {
        output::print_json(&found)?;
    } else {
        output::print(&line(&found))?;
    }
    Ok(if found.ok { Outcome::Done } else { Outcome::Failed })
}

fn line(found: &Health) -> String {
    if let Some(reason) = &found.reason {
        return format!("failed: {}\n", human::plain(reason));
    }
    format!(
        "ok: run {} is complete, {} old, {} objects, {}\n",
        found.run.as_deref().unwrap_or_default(),
        human::passed(found.age_seconds.unwrap_or_default()),
        human::count(found.objects.unwrap_or_default()),
        human::size(found.stored_bytes.unwrap_or_default()),
    )
}

/// `pgstow status`
#[derive(Debug, Clone, Args)]
pub struct Status {
    /// Fail when the run that `latest` names finished longer ago than this.
    #[arg(long, value_name = "DURATION", env = "PGSTOW_MAX_AGE", default_value = "26h", value_parser = duration)]
    pub max_age: Duration,
    /// Print metrics in the text format of Prometheus instead of a line.
    #[arg(long, env = "PGSTOW_PROMETHEUS")]
    pub prometheus: bool,
    /// The file of all databases.
    #[command(flatten)]
    pub config: ConfigArgs,
}
