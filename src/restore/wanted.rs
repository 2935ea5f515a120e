//! A table whose rows are to be loaded, and the order that foreign keys ask for.

use std::collections::HashMap;

use crate::archive::order;
use crate::format::manifest::Table;
use crate::postgres::target::foreign_keys::ForeignKey;
use crate::sql::names::TableName;

/// A table whose rows are to be loaded.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Its schema.
    pub(crate) schema: String,
    /// Its entry in the manifest.
    pub(crate) table: Table,
}

impl Wanted {
    /// The name.
    pub(crate) fn table_name(&self) -> TableName {
        TableName::new(self.schema.clone(), self.table.name.clone())
    }

    /// The name as SQL.
    pub(crate) fn name(&self) -> String {
        self.table_name().sql()
    }
}

/// Tables in the order of these foreign keys: those that are referred to first. A key of a partitioned table is one of
/// every partition, by its topmost table in `roots`.
pub(crate) fn referred_first(
    tables: Vec<Wanted>,
    keys: &[ForeignKey],
    roots: &HashMap<TableName, TableName>,
) -> Vec<Wanted> {
    let root = |name: &TableName| roots.get(name).unwrap_or(name).clone();
    let refers: Vec<_> = keys.iter().map(|key| (root(&key.from), root(&key.to))).collect();
    let refers: Vec<_> = refers.into_iter().filter(|(from, to)| from != to).collect();
    order::referred_first(tables, |wanted| root(&wanted.table_name()), &refers)
}
