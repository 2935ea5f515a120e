//! Reading rows: sessions on the exported snapshot that stream `COPY ... TO STDOUT` into feeds.
//!
//! A worker takes a task (one chunk of a large table, or some small tables), opens a transaction on the snapshot,
//! locks the tables with NOWAIT and pipelines their COPYs: the server goes from one to the next without waiting for
//! us. The transaction ends with the task, so locks never pile up. A refused lock (a migration waits behind the
//! leader's) hands the chunk to the leader's session, which has the lock already: PostgreSQL cannot see the cycle
//! that waiting would make.
//!
//! A lost connection costs its chunk only: the worker connects again, reads the chunk from its start on the same
//! snapshot and proves by hash that what was already sent has not changed.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesOrdered, StreamExt as _};
use tokio::sync::{Mutex, mpsc};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, CopyOutStream};
use xxhash_rust::xxh3::Xxh3;

use super::conninfo::ConnInfo;
use super::session::{Session, failure};
use crate::error::{Error, Result};
use crate::pipeline::feed::{Item, Sealer};
use crate::pipeline::{Feed, Intake, Segment, Segmenter};

/// Times a worker connects again for the same task before the run fails.
const RECONNECTS: u32 = 6;

/// One COPY.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The table, quoted and qualified, to be locked.
    pub table: String,
    /// The complete `COPY ... TO STDOUT` statement.
    pub copy: String,
    /// What to call it in messages: the table, and the ctid range where it is a part.
    pub label: String,
    /// Whether the relation is of a kind `LOCK TABLE` takes.
    pub lockable: bool,
}

/// Chunks read in one transaction of one worker.
#[derive(Debug, Clone)]
pub struct Task {
    /// The chunks, in the global order.
    pub chunks: Vec<Chunk>,
}

/// What all workers share.
#[derive(Debug)]
pub struct Readers {
    /// How to connect.
    pub info: ConnInfo,
    /// Longest time to connect.
    pub connect_timeout: Duration,
    /// Name of the exported snapshot.
    pub snapshot: String,
    /// Longest wait for a lock that a COPY itself takes.
    pub lock_timeout: Duration,
}

/// Why a task was not read.
enum Trouble {
    /// The table's lock was refused.
    Refused,
    /// The connection is gone: worth another try.
    Lost(Error),
    /// Anything else ends the run.
    Fatal(Error),
}

/// Where a worker is in its task, kept over a reconnect.
#[derive(Debug, Default)]
struct Position {
    /// Chunks of the task that were sent completely (or handed to the leader).
    done: usize,
    /// Hashes of the segments of the current chunk that were sent.
    sent: Vec<u128>,
    /// Whether the session still is in the transaction of the task before: it ends with the next one's beginning.
    follows: bool,
}

impl Readers {
    /// Opens a session fit for reading.
    pub async fn session(&self) -> Result<Session> {
        Session::connect(&self.info, self.connect_timeout, "reader").await
    }

    /// A session in a transaction on the snapshot, for reading what is not rows.
    pub async fn on_snapshot(&self) -> Result<Session> {
        let session = self.session().await?;
        let begun = session.client.batch_execute(&self.begin(&[], false)).await;
        begun.map_err(|e| failure(&e).context("open a transaction on the snapshot"))?;
        Ok(session)
    }

