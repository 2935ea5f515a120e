//! Ordered parallel streaming: segments of rows come from many readers, are compressed into frames on all cores, and are
//! drained in one global order into the objects of the run. Sees bytes, never PostgreSQL.
//!
//! Law of motion: readers take tasks in order from an [`TaskQueue`]; what they send is bounded by a [`budget::Budget`]
//! of bytes; the task being drained always has memory reserved, so readers that ran ahead can never starve it. Whoever
//! starts the tasks waits for all of them.

pub(crate) mod budget;
pub(crate) mod clock;
pub(crate) mod extremes;
pub(crate) mod feed;
pub mod rate;
pub mod segment;

pub(crate) use crate::pipeline::feed::{Feed, TaskQueue};
pub(crate) use crate::pipeline::segment::{Segment, Segmenter};
