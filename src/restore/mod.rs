//! Restoring: a run, or a part of it, into a database, straight from the store.
//!
//! [`plain`] owns the order of things in a plain database, [`supabase`] that in a Supabase project; what both do with a
//! run, its rows and the target stands in the files beside them. What is asked for is in [`options`], what came of it
//! in the [`work::Report`]. Nothing here prints, and nothing knows the command line.

pub(crate) mod board;
pub(crate) mod checks;
pub(crate) mod database;
pub(crate) mod entry;
pub(crate) mod executor;
pub(crate) mod findings;
pub(crate) mod large_objects;
pub(crate) mod options;
pub(crate) mod parts;
pub(crate) mod plain;
pub(crate) mod prepare;
pub(crate) mod private_file;
pub(crate) mod progress;
pub(crate) mod rights;
pub(crate) mod roles;
pub(crate) mod rows;
pub(crate) mod sequences;
pub(crate) mod settings;
pub(crate) mod single_table;
pub(crate) mod source;
pub(crate) mod statistics;
pub(crate) mod supabase;
pub(crate) mod wanted;
pub(crate) mod work;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::error::{Kind, Result};
use crate::restore::findings::Finding;
use crate::restore::options::{Options, Profile};
use crate::restore::parts::Part;
use crate::restore::progress::Progress;
use crate::restore::source::{LeaveOut, Loaded, gaps};
use crate::restore::work::Report;
use crate::seal::keys::Keys;
use crate::shutdown::Shutdown;
use crate::sql::names::in_comment;
use crate::store::Store;

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
    let loaded = Loaded::read(store, run, keys).await?;
    checks::refuse_disagreements(&loaded, options).await?;
    if let Profile::Supabase { replace } = options.profile {
        return Box::pin(supabase::restore(options, replace, &loaded, progress, commits)).await;
    }
    let leave_out = LeaveOut::of_gaps(&loaded);
    let mut report = plain::restore(options, &loaded, &leave_out, progress, commits).await?;
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
