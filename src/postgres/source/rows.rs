//! Reading rows: sessions on the exported snapshot that stream `COPY ... TO STDOUT` into feeds.
//!
//! This file owns what all readers share and the reading of one chunk, by a reader or by the leader; the worker that
//! keeps several tasks on the wire is in `worker`. A refused lock (a migration waits behind the leader's) hands the chunk
//! to the leader's session, which has the lock already: PostgreSQL cannot see the cycle that waiting would make.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::stream::StreamExt as _;
use tokio::sync::{Mutex, mpsc};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, CopyOutStream};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};
use crate::pipeline::budget::Permit;
use crate::pipeline::extremes::Fields;
use crate::pipeline::feed::{Compressor, Item};
use crate::pipeline::rate::Rate;
use crate::pipeline::{Feed, Segment, Segmenter};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::one_server::NAME_ONE;
use crate::postgres::connect::session::Session;
use crate::postgres::connect::stall::StallDetector;
use crate::postgres::error::failure;
use crate::sql::names::{TableName, literal};

/// The hint for a table that the server cannot read.
const DAMAGED: &str = "the table itself is damaged on the server (the error names the block, or the TOAST value; the message the range of \
     blocks that was read): restore it from an older backup or salvage its other rows into a new table (SELECT by ctid \
     ranges finds them), then drop it; check the disk, and the cluster with pg_amcheck";

pub(super) const BEGIN: &str = "open a transaction on the snapshot";

/// A table whose rows are read.
#[derive(Debug)]
pub(crate) struct Origin {
    /// Its oid.
    pub(crate) oid: u32,
    pub(crate) name: TableName,
    /// Its name, quoted and qualified, to be locked.
    pub(crate) table: String,
    /// Its name in messages.
    pub(crate) label: String,
    /// True when the relation is of a kind `LOCK TABLE` takes.
    pub(crate) lockable: bool,
    /// The complete `COPY ... TO STDOUT` that reads all of its rows.
    pub(crate) whole: String,
    /// The columns, where its rows can be read by blocks.
    pub(crate) columns: Option<String>,
    /// The fields whose smallest and largest values are kept.
    pub(crate) watched: Fields,
}

/// Blocks of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Blocks {
    pub(crate) from: i64,
    /// The first block behind them; open in a table's last chunk, so that no row can fall behind it.
    pub(crate) to: Option<i64>,
    /// Rows that cannot be read, by ctid.
    pub(crate) without: Vec<String>,
}

/// One COPY. Its statement is made when it is needed: a large table has many, and many columns.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub(crate) origin: Arc<Origin>,
    /// The part of the table; `None` for all of it.
    pub(crate) blocks: Option<Blocks>,
}

impl Chunk {
    /// The statement that reads it, in an encoding other than the session's where one is given.
    pub(crate) fn copy(&self, encoding: Option<&str>) -> String {
        let mut copy = match (&self.blocks, &self.origin.columns) {
            (Some(blocks), Some(columns)) => {
                let Origin { table, .. } = self.origin.as_ref();
                let Blocks { from, to, without } = blocks;
                let upper = to.map_or_else(String::new, |to| format!(" AND ctid < '({to},0)'::pg_catalog.tid"));
                let without = without.iter().map(|row| format!(" AND ctid <> '{row}'::pg_catalog.tid"));
                let without = without.collect::<String>();
                format!(
                    "COPY (SELECT {columns} FROM ONLY {table} WHERE ctid >= '({from},0)'::pg_catalog.tid{upper}{without}) TO STDOUT"
                )
            }
            _ => self.origin.whole.clone(),
        };
        if let Some(encoding) = encoding {
            copy.push_str(&format!(" WITH (ENCODING {})", literal(encoding)));
        }
        copy
    }

    /// Its name in messages: the table, and the blocks where it is a part.
    pub(crate) fn label(&self) -> String {
        match &self.blocks {
            None => self.origin.label.clone(),
            Some(Blocks { from, to, .. }) => {
                let to = to.map_or_else(|| "end".to_owned(), |to| to.to_string());
                format!("{} (blocks {from} to {to})", self.origin.label)
            }
        }
    }
}

/// A table whose rows cannot be read as they are; the run can go on another way.
#[derive(Debug, Clone)]
pub(crate) enum Stumble {
    /// Its data is damaged on the server.
    Damaged(Arc<Origin>),
    /// A value has no equivalent in UTF-8.
    Untranslatable(Arc<Origin>),
}

