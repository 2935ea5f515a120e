//! `pgstow backup`: one full run. Owns the order of things and every task of the run: what is started here is waited
//! for here, and any error cancels the rest, aborts open uploads and leaves no manifest.

pub(crate) mod commit;
pub(crate) mod drain;
pub(crate) mod guest;
pub(crate) mod large_objects;
pub(crate) mod plan;
pub(crate) mod restore_md;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::archive::catalogue::Catalogue;
use crate::archive::compose;
use crate::archive::compose::Framing;
pub(crate) use crate::backup::commit::check_prefix;
use crate::backup::drain::{Counters, Drain, SchemaDone, Stopped, Target};
use crate::backup::guest::{Guest, Look};
use crate::backup::plan::Plan;
use crate::cli::args::Global;
use crate::cli::backup::Backup;
use crate::cli::progress::Progress;
use crate::cli::run::Outcome;
use crate::error::{Context as _, Error, Result};
use crate::format::layout;
use crate::format::manifest::{Manifest, Object, Roles, Status};
use crate::pipeline::Intake;
use crate::pipeline::budget::Budget;
use crate::pipeline::feed::Sealer;
use crate::pipeline::rate::Rate;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::programs::pg_dump;
use crate::postgres::programs::pg_dump::Failure;
use crate::postgres::programs::tools::PgTools;
use crate::postgres::source::detect::{Detection, Unreadable};
use crate::postgres::source::leader::{ATTEMPTS, Candidate, Leader};
use crate::postgres::source::rows::{LeaderReads, Readers, Task};
use crate::postgres::source::{absent, catalogue, dependents};
use crate::postgres::target::foreign_keys;
use crate::seal::compress::Compression;
use crate::seal::encrypt::Recipients;
use crate::shutdown::Shutdown;
use crate::sql::names::quote;
use crate::store::Store;

/// Sealed and raw rows that readers may hold ahead of the drain. With parts in flight (32 MiB), compressors and the
/// rest this keeps 4 jobs under 256 MiB resident.
const AHEAD_BYTES: usize = 24 << 20;
/// Rows of the task being drained that need not wait for others.
const RESERVE_BYTES: usize = 8 << 20;

/// Everything a run is made with.
pub(crate) struct Run {
    name: String,
    started: jiff::Timestamp,
    info: ConnInfo,
    tools: PgTools,
    target: Target,
    args: Backup,
    counters: Arc<Counters>,
    rate: Rate,
}

/// What a run brought together, from which the manifest is written.
pub(crate) struct Gathered {
    schemas: Vec<SchemaDone>,
    roles: Roles,
    database: Object,
    large_objects: large_objects::Done,
}

/// Makes one full run.
///
/// # Errors
/// What stopped it; nothing was promoted and open uploads were aborted.
pub(crate) async fn run(args: Backup, global: &Global, shutdown: &Shutdown) -> Result<Outcome> {
    let begun = Instant::now();
    let store = Store::open(&global.store).await?;
    let committing = Arc::new(AtomicBool::new(false));
    let result = {
        let mut work = Box::pin(backup(args, global, &store, begun, &committing));
        tokio::select! {
            biased;
            error = shutdown.requested() => if committing.load(Ordering::SeqCst) {
                // Stopped between manifest and pointer, nobody could tell whether the run counts.
                tracing::warn!("told to stop while the manifest is being stored: the run comes to its end first");
                work.await
            } else {
                Err(error)
            },
            result = &mut work => result,
        }
    };
    // Whatever was dropped above aborts its uploads; wait until that has happened.
    store.drain().await;
    let (manifest, latest) = result?;
    report(&manifest, latest, global.json, &store)?;
    Ok(if manifest.status == Status::Partial { Outcome::Partial } else { Outcome::Done })
}

