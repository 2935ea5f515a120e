//! The drain: takes compressed frames in the one global order and writes each into both its schema's archive and its
//! table's SQL file. Owns the object layout inside a schema; of where rows come from it knows the queue they come
//! through, and the leader's session, which reads what a reader was refused.
//!
//! Memory: the frames at hand; writers hold what the store's own budget allows. Finished objects are on their way into
//! the store while the next tables and schemas are drained: at a distance small objects are all latency. What they hold
//! is bounded by [`FINISHING`] and [`FINISHING_BYTES`]. When the drain is dropped or fails, every writer aborts its
//! upload.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use crate::archive::compose::Framing;
use crate::backup::counters::Counters;
use crate::backup::plan::{PlannedSchema, PlannedTable};
use crate::backup::texts::{TableText, Texts};
use crate::error::{Context as _, Error, Result};
use crate::format::manifest::{FORMAT, Index, IndexColumn, Schema, Table};
use crate::objects::index::Pieces;
use crate::objects::write::{Output, Target};
use crate::pipeline::feed::{Delivery, Frame, Item};
use crate::postgres::source::rows::{Chunk, LeaderReads};
use crate::seal::digest::Fingerprint;
use crate::sql::names::TableName;
use crate::store::WriteError;

/// Finished objects on their way into the store at once; the store decides how many requests that are.
const FINISHING: usize = 96;
/// Bytes that they hold in memory together.
const FINISHING_BYTES: usize = 16 << 20;
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
        /// Number of the table whose rows were being written, where there was one.
        table: Option<usize>,
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
    /// The destination of objects.
    pub(crate) target: Target,
    /// Integers of the archives.
    pub(crate) framing: Framing,
    /// Texts of heads and tables.
    pub(crate) texts: &'a Texts,
    /// Reads the chunks whose lock a reader was refused.
    pub(crate) fallback: &'a LeaderReads,
    pub(crate) counters: Arc<Counters>,
    /// Reports to the budget which task is being drained.
    pub(crate) head: watch::Sender<u64>,
}

type Finishing = JoinSet<Result<(usize, Table), WriteError>>;
type Closing = JoinSet<(usize, Result<Schema, WriteError>)>;