/// The first stumble of a pass, which its error does not carry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stumbles(Arc<std::sync::Mutex<Option<Stumble>>>);

impl Stumbles {
    fn note(&self, error: &tokio_postgres::Error, origin: &Arc<Origin>) {
        let Some(state) = error.code() else { return };
        let stumble = if is_damage(state) {
            Stumble::Damaged(Arc::clone(origin))
        } else if *state == SqlState::UNTRANSLATABLE_CHARACTER {
            Stumble::Untranslatable(Arc::clone(origin))
        } else {
            return;
        };
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(stumble);
    }

    /// Takes what was noted.
    pub(crate) fn take(&self) -> Option<Stumble> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

/// True for what a server says of data that it cannot read: damaged pages and values, files that are missing or that the
/// disk does not give back. A damaged length is an internal error.
pub(crate) fn is_damage(state: &SqlState) -> bool {
    ["XX000", "XX001", "XX002", "58P01", "58030"].contains(&state.code())
}

/// Chunks read in one transaction of one worker.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    /// The chunks, in the global order.
    pub(crate) chunks: Vec<Arc<Chunk>>,
}

/// The state that all workers share.
#[derive(Debug, Clone)]
pub(crate) struct Readers {
    /// The connection of each session.
    pub(crate) info: ConnInfo,
    /// Longest time to connect.
    pub(crate) connect_timeout: Duration,
    /// Name of the exported snapshot.
    pub(crate) snapshot: String,
    /// Longest wait for a lock that a COPY itself takes.
    pub(crate) lock_timeout: Duration,
    /// Silence after which to ask whether the server is still at work.
    pub(crate) stall_timeout: Duration,
    /// The rate at which all sessions together may read rows.
    pub(crate) rate: Rate,
    /// The encoding of the rows, where it is not the sessions'.
    pub(crate) encoding: Option<String>,
    pub(crate) stumbles: Stumbles,
    /// Added to the sessions' name: the run they read for.
    pub(crate) run: String,
}

/// The reason why a task was not read.
pub(super) enum Trouble {
    /// The table's lock was refused.
    Refused,
    /// The connection is gone: worth another try.
    Lost(Error),
    /// Anything else ends the run.
    Fatal(Error),
}
impl Readers {
    /// Opens a session fit for reading.
    pub(crate) async fn session(&self) -> Result<Session> {
        let session = self.unwatched().await?;
        session.gate().watch();
        Ok(session)
    }

    async fn unwatched(&self) -> Result<Session> {
        Session::connect(&self.info, self.connect_timeout, &format!("reader {}", self.run)).await
    }

    /// A session in a transaction on the snapshot, for reading what goes into no feed.
    pub(crate) async fn on_snapshot(&self) -> Result<Session> {
        let session = self.unwatched().await?;
        let begin = self.begin(&[], false);
        let begun = self.stall_detector(&session).wait(session.client.batch_execute(&begin)).await?;
        begun.map_err(|e| failure(&e).context("open a transaction on the snapshot"))?;
        Ok(session)
    }

    /// The stall detector of that session.
    #[must_use]
    pub(crate) fn stall_detector<'r>(&'r self, session: &'r Session) -> StallDetector<'r> {
        StallDetector { info: &self.info, connect_timeout: self.connect_timeout, silence: self.stall_timeout, session }
    }

