//! The engine of `pgstow backup`: one full run. Owns the order of things and every task of the run: what is started
//! here is waited for here, and any error cancels the rest, aborts open uploads and leaves no manifest.
//!
//! # A table's rows, from COPY to the object
//!
//! 1. `lead` locks all tables and exports the snapshot ([`crate::postgres::source::leader`]), and lets pg_dump describe
//!    the database at that snapshot.
//! 2. [`plan`] puts the tables in pg_dump's order, with keys, expected sizes and [`chunks`] of their rows.
//! 3. [`read`] puts the chunks into a queue; readers ([`crate::postgres::source::rows`]) take them, each with a session on
//!    the snapshot, and stream `COPY ... TO STDOUT`.
//! 4. COPY text is cut at row ends into segments ([`crate::pipeline::segment`]), waits for memory
//!    ([`crate::pipeline::budget`]), and is compressed and fingerprinted into a frame ([`crate::pipeline::feed`]).
//! 5. [`drain`] takes the frames in the one global order and writes each twice: into its schema's archive and its table's
//!    SQL file, with the texts that stand around rows ([`texts`]).
//! 6. [`crate::objects::write`] encrypts a frame, cuts volumes and hands the bytes to an upload of the store.
//! 7. [`commit`] writes RESTORE.md and the manifest, which names every object, and moves `latest.json`.

pub(crate) mod absent;
pub(crate) mod chunks;
pub(crate) mod cleanup;
pub(crate) mod commit;
pub(crate) mod counters;
pub(crate) mod drain;
pub(crate) mod facts;
pub(crate) mod guest;
pub(crate) mod large_objects;
pub(crate) mod lead;
pub(crate) mod newer;
pub(crate) mod options;
pub(crate) mod own_encoding;
pub(crate) mod plan;
pub(crate) mod preflight;
pub(crate) mod read;
pub(crate) mod restore_md;
pub(crate) mod restore_md_extensions;
pub(crate) mod restore_md_statements;
pub(crate) mod run;
pub(crate) mod texts;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;

use crate::archive::catalogue::Catalogue;
use crate::archive::compose;
use crate::backup::cleanup::Cleanup;
use crate::backup::commit::Done;
use crate::backup::counters::{Counters, Total};
use crate::backup::facts::Facts;
use crate::backup::guest::{Guest, Look};
use crate::backup::lead::Described;
use crate::backup::options::Options;
use crate::backup::plan::Plan;
use crate::backup::run::{Gathered, Run};
use crate::error::{Error, Result};
use crate::format::layout;
use crate::format::manifest::Roles;
use crate::objects::write::Target;
use crate::pipeline::rate::Rate;
use crate::postgres::connect::one_server::NAME_ONE;
use crate::postgres::programs::pg_dump;
use crate::postgres::programs::tools::{PgTools, Whose};
use crate::postgres::source::leader::{Candidate, Leader};
use crate::postgres::source::{absent as own, catalogue, changed, dependents, members, output_names, timeline};
use crate::postgres::target;
use crate::shutdown::{Shutdown, aside};
use crate::store::Store;

/// Makes one full run.
///
/// # Errors
/// The error that stopped it; nothing was promoted and open uploads were aborted.
pub(crate) async fn run(
    options: Options,
    store: &Store,
    counters: &Arc<Counters>,
    shutdown: &Shutdown,
) -> Result<Done> {
    let committing = Arc::new(AtomicBool::new(false));
    let cleanup = Cleanup::default();
    let result = {
        let mut work = Box::pin(backup(options, store, counters, &committing, &cleanup));
        tokio::select! {
            biased;
            error = shutdown.requested() => if committing.load(Ordering::SeqCst) {
                // Stopped between manifest and pointer, nobody could tell whether the run counts.
                tracing::warn!("stopped while the manifest is being stored: the run comes to its end first");
                work.await
            } else {
                Err(error)
            },
            result = &mut work => result,
        }
    };
    // Whatever was dropped above aborts its uploads; wait until that has happened.
    if result.is_err() {
        tokio::join!(store.drain(), cleanup.end_backends());
    } else {
        store.drain().await;
    }
    result
}