    /// Works until the intake is empty, or nobody wants the rows any more.
    ///
    /// Cancel by dropping: the connection closes, the server ends the COPY at its next write.
    pub async fn work(&self, mut session: Session, intake: &Intake<Task>) -> Result<()> {
        let mut follows = false;
        while let Some((task, feed)) = intake.next().await {
            let mut position = Position { follows, ..Position::default() };
            let mut tries = 0;
            while let Err(trouble) = self.task(&session.client, &task, &feed, &mut position).await {
                match trouble {
                    // A failed drain says why; that it stopped listening is only the echo of that.
                    Trouble::Fatal(_) if feed.is_abandoned() => return Ok(()),
                    Trouble::Fatal(error) => return Err(error),
                    Trouble::Refused => match self.one_by_one(&session.client, &task, &feed, &mut position).await {
                        Err(_echo) if feed.is_abandoned() => return Ok(()),
                        result => result?,
                    },
                    Trouble::Lost(error) => {
                        tries += 1;
                        if tries > RECONNECTS {
                            return Err(error.context("a reader's connection was lost again and again"));
                        }
                        tracing::warn!("a reader's connection was lost ({error}); connecting again");
                        session = self.reconnect(tries).await?;
                        position.follows = false;
                    }
                }
                if position.done >= task.chunks.len() {
                    break;
                }
            }
            follows = position.follows;
        }
        session.close().await;
        Ok(())
    }

    async fn reconnect(&self, mut tries: u32) -> Result<Session> {
        loop {
            tokio::time::sleep(Duration::from_millis(100) * 2_u32.saturating_pow(tries)).await;
            match self.session().await {
                Ok(session) => return Ok(session),
                Err(error) if tries >= RECONNECTS => return Err(error.context("connect again for reading")),
                Err(_not_yet) => tries += 1,
            }
        }
    }

    /// After a refusal: each remaining chunk on its own, those refused left to the leader.
    async fn one_by_one(&self, client: &Client, task: &Task, feed: &Feed, position: &mut Position) -> Result<()> {
        rollback(client).await;
        position.follows = false;
        while let Some(chunk) = task.chunks.get(position.done) {
            let single = Task { chunks: vec![chunk.clone()] };
            let mut at = Position { done: 0, sent: std::mem::take(&mut position.sent), follows: position.follows };
            let result = self.task(client, &single, feed, &mut at).await;
            *position = Position { done: position.done + at.done, ..at };
            match result {
                Ok(()) => {}
                Err(Trouble::Refused) => {
                    rollback(client).await;
                    position.follows = false;
                    if !position.sent.is_empty() {
                        return Err(Error::failed(format!("{}: its lock was lost in the middle", chunk.label)));
                    }
                    tracing::debug!("{}: somebody waits for its lock; the leader's session reads it", chunk.label);
                    feed.refused().await?;
                    position.done += 1;
                }
                // The caller's loop sees the dead connection at its next statement and connects again.
                Err(Trouble::Lost(_)) => return Ok(()),
                Err(Trouble::Fatal(error)) => return Err(error),
            }
        }
        Ok(())
    }

    async fn task(&self, client: &Client, task: &Task, feed: &Feed, position: &mut Position) -> Result<(), Trouble> {
        let chunks = task.chunks.get(position.done..).unwrap_or_default();
        // One round trip for all of it; the statements fail too when a lock is refused, but the cause is said first.
        let begin = self.begin(chunks, position.follows);
        let begun = client.batch_execute(&begin);
        let prepared = futures::future::join_all(chunks.iter().map(|chunk| client.prepare(&chunk.copy)));
        let (begun, prepared) = futures::join!(begun, prepared);
        begun.map_err(|e| trouble(&e, "open a transaction on the snapshot"))?;
        position.follows = true;
        let statements: Result<Vec<_>, _> = prepared.into_iter().collect();
        let statements = statements.map_err(|e| trouble(&e, "prepare a COPY"))?;
        let mut streams: FuturesOrdered<_> = statements.iter().map(|statement| client.copy_out(statement)).collect();
        for chunk in chunks {
            let stream = streams.next().await.ok_or_else(|| Trouble::Fatal(Error::failed("a COPY is missing")))?;
            let stream = stream.map_err(|e| trouble(&e, &format!("read {}", chunk.label)))?;
            copy(stream, feed, &mut position.sent, &chunk.label).await?;
            feed.end().await.map_err(Trouble::Fatal)?;
            position.done += 1;
            position.sent.clear();
        }
        Ok(())
    }

