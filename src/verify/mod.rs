//! `pgstow verify`: reads every object of a run back and recomputes what the manifest says about it.
//!
//! Owns what is compared with what. Every damaged object is named; only a store that cannot be read ends it early.
//! Memory: for each job the buffers of one stream, and the table of contents of the archive it reads.

pub(crate) mod object;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use tracing::{debug, info, warn};

use crate::cli::args::Global;
use crate::cli::output;
use crate::cli::run::Outcome;
use crate::cli::verify::Verify;
use crate::error::{Context as _, Error, Result};
use crate::format::layout;
use crate::format::manifest::{Manifest, TableKind, Tool};
use crate::human;
use crate::objects::read;
use crate::runs::{find, receipts};
use crate::seal::decrypt::Identities;
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::verify::object::{Finding, Task};

/// `checked` where every object was opened and what is in it recomputed.
pub(crate) const CONTENTS: &str = "contents";
/// `checked` of an encrypted run without its key: stored sizes and SHA-256 only.
pub(crate) const HASHES: &str = "hashes only";

const UNOPENED: &str = "CONTENTS WERE NOT LOOKED INTO: the run is encrypted and no --identity was given\n";

/// What a verification found; also the receipt it leaves in the store.
#[derive(Debug, Serialize)]
pub(crate) struct Receipt {
    kind: &'static str,
    run: String,
    at: String,
    ok: bool,
    /// What `ok` is about: [`CONTENTS`] or [`HASHES`].
    checked: &'static str,
    tool: Tool,
    objects: u64,
    bytes: u64,
    rows: u64,
    seconds: f64,
    damaged: Vec<Damaged>,
    warnings: Vec<String>,
}

/// One damaged object.
#[derive(Debug, Serialize)]
struct Damaged {
    key: String,
    problems: Vec<String>,
}

/// Problems by the key of the object they were found in.
type Problems = BTreeMap<String, Vec<String>>;

/// How long a signal waits for a receipt that is being written.
const RECEIPT: Duration = Duration::from_secs(4);

/// Verifies a run. A signal that comes when the verdict is there does not take it back.
pub(crate) async fn run(arguments: &Verify, global: &Global, shutdown: &Shutdown) -> Result<Outcome> {
    let examined = async {
        let store = Store::open(&global.store).await?;
        let receipt = Box::pin(verdict(&store, arguments)).await?;
        Ok::<_, Error>((store, receipt))
    };
    let (store, receipt) = tokio::select! {
        examined = Box::pin(examined) => examined?,
        error = shutdown.requested() => return Err(error),
    };
    let late = async {
        let error = shutdown.requested().await;
        tokio::time::sleep(RECEIPT).await;
        error
    };
    tokio::select! {
        told = report(&store, &receipt, global.json) => told,
        error = late => Err(error),
    }
}

