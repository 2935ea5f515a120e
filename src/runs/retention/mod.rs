//! `pgstow prune`: deletes runs that no rule keeps, and what failed runs left behind.
//!
//! Owns what may be deleted at all: objects below `runs/<run>/` and `receipts/<run>/` of the store's own prefix, where
//! `<run>` is a name this program makes, and unfinished uploads of such keys. A run's manifest goes first, so that a run
//! that is half deleted never looks whole; the next prune takes the rest as that of an unfinished run. What is not
//! understood (a manifest that cannot be read, a name that is no moment) is kept and told.

pub(crate) mod rules;
pub(crate) mod sweep;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use crate::cli::list::{Inventory, Row};
use crate::cli::prune::Prune;
use crate::cli::{list, output};
use crate::error::{Error, Kind, Result};
use crate::format::layout;
use crate::human;
use crate::runs::retention::rules::Rules;
use crate::runs::retention::sweep::Sweep;
use crate::runs::{find, pins};
use crate::store::{OpenUpload, Store};

/// What becomes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Keep,
    Delete,
}

/// What was decided about a run, and what came of it.
#[derive(Debug, Serialize)]
struct Decision {
    run: String,
    status: &'static str,
    latest: bool,
    action: Action,
    /// Why: `last`, `daily`, ..., `latest`, `pinned`, `last complete run`, or a sentence.
    reasons: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    /// Objects of a run that is deleted.
    objects: u64,
    /// Their bytes; of a run that is kept, what its manifest says.
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Document {
    store: String,
    dry_run: bool,
    runs: Vec<Decision>,
    /// Unfinished uploads that were aborted.
    uploads: Vec<String>,
    /// Receipts of runs that are gone, and claims of processes that died.
    leftovers: Vec<String>,
    deleted_runs: u64,
    deleted_objects: u64,
    deleted_bytes: u64,
    failures: Vec<String>,
}

/// Prunes a store.
///
/// # Errors
/// Kind `Usage` without a rule; a store that cannot be read; at the end, when something could not be deleted.
pub(crate) async fn run(store: &Store, arguments: &Prune, json: bool) -> Result<()> {
    let Some(rules) = Rules::of(arguments) else {
        return Err(Error::usage("prune needs a rule that says what to keep").hint(
            "give one or more of --keep-last, --keep-within, --keep-daily, --keep-weekly, --keep-monthly; --dry-run tells \
             what they would delete",
        ));
    };
    let inventory = list::inventory(store).await.map_err(|error| match error.kind() {
        Kind::Damage => error.with_kind(Kind::Failed).hint("nothing was deleted; `pgstow promote` mends latest.json"),
        _ => error,
    })?;
    let mut sweep = Sweep::new(store, arguments.dry_run);
    let uploads = sweep.uploads().await;
    let mut decisions = decide(&rules, &inventory, arguments.incomplete_older_than, &uploads);
    for decision in &mut decisions {
        if decision.action == Action::Delete {
            delete(&mut sweep, decision).await?;
        }
    }
    let runs: BTreeSet<&str> = inventory.runs.iter().map(|row| row.run.as_str()).collect();
    let aborted = sweep.abort(uploads, arguments.incomplete_older_than).await;
    let leftovers = sweep.leftovers(&runs, arguments.incomplete_older_than).await;
    report(&sweep, decisions, aborted, leftovers, json)
}

/// What becomes of each run, newest first.
fn decide(rules: &Rules, inventory: &Inventory, grace: Duration, uploads: &[OpenUpload]) -> Vec<Decision> {
    let starts = |status: &[&str]| -> Vec<(&str, jiff::Timestamp)> {
        let rows = inventory.runs.iter().filter(|row| status.contains(&row.status));
        rows.filter_map(|row| Some((row.run.as_str(), layout::started(&row.run)?))).collect()
    };
    let complete = starts(&["complete"]);
    let mut kept = rules.keep(&starts(&["complete", "partial"]));
    // Counted again without the partial ones: they never take the place of a complete run.
    for (run, why) in rules.keep(&complete) {
        kept.entry(run).or_default().extend(why);
    }
    let last_complete = complete.iter().max_by_key(|(run, at)| (*at, *run)).map(|(run, _)| *run);
    let decide = |row: &Row| {
        let mut reasons: Vec<String> = kept.get(&row.run).into_iter().flatten().map(|why| (*why).to_owned()).collect();
        if row.latest {
            reasons.push("latest".to_owned());
        }
        if let Some(pin) = &row.pin {
            reasons.push(pin.text());
        }
        if last_complete == Some(row.run.as_str()) {
            reasons.push("last complete run".to_owned());
        }
        reasons.extend(doubt(row, grace, uploads));
        let action = if reasons.is_empty() { Action::Delete } else { Action::Keep };
        if action == Action::Delete {
            let why = if row.status == "incomplete" { "never finished" } else { "no rule keeps it" };
            reasons.push(why.to_owned());
        }
        Decision {
            run: row.run.clone(),
            status: row.status,
            latest: row.latest,
            action,
            reasons,
            finished_at: row.details.as_ref().map(|details| details.finished_at.clone()),
            objects: 0,
            bytes: row.details.as_ref().map_or(0, |details| details.totals.stored_bytes),
        }
    };
    inventory.runs.iter().map(decide).collect()
}

/// Why a run stays that no rule speaks of.
fn doubt(row: &Row, grace: Duration, uploads: &[OpenUpload]) -> Option<String> {
    let Some(started) = layout::started(&row.run) else { return Some("its name is no moment".to_owned()) };
    match row.status {
        "unreadable" => Some("its manifest cannot be read".to_owned()),
        "incomplete" => {
            let prefix = layout::run_prefix(&row.run);
            let writes =
                |upload: &OpenUpload| upload.key.starts_with(&prefix) && !sweep::is_older(upload.started, grace);
            if !sweep::is_older(Some(started.into()), grace) {
                Some("may still be running".to_owned())
            } else if uploads.iter().any(writes) {
                Some("still being written".to_owned())
            } else {
                None
            }
        }
        _ => None,
    }
}

/// Deletes one run, after a last look at what may have changed since it was decided.
async fn delete(sweep: &mut Sweep<'_>, decision: &mut Decision) -> Result<()> {
    let store = sweep.store();
    let keep = |decision: &mut Decision, why: &str| {
        decision.action = Action::Keep;
        decision.reasons = vec![why.to_owned()];
    };
    if find::latest(store).await?.is_some_and(|latest| latest.run == decision.run) {
        keep(decision, "latest");
    } else if pins::of(store, &decision.run).await?.is_some() {
        keep(decision, "pinned");
    } else if let Some(why) =
        sweep.run(&decision.run, decision.status == "incomplete", &mut decision.objects, &mut decision.bytes).await
    {
        keep(decision, &why);
    }
    Ok(())
}

fn report(
    sweep: &Sweep<'_>,
    runs: Vec<Decision>,
    uploads: Vec<String>,
    leftovers: Vec<String>,
    json: bool,
) -> Result<()> {
    let deleted = || runs.iter().filter(|decision| decision.action == Action::Delete);
    let document = Document {
        store: sweep.store().describe(),
        dry_run: sweep.is_dry(),
        uploads,
        leftovers,
        deleted_runs: deleted().count() as u64,
        deleted_objects: deleted().map(|decision| decision.objects).sum(),
        deleted_bytes: deleted().map(|decision| decision.bytes).sum(),
        failures: sweep.failures(),
        runs,
    };
    if json {
        output::print_json(&document)?;
    } else {
        output::print(&text(&document))?;
    }
    match document.failures.len() {
        0 => Ok(()),
        1 => Err(Error::failed("one thing could not be deleted").hint("run prune again: it goes on where it stopped")),
        count => Err(Error::failed(format!("{count} things could not be deleted"))
            .hint("run prune again: it goes on where it stopped")),
    }
}

fn text(document: &Document) -> String {
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
                decision.status.to_owned(),
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
    for failure in &document.failures {
        text.push_str(&format!("FAILED: {}\n", human::plain(failure)));
    }
    if document.dry_run {
        text.push_str("nothing was deleted (--dry-run)\n");
    }
    text
}
