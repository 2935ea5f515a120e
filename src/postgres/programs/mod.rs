//! PostgreSQL's own programs, found and driven: pg_dump, pg_dumpall, pg_restore, psql.

pub(crate) mod child;
pub(crate) mod pg_dump;
pub(crate) mod pg_restore;
pub(crate) mod tools;
