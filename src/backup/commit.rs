//! The end of a run: RESTORE.md, the manifest (written last, read back), then the pointer `latest.json`.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::backup::plan::Plan;
use crate::backup::restore_md;
use crate::backup::run::{Gathered, Run};
use crate::error::{Context as _, Error, Result};
use crate::format::layout;
use crate::format::manifest::{
    AGE, Anomaly, Database, Encryption, FORMAT, Manifest, Object, Omitted, Skipped, Source, Status, Tool, Totals,
};
use crate::postgres::source::leader::Leader;
use crate::runs::pointer::Way;
use crate::runs::{anomaly, find, listing, pointer};
use crate::seal::hash::hex;
use crate::shutdown::aside;
use crate::store::Condition;

/// Anomalies that are logged; the manifest has all.
const ODD_LOGGED: usize = 20;

/// A finished run.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) manifest: Manifest,
    pub(crate) latest: Pointer,
    /// The warning about a run of nothing; `None` where something was saved.
    pub(crate) empty: Option<Empty>,
}

/// A run of nothing.
#[derive(Debug, Clone)]
pub(crate) struct Empty {
    /// The other databases of the server.
    pub(crate) beside: Vec<String>,
    /// True where nobody named the database: most likely another one was meant.
    pub(crate) is_assumed: bool,
}

/// The fate of `latest.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pointer {
    /// It names this run now.
    Moved,
    /// It stays, for this reason.
    Stays(String),
    /// It names a run that ended after this one, for this reason.
    Overtaken(String),
}

/// Writes what is left of the run.
pub(crate) async fn finish(
    run: &Run,
    leader: &Leader,
    plan: &Plan,
    gathered: Gathered,
    committing: &AtomicBool,
) -> Result<Done> {
    let mut skipped = skipped(leader, plan);
    skipped.extend(gathered.damaged.iter().cloned());
    let gaps = Gaps { skipped, omitted: omitted(leader, plan, gathered.roles.passwords) };
    let facts = restore_md::Facts {
        run,
        leader,
        plan,
        schemas: &gathered.schemas,
        roles: &gathered.roles.object,
        passwords: gathered.roles.passwords,
        database: &gathered.database,
        large_objects: gathered.large_objects.object.as_ref(),
        skipped: &gaps.skipped,
        omitted: &gaps.omitted,
    };
    let text = Bytes::from(restore_md::compose(&facts));
    let restore_md = run.target.put_plain(layout::RESTORE_MD, text).await?;
    let mut manifest = manifest(run, leader, plan, gathered, gaps, restore_md);
    manifest.anomalies = anomalies(run, &manifest).await;
    manifest.held = run.options.odd.hold && !manifest.anomalies.is_empty();
    refuse_missing(run, &manifest).await?;
    let (json, manifest) = aside(move || (serde_json::to_vec_pretty(&manifest), manifest)).await?;
    let mut json = json.map_err(std::io::Error::from).context("write the manifest")?;
    json.push(b'\n');
    committing.store(true, Ordering::SeqCst);
    let sha256 = put_manifest(run, Bytes::from(json)).await?;
    let latest = promote(run, &manifest, sha256, plan.beside.is_some()).await?;
    let is_assumed = run.options.info.is_database_assumed();
    let empty = plan.beside.clone().map(|beside| Empty { beside, is_assumed });
    Ok(Done { manifest, latest, empty })
}

/// The objects that the run does not contain, for the manifest and RESTORE.md.
struct Gaps {
    skipped: Vec<Skipped>,
    omitted: Vec<Omitted>,
}

