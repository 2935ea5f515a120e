//! pg_dump's table of contents, put in order for composing: which entry belongs to which table and to which archive.
//!
//! Belonging is decided by what the entries say of themselves (catalogue id, namespace, dependencies) and by
//! [`Belongs`], a map made from the system catalogues; never by taking a tag apart, since a name can hold anything.
//!
//! Facts (PostgreSQL `src/bin/pg_dump/pg_dump.c`): a `TABLE DATA` entry carries the table's oid with catalogue id 0;
//! comments, ACLs, security labels, `SEQUENCE OWNED BY`, `SEQUENCE SET` and attach entries carry no oid and name their
//! object as first dependency.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::OnceLock;

use libpgdump::format::ArchiveMetadata;
use libpgdump::{Entry, ObjectType, OffsetState, Section};

use crate::archive::order::referred_first;
use crate::sql::statements::{name, statements};

/// Oid of `pg_class`, the catalogue of relations.
pub(crate) const PG_CLASS: u32 = 1259;

/// Which relation an object belongs to: (oid of its catalogue, its oid) to the relation's oid, for constraints,
/// indexes, triggers, rules, policies, defaults, extended statistics and owned sequences.
pub(crate) type Belongs = HashMap<(u32, u32), u32>;

/// The schemas that an extension concerns: an archive of any of them holds its `EXTENSION` entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExtensionReach {
    /// Oid of the extension.
    pub(crate) oid: u32,
    /// Names of schemas it owns, owns a relation in, or is installed into.
    pub(crate) schemas: HashSet<String>,
}

/// The whole database's table of contents.
#[derive(Debug)]
pub(crate) struct Catalogue {
    /// Header and entries as pg_dump wrote them, with entries of our own added.
    pub(crate) meta: ArchiveMetadata,
    /// For each entry, in order: the oid of the relation whose SQL file it belongs to.
    table_of: Vec<Option<u32>>,
    /// The positions by which schemas are put together; made when first asked for, and anew after a change.
    places: OnceLock<Places>,
}

/// Positions of entries by what a schema's archive asks for, so that the archives of all schemas together cost one pass
/// over the entries: with a schema for each tenant, a search for each would be quadratic.
#[derive(Debug, Default)]
struct Places {
    prelude: Vec<usize>,
    by_id: HashMap<i32, usize>,
    /// By namespace: what is in a schema.
    inside: HashMap<String, Vec<usize>>,
    /// The `SCHEMA` entries by tag.
    schemas: HashMap<String, usize>,
    /// The `EXTENSION` entries by oid.
    extensions: HashMap<u32, usize>,
    /// ACLs, comments and labels outside of schemas, by what they are attached to.
    attached: HashMap<i32, Vec<usize>>,
    /// Those of schemas, by the schema.
    about: HashMap<String, Vec<usize>>,
}

impl Places {
    fn of(entries: &[Entry]) -> Self {
        let mut places = Self::default();
        for (at, entry) in entries.iter().enumerate() {
            places.by_id.insert(entry.dump_id, at);
            if is_prelude(&entry.desc) {
                places.prelude.push(at);
            } else if entry.desc == ObjectType::Extension {
                places.extensions.insert(oid(entry), at);
            } else if !namespace(entry).is_empty() {
                if !is_database_wide(&entry.desc) {
                    places.inside.entry(namespace(entry).to_owned()).or_default().push(at);
                }
            } else if entry.desc == ObjectType::Schema {
                places.schemas.entry(tag(entry).to_owned()).or_insert(at);
            } else if is_attachment(&entry.desc) {
                if let Some(first) = entry.dependencies.first() {
                    places.attached.entry(*first).or_default().push(at);
                }
                if let Some(schema) = about_schema(entry) {
                    places.about.entry(schema).or_default().push(at);
                }
            }
        }
        places
    }
}

/// A number of an entry as pg_dump writes it, 0 where it is none.
fn number(text: &str) -> u32 {
    text.parse().unwrap_or(0)
}