    pub(super) fn begin(&self, chunks: &[Arc<Chunk>], follows: bool) -> String {
        let mut locked: Vec<&str> =
            chunks.iter().filter(|c| c.origin.lockable).map(|c| c.origin.table.as_str()).collect();
        locked.dedup();
        let mut sql = format!(
            "{}BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}'; SET LOCAL lock_timeout = {};",
            if follows { "COMMIT; " } else { "" },
            self.snapshot.replace('\'', "''"),
            self.lock_timeout.as_millis()
        );
        if !locked.is_empty() {
            sql.push_str(&format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE NOWAIT", locked.join(", ONLY ")));
        }
        sql
    }

    /// The reading of one chunk in that session.
    pub(super) fn reading<'r>(
        &'r self,
        session: &'r Session,
        chunk: &'r Chunk,
        feed: &'r Feed,
        label: &'r str,
    ) -> Reading<'r> {
        let stall_detector = Some(self.stall_detector(session));
        let (origin, rate, stumbles) = (&chunk.origin, &self.rate, &self.stumbles);
        Reading { session, origin, feed, label, rate, stall_detector, stumbles }
    }

    /// Reads one chunk in a transaction of its own, nothing else on the wire.
    pub(super) async fn alone(
        &self,
        session: &Session,
        chunk: &Arc<Chunk>,
        feed: &Feed,
        sent: &mut Vec<u128>,
    ) -> Result<(), Trouble> {
        let (client, stall_detector) = (&session.client, self.stall_detector(session));
        let begin = self.begin(std::slice::from_ref(chunk), false);
        let begun = stall_detector
            .wait(client.batch_execute(&begin))
            .await
            .map_err(|e| stalled(e, &format!("read {}", chunk.label())))?;
        begun.map_err(|e| trouble(&e, BEGIN))?;
        let (statement, label) = (chunk.copy(self.encoding.as_deref()), chunk.label());
        let stream = stall_detector
            .wait(client.copy_out(statement.as_str()))
            .await
            .map_err(|e| stalled(e, &format!("read {label}")))?;
        let stream = stream.map_err(|e| trouble(&e, &format!("read {label}")))?;
        copy(stream, self.reading(session, chunk, feed, &label), sent).await?;
        feed.end().await.map_err(Trouble::Fatal)
    }
}

pub(super) async fn rollback(client: &Client) {
    if let Err(error) = client.batch_execute("ROLLBACK").await {
        tracing::debug!("end a refused transaction: {error}");
    }
}

/// One COPY that is being read.
#[derive(Clone, Copy)]
pub(super) struct Reading<'r> {
    /// The session it is read in.
    pub(super) session: &'r Session,
    pub(super) origin: &'r Arc<Origin>,
    pub(super) feed: &'r Feed,
    pub(super) label: &'r str,
    pub(super) rate: &'r Rate,
    /// The wait for its rows; `None`: for ever.
    pub(super) stall_detector: Option<StallDetector<'r>>,
    pub(super) stumbles: &'r Stumbles,
}

/// Streams one COPY into the feed. Segments whose hashes are in `sent` were sent before a reconnect: they are read
/// again, compared and not sent twice.
pub(super) async fn copy(stream: CopyOutStream, reading: Reading<'_>, sent: &mut Vec<u128>) -> Result<(), Trouble> {
    let Reading { session, feed, label, rate, .. } = reading;
    let copy = session.gate().taken();
    let mut stream = std::pin::pin!(stream);
    let mut meter = rate.meter();
    let mut segmenter = Segmenter::default();
    let (mut room, mut received) = (None, 0);
    let already = sent.len();
    let mut number = 0;
    loop {
        // A row that is there already costs no timer.
        let message = match futures::poll!(stream.next()) {
            Poll::Ready(message) => message,
            Poll::Pending => {
                let begun = Instant::now();
                tokio::select! {
                    biased;
                    message = reading.wait(stream.next()) => {
                        feed.clock().server.add(begun.elapsed());
                        message?
                    }
                    bytes = session.gate().asks(copy, received) => {
                        // Whoever waits for room holds none, so that it can come to be.
                        room = Some(feed.room(segmenter.gathered() + bytes).await.map_err(Trouble::Fatal)?);
                        session.gate().grant();
                        continue;
                    }
                }
            }
        };
        let Some(message) = message else { break };
        let message = message.map_err(|e| {
            reading.stumbles.note(&e, reading.origin);
            trouble(&e, &format!("read {label}"))
        })?;
        received += message.len() as u64;
        meter.read(message.len()).await;
        if let Some(segment) = segmenter.push(message) {
            deliver(segment, reading, room.take(), sent, number, already).await?;
            number += 1;
        }
    }
    meter.settle().await;
    let last = segmenter.finish().map_err(|why| Trouble::Fatal(Error::failed(format!("read {label}: {why}"))))?;
    if let Some(segment) = last {
        deliver(segment, reading, room.take(), sent, number, already).await?;
        number += 1;
    }
    if number < already {
        return Err(changed(label));
    }
    Ok(())
}

