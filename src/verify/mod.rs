//! Verifies a run: reads every object back and recomputes what the manifest says about it.
//!
//! The way from the manifest's bytes to the verdict:
//!
//! 1. `runs::find` reads `manifest.json`, checks format and name; its SHA-256 is compared with the one in `latest.json`.
//! 2. [`check_manifest`] compares the manifest with itself: totals with sums, no object named twice.
//! 3. `runs::listing` lists the run once: what is missing or has another size is known before anything is read.
//! 4. [`task::tasks`] names one task an object (a SQL file together with its index of pieces); `jobs` of them run at a
//!    time, the largest first. [`object::examine`] streams the stored bytes through SHA-256, decryption, decompression
//!    and a reader of the archive or SQL format (`reading`), which counts rows and sums their digests.
//! 5. [`compare_forms`] compares what only two objects together can show: both forms of a table load by the same `COPY`.
//! 6. The [`Receipt`] is the verdict: every damaged object by its key. The caller leaves it in the store.
//!
//! Every damaged object is named; only a store that cannot be read ends a verification early. Memory: for each job the
//! buffers of one stream, and the table of contents of the archive it reads.

pub(crate) mod object;
mod reading;
mod task;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use futures::TryStreamExt as _;
use serde::Serialize;
use tracing::{debug, info, warn};

use crate::error::{Kind, Result};
use crate::format::layout;
use crate::format::manifest::Manifest;
use crate::objects::stored_run::StoredRun;
use crate::objects::turns;
use crate::runs::listing::Listing;
use crate::runs::receipts::{CONTENTS, HASHES, Head};
use crate::runs::{find, pointer};
use crate::seal::hash;
use crate::seal::keys::Keys;
use crate::store::Store;
use crate::verify::task::{Finding, Task};

/// The findings of a verification; also the receipt it leaves in the store.
#[derive(Debug, Serialize)]
pub(crate) struct Receipt {
    #[serde(flatten)]
    pub(crate) head: Head,
    /// The depth that the verdict speaks for: [`CONTENTS`] or [`HASHES`].
    pub(crate) checked: &'static str,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    pub(crate) seconds: f64,
    pub(crate) damaged: Vec<Damaged>,
    pub(crate) warnings: Vec<String>,
}

/// One damaged object.
#[derive(Debug, Serialize)]
pub(crate) struct Damaged {
    pub(crate) key: String,
    pub(crate) problems: Vec<String>,
}

/// Problems by the key of the object they were found in.
type Problems = BTreeMap<String, Vec<String>>;

/// The options.
#[derive(Debug)]
pub(crate) struct Options {
    /// `latest`, a run's name or the beginning of one.
    pub(crate) run: String,
    /// Objects read at the same time.
    pub(crate) jobs: usize,
    /// The keys that the run is read with.
    pub(crate) keys: Keys,
}

/// Verifies a run.
///
/// # Errors
/// A run that is unknown, a store that fails; damage is in the receipt.
pub(crate) async fn verify(store: &Store, options: &Options) -> Result<Receipt> {
    let started = Instant::now();
    let identities = &options.keys.identities;
    let found = find::trusted(store, &options.run, &options.keys.trust).await?;
    let manifest_sha256 = hash::sha256(&found.bytes);
    let mut problems = Problems::new();
    let mut warnings = Vec::new();
    match pointer::latest(store).await {
        Ok(Some(latest)) if latest.run == found.name && latest.sha256 != manifest_sha256 => {
            note(&mut problems, layout::MANIFEST, "its SHA-256 is not the one in latest.json");
        }
        Ok(_) => {}
        Err(error) if error.kind() == Kind::Damage => warnings.push(error.message()),
        Err(error) => return Err(error),
    }
    let sealed_away = found.manifest.encryption.is_some() && identities.is_empty();
    let stored = if sealed_away {
        StoredRun::as_stored(store.clone(), found.manifest)
    } else {
        StoredRun::new(store.clone(), found.manifest, identities)?
    };
    let manifest = Arc::clone(&stored.manifest);
    check_manifest(&manifest, &mut problems);
    let listing = Listing::read(store, &manifest.run).await?;
    let strangers = listing.strangers(&manifest);
    warnings
        .extend(strangers.iter().map(|key| format!("{key}: in the run's folder, but the manifest does not name it")));
    let checked = if sealed_away { HASHES } else { CONTENTS };
    let context = object::Run { stored, sealed_away, listing: Arc::new(listing) };
    let mut tasks = task::tasks(&manifest);
    // The largest first: no job is left alone with it at the end.
    tasks.sort_by_key(|task| std::cmp::Reverse(task.object(&manifest).map_or(0, |object| object.bytes)));
    store.traffic().expect(manifest.totals.stored_bytes);
    info!(run = %manifest.run, objects = tasks.len(), "verifying");
    let size = |task: &Task| task.object(&manifest).map_or(0, |object| object.bytes);
    let examined = turns::side_by_side(tasks, options.jobs, size, |task| examine(&context, task));
    let findings: Vec<(Task, Finding)> = examined.try_collect().await?;
    let bytes = findings.iter().map(|(_, finding)| finding.bytes).sum();
    compare_forms(&manifest, &findings, &mut problems);
    for (key, found) in findings.into_iter().flat_map(|(_, finding)| finding.problems) {
        note(&mut problems, &key, &found);
    }
    Ok(Receipt {
        head: Head::new("verify", &manifest.run, &manifest_sha256, problems.is_empty()),
        checked,
        objects: manifest.objects().len() as u64 + 1,
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
    debug!(object = ?task.object(&run.stored.manifest).map(|object| &object.key), "read");
    Ok((task, finding))
}

/// Compares the manifest with itself: sums, and that no object stands for two things.
fn check_manifest(manifest: &Manifest, problems: &mut Problems) {
    let mut keys = HashSet::new();
    let objects = manifest.objects();
    let (mut count, mut stored) = (0, 0);
    for object in &objects {
        let volumes = object.volumes();
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
        let (Some(schema), Some(object)) = (manifest.schemas.get(*at), task.object(manifest)) else {
            note(problems, layout::MANIFEST, "internal error: verify lost a table of it");
            continue;
        };
        for (table, copy) in &finding.copies {
            if archives.get(&(*at, table.as_str())).is_some_and(|other| !reading::ends_in(other, copy)) {
                let problem = format!("its COPY statement is not the one of {table:?} in {}", schema.dump.key);
                note(problems, &object.key, &problem);
            }
        }
    }
}