/// Sets `committing` when everything but manifest and pointer is stored; from then on it must not be dropped.
async fn backup(
    args: Backup,
    global: &Global,
    store: &Store,
    begun: Instant,
    committing: &AtomicBool,
) -> Result<(Manifest, bool)> {
    let counters = Arc::new(Counters::default());
    let guest = Arc::new(Guest::new(begun, args.deadline, args.max_block, &counters));
    let (run, leader, plan, gathered) = tokio::select! {
        biased;
        error = guest.overstays() => return Err(error),
        all = Box::pin(store_rows(args, global, store, counters, &guest)) => all?,
    };
    // Nobody need wait for the manifest.
    leader.end_transaction().await;
    commit::finish(&run, &leader, &plan, gathered, committing).await
}

/// Everything but the end: when this returns, all but the manifest is stored.
async fn store_rows(
    args: Backup,
    global: &Global,
    store: &Store,
    counters: Arc<Counters>,
    guest: &Arc<Guest>,
) -> Result<(Run, Leader, Plan, Gathered)> {
    let started = jiff::Timestamp::now();
    let name = run_name(started);
    let compression: Compression = args.compression.parse()?;
    let recipients = Recipients::read(&args.seal.encrypt)?;
    let info = ConnInfo::resolve(args.source.database_url.as_deref())?;
    refuse_same_project(args.allow_same_project, &info, store)?;
    let candidate = Candidate::connect(&info, args.source.connect_timeout, &name).await?;
    store.check().await?;
    let server = &candidate.detection.server;
    let tools = PgTools::find(args.source.pg_bin_dir.as_deref(), server.version_num)?;
    commit::check_prefix(store, &server.identity, args.adopt_prefix).await?;
    preflight(&candidate.detection, args.allow_unreadable)?;
    let target = Target {
        store: store.clone(),
        prefix: layout::run_prefix(&name),
        compression,
        recipients,
        max_object_bytes: args.seal.max_object_size,
    };
    let rate = Rate::new(args.rate_limit);
    let look = Look { run: name.clone(), connect_timeout: args.source.connect_timeout, jobs: args.jobs };
    let run = Run { name, started, info, tools, target, args, counters, rate };
    tracing::info!(run = %run.name, database = %run.info.database(), store = %store.describe(), "backup started");
    let _watch = guest.watch(&run.info, &candidate.detection.server, look);
    let (mut leader, meta) = run.lead(candidate).await?;
    if !run.args.allow_unreadable {
        // What came up since the first look is as unreadable as what was there.
        preflight(&leader.detection, false)?;
    }
    let plan = run.plan(&mut leader, meta).await?;
    guest.expect(plan.drain.len(), plan.drain.iter().map(|schema| schema.tables.len()).sum());
    let gathered = run.gather(&leader, &plan, global).await?;
    Ok((run, leader, plan, gathered))
}

/// `20261122T150405Z-1a2b3c`: sorts by start, and two runs of one second differ.
fn run_name(started: jiff::Timestamp) -> String {
    format!("{}-{:06x}", started.strftime("%Y%m%dT%H%M%SZ"), rand::random::<u32>() & 0x00FF_FFFF)
}

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

/// Stops before the first byte when something cannot be read, with the statements that cure it.
fn preflight(detection: &Detection, allow: bool) -> Result<()> {
    let server = &detection.server;
    let relations =
        i64::try_from(detection.relations.iter().filter(|r| matches!(r.relkind, 'r' | 'p')).count()).unwrap_or(0);
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
    let told = detection.unreadable.iter().take(20).map(|u| format!("{} {}: {}", u.kind, named(u), u.reason));
    let told: Vec<String> = told.collect();
    let more = detection.unreadable.len().saturating_sub(told.len());
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let what = format!("role {} cannot read everything: {}{more}", server.role, told.join("; "));
    if allow {
        tracing::warn!("{what}; left out (--allow-unreadable)");
        return Ok(());
    }
    let mut error = Error::failed(what);
    let mut cures: Vec<&str> = detection.unreadable.iter().map(|u| u.cure.as_str()).filter(|c| !c.is_empty()).collect();
    cures.dedup();
    for cure in cures.into_iter().take(20) {
        error = error.hint(cure);
    }
    Err(error.hint("or make a partial run without it: --allow-unreadable"))
}

