//! The request for a rescue, as the engine takes it.

use std::sync::Arc;
use std::time::Duration;

use crate::postgres::connect::conninfo::ConnInfo;
use crate::restore::forget::list::List;
use crate::seal::keys::Keys;

/// The rows that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Apply {
    /// Those that the live table does not have.
    Missing,
    /// Those that have other content there.
    Changed,
    /// Both.
    Both,
}

/// The triggers of the tables that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Triggers {
    /// They fire.
    Fire,
    /// They are off in the transaction that writes.
    Off,
}

/// A rescue that is asked for.
pub(crate) struct Options {
    /// Run: its name, the beginning of its name, or `latest`.
    pub(crate) run: String,
    /// The table, as `schema.table`.
    pub(crate) table: String,
    /// The database with the live table.
    pub(crate) target: ConnInfo,
    pub(crate) connect_timeout: Duration,
    /// Longest wait for a lock of the live table.
    pub(crate) lock_timeout: Duration,
    /// An SQL condition on the rows.
    pub(crate) condition: Option<String>,
    /// The columns by which rows are told apart; empty for the primary key.
    pub(crate) key: Vec<String>,
    /// `None` to compare only.
    pub(crate) apply: Option<Apply>,
    /// Write, and roll back.
    pub(crate) rehearse: bool,
    /// Bring rows of other tables too that missing rows refer to.
    pub(crate) with_referenced: bool,
    pub(crate) triggers: Triggers,
    /// Most rows of each kind that are fetched.
    pub(crate) limit: u64,
    pub(crate) keys: Keys,
    /// Keys of rows that must not come back.
    pub(crate) forget: Option<Arc<List>>,
}
