//! pg_dump's custom archive format: reading its table of contents, composing archives from it, and the text of a
//! table's SQL file. Sees entries and bytes, never PostgreSQL or a store.

pub mod catalogue;
pub mod compose;
pub mod table_sql;
