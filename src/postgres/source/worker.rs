//! A worker: one session that reads task after task with nothing lost between them.
//!
//! A worker takes a task (one chunk of a large table, or some small tables), opens a transaction on the snapshot,
//! locks the tables with NOWAIT and pipelines their COPYs, and those of its next task behind them: the server goes
//! from one to the next without waiting for a round trip. The transaction ends with the task, so locks never pile up.
//! In time, from the top to the bottom, for three tasks A, B, C:
//!
//! ```text
//! to the server                                   from the server
//! BEGIN + LOCK of A, prepare A
//! COPY A ...                                      answers to both
//! COMMIT; BEGIN + LOCK of B, prepare C, COPY B    rows of A
//!                                                 answers to COMMIT .. prepare C, rows of B
//! COMMIT; BEGIN + LOCK of C, COPY C               rows of B, then of C
//! ```
//!
//! B was prepared while A began, so its COPY can be sent without waiting for an answer. A lost connection costs its chunk
//! only: the worker connects again, reads the chunk from its start on the same snapshot and proves by hash that what was
//! already sent has not changed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::{Client, CopyOutStream, Statement};

use crate::error::{Error, Result};
use crate::pipeline::{Feed, TaskQueue};
use crate::postgres::connect::session::Session;
use crate::postgres::query::{Answer, sent};
use crate::postgres::source::rows::{BEGIN, Chunk, Readers, Task, Trouble, copy, rollback, stalled, trouble};

/// Times a worker connects again for the same task before the run fails.
const RECONNECTS: u32 = 6;

/// A task in a worker's hands, kept over a reconnect.
struct Taken {
    task: Task,
    feed: Feed,
    /// Chunks that were sent completely (or handed to the leader).
    done: usize,
    /// Hashes of the segments of the current chunk that were sent.
    sent: Vec<u128>,
    /// Connections lost while it was at the head.
    tries: u32,
    /// Its COPYs, prepared in the present session.
    statements: Vec<Statement>,
    /// True when its COPYs are on the wire behind those of the task before.
    behind: bool,
}

impl Taken {
    fn new((task, feed): (Task, Feed)) -> Self {
        Self { task, feed, done: 0, sent: Vec::new(), tries: 0, statements: Vec::new(), behind: false }
    }

    fn left(&self) -> &[Arc<Chunk>] {
        self.task.chunks.get(self.done..).unwrap_or_default()
    }

    /// Forgets what the session before knew.
    fn forget(&mut self) {
        self.statements.clear();
        self.behind = false;
    }
}

/// Requests that were sent, in their order.
type Sent<'c, T> = VecDeque<Answer<'c, T>>;

/// A task's requests on their way, in this order.
struct Flight<'c> {
    begun: Answer<'c, ()>,
    /// Statements of the task after it: answered before its own rows come, so that task can follow without a pause.
    prepared: Sent<'c, Statement>,
    copies: Sent<'c, CopyOutStream>,
}

/// One worker: its session, and the tasks it took, in their order. The first is being read, the second is on the wire
/// behind it, the third is prepared.
struct Worker<'r> {
    readers: &'r Readers,
    session: Session,
    queue: VecDeque<Taken>,
    /// True when the session is in the transaction of a task: it ends with the next one's beginning.
    follows: bool,
}

impl Readers {
    /// Works until no task is left, or nobody wants the rows any more.
    ///
    /// Cancel by dropping: the connection closes, the server ends the COPY at its next write.
    pub(crate) async fn work(&self, session: Session, tasks: &TaskQueue<Task>) -> Result<()> {
        let mut worker = Worker { readers: self, session, queue: VecDeque::new(), follows: false };
        loop {
            let Err(trouble) = worker.read(tasks).await else { break };
            // A failed drain says why; that it stopped listening is only the echo of that.
            if worker.abandoned() {
                return Ok(());
            }
            if let Err(error) = worker.overcome(trouble).await {
                return if worker.abandoned() { Ok(()) } else { Err(error) };
            }
        }
        worker.session.close().await;
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
}

impl Worker<'_> {
    /// Reads task after task until none is left. After trouble the queue begins with the task that has it.
    async fn read(&mut self, tasks: &TaskQueue<Task>) -> Result<(), Trouble> {
        let Self { readers, session, queue, follows } = self;
        let (client, stall_detector) = (&session.client, readers.stall_detector(session));
        let mut flight: Option<Flight<'_>> = None;
        loop {
            if queue.is_empty() {
                let Some(next) = tasks.next().await else { return Ok(()) };
                queue.push_back(Taken::new(next));
            }
            let mut copies = if let Some(flight) = flight.take() {
                let begun = stall_detector.wait(flight.begun).await.map_err(|e| stalled(e, BEGIN))?;
                begun.map_err(|e| trouble(&e, BEGIN))?;
                let prepared =
                    stall_detector.wait(statements(flight.prepared)).await.map_err(|e| stalled(e, BEGIN))??;
                if let Some(next) = queue.get_mut(1) {
                    next.statements = prepared;
                }
                flight.copies
            } else {
                let begun = begin_cold(readers, client, queue, follows, tasks);
                stall_detector.wait(begun).await.map_err(|e| stalled(e, BEGIN))??
            };
            if let Some(next) = queue.get_mut(1).filter(|next| !next.behind) {
                next.behind = true;
                let begin = readers.begin(next.left(), true);
                let prepared = std::mem::take(&mut next.statements);
                if queue.len() < 3
                    && let Some(further) = tasks.ahead(2).await
                {
                    queue.push_back(Taken::new(further));
                }
                let further = queue.get(2).map(Taken::left).unwrap_or_default();
                flight = Some(Flight {
                    begun: sent(async move { client.batch_execute(&begin).await }).await,
                    prepared: prepare(client, further, readers.encoding.as_deref()).await,
                    copies: copy_out(client, prepared).await,
                });
            }
            let Some(taken) = queue.front_mut() else { continue };
            while let Some(chunk) = taken.task.chunks.get(taken.done) {
                let stream = copies.pop_front().ok_or_else(|| Trouble::Fatal(Error::failed("a COPY is missing")))?;
                let label = chunk.label();
                let stream = stall_detector.wait(stream).await.map_err(|e| stalled(e, &format!("read {label}")))?;
                let stream = stream.map_err(|e| trouble(&e, &format!("read {label}")))?;
                copy(stream, readers.reading(session, chunk, &taken.feed, &label), &mut taken.sent).await?;
                taken.feed.end().await.map_err(Trouble::Fatal)?;
                taken.done += 1;
                taken.sent.clear();
            }
            queue.pop_front();
            if let Some(next) = queue.front_mut() {
                next.behind = false;
            }
        }
    }

