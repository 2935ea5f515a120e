//! Deletes runs that no rule keeps, and what failed runs left behind.
//!
//! Owns what may be deleted at all: objects below `runs/<run>/` and `receipts/<run>/` of the store's own prefix, where
//! `<run>` is a name this program makes, and unfinished uploads of such keys. A run's manifest goes first, so that a
//! run that is half deleted never looks whole; the next prune takes the rest as that of an unfinished run. What is not
//! understood (a manifest that cannot be read, a name that is not a moment or lies in the future) is kept, with the
//! reason. A run that is known to be damaged never takes the place of a sound one, nor does a partial run that of a
//! complete one.

pub(crate) mod rules;
pub(crate) mod sweep;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::format::layout;
use crate::runs::inventory::{Depth, Inventory, Row, State, inventory};
use crate::runs::retention::rules::Rules;
use crate::runs::retention::sweep::Sweep;
use crate::runs::{is_future, pins, pointer};
use crate::store::{OpenUpload, Store};

/// The decision about a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    Keep,
    Delete,
}

/// The decision about a run, and its result.
#[derive(Debug, Serialize)]
pub(crate) struct Decision {
    pub(crate) run: String,
    pub(crate) status: State,
    pub(crate) latest: bool,
    pub(crate) action: Action,
    /// The reason: `last`, `daily`, ..., `latest`, `pinned`, `last complete run`, or a sentence.
    pub(crate) reasons: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) finished_at: Option<String>,
    /// Objects of a run that is deleted.
    pub(crate) objects: u64,
    /// Their bytes; of a run that is kept, what its manifest says.
    pub(crate) bytes: u64,
}

/// The options.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) rules: Rules,
    /// Age from which on unfinished runs and uploads are leftovers.
    pub(crate) grace: Duration,
    /// Delete the versions of what is deleted, in a bucket that keeps them.
    pub(crate) versions: bool,
    /// Delete nothing.
    pub(crate) dry_run: bool,
}

/// The result of a prune.
#[derive(Debug, Serialize)]
pub(crate) struct Pruned {
    pub(crate) store: String,
    pub(crate) dry_run: bool,
    pub(crate) runs: Vec<Decision>,
    /// Unfinished uploads that were aborted.
    pub(crate) uploads: Vec<String>,
    /// Receipts of runs that are gone, and claims of processes that died.
    pub(crate) leftovers: Vec<String>,
    pub(crate) deleted_runs: u64,
    pub(crate) deleted_objects: u64,
    pub(crate) deleted_bytes: u64,
    /// Of these, bytes that take no room any more.
    pub(crate) freed_bytes: u64,
    /// Notes for a person, though nothing failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
    pub(crate) failures: Vec<String>,
}

/// Prunes a store. What could not be deleted is in the answer.
///
/// # Errors
/// A store that cannot be read, a pointer that makes no sense.
pub(crate) async fn prune(store: &Store, options: &Options) -> Result<Pruned> {
    let inventory = inventory(store, Depth::Listings).await?;
    if let Some(problem) = inventory.latest_problem {
        return Err(Error::failed(format!("nothing was deleted: {problem}"))
            .hint("`pgstow promote RUN` makes latest.json point to a run of `pgstow list`; then prune again"));
    }
    let mut sweep = Sweep::new(store, options.dry_run, options.versions);
    let uploads = sweep.uploads().await;
    let mut decisions = decide(&options.rules, &inventory, options.grace, &uploads);
    let held = held(&inventory);
    if let Some(run) = &held {
        for decision in decisions.iter_mut().filter(|decision| decision.status != State::Incomplete) {
            if decision.action == Action::Delete {
                decision.action = Action::Keep;
                decision.reasons = vec![format!("run {run} is held")];
            }
        }
    }
    for decision in &mut decisions {
        if decision.action == Action::Delete {
            delete(&mut sweep, decision).await?;
        }
    }
    let runs: BTreeSet<&str> = inventory.runs.iter().map(|row| row.run.as_str()).collect();
    let aborted = sweep.abort(uploads, options.grace).await;
    let leftovers = sweep.leftovers(&runs, options.grace).await;
    let deleted = || decisions.iter().filter(|decision| decision.action == Action::Delete);
    let deleted_bytes: u64 = deleted().map(|decision| decision.bytes).sum();
    Ok(Pruned {
        store: store.describe(),
        dry_run: options.dry_run,
        uploads: aborted,
        leftovers,
        deleted_runs: deleted().count() as u64,
        deleted_objects: deleted().map(|decision| decision.objects).sum(),
        deleted_bytes,
        freed_bytes: deleted_bytes.saturating_sub(sweep.left_bytes()),
        notes: notes(&mut sweep, held.as_deref()),
        failures: sweep.failures(),
        runs: decisions,
    })
}

