//! The text of SQL: names, quoting, encodings, and what pgstow reads out of pg_dump's statements. Knows no connection.

pub(crate) mod letters;
pub(crate) mod names;
pub(crate) mod privileges;
pub(crate) mod statements;
