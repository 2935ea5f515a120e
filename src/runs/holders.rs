//! The objects that hold the rows of a table: its own, or those of the partitions below it.

use crate::archive::partitions;
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, Table, TableKind};
use crate::sql::names::TableName;

/// The tables of a run that hold the rows of this one (its places in the manifest): itself, or the partitions below it.
/// `entries` are those of `@database.dump`, asked for a partitioned table only.
///
/// # Errors
/// Kind `Usage` for a table whose rows the run does not contain.
pub(crate) fn of(
    manifest: &Manifest,
    at: (usize, usize),
    entries: &[libpgdump::Entry],
) -> Result<Vec<(TableName, Table)>> {
    let named = |schema: &str, table: &Table| (TableName::new(schema, &table.name), table.clone());
    let found = manifest.schemas.get(at.0).and_then(|schema| Some((schema, schema.tables.get(at.1)?)));
    let (schema, table) = found.ok_or_else(|| Error::failed("a table of the manifest is missing"))?;
    let own = TableName::new(&schema.name, &table.name);
    match table.kind {
        TableKind::Table if manifest.has_rows_of(&schema.name, table) => Ok(vec![(own, table.clone())]),
        TableKind::PartitionedTable => {
            let parents = partitions::parents(entries);
            let all =
                manifest.schemas.iter().flat_map(|schema| schema.tables.iter().map(|one| named(&schema.name, one)));
            let below = |(name, table): &(TableName, Table)| {
                manifest.has_rows_of(&name.schema, table)
                    && partitions::ancestors(name, &parents).any(|one| *one == own)
            };
            Ok(all.filter(below).collect())
        }
        TableKind::Table => Err(Error::usage(format!("{own} was skipped: the run contains no rows of it"))
            .hint("`pgstow show` prints the reason; another run may contain them (`pgstow list`)")),
        TableKind::ForeignTable => Err(Error::usage(format!("{own} is a foreign table: its rows are elsewhere"))),
        TableKind::MaterializedView => {
            Err(Error::usage(format!("{own} is a materialized view: its rows are not saved, a restore computes them")))
        }
    }
}