impl Drain<'_> {
    /// Drains the schemas that are not in `done`, whose chunks come in `delivery` as tasks of these sizes. What is done
    /// when an error is returned is whole and need not be drained again.
    pub(crate) async fn run(
        &self,
        schemas: &[PlannedSchema],
        delivery: Delivery,
        tasks: VecDeque<usize>,
        done: &mut BTreeMap<usize, Schema>,
    ) -> Result<(), Stopped> {
        let mut chunks = Chunks { delivery, tasks, task: 0, left: 0, current: None };
        let room = Room::new();
        let mut closing = Closing::new();
        for (at, plan) in schemas.iter().enumerate() {
            if done.contains_key(&at) {
                continue;
            }
            let opened = {
                let mut draining = pin!(self.schema(at, plan, &mut chunks, &room));
                loop {
                    tokio::select! {
                        biased;
                        Some(joined) = closing.join_next() => self.closed(joined, done)?,
                        opened = &mut draining => break opened,
                    }
                }
            };
            match opened {
                Ok(schema) => {
                    closing.spawn(async move { (at, schema.close().await) });
                }
                Err(stopped) => {
                    if let Stopped::PartsExhausted { .. } = stopped {
                        self.all_closed(&mut closing, done).await?;
                    }
                    return Err(stopped);
                }
            }
        }
        self.all_closed(&mut closing, done).await
    }

    async fn all_closed(&self, closing: &mut Closing, done: &mut BTreeMap<usize, Schema>) -> Result<(), Stopped> {
        while let Some(joined) = closing.join_next().await {
            self.closed(joined, done)?;
        }
        Ok(())
    }

    fn closed(
        &self,
        joined: Result<(usize, Result<Schema, WriteError>), JoinError>,
        done: &mut BTreeMap<usize, Schema>,
    ) -> Result<(), Stopped> {
        let (at, schema) = joined.map_err(|error| Error::failed(format!("finish a schema: {error}")))?;
        done.insert(at, schema.map_err(|error| stopped(error, at, None))?);
        self.counters.schemas.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Writes everything of a schema but the ends of its objects.
    async fn schema(
        &self,
        at: usize,
        plan: &PlannedSchema,
        chunks: &mut Chunks,
        room: &Room,
    ) -> Result<OpenSchema, Stopped> {
        let outside = |error| stopped(error, at, None);
        let mut dump = self.target.open(&plan.dump, plan.expected)?;
        dump.text(self.texts.head(plan)?).await.map_err(outside)?;
        let mut between = Vec::new();
        let mut finishing = Finishing::new();
        let mut tables: Vec<Option<Table>> = vec![None; plan.tables.len()];
        for (number, table) in plan.tables.iter().enumerate() {
            let inside = |error| stopped(error, at, Some(number));
            let TableText { before, after, copy } = self.texts.table(table)?;
            let mut open = OpenTable::begin(&self.target, table, before).await.map_err(inside)?;
            if let Some(rows) = &table.rows {
                self.framing.begin_data(&mut between, rows.dump_id);
                for chunk in &rows.chunks {
                    self.chunk(chunks, chunk, &mut dump, &mut between, &mut open).await.map_err(inside)?;
                    self.counters.disk.fetch_add(open.part.end(), Ordering::Relaxed);
                }
                self.framing.end_rows(&mut between)?;
            }
            self.counters.tables.fetch_add(1, Ordering::Relaxed);
            self.counters.disk.fetch_add(open.part.rest(), Ordering::Relaxed);
            while let Some(joined) = finishing.try_join_next() {
                collect(joined, &mut tables).map_err(outside)?;
            }
            let place = self.counters.clock.store.of(room.place(open.sql.held())).await?;
            let (target, table) = (self.target.clone(), table.clone());
            finishing.spawn(async move {
                let _place = place;
                Ok((number, open.finish(&target, table, after, copy).await?))
            });
        }
        dump.text(between).await.map_err(outside)?;
        let place = room.place(dump.held()).await?;
        let (name, owner, needs) = (plan.name.clone(), plan.owner.clone(), self.texts.needs(plan));
        Ok(OpenSchema { name, owner, needs, dump, finishing, tables, _place: place })
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
        let clock = &self.counters.clock;
        let mut fallback = None;
        loop {
            let item = match &mut fallback {
                None => clock.rows.of(chunks.item(&self.head)).await?,
                Some(receiver) => clock.rows.of(next_of(receiver)).await?,
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
                Item::Frame(frame) => {
                    clock.rows.of(frame).await.map_err(|gone| Error::failed(format!("compress rows: {gone}")))??
                }
            };
            let bytes = frame.fingerprint.bytes;
            let raw = usize::try_from(bytes).map_err(|error| Error::failed(format!("a frame: {error}")))?;
            self.framing.chunk(between, raw)?;
            let written = async {
                dump.text(std::mem::take(between)).await?;
                dump.pieces(&frame.pieces, bytes).await?;
                table.frame(&frame).await
            };
            clock.store.of(written).await?;
            self.counters.rows.fetch_add(frame.fingerprint.rows, Ordering::Relaxed);
            self.counters.raw.fetch_add(bytes, Ordering::Relaxed);
            self.counters.disk.fetch_add(table.part.more(bytes), Ordering::Relaxed);
        }
    }
}

fn stopped(error: WriteError, schema: usize, table: Option<usize>) -> Stopped {
    match error {
        WriteError::PartsExhausted { key, part_bytes } => Stopped::PartsExhausted { schema, key, part_bytes, table },
        WriteError::Failed(error) => Stopped::Failed(error),
    }
}

/// Notes a table that was finished.
fn collect(
    joined: Result<Result<(usize, Table), WriteError>, JoinError>,
    tables: &mut [Option<Table>],
) -> Result<(), WriteError> {
    let (number, table) = joined.map_err(|error| Error::failed(format!("finish a table: {error}")))??;
    let slot = tables.get_mut(number).ok_or_else(|| Error::failed(format!("table {} was not planned", table.name)))?;
    *slot = Some(table);
    Ok(())
}

/// The progress of a table, in the bytes on disk that were expected: by chunks, and within a chunk by its text, of which
/// nobody knows the end.
#[derive(Debug)]
struct Part {
    expected: u64,
    chunks: u64,
    done: u64,
    counted: u64,
}

impl Part {
    fn of(plan: &PlannedTable) -> Self {
        let chunks = plan.rows.as_ref().map_or(1, |rows| rows.chunks.len() as u64).max(1);
        Self { expected: plan.expected, chunks, done: 0, counted: 0 }
    }

