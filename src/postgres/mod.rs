//! The PostgreSQL side: connection strings, sessions, the client programs and what a database holds.
//!
//! `tokio_postgres` is used here only; nothing here knows where a backup is stored.

pub mod absent;
pub mod catalogue;
pub mod conninfo;
pub mod dependents;
pub mod detect;
pub mod doctor;
pub mod foreign_keys;
pub mod large_objects;
pub mod leader;
pub mod load;
pub mod managed;
mod passfile;
pub mod pg_dump;
pub mod pg_restore;
pub mod pooler;
pub mod rows;
pub mod session;
pub mod stall;
pub mod target;
pub mod tls;
pub mod tools;
pub mod waiters;

pub use crate::archive::table_sql::quote as quote_ident;

/// An SQL string literal that means the same whatever `standard_conforming_strings` is.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}