/// The numbers of the entries that each object of a catalogue has, by class and oid.
pub(crate) fn by_object(entries: &[Entry]) -> HashMap<(u32, u32), Vec<i32>> {
    let mut found: HashMap<(u32, u32), Vec<i32>> = HashMap::new();
    for entry in entries {
        found.entry((number(&entry.table_oid), oid(entry))).or_default().push(entry.dump_id);
    }
    found
}

/// Adds to these entries what depends on them, and what depends on that in turn.
pub(crate) fn with_dependents(entries: &[Entry], found: &mut HashSet<i32>) {
    loop {
        let before = found.len();
        for entry in entries {
            if entry.dependencies.iter().any(|id| found.contains(id)) {
                found.insert(entry.dump_id);
            }
        }
        if found.len() == before {
            return;
        }
    }
}

/// The entries of these extensions: their own, everything in the schemas `theirs`, which hold nothing but their tables, and
/// what depends on any of it.
pub(crate) fn of_extensions(entries: &[Entry], names: &BTreeSet<&str>, theirs: &HashSet<&str>) -> HashSet<i32> {
    let own = entries
        .iter()
        .filter(|e| (e.desc == ObjectType::Extension && names.contains(tag(e))) || theirs.contains(namespace(e)));
    let mut found = own.map(|e| e.dump_id).collect();
    with_dependents(entries, &mut found);
    found
}

/// The oid an entry carries.
#[must_use]
pub(crate) fn oid(entry: &Entry) -> u32 {
    number(&entry.oid)
}

/// The namespace of an entry; empty where it has none.
#[must_use]
pub(crate) fn namespace(entry: &Entry) -> &str {
    entry.namespace.as_deref().unwrap_or_default()
}

/// The tag of an entry; empty where it has none.
#[must_use]
pub(crate) fn tag(entry: &Entry) -> &str {
    entry.tag.as_deref().unwrap_or_default()
}

/// The schema that rights, a comment or a label of a schema are about: pg_dump writes it into the tag, as SQL.
#[must_use]
pub(crate) fn about_schema(entry: &Entry) -> Option<String> {
    let is_about = is_attachment(&entry.desc) && namespace(entry).is_empty();
    let text = tag(entry).strip_prefix("SCHEMA ").filter(|_| is_about)?;
    Some(name(text).filter(|(_, rest)| rest.is_empty()).map_or_else(|| text.to_owned(), |(schema, _)| schema))
}

const fn is_prelude(desc: &ObjectType) -> bool {
    matches!(desc, ObjectType::Encoding | ObjectType::StdStrings | ObjectType::SearchPath)
}

const fn is_attachment(desc: &ObjectType) -> bool {
    matches!(desc, ObjectType::Acl | ObjectType::Comment | ObjectType::SecurityLabel)
}

const fn is_large_object(desc: &ObjectType) -> bool {
    matches!(desc, ObjectType::Blob | ObjectType::BlobMetadata | ObjectType::Blobs)
}

/// Entries of publications and subscriptions carry a table's namespace although `pg_dump -n` leaves them out.
const fn is_database_wide(desc: &ObjectType) -> bool {
    matches!(desc, ObjectType::PublicationTable | ObjectType::PublicationTablesInSchema | ObjectType::SubscriptionTable)
}

impl Catalogue {
    /// Sorts the entries of `meta` by what they belong to.
    #[must_use]
    pub(crate) fn new(meta: ArchiveMetadata, belongs: &Belongs) -> Self {
        let by_id: HashMap<i32, usize> = meta.entries.iter().enumerate().map(|(at, e)| (e.dump_id, at)).collect();
        let mut table_of: Vec<Option<u32>> = Vec::with_capacity(meta.entries.len());
        for entry in &meta.entries {
            table_of.push(direct_table(entry, belongs));
        }
        // A dependency may stand later in the order (never in practice for these, but cheap to be sure): two rounds.
        for _round in 0..2 {
            for at in 0..meta.entries.len() {
                if let Some(found) =
                    meta.entries.get(at).and_then(|e| inherited_table(e, &meta.entries, &by_id, &table_of))
                    && let Some(slot @ None) = table_of.get_mut(at)
                {
                    *slot = Some(found);
                }
            }
        }
        Self { meta, table_of, places: OnceLock::new() }
    }

