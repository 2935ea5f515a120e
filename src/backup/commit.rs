//! The end of a run: RESTORE.md, the manifest (written last, read back), then the pointer `latest.json`.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::backup::drain::SchemaDone;
use crate::backup::plan::Plan;
use crate::backup::{Gathered, Run, restore_md};
use crate::cli::status;
use crate::error::{Context as _, Error, Result};
use crate::format::layout;
use crate::format::manifest::{
    AGE, Database, Encryption, FORMAT, LargeObjects, Latest, Manifest, Omitted, Schema, Skipped, Source, Status, Table,
    Tool, Totals,
};
use crate::human;
use crate::postgres::source::leader::Leader;
use crate::runs::pointer::Way;
use crate::runs::{find, pointer};
use crate::seal::hash::hex;
use crate::store::{Condition, Store};

/// Runs that are looked at for whose store this is, where no run is `latest`.
const LOOKED_AT: usize = 8;

/// Refuses a prefix that belongs to another database.
pub(crate) async fn check_prefix(store: &Store, identity: &str, adopt: bool) -> Result<()> {
    let held = match pointer::read(store).await? {
        Some((latest, _etag)) => latest.identity,
        // Only partial runs, perhaps.
        None => match newest(store).await {
            Some(identity) => identity,
            None => return Ok(()),
        },
    };
    if held == identity {
        return Ok(());
    }
    if adopt {
        tracing::warn!("{} held backups of another database ({held}); adopted", store.describe());
        return Ok(());
    }
    Err(Error::usage(format!(
        "{} holds backups of another database ({held}; this one is {identity})",
        store.describe(),
    ))
    .hint("give each database a prefix of its own, or use --adopt-prefix when this database replaced the other one"))
}

/// The database of the newest run with a manifest, as far as this key may look.
async fn newest(store: &Store) -> Option<String> {
    for name in find::names(store).await.ok()?.iter().take(LOOKED_AT) {
        if let Ok(Some(run)) = find::manifest(store, name).await {
            return Some(run.manifest.source.identity);
        }
    }
    None
}

/// Writes what is left of the run. Returns the manifest and whether `latest` names this run now.
pub(crate) async fn finish(
    run: &Run,
    leader: &Leader,
    plan: &Plan,
    gathered: Gathered,
    committing: &AtomicBool,
) -> Result<(Manifest, bool)> {
    let skipped = skipped(leader, plan);
    let mut omitted = leader.detection.omitted.clone();
    if !gathered.roles.passwords && !omitted.iter().any(|o| o.kind == "role passwords") {
        omitted.push(Omitted {
            kind: "role passwords".to_owned(),
            name: "*".to_owned(),
            reason: "the role may not read pg_authid; set passwords with ALTER ROLE after a restore".to_owned(),
        });
    }
    omitted.extend(plan.absent.iter().map(|name| {
        Omitted {
            kind: "definition of an extension's table".to_owned(),
            name: name.clone(),
            reason:
                "its rows are saved; where CREATE EXTENSION does not make it, it is made again with columns, keys and \
                 indexes only, without grants, policies and triggers"
                    .to_owned(),
        }
    }));
    let schemas = schemas(plan, &gathered.schemas);
    let facts = restore_md::Facts {
        run,
        leader,
        plan,
        schemas: &schemas,
        roles: &gathered.roles.object,
        passwords: gathered.roles.passwords,
        database: &gathered.database,
        large_objects: gathered.large_objects.object.as_ref(),
        skipped: &skipped,
        omitted: &omitted,
    };
    let restore_md = run.target.put_plain(layout::RESTORE_MD, Bytes::from(restore_md::compose(&facts))).await?;
    let partial = plan.partial || !leader.detection.unreadable.is_empty();
    let mut manifest = Manifest {
        format: FORMAT.to_owned(),
        run: run.name.clone(),
        status: if partial { Status::Partial } else { Status::Complete },
        started_at: rfc3339(run.started),
        finished_at: rfc3339(jiff::Timestamp::now()),
        tool: Tool { name: "pgstow".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        source: source(run, leader),
        compression: run.target.compression.to_string(),
        encryption: run
            .target
            .recipients
            .as_ref()
            .map(|keys| Encryption { scheme: AGE.to_owned(), recipients: keys.names() }),
        totals: Totals::default(),
        roles: gathered.roles,
        database: Database { object: gathered.database },
        large_objects: LargeObjects {
            object: gathered.large_objects.object,
            count: gathered.large_objects.count,
            bytes: gathered.large_objects.bytes,
            digest: gathered.large_objects.digest,
        },
        restore_md: Some(restore_md),
        schemas,
        skipped,
        dependents: plan.dependents.clone(),
        omitted,
    };
    manifest.totals = totals(&manifest);
    // Whatever took objects away meanwhile (a prune with a short grace, a lifecycle rule): no manifest, no backup.
    match status::incomplete(&run.target.store, &manifest).await {
        Ok(None) => {}
        Ok(Some(problem)) => {
            return Err(Error::failed(format!("run {}: {problem}, although it was stored", run.name)).hint(
                "see whether a prune with a short --incomplete-older-than or a lifecycle rule of the bucket took it",
            ));
        }
        Err(error) => tracing::warn!("the run's objects could not be listed: {error}"),
    }
    committing.store(true, Ordering::SeqCst);
    let sha256 = put_manifest(run, &manifest).await?;
    let latest = if partial && !run.args.allow_partial_latest {
        tracing::warn!("the run is partial: {} stays where it was (--allow-partial-latest moves it)", layout::LATEST);
        false
    } else {
        let pointer = Latest {
            run: run.name.clone(),
            manifest: layout::in_run(&run.name, layout::MANIFEST),
            sha256,
            finished_at: manifest.finished_at.clone(),
            identity: manifest.source.identity.clone(),
        };
        let moved = pointer::advance(&run.target.store, &pointer, Way::Forward).await;
        moved.map_err(|error| error.hint("the run itself is complete; `pgstow list` shows it"))?
    };
    Ok((manifest, latest))
}

fn rfc3339(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn source(run: &Run, leader: &Leader) -> Source {
    let server = &leader.detection.server;
    Source {
        host: run.info.host().to_owned(),
        port: run.info.port(),
        database: server.database.clone(),
        identity: server.identity.clone(),
        server_version: server.version.clone(),
        pg_dump_version: run.tools.version.clone(),
        encoding: server.encoding.clone(),
        snapshot: leader.snapshot.clone(),
        wal_lsn: leader.wal_lsn.clone(),
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
                kind: unreadable.kind.clone(),
                reason: unreadable.reason.clone(),
                entries: Vec::new(),
            });
        }
    }
    all
}