    /// Counts text of the chunk; returns by how much the table is further.
    fn more(&mut self, bytes: u64) -> u64 {
        let share = self.expected / self.chunks;
        self.reach((self.counted + bytes).min(share * self.done + share / 20 * 19))
    }

    /// Counts a chunk as done.
    fn end(&mut self) -> u64 {
        self.done += 1;
        self.reach(self.expected / self.chunks * self.done)
    }

    /// Counts the table as done.
    fn rest(&mut self) -> u64 {
        self.reach(self.expected)
    }

    fn reach(&mut self, to: u64) -> u64 {
        let more = to.saturating_sub(self.counted);
        self.counted += more;
        more
    }
}

/// Room for finished objects that are on their way.
struct Room {
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// The room of one object; given back when dropped.
struct Place {
    _place: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Room {
    fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(FINISHING)), bytes: Arc::new(Semaphore::new(FINISHING_BYTES)) }
    }

    /// Waits for room for an object that holds so many bytes. One larger than all the room takes all of it.
    async fn place(&self, bytes: usize) -> Result<Place> {
        let failed = |closed| Error::failed(format!("wait for room: {closed}"));
        let bytes = u32::try_from(bytes.min(FINISHING_BYTES)).unwrap_or(u32::MAX);
        Ok(Place {
            _place: Arc::clone(&self.places).acquire_owned().await.map_err(failed)?,
            _bytes: Arc::clone(&self.bytes).acquire_many_owned(bytes).await.map_err(failed)?,
        })
    }
}

/// A schema all of whose rows are written; its objects are being finished.
struct OpenSchema {
    name: String,
    owner: String,
    needs: Vec<String>,
    dump: Output,
    finishing: Finishing,
    tables: Vec<Option<Table>>,
    _place: Place,
}

impl OpenSchema {
    /// Ends all objects of the schema.
    async fn close(mut self) -> Result<Schema, WriteError> {
        let dump = self.dump.finish().await?;
        while let Some(joined) = self.finishing.join_next().await {
            collect(joined, &mut self.tables)?;
        }
        let tables: Option<Vec<Table>> = self.tables.into_iter().collect();
        let tables = tables.ok_or_else(|| Error::failed("a table was not finished"))?;
        Ok(Schema { name: self.name, owner: self.owner, dump, tables, needs: self.needs })
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
    part: Part,
    sql: Output,
    fingerprint: Fingerprint,
    /// Only for tables that may become large: hashing every byte a third time is not free.
    pieces: Option<Pieces>,
}

impl OpenTable {
    async fn begin(target: &Target, plan: &PlannedTable, before: Vec<u8>) -> Result<Self, WriteError> {
        let mut sql = target.open(&plan.sql, plan.expected)?;
        sql.text(before).await?;
        let is_large = plan.rows.as_ref().is_some_and(|rows| rows.chunks.len() > 1);
        let orders = plan.rows.iter().flat_map(|rows| &rows.key_columns).map(|column| column.field.order).collect();
        let pieces = is_large.then(|| Pieces::starting_at(sql.framed(), orders));
        Ok(Self { part: Part::of(plan), sql, fingerprint: Fingerprint::default(), pieces })
    }

    async fn frame(&mut self, frame: &Frame) -> Result<(), WriteError> {
        self.fingerprint.append(&frame.fingerprint);
        if let Some(pieces) = &mut self.pieces {
            pieces.add(&frame.pieces, frame.fingerprint.rows, &frame.extremes);
        }
        self.sql.pieces(&frame.pieces, frame.fingerprint.bytes).await
    }

    async fn finish(
        mut self,
        target: &Target,
        plan: PlannedTable,
        after: Vec<u8>,
        copy: Option<String>,
    ) -> Result<Table, WriteError> {
        let pieces = self.pieces.take().map(Pieces::finish).unwrap_or_default();
        self.sql.text(after).await?;
        let file = self.sql.finish().await?;
        let index = if pieces.iter().map(|p| p.bytes).sum::<u64>() > INDEX_FROM {
            let copy = copy.ok_or_else(|| Error::failed(format!("{}: its COPY statement is missing", plan.name)))?;
            let TableName { schema, table } = plan.name.clone();
            let columns = plan.rows.iter().flat_map(|rows| &rows.key_columns);
            let columns = columns.map(|one| IndexColumn { name: one.name.clone(), kind: one.kind.clone() }).collect();
            let index = Index { format: FORMAT.to_owned(), schema, table, copy, columns, pieces };
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
            encoding: plan.encoding,
        })
    }
}
