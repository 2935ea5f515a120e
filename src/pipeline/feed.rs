//! Between readers and the drain: tasks handed out in order, frames compressed on all cores, delivered in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

use crate::error::{Error, Result};
use crate::pipeline::budget::{Budget, Permit};
use crate::pipeline::clock::Clock;
use crate::pipeline::extremes::{self, Bounds, Fields};
use crate::pipeline::segment::Segment;
use crate::seal::compress::{Compression, Compressors};
use crate::seal::digest::{Fingerprint, Partial};

/// Items a task may have on their way; bytes are bounded by the budget, this bounds the rest.
const ITEMS: usize = 1024;

/// One compressed frame of whole rows.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The frame as it is stored, in pieces.
    pub(crate) pieces: Vec<Bytes>,
    /// Rows, raw bytes and sums of the rows in it.
    pub(crate) fingerprint: Fingerprint,
    /// Smallest and largest values of the fields that are watched.
    pub(crate) extremes: Vec<Bounds>,
    _permit: Permit,
}

/// The message of a reader about its current chunk; chunks of a task come one after the other.
#[derive(Debug)]
pub(crate) enum Item {
    /// The next rows.
    Frame(oneshot::Receiver<Result<Frame>>),
    /// All rows of the chunk were sent.
    End,
    /// The reader could not get the table's lock: the leader's session must read the chunk. Segments with these hashes
    /// were sent already.
    Refused(Vec<u128>),
}

/// Hands out tasks in order.
#[derive(Debug)]
pub(crate) struct TaskQueue<T> {
    state: Mutex<State<T>>,
    /// Those who take tasks.
    workers: u64,
    compressor: Compressor,
}

#[derive(Debug)]
struct State<T> {
    /// Number of the next task.
    next: u64,
    /// Tasks that nobody has taken.
    waiting: VecDeque<T>,
    /// The receiving ends of the tasks that were taken, in their order.
    deliver: mpsc::UnboundedSender<mpsc::Receiver<Item>>,
}

/// Compresses segments into frames, within a budget of memory, on so many threads.
#[derive(Debug, Clone)]
pub(crate) struct Compressor {
    compressors: Arc<Compressors>,
    budget: Budget,
    cores: Arc<Semaphore>,
    clock: Arc<Clock>,
}

/// The reader's end of one task.
#[derive(Debug)]
pub(crate) struct Feed {
    task: u64,
    items: mpsc::Sender<Item>,
    compressor: Compressor,
}

/// Receives the tasks' items in the order of the tasks.
pub(crate) type Delivery = mpsc::UnboundedReceiver<mpsc::Receiver<Item>>;

impl Compressor {
    /// Compresses like this, within the budget, on at most `cores` threads at once, and fewer where a compressor takes much
    /// memory.
    #[must_use]
    pub(crate) fn new(compression: Compression, budget: Budget, cores: usize, clock: Arc<Clock>) -> Self {
        let cores = cores.min(compression.most_at_once());
        Self {
            compressors: Arc::new(Compressors::new(compression)),
            budget,
            cores: Arc::new(Semaphore::new(cores)),
            clock,
        }
    }

    /// A feed outside any queue, for a chunk that is read when its turn to be drained has come.
    #[must_use]
    pub(crate) fn direct(&self) -> (Feed, mpsc::Receiver<Item>) {
        let (items, receiver) = mpsc::channel(ITEMS);
        // Task 0 has always been reached: the reserve is open to it.
        (Feed { task: 0, items, compressor: self.clone() }, receiver)
    }
}

impl<T> TaskQueue<T> {
    /// A queue of these tasks, in this order, for so many workers, and the delivery for the drain.
    #[must_use]
    pub(crate) fn new(tasks: Vec<T>, workers: usize, compressor: Compressor) -> (Self, Delivery) {
        let (deliver, delivery) = mpsc::unbounded_channel();
        let state = Mutex::new(State { next: 0, waiting: tasks.into(), deliver });
        (Self { state, workers: workers as u64, compressor }, delivery)
    }

    /// The next task and the feed to send its rows to; `None` when all are taken.
    pub(crate) async fn next(&self) -> Option<(T, Feed)> {
        self.take(0).await
    }

