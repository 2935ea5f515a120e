//! The drain: takes sealed frames in the one global order and writes each into both its schema's archive and its
//! table's SQL file. Owns the object layout inside a schema; knows nothing of where rows come from.
//!
//! Memory: the frames at hand; writers hold what the store's own budget allows. Several finished SQL files may be on
//! their way into the store at once. When the drain is dropped or fails, every writer aborts its upload.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::archive::compose::Framing;
use crate::archive::table_sql::TableSql;
use crate::error::{Context as _, Error, Result};
use crate::format::manifest::{FORMAT, Index, Object, Piece};
pub(crate) use crate::objects::write::{Output, Target};
use crate::pipeline::feed::{Delivery, Item};
use crate::seal::digest::Fingerprint;
use crate::seal::hash::hex;
use crate::store::WriteError;

/// SQL files on their way into the store at once: small PUTs are all latency.
const FINISHING: usize = 24;
/// A piece of a large table's index ends at the first frame end at or after this many stored bytes (contract: about 16 MiB).
const PIECE_BYTES: u64 = 16 << 20;
/// Tables above this many stored bytes get an index (contract).
const INDEX_FROM: u64 = 64 << 20;

/// One table as the drain needs it.
#[derive(Debug, Clone)]
pub(crate) struct TablePlan {
    /// Dump id of its rows in the archive; `None` for a table without rows of its own.
    pub(crate) dump_id: Option<i32>,
    /// Chunks its rows come in; at least 1 where it has a dump id.
    pub(crate) chunks: usize,
    /// Schema and name, for messages and the index.
    pub(crate) name: (String, String),
    /// Key stem of its SQL file, relative to the run.
    pub(crate) sql: String,
    /// Key stem of its index, relative to the run.
    pub(crate) index: String,
    /// Size on disk, the base of the part size planned.
    pub(crate) expected: u64,
}

/// One schema as the drain needs it.
#[derive(Debug, Clone)]
pub(crate) struct SchemaPlan {
    /// Key stem of its archive, relative to the run.
    pub(crate) dump: String,
    /// Its tables: those with rows in the order of the archive's table of contents.
    pub(crate) tables: Vec<TablePlan>,
    /// Size on disk, the base of the part size planned.
    pub(crate) expected: u64,
}

/// Text of the objects, made when it is needed: a catalogue's worth of text never is in memory at once.
pub(crate) trait Texts: Send + Sync {
    /// Head of the archive of the schema with this number.
    fn head(&self, schema: usize) -> Result<Vec<u8>>;
    /// Text around the rows of a table; and its `COPY` statement.
    fn table(&self, schema: usize, table: usize) -> (TableSql, String);
}

/// Reads a chunk whose lock a worker was refused.
pub(crate) trait Fallback: Send + Sync {
    /// Starts reading the chunk with this number in the global order, behind the segments with the hashes `sent`.
    fn read(&self, chunk: usize, sent: Vec<u128>) -> mpsc::Receiver<Item>;
}

/// Counters for people, shared with the progress display.
#[derive(Debug, Default)]
pub struct Counters {
    /// Rows drained.
    pub(crate) rows: AtomicU64,
    /// Bytes of COPY text drained.
    pub(crate) raw: AtomicU64,
    /// Estimated bytes on disk of the tables drained.
    pub(crate) disk: AtomicU64,
    /// Tables drained.
    pub(crate) tables: AtomicU64,
    /// Schemas drained.
    pub(crate) schemas: AtomicU64,
    /// Stored bytes of the finished objects.
    pub(crate) stored: AtomicU64,
}

/// What became of one table.
#[derive(Debug, Clone)]
pub(crate) struct TableDone {
    /// Rows, bytes and sums.
    pub(crate) print: Fingerprint,
    /// Its SQL file.
    pub(crate) file: Object,
    /// Its index, for a large table.
    pub(crate) index: Option<Object>,
}

/// What became of one schema; tables in the order of its plan.
#[derive(Debug, Clone)]
pub(crate) struct SchemaDone {
    /// Its archive.
    pub(crate) dump: Object,
    /// Its tables.
    pub(crate) tables: Vec<TableDone>,
}

/// Why the drain stopped.
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
    pub(crate) texts: &'a dyn Texts,
    /// Reads refused chunks.
    pub(crate) fallback: &'a dyn Fallback,
    /// Counters for people.
    pub(crate) counters: Arc<Counters>,
    /// Tells the budget which task is being drained.
    pub(crate) head: watch::Sender<u64>,
}

type Finishing = JoinSet<Result<(usize, TableDone), WriteError>>;

