//! A table whose rows are to be loaded, and the order that foreign keys ask for.

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

/// Tables in the order of these foreign keys: those that are referred to first.
pub(crate) fn referred_first(tables: Vec<Wanted>, keys: &[ForeignKey]) -> Vec<Wanted> {
    let refers: Vec<_> = keys.iter().map(|key| (key.from.clone(), key.to.clone())).collect();
    order::referred_first(tables, Wanted::table_name, &refers)
}
