//! The progress of a run: counted while it reads, shown by the progress display, quoted by the error of a deadline.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::pipeline::clock::Clock;

/// The counters of one run; readers and writers share them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Rows written.
    pub(crate) rows: AtomicU64,
    /// Bytes of COPY text written.
    pub(crate) raw: AtomicU64,
    /// Estimated bytes on disk of the tables written.
    pub(crate) disk: AtomicU64,
    /// Tables written. A schema that is written again counts twice.
    pub(crate) tables: AtomicU64,
    /// Schemas written.
    pub(crate) schemas: AtomicU64,
    /// The times of the stages that rows pass.
    pub(crate) clock: Arc<Clock>,
    steps: Mutex<Vec<(&'static str, Instant, Duration)>>,
    total: OnceLock<Total>,
}

/// The amount of work of a run, known once its plan is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Total {
    pub(crate) schemas: u64,
    pub(crate) tables: u64,
    /// Estimated bytes on disk of all tables.
    pub(crate) disk: u64,
}

impl Counters {
    /// Notes the amount of work. The first call counts.
    pub(crate) fn expect(&self, total: Total) {
        self.total.get_or_init(|| total);
    }

    /// The amount of work; `None` before the plan is made.
    pub(crate) fn total(&self) -> Option<Total> {
        self.total.get().copied()
    }

    /// Notes that a step ended which began at `begun`.
    pub(crate) fn step(&self, name: &'static str, begun: Instant) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.push((name, begun, begun.elapsed()));
    }

    /// The steps that ended, each with its beginning and its time.
    pub(crate) fn steps(&self) -> Vec<(&'static str, Instant, Duration)> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The progress in words.
    pub(crate) fn reached(&self) -> String {
        let Some(total) = self.total() else {
            return "the run was still locking tables and reading the catalogue".to_owned();
        };
        let done = |n: &AtomicU64| n.load(Ordering::Relaxed);
        format!(
            "{} of {} schemas and {} of {} tables were read, {} rows, {} of text",
            done(&self.schemas).min(total.schemas),
            total.schemas,
            done(&self.tables).min(total.tables),
            total.tables,
            indicatif::HumanCount(done(&self.rows)),
            indicatif::HumanBytes(done(&self.raw)),
        )
    }
}
