//! Frames, compression, encryption, hashes and fingerprints: what happens to bytes between PostgreSQL and the store.

pub mod compress;
pub mod decode;
pub mod decrypt;
pub mod digest;
pub mod encrypt;
pub mod hash;
pub mod keys;
pub mod sign;
