//! Checks before the first byte: what the role cannot read, and whether the store is the right one. `doctor` asks the
//! same questions.

use crate::backup::options::{Adopt, Labels};
use crate::error::{Error, Result};
use crate::human;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::source::detect::{Detection, GapKind};
use crate::postgres::source::timeline::Place;
use crate::runs::lineage::Relation;
use crate::runs::{find, lineage, pointer};
use crate::sql::names::quote;
use crate::store::Store;

/// Runs that are looked at for whose store this is, where no run is `latest`.
const LOOKED_AT: usize = 8;

/// A Supabase project's own Storage keeps its index in the database being saved: lost together with it.
pub(crate) fn refuse_same_project(allow: bool, info: &ConnInfo, store: &Store) -> Result<()> {
    let project = |text: &str| {
        text.split(['.', '/', ':'])
            .find(|w| w.len() == 20 && w.bytes().all(|b| b.is_ascii_lowercase()))
            .map(str::to_owned)
    };
    let database = project(info.host()).or_else(|| project(info.user()));
    let storage = store.endpoint().filter(|e| e.contains("supabase.")).and_then(project);
    match (database, storage) {
        (Some(database), Some(storage)) if database == storage && !allow => Err(Error::usage(format!(
            "the store is the Storage of project {storage}, which is the one being backed up: they would be lost together"
        ))
        .hint("use a bucket elsewhere, or --allow-same-project")),
        _ => Ok(()),
    }
}

/// Refuses a prefix that belongs to another database, or to another server that this one is a copy of.
pub(crate) async fn check_prefix(store: &Store, identity: &str, place: &Place, adopt: Adopt) -> Result<()> {
    let (held, last) = match pointer::read(store).await? {
        // A pointer says whose prefix it is, even where its manifest cannot be read.
        Some((latest, _etag)) => (latest.identity, find::manifest(store, &latest.run).await.ok().flatten()),
        // Only partial runs, perhaps.
        None => match newest(store).await {
            Some(run) => (run.manifest.source.identity.clone(), Some(run)),
            None => return Ok(()),
        },
    };
    if held == identity {
        return last.map_or(Ok(()), |last| check_lineage(store, &last, place, adopt));
    }
    if adopt == Adopt::Any {
        tracing::warn!("{} held backups of another database ({held}); adopted", store.describe());
        return Ok(());
    }
    Err(Error::usage(format!(
        "{} holds backups of another database ({held}; this one is {identity})",
        store.describe(),
    ))
    .hint("give each database a prefix of its own, or use --adopt-prefix when this database replaced the other one"))
}

/// Refuses the prefix of a server that has the same identity and is not this one.
fn check_lineage(store: &Store, last: &find::Run, place: &Place, adopt: Adopt) -> Result<()> {
    let (why, is_enough) = match lineage::relation(&last.manifest.source, place) {
        Relation::Same => return Ok(()),
        Relation::Promoted(why) => (why, adopt != Adopt::None),
        Relation::Apart(why) => (why, adopt == Adopt::Any),
    };
    let text = format!("{} holds run {} of another server of this cluster: {why}", store.describe(), last.name);
    if is_enough {
        tracing::warn!("{text}; adopted");
        return Ok(());
    }
    Err(Error::usage(text)
        .hint("a copy that was promoted (a staging clone, a test of recovery): give it a prefix of its own")
        .hint(
            "a server that took over for the other one: --adopt-prefix goes on here; --adopt-prefix=failover does so \
             after every failover",
        ))
}

/// Refuses a second run of a round. To be asked once the lock of store and database is held: the task that made the first
/// one may have been killed, and its backup have come to its end all the same.
pub(crate) async fn refuse_second(store: &Store, labels: &Labels) -> Result<()> {
    let Some(round) = labels.round.as_ref().filter(|_| labels.once) else { return Ok(()) };
    match newest(store).await.filter(|run| run.manifest.round.as_ref() == Some(round)) {
        Some(run) => Err(Error::failed(format!("round {round} has run {} already", run.name))),
        None => Ok(()),
    }
}

/// The newest run with a manifest, as far as this key may look.
async fn newest(store: &Store) -> Option<find::Run> {
    for name in find::names(store).await.ok()?.iter().take(LOOKED_AT) {
        if let Ok(Some(run)) = find::manifest(store, name).await {
            return Some(run);
        }
    }
    None
}

/// Stops before the first byte when something cannot be read, with the statements that cure it.
pub(crate) fn preflight(detection: &Detection, allow: bool) -> Result<()> {
    let server = &detection.server;
    let relations = i64::try_from(detection.relations.iter().filter(|r| r.relkind.is_lockable()).count()).unwrap_or(0);
    let room = server.max_locks_per_transaction * (server.max_connections + 1);
    if relations * 2 > room {
        tracing::warn!(
            "{relations} tables need about {} locks, the server has room for about {room}; raise max_locks_per_transaction if it runs out",
            relations * 2
        );
    }
    if detection.unreadable.is_empty() {
        return Ok(());
    }
    let gaps = detection.unreadable.iter().map(|gap| format!("{} {}: {}", gap.kind, gap.display_name(), gap.reason));
    let gaps = human::shortened(gaps, 20, "; ");
    let what = format!("role {} cannot read everything: {gaps}", server.role);
    if allow {
        tracing::warn!("{what}; left out (--allow-unreadable)");
        return Ok(());
    }
    let mut error = Error::failed(what);
    for cure in detection.cures().into_iter().take(20) {
        error = error.hint(cure);
    }
    Err(error.hint("or make a partial run without it: --allow-unreadable"))
}

/// The objects that pg_dump must leave out, as arguments. A sequence keeps its DDL: leaving it out must not cost its
/// table.
pub(crate) fn leave_out(detection: &Detection) -> Vec<String> {
    let arguments = detection.unreadable.iter().filter_map(|u| {
        let name = format!("{}.{}", quote(&u.schema), quote(&u.name));
        match u.kind {
            // Its types and functions can be read without USAGE, and extensions may be in it.
            GapKind::Schema => Some(format!("--exclude-table={}.*", quote(&u.name))),
            GapKind::Sequence => Some(format!("--exclude-table-data={name}")),
            GapKind::Table => Some(format!("--exclude-table={name}")),
            GapKind::LargeObject => None,
        }
    });
    arguments.collect()
}
