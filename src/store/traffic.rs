//! Bytes that a command has read from a store, of those that it is going to read: for whoever shows progress.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters; clones of a store share them.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    read: AtomicU64,
    expected: AtomicU64,
}

impl Traffic {
    /// Notes how much is going to be read, once that is known; what was read before does not count.
    pub(crate) fn expect(&self, bytes: u64) {
        self.read.store(0, Ordering::Relaxed);
        self.expected.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn add(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes read and expected; 0 where nothing is expected yet.
    pub(crate) fn now(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.expected.load(Ordering::Relaxed))
    }
}