    /// Numbers of all entries by the relation they belong to, each list in order.
    #[must_use]
    pub(crate) fn numbers_by_table(&self) -> HashMap<u32, Vec<usize>> {
        let mut map: HashMap<u32, Vec<usize>> = HashMap::new();
        for (at, table) in self.table_of.iter().enumerate() {
            if let Some(table) = table {
                map.entry(*table).or_default().push(at);
            }
        }
        map
    }

    /// Gives the rows of a table another statement that loads them.
    pub(crate) fn load_with(&mut self, table: u32, statement: &str) {
        let rows = |e: &&mut Entry| e.desc == ObjectType::TableData && oid(e) == table;
        for entry in self.meta.entries.iter_mut().filter(rows) {
            entry.copy_stmt = Some(statement.to_owned());
        }
    }

    /// The highest dump id, for numbering entries of our own.
    #[must_use]
    pub(crate) fn last_dump_id(&self) -> i32 {
        self.meta.entries.iter().map(|entry| entry.dump_id).max().unwrap_or(0)
    }

    /// Adds an entry of our own: one with rows or a sequence value behind the last entry of the data section, what comes
    /// after the rows at the end, a definition before the first rows, so that all stand after every extension and type.
    pub(crate) fn add(&mut self, entry: Entry, table: Option<u32>) {
        if entry.section == Section::PostData {
            self.meta.entries.push(entry);
            self.table_of.push(table);
            self.places.take();
            return;
        }
        let is_data = |e: &Entry| e.section == Section::Data && !is_large_object(&e.desc);
        let at = if entry.section == Section::Data {
            self.meta.entries.iter().rposition(is_data).map(|last| last + 1)
        } else {
            self.meta.entries.iter().position(|e| e.section == Section::Data)
        }
        .or_else(|| self.meta.entries.iter().position(|e| e.section == Section::PostData))
        .unwrap_or(self.meta.entries.len());
        self.meta.entries.insert(at, entry);
        self.table_of.insert(at, table);
        self.places.take();
    }

    /// The numbers of these objects (by class and oid) among the definitions before the rows, and of those that need them.
    #[must_use]
    pub(crate) fn early_with_dependents(&self, objects: &HashSet<(u32, u32)>) -> Vec<i32> {
        let early = || self.meta.entries.iter().filter(|e| matches!(e.section, Section::PreData | Section::None));
        let is_one = |e: &&Entry| objects.contains(&(number(&e.table_oid), oid(e)));
        let mut found: HashSet<i32> = early().filter(is_one).map(|e| e.dump_id).collect();
        loop {
            let before = found.len();
            let needs = |e: &&Entry| e.dependencies.iter().any(|id| found.contains(id));
            let more: Vec<i32> = early().filter(needs).map(|e| e.dump_id).collect();
            found.extend(more);
            if found.len() == before {
                break;
            }
        }
        early().map(|e| e.dump_id).filter(|id| found.contains(id)).collect()
    }

