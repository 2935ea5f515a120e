//! The plan of a run: which tables in which order, in which chunks, under which keys. Made once the catalogue is
//! known, before the first row is read.
//!
//! Nothing is lost quietly: every relation that was detected is compared with pg_dump's table of contents. What an
//! extension owns and pg_dump leaves out gets entries of our own (`absent`); what cannot be saved is named in
//! `skipped`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{Catalogue, ExtensionReach, namespace, oid};
use crate::archive::order::referred_first;
use crate::backup::absent::oids_of;
use crate::backup::chunks::table_chunks;
use crate::error::{Error, Result};
use crate::format::layout;
use crate::format::manifest::{Skipped, TableKind};
use crate::objects::key_columns::{self, KeyColumn};
use crate::postgres::source::absent::AbsentTable;
use crate::postgres::source::detect::{Detection, RelKind, Relation};
use crate::postgres::source::rows::Chunk;
use crate::sql::names::TableName;

/// A table of the run.
#[derive(Debug, Clone)]
pub(crate) struct PlannedTable {
    /// Oid of the relation.
    pub(crate) oid: u32,
    pub(crate) name: TableName,
    pub(crate) kind: TableKind,
    /// The extension that owns it.
    pub(crate) extension: Option<String>,
    /// The condition of an extension's configuration table.
    pub(crate) filter: Option<String>,
    /// Its rows; `None` for a table without rows of its own.
    pub(crate) rows: Option<PlannedRows>,
    /// Key stem of its SQL file, relative to the run.
    pub(crate) sql: String,
    /// Key stem of its index, relative to the run.
    pub(crate) index: String,
    /// Size on disk, the base of the part size planned.
    pub(crate) expected: u64,
    /// The encoding of its rows, where it is not UTF-8.
    pub(crate) encoding: Option<String>,
}

/// The rows of a table.
#[derive(Debug, Clone)]
pub(crate) struct PlannedRows {
    /// Dump id of the rows in the archive.
    pub(crate) dump_id: i32,
    /// The chunks in which they are read, in order; at least one.
    pub(crate) chunks: Vec<Arc<Chunk>>,
    /// The columns whose smallest and largest values are kept, of a table that may get an index.
    pub(crate) key_columns: Vec<KeyColumn>,
}

/// A schema of the run.
#[derive(Debug, Clone)]
pub(crate) struct PlannedSchema {
    pub(crate) name: String,
    pub(crate) owner: String,
    /// Key stem of its archive, relative to the run.
    pub(crate) dump: String,
    /// Its tables: those with rows in the order of the archive's table of contents, then the others.
    pub(crate) tables: Vec<PlannedTable>,
    /// Size on disk, the base of the part size planned.
    pub(crate) expected: u64,
}

/// The whole plan.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The schemas, in the order in which they are read.
    pub(crate) schemas: Vec<PlannedSchema>,
    /// The objects that pg_dump does not describe and no extension owns, or that are worthless elsewhere.
    pub(crate) skipped: Vec<Skipped>,
    /// The objects that depend on objects that were left out.
    pub(crate) dependents: Vec<Skipped>,
    /// True when something in `skipped` makes the run partial.
    pub(crate) partial: bool,
    /// Numbers of the schemas in the order in which their rows can be restored, one archive after the other.
    pub(crate) rows_in_order: Vec<usize>,
    /// Extensions have event triggers, which fire while definitions are restored.
    pub(crate) event_triggers: bool,
    /// Dump ids of definitions that need a table which an entry of ours makes after them.
    pub(crate) late: Vec<i32>,
    /// Tables of extensions that pg_dump does not describe.
    pub(crate) absent: Vec<TableName>,
    /// The other databases of the server, where this one holds nothing; else `None`.
    pub(crate) beside: Option<Vec<String>>,
    /// The catalogue, with our own entries.
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) reach: Arc<Vec<ExtensionReach>>,
}

impl Plan {
    /// True where the database has extensions that pg_dump describes.
    pub(crate) fn has_extensions(&self) -> bool {
        self.catalogue.meta.entries.iter().any(|e| e.desc == ObjectType::Extension)
    }
}

/// The facts that the plan is made from, by relation.
struct Sources<'a> {
    detection: &'a Detection,
    /// The entries of rows, with their place in the table of contents.
    rows: HashMap<u32, (usize, &'a Entry)>,
    /// Relations that pg_dump describes.
    described: HashSet<u32>,
    /// Statements of our own that read the tables pg_dump leaves out.
    reads: HashMap<u32, &'a str>,
    entries: &'a [Entry],
}

/// The objects that are left out of the run; they may make it partial.
#[derive(Default)]
struct Gaps {
    skipped: Vec<Skipped>,
    partial: bool,
}

