//! Partitions as pg_dump's table of contents shows them: `TABLE ATTACH` entries name the partition and depend on both
//! tables, and the definition of a partitioned table says by what its rows are divided.

use std::collections::{HashMap, HashSet};

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag};
use crate::sql::names::TableName;

/// The name that an entry carries.
fn named(entry: &Entry) -> TableName {
    TableName::new(namespace(entry), tag(entry))
}

/// The table that each partition was attached to.
pub(crate) fn parents(entries: &[Entry]) -> HashMap<TableName, TableName> {
    let by_id: HashMap<i32, &Entry> =
        entries.iter().filter(|e| e.desc == ObjectType::Table).map(|e| (e.dump_id, e)).collect();
    let attached = entries.iter().filter(|e| e.desc == ObjectType::TableAttach);
    attached
        .filter_map(|e| {
            let own = named(e);
            let tables = e.dependencies.iter().filter_map(|id| by_id.get(id));
            let parent = tables.map(|table| named(table)).find(|table| *table != own)?;
            Some((own, parent))
        })
        .collect()
}

/// The tables above a partition, from its parent to the topmost one.
pub(crate) fn ancestors<'a>(
    of: &'a TableName,
    parents: &'a HashMap<TableName, TableName>,
) -> impl Iterator<Item = &'a TableName> {
    std::iter::successors(parents.get(of), |one| parents.get(*one)).take(parents.len())
}

/// For each partition below a hash-partitioned table: the topmost one.
pub(crate) fn hash_roots(entries: &[Entry]) -> HashMap<TableName, TableName> {
    let parents = parents(entries);
    let by_hash = |e: &&Entry| {
        e.desc == ObjectType::Table && e.defn.as_deref().is_some_and(|defn| defn.contains("\nPARTITION BY HASH"))
    };
    let hashed: HashSet<TableName> = entries.iter().filter(by_hash).map(named).collect();
    let mut roots = HashMap::new();
    for leaf in parents.keys() {
        let line: Vec<&TableName> = ancestors(leaf, &parents).collect();
        if let Some(root) = line.last().filter(|_| line.iter().any(|one| hashed.contains(one))) {
            roots.insert(leaf.clone(), (*root).clone());
        }
    }
    roots
}
