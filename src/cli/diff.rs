//! `pgstow diff`: what changed between two runs, by their manifests alone.
//!
//! A table is the same when rows and digest are: the digest is over the content, whatever the order of rows.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use crate::cli::args::EXIT_CODES;
use crate::cli::output;
use crate::error::Result;
use crate::format::manifest::{Manifest, Omitted, Skipped, Status, Table, Totals};
use crate::human;
use crate::runs::find;
use crate::store::Store;

/// One of the two runs.
#[derive(Debug, Serialize)]
struct Side {
    run: String,
    status: Status,
    finished_at: String,
    database: String,
    identity: String,
    server_version: String,
    pg_dump_version: String,
    tool_version: String,
    compression: String,
    large_objects: u64,
    totals: Totals,
}

/// What happened to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Change {
    Added,
    Removed,
    Changed,
}

/// Sizes of a table in one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Measure {
    kind: &'static str,
    rows: u64,
    raw_bytes: u64,
    stored_bytes: u64,
    digest: String,
}

/// A table that is not the same in both.
#[derive(Debug, Serialize)]
struct TableChange {
    schema: String,
    table: String,
    change: Change,
    rows: i128,
    raw_bytes: i128,
    stored_bytes: i128,
    /// `equal` or `changed`, where both runs have the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<Measure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b: Option<Measure>,
}

/// What only one of two lists has.
#[derive(Debug, Serialize)]
struct Lists<T> {
    added: Vec<T>,
    removed: Vec<T>,
}

#[derive(Debug, Serialize)]
struct Document {
    a: Side,
    b: Side,
    same_database: bool,
    schemas: Lists<String>,
    tables: Vec<TableChange>,
    /// Tables with the same rows and digest.
    equal_tables: u64,
    /// `equal` or `changed`.
    large_objects: &'static str,
    skipped: Lists<Skipped>,
    omitted: Lists<Omitted>,
}

/// Compares two runs.
pub(crate) async fn run(store: &Store, arguments: &Diff, json: bool) -> Result<()> {
    let a = find::run(store, &arguments.a).await?.manifest;
    let b = find::run(store, &arguments.b).await?.manifest;
    let document = compare(&a, &b);
    if json { output::print_json(&document) } else { output::print(&text(&document)) }
}

fn compare(a: &Manifest, b: &Manifest) -> Document {
    let schemas =
        |manifest: &Manifest| -> Vec<String> { manifest.schemas.iter().map(|schema| schema.name.clone()).collect() };
    let (tables, equal_tables) = tables(a, b);
    let large = |manifest: &Manifest| {
        let large = &manifest.large_objects;
        (large.count, large.bytes, large.digest.clone())
    };
    Document {
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

fn sides(document: &Document) -> String {
    let row = |mark: &str, side: &Side| {
        vec![
            mark.to_owned(),
            side.run.clone(),
            if side.status == Status::Complete { "complete" } else { "PARTIAL" }.to_owned(),
            side.finished_at.get(..19).unwrap_or(&side.finished_at).replace('T', " "),
            human::plain(&side.database),
            human::count(side.totals.schemas),
            human::count(side.totals.tables),
            human::count(side.totals.rows),
            human::size(side.totals.raw_bytes),
            human::size(side.totals.stored_bytes),
        ]
    };
    let head = ["", "RUN", "STATUS", "FINISHED (UTC)", "DATABASE", "SCHEMAS", "TABLES", "ROWS", "RAW", "STORED"];
    output::table(&head, &[5, 6, 7, 8, 9], &[row("A", &document.a), row("B", &document.b)])
}

fn text(document: &Document) -> String {
    let (a, b) = (&document.a, &document.b);
    let mut text = sides(document);
    text.push('\n');
    if !document.same_database {
        text.push_str("these are runs of two different databases\n");
    }
    let facts = [
        ("PostgreSQL", &a.server_version, &b.server_version),
        ("pg_dump", &a.pg_dump_version, &b.pg_dump_version),
        ("pgstow", &a.tool_version, &b.tool_version),
        ("compression", &a.compression, &b.compression),
    ];
    for (what, before, after) in facts {
        if before != after {
            text.push_str(&format!("{what}: {} -> {}\n", human::plain(before), human::plain(after)));
        }
    }
    for (what, names) in [("added", &document.schemas.added), ("removed", &document.schemas.removed)] {
        for name in names {
            text.push_str(&format!("schema {what}: {}\n", human::plain(name)));
        }
    }
    if document.large_objects == "changed" {
        text.push_str(&format!("large objects: changed, {} -> {}\n", a.large_objects, b.large_objects));
    }
    text.push_str(&changes(&document.tables));
    let equal = document.equal_tables;
    text.push_str(&match (equal, document.tables.is_empty()) {
        (1, _) => "1 table is the same in rows and digest\n".to_owned(),
        (_, true) => format!("all {equal} tables are the same in rows and digest\n"),
        _ => format!("{equal} tables are the same in rows and digest\n"),
    });
    gaps(&mut text, document);
    text
}

fn changes(tables: &[TableChange]) -> String {
    if tables.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = tables
        .iter()
        .map(|table| {
            let now = table.b.as_ref().or(table.a.as_ref());
            let note = match (&table.a, &table.b) {
                (Some(a), Some(b)) if a.kind != b.kind => format!("{} -> {}", a.kind, b.kind),
                _ if table.digest == Some("changed") && table.rows == 0 => "other content".to_owned(),
                _ => String::new(),
            };
            vec![
                human::plain(&format!("{}.{}", table.schema, table.table)),
                match table.change {
                    Change::Added => "added",
                    Change::Removed => "removed",
                    Change::Changed => "changed",
                }
                .to_owned(),
                human::count(now.map_or(0, |now| now.rows)),
                signed(table.rows, human::count),
                human::size(now.map_or(0, |now| now.raw_bytes)),
                signed(table.raw_bytes, human::size),
                signed(table.stored_bytes, human::size),
                note,
            ]
        })
        .collect();
    let head = ["TABLE", "CHANGE", "ROWS", "+/-", "RAW", "+/-", "STORED +/-", ""];
    output::table(&head, &[2, 3, 4, 5, 6], &rows)
}

/// `+12`, `-3 KiB`, `0`.
fn signed(number: i128, write: fn(u64) -> String) -> String {
    let size = write(u64::try_from(number.unsigned_abs()).unwrap_or(u64::MAX));
    match number.signum() {
        1 => format!("+{size}"),
        -1 => format!("-{size}"),
        _ => "0".to_owned(),
    }
}

fn gaps(text: &mut String, document: &Document) {
    let mut line = |what: &str, kind: &str, name: &str, reason: &str| {
        let (name, reason) = (human::plain(name), human::plain(reason));
        text.push_str(&format!("{what}: {kind} {name}: {reason}\n"));
    };
    let skipped = &document.skipped;
    for (what, gaps) in [("skipped in B only", &skipped.added), ("skipped in A only", &skipped.removed)] {
        for gap in gaps {
            let name = if gap.schema.is_empty() { gap.name.clone() } else { format!("{}.{}", gap.schema, gap.name) };
            line(what, &gap.kind, &name, &gap.reason);
        }
    }
    let omitted = &document.omitted;
    for (what, gaps) in [("omitted in B only", &omitted.added), ("omitted in A only", &omitted.removed)] {
        for gap in gaps {
            line(what, &gap.kind, &gap.name, &gap.reason);
        }
    }
}

/// `pgstow diff`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Diff {
    /// The run to compare from.
    pub a: String,
    /// The run to compare with.
    pub b: String,
}
