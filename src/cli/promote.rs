//! `pgstow promote`: moves `latest` by hand, to a run that could be restored as far as manifest and listing tell.

use clap::Args;
use serde::Serialize;

use crate::cli::args::EXIT_CODES;
use crate::cli::{output, status};
use crate::error::{Error, Result};
use crate::format::layout;
use crate::format::manifest::{Latest, Status};
use crate::runs::pointer::Way;
use crate::runs::{find, pointer};
use crate::seal::hash;
use crate::store::Store;

#[derive(Debug, Serialize)]
struct Document {
    run: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    moved: bool,
}

/// Moves `latest`.
pub(crate) async fn run(store: &Store, arguments: &Promote, json: bool) -> Result<()> {
    let found = find::run(store, &arguments.run).await?;
    let manifest = &found.manifest;
    if manifest.status == Status::Partial && !arguments.allow_partial_latest {
        let count = manifest.skipped.len();
        return Err(Error::usage(format!("run {} is partial: {count} relations were left out", found.name))
            .hint("choose a complete run, or use --allow-partial-latest"));
    }
    if let Some(problem) = status::incomplete(store, manifest).await? {
        return Err(Error::failed(format!("run {}: {problem}", found.name))
            .hint("it cannot be restored as it is; choose another run of `pgstow list`"));
    }
    let pointer = Latest {
        run: found.name.clone(),
        manifest: layout::in_run(&found.name, layout::MANIFEST),
        sha256: hash::sha256(&found.bytes),
        finished_at: manifest.finished_at.clone(),
        identity: manifest.source.identity.clone(),
    };
    let before = match pointer::read(store).await {
        Ok(before) => before.map(|(there, _etag)| there),
        Err(error) if arguments.backwards => {
            tracing::warn!("{error}; replaced");
            None
        }
        Err(error) => return Err(error.hint("--backwards replaces it, whatever it names")),
    };
    let moved = before.as_ref() != Some(&pointer);
    if moved {
        let way = if arguments.backwards { Way::Any } else { Way::Forward };
        if way == Way::Forward {
            refuse(before.as_ref(), &pointer)?;
        }
        if !pointer::advance(store, &pointer, way).await? {
            return Err(Error::failed(format!("{} names a newer run meanwhile", layout::LATEST)));
        }
        // A prune that was about to delete the run has read the pointer before it moved.
        if find::manifest(store, &found.name).await?.is_none() {
            return Err(Error::failed(format!("run {} was deleted while it was promoted", found.name))
                .hint("promote another run of `pgstow list`, with --backwards"));
        }
    }
    let before = before.map(|there| there.run);
    if json {
        return output::print_json(&Document { run: found.name, before, moved });
    }
    output::print(&match before {
        _ if !moved => format!("latest is run {} already\n", found.name),
        Some(before) => format!("latest is run {} now (it was {before})\n", found.name),
        None => format!("latest is run {} now\n", found.name),
    })
}

fn refuse(before: Option<&Latest>, pointer: &Latest) -> Result<()> {
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

/// `pgstow promote`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Promote {
    /// The run that `latest` is to name.
    pub run: String,
    /// Also when `latest` names a newer run now, one of another database, or cannot be read.
    #[arg(long, env = "PGSTOW_BACKWARDS")]
    pub backwards: bool,
    /// Also when the run is partial.
    #[arg(long, env = "PGSTOW_ALLOW_PARTIAL_LATEST")]
    pub allow_partial_latest: bool,
}
