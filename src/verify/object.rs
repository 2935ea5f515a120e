//! Reads one object of a run to its last byte and says what is wrong with it: which bytes are read, and how often where
//! something is wrong. The contents are judged by `reading`.

use std::io;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::format::layout;
use crate::format::manifest::{Index, Object, Table};
use crate::objects::index;
use crate::objects::stored_run::StoredRun;
use crate::runs::listing::Listing;
use crate::seal::decode::Decoding;
use crate::verify::reading::Reading;
use crate::verify::task::{Finding, Task, impossible};

/// The run that is verified.
#[derive(Clone)]
pub(crate) struct Run {
    /// The run.
    pub(crate) stored: StoredRun,
    /// True where its objects cannot be opened: then only their stored bytes are compared.
    pub(crate) sealed_away: bool,
    /// The keys and sizes that the store lists of it.
    pub(crate) listing: Arc<Listing>,
}

/// Reads one object.
///
/// # Errors
/// When the store fails; damage is no error but in the finding.
pub(crate) async fn examine(run: &Run, task: Task) -> Result<Finding> {
    let mut finding = Finding::default();
    let Some(object) = task.object(&run.stored.manifest).cloned() else {
        match task {
            Task::LargeObjects if run.stored.manifest.large_objects.count > 0 => {
                let problem = "the manifest counts large objects, but names no archive of them";
                finding.problems.push((layout::MANIFEST.to_owned(), problem.to_owned()));
            }
            // A run without large objects, or of a version that wrote no RESTORE.md.
            Task::LargeObjects | Task::RestoreMd => {}
            _ => return Err(impossible("an object")),
        }
        return Ok(finding);
    };
    let mut index = None;
    if let Some((schema, table)) = task.table(&run.stored.manifest)
        && let Some(stored) = &table.index
        && present(run, stored, &mut finding)
    {
        if run.sealed_away {
            stored_bytes(run, stored, &mut finding).await?;
        } else {
            match read_index(&run.stored, stored, &schema.name, table).await? {
                Ok(found) => index = Some((found, stored.key.clone())),
                Err(problem) => finding.problems.push((stored.key.clone(), problem)),
            }
        }
    }
    if !present(run, &object, &mut finding) {
        return Ok(finding);
    }
    if run.sealed_away && task != Task::RestoreMd {
        stored_bytes(run, &object, &mut finding).await?;
        return Ok(finding);
    }
    let decoding = if task == Task::RestoreMd { Decoding::AS_STORED } else { run.stored.decoding.clone() };
    let before = finding.problems.len();
    let mut finding = read_once(run, &decoding, task, object.clone(), finding, index).await?;
    if let Some((key, problem)) = finding.pieces.take() {
        // Either of the two may be the damaged one: the file is judged without its index, then blame is clear.
        finding.problems.truncate(before);
        finding = read_once(run, &decoding, task, object.clone(), finding, None).await?;
        if finding.problems.len() == before {
            finding.problems.push((key, problem));
        }
    }
    if finding.problems.len() > before && !object.volumes.is_empty() {
        blame_volumes(run, &object, before, &mut finding).await?;
    }
    Ok(finding)
}

/// Compares the stored bytes of an object with the manifest, whatever they mean.
async fn stored_bytes(run: &Run, object: &Object, finding: &mut Finding) -> Result<()> {
    let (watch, mut stored) = run.stored.watched(object);
    let read = tokio::task::spawn_blocking(move || {
        let copied = io::copy(&mut tokio_util::io::SyncIoBridge::new(&mut stored), &mut io::sink());
        copied.map(drop).map_err(Error::from)
    });
    read.await.map_err(|error| Error::failed(format!("read an object: {error}")))??;
    finding.bytes += watch.whole.bytes();
    let differ = watch.damaged(object).into_iter().map(|key| (key, "SHA-256 differs from the manifest's".to_owned()));
    finding.problems.extend(differ);
    Ok(())
}

/// Names the damaged volumes of an object, where its damage was found somewhere in it.
async fn blame_volumes(run: &Run, object: &Object, before: usize, finding: &mut Finding) -> Result<()> {
    let mut again = Finding::default();
    stored_bytes(run, object, &mut again).await?;
    if !again.problems.is_empty() {
        finding.problems.truncate(before);
        finding.problems.append(&mut again.problems);
    }
    Ok(())
}

/// Reads the stored bytes from the first to the last.
async fn read_once(
    run: &Run,
    decoding: &Decoding,
    task: Task,
    object: Object,
    finding: Finding,
    index: Option<(Index, String)>,
) -> Result<Finding> {
    let (watch, stored) = run.stored.watched(&object);
    let (manifest, decoding) = (Arc::clone(&run.stored.manifest), decoding.clone());
    let of_manifest = Vec::new();
    let reading = Reading { manifest, decoding, task, object, watch: watch.clone(), finding, index, of_manifest };
    let read = tokio::task::spawn_blocking(move || reading.read(stored)).await;
    let finding = read.map_err(|error| Error::failed(format!("read an object: {error}")))?;
    match watch.whole.store_failure() {
        Some(failure) => Err(failure),
        None => Ok(finding),
    }
}

/// Notes what the listing shows; false when there is nothing to read.
fn present(run: &Run, object: &Object, finding: &mut Finding) -> bool {
    let mut readable = true;
    for wrong in run.listing.mismatches(object) {
        readable &= wrong.found.is_some();
        let problem = wrong.problem();
        finding.problems.push((wrong.key, problem));
    }
    readable
}

/// The index of a table, or what is wrong with it.
async fn read_index(run: &StoredRun, stored: &Object, schema: &str, table: &Table) -> Result<Result<Index, String>> {
    let bytes = match run.read_with(stored, &run.decoding.uncompressed()).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == Kind::Damage => return Ok(Err(error.message())),
        Err(error) => return Err(error),
    };
    let index: Index = match serde_json::from_slice(&bytes) {
        Ok(index) => index,
        Err(error) => return Ok(Err(error.to_string())),
    };
    Ok(index::check(&index, schema, table).map(|()| index))
}
