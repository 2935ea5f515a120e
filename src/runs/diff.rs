//! The difference of two runs by their manifests alone.
//!
//! A table is the same when rows and digest are: the digest is over the content, whatever the order of rows.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::format::manifest::{Manifest, Omitted, Skipped, Status, Table, Totals};

/// One of the two runs.
#[derive(Debug, Serialize)]
pub(crate) struct Side {
    pub(crate) run: String,
    pub(crate) status: Status,
    pub(crate) finished_at: String,
    pub(crate) database: String,
    pub(crate) identity: String,
    pub(crate) server_version: String,
    pub(crate) pg_dump_version: String,
    pub(crate) tool_version: String,
    pub(crate) compression: String,
    pub(crate) large_objects: u64,
    pub(crate) totals: Totals,
}

/// The change of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Change {
    Added,
    Removed,
    Changed,
}

/// Sizes of a table in one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Measure {
    pub(crate) kind: &'static str,
    pub(crate) rows: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) digest: String,
}

/// A table that is not the same in both.
#[derive(Debug, Serialize)]
pub(crate) struct TableChange {
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) change: Change,
    pub(crate) rows: i128,
    pub(crate) raw_bytes: i128,
    pub(crate) stored_bytes: i128,
    /// `equal` or `changed`, where both runs have the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) a: Option<Measure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) b: Option<Measure>,
}

/// The entries that only one of two lists has.
#[derive(Debug, Serialize)]
pub(crate) struct Lists<T> {
    pub(crate) added: Vec<T>,
    pub(crate) removed: Vec<T>,
}

/// The difference of run B from run A.
#[derive(Debug, Serialize)]
pub(crate) struct Difference {
    pub(crate) a: Side,
    pub(crate) b: Side,
    pub(crate) same_database: bool,
    pub(crate) schemas: Lists<String>,
    pub(crate) tables: Vec<TableChange>,
    /// Tables with the same rows and digest.
    pub(crate) equal_tables: u64,
    /// `equal` or `changed`.
    pub(crate) large_objects: &'static str,
    pub(crate) skipped: Lists<Skipped>,
    pub(crate) omitted: Lists<Omitted>,
}

/// Compares two runs.
pub(crate) fn compare(a: &Manifest, b: &Manifest) -> Difference {
    let schemas =
        |manifest: &Manifest| -> Vec<String> { manifest.schemas.iter().map(|schema| schema.name.clone()).collect() };
    let (tables, equal_tables) = tables(a, b);
    let large = |manifest: &Manifest| {
        let large = &manifest.large_objects;
        (large.count, large.bytes, large.digest.clone())
    };
    Difference {
        a: side(a),
        b: side(b),
        same_database: a.source.identity == b.source.identity,
        schemas: lists(&schemas(a), &schemas(b)),
        tables,
        equal_tables,
        large_objects: if large(a) == large(b) { "equal" } else { "changed" },
        skipped: lists(&a.skipped, &b.skipped),
        omitted: lists(&a.omitted, &b.omitted),
    }
}

fn side(manifest: &Manifest) -> Side {
    let source = &manifest.source;
    Side {
        run: manifest.run.clone(),
        status: manifest.status,
        finished_at: manifest.finished_at.clone(),
        database: source.database.clone(),
        identity: source.identity.clone(),
        server_version: source.server_version.clone(),
        pg_dump_version: source.pg_dump_version.clone(),
        tool_version: manifest.tool.version.clone(),
        compression: manifest.compression.clone(),
        large_objects: manifest.large_objects.count,
        totals: manifest.totals.clone(),
    }
}

fn lists<T: Clone + PartialEq>(a: &[T], b: &[T]) -> Lists<T> {
    let only = |these: &[T], others: &[T]| these.iter().filter(|one| !others.contains(one)).cloned().collect();
    Lists { added: only(b, a), removed: only(a, b) }
}

/// Tables that are not the same, by name, and how many are.
fn tables(a: &Manifest, b: &Manifest) -> (Vec<TableChange>, u64) {
    let measures = |manifest: &Manifest| -> BTreeMap<(String, String), Measure> {
        let tables = manifest.schemas.iter().flat_map(|schema| schema.tables.iter().map(move |table| (schema, table)));
        tables.map(|(schema, table)| ((schema.name.clone(), table.name.clone()), measure(table))).collect()
    };
    let (mut a, mut b) = (measures(a), measures(b));
    let mut names: Vec<(String, String)> = a.keys().chain(b.keys()).cloned().collect();
    names.sort_unstable();
    names.dedup();
    let (mut changes, mut equal) = (Vec::new(), 0);
    for name in names {
        let (before, after) = (a.remove(&name), b.remove(&name));
        let change = match (&before, &after) {
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
            (Some(a), Some(b)) if (a.kind, a.rows, &a.digest) == (b.kind, b.rows, &b.digest) => {
                equal += 1;
                continue;
            }
            _ => Change::Changed,
        };
        let delta = |value: fn(&Measure) -> u64| {
            after.as_ref().map_or(0, |b| i128::from(value(b))) - before.as_ref().map_or(0, |a| i128::from(value(a)))
        };
        let digest = before.as_ref().zip(after.as_ref());
        changes.push(TableChange {
            schema: name.0,
            table: name.1,
            change,
            rows: delta(|table| table.rows),
            raw_bytes: delta(|table| table.raw_bytes),
            stored_bytes: delta(|table| table.stored_bytes),
            digest: digest.map(|(a, b)| if a.digest == b.digest { "equal" } else { "changed" }),
            a: before,
            b: after,
        });
    }
    (changes, equal)
}

fn measure(table: &Table) -> Measure {
    Measure {
        kind: table.kind.as_str(),
        rows: table.rows,
        raw_bytes: table.raw_bytes,
        stored_bytes: table.file.bytes,
        digest: table.digest.clone(),
    }
}
