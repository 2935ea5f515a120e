//! pg_dump's custom archive format and the text of a table's SQL file: composing both from pg_dump's own entries, and
//! reading both back to the last byte. Sees entries and bytes, never PostgreSQL or a store.

pub mod catalogue;
pub mod compose;
pub mod order;
pub mod reader;
pub mod rows;
pub mod sql_reader;
pub mod statements;
pub mod table_sql;
