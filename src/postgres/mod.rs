//! The PostgreSQL side: connection strings, sessions, the client programs and what a database holds.
//!
//! `tokio_postgres` is used here only; nothing here knows where a backup is stored.

pub(crate) mod connect;
pub(crate) mod error;
pub(crate) mod extensions;
pub(crate) mod programs;
pub(crate) mod query;
pub(crate) mod settings;
pub(crate) mod source;
pub(crate) mod target;
