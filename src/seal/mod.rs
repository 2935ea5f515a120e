//! Frames, compression, hashes and fingerprints: what happens to bytes between PostgreSQL and the store.

pub mod compress;
pub mod decode;
pub mod digest;
