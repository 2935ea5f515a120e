//! Reading rows: sessions on the exported snapshot that stream `COPY ... TO STDOUT` into feeds.
//!
//! This file owns what all readers share and the reading of one chunk, by a reader or by the leader; the worker that
//! keeps several tasks on the wire is in `worker`. A refused lock (a migration waits behind the leader's) hands the
//! chunk to the leader's session, which has the lock already: PostgreSQL cannot see the cycle that waiting would make.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::stream::StreamExt as _;
use tokio::sync::{Mutex, mpsc};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, CopyOutStream};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};
use crate::pipeline::extremes::Fields;
use crate::pipeline::feed::{Compressor, Item};
use crate::pipeline::rate::Rate;
use crate::pipeline::{Feed, Segment, Segmenter};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::connect::stall::StallDetector;
use crate::postgres::error::failure;
use crate::postgres::programs::pg_dump::SNAPSHOT_ELSEWHERE;

/// The hint for a table that the server cannot read.
const DAMAGED: &str = "the table itself is damaged on the server (the error names the block, or the TOAST value; the message the range of \
     blocks that was read): restore it from an older backup or salvage its other rows into a new table (SELECT by ctid \
     ranges finds them), then drop it; check the disk, and the cluster with pg_amcheck";

pub(super) const BEGIN: &str = "open a transaction on the snapshot";

/// One COPY.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    /// The table, quoted and qualified, to be locked.
    pub(crate) table: String,
    /// The complete `COPY ... TO STDOUT` statement.
    pub(crate) copy: String,
    /// Its name in messages: the table, and the ctid range where it is a part.
    pub(crate) label: String,
    /// True when the relation is of a kind `LOCK TABLE` takes.
    pub(crate) lockable: bool,
    /// The fields whose smallest and largest values are kept.
    pub(crate) watched: Fields,
}

/// Chunks read in one transaction of one worker.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    /// The chunks, in the global order.
    pub(crate) chunks: Vec<Arc<Chunk>>,
}

/// The state that all workers share.
#[derive(Debug)]
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
        Session::connect(&self.info, self.connect_timeout, &format!("reader {}", self.run)).await
    }

    /// A session in a transaction on the snapshot, for reading what is not rows.
    pub(crate) async fn on_snapshot(&self) -> Result<Session> {
        let session = self.session().await?;
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
            .map_err(|e| stalled(e, &format!("read {}", chunk.label)))?;
        begun.map_err(|e| trouble(&e, BEGIN))?;
        let stream = stall_detector
            .wait(client.copy_out(chunk.copy.as_str()))
            .await
            .map_err(|e| stalled(e, &format!("read {}", chunk.label)))?;
        let stream = stream.map_err(|e| trouble(&e, &format!("read {}", chunk.label)))?;
        copy(stream, feed, sent, chunk, &self.rate, Some(stall_detector)).await?;
        feed.end().await.map_err(Trouble::Fatal)
    }
}

pub(super) async fn rollback(client: &Client) {
    if let Err(error) = client.batch_execute("ROLLBACK").await {
        tracing::debug!("end a refused transaction: {error}");
    }
}

/// Streams one COPY into the feed. Segments whose hashes are in `sent` were sent before a reconnect: they are read
/// again, compared and not sent twice.
pub(super) async fn copy(
    stream: CopyOutStream,
    feed: &Feed,
    sent: &mut Vec<u128>,
    chunk: &Chunk,
    rate: &Rate,
    stall_detector: Option<StallDetector<'_>>,
) -> Result<(), Trouble> {
    let label = chunk.label.as_str();
    let mut stream = std::pin::pin!(stream);
    let mut meter = rate.meter();
    let mut segmenter = Segmenter::default();
    let already = sent.len();
    let mut number = 0;
    loop {
        // A row that is there already costs no timer.
        let message = match (futures::poll!(stream.next()), stall_detector) {
            (Poll::Ready(message), _) => message,
            (Poll::Pending, Some(stall_detector)) => {
                stall_detector.wait(stream.next()).await.map_err(|e| stalled(e, &format!("read {label}")))?
            }
            (Poll::Pending, None) => stream.next().await,
        };
        let Some(message) = message else { break };
        let message = message.map_err(|e| trouble(&e, &format!("read {label}")))?;
        meter.read(message.len()).await;
        if let Some(segment) = segmenter.push(message) {
            deliver(segment, feed, sent, number, already, chunk).await?;
            number += 1;
        }
    }
    meter.settle().await;
    let last = segmenter.finish().map_err(|why| Trouble::Fatal(Error::failed(format!("read {label}: {why}"))))?;
    if let Some(segment) = last {
        deliver(segment, feed, sent, number, already, chunk).await?;
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
    chunk: &Chunk,
) -> Result<(), Trouble> {
    let mut hash = Xxh3::new();
    segment.parts.iter().for_each(|part| hash.update(part));
    let hash = hash.digest128();
    if number < already {
        return if sent.get(number) == Some(&hash) { Ok(()) } else { Err(changed(&chunk.label)) };
    }
    sent.push(hash);
    feed.segment(segment, &chunk.watched).await.map_err(Trouble::Fatal)
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
        told = told.hint(SNAPSHOT_ELSEWHERE);
    }
    if told.is_sqlstate("XX001") || told.is_sqlstate("XX002") {
        told = told.hint(DAMAGED);
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
}

impl LeaderReads {
    /// Reads with the leader's session, which holds the snapshot and all locks.
    #[must_use]
    pub(crate) fn new(leader: Arc<Session>, compressor: Compressor, rate: Rate) -> Self {
        Self { leader: Arc::new(Mutex::new(leader)), compressor, rate }
    }

    /// Starts reading a chunk, behind the segments with the hashes `sent`.
    pub(crate) fn read(&self, chunk: Arc<Chunk>, mut sent: Vec<u128>) -> mpsc::Receiver<Item> {
        let (feed, receiver) = self.compressor.direct();
        let this = self.clone();
        tokio::spawn(async move {
            let leader = this.leader.lock().await;
            let read = async {
                let stream = leader.client.copy_out(chunk.copy.as_str()).await;
                let stream = stream.map_err(|e| trouble(&e, &format!("read {}", chunk.label)))?;
                copy(stream, &feed, &mut sent, &chunk, &this.rate, None).await?;
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