    /// Puts the rows of extensions' tables before all other rows: values of other tables may need them (a `pcpoint` is
    /// read by the formats in pointcloud's table). Among them what is referred to comes first, since their foreign keys
    /// exist before the rows, and each depends on what it refers to, so that a parallel `pg_restore` keeps that order.
    /// `refers` are (oid of the table that refers, oid of the other). pg_dump orders its own by foreign keys
    /// (`pg_dump.c`, `processExtensionTables`), but writes no such dependency, does not know ours, and puts tables in
    /// order of name.
    pub(crate) fn order_rows(&mut self, of_extensions: &HashSet<u32>, refers: &[(u32, u32)]) {
        self.places.take();
        let entries = self.meta.entries.iter().enumerate();
        let places: Vec<usize> = entries.filter(|(_, e)| e.desc == ObjectType::TableData).map(|(at, _)| at).collect();
        let taken = places
            .iter()
            .filter_map(|at| Some((self.meta.entries.get(*at)?.clone(), self.table_of.get(*at).copied().flatten())));
        let (first, others): (Vec<_>, Vec<_>) = taken.partition(|(entry, _)| of_extensions.contains(&oid(entry)));
        let first = referred_first(first, |(entry, _)| oid(entry), refers);
        let mut needed: HashMap<u32, Vec<u32>> = HashMap::new();
        for (from, to) in refers {
            needed.entry(*from).or_default().push(*to);
        }
        let mut before: HashMap<u32, i32> = HashMap::new();
        for (at, (mut entry, table)) in places.into_iter().zip(first.into_iter().chain(others)) {
            let own = oid(&entry);
            let referred = needed.get(&own).into_iter().flatten().filter_map(|to| before.get(to));
            entry.dependencies.extend(referred);
            before.insert(own, entry.dump_id);
            if let (Some(slot), Some(of)) = (self.meta.entries.get_mut(at), self.table_of.get_mut(at)) {
                (*slot, *of) = (entry, table);
            }
        }
    }

