//! Ordered parallel streaming: segments of rows come from many readers, are sealed into frames on all cores, and are
//! drained in one global order into the objects of the run. Sees bytes, never PostgreSQL.
//!
//! Law of motion: readers take tasks in order from an [`Intake`]; what they send is bounded by a [`budget::Budget`]
//! of bytes; the task being drained always has memory reserved, so readers that ran ahead can never starve it. One
//! place ([`crate::backup`]) starts all tasks and waits for all of them.

pub(crate) mod budget;
pub(crate) mod feed;
pub mod rate;
pub mod segment;

pub(crate) use crate::pipeline::feed::{Feed, Intake};
pub(crate) use crate::pipeline::segment::{Segment, Segmenter};
