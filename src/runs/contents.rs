//! The manifest of a run compared with the table of contents of its `@database.dump`, which `pg_dump` wrote and which
//! names every object of the database. What the manifest does not name is neither restored nor missed, so `verify`,
//! `drill` and `restore` ask here first.
//!
//! Large objects are not in that archive; RESTORE.md, written when they were, restores them by the key of theirs.

use std::collections::{BTreeSet, HashMap, HashSet};

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag};
use crate::format::layout;
use crate::format::manifest::{Manifest, Skipped, Status, Table, TableKind};
use crate::sql::names::{TableName, in_comment};

/// A disagreement between the manifest and the table of contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disagreement {
    /// The schema it is about.
    pub(crate) schema: String,
    /// The problem, in words.
    pub(crate) problem: String,
}

/// Every disagreement of the manifest with these entries of `@database.dump`.
pub(crate) fn disagreements(manifest: &Manifest, entries: &[Entry]) -> Vec<Disagreement> {
    let tables: HashMap<TableName, &Table> = manifest
        .schemas
        .iter()
        .flat_map(|s| s.tables.iter().map(move |t| (TableName::new(&s.name, &t.name), t)))
        .collect();
    let schemas: HashSet<&str> = manifest.schemas.iter().map(|s| s.name.as_str()).collect();
    let skipped: HashSet<TableName> = manifest.skipped.iter().map(|s| TableName::new(&s.schema, &s.name)).collect();
    let mut found = Vec::new();
    let mut note = |schema: &str, problem: String| found.push(Disagreement { schema: schema.to_owned(), problem });
    let mut described: HashMap<TableName, &Entry> = HashMap::new();
    let mut unnamed: BTreeSet<&str> = BTreeSet::new();
    for entry in entries {
        let kind = entry.desc.to_string().to_lowercase();
        match entry.desc {
            ObjectType::Schema => {
                let is_skipped = skipped.contains(&TableName::new(tag(entry), tag(entry)));
                if !schemas.contains(tag(entry)) && !is_skipped && unnamed.insert(tag(entry)) {
                    let shown = in_comment(tag(entry));
                    note(tag(entry), format!("schema {shown} is in @database.dump and not in the manifest"));
                }
                continue;
            }
            ObjectType::Table | ObjectType::ForeignTable | ObjectType::MaterializedView | ObjectType::Sequence => {}
            _ => continue,
        }
        let name = TableName::new(namespace(entry), tag(entry));
        let shown = in_comment(&name.to_string());
        described.insert(name.clone(), entry);
        if entry.desc == ObjectType::Sequence || skipped.contains(&name) {
            continue;
        }
        match tables.get(&name) {
            None => note(&name.schema, format!("{kind} {shown} is in @database.dump and not in the manifest")),
            Some(table) if !agrees(table.kind, entry) => {
                let said = table.kind.as_str();
                note(&name.schema, format!("{shown} is a {kind} in @database.dump and a {said} in the manifest"));
            }
            Some(_) => {}
        }
    }
    for (name, table) in &tables {
        if table.extension.is_none() && !described.contains_key(name) {
            let shown = in_comment(&name.to_string());
            note(&name.schema, format!("{shown} is in the manifest and not in @database.dump"));
        }
    }
    if manifest.status == Status::Complete {
        for gap in &manifest.skipped {
            if let Some(problem) = contradicts(gap, described.get(&TableName::new(&gap.schema, &gap.name)).copied()) {
                note(&gap.schema, problem);
            }
        }
    }
    found.sort_by(|one, other| one.problem.cmp(&other.problem));
    found
}

/// True where an entry can be of such a table. The definition of a partitioned table says so; a default of another one
/// might contain these words.
fn agrees(kind: TableKind, entry: &Entry) -> bool {
    match kind {
        TableKind::Table => entry.desc == ObjectType::Table,
        TableKind::PartitionedTable => {
            entry.desc == ObjectType::Table
                && entry.defn.as_deref().is_some_and(|defn| defn.contains("\nPARTITION BY "))
        }
        TableKind::ForeignTable => entry.desc == ObjectType::ForeignTable,
        TableKind::MaterializedView => entry.desc == ObjectType::MaterializedView,
    }
}

/// The reason why something cannot be skipped in a run that is complete. Such a run leaves out only what has no content
/// of its own: unlogged tables on a standby, and what `CREATE EXTENSION` makes, which no entry describes.
fn contradicts(gap: &Skipped, entry: Option<&Entry>) -> Option<String> {
    let unlogged = |e: &Entry| e.defn.as_deref().is_some_and(|defn| defn.contains("CREATE UNLOGGED "));
    let impossible = match entry {
        Some(entry) => !unlogged(entry),
        None => matches!(gap.kind.as_str(), "schema" | "large object"),
    };
    let shown = in_comment(&format!("{} {}.{}", gap.kind, gap.schema, gap.name));
    impossible.then(|| format!("{shown} is skipped, in a run that says it is complete"))
}

/// The disagreement of a manifest without large objects with a RESTORE.md that restores some.
pub(crate) fn large_objects_unnamed(manifest: &Manifest, restore_md: &str) -> Option<String> {
    // Names of tables stand in the list of what is missing.
    let restores = |line: &str| line.contains(layout::LARGE_OBJECTS) && !line.trim_start().starts_with(['-', '#']);
    let unnamed = manifest.large_objects.object.is_none() && restore_md.lines().any(restores);
    unnamed.then(|| "RESTORE.md restores large objects, and the manifest names none".to_owned())
}