    /// True where nothing is described that holds or does anything: schemas and extensions alone are no content.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.meta.entries.iter().all(|entry| {
            is_prelude(&entry.desc)
                || is_attachment(&entry.desc)
                || matches!(
                    entry.desc,
                    ObjectType::Database
                        | ObjectType::DatabaseProperties
                        | ObjectType::DefaultAcl
                        | ObjectType::Extension
                        | ObjectType::Schema
                )
        })
    }

    /// Entries of `@database.dump`: all but rows and large objects.
    #[must_use]
    pub(crate) fn database(&self) -> Vec<Entry> {
        let blobs = self.large_object_ids();
        self.select(|entry| {
            entry.desc != ObjectType::TableData && !blobs.contains(&entry.dump_id) && !is_of_large_object(entry, &blobs)
        })
    }

    /// Entries of `@large-objects.dump`: the prelude, the large objects and what is attached to them.
    #[must_use]
    pub(crate) fn large_objects(&self) -> Vec<Entry> {
        let blobs = self.large_object_ids();
        self.select(|entry| {
            is_prelude(&entry.desc) || blobs.contains(&entry.dump_id) || is_of_large_object(entry, &blobs)
        })
    }

    /// The blocks of large objects: dump id, and the objects in it in order.
    ///
    /// Up to pg_dump 16 each object has a `BLOB` entry (tag: its oid) and one `BLOBS` block holds all; from 17 on a
    /// `BLOB METADATA` entry lists a group's oids in its definition, a line each, and the `BLOBS` entry that depends
    /// on it holds them.
    #[must_use]
    pub(crate) fn large_object_blocks(&self) -> Vec<(i32, Vec<u32>)> {
        let single = || self.meta.entries.iter().filter(|e| e.desc == ObjectType::Blob).map(|e| number(tag(e)));
        let grouped: HashMap<i32, &Entry> =
            self.meta.entries.iter().filter(|e| e.desc == ObjectType::BlobMetadata).map(|e| (e.dump_id, e)).collect();
        let members = |entry: &Entry| -> Vec<u32> {
            let groups = entry.dependencies.iter().filter_map(|id| grouped.get(id));
            groups.flat_map(|g| g.defn.as_deref().unwrap_or_default().lines().map(|line| number(line.trim()))).collect()
        };
        let blocks = self.meta.entries.iter().filter(|e| e.desc == ObjectType::Blobs);
        blocks
            .map(|e| (e.dump_id, if grouped.is_empty() { single().collect() } else { members(e) }))
            .map(|(id, oids): (i32, Vec<u32>)| (id, oids.into_iter().filter(|oid| *oid != 0).collect()))
            .collect()
    }

    /// Entries of a schema's archive, in order.
    ///
    /// `extensions` are those whose reach includes the schema. ACL, comment and label of the schema itself are found
    /// by their tag (`SCHEMA name`), since `public` has no `SCHEMA` entry.
    #[must_use]
    pub(crate) fn schema(&self, schema: &str, extensions: &[ExtensionReach]) -> Vec<Entry> {
        let entries = self.positions(schema, extensions).into_iter().filter_map(|at| self.meta.entries.get(at));
        entries.cloned().map(without_offset).collect()
    }

    fn places(&self) -> &Places {
        self.places.get_or_init(|| Places::of(&self.meta.entries))
    }

    /// Positions of the entries of a schema's archive, in order.
    fn positions(&self, schema: &str, extensions: &[ExtensionReach]) -> Vec<usize> {
        let places = self.places();
        let reaching = extensions.iter().filter(|e| e.schemas.contains(schema));
        let mut heads: Vec<usize> = reaching.filter_map(|e| places.extensions.get(&e.oid).copied()).collect();
        let own = places.schemas.get(schema).copied();
        heads.extend(own);
        let ids = heads.iter().filter_map(|at| self.meta.entries.get(*at)).map(|entry| entry.dump_id);
        let mut found: Vec<usize> = ids.filter_map(|id| places.attached.get(&id)).flatten().copied().collect();
        if own.is_none() {
            found.extend(places.about.get(schema).into_iter().flatten());
        }
        found.extend(heads);
        found.extend(&places.prelude);
        found.extend(places.inside.get(schema).into_iter().flatten());
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The objects that a schema's archive refers to and does not contain: `schema "x"`, `extension "y"`, `role "z"`,
    /// sorted.
    #[must_use]
    pub(crate) fn needs(&self, schema: &str, extensions: &[ExtensionReach]) -> Vec<String> {
        let own = self.positions(schema, extensions);
        let own: Vec<&Entry> = own.into_iter().filter_map(|at| self.meta.entries.get(at)).collect();
        let held: HashSet<i32> = own.iter().map(|e| e.dump_id).collect();
        let by_id = |id: &i32| self.places().by_id.get(id).and_then(|at| self.meta.entries.get(*at));
        let mut needs = std::collections::BTreeSet::new();
        for entry in &own {
            if let Some(owner) = entry.owner.as_deref().filter(|owner| !owner.is_empty()) {
                needs.insert(format!("role \"{owner}\""));
            }
            needs.extend(grantees(entry).into_iter().map(|role| format!("role \"{role}\"")));
            for other in entry.dependencies.iter().filter(|id| !held.contains(id)).filter_map(by_id) {
                if other.desc == ObjectType::Extension {
                    needs.insert(format!("extension \"{}\"", tag(other)));
                } else if !namespace(other).is_empty() && namespace(other) != schema {
                    needs.insert(format!("schema \"{}\"", namespace(other)));
                } else if matches!(other.desc, ObjectType::Server | ObjectType::ForeignServer) {
                    needs.insert(format!("server \"{}\"", tag(other)));
                }
            }
        }
        needs.into_iter().collect()
    }

    fn large_object_ids(&self) -> HashSet<i32> {
        self.meta.entries.iter().filter(|e| is_large_object(&e.desc)).map(|e| e.dump_id).collect()
    }

    fn select(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        self.meta.entries.iter().filter(|entry| wanted(entry)).cloned().map(without_offset).collect()
    }
}

