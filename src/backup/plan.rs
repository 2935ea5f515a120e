//! The plan of a run: which tables in which order, in which chunks, under which keys. Made once the catalogue is
//! known, before the first row is read.
//!
//! Nothing is lost quietly: every relation that was detected is compared with pg_dump's table of contents. What an
//! extension owns and pg_dump leaves out gets entries of our own; what cannot be saved is named in `skipped`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use libpgdump::{Entry, ObjectType, OffsetState, Section};

use crate::archive::catalogue::{Belongs, Catalogue, ExtensionReach, PG_CLASS, namespace, oid, tag};
use crate::archive::order::referred_first;
use crate::archive::table_sql::{TableSql, Title};
use crate::archive::{compose, table_sql};
use crate::backup::drain::{SchemaPlan, TablePlan, Texts};
use crate::error::{Error, Result};
use crate::format::layout;
use crate::format::manifest::{Omitted, Skipped, TableKind};
use crate::postgres::source::absent::{AbsentSequence, AbsentTable};
use crate::postgres::source::detect::{Detection, Relation};
use crate::postgres::source::leader::{lockable, qualified};
use crate::postgres::source::rows::{Chunk, Task};
use crate::sql::statements::copy_columns;

/// A large heap table is cut into chunks of about so many bytes on disk: enough that a COPY's start costs nothing,
/// small enough that four sessions share a table of 64 MiB.
const CHUNK_BYTES: i64 = 16 << 20;
/// Chunks of a large table that follow each other in one session: the server begins the next one while the last
/// bytes of the one before are still on their way. More would let one session fall behind the global order.
const CHUNKS_TOGETHER: usize = 2;
/// Small tables are read together in one transaction, up to so many bytes on disk and so many tables.
const BATCH_BYTES: i64 = 8 << 20;
const BATCH_TABLES: usize = 256;

/// A table of the run, with what the manifest says of it beyond its rows.
#[derive(Debug, Clone)]
pub(crate) struct PlannedTable {
    /// Oid of the relation.
    pub(crate) oid: u32,
    /// Its name.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: TableKind,
    /// The extension that owns it.
    pub(crate) extension: Option<String>,
    /// The filter of an extension's configuration table.
    pub(crate) filter: Option<String>,
}

/// A schema of the run.
#[derive(Debug, Clone)]
pub(crate) struct PlannedSchema {
    /// Its name.
    pub(crate) name: String,
    /// Its owner.
    pub(crate) owner: String,
    /// Its tables, in the order of the drain's plan.
    pub(crate) tables: Vec<PlannedTable>,
}

/// The whole plan.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Schemas and tables for the manifest.
    pub(crate) schemas: Vec<PlannedSchema>,
    /// The same for the drain.
    pub(crate) drain: Vec<SchemaPlan>,
    /// All chunks in the global order.
    pub(crate) chunks: Arc<Vec<Chunk>>,
    /// What pg_dump does not describe and no extension owns, or what is worthless elsewhere.
    pub(crate) skipped: Vec<Skipped>,
    /// What depends on what was left out.
    pub(crate) dependents: Vec<Skipped>,
    /// Whether something in `skipped` makes the run partial.
    pub(crate) partial: bool,
    /// Numbers of the schemas in the order in which their rows can be restored, one archive after the other.
    pub(crate) rows_in_order: Vec<usize>,
    /// Extensions have event triggers, which fire while definitions are restored.
    pub(crate) event_triggers: bool,
    /// Tables of extensions that pg_dump does not describe, as `schema.table`.
    pub(crate) absent: Vec<String>,
    /// The catalogue, with our own entries.
    pub(crate) catalogue: Arc<Catalogue>,
    reach: Arc<Vec<ExtensionReach>>,
}

/// Relations of extensions that pg_dump leaves out: tables, then sequences.
#[must_use]
pub(crate) fn absent<'a>(detection: &'a Detection, entries: &[Entry]) -> (Vec<&'a Relation>, Vec<&'a Relation>) {
    let with_rows = oids_of(entries, &[ObjectType::TableData]);
    // These carry no oid, but schema and name of their sequence.
    let values = entries.iter().filter(|e| e.desc == ObjectType::SequenceSet);
    let with_value: HashSet<(&str, &str)> = values.map(|e| (namespace(e), tag(e))).collect();
    let owned = |r: &&Relation| r.extension.is_some() && r.unreadable.is_none() && r.persistence != 'u';
    let tables = detection.relations.iter().filter(owned).filter(|r| r.relkind == 'r' && !with_rows.contains(&r.oid));
    let sequences = detection
        .relations
        .iter()
        .filter(owned)
        .filter(|r| r.relkind == 'S' && !with_value.contains(&(r.schema.as_str(), r.name.as_str())));
    (tables.collect(), sequences.collect())
}

