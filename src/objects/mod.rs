//! An object of a run, in both directions: its bytes on the way to the store and back, and the index of its pieces.

pub(crate) mod read;
pub(crate) mod write;