fn manifest(run: &Run, leader: &Leader, plan: &Plan, gathered: Gathered, gaps: Gaps, restore_md: Object) -> Manifest {
    let partial = plan.partial
        || !leader.detection.unreadable.is_empty()
        || !plan.dependents.is_empty()
        || !gathered.damaged.is_empty();
    let recipients = run.target.recipients.as_ref();
    let mut manifest = Manifest {
        format: FORMAT.to_owned(),
        run: run.name.clone(),
        status: if partial { Status::Partial } else { Status::Complete },
        started_at: rfc3339(run.started),
        finished_at: rfc3339(jiff::Timestamp::now()),
        not_notified: run.options.not_notified.lock().map(|all| all.clone()).unwrap_or_default(),
        anomalies: Vec::new(),
        held: false,
        note: run.options.labels.note.clone(),
        round: run.options.labels.round.clone(),
        tool: Tool { name: "pgstow".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        source: source(run, leader),
        compression: run.target.compression.to_string(),
        encryption: recipients.map(|keys| Encryption { scheme: AGE.to_owned(), recipients: keys.names() }),
        totals: Totals::default(),
        roles: gathered.roles,
        database: Database { object: gathered.database },
        large_objects: gathered.large_objects,
        restore_md: Some(restore_md),
        schemas: gathered.schemas,
        skipped: gaps.skipped,
        dependents: plan.dependents.clone(),
        extensions: leader.detection.extensions.clone(),
        omitted: gaps.omitted,
    };
    manifest.totals = totals(&manifest);
    manifest
}

/// The anomalies of the run, beside the one that `latest` names. A store that does not give that one keeps no backup back.
async fn anomalies(run: &Run, manifest: &Manifest) -> Vec<Anomaly> {
    let store = &run.target.store;
    let before = match pointer::latest(store).await {
        Ok(None) => return Vec::new(),
        Ok(Some(latest)) => find::manifest(store, &latest.run).await,
        Err(error) => Err(error),
    };
    let before = match before {
        Ok(Some(before)) if before.manifest.source.identity == manifest.source.identity => before,
        Ok(_) => return Vec::new(),
        Err(error) => {
            tracing::warn!("the run could not be compared with the one before: {error}");
            return Vec::new();
        }
    };
    let found = anomaly::compare(&before.manifest, manifest, run.options.odd.limits);
    for one in found.iter().take(ODD_LOGGED) {
        tracing::warn!("beside run {}: {one}", before.name);
    }
    found
}

/// Refuses to go on when something took objects of the run away meanwhile (a prune with a short grace, a lifecycle
/// rule): no manifest, no backup.
async fn refuse_missing(run: &Run, manifest: &Manifest) -> Result<()> {
    match listing::incomplete(&run.target.store, manifest).await {
        Ok(None) => Ok(()),
        Ok(Some(problem)) => Err(Error::failed(format!("run {}: {problem}, although it was stored", run.name)).hint(
            "see whether a prune with a short --incomplete-older-than or a lifecycle rule of the bucket took it",
        )),
        Err(error) => {
            tracing::warn!("the run's objects could not be listed: {error}");
            Ok(())
        }
    }
}

/// Moves `latest` to the run, unless it is partial and may not become it, or holds nothing and would replace something.
async fn promote(run: &Run, manifest: &Manifest, sha256: String, is_empty: bool) -> Result<Pointer> {
    let stays = |why: String| {
        tracing::warn!("{} was not moved: {why}", layout::LATEST);
        Ok(Pointer::Stays(why))
    };
    if manifest.status == Status::Partial && !run.options.partial.becomes_latest {
        return stays("the run is partial (--allow-partial-latest moves it)".to_owned());
    }
    let store = &run.target.store;
    // Beside a run of rows it is an anomaly.
    if is_empty
        && !run.options.partial.may_be_empty
        && !manifest.anomalies.is_empty()
        && let Some((there, _)) = pointer::read(store).await?
    {
        return stays(format!("the run holds nothing, and it names run {} (--allow-empty moves it)", there.run));
    }
    if manifest.held {
        return stays(format!("the run is odd (--hold-on-anomaly); `pgstow promote {}` moves it", run.name));
    }
    let pointer = pointer::naming(manifest, sha256);
    let moved = pointer::advance(store, &pointer, Way::Forward).await;
    if moved.map_err(|error| error.hint("the run itself is complete; `pgstow list` shows it"))? {
        return Ok(Pointer::Moved);
    }
    let there = pointer::read(store).await?.map(|(there, _)| there);
    let named = there.as_ref().map_or_else(|| "another run".to_owned(), |there| format!("run {}", there.run));
    let why = format!("it names {named}, which is newer (`pgstow promote {}` moves it)", run.name);
    // Two runs side by side; an end that lies ahead of this machine's clock is somebody's wrong clock instead.
    if there.is_some_and(|there| has_ended(&there.finished_at)) {
        tracing::warn!("{} was not moved: {why}", layout::LATEST);
        return Ok(Pointer::Overtaken(why));
    }
    stays(why)
}

fn has_ended(at: &str) -> bool {
    at.parse::<jiff::Timestamp>().is_ok_and(|at| at <= jiff::Timestamp::now())
}

fn rfc3339(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn source(run: &Run, leader: &Leader) -> Source {
    let server = &leader.detection.server;
    Source {
        host: run.options.info.host().to_owned(),
        port: run.options.info.port(),
        database: server.database.clone(),
        identity: server.identity.clone(),
        server_version: server.version.clone(),
        pg_dump_version: run.tools.version.clone(),
        encoding: server.encoding.clone(),
        lc_monetary: Some("C".to_owned()),
        snapshot: leader.snapshot.clone(),
        wal_lsn: leader.wal_lsn.clone(),
        timeline: run.place.timeline.clone(),
        in_recovery: server.in_recovery,
        role: server.role.clone(),
        superuser: server.superuser,
    }
}

fn skipped(leader: &Leader, plan: &Plan) -> Vec<Skipped> {
    let mut all: Vec<Skipped> = plan.skipped.clone();
    for unreadable in &leader.detection.unreadable {
        let known = all.iter().any(|s| s.schema == unreadable.schema && s.name == unreadable.name);
        if !known {
            all.push(Skipped {
                schema: unreadable.schema.clone(),
                name: unreadable.name.clone(),
                kind: unreadable.kind.to_string(),
                reason: unreadable.reason.clone(),
                entries: Vec::new(),
            });
        }
    }
    all
}

fn omitted(leader: &Leader, plan: &Plan, passwords: bool) -> Vec<Omitted> {
    let mut omitted = leader.detection.omitted.clone();
    if !passwords && !omitted.iter().any(|o| o.kind == "role passwords") {
        omitted.push(Omitted {
            kind: "role passwords".to_owned(),
            name: "*".to_owned(),
            reason: "the role may not read pg_authid; set passwords with ALTER ROLE after a restore".to_owned(),
        });
    }
    omitted.extend(plan.absent.iter().map(|name| {
        Omitted {
            kind: "definition of an extension's table".to_owned(),
            name: name.to_string(),
            reason:
                "its rows are saved, and what hangs on it; where CREATE EXTENSION does not make it, it is made again"
                    .to_owned(),
        }
    }));
    omitted
}

fn totals(manifest: &Manifest) -> Totals {
    let tables = || manifest.schemas.iter().flat_map(|s| &s.tables);
    let objects = manifest
        .schemas
        .iter()
        .map(|s| &s.dump)
        .chain(tables().map(|t| &t.file))
        .chain(tables().filter_map(|t| t.index.as_ref()))
        .chain([&manifest.roles.object, &manifest.database.object])
        .chain(&manifest.large_objects.object)
        .chain(&manifest.restore_md);
    let (count, stored) = objects
        .fold((0, 0), |(count, bytes), object| (count + object.volumes.len().max(1) as u64, bytes + object.bytes));
    Totals {
        schemas: manifest.schemas.len() as u64,
        tables: tables().count() as u64,
        rows: tables().map(|t| t.rows).sum(),
        raw_bytes: tables().map(|t| t.raw_bytes).sum(),
        stored_bytes: stored,
        objects: count,
    }
}

/// Writes the manifest, behind its signature where the run is signed, reads it back and returns its SHA-256.
async fn put_manifest(run: &Run, body: Bytes) -> Result<String> {
    let key = layout::in_run(&run.name, layout::MANIFEST);
    let store = &run.target.store;
    if let Some(signing) = &run.options.form.signing_key {
        let signature = layout::in_run(&run.name, layout::SIGNATURE);
        let text = Bytes::from(signing.sign(&run.name, &body)?);
        store.put(&signature, text, Condition::None).await.with_context(|| format!("write {signature}"))?;
    }
    let read_back = match store.put(&key, body.clone(), Condition::None).await {
        Ok(_stored) => store.get(&key).await,
        Err(error) => Err(error),
    };
    let error = match read_back {
        Ok(there) if there.as_ref() == Some(&body) => return aside(move || hex(&Sha256::digest(&body))).await,
        Ok(_) => Error::failed(format!("{key} of {} does not read back as it was written", store.describe())),
        Err(error) => error,
    };
    // A manifest of a failed run would make it look whole; the server may have stored it without our knowing.
    match store.delete(&key).await {
        Ok(()) => Err(error),
        Err(_unreachable) => {
            Err(error
                .hint(format!("{key} may be stored all the same: `pgstow verify` tells whether that run is whole")))
        }
    }
}
