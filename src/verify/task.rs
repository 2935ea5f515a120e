//! The objects that a verification reads, and what it finds in each.

use crate::error::Error;
use crate::format::manifest::{Manifest, Object, Schema, Table};

/// One object (a SQL file together with its index) to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// The roles script.
    Roles,
    /// RESTORE.md.
    RestoreMd,
    /// The archive of the database's DDL.
    Database,
    /// The archive of the large objects.
    LargeObjects,
    /// The archive of this schema.
    Dump(usize),
    /// The SQL file of this schema's table.
    File(usize, usize),
}

impl Task {
    /// Schema and table of a table's file; `None` for every other object.
    pub(super) fn table(self, manifest: &Manifest) -> Option<(&Schema, &Table)> {
        let Self::File(schema, table) = self else { return None };
        let schema = manifest.schemas.get(schema)?;
        Some((schema, schema.tables.get(table)?))
    }

    /// The object to read.
    pub(crate) fn object(self, manifest: &Manifest) -> Option<&Object> {
        match self {
            Self::Roles => Some(&manifest.roles.object),
            Self::RestoreMd => manifest.restore_md.as_ref(),
            Self::Database => Some(&manifest.database.object),
            Self::LargeObjects => manifest.large_objects.object.as_ref(),
            Self::Dump(schema) => manifest.schemas.get(schema).map(|schema| &schema.dump),
            Self::File(schema, table) => Some(&manifest.schemas.get(schema)?.tables.get(table)?.file),
        }
    }
}

/// An error for a task that does not fit the manifest it was made from: a check must never be passed over in silence.
pub(super) fn impossible(what: &str) -> Error {
    Error::failed(format!("internal error: verify lost {what} of the manifest")).hint("please report this")
}

/// All objects of a run.
pub(crate) fn tasks(manifest: &Manifest) -> Vec<Task> {
    let mut tasks = vec![Task::Roles, Task::Database, Task::RestoreMd, Task::LargeObjects];
    for (at, schema) in manifest.schemas.iter().enumerate() {
        tasks.push(Task::Dump(at));
        tasks.extend((0..schema.tables.len()).map(|table| Task::File(at, table)));
    }
    tasks
}

/// The result of reading an object.
#[derive(Debug, Default)]
pub(crate) struct Finding {
    /// Stored bytes read.
    pub(crate) bytes: u64,
    /// Key and problem.
    pub(crate) problems: Vec<(String, String)>,
    /// Table and `COPY` statement, of every block of rows.
    pub(crate) copies: Vec<(String, String)>,
    /// Key of the index and why the pieces it tells of could not be read.
    pub(super) pieces: Option<(String, String)>,
}