/// Plans the run.
pub(crate) fn plan(
    detection: &Detection,
    catalogue: Catalogue,
    reach: Vec<ExtensionReach>,
    absent: &[AbsentTable],
    changed: &[AbsentTable],
    refers: &[(u32, u32)],
) -> Result<Plan> {
    let entries = &catalogue.meta.entries;
    let described = [ObjectType::Table, ObjectType::ForeignTable, ObjectType::MaterializedView, ObjectType::Sequence];
    let with_rows = entries.iter().enumerate().filter(|(_, e)| e.desc == ObjectType::TableData);
    let sources = Sources {
        detection,
        rows: with_rows.map(|(at, e)| (oid(e), (at, e))).collect(),
        described: oids_of(entries, &described),
        reads: absent.iter().chain(changed).map(|t| (t.oid, t.read.as_str())).collect(),
        entries,
    };
    let mut gaps = Gaps::default();
    let schemas = detection.schemas.iter().map(|schema| {
        // pg_dump takes every schema named so for PostgreSQL's own and describes nothing in it.
        if schema.name.starts_with("pg_") && schema.extension.is_none() {
            gaps.schema(&schema.name);
        }
        sources.schema(&schema.name, &schema.owner, &mut gaps)
    });
    let schemas = schemas.collect::<Result<Vec<PlannedSchema>>>()?;
    sources.refuse_unplanned(&schemas)?;
    let is_absent = |r: &&Relation| absent.iter().any(|t| t.oid == r.oid);
    let absent = detection.relations.iter().filter(is_absent).map(|r| TableName::new(&r.schema, &r.name)).collect();
    Ok(Plan {
        rows_in_order: rows_in_order(detection, &schemas, refers),
        schemas,
        skipped: gaps.skipped,
        dependents: Vec::new(),
        partial: gaps.partial,
        absent,
        event_triggers: false,
        late: Vec::new(),
        beside: None,
        catalogue: Arc::new(catalogue),
        reach: Arc::new(reach),
    })
}

impl Sources<'_> {
    /// Plans the tables of one schema.
    fn schema(&self, name: &str, owner: &str, gaps: &mut Gaps) -> Result<PlannedSchema> {
        let mut relations: Vec<(&Relation, Option<(usize, &Entry)>)> = Vec::new();
        for relation in self.detection.relations.iter().filter(|r| r.schema == name) {
            let data = self.rows.get(&relation.oid).copied();
            let described = self.described.contains(&relation.oid);
            if let Some((why, grave)) = left_out(relation, data.is_some(), described, self.detection) {
                gaps.partial |= grave;
                gaps.skipped.push(why);
                if grave || relation.extension.is_some() {
                    continue;
                }
            }
            if relation.relkind != RelKind::Sequence && relation.unreadable.is_none() {
                relations.push((relation, data));
            }
        }
        relations.sort_by_key(|(relation, data)| (data.map_or(usize::MAX, |(at, _)| at), relation.name.clone()));
        let tables = relations.into_iter().map(|(relation, data)| self.table(relation, data.map(|(_, entry)| entry)));
        let tables = tables.collect::<Result<Vec<PlannedTable>>>()?;
        Ok(PlannedSchema {
            name: name.to_owned(),
            owner: owner.to_owned(),
            dump: layout::schema_dump(name),
            expected: tables.iter().map(|t| t.expected).sum(),
            tables,
        })
    }

    fn table(&self, relation: &Relation, data: Option<&Entry>) -> Result<PlannedTable> {
        let rows = match data {
            Some(entry) => {
                let mut key_columns = Vec::new();
                let own_read = self.reads.get(&relation.oid).copied();
                let chunks = table_chunks(relation, entry, own_read, |columns| {
                    key_columns = key_columns::of(self.entries, &relation.schema, &relation.name, columns);
                    key_columns.iter().map(|column| column.field).collect()
                })?;
                Some(PlannedRows { dump_id: entry.dump_id, chunks, key_columns })
            }
            None => None,
        };
        let kind = kind(relation).ok_or_else(|| Error::failed("internal error: a sequence was planned as a table"))?;
        Ok(PlannedTable {
            oid: relation.oid,
            name: TableName::new(&relation.schema, &relation.name),
            kind,
            extension: relation.extension.clone(),
            filter: data.and_then(|_| relation.filter.clone()),
            rows,
            sql: layout::table_sql(&relation.schema, &relation.name),
            index: layout::table_index(&relation.schema, &relation.name),
            expected: u64::try_from(relation.bytes).unwrap_or(0),
            encoding: None,
        })
    }

    /// Refuses a plan that forgets rows which pg_dump describes.
    fn refuse_unplanned(&self, schemas: &[PlannedSchema]) -> Result<()> {
        let tables = schemas.iter().flat_map(|s| &s.tables);
        let planned: HashSet<u32> = tables.filter(|t| t.rows.is_some()).map(|t| t.oid).collect();
        let Some((_, entry)) = self.rows.values().find(|(_, e)| !planned.contains(&oid(e))) else { return Ok(()) };
        let (schema, name) = (namespace(entry), entry.tag.as_deref().unwrap_or_default());
        Err(Error::failed(format!("pg_dump describes rows of a table that was not detected: {schema}.{name}"))
            .hint("this is a defect of pgstow; please report it"))
    }
}

