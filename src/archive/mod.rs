//! `pg_dump`'s custom format and the text of a table's SQL file: reading both back to the last byte.

pub mod reader;
pub mod rows;
pub mod sql_reader;
