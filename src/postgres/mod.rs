//! The PostgreSQL side: connection strings, sessions, the client programs and what a database holds.
//!
//! `tokio_postgres` is used here only; nothing here knows where a backup is stored.

pub(crate) mod connect;
pub(crate) mod programs;
pub(crate) mod source;
pub(crate) mod target;

pub(crate) use crate::archive::table_sql::quote as quote_ident;

/// An SQL string literal that means the same whatever `standard_conforming_strings` is.
#[must_use]
pub(crate) fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}