impl Drain<'_> {
    /// Drains the schemas from number `first` on, whose chunks come in `delivery` as tasks of these sizes.
    pub(crate) async fn run(
        &self,
        schemas: &[SchemaPlan],
        first: usize,
        delivery: Delivery,
        tasks: VecDeque<usize>,
        done: &mut Vec<SchemaDone>,
    ) -> Result<(), Stopped> {
        let mut chunks = Chunks { delivery, tasks, task: 0, left: 0, current: None };
        // Chunk numbers are global: those of the schemas before `first` are already done.
        let before: usize = schemas.iter().take(first).flat_map(|s| &s.tables).map(|t| t.chunks).sum();
        let mut number = before;
        for (at, plan) in schemas.iter().enumerate().skip(first) {
            let finished = self.schema(at, plan, &mut chunks, &mut number).await.map_err(|error| match error {
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

    async fn schema(
        &self,
        at: usize,
        plan: &SchemaPlan,
        chunks: &mut Chunks,
        number: &mut usize,
    ) -> Result<SchemaDone, WriteError> {
        let mut dump = self.target.open(&plan.dump, plan.expected)?;
        dump.text(self.texts.head(at)?).await?;
        let mut between = Vec::new();
        let mut finishing = Finishing::new();
        let mut tables: Vec<Option<TableDone>> = vec![None; plan.tables.len()];
        for (table_at, table) in plan.tables.iter().enumerate() {
            let (sql, copy) = self.texts.table(at, table_at);
            let mut open = OpenTable::begin(&self.target, table, sql.before).await?;
            if let Some(dump_id) = table.dump_id {
                self.framing.begin_data(&mut between, dump_id);
                for _chunk in 0..table.chunks {
                    self.chunk(chunks, *number, &mut dump, &mut between, &mut open).await?;
                    *number += 1;
                }
                self.framing.end_rows(&mut between)?;
            }
            self.counters.tables.fetch_add(1, Ordering::Relaxed);
            self.counters.disk.fetch_add(table.expected, Ordering::Relaxed);
            let (target, name, index) = (self.target.clone(), table.name.clone(), table.index.clone());
            while finishing.len() >= FINISHING {
                self.collect(&mut finishing, &mut tables).await?;
            }
            finishing.spawn(async move { Ok((table_at, open.finish(&target, sql.after, name, index, copy).await?)) });
        }
        dump.text(between).await?;
        while !finishing.is_empty() {
            self.collect(&mut finishing, &mut tables).await?;
        }
        let dump = dump.finish().await?;
        self.counters.stored.fetch_add(dump.bytes, Ordering::Relaxed);
        let tables: Option<Vec<TableDone>> = tables.into_iter().collect();
        Ok(SchemaDone { dump, tables: tables.ok_or_else(|| Error::failed("a table was not finished"))? })
    }

    async fn collect(&self, finishing: &mut Finishing, tables: &mut [Option<TableDone>]) -> Result<(), WriteError> {
        if let Some(joined) = finishing.join_next().await {
            let (at, table) = joined.map_err(|error| Error::failed(format!("finish a table: {error}")))??;
            self.counters.stored.fetch_add(table.file.bytes, Ordering::Relaxed);
            if let Some(slot) = tables.get_mut(at) {
                *slot = Some(table);
            }
        }
        Ok(())
    }

    /// Drains one chunk into both forms.
    async fn chunk(
        &self,
        chunks: &mut Chunks,
        number: usize,
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
                    fallback = Some(self.fallback.read(number, sent));
                    continue;
                }
                Item::Frame(sealed) => sealed.await.map_err(|gone| Error::failed(format!("seal rows: {gone}")))??,
            };
            let raw = usize::try_from(frame.print.bytes).map_err(|error| Error::failed(format!("a frame: {error}")))?;
            self.framing.chunk(between, raw)?;
            dump.text(std::mem::take(between)).await?;
            dump.frame(frame.bytes.clone(), frame.print.bytes).await?;
            table.frame(frame.bytes.clone(), &frame.print).await?;
            self.counters.rows.fetch_add(frame.print.rows, Ordering::Relaxed);
            self.counters.raw.fetch_add(frame.print.bytes, Ordering::Relaxed);
        }
    }
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
    print: Fingerprint,
    /// Only for tables that may become large: hashing every byte a third time is not free.
    pieces: Option<Pieces>,
}

#[derive(Default)]
struct Pieces {
    done: Vec<Piece>,
    sha256: Sha256,
    offset: u64,
    bytes: u64,
    rows: u64,
}

impl OpenTable {
    async fn begin(target: &Target, plan: &TablePlan, before: String) -> Result<Self, WriteError> {
        let mut sql = target.open(&plan.sql, plan.expected)?;
        sql.text(before.into_bytes()).await?;
        let pieces = (plan.chunks > 1).then(|| Pieces { offset: sql.framed(), ..Pieces::default() });
        Ok(Self { sql, print: Fingerprint::default(), pieces })
    }

    async fn frame(&mut self, frame: Bytes, print: &Fingerprint) -> Result<(), WriteError> {
        self.print.append(print);
        if let Some(pieces) = &mut self.pieces {
            pieces.add(&frame, print.rows);
        }
        self.sql.frame(frame, print.bytes).await
    }

    async fn finish(
        mut self,
        target: &Target,
        after: String,
        (schema, table): (String, String),
        index_key: String,
        copy: String,
    ) -> Result<TableDone, WriteError> {
        let pieces = self.pieces.take().map(Pieces::finish).unwrap_or_default();
        self.sql.text(after.into_bytes()).await?;
        let file = self.sql.finish().await?;
        let index = if pieces.iter().map(|p| p.bytes).sum::<u64>() > INDEX_FROM {
            let index = Index { format: FORMAT.to_owned(), schema, table, copy, pieces };
            let json = serde_json::to_vec_pretty(&index).map_err(std::io::Error::from).context("write an index")?;
            Some(target.put_uncompressed(&index_key, Bytes::from(json)).await?)
        } else {
            None
        };
        Ok(TableDone { print: self.print, file, index })
    }
}

impl Pieces {
    fn add(&mut self, frame: &[u8], rows: u64) {
        self.sha256.update(frame);
        self.bytes += frame.len() as u64;
        self.rows += rows;
        if self.bytes >= PIECE_BYTES {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let sha256 = hex(&std::mem::take(&mut self.sha256).finalize());
        self.done.push(Piece { offset: self.offset, bytes: self.bytes, rows: self.rows, sha256 });
        self.offset += self.bytes;
        (self.bytes, self.rows) = (0, 0);
    }

    fn finish(mut self) -> Vec<Piece> {
        if self.bytes > 0 {
            self.cut();
        }
        self.done
    }
}
