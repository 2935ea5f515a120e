//! The drain: takes compressed frames in the one global order and writes each into both its schema's archive and its
//! table's SQL file. Owns the object layout inside a schema; of where rows come from it knows the queue they come
//! through, and the leader's session, which reads what a reader was refused.
//!
//! Memory: the frames at hand; writers hold what the store's own budget allows. Several finished SQL files may be on
//! their way into the store at once. When the drain is dropped or fails, every writer aborts its upload.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::archive::compose::Framing;
use crate::backup::counters::Counters;
use crate::backup::plan::{PlannedSchema, PlannedTable};
use crate::backup::texts::{TableText, Texts};
use crate::error::{Context as _, Error, Result};
use crate::format::manifest::{FORMAT, Index, Schema, Table};
use crate::objects::index::Pieces;
use crate::objects::write::{Output, Target};
use crate::pipeline::feed::{Delivery, Item};
use crate::postgres::source::rows::{Chunk, LeaderReads};
use crate::seal::digest::Fingerprint;
use crate::sql::names::TableName;
use crate::store::WriteError;

/// SQL files on their way into the store at once: small PUTs are all latency.
const FINISHING: usize = 24;
/// Tables above this many stored bytes get an index (a promise of the format).
const INDEX_FROM: u64 = 64 << 20;

/// The reason why the drain stopped.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// An object of the schema with this number came near the limit of parts: plan larger parts and start again there.
    PartsExhausted {
        /// Number of the schema.
        schema: usize,
        /// Key of the object.
        key: String,
        /// Size of its parts.
        part_bytes: u64,
    },
    /// Anything else.
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Everything the drain needs.
pub(crate) struct Drain<'a> {
    /// Where objects go.
    pub(crate) target: Target,
    /// Integers of the archives.
    pub(crate) framing: Framing,
    /// Texts of heads and tables.
    pub(crate) texts: &'a Texts,
    /// Reads the chunks whose lock a reader was refused.
    pub(crate) fallback: &'a LeaderReads,
    pub(crate) counters: Arc<Counters>,
    /// Tells the budget which task is being drained.
    pub(crate) head: watch::Sender<u64>,
}

type Finishing = JoinSet<Result<(usize, Table), WriteError>>;