/// Sets `committing` when everything but manifest and pointer is stored; from then on it must not be dropped.
async fn backup(
    options: Options,
    store: &Store,
    counters: &Arc<Counters>,
    committing: &AtomicBool,
    cleanup: &Cleanup,
) -> Result<Done> {
    let guest = Arc::new(Guest::new(options.limits.clone(), counters));
    let (run, leader, plan, gathered) = tokio::select! {
        biased;
        error = guest.overstays() => return Err(error),
        all = Box::pin(store_rows(options, store, counters, &guest, cleanup)) => all?,
    };
    // Nobody need wait for the manifest.
    leader.end_transaction().await;
    let begun = Instant::now();
    let done = commit::finish(&run, &leader, &plan, gathered, committing).await;
    counters.step("manifest", begun);
    done
}

/// Everything but the end: when this returns, all but the manifest is stored.
async fn store_rows(
    options: Options,
    store: &Store,
    counters: &Arc<Counters>,
    guest: &Arc<Guest>,
    cleanup: &Cleanup,
) -> Result<(Run, Leader, Plan, Gathered)> {
    let (started, begun) = (jiff::Timestamp::now(), Instant::now());
    let name = run::run_name(started);
    preflight::refuse_same_project(options.allow_same_project, &options.info, store)?;
    let silence = options.limits.stall_timeout;
    let candidate = Candidate::connect(&options.info, options.connect_timeout, silence, &name).await?;
    let server = &candidate.detection.server;
    let client = &candidate.session.client;
    let place = async {
        store.check().await?;
        let place = timeline::place(client).await?;
        preflight::check_prefix(store, &server.identity, &place, options.adopt).await?;
        Ok::<_, Error>(place)
    };
    let tools = PgTools::find(options.pg_bin_dir.as_deref(), server.version_num, Whose::Server);
    let better = async {
        if let Ok(tools) = &tools {
            newer::say(&candidate.session, &candidate.detection, tools, options.pg_bin_dir.as_deref()).await;
        }
    };
    // Each waits for round trips of its own. The first of them that fails in this order is reported.
    let (place, finished, child_options, ()) =
        tokio::join!(place, target::mark::refuse(client), pg_dump::backend_options(&candidate.session), better);
    let (tools, place) = (tools?, place?);
    finished?;
    preflight::preflight(&candidate.detection, options.partial.allowed)?;
    let target = Target {
        store: store.clone(),
        prefix: layout::run_prefix(&name),
        compression: options.form.compression,
        recipients: options.form.recipients.clone(),
        max_object_bytes: options.form.max_object_bytes,
    };
    cleanup.connected(&options.info, &name);
    let rate = Rate::new(options.limits.rate);
    let look = Look { run: name.clone(), connect_timeout: options.connect_timeout, jobs: options.limits.jobs };
    let run = Run { name, started, options, tools, child_options, target, counters: Arc::clone(counters), rate, place };
    tracing::info!(run = %run.name, database = %run.options.info.database(), store = %store.describe(), "backup started");
    let _watch = guest.watch(&run.options.info, &candidate.detection.server, look);
    let (mut leader, described) = Box::pin(lead::lead(&run, candidate)).await?;
    preflight::refuse_second(store, &run.options.labels).await?;
    if !run.options.partial.allowed {
        // New objects since the first detection can be as unreadable as the others.
        preflight::preflight(&leader.detection, false)?;
    }
    let Described { meta, facts, roles } = described;
    let few = facts.few_connections;
    let plan = make_plan(&mut leader, meta, facts).await?;
    let sizes = leader.detection.relations.iter().map(|r| u64::try_from(r.bytes).unwrap_or(0));
    counters.expect(Total {
        schemas: plan.schemas.len() as u64,
        tables: plan.schemas.iter().map(|schema| schema.tables.len() as u64).sum(),
        disk: sizes.sum(),
    });
    counters.step("locks and catalogue", begun);
    let begun = Instant::now();
    let gathered = gather(&run, &leader, &plan, roles, few).await?;
    counters.step("rows", begun);
    let now = run.short_session("check").await?;
    output_names::refuse_renamed(&leader.session.client, &now.client).await?;
    now.close().await;
    if run.options.info.server().has_strayed() {
        // The programs of PostgreSQL may have reached it too.
        return Err(Error::failed("some sessions reached another server than the leader").hint(NAME_ONE));
    }
    Ok((run, leader, plan, gathered))
}

