//! Moves `latest` by hand, to a run that could be restored as far as manifest, receipts and listing tell.

use crate::error::{Error, Kind, Result};
use crate::format::layout;
use crate::format::manifest::{Latest, Status};
use crate::runs::pointer::Way;
use crate::runs::receipts::Verdicts;
use crate::runs::{find, is_future, listing, pointer};
use crate::seal::hash;
use crate::seal::sign::Trust;
use crate::store::Store;

/// The options.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Move to an older run, or to one of another database.
    pub(crate) backwards: bool,
    /// Move to a partial run.
    pub(crate) partial: bool,
    /// Move to a run that is signed by one of these keys only.
    pub(crate) trust: Trust,
}

/// The result of a promotion.
#[derive(Debug)]
pub(crate) struct Promoted {
    pub(crate) run: String,
    /// The run that was latest before; `None` where there was none, or the pointer made no sense.
    pub(crate) before: Option<String>,
    /// False where `latest` pointed to this run already.
    pub(crate) moved: bool,
}

/// Makes `latest` point to a run. A pointer that makes no sense is replaced.
///
/// # Errors
/// Kind `Usage` where the options do not allow it; where the run is not whole, or the store fails.
pub(crate) async fn promote(store: &Store, wanted: &str, options: Options) -> Result<Promoted> {
    let found = find::trusted(store, wanted, &options.trust).await?;
    let manifest = &found.manifest;
    if manifest.status == Status::Partial && !options.partial {
        let count = manifest.skipped.len();
        return Err(Error::usage(format!("run {} is partial: {count} relations were left out", found.name))
            .hint("choose a complete run, or use --allow-partial-latest"));
    }
    let sha256 = hash::sha256(&found.bytes);
    if let Some(damage) = Verdicts::of(store, &found.name, &sha256).await?.damage() {
        return Err(Error::failed(format!("run {}: {damage}", found.name)).hint(format!(
            "choose another run of `pgstow list`; where it was repaired, `pgstow verify {}` records that it is sound",
            found.name
        )));
    }
    if let Some(problem) = listing::incomplete(store, manifest).await? {
        return Err(Error::failed(format!("run {}: {problem}", found.name))
            .hint("it cannot be restored as it is; choose another run of `pgstow list`"));
    }
    let pointer = pointer::naming(manifest, sha256);
    let (before, way) = match pointer::latest(store).await {
        Ok(before) => (before, if options.backwards { Way::Any } else { Way::Forward }),
        // Whoever names the run knows better than a pointer that says nothing.
        Err(error) if error.kind() == Kind::Damage => {
            tracing::warn!("{error}; replaced");
            (None, Way::Any)
        }
        Err(error) => return Err(error),
    };
    let moved = before.as_ref() != Some(&pointer);
    if moved {
        if !options.backwards {
            refuse(before.as_ref(), &pointer)?;
        }
        if !pointer::advance(store, &pointer, way).await? {
            return Err(Error::failed(format!("{} points to a newer run meanwhile", layout::LATEST))
                .hint("--backwards moves it all the same"));
        }
        // A prune that was about to delete the run has read the pointer before it moved.
        if find::manifest(store, &found.name).await?.is_none() {
            return Err(Error::failed(format!("run {} was deleted while it was promoted", found.name))
                .hint("promote another run of `pgstow list`, with --backwards"));
        }
    }
    Ok(Promoted { run: found.name, before: before.map(|there| there.run), moved })
}

fn refuse(before: Option<&Latest>, pointer: &Latest) -> Result<()> {
    match pointer.finished_at.parse::<jiff::Timestamp>() {
        Ok(finished) if !is_future(finished) => {}
        Ok(_) => {
            return Err(Error::usage(format!(
                "run {} finished at {}, which is in the future: a clock was wrong",
                pointer.run, pointer.finished_at
            ))
            .hint("promote another run of `pgstow list`; --backwards moves latest all the same"));
        }
        Err(_not_a_timestamp) => {
            return Err(Error::failed(format!(
                "run {}: finished_at {:?} is not a timestamp",
                pointer.run, pointer.finished_at
            ))
            .hint("promote another run of `pgstow list`"));
        }
    }
    let Some(before) = before else { return Ok(()) };
    if before.identity != pointer.identity {
        return Err(Error::usage(format!(
            "run {} is of another database than {}, which is latest now",
            pointer.run, before.run
        ))
        .hint("--backwards moves latest all the same"));
    }
    if pointer::is_newer(before, pointer) {
        return Err(Error::usage(format!(
            "run {} ({}) is older than {} ({}), which is latest now",
            pointer.run, pointer.finished_at, before.run, before.finished_at
        ))
        .hint("--backwards moves latest to an older run"));
    }
    Ok(())
}
