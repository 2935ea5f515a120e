//! pgstow: complete logical backups of PostgreSQL and Supabase databases, streamed into object storage and restored.
//!
//! The components, each importing only from those below it:
//!
//! - [`cli`]: what a person may type (clap lives here only);
//! - [`commands`]: one module a command; they put the parts below together;
//! - [`pipeline`]: ordered parallel streaming of sealed frames into objects; sees bytes, never PostgreSQL;
//! - [`postgres`]: sessions, leader, catalogue, COPY (tokio-postgres lives here only); never sees a store;
//! - [`archive`]: pg_dump's custom format: composing, and a sequential reader; the text of a table's SQL file;
//! - [`store`]: one contract, S3 (the AWS crates live in `store::s3` only) and directory;
//! - [`seal`]: frames, compression, hashes, fingerprints;
//! - [`manifest`], [`layout`]: what a run is and where its objects are;
//! - [`progress`], [`shutdown`], [`error`]: what a person sees, how it ends.

pub mod archive;
pub mod cli;
pub mod commands;
pub mod error;
pub mod layout;
pub mod manifest;
pub mod pipeline;
pub mod postgres;
pub mod progress;
pub mod seal;
pub mod shutdown;
pub mod store;
