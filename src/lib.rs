//! pgstow: complete logical backups of PostgreSQL and Supabase databases, streamed into object storage and restored.
//!
//! The rooms, from the top floor to the ground; a room imports only from floors below its own, and no two files import
//! each other (`tests/architecture.rs` checks both):
//!
//! - [`cli`]: one verb a file: its flags, its call of the engine, its text and its JSON. The only place that knows clap,
//!   a terminal and progress bars;
//! - `fleet`: many databases from one file, each step a process of its own;
//! - `drill`, `doctor`, `rescue`, `notify`: prove a run; check what could stop the next one; bring single rows back; tell
//!   who is to know;
//! - `restore`, `backup`, `verify`, `download`, `copy`, `peek`, `export`, `report`: the engines;
//! - `objects`, `runs`: one object of a run, in both directions; the runs of a store;
//! - `postgres`, [`store`]: connections, programs, the saved database and the target (tokio-postgres lives here only);
//!   S3 (the AWS crates live in `store::s3` only) and directories;
//! - `archive`, [`pipeline`], [`format`]: pg_dump's format; ordered parallel streaming of bytes; manifest and layout;
//! - [`seal`], [`shutdown`]: frames, compression, encryption, hashes; how signals end a command;
//! - `sql`, [`error`], `human`: names, quoting and statements; the one error; sizes, ages and lists for people.

pub(crate) mod archive;
pub(crate) mod backup;
pub mod cli;
pub(crate) mod copy;
pub(crate) mod doctor;
pub(crate) mod download;
pub(crate) mod drill;
pub mod error;
#[cfg(feature = "export")]
pub(crate) mod export;
pub(crate) mod fleet;
pub mod format;
#[cfg(test)]
mod hostile;
pub(crate) mod human;
pub(crate) mod notify;
pub(crate) mod objects;
pub(crate) mod peek;
pub mod pipeline;
pub(crate) mod postgres;
pub(crate) mod report;
pub(crate) mod rescue;
pub(crate) mod restore;
pub(crate) mod runs;
pub mod seal;
pub mod shutdown;
pub(crate) mod sql;
pub mod store;
pub(crate) mod verify;
