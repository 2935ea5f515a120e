//! pg_dump's custom archive format and the text of a table's SQL file: composing both from pg_dump's own entries, and
//! reading both back to the last byte. Sees entries and bytes, never PostgreSQL or a store.

pub(crate) mod catalogue;
pub(crate) mod columns;
pub(crate) mod compose;
pub(crate) mod copy_text;
pub(crate) mod foreign_keys;
pub(crate) mod head;
pub(crate) mod order;
pub(crate) mod partitions;
pub(crate) mod reader;
pub(crate) mod renamed;
pub(crate) mod rows;
pub(crate) mod schema_names;
pub(crate) mod sql_reader;
pub(crate) mod table_sql;
