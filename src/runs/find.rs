//! From what a person typed as RUN to a run and its manifest, checked as far as a manifest alone can be.

use bytes::Bytes;
use serde::Deserialize;

use crate::error::{Context as _, Error, Result};
use crate::format::layout;
use crate::format::manifest::{FORMAT, Manifest};
use crate::runs::pointer;
use crate::runs::receipts::Verdicts;
use crate::seal::hash;
use crate::seal::sign::Trust;
use crate::shutdown::aside;
use crate::store::Store;

/// A run that was found, with its manifest.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// Name of the run.
    pub(crate) name: String,
    /// Its manifest.
    pub(crate) manifest: Manifest,
    /// The manifest's very bytes.
    pub(crate) bytes: Bytes,
}

/// Finds the run that `wanted` names: `latest`, a run's name or an unambiguous beginning of one.
///
/// # Errors
/// Kind `Usage` where no run or several match; `Damage` where `latest.json` and its manifest disagree.
pub(crate) async fn run(store: &Store, wanted: &str) -> Result<Run> {
    if wanted == "latest" {
        let Some(latest) = pointer::latest(store).await? else {
            return Err(no_latest(store).await?);
        };
        let Some(run) = manifest(store, &latest.run).await? else {
            return Err(Error::damage(format!("latest.json points to run {}, whose manifest is gone", latest.run)).hint(
                "`pgstow list` shows the runs of this store; `pgstow promote --backwards RUN` makes another one latest",
            ));
        };
        let sha256 = hash::sha256(&run.bytes);
        if sha256 != latest.sha256 {
            return Err(Error::damage(format!(
                "manifest of {}: SHA-256 is {sha256}, latest.json says {}",
                latest.run, latest.sha256
            ))
            .hint(
                "the manifest was changed after the run; `pgstow promote --backwards RUN` makes another run latest",
            ));
        }
        warn_of_damage(store, &run.name, &sha256).await;
        return Ok(run);
    }
    if layout::is_run(wanted) {
        return load(store, wanted).await;
    }
    let runs = names(store).await?;
    let matching: Vec<&String> = runs.iter().filter(|name| !wanted.is_empty() && name.starts_with(wanted)).collect();
    match matching.as_slice() {
        [one] => load(store, one).await,
        [] if runs.is_empty() => Err(none(store)),
        [] => {
            Err(Error::usage(format!("no run begins with {wanted:?}"))
                .hint("`pgstow list` shows the runs of this store"))
        }
        [first, .., last] => Err(Error::usage(format!("{} runs begin with {wanted:?}", matching.len()))
            .hint(format!("give more of the name; they go from {last} to {first}"))),
    }
}

/// Finds a run like [`run`] and checks that its manifest is signed by a trusted key, where any is given.
///
/// # Errors
/// As [`run`]; kind `Damage` for a run that is not signed, or signed by another key.
pub(crate) async fn trusted(store: &Store, wanted: &str, trust: &Trust) -> Result<Run> {
    let found = run(store, wanted).await?;
    if !trust.is_empty() {
        let key = layout::in_run(&found.name, layout::SIGNATURE);
        let signature = store.get(&key).await.with_context(|| format!("read {key}"))?;
        if let Some(by) = trust.check(&found.name, &found.bytes, signature.as_deref())? {
            tracing::info!("run {} is signed by key {by}", found.name);
        }
    }
    Ok(found)
}

/// Warns that the latest run was found damaged, so that nobody takes it by default without a word. A store whose
/// receipts this key may not read has nothing to say.
async fn warn_of_damage(store: &Store, run: &str, sha256: &str) {
    let damage = Verdicts::of(store, run, sha256).await.ok().and_then(|verdicts| verdicts.damage());
    if let Some(damage) = damage {
        tracing::warn!("run {run}, which is latest: {damage}; `pgstow list` shows the other runs");
    }
}

/// Names of all runs in the store, newest first, complete or not.
pub(crate) async fn names(store: &Store) -> Result<Vec<String>> {
    let mut runs = store.folders("runs/").await.context("list the runs")?;
    runs.retain(|name| layout::is_run(name));
    runs.sort_unstable_by(|a, b| b.cmp(a));
    Ok(runs)
}

/// The manifest of one run.
///
/// # Errors
/// Kind `Usage` when the run is unknown or incomplete, `Damage` when its manifest makes no sense.
pub(crate) async fn load(store: &Store, name: &str) -> Result<Run> {
    match manifest(store, name).await? {
        Some(run) => Ok(run),
        None if store.list(&layout::run_prefix(name)).await?.is_empty() => {
            Err(Error::usage(format!("no run {name} in {}", store.describe()))
                .hint("`pgstow list` shows the runs of this store"))
        }
        None => Err(Error::usage(format!("run {name} has no manifest: it was not finished and is no backup"))
            .hint("choose another run of `pgstow list`")),
    }
}

/// The manifest of one run, `None` where the run has none.
pub(crate) async fn manifest(store: &Store, name: &str) -> Result<Option<Run>> {
    let key = layout::in_run(name, layout::MANIFEST);
    let Some(bytes) = store.get(&key).await.with_context(|| format!("read {key}"))? else { return Ok(None) };
    let (parsed, bytes) = aside(move || (parse(&bytes), bytes)).await?;
    let manifest = parsed.map_err(|error| error.context(&key))?;
    if manifest.run != name {
        return Err(Error::damage(format!("{key} is the manifest of run {:?}", manifest.run)));
    }
    Ok(Some(Run { name: name.to_owned(), manifest, bytes }))
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Manifest> {
    #[derive(Deserialize)]
    struct Format {
        format: String,
    }
    let invalid = |error: serde_json::Error| Error::damage(error.to_string());
    let Format { format } = serde_json::from_slice(bytes).map_err(invalid)?;
    // `pgstow/1.2` would add fields only; `pgstow/2` means something else.
    if format.split('.').next() != Some(FORMAT) {
        return Err(Error::failed(format!("format {format:?}; this version reads {FORMAT}"))
            .hint("read the run with a newer pgstow"));
    }
    serde_json::from_slice(bytes).map_err(invalid)
}

fn none(store: &Store) -> Error {
    Error::usage(format!("no backups in {} yet", store.describe()))
        .hint("`pgstow backup` makes one; --store or PGSTOW_STORE say where they are kept")
}

async fn no_latest(store: &Store) -> Result<Error> {
    let runs = names(store).await?;
    Ok(match runs.first() {
        None => none(store),
        Some(newest) => Error::usage(format!("{} has no latest.json", store.describe())).hint(format!(
            "no complete run was promoted yet; name a run instead, the newest is {newest} (see `pgstow list`)"
        )),
    })
}
