//! `pgstow list`: the runs of the store as a table, newest first.

use clap::Args;

use crate::cli::fleet::ConfigArgs;
use crate::cli::output;
use crate::error::Result;
use crate::human;
use crate::human::age;
use crate::runs::inventory::{Depth, Inventory, Row, inventory};
use crate::runs::receipts::Receipt;
use crate::store::Store;

/// Lists the runs.
pub(crate) async fn run(store: &Store, json: bool) -> Result<()> {
    let found = inventory(store, Depth::Manifests).await?;
    if json { output::print_json(&found) } else { output::print(&text(&found)) }
}

fn receipt(receipt: Option<&Receipt>) -> String {
    let Some(receipt) = receipt else { return "-".to_owned() };
    match receipt.extent() {
        _ if !receipt.ok => "DAMAGED".to_owned(),
        Some(extent) => format!("{} ago ({extent})", age(&receipt.at)),
        None => format!("{} ago", age(&receipt.at)),
    }
}

fn text(document: &Inventory) -> String {
    if document.runs.is_empty() {
        return format!("no backups in {} yet\n", document.store);
    }
    let head = ["RUN", "STATUS", "AGE", "DATABASE", "TABLES", "ROWS", "RAW", "STORED", "TOOK", "VERIFIED", "DRILLED"];
    let rows: Vec<Vec<String>> = document.runs.iter().map(cells).collect();
    let mut text = output::table(&head, &[4, 5, 6, 7, 8], &rows);
    match &document.latest {
        Some(_) => text.push_str("* latest\n"),
        None => text.push_str("no run is latest\n"),
    }
    if let Some(problem) = &document.latest_problem {
        text.push_str(&format!(
            "{}\nhint: `pgstow promote RUN` makes one of these runs latest\n",
            human::plain(problem)
        ));
    }
    for row in &document.runs {
        if let Some(problem) = &row.problem {
            text.extend([row.run.as_str(), ": ", &human::plain(problem), "\n"]);
        }
        if let Some(note) = row.details.as_ref().and_then(|details| details.note.as_ref()) {
            text.extend([row.run.as_str(), ": ", &human::plain(note), "\n"]);
        }
        if let Some(pin) = &row.pin {
            text.extend([row.run.as_str(), ": ", &human::plain(&pin.text()), "\n"]);
        }
    }
    text
}

fn cells(row: &Row) -> Vec<String> {
    let mark = if row.latest { "*" } else { "" };
    let mut cells = vec![format!("{}{mark}", row.run), row.state.as_str().to_owned()];
    if let Some(details) = &row.details {
        cells.extend([
            age(&details.finished_at),
            human::plain(&details.database),
            human::count(details.totals.tables),
            human::count(details.totals.rows),
            human::size(details.totals.raw_bytes),
            human::size(details.totals.stored_bytes),
            format!("{:.1}s", details.seconds),
            receipt(row.verified.as_ref()),
            receipt(row.drilled.as_ref()),
        ]);
    }
    cells
}

/// `pgstow list`
#[derive(Debug, Clone, Args)]
pub struct List {
    /// The file of all databases.
    #[command(flatten)]
    pub config: ConfigArgs,
}
