//! What moves between a command and a store: the bytes that it has read of those that it is going to read, for whoever
//! shows progress, and how long readers and store waited for each other.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::pipeline::clock::Span;

/// The counters; clones of a store share them.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    read: AtomicU64,
    expected: AtomicU64,
    total: AtomicU64,
    /// Readers of objects waited for the store.
    pub(crate) store: Span,
    /// Readers of objects waited for whoever takes their rows.
    pub(crate) taker: Span,
}

/// Requests of one kind.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Requests {
    pub(crate) kind: &'static str,
    #[serde(rename = "requests")]
    pub(crate) count: u64,
    pub(crate) sent_bytes: u64,
    /// Of objects only.
    pub(crate) received_bytes: u64,
}

/// The requests with a body that may be under way at once, as measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlight {
    pub(crate) allowed: usize,
    /// The shortest answer, which is what the number follows; `None` before the first.
    pub(crate) shortest_ms: Option<f64>,
    /// True where the server asked for less.
    pub(crate) is_throttled: bool,
}

impl Traffic {
    /// Notes how much is going to be read, once that is known; what was read before does not count.
    pub(crate) fn expect(&self, bytes: u64) {
        self.read.store(0, Ordering::Relaxed);
        self.expected.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn add(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All bytes read of objects.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Bytes read and expected; 0 where nothing is expected yet.
    pub(crate) fn now(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.expected.load(Ordering::Relaxed))
    }
}
