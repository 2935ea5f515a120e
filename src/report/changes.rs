//! The change from the run before: what vanished, grew, shrank, and what was odd about it.

use crate::format::manifest::Manifest;
use crate::human;
use crate::report::html;
use crate::report::html::text;
use crate::runs::diff::{self, Change, TableChange};

/// Tables that are named, those with the greatest change first.
const SHOWN: usize = 20;

/// The section; empty where there is no run before.
pub(crate) fn section(before: Option<&Manifest>, latest: &Manifest) -> String {
    let Some(before) = before else { return String::new() };
    let difference = diff::compare(before, latest);
    let mut out = format!(
        "<h2>Changes since the run before</h2>\n<p>Beside <code>{}</code>, finished {}: {}.</p>\n",
        text(&before.run),
        html::moment(&before.finished_at),
        text(summary(&difference.tables, difference.equal_tables))
    );
    let (added, removed) = (&difference.schemas.added, &difference.schemas.removed);
    for (names, verb, class) in [(removed, "vanished", "warn"), (added, "are new", "good")] {
        if !names.is_empty() {
            let names = human::shortened(names, SHOWN, ", ");
            out.push_str(&format!("<p><span class=\"badge {class}\">schemas that {verb}</span> {}</p>\n", text(names)));
        }
    }
    let mut tables: Vec<&TableChange> = difference.tables.iter().collect();
    tables.sort_by_key(|table| (table.change != Change::Removed, std::cmp::Reverse(table.raw_bytes.abs())));
    if tables.is_empty() {
        return out;
    }
    let rows: String = tables.iter().take(SHOWN).map(|table| row(table)).collect();
    let head = [("Table", false), ("Change", false), ("Rows", true), ("Text of rows", true), ("Stored", true)];
    out.push_str(&html::table("Tables that changed, vanished ones first", &head, &rows));
    if tables.len() > SHOWN {
        out.push_str(&format!(
            "<p class=\"soft\">{} more: <code>pgstow diff {} {}</code></p>\n",
            tables.len() - SHOWN,
            text(&before.run),
            text(&latest.run)
        ));
    }
    out
}

fn summary(tables: &[TableChange], equal: u64) -> String {
    let count = |change: Change| tables.iter().filter(|table| table.change == change).count();
    format!(
        "{} tables changed, {} are new, {} vanished, {equal} are the same",
        count(Change::Changed),
        count(Change::Added),
        count(Change::Removed)
    )
}

fn row(table: &TableChange) -> String {
    let (class, word) = match table.change {
        Change::Added => ("good", "new"),
        Change::Removed => ("bad", "vanished"),
        Change::Changed => ("soft", "changed"),
    };
    format!(
        "<tr><th scope=\"row\">{}.{}</th><td><span class=\"badge {class}\">{word}</span></td>{}{}{}</tr>\n",
        text(&table.schema),
        text(&table.table),
        html::number(signed(table.rows, human::count)),
        html::number(signed(table.raw_bytes, human::size)),
        html::number(signed(table.stored_bytes, human::size)),
    )
}

/// A difference with its sign.
fn signed(value: i128, write: fn(u64) -> String) -> String {
    let size = write(u64::try_from(value.unsigned_abs()).unwrap_or(u64::MAX));
    match value.cmp(&0) {
        std::cmp::Ordering::Less => format!("−{size}"),
        std::cmp::Ordering::Equal => "0".to_owned(),
        std::cmp::Ordering::Greater => format!("+{size}"),
    }
}
