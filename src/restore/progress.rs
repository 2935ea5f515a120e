//! The counters that a restore keeps while rows come in. Owns no drawing: who shows them reads them.

use std::sync::atomic::AtomicU64;

/// Counters of the rows on their way, for whoever shows them.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Bytes of COPY text taken so far.
    pub(crate) taken: AtomicU64,
    /// Those of the tables that are loaded; 0 before they are known.
    pub(crate) total: AtomicU64,
}
