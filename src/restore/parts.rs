//! The part of a run that is restored: all of it, some schemas, single tables. Owns the choice, not the work.

use std::collections::{BTreeSet, HashMap, HashSet};

use libpgdump::format::ArchiveMetadata;
use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{about_schema, namespace, tag};
use crate::archive::partitions::parents;
use crate::error::Result;
use crate::format::manifest::{Manifest, Object, TableKind};
use crate::objects::stored_run::StoredRun;
use crate::postgres::connect::session::Session;
use crate::restore::checks;
use crate::restore::options::Options;
use crate::restore::wanted::Wanted;
use crate::runs::select;
use crate::sql::names::TableName;

/// A part of a run.
#[derive(Debug, Default)]
pub(crate) struct Part {
    whole: bool,
    /// Numbers of whole schemas.
    schemas: Vec<usize>,
    /// Schema and number of single tables.
    tables: Vec<(usize, usize)>,
    /// Dump ids of the entries of the schemas' archives.
    of_schemas: HashSet<i32>,
}

/// True for a schema that exists in the target: it is not made again.
pub(crate) fn exists(entry: &Entry, known: &BTreeSet<(String, String, String)>) -> bool {
    entry.desc == ObjectType::Schema && known.contains(&("schema".to_owned(), String::new(), tag(entry).to_owned()))
}

/// Takes out what would change a living database beyond what is restored into it: rights, comments and labels of schemas
/// that exist, and default privileges for them or for all schemas. Returns their names.
pub(crate) fn keep_living(entries: &mut Vec<&Entry>, known: &BTreeSet<(String, String, String)>) -> Vec<String> {
    let is_there = |schema: &str| known.contains(&("schema".to_owned(), String::new(), schema.to_owned()));
    let is_living = |entry: &mut &Entry| match entry.desc {
        ObjectType::DefaultAcl => namespace(entry).is_empty() || is_there(namespace(entry)),
        _ => about_schema(entry).is_some_and(|schema| is_there(&schema)),
    };
    let name = |entry: &Entry| {
        let of = if namespace(entry).is_empty() { String::new() } else { format!(" in schema {}", namespace(entry)) };
        format!("{} {}{of}", entry.desc.as_str().to_lowercase(), tag(entry))
    };
    entries.extract_if(.., |entry| is_living(entry)).map(name).collect()
}

/// True for a statistics object of a table that is neither in this part (`own`) nor in the target. `pg_dump -n` writes it
/// with its table only.
pub(crate) fn lacks_its_table(
    entry: &Entry,
    all: &[Entry],
    own: &HashSet<i32>,
    known: &BTreeSet<(String, String, String)>,
) -> bool {
    let is_relation = |e: &&Entry| {
        matches!(e.desc, ObjectType::Table | ObjectType::ForeignTable | ObjectType::MaterializedView)
            && entry.dependencies.contains(&e.dump_id)
    };
    let there = |e: &Entry| {
        own.contains(&e.dump_id) || known.contains(&("relation".to_owned(), namespace(e).to_owned(), tag(e).to_owned()))
    };
    let lacks = entry.desc == ObjectType::Statistics && all.iter().filter(is_relation).any(|table| !there(table));
    if lacks {
        tracing::warn!("statistics {}.{} left out: their table is not in this part", namespace(entry), tag(entry));
    }
    lacks
}

impl Part {
    /// The part that the options ask for.
    ///
    /// # Errors
    /// Kind `Usage` for a schema or table the run does not have.
    pub(crate) fn choose(manifest: &Manifest, options: &Options) -> Result<Self> {
        let mut part = Self { whole: options.is_whole(), ..Self::default() };
        for wanted in &options.schemas {
            part.schemas.push(select::schema(manifest, wanted)?);
        }
        for wanted in &options.tables {
            let found = select::table(manifest, wanted)?;
            if !part.schemas.contains(&found.0) && !part.tables.contains(&found) {
                part.tables.push(found);
            }
        }
        part.tables.sort_unstable();
        Ok(part)
    }

    /// Reads which entries the schemas' archives hold.
    pub(crate) async fn with_contents(mut self, run: &StoredRun) -> Result<Self> {
        for schema in self.schemas.iter().filter_map(|at| run.manifest.schemas.get(*at)) {
            let contents = run.table_of_contents(&schema.dump).await?;
            self.of_schemas.extend(contents.entries.iter().map(|entry| entry.dump_id));
        }
        Ok(self)
    }

