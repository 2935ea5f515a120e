//! The runs of a store: find one, the pointer `latest.json`, receipts, pins, the listing, retention.
//!
//! Each fact about a store has one reader here, so that every command gives the same answer: `pointer` reads
//! `latest.json`, `listing` compares objects with a manifest, `receipts` says which runs were found damaged, `select`
//! finds schemas and tables by name. Nothing here prints.

pub(crate) mod anomaly;
pub(crate) mod contents;
pub(crate) mod diff;
pub(crate) mod find;
pub(crate) mod health;
pub(crate) mod holders;
pub(crate) mod inventory;
pub(crate) mod lineage;
pub(crate) mod listing;
pub(crate) mod outside;
pub(crate) mod pins;
pub(crate) mod pointer;
pub(crate) mod promote;
pub(crate) mod receipts;
pub(crate) mod retention;
pub(crate) mod select;

use std::time::Duration;

/// Longest time that a moment may lie ahead of this machine's clock before it is ignored: clocks differ by minutes, and
/// a store refuses requests that are 15 minutes off.
const SKEW: Duration = Duration::from_hours(1);

/// True for a moment so far ahead that a clock was wrong, or somebody made it up.
pub(crate) fn is_future(at: jiff::Timestamp) -> bool {
    let ahead = at.duration_since(jiff::Timestamp::now());
    ahead.is_positive() && ahead.unsigned_abs() > SKEW
}