/// The roles that privileges, default privileges and policies name.
fn grantees(entry: &Entry) -> Vec<String> {
    let word = match entry.desc {
        ObjectType::Acl | ObjectType::DefaultAcl => "GRANT ",
        ObjectType::Policy => "CREATE POLICY ",
        _ => return Vec::new(),
    };
    let text = entry.defn.as_deref().unwrap_or_default();
    let named = statements(text).into_iter().filter(|s| s.contains(word)).filter_map(|statement| {
        // A policy's expressions come behind its roles, a name may hold the word.
        let at = if word == "GRANT " { statement.rfind(" TO ") } else { statement.find(" TO ") };
        statement.get(at? + " TO ".len()..)
    });
    let mut roles = Vec::new();
    for list in named {
        let mut rest = list;
        while let Some((role, after)) = name(rest) {
            if role != "PUBLIC" && role != "public" {
                roles.push(role);
            }
            match after.strip_prefix(", ") {
                Some(next) => rest = next,
                None => break,
            }
        }
    }
    roles
}

/// True when an ACL, comment or label is attached to one of these entries.
fn hangs_on(entry: &Entry, ids: &HashSet<i32>) -> bool {
    is_attachment(&entry.desc) && entry.dependencies.first().is_some_and(|first| ids.contains(first))
}

/// True when an ACL, comment or label is a large object's: by its entry, or by the tag where objects are grouped (17+).
fn is_of_large_object(entry: &Entry, blobs: &HashSet<i32>) -> bool {
    hangs_on(entry, blobs)
        || (is_attachment(&entry.desc) && namespace(entry).is_empty() && tag(entry).starts_with("LARGE OBJECT"))
}

/// As pg_dump leaves it in an archive written to a pipe.
fn without_offset(mut entry: Entry) -> Entry {
    entry.data_state = if entry.had_dumper { OffsetState::NotSet } else { OffsetState::NoData };
    entry.offset = 0;
    entry
}

fn direct_table(entry: &Entry, belongs: &Belongs) -> Option<u32> {
    let id = (number(&entry.table_oid), oid(entry));
    match entry.desc {
        ObjectType::Table
        | ObjectType::ForeignTable
        | ObjectType::MaterializedView
        | ObjectType::TableData
        | ObjectType::MaterializedViewData
        | ObjectType::RowSecurity => Some(id.1),
        ObjectType::Sequence => belongs.get(&(PG_CLASS, id.1)).copied(),
        // The publications' rows have catalogues of their own; a view's rules and triggers find no file later on.
        _ if id.0 != 0 => belongs.get(&id).copied(),
        _ => None,
    }
}

fn inherited_table(
    entry: &Entry,
    entries: &[Entry],
    by_id: &HashMap<i32, usize>,
    table_of: &[Option<u32>],
) -> Option<u32> {
    let table_of_id = |id: &i32| by_id.get(id).and_then(|at| table_of.get(*at).copied().flatten());
    match entry.desc {
        ObjectType::Acl
        | ObjectType::Comment
        | ObjectType::SecurityLabel
        | ObjectType::SequenceOwnedBy
        | ObjectType::SequenceSet
        | ObjectType::StatisticsData => entry.dependencies.first().and_then(table_of_id),
        // Depends on both the parent and the child; belongs to the child, whose name it carries.
        ObjectType::TableAttach | ObjectType::IndexAttach => entry
            .dependencies
            .iter()
            .find(|id| {
                by_id.get(id).and_then(|at| entries.get(*at)).is_some_and(|on| {
                    namespace(on) == namespace(entry)
                        && (tag(on) == tag(entry)
                            || (matches!(on.desc, ObjectType::Constraint)
                                && tag(on).ends_with(&format!(" {}", tag(entry)))))
                })
            })
            .and_then(table_of_id),
        // No identity of its own (the default that an inheritance child says it has not): its tag begins with its
        // table's.
        _ if number(&entry.table_oid) == 0 && oid(entry) == 0 => entry
            .dependencies
            .iter()
            .find(|id| {
                by_id.get(id).and_then(|at| entries.get(*at)).is_some_and(|on| {
                    matches!(on.desc, ObjectType::Table | ObjectType::ForeignTable)
                        && namespace(on) == namespace(entry)
                        && tag(entry).strip_prefix(tag(on)).is_some_and(|rest| rest.starts_with(' '))
                })
            })
            .and_then(table_of_id),
        _ => None,
    }
}
