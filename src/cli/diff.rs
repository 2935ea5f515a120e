//! `pgstow diff`: its flags, and the difference of two runs as text.

use clap::Args;

use crate::archive::copy_text::Value;
use crate::cli::args::{KeyArgs, size};
use crate::cli::{output, rows};
use crate::error::Result;
use crate::format::manifest::Status;
use crate::human;
use crate::peek::difference::{Change as RowChange, Difference as RowDifference, Options};
use crate::runs::diff::{Change, Difference, Side, TableChange, compare};
use crate::runs::find;
use crate::store::Store;

/// Compares two runs.
pub(crate) async fn run(store: &Store, arguments: &Diff, json: bool) -> Result<()> {
    if let Some(table) = &arguments.rows {
        return Box::pin(of_rows(store, table, arguments, json)).await;
    }
    let a = find::run(store, &arguments.a).await?.manifest;
    let b = find::run(store, &arguments.b).await?.manifest;
    let document = compare(&a, &b);
    if json { output::print_json(&document) } else { output::print(&text(&document)) }
}

/// Prints the rows of one table that differ, each as it is found.
async fn of_rows(store: &Store, table: &str, arguments: &Diff, json: bool) -> Result<()> {
    let options = Options {
        a: arguments.a.clone(),
        b: arguments.b.clone(),
        table: table.to_owned(),
        key: arguments.key.clone(),
        memory: arguments.memory,
        keys: arguments.keys.read()?,
    };
    let difference = RowDifference::open(store, &options).await?;
    let print = |change: RowChange| {
        let line = if json { row_json(&difference, &change)? } else { row_text(&difference, &change) };
        output::print(&line)
    };
    let counts = difference.run(print).await?;
    let (table, only) = (difference.table.to_string(), difference.only.join(", "));
    if json {
        return output::print(&format!(
            "{{\"table\": {}, \"a\": {}, \"b\": {}, \"added\": {}, \"removed\": {}, \"changed\": {}, \"same\": {}, \"not_compared\": {}}}\n",
            rows::string(&table)?,
            rows::string(&difference.a)?,
            rows::string(&difference.b)?,
            counts.added,
            counts.removed,
            counts.changed,
            counts.same,
            rows::string(&only)?
        ));
    }
    let only = if only.is_empty() {
        String::new()
    } else {
        format!("not compared, since one run lacks it: {}\n", human::plain(&only))
    };
    output::print(&format!(
        "{}: {} added, {} removed, {} changed, {} the same\n{only}",
        human::plain(&table),
        human::count(counts.added),
        human::count(counts.removed),
        human::count(counts.changed),
        human::count(counts.same)
    ))
}

/// A row's values of some columns.
fn named(difference: &RowDifference, row: &[Value], wanted: impl Fn(usize) -> bool) -> String {
    let fields = difference.columns.iter().zip(row).enumerate().filter(|(at, _)| wanted(*at));
    let fields = fields.map(|(_, ((name, _), value))| format!("{}={}", human::plain(name), rows::cell(value)));
    fields.collect::<Vec<_>>().join(" ")
}

fn row_text(difference: &RowDifference, change: &RowChange) -> String {
    match change {
        RowChange::Added(row) => format!("+ {}\n", named(difference, row, |_| true)),
        RowChange::Removed(row) => format!("- {}\n", named(difference, row, |_| true)),
        RowChange::Changed(a, b) => {
            let differs = |at: usize| a.get(at) != b.get(at);
            let key = named(difference, b, |at| difference.key.contains(&at));
            let (before, after) = (named(difference, a, differs), named(difference, b, differs));
            format!("~ {key}: {before} -> {after}\n")
        }
    }
}

fn row_json(difference: &RowDifference, change: &RowChange) -> Result<String> {
    let row = |row: &[Value]| {
        let fields = difference.columns.iter().zip(row);
        rows::json_row(fields.map(|((name, kind), value)| (name.as_str(), kind.as_deref(), value)))
    };
    Ok(match change {
        RowChange::Added(b) => format!("{{\"change\": \"added\", \"b\": {}}}\n", row(b)?),
        RowChange::Removed(a) => format!("{{\"change\": \"removed\", \"a\": {}}}\n", row(a)?),
        RowChange::Changed(a, b) => {
            format!("{{\"change\": \"changed\", \"a\": {}, \"b\": {}}}\n", row(a)?, row(b)?)
        }
    })
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
    /// Compare the rows of this table, as `schema.table`: those that were added, removed and changed, one a line. Nothing
    /// else of the runs is read.
    #[arg(long, value_name = "SCHEMA.TABLE")]
    pub rows: Option<String>,
    /// With --rows: the columns by which rows are told apart. Default: the primary key, else all columns.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',', requires = "rows")]
    pub key: Vec<String>,
    /// With --rows: room for rows that differ; more of them are read in several turns.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = size, requires = "rows")]
    pub memory: u64,
    /// The secret keys of encrypted runs, with --rows.
    #[command(flatten)]
    pub keys: KeyArgs,
}
