//! `pgstow diff`: its flags, and the difference of two runs as text.

use clap::Args;

use crate::cli::output;
use crate::error::Result;
use crate::format::manifest::Status;
use crate::human;
use crate::runs::diff::{Change, Difference, Side, TableChange, compare};
use crate::runs::find;
use crate::store::Store;

/// Compares two runs.
pub(crate) async fn run(store: &Store, arguments: &Diff, json: bool) -> Result<()> {
    let a = find::run(store, &arguments.a).await?.manifest;
    let b = find::run(store, &arguments.b).await?.manifest;
    let document = compare(&a, &b);
    if json { output::print_json(&document) } else { output::print(&text(&document)) }
}

fn sides(document: &Difference) -> String {
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

fn text(document: &Difference) -> String {
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

fn gaps(text: &mut String, document: &Difference) {
    let mut line = |what: &str, kind: &str, name: &str, reason: &str| {
        let (name, reason) = (human::plain(name), human::plain(reason));
        text.push_str(&format!("{what}: {kind} {name}: {reason}\n"));
    };
    let skipped = &document.skipped;
    for (what, gaps) in [("skipped in B only", &skipped.added), ("skipped in A only", &skipped.removed)] {
        for gap in gaps {
            let name = gap.display_name();
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
pub struct Diff {
    /// Older run: its name, the beginning of its name, or `latest`.
    pub a: String,
    /// Newer run.
    pub b: String,
}
