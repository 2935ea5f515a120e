//! The size of ordinary tables as the run tells it: what is made on a small one takes no time, and many of them go into one
//! request; what is made on a large one is worth a session of its own.

use std::collections::HashMap;

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag};
use crate::format::manifest::{Manifest, Schema, Table, TableKind};
use crate::sql::names::TableName;

/// Rows of a table whose indexes and constraints are made in an instant, in bytes of text.
pub(crate) const SMALL_BYTES: u64 = 256 << 10;

/// Bytes of the rows of ordinary tables, by schema and name.
#[derive(Debug)]
pub(crate) struct Sizes<'a>(HashMap<(&'a str, &'a str), u64>);

impl<'a> Sizes<'a> {
    pub(crate) fn new(manifest: &'a Manifest) -> Self {
        let is_ordinary = |table: &&Table| table.kind == TableKind::Table;
        let of = |schema: &'a Schema| {
            let tables = schema.tables.iter().filter(is_ordinary);
            tables.map(|table| ((schema.name.as_str(), table.name.as_str()), table.raw_bytes))
        };
        Self(manifest.schemas.iter().flat_map(of).collect())
    }

    /// Bytes of the rows of an ordinary table; `None` for any other.
    pub(crate) fn bytes(&self, table: &TableName) -> Option<u64> {
        self.0.get(&(table.schema.as_str(), table.table.as_str())).copied()
    }

    /// True for what takes no time: all that is on ordinary tables of few rows.
    pub(crate) fn is_quick<'e>(&self, entry: &Entry, by_id: impl Fn(i32) -> Option<&'e Entry>) -> bool {
        let on = entry.dependencies.iter().filter_map(|id| by_id(*id));
        let has_rows = |on: &&Entry| {
            matches!(on.desc, ObjectType::Table | ObjectType::MaterializedView | ObjectType::ForeignTable)
        };
        let mut tables = on.filter(has_rows).peekable();
        entry.desc != ObjectType::MaterializedViewData
            && tables.peek().is_some()
            && tables.all(|on| self.0.get(&(namespace(on), tag(on))).is_some_and(|bytes| *bytes <= SMALL_BYTES))
    }
}