    fn begin(&self, chunks: &[Chunk], follows: bool) -> String {
        let mut locked: Vec<&str> = chunks.iter().filter(|c| c.lockable).map(|c| c.table.as_str()).collect();
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
}

async fn rollback(client: &Client) {
    if let Err(error) = client.batch_execute("ROLLBACK").await {
        tracing::debug!("end a refused transaction: {error}");
    }
}

/// Streams one COPY into the feed. Segments whose hashes are in `sent` were sent before a reconnect: they are read
/// again, compared and not sent twice.
async fn copy(stream: CopyOutStream, feed: &Feed, sent: &mut Vec<u128>, label: &str) -> Result<(), Trouble> {
    let mut stream = std::pin::pin!(stream);
    let mut segmenter = Segmenter::default();
    let already = sent.len();
    let mut number = 0;
    while let Some(message) = stream.next().await {
        let message = message.map_err(|e| trouble(&e, &format!("read {label}")))?;
        if let Some(segment) = segmenter.push(message) {
            deliver(segment, feed, sent, number, already, label).await?;
            number += 1;
        }
    }
    let last = segmenter.finish().map_err(|why| Trouble::Fatal(Error::failed(format!("read {label}: {why}"))))?;
    if let Some(segment) = last {
        deliver(segment, feed, sent, number, already, label).await?;
        number += 1;
    }
    if number < already {
        return Err(changed(label));
    }
    Ok(())
}

async fn deliver(
    segment: Segment,
    feed: &Feed,
    sent: &mut Vec<u128>,
    number: usize,
    already: usize,
    label: &str,
) -> Result<(), Trouble> {
    let mut hash = Xxh3::new();
    segment.parts.iter().for_each(|part| hash.update(part));
    let hash = hash.digest128();
    if number < already {
        return if sent.get(number) == Some(&hash) { Ok(()) } else { Err(changed(label)) };
    }
    sent.push(hash);
    feed.segment(segment).await.map_err(Trouble::Fatal)
}

fn changed(label: &str) -> Trouble {
    Trouble::Fatal(Error::failed(format!("{label}: read again after a lost connection, its rows differ")))
}

/// Decides what a database error means for the task.
fn trouble(error: &tokio_postgres::Error, operation: &str) -> Trouble {
    let told = failure(error).context(operation);
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
pub struct LeaderReads {
    leader: Arc<Mutex<Arc<Session>>>,
    sealer: Sealer,
    chunks: Arc<Vec<Chunk>>,
}

impl LeaderReads {
    /// Reads with the leader's session, which holds the snapshot and all locks; `chunks` in the global order.
    #[must_use]
    pub fn new(leader: Arc<Session>, sealer: Sealer, chunks: Arc<Vec<Chunk>>) -> Self {
        Self { leader: Arc::new(Mutex::new(leader)), sealer, chunks }
    }
}

impl crate::pipeline::drain::Fallback for LeaderReads {
    fn read(&self, chunk: usize) -> mpsc::Receiver<Item> {
        let (feed, receiver) = self.sealer.direct();
        let this = self.clone();
        tokio::spawn(async move {
            let leader = this.leader.lock().await;
            let Some(chunk) = this.chunks.get(chunk) else { return };
            let read = async {
                let stream = leader.client.copy_out(chunk.copy.as_str()).await;
                let stream = stream.map_err(|e| trouble(&e, &format!("read {}", chunk.label)))?;
                copy(stream, &feed, &mut Vec::new(), &chunk.label).await?;
                feed.end().await.map_err(Trouble::Fatal)
            };
            if let Err(trouble) = read.await {
                let error = match trouble {
                    Trouble::Lost(error) | Trouble::Fatal(error) => error,
                    Trouble::Refused => Error::failed(format!("read {}: its lock was lost", chunk.label)),
                };
                // Reaches the drain as a frame that failed; when nobody listens the run is ending anyway.
                drop(feed.failed(error).await);
            }
        });
        receiver
    }
}