fn named(unreadable: &Unreadable) -> String {
    if unreadable.schema.is_empty() {
        unreadable.name.clone()
    } else {
        format!("{}.{}", unreadable.schema, unreadable.name)
    }
}

/// What pg_dump must leave out, as arguments. A sequence keeps its DDL: leaving it out must not cost its table.
fn leave_out(detection: &Detection) -> Vec<String> {
    let arguments = detection.unreadable.iter().filter_map(|u| {
        let name = format!("{}.{}", quote(&u.schema), quote(&u.name));
        match u.kind.as_str() {
            "schema" => Some(format!("--exclude-schema={}", quote(&u.name))),
            "sequence" => Some(format!("--exclude-table-data={name}")),
            "table" => Some(format!("--exclude-table={name}")),
            _ => None,
        }
    });
    arguments.collect()
}

impl Run {
    /// Locks, snapshot and catalogue; starts over when pg_dump cannot get its locks.
    async fn lead(&self, candidate: Candidate) -> Result<(Leader, libpgdump::format::ArchiveMetadata)> {
        let mut next = Some(candidate);
        let mut refused = String::new();
        for attempt in 1..=ATTEMPTS {
            let candidate = match next.take() {
                Some(candidate) => candidate,
                None => Candidate::connect(&self.info, self.args.source.connect_timeout, &self.name).await?,
            };
            candidate.lock_store(&self.target.store.identity()).await?;
            let leader = candidate.lead(self.args.lock_timeout).await?;
            let asked = Instant::now();
            let request = pg_dump::Request {
                snapshot: &leader.snapshot,
                lock_timeout: self.args.lock_timeout,
                encoding: if leader.detection.server.encoding == "SQL_ASCII" { "SQL_ASCII" } else { "UTF8" },
                run: &self.name,
                leave_out: leave_out(&leader.detection),
            };
            match pg_dump::table_of_contents(&self.tools, &self.info, &request).await {
                Ok((meta, warnings)) => {
                    for warning in warnings {
                        tracing::warn!("pg_dump: {warning}");
                    }
                    let (entries, seconds) = (meta.entries.len(), asked.elapsed().as_secs_f64());
                    tracing::info!(
                        "catalogue read: {entries} entries in {seconds:.2} s by pg_dump {}",
                        self.tools.version
                    );
                    return Ok((leader, meta));
                }
                Err(Failure::Failed(error)) => return Err(error),
                Err(Failure::Lock(words)) => {
                    tracing::info!(
                        "pg_dump could not get its locks ({words}); letting go and starting over (attempt {attempt} of {ATTEMPTS})"
                    );
                    refused =
                        crate::postgres::source::leader::holders(&leader.session.client, &leader.detection).await?;
                    leader.release().await;
                }
            }
        }
        Err(Error::failed(format!("pg_dump could not get its locks in {ATTEMPTS} attempts: {refused}"))
            .hint("end the waiting statement, or run the backup when no migration is running"))
    }