impl Drain<'_> {
    /// Drains the schemas from number `first` on, whose chunks come in `delivery` as tasks of these sizes.
    pub(crate) async fn run(
        &self,
        schemas: &[PlannedSchema],
        first: usize,
        delivery: Delivery,
        tasks: VecDeque<usize>,
        done: &mut Vec<Schema>,
    ) -> Result<(), Stopped> {
        let mut chunks = Chunks { delivery, tasks, task: 0, left: 0, current: None };
        for (at, plan) in schemas.iter().enumerate().skip(first) {
            let finished = self.schema(plan, &mut chunks).await.map_err(|error| match error {
                WriteError::PartsExhausted { key, part_bytes } => {
                    Stopped::PartsExhausted { schema: at, key, part_bytes }
                }
                WriteError::Failed(error) => Stopped::Failed(error),
            })?;
            done.push(finished);
            self.counters.schemas.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn schema(&self, plan: &PlannedSchema, chunks: &mut Chunks) -> Result<Schema, WriteError> {
        let mut dump = self.target.open(&plan.dump, plan.expected)?;
        dump.text(self.texts.head(plan)?).await?;
        let mut between = Vec::new();
        let mut finishing = Finishing::new();
        let mut tables: Vec<Option<Table>> = vec![None; plan.tables.len()];
        for (at, table) in plan.tables.iter().enumerate() {
            let TableText { sql, copy } = self.texts.table(table);
            let mut open = OpenTable::begin(&self.target, table, sql.before).await?;
            if let Some(rows) = &table.rows {
                self.framing.begin_data(&mut between, rows.dump_id);
                for chunk in &rows.chunks {
                    self.chunk(chunks, chunk, &mut dump, &mut between, &mut open).await?;
                }
                self.framing.end_rows(&mut between)?;
            }
            self.counters.tables.fetch_add(1, Ordering::Relaxed);
            self.counters.disk.fetch_add(table.expected, Ordering::Relaxed);
            while finishing.len() >= FINISHING {
                collect(&mut finishing, &mut tables).await?;
            }
            let (target, table) = (self.target.clone(), table.clone());
            finishing.spawn(async move { Ok((at, open.finish(&target, table, sql.after, copy).await?)) });
        }
        dump.text(between).await?;
        while !finishing.is_empty() {
            collect(&mut finishing, &mut tables).await?;
        }
        let tables: Option<Vec<Table>> = tables.into_iter().collect();
        Ok(Schema {
            name: plan.name.clone(),
            owner: plan.owner.clone(),
            dump: dump.finish().await?,
            tables: tables.ok_or_else(|| Error::failed("a table was not finished"))?,
            needs: self.texts.needs(plan),
        })
    }

    /// Drains one chunk into both forms.
    async fn chunk(
        &self,
        chunks: &mut Chunks,
        chunk: &Arc<Chunk>,
        dump: &mut Output,
        between: &mut Vec<u8>,
        table: &mut OpenTable,
    ) -> Result<(), WriteError> {
        let mut fallback = None;
        loop {
            let item = match &mut fallback {
                None => chunks.item(&self.head).await?,
                Some(receiver) => next_of(receiver).await?,
            };
            let frame = match item {
                Item::End => {
                    if fallback.is_none() {
                        chunks.end();
                    }
                    return Ok(());
                }
                Item::Refused(sent) => {
                    chunks.end();
                    fallback = Some(self.fallback.read(Arc::clone(chunk), sent));
                    continue;
                }
                Item::Frame(frame) => frame.await.map_err(|gone| Error::failed(format!("compress rows: {gone}")))??,
            };
            let bytes = frame.fingerprint.bytes;
            let raw = usize::try_from(bytes).map_err(|error| Error::failed(format!("a frame: {error}")))?;
            self.framing.chunk(between, raw)?;
            dump.text(std::mem::take(between)).await?;
            dump.frame(frame.bytes.clone(), bytes).await?;
            table.frame(frame.bytes.clone(), &frame.fingerprint).await?;
            self.counters.rows.fetch_add(frame.fingerprint.rows, Ordering::Relaxed);
            self.counters.raw.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

/// Waits for one table that is being finished.
async fn collect(finishing: &mut Finishing, tables: &mut [Option<Table>]) -> Result<(), WriteError> {
    let Some(joined) = finishing.join_next().await else { return Ok(()) };
    let (at, table) = joined.map_err(|error| Error::failed(format!("finish a table: {error}")))??;
    let slot = tables.get_mut(at).ok_or_else(|| Error::failed(format!("table {} was not planned", table.name)))?;
    *slot = Some(table);
    Ok(())
}

async fn next_of(receiver: &mut mpsc::Receiver<Item>) -> Result<Item> {
    receiver.recv().await.ok_or_else(|| Error::failed("a reader ended early"))
}

/// The delivery, seen as chunks.
struct Chunks {
    delivery: Delivery,
    tasks: VecDeque<usize>,
    task: u64,
    left: usize,
    current: Option<mpsc::Receiver<Item>>,
}

impl Chunks {
    async fn item(&mut self, head: &watch::Sender<u64>) -> Result<Item> {
        while self.left == 0 {
            self.left =
                self.tasks.pop_front().ok_or_else(|| Error::failed("more chunks are drained than were planned"))?;
            head.send_replace(self.task);
            self.task += 1;
            let receiver = self.delivery.recv().await.ok_or_else(|| Error::failed("the readers ended early"))?;
            self.current = Some(receiver);
        }
        match &mut self.current {
            Some(receiver) => next_of(receiver).await,
            None => Err(Error::failed("no task is being drained")),
        }
    }

    const fn end(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

/// A table whose SQL file is being written.
struct OpenTable {
    sql: Output,
    fingerprint: Fingerprint,
    /// Only for tables that may become large: hashing every byte a third time is not free.
    pieces: Option<Pieces>,
}

impl OpenTable {
    async fn begin(target: &Target, plan: &PlannedTable, before: String) -> Result<Self, WriteError> {
        let mut sql = target.open(&plan.sql, plan.expected)?;
        sql.text(before.into_bytes()).await?;
        let is_large = plan.rows.as_ref().is_some_and(|rows| rows.chunks.len() > 1);
        let pieces = is_large.then(|| Pieces::starting_at(sql.framed()));
        Ok(Self { sql, fingerprint: Fingerprint::default(), pieces })
    }

    async fn frame(&mut self, frame: Bytes, fingerprint: &Fingerprint) -> Result<(), WriteError> {
        self.fingerprint.append(fingerprint);
        if let Some(pieces) = &mut self.pieces {
            pieces.add(&frame, fingerprint.rows);
        }
        self.sql.frame(frame, fingerprint.bytes).await
    }

    async fn finish(
        mut self,
        target: &Target,
        plan: PlannedTable,
        after: String,
        copy: Option<String>,
    ) -> Result<Table, WriteError> {
        let pieces = self.pieces.take().map(Pieces::finish).unwrap_or_default();
        self.sql.text(after.into_bytes()).await?;
        let file = self.sql.finish().await?;
        let index = if pieces.iter().map(|p| p.bytes).sum::<u64>() > INDEX_FROM {
            let copy = copy.ok_or_else(|| Error::failed(format!("{}: its COPY statement is missing", plan.name)))?;
            let TableName { schema, table } = plan.name.clone();
            let index = Index { format: FORMAT.to_owned(), schema, table, copy, pieces };
            let json = serde_json::to_vec_pretty(&index).map_err(std::io::Error::from).context("write an index")?;
            Some(target.put_uncompressed(&plan.index, Bytes::from(json)).await?)
        } else {
            None
        };
        Ok(Table {
            name: plan.name.table,
            kind: plan.kind,
            rows: self.fingerprint.rows,
            digest: self.fingerprint.digest(),
            order: Some(self.fingerprint.order()),
            raw_bytes: self.fingerprint.bytes,
            file,
            index,
            extension: plan.extension,
            filter: plan.filter,
        })
    }
}