    /// Adds the values of sequences that belong to single tables, for rows that come into tables that exist.
    pub(crate) fn with_sequences(mut self, manifest: &Manifest, meta: &ArchiveMetadata) -> Self {
        for wanted in self.single_tables(manifest) {
            let is = |e: &&Entry| {
                e.desc == ObjectType::Table && namespace(e) == wanted.schema && tag(e) == wanted.table.name
            };
            let Some(own) = meta.entries.iter().find(is) else { continue };
            let of_table = meta.entries.iter().filter(|e| e.dependencies.contains(&own.dump_id));
            let sequences: HashSet<i32> = of_table
                .filter_map(|e| match e.desc {
                    // Of an identity column.
                    ObjectType::Sequence => Some(e.dump_id),
                    ObjectType::SequenceOwnedBy => e.dependencies.first().copied(),
                    _ => None,
                })
                .collect();
            let values = meta.entries.iter().filter(|e| {
                e.desc == ObjectType::SequenceSet && e.dependencies.iter().any(|id| sequences.contains(id))
            });
            self.of_schemas.extend(values.map(|e| e.dump_id));
        }
        self
    }

    /// True when it is all of the run.
    pub(crate) const fn is_whole(&self) -> bool {
        self.whole
    }

    /// True when definitions come from the database's archive.
    pub(crate) fn archives(&self) -> bool {
        self.whole || !self.of_schemas.is_empty()
    }

    /// True when single tables are made from their SQL files.
    pub(crate) const fn has_single_tables(&self) -> bool {
        !self.tables.is_empty()
    }