impl Gaps {
    fn schema(&mut self, name: &str) {
        self.partial = true;
        self.skipped.push(Skipped {
            schema: name.to_owned(),
            name: name.to_owned(),
            kind: "schema".to_owned(),
            reason: "pg_dump does not describe a schema whose name begins with pg_: rename it".to_owned(),
            entries: Vec::new(),
        });
    }
}

/// Numbers of the schemas in the order in which their rows can be restored: those with rows of extensions first, and
/// among these what is referred to before what refers.
fn rows_in_order(detection: &Detection, schemas: &[PlannedSchema], refers: &[(u32, u32)]) -> Vec<usize> {
    let schema_of: HashMap<u32, &str> = detection.relations.iter().map(|r| (r.oid, r.schema.as_str())).collect();
    let number_of = |table: &u32| schema_of.get(table).and_then(|name| schemas.iter().position(|s| s.name == **name));
    let between: Vec<(usize, usize)> =
        refers.iter().filter_map(|(from, to)| Some((number_of(from)?, number_of(to)?))).collect();
    let has_extensions = |schema: &PlannedSchema| schema.tables.iter().any(|table| table.extension.is_some());
    let (first, others): (Vec<usize>, Vec<usize>) =
        (0..schemas.len()).partition(|number| schemas.get(*number).is_some_and(has_extensions));
    referred_first(first.into_iter().chain(others).collect(), |number| *number, &between)
}

/// The reason why a relation's rows (or value) are not in the run, and whether that makes the run partial.
fn left_out(relation: &Relation, has_rows: bool, described: bool, detection: &Detection) -> Option<(Skipped, bool)> {
    let skip = |reason: &str, grave: bool| {
        let words = kind(relation).map_or("sequence", TableKind::as_str);
        let skipped = Skipped {
            schema: relation.schema.clone(),
            name: relation.name.clone(),
            kind: words.to_owned(),
            reason: reason.to_owned(),
            entries: Vec::new(),
        };
        Some((skipped, grave))
    };
    if let Some(reason) = &relation.unreadable {
        return skip(reason, true);
    }
    match (relation.relkind, &relation.extension) {
        (RelKind::Table, Some(_)) if !has_rows && relation.persistence == 'u' => {
            skip("unlogged table of an extension: a scratch area whose rows must not come back", false)
        }
        (RelKind::Table | RelKind::Sequence, None)
            if !has_rows && relation.persistence == 'u' && detection.server.in_recovery =>
        {
            skip("unlogged: it has no content on a standby", false)
        }
        // What CREATE EXTENSION makes again is not described either; what was attached by hand cannot be told apart.
        (RelKind::PartitionedTable | RelKind::MaterializedView | RelKind::ForeignTable, Some(extension))
            if !described =>
        {
            let reason = format!(
                "pg_dump does not describe what belongs to an extension: it comes back as far as CREATE EXTENSION {extension} makes it"
            );
            skip(&reason, false)
        }
        (RelKind::Sequence, None) if !described && !relation.schema.starts_with("pg_") => {
            skip("pg_dump does not describe it (its table was left out)", true)
        }
        (
            RelKind::Table
            | RelKind::PartitionedTable
            | RelKind::ForeignTable
            | RelKind::MaterializedView
            | RelKind::Sequence,
            None,
        ) if !described => {
            let closed = detection.schemas.iter().any(|schema| schema.name == relation.schema && !schema.usable);
            let reason = if closed {
                "no USAGE on the schema"
            } else if relation.schema.starts_with("pg_") {
                "pg_dump does not describe it (the name of its schema begins with pg_)"
            } else {
                "pg_dump does not describe it"
            };
            skip(reason, true)
        }
        (RelKind::Table, None) if !has_rows => skip("pg_dump does not describe its rows", true),
        _ => None,
    }
}

/// The kind of a table in the manifest; `None` for a sequence.
const fn kind(relation: &Relation) -> Option<TableKind> {
    Some(match relation.relkind {
        RelKind::Table => TableKind::Table,
        RelKind::PartitionedTable => TableKind::PartitionedTable,
        RelKind::ForeignTable => TableKind::ForeignTable,
        RelKind::MaterializedView => TableKind::MaterializedView,
        RelKind::Sequence => return None,
    })
}