    /// As [`Self::next`], for a worker that has `depth` tasks in hand; also `None` while others may have fewer, and
    /// near the end, where what one worker has in hand another one could be reading.
    pub(crate) async fn ahead(&self, depth: u64) -> Option<(T, Feed)> {
        self.take(depth).await
    }

    async fn take(&self, depth: u64) -> Option<(T, Feed)> {
        let mut state = self.state.lock().await;
        let left = state.waiting.len() as u64;
        if depth > 0 && (state.next < self.workers * depth || left < self.workers) {
            return None;
        }
        let task = state.waiting.pop_front()?;
        let number = state.next;
        state.next += 1;
        let (items, receiver) = mpsc::channel(ITEMS);
        state.deliver.send(receiver).ok()?;
        Some((task, Feed { task: number, items, compressor: self.compressor.clone() }))
    }
}

impl Feed {
    /// Waits for memory for so many bytes, before they are read.
    pub(crate) async fn room(&self, bytes: usize) -> Result<Permit> {
        let begun = Instant::now();
        let room = self.compressor.budget.acquire(self.task, bytes).await;
        self.compressor.clock.room.add(begun.elapsed());
        room
    }

    /// Sends the next rows of the current chunk: waits for memory unless there is `room` already, then for a core, and
    /// returns while they are being compressed. These fields of them are watched.
    pub(crate) async fn segment(&self, segment: Segment, room: Option<Permit>, fields: &Fields) -> Result<()> {
        let mut permit = match room {
            Some(room) => room,
            None => self.room(segment.bytes).await?,
        };
        let clock = Arc::clone(&self.compressor.clock);
        let begun = Instant::now();
        let core = Arc::clone(&self.compressor.cores)
            .acquire_owned()
            .await
            .map_err(|closed| Error::failed(format!("wait for a core: {closed}")))?;
        clock.room.add(begun.elapsed());
        let (done, frame) = oneshot::channel();
        let compressors = Arc::clone(&self.compressor.compressors);
        let fields = Fields::clone(fields);
        tokio::task::spawn_blocking(move || {
            let _core = core;
            let begun = Instant::now();
            let extremes = extremes::of(&fields, &segment.parts);
            let result = compress(&compressors, segment).map(|(pieces, fingerprint)| {
                permit.shrink_to(pieces.iter().map(Bytes::len).sum());
                Frame { pieces, fingerprint, extremes, _permit: permit }
            });
            clock.compress.add(begun.elapsed());
            // When nobody waits any more, the run is ending.
            drop(done.send(result));
        });
        self.send(Item::Frame(frame)).await
    }

    /// The times of the run's stages.
    pub(crate) fn clock(&self) -> &Clock {
        &self.compressor.clock
    }

    /// Says that all rows of the current chunk were sent.
    pub(crate) async fn end(&self) -> Result<()> {
        self.send(Item::End).await
    }

    /// Says that the current chunk must be read by the leader's session, which need not send the segments with these
    /// hashes again.
    pub(crate) async fn refused(&self, sent: Vec<u128>) -> Result<()> {
        self.send(Item::Refused(sent)).await
    }

    /// Ends the chunk with an error, which the drain will return.
    pub(crate) async fn failed(&self, error: Error) -> Result<()> {
        let (done, frame) = oneshot::channel();
        drop(done.send(Err(error)));
        self.send(Item::Frame(frame)).await
    }

    /// True once nobody will read what is sent: the drain has ended, and why is for it to say.
    #[must_use]
    pub(crate) fn is_abandoned(&self) -> bool {
        self.items.is_closed()
    }

    async fn send(&self, item: Item) -> Result<()> {
        self.items.send(item).await.map_err(|closed| Error::failed(format!("the run is ending: {closed}")))
    }
}

fn compress(compressors: &Compressors, segment: Segment) -> Result<(Vec<Bytes>, Fingerprint)> {
    let mut fingerprint = Fingerprint::default();
    // A row that came in several messages is hashed piece by piece; rows of one message in place.
    let mut row = Partial::default();
    for part in &segment.parts {
        row.lines(&mut fingerprint, part);
    }
    if !row.is_empty() {
        return Err(Error::failed("a segment does not end with a row"));
    }
    Ok((compressors.frame(segment.parts)?, fingerprint))
}