impl Reading<'_> {
    /// Waits for an answer of the server's.
    async fn wait<T>(self, answer: impl Future<Output = T>) -> Result<T, Trouble> {
        match self.stall_detector {
            Some(detector) => detector.wait(answer).await.map_err(|e| stalled(e, &format!("read {}", self.label))),
            None => Ok(answer.await),
        }
    }
}

async fn deliver(
    segment: Segment,
    reading: Reading<'_>,
    room: Option<Permit>,
    sent: &mut Vec<u128>,
    number: usize,
    already: usize,
) -> Result<(), Trouble> {
    let mut hash = Xxh3::new();
    segment.parts.iter().for_each(|part| hash.update(part));
    let hash = hash.digest128();
    if number < already {
        return if sent.get(number) == Some(&hash) { Ok(()) } else { Err(changed(reading.label)) };
    }
    sent.push(hash);
    reading.feed.segment(segment, room, &reading.origin.watched).await.map_err(Trouble::Fatal)
}

fn changed(label: &str) -> Trouble {
    Trouble::Fatal(Error::failed(format!("{label}: read again after a lost connection, its rows differ")))
}

pub(super) fn stalled(error: Error, operation: &str) -> Trouble {
    Trouble::Lost(error.context(operation))
}

/// Decides what a database error means for the task.
pub(super) fn trouble(error: &tokio_postgres::Error, operation: &str) -> Trouble {
    let mut told = failure(error).context(operation);
    if operation == BEGIN && (told.is_sqlstate("22023") || told.is_sqlstate("42704")) {
        told = told.hint(NAME_ONE);
    }
    if error.code().is_some_and(is_damage) {
        told = told
            .hint(DAMAGED)
            .hint("--allow-unreadable saves everything else, and names what is missing: a partial run");
    }
    match error.code() {
        Some(&SqlState::LOCK_NOT_AVAILABLE) => Trouble::Refused,
        Some(code)
            if [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW].contains(code) =>
        {
            Trouble::Lost(told)
        }
        None if error.is_closed()
            || std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<std::io::Error>) =>
        {
            Trouble::Lost(told)
        }
        _ => Trouble::Fatal(told),
    }
}

/// Reads refused chunks in the leader's session, one at a time, when their turn to be drained has come.
#[derive(Debug, Clone)]
pub(crate) struct LeaderReads {
    leader: Arc<Mutex<Arc<Session>>>,
    compressor: Compressor,
    rate: Rate,
    encoding: Option<String>,
    stumbles: Stumbles,
}

impl LeaderReads {
    /// Reads with the leader's session, which holds the snapshot and all locks.
    #[must_use]
    pub(crate) fn new(leader: Arc<Session>, compressor: Compressor, readers: &Readers) -> Self {
        leader.gate().watch();
        let (rate, encoding, stumbles) = (readers.rate.clone(), readers.encoding.clone(), readers.stumbles.clone());
        Self { leader: Arc::new(Mutex::new(leader)), compressor, rate, encoding, stumbles }
    }

    /// Starts reading a chunk, behind the segments with the hashes `sent`.
    pub(crate) fn read(&self, chunk: Arc<Chunk>, mut sent: Vec<u128>) -> mpsc::Receiver<Item> {
        let (feed, receiver) = self.compressor.direct();
        let this = self.clone();
        tokio::spawn(async move {
            let leader = this.leader.lock().await;
            let read = async {
                let label = chunk.label();
                let stream = leader.client.copy_out(chunk.copy(this.encoding.as_deref()).as_str()).await;
                let stream = stream.map_err(|e| trouble(&e, &format!("read {label}")))?;
                let reading = Reading {
                    session: leader.as_ref(),
                    origin: &chunk.origin,
                    feed: &feed,
                    label: &label,
                    rate: &this.rate,
                    stall_detector: None,
                    stumbles: &this.stumbles,
                };
                copy(stream, reading, &mut sent).await?;
                feed.end().await.map_err(Trouble::Fatal)
            };
            if let Err(trouble) = read.await {
                let error = match trouble {
                    Trouble::Lost(error) | Trouble::Fatal(error) => error,
                    Trouble::Refused => Error::failed(format!("read {}: its lock was lost", chunk.label())),
                };
                // Reaches the drain as a frame that failed; when nobody listens the run is ending anyway.
                drop(feed.failed(error).await);
            }
        });
        receiver
    }
}
