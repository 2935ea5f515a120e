//! `pgstow show`: one manifest, for people or as it is.

use std::fmt::Write as _;

use clap::Args;

use crate::cli::output;
use crate::error::Result;
use crate::format::manifest::{Manifest, Schema, Status};
use crate::human;
use crate::runs::{find, select};
use crate::store::Store;

/// Shows a run.
pub(crate) async fn run(store: &Store, arguments: &Show, json: bool) -> Result<()> {
    let found = find::run(store, &arguments.run).await?;
    let mut manifest = found.manifest;
    if let Some(wanted) = &arguments.schema {
        let at = select::schema(&manifest, wanted)?;
        manifest.schemas = manifest.schemas.drain(..).skip(at).take(1).collect();
    }
    if json {
        if arguments.schema.is_some() {
            return output::print_json(&manifest.schemas.first());
        }
        // The very bytes, so that fields this version does not know are shown too.
        return output::print(&human::escaped_json(&format!("{}\n", String::from_utf8_lossy(&found.bytes).trim_end())));
    }
    let text = match (&arguments.schema, manifest.schemas.first()) {
        (Some(_), Some(schema)) => one_schema(schema),
        _ => whole(&manifest),
    };
    output::print(&text)
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let written = text.write_fmt(arguments);
    debug_assert!(written.is_ok(), "writing to a String does not fail");
    text.push('\n');
}

fn whole(manifest: &Manifest) -> String {
    let mut text = String::new();
    head(&mut text, manifest);
    for schema in &manifest.schemas {
        text.push('\n');
        text.push_str(&one_schema(schema));
    }
    missing(&mut text, manifest);
    text
}

/// The lines about the run as a whole.
fn head(text: &mut String, manifest: &Manifest) {
    let (source, totals) = (&manifest.source, &manifest.totals);
    let status = match manifest.status {
        crate::format::manifest::Status::Complete => "complete",
        crate::format::manifest::Status::Partial => "PARTIAL",
    };
    line(text, format_args!("run        {} ({status})", manifest.run));
    line(text, format_args!("time       {} to {}", manifest.started_at, manifest.finished_at));
    line(
        text,
        format_args!(
            "source     {} on {}:{}, PostgreSQL {}, {}, as {}{}",
            human::plain(&source.database),
            human::plain(&source.host),
            source.port,
            source.server_version,
            source.encoding,
            human::plain(&source.role),
            if source.superuser { " (superuser)" } else { "" }
        ),
    );
    line(
        text,
        format_args!(
            "holds      {} schemas, {} tables, {} rows, {} of rows",
            human::count(totals.schemas),
            human::count(totals.tables),
            human::count(totals.rows),
            human::size(totals.raw_bytes)
        ),
    );
    let sealed = if manifest.encryption.is_some() { ", encrypted" } else { "" };
    line(
        text,
        format_args!(
            "stored     {} in {} objects, {}{sealed}, by {} {}",
            human::size(totals.stored_bytes),
            human::count(totals.objects),
            manifest.compression,
            manifest.tool.name,
            manifest.tool.version
        ),
    );
    if let Some(encryption) = &manifest.encryption {
        line(text, format_args!("encrypted  {}, to {}", encryption.scheme, encryption.recipients.join(", ")));
    }
    let large = &manifest.large_objects;
    line(text, format_args!("also       {} large objects ({})", human::count(large.count), human::size(large.bytes)));
    let roles = if manifest.roles.passwords { "with password hashes" } else { "without passwords" };
    line(text, format_args!("           roles {roles}"));
}

fn one_schema(schema: &Schema) -> String {
    let mut text = String::new();
    line(
        &mut text,
        format_args!(
            "schema {} (owner {}): {}, {}",
            human::plain(&schema.name),
            human::plain(&schema.owner),
            schema.dump.key,
            human::size(schema.dump.bytes)
        ),
    );
    if !schema.needs.is_empty() {
        let needs: Vec<String> = schema.needs.iter().map(|need| human::plain(need)).collect();
        line(&mut text, format_args!("needs {}", needs.join(", ")));
    }
    let rows: Vec<Vec<String>> = schema
        .tables
        .iter()
        .map(|table| {
            let mut note = table.extension.as_ref().map(|name| format!("extension {name}")).unwrap_or_default();
            if let Some(filter) = &table.filter {
                note = format!("{note}, {filter}");
            }
            vec![
                format!("  {}", human::plain(&table.name)),
                table.kind.as_str().to_owned(),
                human::count(table.rows),
                human::size(table.raw_bytes),
                human::size(table.file.bytes),
                human::plain(&note),
            ]
        })
        .collect();
    if !rows.is_empty() {
        text.push_str(&output::table(&["  TABLE", "KIND", "ROWS", "RAW", "STORED", ""], &[2, 3, 4], &rows));
    }
    text
}

fn missing(text: &mut String, manifest: &Manifest) {
    let partial = manifest.status == Status::Partial;
    let skipped = manifest.skipped.iter().map(|gap| {
        let name = gap.display_name();
        (&*gap.kind, name, &*gap.reason)
    });
    let dependents = manifest.dependents.iter().map(|gap| (&*gap.kind, gap.name.clone(), &*gap.reason));
    let omitted = manifest.omitted.iter().map(|gap| (&*gap.kind, gap.name.clone(), &*gap.reason));
    let skipped_title = if partial {
        "skipped (the run is partial without these)"
    } else {
        "skipped (the run is complete without these)"
    };
    for (title, lines) in [
        (skipped_title, human::grouped(skipped, usize::MAX)),
        ("held, but not to be restored whole", human::grouped(dependents, usize::MAX)),
        ("omitted (no backup by this role can hold them)", human::grouped(omitted, usize::MAX)),
    ] {
        if !lines.is_empty() {
            line(text, format_args!("\n{title}:"));
        }
        for gap in lines {
            line(text, format_args!("  {gap}"));
        }
    }
}

/// `pgstow show`
#[derive(Debug, Clone, Args)]
pub struct Show {
    /// Run: its name, the beginning of its name, or `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// Show only this schema, with the objects of other schemas that its archive needs.
    #[arg(long)]
    pub schema: Option<String>,
}
