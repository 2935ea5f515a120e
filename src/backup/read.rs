//! Reading all rows: one pass of readers and drain over the schemas, and another over those whose objects
//! needed larger parts. What is started here is waited for here; the first error ends all of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::archive::compose::Framing;
use crate::archive::head;
use crate::backup::chunks;
use crate::backup::drain::{Drain, Stopped};
use crate::backup::plan::{Plan, PlannedSchema};
use crate::backup::run::Run;
use crate::backup::texts::Texts;
use crate::error::{Error, Result};
use crate::format::manifest::{Schema, Skipped};
use crate::pipeline::TaskQueue;
use crate::pipeline::budget::Budget;
use crate::pipeline::feed::Compressor;
use crate::postgres::source::damage;
use crate::postgres::source::leader::Leader;
use crate::postgres::source::rows::{LeaderReads, Readers, Stumble, Task};

/// Compressed and raw rows that readers may hold ahead of the drain. With parts in flight (32 MiB), compressors and the
/// rest this keeps 4 jobs under 256 MiB resident.
const AHEAD_BYTES: usize = 24 << 20;
/// Rows of the task being drained that need not wait for others.
const RESERVE_BYTES: usize = 8 << 20;

/// All rows, stored, and what of them cannot be read.
pub(crate) struct Stored {
    pub(crate) schemas: Vec<Schema>,
    pub(crate) damaged: Vec<Skipped>,
}

/// Reads all rows into both forms; starts again at a schema whose object came near the limit of parts, or with a table
/// whose rows cannot be read as planned.
pub(crate) async fn rows(run: &Run, leader: &Leader, plan: &Plan) -> Result<Stored> {
    let mut schemas = plan.schemas.clone();
    let mut done = BTreeMap::new();
    let mut readers = run.readers(leader);
    // Statements in another encoding say that rows are in it too.
    if let Some(letters) = head::letters(&plan.catalogue.meta.entries).filter(|own| own.encoding() != "SQL_ASCII") {
        let encoding = Some(letters.encoding().to_owned());
        schemas.iter_mut().flat_map(|schema| &mut schema.tables).for_each(|table| table.encoding.clone_from(&encoding));
        readers.encoding = encoding;
    }
    let mut damaged: Vec<(u32, Skipped)> = Vec::new();
    loop {
        match pass(run, leader, plan, &schemas, &mut done, &readers).await {
            Ok(()) => {
                let damaged = damaged.into_iter().map(|(_, skipped)| skipped).collect();
                return Ok(Stored { schemas: done.into_values().collect(), damaged });
            }
            Err(Stopped::Failed(error)) => {
                let left = schemas.iter_mut().enumerate().filter(|(at, _)| !done.contains_key(at));
                let mut left = left.flat_map(|(_, schema)| &mut schema.tables);
                match readers.stumbles.take() {
                    Some(Stumble::Untranslatable(origin)) if readers.encoding.is_none() => {
                        let (encoding, label) = (&leader.detection.server.encoding, &origin.label);
                        tracing::warn!(
                            "{label} holds values without an equivalent in UTF8 ({error}); from its schema on, rows are saved in {encoding}"
                        );
                        left.for_each(|table| table.encoding = Some(encoding.clone()));
                        readers.encoding = Some(encoding.clone());
                    }
                    Some(Stumble::Damaged(origin)) if run.options.partial.allowed => {
                        let known = damaged.iter().any(|(known, _)| *known == origin.oid);
                        let table = left.find(|table| table.oid == origin.oid).filter(|_| !known);
                        let Some(rows) = table.and_then(|table| table.rows.as_mut()) else { return Err(error) };
                        tracing::warn!("{error}; looking for what can be read of it (--allow-unreadable)");
                        let found = damage::look(&readers, &origin).await?;
                        rows.chunks = found.chunks(&origin);
                        damaged.push((origin.oid, found.skipped(&origin, &error)));
                    }
                    _ => return Err(error),
                }
            }
            Err(Stopped::PartsExhausted { schema, key, part_bytes, table }) => {
                tracing::warn!("{key} needs larger parts than planned; writing its schema again");
                let again = schemas.get_mut(schema).ok_or_else(|| Error::failed("a schema was not planned"))?;
                // The rows that did not fit are in the table's file and in the archive: both get larger parts at once.
                let expected = larger(part_bytes, run.options.form.max_parts);
                again.expected = again.expected.max(expected);
                for (number, planned) in again.tables.iter_mut().enumerate() {
                    if table == Some(number) || key.contains(&planned.sql) {
                        planned.expected = planned.expected.max(expected);
                    }
                }
            }
        }
    }
}

/// An expected size that is enough for parts at least four times as large, whatever size was planned from.
pub(crate) fn larger(part_bytes: u64, max_parts: u32) -> u64 {
    part_bytes.saturating_mul(u64::from(max_parts)).saturating_mul(4)
}

/// One pass over the schemas that are not done.
async fn pass(
    run: &Run,
    leader: &Leader,
    plan: &Plan,
    schemas: &[PlannedSchema],
    done: &mut BTreeMap<usize, Schema>,
    readers: &Readers,
) -> Result<(), Stopped> {
    let left = schemas.iter().enumerate().filter(|(at, _)| !done.contains_key(at));
    let tables = left.flat_map(|(_, schema)| &schema.tables);
    let with_rows = tables.filter_map(|t| Some((t.rows.as_ref()?.chunks.as_slice(), t.expected)));
    let tasks = chunks::tasks(with_rows);
    let sizes = tasks.iter().map(|task| task.chunks.len()).collect();
    let (head, watching) = watch::channel(0);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let budget = Budget::new(AHEAD_BYTES, RESERVE_BYTES, watching);
    let compressor = Compressor::new(run.target.compression, budget, cores + 1, Arc::clone(&run.counters.clock));
    let fallback = LeaderReads::new(Arc::clone(&leader.session), compressor.clone(), readers);
    let wanted = usize::from(run.options.limits.jobs).min(tasks.len());
    let (tasks, delivery) = TaskQueue::new(tasks, wanted, compressor);
    let (tasks, readers) = (Arc::new(tasks), Arc::new(readers.clone()));
    let texts = Texts::new(plan, readers.encoding.clone());
    let drain = Drain {
        target: run.target.clone(),
        framing: Framing::new(&plan.catalogue.meta),
        texts: &texts,
        fallback: &fallback,
        counters: Arc::clone(&run.counters),
        head,
    };
    let mut workers = start(&readers, &tasks, wanted).await?;
    let drained = drain.run(schemas, delivery, sizes, done);
    let result = race(&mut workers, drained).await;
    workers.shutdown().await;
    result
}

/// Starts the readers: as many as there are connections for, at least one, and says so when there are fewer.
async fn start(readers: &Arc<Readers>, tasks: &Arc<TaskQueue<Task>>, wanted: usize) -> Result<JoinSet<Result<()>>> {
    let mut workers = JoinSet::new();
    let sessions = futures::future::join_all((0..wanted).map(|_| readers.session())).await;
    let mut refused: Option<Error> = None;
    for session in sessions {
        match session {
            Ok(session) => {
                let (readers, tasks): (Arc<Readers>, Arc<TaskQueue<Task>>) = (Arc::clone(readers), Arc::clone(tasks));
                workers.spawn(async move { readers.work(session, &tasks).await });
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
