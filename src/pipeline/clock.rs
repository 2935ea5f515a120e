//! The time that the stages of a pipeline work, and wait for their neighbours: summed over all tasks of a stage, so that
//! four readers that wait one second have waited four. Costs two readings of the clock where something is awaited.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One kind of work or waiting.
#[derive(Debug, Default)]
pub(crate) struct Span(AtomicU64);

impl Span {
    /// Adds time.
    pub(crate) fn add(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Awaits, and adds the time that it took.
    pub(crate) async fn of<F: Future>(&self, awaited: F) -> F::Output {
        let begun = Instant::now();
        let output = awaited.await;
        self.add(begun.elapsed());
        output
    }

    /// The sum so far, in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        Duration::from_nanos(self.0.load(Ordering::Relaxed)).as_secs_f64()
    }
}

/// The spans of a backup's rows.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// Readers waited for rows of the server.
    pub(crate) server: Span,
    /// Readers waited for memory, or for a thread that compresses.
    pub(crate) room: Span,
    /// Threads compressed and hashed rows.
    pub(crate) compress: Span,
    /// The drain waited for compressed rows.
    pub(crate) rows: Span,
    /// The drain encrypted and hashed objects, and waited for the store to take them.
    pub(crate) store: Span,
}
