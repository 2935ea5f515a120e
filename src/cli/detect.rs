//! `pgstow detect`: what a run would cover, and what the role cannot read.

use std::collections::BTreeMap;

use clap::Args;

use crate::cli::args::{Global, SourceArgs};
use crate::cli::outcome::Outcome;
use crate::cli::output;
use crate::error::{Error, Result};
use crate::human;
use crate::postgres::connect::session::Session;
use crate::postgres::source::detect::{Detection, RelKind, Relation, SchemaInfo, detect};
use crate::shutdown::Shutdown;

/// Runs the command. What cannot be read is part of the answer, not a failure.
///
/// # Errors
/// When the database cannot be reached or looked at.
pub(crate) async fn run(arguments: Detect, global: &Global, shutdown: &Shutdown) -> Result<Outcome> {
    let info = arguments.source.connection()?;
    let look = async {
        let session = Session::connect_unpooled(&info, arguments.source.connect_timeout, "detect").await?;
        let detection = detect(&session.client).await?;
        session.close().await;
        Ok::<_, Error>(detection)
    };
    let detection = tokio::select! {
        detection = look => detection?,
        error = shutdown.requested() => return Err(error),
    };
    let text = if arguments.schemas {
        names(&detection, global.json)?
    } else if global.json {
        document(&detection)?
    } else {
        table(&detection)
    };
    output::print(&text)?;
    Ok(Outcome::Done)
}

fn document(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::failed(format!("write JSON: {error}")))?;
    Ok(human::escaped_json(&text) + "\n")
}

fn names(detection: &Detection, json: bool) -> Result<String> {
    let names: Vec<&str> = detection.schemas.iter().map(|schema| schema.name.as_str()).collect();
    if json { document(&names) } else { Ok(names.join("\n") + if names.is_empty() { "" } else { "\n" }) }
}

/// The text for people: one line a schema, then what cannot be read and what a dump cannot hold.
fn table(detection: &Detection) -> String {
    let server = &detection.server;
    let mut by_schema: BTreeMap<&str, Vec<&Relation>> = BTreeMap::new();
    for relation in &detection.relations {
        by_schema.entry(&relation.schema).or_default().push(relation);
    }
    let width =
        detection.schemas.iter().map(|schema| human::plain(&schema.name).chars().count()).max().unwrap_or(0).max(6);
    let mut lines = vec![
        format!(
            "PostgreSQL {}, database {}, role {}{}",
            server.version,
            human::plain(&server.database),
            human::plain(&server.role),
            if server.superuser { " (superuser)" } else { "" }
        ),
        String::new(),
        format!(
            "{:width$}  {:>7}  {:>9}  {:>12}  {:>10}  {}",
            "schema", "tables", "sequences", "rows (est.)", "size", "notes"
        ),
    ];
    for schema in &detection.schemas {
        let relations = by_schema.get(schema.name.as_str()).map_or(&[][..], Vec::as_slice);
        let notes = notes(schema, relations);
        lines.push(row(&human::plain(&schema.name), width, relations.iter().copied(), &notes));
    }
    lines.push(row(
        "total",
        width,
        detection.relations.iter(),
        &format!("{} schemas, {} large objects", detection.schemas.len(), detection.large_objects),
    ));
    lines.extend(gaps(detection));
    lines.join("\n") + "\n"
}

/// The extensions of a schema, the number of its unreadable relations, and its own note.
fn notes(schema: &SchemaInfo, relations: &[&Relation]) -> String {
    let mut notes = Vec::new();
    let mut extensions: Vec<&str> = relations.iter().filter_map(|relation| relation.extension.as_deref()).collect();
    extensions.extend(schema.extension.as_deref());
    extensions.sort_unstable();
    extensions.dedup();
    if !extensions.is_empty() {
        notes.push(format!("extension {}", extensions.join(", ")));
    }
    let unreadable = relations.iter().filter(|relation| relation.unreadable.is_some()).count();
    if unreadable > 0 {
        notes.push(format!("{unreadable} unreadable"));
    }
    notes.extend(schema.note.clone());
    notes.join("; ")
}

/// The lines about what the role cannot read and what no dump by it can hold.
fn gaps(detection: &Detection) -> Vec<String> {
    let server = &detection.server;
    let mut lines = Vec::new();
    if !detection.unreadable.is_empty() {
        lines.extend([
            String::new(),
            format!("unreadable by {} ({}), and the cure:", human::plain(&server.role), detection.unreadable.len()),
        ]);
        for item in &detection.unreadable {
            lines.push(format!("  {} {}: {}", item.kind, human::plain(&item.display_name()), item.reason));
            lines.push(format!("      {}", item.cure));
        }
    }
    if !detection.omitted.is_empty() {
        lines.extend([String::new(), "not part of any dump by this role:".to_owned()]);
        lines.extend(
            detection
                .omitted
                .iter()
                .map(|item| format!("  {} {}: {}", item.kind, human::plain(&item.name), item.reason)),
        );
    }
    lines
}

fn row<'a>(name: &str, width: usize, relations: impl Iterator<Item = &'a Relation>, notes: &str) -> String {
    let (mut tables, mut sequences, mut rows, mut bytes) = (0_u64, 0_u64, 0_i64, 0_i64);
    for relation in relations {
        if relation.relkind == RelKind::Sequence {
            sequences += 1;
        } else {
            tables += 1;
        }
        rows = rows.saturating_add(if relation.relkind == RelKind::PartitionedTable {
            0
        } else {
            relation.estimated_rows
        });
        bytes = bytes.saturating_add(relation.bytes);
    }
    let size = indicatif::BinaryBytes(u64::try_from(bytes).unwrap_or(0)).to_string();
    format!("{name:width$}  {tables:>7}  {sequences:>9}  {rows:>12}  {size:>10}  {notes}").trim_end().to_owned()
}

/// `pgstow detect`
#[derive(Debug, Clone, Args)]
pub struct Detect {
    /// The database to read.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Print only the names of the schemas, one a line.
    #[arg(long)]
    pub schemas: bool,
}