/// The newest run that was held and that `latest` has not passed: until somebody looked at it, nothing is deleted.
fn held(inventory: &Inventory) -> Option<String> {
    let held = inventory.runs.iter().filter(|row| row.details.as_ref().is_some_and(|details| details.held));
    let newest = held.map(|row| &row.run).max()?;
    inventory.latest.as_ref().is_none_or(|latest| latest < newest).then(|| newest.clone())
}

fn notes(sweep: &mut Sweep<'_>, held: Option<&str>) -> Vec<String> {
    let mut notes = sweep.notes();
    notes.extend(held.map(|run| {
        format!("run {run} is odd beside the one before, and held: no run is deleted until `pgstow promote` moves latest to it, or past it")
    }));
    notes
}

/// The decision about each run, newest first.
fn decide(rules: &Rules, inventory: &Inventory, grace: Duration, uploads: &[OpenUpload]) -> Vec<Decision> {
    let starts = |counts: fn(&Row) -> bool| -> Vec<(&str, jiff::Timestamp)> {
        let rows = inventory.runs.iter().filter(|row| counts(row));
        let starts = rows.filter_map(|row| Some((row.run.as_str(), layout::started(&row.run)?)));
        starts.filter(|(_, at)| !is_future(*at)).collect()
    };
    let is_saved = |row: &Row| matches!(row.state, State::Complete | State::Partial);
    let is_sound = |row: &Row| matches!(row.state, State::Complete | State::Partial) && row.damage.is_none();
    let is_whole = |row: &Row| row.state == State::Complete && row.damage.is_none();
    let mut kept = rules.keep(&starts(is_saved));
    // Counted again without the damaged and the partial ones: they never take the place of a better run.
    for (run, why) in rules.keep(&starts(is_sound)).into_iter().chain(rules.keep(&starts(is_whole))) {
        kept.entry(run).or_default().extend(why);
    }
    let complete = starts(is_whole);
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
        let is_kept = !reasons.is_empty();
        reasons.extend(doubt(row, grace, uploads));
        let action = if reasons.is_empty() { Action::Delete } else { Action::Keep };
        // The reason why it did not count as a sound run, where a rule keeps it nevertheless.
        reasons.extend(row.damage.clone().filter(|_| is_kept));
        if action == Action::Delete {
            let why = if row.state == State::Incomplete { "never finished" } else { "no rule keeps it" };
            reasons.push(why.to_owned());
        }
        Decision {
            run: row.run.clone(),
            status: row.state,
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

/// The reason why a run stays that no rule keeps.
fn doubt(row: &Row, grace: Duration, uploads: &[OpenUpload]) -> Option<String> {
    let Some(started) = layout::started(&row.run) else { return Some("its name is not a moment".to_owned()) };
    if is_future(started) {
        return Some("its name lies in the future: a clock was wrong".to_owned());
    }
    match row.state {
        State::Unreadable => Some("its manifest cannot be read".to_owned()),
        State::Incomplete => {
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
        State::Complete | State::Partial => None,
    }
}

/// Deletes one run, after a last look at what may have changed since it was decided.
async fn delete(sweep: &mut Sweep<'_>, decision: &mut Decision) -> Result<()> {
    let store = sweep.store();
    let keep = |decision: &mut Decision, why: &str| {
        decision.action = Action::Keep;
        decision.reasons = vec![why.to_owned()];
    };
    if pointer::latest(store).await?.is_some_and(|latest| latest.run == decision.run) {
        keep(decision, "latest");
    } else if pins::of(store, &decision.run).await?.is_some() {
        keep(decision, "pinned");
    } else if let Some(why) =
        sweep.run(&decision.run, decision.status == State::Incomplete, &mut decision.objects, &mut decision.bytes).await
    {
        keep(decision, &why);
    }
    Ok(())
}
