//! Restoring: a run, or a part of it, into a database, straight from the store.
//!
//! [`plain`] owns the order of things in a plain database, [`supabase`] that in a Supabase project; what both do with a
//! run, its rows and the target stands in the files beside them. What is asked for is in [`options`], what came of it
//! in the [`work::Report`]. Nothing here prints, and nothing knows the command line.

pub(crate) mod attempt;
pub(crate) mod board;
pub(crate) mod checks;
pub(crate) mod database;
pub(crate) mod early;
pub(crate) mod entry;
pub(crate) mod erasing;
pub(crate) mod executor;
pub(crate) mod extensions;
pub(crate) mod findings;
pub(crate) mod forget;
pub(crate) mod grants;
pub(crate) mod large_objects;
pub(crate) mod make_roles;
pub(crate) mod options;
pub(crate) mod parts;
pub(crate) mod pieces;
pub(crate) mod plain;
pub(crate) mod prepare;
pub(crate) mod private_file;
pub(crate) mod progress;
pub(crate) mod quick;
pub(crate) mod renaming;
pub(crate) mod rights;
pub(crate) mod roles;
pub(crate) mod rows;
pub(crate) mod sequences;
pub(crate) mod settings;
pub(crate) mod single_table;
pub(crate) mod small_tables;
pub(crate) mod source;
pub(crate) mod statistics;
pub(crate) mod supabase;
pub(crate) mod validation;
pub(crate) mod wanted;
pub(crate) mod work;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::error::{Error, Kind, Result};
use crate::restore::findings::Finding;
use crate::restore::options::{Options, Profile};
use crate::restore::parts::Part;
use crate::restore::progress::Progress;
use crate::restore::source::{LeaveOut, Loaded, gaps};
use crate::restore::work::Report;
use crate::runs::find;
use crate::seal::keys::Keys;
use crate::shutdown::Shutdown;
use crate::sql::names::in_comment;
use crate::store::Store;

/// The error of a restore, with its cause where the run itself was removed from the store meanwhile.
async fn explained(error: Error, loaded: &Loaded, options: &Options) -> Error {
    let name = &loaded.run.manifest.run;
    if !matches!(find::manifest(&loaded.run.store, name).await, Ok(None)) {
        return error;
    }
    let error = error
        .with_kind(Kind::Failed)
        .context(format!("run {name} was removed from the store while it was being restored"))
        .hint("`pgstow pin RUN` keeps `prune` from a run that is being restored");
    if checks::marked(name, options).is_none() {
        return error;
    }
    error.hint(
        "what was restored is not whole and is marked: restore another run with --start-over, or drop the database",
    )
}

/// Longest time that an end by signal waits for commits under way.
pub(crate) const COMMITS: Duration = Duration::from_secs(10);

/// Restores the run of this name, or a part of it.
///
/// # Errors
/// A damaged object fails it with its key; no table is left with some of its rows.
pub(crate) async fn run(
    store: Store,
    run: &str,
    keys: &Keys,
    options: &Options,
    progress: &Arc<Progress>,
    shutdown: &Shutdown,
) -> Result<Report> {
    let commits = TaskTracker::new();
    let result = tokio::select! {
        biased;
        error = shutdown.requested() => Err(error),
        result = Box::pin(restore(store, run, keys, options, progress, commits.clone())) => result,
    };
    commits.close();
    if tokio::time::timeout(COMMITS, commits.wait()).await.is_err() {
        tracing::warn!("a commit is still under way; run the same command again");
    }
    match result {
        // Damage of the store is a finding in verify and drill; here it is why the restore failed.
        Err(error) if error.kind() == Kind::Damage => Err(error
            .with_kind(Kind::Failed)
            .hint("`pgstow verify` reports what else is damaged; another run may be sound (`pgstow list`)")),
        other => other,
    }
}

async fn restore(
    store: Store,
    run: &str,
    keys: &Keys,
    options: &Options,
    progress: &Arc<Progress>,
    commits: TaskTracker,
) -> Result<Report> {
    options.check()?;
    for path in private_file::sweep() {
        tracing::warn!("file {} was left by a killed process: removed", path.display());
    }
    let mut loaded = Loaded::read(store, run, keys).await?;
    checks::refuse_disagreements(&loaded, options).await?;
    let options = &loaded.rename(options)?;
    if let Profile::Supabase { replace } = options.profile {
        let done = Box::pin(supabase::restore(options, replace, &loaded, progress, commits)).await;
        return match done {
            Err(error) => Err(explained(error, &loaded, options).await),
            done => done,
        };
    }
    let leave_out = LeaveOut::of_gaps(&loaded);
    let done = Box::pin(plain::restore(options, &loaded, &leave_out, progress, commits)).await;
    let mut report = match done {
        Err(error) => return Err(explained(error, &loaded, options).await),
        Ok(report) => report,
    };
    let part = Part::choose(&loaded.run.manifest, options)?.with_contents(&loaded.run).await?;
    let lost = gaps(part.entries(&loaded.meta), &leave_out).into_iter();
    report.findings.not_restored.extend(lost.map(|entry| Finding {
        kind: findings::kind(entry),
        name: in_comment(&findings::name(entry)),
        why: "it depends on objects that this run does not contain".to_owned(),
        step: "`pgstow show` lists what is missing: take both from a run that contains them".to_owned(),
        statement: String::new(),
    }));
    Ok(report)
}