/// `pg_dump` 16 and newer writes `run_as_owner = true` for subscriptions of older servers: that is how those work, but no
/// option that they know, so the statement would fail on them. Takes it away; returns what is to be told of that.
pub(crate) fn without_run_as_owner(entries: &mut [Entry], server_version_num: u32) -> Vec<Omitted> {
    const WORDS: &str = ", run_as_owner = true";
    if server_version_num >= 160_000 {
        return Vec::new();
    }
    let mut told = Vec::new();
    for entry in entries.iter_mut().filter(|e| e.desc == ObjectType::Subscription) {
        // The options stand last, behind every text of the user's.
        let Some(defn) = entry.defn.as_mut() else { continue };
        let Some(options) = defn.rfind(" WITH (connect = false") else { continue };
        let Some(at) = defn.get(options..).and_then(|options| options.find(WORDS)) else { continue };
        defn.replace_range(options + at..options + at + WORDS.len(), "");
        told.push(Omitted {
            kind: "subscription option".to_owned(),
            name: tag(entry).to_owned(),
            reason:
                "run_as_owner is no option of this server; after a restore into PostgreSQL 16 or newer, set it to true \
                     where changes shall be applied as the subscription's owner, as they are here"
                    .to_owned(),
        });
    }
    told
}

fn oids_of(entries: &[Entry], descs: &[ObjectType]) -> HashSet<u32> {
    entries.iter().filter(|e| descs.contains(&e.desc)).map(oid).collect()
}

/// Sequences of an extension's tables are the extension's too: pg_dump leaves them out with their tables although
/// they may not be members themselves.
pub(crate) fn adopt_sequences(detection: &mut Detection, belongs: &Belongs) {
    let owners: HashMap<u32, String> =
        detection.relations.iter().filter_map(|r| r.extension.clone().map(|extension| (r.oid, extension))).collect();
    for sequence in detection.relations.iter_mut().filter(|r| r.relkind == 'S' && r.extension.is_none()) {
        let table = belongs.get(&(PG_CLASS, sequence.oid));
        sequence.extension = table.and_then(|table| owners.get(table)).cloned();
    }
}

/// Adds entries of our own for what pg_dump left out of extensions.
pub(crate) fn add_absent(
    catalogue: &mut Catalogue,
    detection: &Detection,
    tables: &[AbsentTable],
    sequences: &[AbsentSequence],
) -> Result<()> {
    let by_oid: HashMap<u32, &Relation> = detection.relations.iter().map(|r| (r.oid, r)).collect();
    let extension_ids: HashMap<String, i32> = catalogue
        .meta
        .entries
        .iter()
        .filter(|e| e.desc == ObjectType::Extension)
        .map(|e| (e.tag.clone().unwrap_or_default(), e.dump_id))
        .collect();
    let mut next = catalogue.last_dump_id();
    let mut entry = |relation: &Relation, desc: ObjectType, section: Section| {
        next += 1;
        let extension = relation.extension.as_ref().and_then(|name| extension_ids.get(name));
        Entry {
            dump_id: next,
            had_dumper: false,
            table_oid: "0".to_owned(),
            oid: relation.oid.to_string(),
            tag: Some(relation.name.clone()),
            desc,
            section,
            defn: None,
            drop_stmt: None,
            copy_stmt: None,
            namespace: Some(relation.schema.clone()),
            tablespace: None,
            tableam: None,
            relkind: None,
            // No owner: the statements of these entries say it where it matters.
            owner: Some(String::new()),
            with_oids: false,
            dependencies: extension.copied().into_iter().collect(),
            data_state: OffsetState::NoData,
            offset: 0,
            filename: None,
        }
    };
    let relation = |oid: u32| by_oid.get(&oid).copied().ok_or_else(|| Error::failed(format!("relation {oid} is gone")));
    for table in tables {
        let of = relation(table.oid)?;
        let mut make = entry(of, ObjectType::Table, Section::PreData);
        make.defn = Some(table.create.clone());
        let mut rows = entry(of, ObjectType::TableData, Section::Data);
        rows.had_dumper = true;
        rows.data_state = OffsetState::NotSet;
        rows.copy_stmt = Some(table.load.clone());
        rows.dependencies.push(make.dump_id);
        catalogue.add(make, Some(table.oid));
        catalogue.add(rows, Some(table.oid));
    }
    for sequence in sequences {
        let of = relation(sequence.oid)?;
        let mut make = entry(of, ObjectType::Sequence, Section::PreData);
        make.defn = Some(sequence.create.clone());
        catalogue.add(make, None);
        let mut set = entry(of, ObjectType::SequenceSet, Section::Data);
        set.defn = Some(sequence.set.clone());
        catalogue.add(set, None);
    }
    Ok(())
}

