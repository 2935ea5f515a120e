//! `pgstow prune`: its flags and what it prints.

use std::time::Duration;

use clap::Args;

use crate::cli::args::duration;
use crate::cli::output;
use crate::error::{Error, Result};
use crate::human;
use crate::runs::retention::rules::Rules;
use crate::runs::retention::{Action, Options, Pruned, prune};
use crate::store::Store;

/// Prunes a store.
///
/// # Errors
/// Kind `Usage` without a rule; a store that cannot be read; at the end, when something could not be deleted.
pub(crate) async fn run(store: &Store, arguments: &Prune, json: bool) -> Result<()> {
    let rules = Rules {
        last: arguments.keep_last.unwrap_or_default(),
        within: arguments.keep_within,
        daily: arguments.keep_daily.unwrap_or_default(),
        weekly: arguments.keep_weekly.unwrap_or_default(),
        monthly: arguments.keep_monthly.unwrap_or_default(),
    };
    if !rules.is_any() {
        return Err(Error::usage("prune needs a rule that says what to keep").hint(
            "give one or more of --keep-last, --keep-within, --keep-daily, --keep-weekly, --keep-monthly; --dry-run \
             shows what they would delete",
        ));
    }
    let options = Options { rules, grace: arguments.incomplete_older_than, dry_run: arguments.dry_run };
    let pruned = prune(store, &options).await?;
    if json {
        output::print_json(&pruned)?;
    } else {
        output::print(&text(&pruned))?;
    }
    let what = match pruned.failures.len() {
        0 => return Ok(()),
        1 => "one thing".to_owned(),
        count => format!("{count} things"),
    };
    Err(Error::failed(format!("{what} could not be deleted")).hint("run prune again: it goes on where it stopped"))
}

fn text(document: &Pruned) -> String {
    let rows: Vec<Vec<String>> = document
        .runs
        .iter()
        .map(|decision| {
            let mark = if decision.latest { "*" } else { "" };
            let action = match decision.action {
                Action::Keep => "keep",
                Action::Delete if document.dry_run => "would delete",
                Action::Delete => "deleted",
            };
            vec![
                format!("{}{mark}", decision.run),
                decision.status.as_str().to_owned(),
                decision.finished_at.as_deref().map_or_else(|| "-".to_owned(), human::age),
                human::size(decision.bytes),
                action.to_owned(),
                human::plain(&decision.reasons.join(", ")),
            ]
        })
        .collect();
    let mut text = String::new();
    if rows.is_empty() {
        text.push_str(&format!("no runs in {}\n", document.store));
    } else {
        text.push_str(&output::table(&["RUN", "STATUS", "AGE", "STORED", "", "WHY"], &[3], &rows));
    }
    let did = if document.dry_run { "would delete" } else { "deleted" };
    let runs = if document.deleted_runs == 1 { "run" } else { "runs" };
    text.push_str(&format!(
        "{did} {} {runs}: {} objects, {}\n",
        document.deleted_runs,
        human::count(document.deleted_objects),
        human::size(document.deleted_bytes)
    ));
    for key in &document.uploads {
        text.push_str(&format!("{did} unfinished upload: {}\n", human::plain(key)));
    }
    for key in &document.leftovers {
        text.push_str(&format!("{did} leftover: {}\n", human::plain(key)));
    }
    for note in &document.notes {
        text.push_str(&format!("note: {}\n", human::plain(note)));
    }
    for failure in &document.failures {
        text.push_str(&format!("FAILED: {}\n", human::plain(failure)));
    }
    if document.dry_run {
        text.push_str("nothing was deleted (--dry-run)\n");
    }
    text
}

/// `pgstow prune`
#[derive(Debug, Clone, Args)]
pub struct Prune {
    /// Keep the newest N runs.
    #[arg(long, value_name = "N", env = "PGSTOW_KEEP_LAST", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_last: Option<u32>,
    /// Keep every run that began at most this long before the newest one: 30d.
    #[arg(long, value_name = "DURATION", env = "PGSTOW_KEEP_WITHIN", value_parser = duration)]
    pub keep_within: Option<Duration>,
    /// Keep the newest run of each of the last N days (UTC) that have one.
    #[arg(long, value_name = "N", env = "PGSTOW_KEEP_DAILY", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_daily: Option<u32>,
    /// Keep the newest run of each of the last N ISO weeks (UTC) that have one.
    #[arg(long, value_name = "N", env = "PGSTOW_KEEP_WEEKLY", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_weekly: Option<u32>,
    /// Keep the newest run of each of the last N months (UTC) that have one.
    #[arg(long, value_name = "N", env = "PGSTOW_KEEP_MONTHLY", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_monthly: Option<u32>,
    /// Remove runs without a manifest and unfinished uploads that began longer ago than this.
    #[arg(long, value_name = "DURATION", env = "PGSTOW_INCOMPLETE_OLDER_THAN", default_value = "24h", value_parser = duration)]
    pub incomplete_older_than: Duration,
    /// Report what would be deleted, and delete nothing.
    #[arg(long, env = "PGSTOW_DRY_RUN")]
    pub dry_run: bool,
}