async fn verdict(store: &Store, arguments: &Verify) -> Result<Receipt> {
    let started = Instant::now();
    let identities = Identities::read(&arguments.identity.identity)?;
    let found = find::run(store, &arguments.run).await?;
    let mut problems = Problems::new();
    if let Some(latest) = find::latest(store).await?
        && latest.run == found.name
        && latest.sha256 != crate::seal::hash::sha256(&found.bytes)
    {
        note(&mut problems, layout::MANIFEST, "its SHA-256 is not the one in latest.json");
    }
    let manifest = Arc::new(found.manifest);
    check_manifest(&manifest, &mut problems);
    let listing = listing(store, &manifest.run).await?;
    let warnings = strangers(&manifest, &listing);
    let sealed_away = manifest.encryption.is_some() && identities.is_empty();
    let opening = if sealed_away { None } else { Some(read::opening(&manifest, &identities)?) };
    let checked = if opening.is_some() { CONTENTS } else { HASHES };
    let context =
        object::Run { store: store.clone(), opening, manifest: Arc::clone(&manifest), listing: Arc::new(listing) };
    let mut tasks = object::tasks(&manifest);
    // The largest first: no job is left alone with it at the end.
    tasks.sort_by_key(|task| std::cmp::Reverse(task.object(&manifest).map_or(0, |object| object.bytes)));
    info!(run = %manifest.run, objects = tasks.len(), "verifying");
    let findings: Vec<(Task, Finding)> = stream::iter(tasks)
        .map(|task| examine(&context, task))
        .buffer_unordered(usize::from(arguments.jobs))
        .try_collect()
        .await?;
    let bytes = findings.iter().map(|(_, finding)| finding.bytes).sum();
    compare_forms(&manifest, &findings, &mut problems);
    for (key, found) in findings.into_iter().flat_map(|(_, finding)| finding.problems) {
        note(&mut problems, &key, &found);
    }
    Ok(Receipt {
        kind: "verify",
        run: manifest.run.clone(),
        at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        ok: problems.is_empty(),
        checked,
        tool: Tool { name: "pgstow".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        objects: read::all(&manifest).len() as u64 + 1,
        bytes,
        // None was counted where none could be read.
        rows: if sealed_away { 0 } else { rows(&manifest) },
        seconds: started.elapsed().as_secs_f64(),
        damaged: problems.into_iter().map(|(key, problems)| Damaged { key, problems }).collect(),
        warnings,
    })
}

fn rows(manifest: &Manifest) -> u64 {
    manifest.schemas.iter().flat_map(|schema| &schema.tables).map(|table| table.rows).sum()
}

fn note(problems: &mut Problems, key: &str, problem: &str) {
    problems.entry(key.to_owned()).or_default().push(problem.to_owned());
}

async fn examine(run: &object::Run, task: Task) -> Result<(Task, Finding)> {
    let finding = object::examine(run, task).await?;
    for (key, problem) in &finding.problems {
        warn!(object = %key, "{problem}");
    }
    debug!(object = ?task.object(&run.manifest).map(|object| &object.key), "read");
    Ok((task, finding))
}

/// Sizes of the run's objects in the store, by key relative to the run.
async fn listing(store: &Store, run: &str) -> Result<HashMap<String, u64>> {
    let prefix = layout::run_prefix(run);
    let objects = store.list(&prefix).await.context("list the run's objects")?;
    Ok(objects
        .into_iter()
        .filter_map(|object| object.key.strip_prefix(&prefix).map(|key| (key.to_owned(), object.bytes)))
        .collect())
}

fn strangers(manifest: &Manifest, listing: &HashMap<String, u64>) -> Vec<String> {
    let mut known: HashSet<String> = HashSet::from([layout::MANIFEST.to_owned()]);
    known.extend(read::all(manifest).into_iter().flat_map(read::volumes).map(|volume| volume.key));
    let mut strangers: Vec<&String> = listing.keys().filter(|key| !known.contains(*key)).collect();
    strangers.sort_unstable();
    strangers.into_iter().map(|key| format!("{key}: in the run's folder, but the manifest does not name it")).collect()
}

/// What the manifest says of itself: sums, and that no object stands for two things.
fn check_manifest(manifest: &Manifest, problems: &mut Problems) {
    let mut keys = HashSet::new();
    let objects = read::all(manifest);
    let (mut count, mut stored) = (0, 0);
    for object in &objects {
        let volumes = read::volumes(object);
        if volumes.iter().map(|volume| volume.bytes).sum::<u64>() != object.bytes {
            note(problems, &object.key, "its volumes are not as large as it is");
        }
        for volume in volumes {
            count += 1;
            stored += volume.bytes;
            if !keys.insert(volume.key.clone()) {
                note(problems, &volume.key, "the manifest names it twice");
            }
        }
    }
    let tables: Vec<_> = manifest.schemas.iter().flat_map(|schema| &schema.tables).collect();
    let totals = &manifest.totals;
    let sums = [
        ("schemas", totals.schemas, manifest.schemas.len() as u64),
        ("tables", totals.tables, tables.len() as u64),
        ("rows", totals.rows, tables.iter().map(|table| table.rows).sum()),
        ("raw_bytes", totals.raw_bytes, tables.iter().map(|table| table.raw_bytes).sum()),
        ("stored_bytes", totals.stored_bytes, stored),
        ("objects", totals.objects, count),
    ];
    for (name, said, summed) in sums {
        if said != summed {
            note(problems, layout::MANIFEST, &format!("totals.{name} is {said}, its entries add up to {summed}"));
        }
    }
}

/// Both forms of a table must load their rows by the same statement.
fn compare_forms(manifest: &Manifest, findings: &[(Task, Finding)], problems: &mut Problems) {
    let mut archives: HashMap<(usize, &str), &str> = HashMap::new();
    for (task, finding) in findings {
        if let Task::Dump(schema) = task {
            archives.extend(finding.copies.iter().map(|(table, copy)| ((*schema, table.as_str()), copy.as_str())));
        }
    }
    for (task, finding) in findings {
        let Task::File(at, _) = task else { continue };
        let (Some(schema), Some(object)) = (manifest.schemas.get(*at), task.object(manifest)) else { continue };
        for (table, copy) in &finding.copies {
            if archives.get(&(*at, table.as_str())).is_some_and(|other| !object::ends_in(other, copy)) {
                let problem = format!("its COPY statement is not the one of {table:?} in {}", schema.dump.key);
                note(problems, &object.key, &problem);
            }
        }
    }
}

async fn report(store: &Store, receipt: &Receipt, json: bool) -> Result<Outcome> {
    receipts::leave(store, &receipt.run, receipt.kind, receipt).await;
    for warning in &receipt.warnings {
        warn!("{warning}");
    }
    if json {
        output::print_json(receipt)?;
    } else {
        output::print(&text(receipt))?;
    }
    Ok(if receipt.ok { Outcome::Done } else { Outcome::Damage })
}

fn text(receipt: &Receipt) -> String {
    let rows = if receipt.checked == HASHES { String::new() } else { format!("{} rows, ", human::count(receipt.rows)) };
    let (objects, size) = (human::count(receipt.objects), human::size(receipt.bytes));
    let read = format!("{objects} objects, {size}, {rows}{:.1}s", receipt.seconds);
    if receipt.ok && receipt.checked == HASHES {
        return format!(
            "run {} is stored as it was written (sizes and SHA-256): {read}\n\
             {UNOPENED}",
            receipt.run
        );
    }
    if receipt.ok {
        return format!("run {} is sound: {read}\n", receipt.run);
    }
    let mut text = format!("run {} is DAMAGED: {} of {read}\n", receipt.run, receipt.damaged.len());
    for damaged in &receipt.damaged {
        for problem in &damaged.problems {
            text.extend(["  ", damaged.key.as_str(), ": ", &human::plain(problem), "\n"]);
        }
    }
    if receipt.checked == HASHES {
        text.push_str(UNOPENED);
    }
    text
}

/// Whether a table's objects must hold a block of rows.
pub(crate) fn holds_rows(manifest: &Manifest, schema: &str, table: &crate::format::manifest::Table) -> bool {
    table.kind == TableKind::Table && !manifest.skipped.iter().any(|gap| gap.schema == schema && gap.name == table.name)
}