    fn abandoned(&self) -> bool {
        self.queue.front().is_some_and(|taken| taken.feed.is_abandoned())
    }

    /// Does what can be done about trouble with the first task; an error ends the run.
    async fn overcome(&mut self, trouble: Trouble) -> Result<()> {
        match trouble {
            Trouble::Fatal(error) => Err(error),
            Trouble::Lost(error) => {
                let tries = self.queue.front_mut().map_or(1, |taken| {
                    taken.tries += 1;
                    taken.tries
                });
                if tries > RECONNECTS {
                    return Err(error.context("a reader's connection was lost again and again"));
                }
                tracing::warn!("a reader's connection was lost ({error}); connecting again");
                self.connect_again(tries).await
            }
            Trouble::Refused => {
                if self.queue.iter().any(|taken| taken.behind) {
                    // Rows of the next task are coming already.
                    self.connect_again(0).await?;
                }
                self.one_by_one().await
            }
        }
    }

    async fn connect_again(&mut self, tries: u32) -> Result<()> {
        self.session = self.readers.reconnect(tries).await?;
        self.follows = false;
        self.queue.iter_mut().for_each(Taken::forget);
        Ok(())
    }

    /// After a refusal: each remaining chunk of the first task on its own, those refused left to the leader.
    async fn one_by_one(&mut self) -> Result<()> {
        let Self { readers, session, queue, follows } = self;
        queue.iter_mut().for_each(Taken::forget);
        let Some(taken) = queue.front_mut() else { return Ok(()) };
        while let Some(chunk) = taken.task.chunks.get(taken.done) {
            if std::mem::take(follows) {
                rollback(&session.client).await;
            }
            match readers.alone(session, chunk, &taken.feed, &mut taken.sent).await {
                Ok(()) => *follows = true,
                Err(Trouble::Refused) => {
                    *follows = true;
                    tracing::debug!("{}: somebody waits for its lock; the leader's session reads it", chunk.label());
                    taken.feed.refused(std::mem::take(&mut taken.sent)).await?;
                }
                // The next statement sees the dead connection, and the worker connects again.
                Err(Trouble::Lost(_)) => return Ok(()),
                Err(Trouble::Fatal(error)) => return Err(error),
            }
            taken.done += 1;
            taken.sent.clear();
        }
        // An aborted transaction ends here, not with the next task's beginning.
        rollback(&session.client).await;
        *follows = false;
        queue.pop_front();
        Ok(())
    }
}

/// Begins the first task of the queue with nothing on the wire: one round trip to begin and prepare, the next task's
/// statements too.
async fn begin_cold<'c>(
    readers: &Readers,
    client: &'c Client,
    queue: &mut VecDeque<Taken>,
    follows: &mut bool,
    tasks: &TaskQueue<Task>,
) -> Result<Sent<'c, CopyOutStream>, Trouble> {
    if queue.len() < 2
        && let Some(next) = tasks.ahead(1).await
    {
        queue.push_back(Taken::new(next));
    }
    let begin = readers.begin(queue.front().map(Taken::left).unwrap_or_default(), *follows);
    *follows = true;
    // The statements fail too when a lock is refused, but the cause is said first.
    let begun = sent(async move { client.batch_execute(&begin).await }).await;
    let mut prepared = VecDeque::new();
    for taken in queue.iter().take(2) {
        prepared.push_back(prepare(client, taken.left(), readers.encoding.as_deref()).await);
    }
    begun.await.map_err(|e| trouble(&e, BEGIN))?;
    for (taken, prepared) in queue.iter_mut().zip(prepared) {
        taken.statements = statements(prepared).await?;
    }
    let first = queue.front_mut().map(|taken| std::mem::take(&mut taken.statements)).unwrap_or_default();
    Ok(copy_out(client, first).await)
}

async fn prepare<'c>(client: &'c Client, chunks: &[Arc<Chunk>], encoding: Option<&str>) -> Sent<'c, Statement> {
    let mut all = VecDeque::with_capacity(chunks.len());
    for chunk in chunks {
        let copy = chunk.copy(encoding);
        all.push_back(sent(async move { client.prepare(&copy).await }).await);
    }
    all
}

async fn copy_out(client: &Client, statements: Vec<Statement>) -> Sent<'_, CopyOutStream> {
    let mut all = VecDeque::with_capacity(statements.len());
    for statement in statements {
        all.push_back(sent(async move { client.copy_out(&statement).await }).await);
    }
    all
}

async fn statements(prepared: Sent<'_, Statement>) -> Result<Vec<Statement>, Trouble> {
    let mut all = Vec::with_capacity(prepared.len());
    for answer in prepared {
        all.push(answer.await.map_err(|e| trouble(&e, "prepare a COPY"))?);
    }
    Ok(all)
}