/// Puts the catalogue together with what pg_dump left out, and plans the run. What takes long with many tables is computed
/// aside; the leader is without its detection meanwhile.
async fn make_plan(leader: &mut Leader, mut meta: libpgdump::format::ArchiveMetadata, facts: Facts) -> Result<Plan> {
    let Facts { belongs, reach, members, others, additions, refers, event_triggers, .. } = facts;
    let mut detection = std::mem::take(&mut leader.detection);
    let version = detection.server.version_num;
    detection.omitted.extend(absent::without_run_as_owner(&mut meta.entries, version));
    let session = Arc::clone(&leader.session);
    let client = &session.client;
    absent::adopt_sequences(&mut detection, &belongs);
    let (tables, sequences) = absent::absent(&detection, &meta.entries);
    let tables = if tables.is_empty() { Vec::new() } else { own::tables(client, &tables).await? };
    let sequences = own::sequences(client, &sequences).await?;
    let added = additions.iter().filter(|addition| addition.is_before_rows).map(|addition| addition.table);
    let theirs: Vec<u32> = tables.iter().map(|table| table.oid).chain(added).collect();
    detection.omitted.extend(others);
    let mut users = own::users(client, &theirs).await?;
    users.extend(members::users(client, &members).await?);
    let changed = changed::with_changed_rows(client, &mut detection).await?;
    let planned = aside(move || {
        let mut catalogue = Catalogue::new(meta, &belongs);
        absent::add_absent(&mut catalogue, &detection, &tables, &sequences)?;
        absent::add_additions(&mut catalogue, &detection, &members);
        absent::add_additions(&mut catalogue, &detection, &additions);
        let late = catalogue.early_with_dependents(&users);
        for table in &changed {
            catalogue.load_with(table.oid, &table.load);
        }
        let relations = &detection.relations;
        let of_extensions = relations.iter().filter(|r| r.extension.is_some()).map(|r| r.oid).collect();
        catalogue.order_rows(&of_extensions, &refers);
        let mut plan = plan::plan(&detection, catalogue, reach, &tables, &changed, &refers)?;
        plan.late = late;
        Ok::<_, Error>((plan, detection, belongs))
    });
    let (mut plan, detection, belongs) = planned.await??;
    leader.detection = detection;
    plan.event_triggers = event_triggers;
    if plan.catalogue.is_empty() && plan.schemas.iter().all(|schema| schema.tables.is_empty()) {
        plan.beside = Some(catalogue::other_databases(client).await?);
    }
    let entries = &plan.catalogue.meta.entries;
    plan.dependents = dependents::dependents(client, &leader.detection, &belongs, entries).await?;
    Ok(plan)
}

/// Reads and stores everything but RESTORE.md and the manifest. The first error ends all of it.
async fn gather(run: &Run, leader: &Leader, plan: &Plan, script: Vec<u8>, few: bool) -> Result<Gathered> {
    let passwords = leader.detection.server.reads_passwords;
    let small = async {
        let object = run.target.put_text(layout::ROLES, Bytes::from(script)).await?;
        let head = compose::head(&plan.catalogue.meta, plan.catalogue.database())?;
        let database = run.target.put_text(layout::DATABASE, Bytes::from(head)).await?;
        Ok((Roles { object, passwords }, database))
    };
    let reading = async {
        if few {
            // Readers would take the connection that the large objects need.
            let large_objects = Box::pin(large_objects::store(run, leader, plan)).await?;
            Ok((Box::pin(read::rows(run, leader, plan)).await?, large_objects))
        } else {
            tokio::try_join!(Box::pin(read::rows(run, leader, plan)), Box::pin(large_objects::store(run, leader, plan)))
        }
    };
    let ((rows, large_objects), (roles, database)) = tokio::select! {
        gone = leader.session.closed() => {
            return Err(gone.context("the leader's connection, which holds the snapshot, was lost"));
        }
        result = async { tokio::try_join!(reading, Box::pin(small)) } => result?,
    };
    let read::Stored { schemas, damaged } = rows;
    Ok(Gathered { schemas, damaged, roles, database, large_objects })
}