    /// Puts the catalogue together with what pg_dump left out, and plans the run.
    async fn plan(&self, leader: &mut Leader, mut meta: libpgdump::format::ArchiveMetadata) -> Result<Plan> {
        let version = leader.detection.server.version_num;
        leader.detection.omitted.extend(plan::without_run_as_owner(&mut meta.entries, version));
        let session = Arc::clone(&leader.session);
        let client = &session.client;
        let belongs = catalogue::belongs(client).await?;
        plan::adopt_sequences(&mut leader.detection, &belongs);
        let reach = catalogue::reach(client).await?;
        let (tables, sequences) = plan::absent(&leader.detection, &meta.entries);
        let tables = if tables.is_empty() { Vec::new() } else { absent::tables(client, &tables).await? };
        let sequences = absent::sequences(client, &sequences).await?;
        let mut catalogue = Catalogue::new(meta, &belongs);
        plan::add_absent(&mut catalogue, &leader.detection, &tables, &sequences)?;
        let refers = foreign_keys::of_extensions(client).await?;
        let relations = &leader.detection.relations;
        let of_extensions = relations.iter().filter(|r| r.extension.is_some()).map(|r| r.oid).collect();
        catalogue.order_rows(&of_extensions, &refers);
        let mut plan = plan::plan(&leader.detection, catalogue, reach, &tables, &refers)?;
        plan.event_triggers = catalogue::event_triggers_of_extensions(client).await?;
        let entries = &plan.catalogue.meta.entries;
        plan.dependents = dependents::dependents(client, &leader.detection, &belongs, entries).await?;
        Ok(plan)
    }

    /// Reads and stores everything but the manifest. The first error ends all of it.
    async fn gather(&self, leader: &Leader, plan: &Plan, global: &Global) -> Result<Gathered> {
        let progress = Progress::start(
            global,
            &self.counters,
            leader.detection.relations.iter().map(|r| r.bytes).sum(),
            plan.drain.len(),
        );
        let small = async {
            let (script, passwords) =
                pg_dump::roles(&self.tools, &self.info, leader.detection.server.reads_passwords).await?;
            let object = self.target.put_text(layout::ROLES, Bytes::from(script)).await?;
            let head = compose::head(&plan.catalogue.meta, plan.catalogue.database())?;
            let database = self.target.put_text(layout::DATABASE, Bytes::from(head)).await?;
            Ok((Roles { object, passwords }, database))
        };
        let result = tokio::select! {
            gone = leader.session.closed() => Err(gone.context("the leader's connection, which holds the snapshot, was lost")),
            result = async {
                tokio::try_join!(
                    Box::pin(self.rows(leader, plan, global.store.s3_max_parts)),
                    Box::pin(large_objects::store(self, leader, plan)),
                    Box::pin(small),
                )
            } => result,
        };
        progress.end();
        let (schemas, large_objects, (roles, database)) = result?;
        Ok(Gathered { schemas, roles, database, large_objects })
    }

    /// What the readers of this run share.
    fn readers(&self, leader: &Leader) -> Readers {
        Readers {
            info: self.info.clone(),
            connect_timeout: self.args.source.connect_timeout,
            snapshot: leader.snapshot.clone(),
            lock_timeout: self.args.lock_timeout,
            stall_timeout: self.args.stall_timeout,
            rate: self.rate.clone(),
            run: self.name.clone(),
        }
    }

    /// Reads all rows into both forms; starts again at a schema whose object came near the limit of parts.
    async fn rows(&self, leader: &Leader, plan: &Plan, max_parts: u32) -> Result<Vec<SchemaDone>> {
        let mut schemas = plan.drain.clone();
        let mut done = Vec::with_capacity(schemas.len());
        loop {
            let first = done.len();
            match self.pass(leader, plan, &schemas, first, &mut done).await {
                Ok(()) => return Ok(done),
                Err(Stopped::Failed(error)) => return Err(error),
                Err(Stopped::PartsExhausted { schema, key, part_bytes }) => {
                    tracing::warn!("{key} needs larger parts than planned; writing its schema again");
                    // Enough for parts at least four times as large, whatever size was planned from.
                    let expected = part_bytes.saturating_mul(u64::from(max_parts)).saturating_mul(4);
                    if let Some(again) = schemas.get_mut(schema) {
                        for table in again.tables.iter_mut().filter(|table| key.contains(&table.sql)) {
                            table.expected = expected;
                        }
                        if key.contains(&again.dump) {
                            again.expected = expected;
                        }
                    }
                }
            }
        }
    }