/// Plans the run.
pub(crate) fn plan(
    detection: &Detection,
    catalogue: Catalogue,
    reach: Vec<ExtensionReach>,
    absent: &[AbsentTable],
    refers: &[(u32, u32)],
) -> Result<Plan> {
    let absent_names = detection
        .relations
        .iter()
        .filter(|r| absent.iter().any(|table| table.oid == r.oid))
        .map(|r| format!("{}.{}", r.schema, r.name))
        .collect();
    let reads: HashMap<u32, &str> = absent.iter().map(|t| (t.oid, t.read.as_str())).collect();
    let rows: HashMap<u32, (usize, &Entry)> = catalogue
        .meta
        .entries
        .iter()
        .enumerate()
        .filter(|(_, e)| e.desc == ObjectType::TableData)
        .map(|(at, e)| (oid(e), (at, e)))
        .collect();
    let described: HashSet<u32> = oids_of(
        &catalogue.meta.entries,
        &[ObjectType::Table, ObjectType::ForeignTable, ObjectType::MaterializedView, ObjectType::Sequence],
    );
    let mut schemas = Vec::new();
    let mut drain = Vec::new();
    let mut chunks = Vec::new();
    let (mut skipped, mut partial) = (Vec::new(), false);
    let mut planned_rows = 0;
    for schema in &detection.schemas {
        // pg_dump takes every schema named so for PostgreSQL's own and describes nothing in it.
        if schema.name.starts_with("pg_") && schema.extension.is_none() {
            partial = true;
            skipped.push(Skipped {
                schema: schema.name.clone(),
                name: schema.name.clone(),
                kind: "schema".to_owned(),
                reason: "pg_dump does not describe a schema whose name begins with pg_: rename it".to_owned(),
                entries: Vec::new(),
            });
        }
        let mut tables: Vec<(&Relation, Option<(usize, &Entry)>)> = Vec::new();
        for relation in detection.relations.iter().filter(|r| r.schema == schema.name) {
            let data = rows.get(&relation.oid).copied();
            if let Some((why, grave)) = left_out(relation, data.is_some(), described.contains(&relation.oid), detection)
            {
                partial |= grave;
                skipped.push(why);
                if grave || relation.extension.is_some() {
                    continue;
                }
            }
            if relation.relkind != 'S' && relation.unreadable.is_none() {
                tables.push((relation, data));
            }
        }
        tables.sort_by_key(|(relation, data)| (data.map_or(usize::MAX, |(at, _)| at), relation.name.clone()));
        let mut plans = Vec::new();
        let mut planned = Vec::new();
        for (relation, data) in tables {
            let own = match data {
                Some((_, entry)) => table_chunks(relation, entry, reads.get(&relation.oid).copied())?,
                None => Vec::new(),
            };
            planned_rows += usize::from(data.is_some());
            plans.push(TablePlan {
                dump_id: data.map(|(_, entry)| entry.dump_id),
                chunks: own.len(),
                name: (relation.schema.clone(), relation.name.clone()),
                sql: layout::table_sql(&relation.schema, &relation.name),
                index: layout::table_index(&relation.schema, &relation.name),
                expected: u64::try_from(relation.bytes).unwrap_or(0),
            });
            planned.push(PlannedTable {
                oid: relation.oid,
                name: relation.name.clone(),
                kind: kind(relation),
                extension: relation.extension.clone(),
                filter: data.and_then(|_| relation.filter.clone()),
            });
            chunks.extend(own);
        }
        let expected = plans.iter().map(|t| t.expected).sum();
        drain.push(SchemaPlan { dump: layout::schema_dump(&schema.name), tables: plans, expected });
        schemas.push(PlannedSchema { name: schema.name.clone(), owner: schema.owner.clone(), tables: planned });
    }
    if planned_rows != rows.len() {
        let known: HashSet<u32> = detection.relations.iter().map(|r| r.oid).collect();
        let lost = rows
            .values()
            .find(|(_, e)| !known.contains(&oid(e)))
            .map_or_else(String::new, |(_, e)| format!(": {}.{}", namespace(e), e.tag.as_deref().unwrap_or_default()));
        return Err(Error::failed(format!("pg_dump describes rows of a table that was not detected{lost}"))
            .hint("this is a defect of pgstow; please report it"));
    }
    let rows_in_order = rows_in_order(detection, &schemas, refers);
    Ok(Plan {
        schemas,
        drain,
        chunks: Arc::new(chunks),
        skipped,
        dependents: Vec::new(),
        partial,
        absent: absent_names,
        rows_in_order,
        event_triggers: false,
        catalogue: Arc::new(catalogue),
        reach: Arc::new(reach),
    })
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

/// Why a relation's rows (or value) are not in the run, and whether that makes the run partial.
fn left_out(relation: &Relation, has_rows: bool, described: bool, detection: &Detection) -> Option<(Skipped, bool)> {
    let skip = |reason: &str, grave: bool| {
        let words = match relation.relkind {
            'S' => "sequence",
            _ => kind(relation).as_str(),
        };
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
        ('r', Some(_)) if !has_rows && relation.persistence == 'u' => {
            skip("unlogged table of an extension: a scratch area whose rows must not come back", false)
        }
        ('r' | 'S', None) if !has_rows && relation.persistence == 'u' && detection.server.in_recovery => {
            skip("unlogged: it has no content on a standby", false)
        }
        // What CREATE EXTENSION makes again is not described either; what was attached by hand cannot be told apart.
        ('p' | 'm' | 'f', Some(extension)) if !described => {
            let reason = format!(
                "pg_dump does not describe what belongs to an extension: it comes back as far as CREATE EXTENSION {extension} makes it"
            );
            skip(&reason, false)
        }
        ('S', None) if !described && !relation.schema.starts_with("pg_") => {
            skip("pg_dump does not describe it (its table was left out)", true)
        }
        ('r' | 'p' | 'f' | 'm' | 'S', None) if !described => {
            skip("pg_dump does not describe it (the name of its schema begins with pg_)", true)
        }
        ('r', None) if !has_rows => skip("pg_dump does not describe its rows", true),
        _ => None,
    }
}

const fn kind(relation: &Relation) -> TableKind {
    match relation.relkind {
        'p' => TableKind::PartitionedTable,
        'f' => TableKind::ForeignTable,
        'm' => TableKind::MaterializedView,
        _ => TableKind::Table,
    }
}

/// The chunks of one table's rows.
fn table_chunks(relation: &Relation, entry: &Entry, own_read: Option<&str>) -> Result<Vec<Chunk>> {
    let table = qualified(relation);
    let label = format!("{}.{}", relation.schema, relation.name);
    let chunk = |copy: String, label: String| Chunk { table: table.clone(), copy, label, lockable: lockable(relation) };
    if let Some(read) = own_read {
        return Ok(vec![chunk(read.to_owned(), label)]);
    }
    let columns = copy_columns(entry.copy_stmt.as_deref().unwrap_or_default())
        .ok_or_else(|| Error::failed(format!("{label}: pg_dump's COPY statement is not understood")))?;
    let bare = columns.strip_prefix('(').and_then(|c| c.strip_suffix(')')).unwrap_or(columns);
    if let Some(filter) = &relation.filter {
        return Ok(vec![chunk(format!("COPY (SELECT {bare} FROM {table} {filter}) TO STDOUT"), label)]);
    }
    let ranges = ctid_ranges(relation);
    if ranges.len() <= 1 {
        return Ok(vec![chunk(format!("COPY {table} {columns} TO STDOUT"), label)]);
    }
    Ok(ranges
        .into_iter()
        .map(|(from, to)| {
            let upper = to.map_or_else(String::new, |to| format!(" AND ctid < '({to},0)'::pg_catalog.tid"));
            let copy = format!(
                "COPY (SELECT {bare} FROM ONLY {table} WHERE ctid >= '({from},0)'::pg_catalog.tid{upper}) TO STDOUT"
            );
            let to = to.map_or_else(|| "end".to_owned(), |to| to.to_string());
            chunk(copy, format!("{label} (blocks {from} to {to})"))
        })
        .collect())
}

/// Ranges of heap blocks; the last one is open, so that no row can fall behind it.
fn ctid_ranges(relation: &Relation) -> Vec<(i64, Option<i64>)> {
    let pieces = relation.bytes / CHUNK_BYTES;
    if relation.relkind != 'r'
        || relation.access_method.as_deref() != Some("heap")
        || pieces < 2
        || relation.heap_blocks < 2
    {
        return vec![(0, None)];
    }
    let blocks = (relation.heap_blocks / pieces).max(1);
    let starts: Vec<i64> = (0..relation.heap_blocks).step_by(usize::try_from(blocks).unwrap_or(usize::MAX)).collect();
    starts.iter().enumerate().map(|(at, start)| (*start, starts.get(at + 1).copied())).collect()
}

impl Plan {
    /// The tasks of the schemas from number `first` on, and how many chunks each has.
    #[must_use]
    pub(crate) fn tasks(&self, first: usize, detection: &Detection) -> (Vec<Task>, VecDeque<usize>) {
        let sizes: HashMap<(&str, &str), i64> =
            detection.relations.iter().map(|r| ((r.schema.as_str(), r.name.as_str()), r.bytes)).collect();
        let mut tasks: Vec<Task> = Vec::new();
        let mut batch_bytes = BATCH_BYTES;
        let mut number: usize = self.drain.iter().take(first).flat_map(|s| &s.tables).map(|t| t.chunks).sum();
        for table in self.drain.iter().skip(first).flat_map(|s| &s.tables) {
            let bytes = sizes.get(&(table.name.0.as_str(), table.name.1.as_str())).copied().unwrap_or(0);
            let large = table.chunks > 1;
            for _ in 0..table.chunks {
                let Some(chunk) = self.chunks.get(number).cloned() else { break };
                number += 1;
                match tasks.last_mut() {
                    Some(task)
                        if large
                            && task.chunks.len() < CHUNKS_TOGETHER
                            && task.chunks.first().is_some_and(|c| c.table == chunk.table) =>
                    {
                        task.chunks.push(chunk);
                    }
                    Some(task) if !large && batch_bytes + bytes <= BATCH_BYTES && task.chunks.len() < BATCH_TABLES => {
                        task.chunks.push(chunk);
                        batch_bytes += bytes;
                    }
                    _ => {
                        tasks.push(Task { chunks: vec![chunk] });
                        batch_bytes = if large { BATCH_BYTES + 1 } else { bytes };
                    }
                }
            }
        }
        let counts = tasks.iter().map(|task| task.chunks.len()).collect();
        (tasks, counts)
    }

    /// What a schema's archive needs from elsewhere when it is restored on its own.
    #[must_use]
    pub(crate) fn needs(&self, schema: &str) -> Vec<String> {
        self.catalogue.needs(schema, &self.reach)
    }

    /// What makes the texts of the run's objects.
    #[must_use]
    pub(crate) fn texts(&self) -> RunTexts {
        let mut by_table: HashMap<u32, Vec<usize>> = HashMap::new();
        for (table, entries) in self.catalogue.numbers_by_table() {
            by_table.insert(table, entries);
        }
        RunTexts {
            catalogue: Arc::clone(&self.catalogue),
            reach: Arc::clone(&self.reach),
            by_table,
            schemas: self.schemas.clone(),
        }
    }
}

/// Makes the texts of the run's objects from the catalogue.
#[derive(Debug)]
pub(crate) struct RunTexts {
    catalogue: Arc<Catalogue>,
    reach: Arc<Vec<ExtensionReach>>,
    by_table: HashMap<u32, Vec<usize>>,
    schemas: Vec<PlannedSchema>,
}

impl Texts for RunTexts {
    fn head(&self, schema: usize) -> Result<Vec<u8>> {
        let schema = self.schemas.get(schema).ok_or_else(|| Error::failed("a schema is not planned"))?;
        compose::head(&self.catalogue.meta, self.catalogue.schema(&schema.name, &self.reach))
    }

    fn table(&self, schema: usize, table: usize) -> (TableSql, String) {
        let Some((schema, table)) = self.schemas.get(schema).and_then(|s| Some((s, s.tables.get(table)?))) else {
            return (TableSql { before: String::new(), after: String::new() }, String::new());
        };
        let numbers = self.by_table.get(&table.oid).map_or(&[][..], Vec::as_slice);
        let entries: Vec<&Entry> = numbers.iter().filter_map(|at| self.catalogue.meta.entries.get(*at)).collect();
        let note = match &table.extension {
            Some(extension) => format!("{} of extension {extension}", table.kind.as_str()),
            None => table.kind.as_str().to_owned(),
        };
        let title = Title { schema: &schema.name, table: &table.name, note: &note };
        let copy = entries.iter().find(|e| e.desc == ObjectType::TableData).and_then(|e| e.copy_stmt.clone());
        (table_sql::compose(&self.catalogue.meta, title, &entries), copy.unwrap_or_default())
    }
}