    /// The objects that will be read.
    pub(crate) fn objects<'a>(&self, manifest: &'a Manifest) -> Vec<&'a Object> {
        if self.whole {
            let mut all = manifest.objects();
            all.retain(|object| manifest.restore_md.as_ref() != Some(object));
            return all;
        }
        let mut needed = vec![&manifest.roles.object, &manifest.database.object];
        for (at, schema) in manifest.schemas.iter().enumerate() {
            let whole = self.schemas.contains(&at);
            if whole {
                needed.push(&schema.dump);
            }
            for (number, table) in schema.tables.iter().enumerate() {
                if whole || self.tables.contains(&(at, number)) {
                    needed.push(&table.file);
                }
            }
        }
        needed
    }

    /// The entries of the database's archive that this part is about.
    pub(crate) fn entries<'a>(&self, meta: &'a ArchiveMetadata) -> Vec<&'a Entry> {
        meta.entries.iter().filter(|e| self.whole || self.of_schemas.contains(&e.dump_id)).collect()
    }

    /// The tables whose rows are loaded, in the archive's order; single tables only where they exist already.
    pub(crate) fn tables(&self, manifest: &Manifest, with_single: bool) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (at, schema) in manifest.schemas.iter().enumerate() {
            for (number, table) in schema.tables.iter().enumerate() {
                let chosen =
                    self.whole || self.schemas.contains(&at) || (with_single && self.tables.contains(&(at, number)));
                let left_out = manifest.skipped.iter().any(|s| s.schema == schema.name && s.name == table.name);
                if chosen && table.kind == TableKind::Table && !left_out {
                    wanted.push(Wanted { schema: schema.name.clone(), table: table.clone() });
                }
            }
        }
        wanted
    }

    /// The single tables.
    fn single_tables(&self, manifest: &Manifest) -> Vec<Wanted> {
        let tables = self.tables.iter().filter_map(|(at, number)| {
            let schema = manifest.schemas.get(*at)?;
            Some(Wanted { schema: schema.name.clone(), table: schema.tables.get(*number)?.clone() })
        });
        tables.collect()
    }

    /// The single tables that are partitioned: they have no rows of their own.
    pub(crate) fn partitioned(&self, manifest: &Manifest) -> Vec<TableName> {
        let mut tables = self.single_tables(manifest);
        tables.retain(|wanted| wanted.table.kind == TableKind::PartitionedTable);
        tables.iter().map(Wanted::table_name).collect()
    }

    /// The single tables, a parent before its partitions and children.
    pub(crate) fn single_tables_in_order(&self, manifest: &Manifest, entries: &[Entry]) -> Vec<Wanted> {
        let mut tables = self.single_tables(manifest);
        let depths = depths(entries);
        tables.sort_by_key(|wanted| depths.get(&wanted.table_name()).copied());
        tables
    }

    /// Names what this part needs and the database does not have.
    pub(crate) async fn check(&self, session: &Session, meta: &ArchiveMetadata, options: &Options) -> Result<()> {
        if self.whole || !options.has_definitions() {
            return Ok(());
        }
        let mut entries = self.entries(meta);
        for wanted in &options.tables {
            entries.extend(self.of_table(wanted, meta));
        }
        checks::prerequisites(session, &entries, &meta.entries).await
    }

    /// The entries that make a table: its own and those under its name that depend on it.
    #[allow(clippy::unused_self, reason = "a question about this part")]
    fn of_table<'a>(&self, wanted: &str, meta: &'a ArchiveMetadata) -> Vec<&'a Entry> {
        let is = |e: &&Entry| {
            matches!(e.desc, ObjectType::Table | ObjectType::ForeignTable | ObjectType::MaterializedView)
                && (wanted == format!("{}.{}", namespace(e), tag(e))
                    || wanted
                        == format!("{}.{}", crate::sql::names::quote(namespace(e)), crate::sql::names::quote(tag(e))))
        };
        let Some(own) = meta.entries.iter().find(is) else { return Vec::new() };
        let of_table = || meta.entries.iter().filter(|e| e.dependencies.contains(&own.dump_id));
        // Of all tables that an entry depends on, its tag begins with the name of the one it stands on; that name may be
        // the beginning of another one's.
        let tables: HashMap<i32, &Entry> =
            meta.entries.iter().filter(|e| e.desc == own.desc).map(|e| (e.dump_id, e)).collect();
        let stands_on = |e: &Entry, table: &Entry| {
            namespace(e) == namespace(table)
                && tag(e).strip_prefix(tag(table)).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        let belongs = |e: &&Entry| match e.desc {
            ObjectType::Default
            | ObjectType::Constraint
            | ObjectType::CheckConstraint
            | ObjectType::FkConstraint
            | ObjectType::Trigger
            | ObjectType::Policy
            | ObjectType::Rule => {
                let all = e.dependencies.iter().filter_map(|id| tables.get(id)).filter(|table| stands_on(e, table));
                all.max_by_key(|table| tag(table).len()).is_some_and(|table| table.dump_id == own.dump_id)
            }
            // Whatever they are called: columns may have been renamed since, and sequences made by hand.
            ObjectType::Sequence | ObjectType::SequenceOwnedBy => true,
            _ => false,
        };
        let owned: HashSet<i32> = of_table()
            .filter(|e| e.desc == ObjectType::SequenceOwnedBy)
            .flat_map(|e| e.dependencies.iter().copied())
            .collect();
        let sequences = meta.entries.iter().filter(|e| e.desc == ObjectType::Sequence && owned.contains(&e.dump_id));
        std::iter::once(own).chain(of_table().filter(belongs)).chain(sequences).collect()
    }
}

/// The longest line of ancestors above each table: tables that it inherits from or is a partition of.
fn depths(entries: &[Entry]) -> HashMap<TableName, usize> {
    let named = |e: &Entry| TableName::new(namespace(e), tag(e));
    let tables: HashMap<i32, &Entry> =
        entries.iter().filter(|e| e.desc == ObjectType::Table).map(|e| (e.dump_id, e)).collect();
    let mut above: HashMap<TableName, Vec<TableName>> = HashMap::new();
    for (child, parent) in parents(entries) {
        above.entry(child).or_default().push(parent);
    }
    for entry in tables.values() {
        let parents = entry.dependencies.iter().filter_map(|id| tables.get(id)).map(|parent| named(parent));
        above.entry(named(entry)).or_default().extend(parents);
    }
    let mut depths: HashMap<TableName, usize> = above.keys().map(|one| (one.clone(), 0)).collect();
    // As many rounds as the deepest line has steps; tables that depend on each other would go on for ever.
    for _ in 0..above.len() {
        let mut changed = false;
        for (child, parents) in &above {
            let depth = parents.iter().filter_map(|one| depths.get(one)).max().map_or(0, |most| most + 1);
            let old = depths.insert(child.clone(), depth);
            changed |= old != Some(depth);
        }
        if !changed {
            break;
        }
    }
    depths
}