    /// One pass over the schemas from number `first` on.
    async fn pass(
        &self,
        leader: &Leader,
        plan: &Plan,
        schemas: &[crate::backup::drain::SchemaPlan],
        first: usize,
        done: &mut Vec<SchemaDone>,
    ) -> Result<(), Stopped> {
        let (tasks, counts) = plan.tasks(first, &leader.detection);
        let (head, watching) = watch::channel(0);
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let sealer = Sealer::new(self.target.compression, Budget::new(AHEAD_BYTES, RESERVE_BYTES, watching), cores + 1);
        let fallback =
            LeaderReads::new(Arc::clone(&leader.session), sealer.clone(), Arc::clone(&plan.chunks), self.rate.clone());
        let wanted = usize::from(self.args.jobs).min(tasks.len());
        let (intake, delivery) = Intake::new(tasks, wanted, sealer);
        let (intake, readers) = (Arc::new(intake), Arc::new(self.readers(leader)));
        let texts = plan.texts();
        let drain = Drain {
            target: self.target.clone(),
            framing: Framing::new(&plan.catalogue.meta),
            texts: &texts,
            fallback: &fallback,
            counters: Arc::clone(&self.counters),
            head,
        };
        let mut workers = start(&readers, &intake, wanted).await?;
        let drained = drain.run(schemas, first, delivery, counts, done);
        let result = race(&mut workers, drained).await;
        workers.shutdown().await;
        result
    }
}

/// Starts the readers: as many as there are connections for, at least one, and says so when there are fewer.
async fn start(readers: &Arc<Readers>, intake: &Arc<Intake<Task>>, wanted: usize) -> Result<JoinSet<Result<()>>> {
    let mut workers = JoinSet::new();
    let sessions = futures::future::join_all((0..wanted).map(|_| readers.session())).await;
    let mut refused: Option<Error> = None;
    for session in sessions {
        match session {
            Ok(session) => {
                let (readers, intake): (Arc<Readers>, Arc<Intake<Task>>) = (Arc::clone(readers), Arc::clone(intake));
                workers.spawn(async move { readers.work(session, &intake).await });
            }
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) if workers.is_empty() => Err(error.context("connect for reading")),
        Some(error) => {
            tracing::warn!("reading with {} of {wanted} sessions: {error}", workers.len());
            Ok(workers)
        }
        None => Ok(workers),
    }
}

/// Waits for the drain and all readers; a reader's error is the cause when both fail.
async fn race(
    workers: &mut JoinSet<Result<()>>,
    drained: impl Future<Output = Result<(), Stopped>>,
) -> Result<(), Stopped> {
    let mut drained = std::pin::pin!(drained);
    let mut result = None;
    loop {
        tokio::select! {
            biased;
            Some(ended) = workers.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(Stopped::Failed(error)),
                Err(error) => return Err(Stopped::Failed(Error::failed(format!("a reader broke: {error}")))),
            },
            outcome = &mut drained, if result.is_none() => {
                if let Err(stopped) = outcome {
                    // The readers may know better why, if one of them is just about to say so.
                    if let Stopped::Failed(_) = &stopped
                        && let Ok(Some(Ok(Err(cause)))) = tokio::time::timeout(Duration::from_millis(50), workers.join_next()).await
                    {
                        return Err(Stopped::Failed(cause));
                    }
                    return Err(stopped);
                }
                result = Some(());
            }
            else => return Ok(()),
        }
        if result.is_some() && workers.is_empty() {
            return Ok(());
        }
    }
}

/// The final summary on stdout.
fn report(manifest: &Manifest, latest: bool, json: bool, store: &Store) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = if json {
        let document =
            serde_json::to_string_pretty(manifest).map_err(std::io::Error::from).context("print the manifest")?;
        writeln!(out, "{document}")
    } else {
        out.write_all(commit::summary(manifest, latest, &store.describe()).as_bytes())
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::from(error).context("print")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_names_have_the_form_of_the_layout() {
        let name = run_name(jiff::Timestamp::UNIX_EPOCH);
        assert!(layout::is_run(&name), "{name}");
    }
}