fn schemas(plan: &Plan, done: &[SchemaDone]) -> Vec<Schema> {
    let both = plan.schemas.iter().zip(done);
    both.map(|(planned, done)| Schema {
        name: planned.name.clone(),
        owner: planned.owner.clone(),
        dump: done.dump.clone(),
        tables: planned
            .tables
            .iter()
            .zip(&done.tables)
            .map(|(table, done)| Table {
                name: table.name.clone(),
                kind: table.kind,
                rows: done.print.rows,
                digest: done.print.digest(),
                order: Some(done.print.order()),
                raw_bytes: done.print.bytes,
                file: done.file.clone(),
                index: done.index.clone(),
                extension: table.extension.clone(),
                filter: table.filter.clone(),
            })
            .collect(),
        needs: plan.needs(&planned.name),
    })
    .collect()
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

/// Writes the manifest, reads it back and returns its SHA-256.
async fn put_manifest(run: &Run, manifest: &Manifest) -> Result<String> {
    let key = layout::in_run(&run.name, layout::MANIFEST);
    let mut json = serde_json::to_vec_pretty(manifest).map_err(std::io::Error::from).context("write the manifest")?;
    json.push(b'\n');
    let body = Bytes::from(json);
    let store = &run.target.store;
    let read_back = match store.put(&key, body.clone(), Condition::None).await {
        Ok(_stored) => store.get(&key).await,
        Err(error) => Err(error),
    };
    let error = match read_back {
        Ok(there) if there.as_ref() == Some(&body) => return Ok(hex(&Sha256::digest(&body))),
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

/// Names in a line of the final summary; the manifest and RESTORE.md have all.
const OMITTED_SHOWN: usize = 8;

/// The final summary for people.
pub(crate) fn summary(manifest: &Manifest, latest: bool, store: &str) -> String {
    let totals = &manifest.totals;
    let took = manifest
        .finished_at
        .parse::<jiff::Timestamp>()
        .ok()
        .zip(manifest.started_at.parse::<jiff::Timestamp>().ok())
        .map_or(0.0, |(end, start)| end.duration_since(start).as_secs_f64());
    let human = |bytes: u64| indicatif::HumanBytes(bytes).to_string();
    let mut text = format!(
        "Run {run} is {status}.\n\n  \
           database       {database} (PostgreSQL {version}, snapshot {snapshot})\n  \
           schemas        {schemas}\n  \
           tables         {tables} with {rows} rows\n  \
           large objects  {blobs}\n  \
           text           {raw}\n  \
           stored         {stored} in {objects} objects, {compression}{encrypted}\n  \
           time           {took:.1} s\n  \
           store          {store}/runs/{run}\n  \
           latest         {latest}\n",
        run = manifest.run,
        status = if manifest.status == Status::Complete { "complete" } else { "PARTIAL" },
        database = manifest.source.database,
        version = manifest.source.server_version,
        snapshot = manifest.source.snapshot,
        schemas = totals.schemas,
        tables = totals.tables,
        rows = indicatif::HumanCount(totals.rows),
        blobs = manifest.large_objects.count,
        raw = human(totals.raw_bytes),
        stored = human(totals.stored_bytes),
        objects = totals.objects + 1,
        compression = manifest.compression,
        encrypted = if manifest.encryption.is_some() { ", encrypted" } else { "" },
        latest = if latest { "this run" } else { "not moved" },
    );
    let skipped = manifest.skipped.iter().map(|s| (&*s.kind, format!("{}.{}", s.schema, s.name), &*s.reason));
    let dependents = manifest.dependents.iter().map(|d| (&*d.kind, d.name.clone(), &*d.reason));
    let omitted = manifest.omitted.iter().map(|o| (&*o.kind, o.name.clone(), &*o.reason));
    for (title, lines) in [
        ("Skipped", human::grouped(skipped, usize::MAX)),
        ("Held, but not to be restored whole, for want of what was skipped", human::grouped(dependents, usize::MAX)),
        ("Outside of what a logical backup can hold", human::grouped(omitted, OMITTED_SHOWN)),
    ] {
        if !lines.is_empty() {
            text.push_str(&format!("\n{title}:\n"));
            for line in lines {
                text.push_str(&format!("  - {line}\n"));
            }
        }
    }
    text
}
