//! The latest run on the page: where it came from, what it lacks, its schemas and tables.

use crate::format::manifest::{Manifest, Schema, Status, Table};
use crate::human;
use crate::report::html::text;
use crate::report::{Facts, html, treemap};

/// From this many schemas with rows on, the details stay closed.
const OPEN: usize = 1;

/// The section.
pub(crate) fn section(facts: &Facts, manifest: &Manifest) -> String {
    let mut out = format!("<h2>The latest run</h2>\n{}", origin(facts, manifest));
    out.push_str(&gaps(manifest));
    out.push_str("<h2>Schemas and tables of the latest run</h2>\n");
    out.push_str(&treemap::picture(manifest));
    let whole: u64 = manifest.schemas.iter().map(|schema| schema.dump.bytes).sum();
    let open = manifest.schemas.len() <= OPEN;
    for schema in &manifest.schemas {
        out.push_str(&one(schema, whole, open));
    }
    out
}

fn origin(facts: &Facts, manifest: &Manifest) -> String {
    let source = &manifest.source;
    let code = |value: &str| format!("<code>{}</code>", text(value));
    let yes = |value: bool, yes: &str, no: &str| text(if value { yes } else { no });
    let large = &manifest.large_objects;
    let mut pairs = vec![
        ("Run", code(&manifest.run)),
        ("Database", text(&source.database)),
        ("Server", format!("{}:{}", text(&source.host), source.port)),
        ("PostgreSQL", text(&source.server_version)),
        ("pg_dump", text(&source.pg_dump_version)),
        ("Role", format!("{}{}", text(&source.role), yes(source.superuser, " (superuser)", ""))),
        ("Encoding", text(&source.encoding)),
        ("Snapshot", code(&source.snapshot)),
        ("Started", html::moment(&manifest.started_at)),
        ("Finished", html::moment(&manifest.finished_at)),
        ("Compression", text(&manifest.compression)),
        ("Encryption", text(manifest.encryption.as_ref().map_or("none", |encryption| &encryption.scheme))),
        ("Signature", facts.signed_by()),
        ("Objects", text(human::count(manifest.totals.objects + 1))),
        ("Large objects", format!("{}, {}", human::count(large.count), text(human::size(large.bytes)))),
        ("Roles", yes(manifest.roles.passwords, "with password hashes", "without passwords")),
        ("Made by", format!("{} {}", text(&manifest.tool.name), text(&manifest.tool.version))),
    ];
    if let Some(lsn) = &source.wal_lsn {
        pairs.push(("WAL position", code(lsn)));
    }
    if source.in_recovery {
        pairs.push(("Source", "a standby".to_owned()));
    }
    html::facts(&pairs)
}

fn gaps(manifest: &Manifest) -> String {
    let row = |kind: &str, name: &str, reason: &str| {
        format!(
            "<tr><th scope=\"row\">{}</th><td class=\"wrap\"><code>{}</code></td><td class=\"wrap\">{}</td></tr>\n",
            text(kind),
            text(name),
            text(reason)
        )
    };
    let head = [("What", false), ("Name", false), ("Why, and what to do", false)];
    let mut out = String::new();
    if !manifest.skipped.is_empty() {
        let rows: String =
            manifest.skipped.iter().map(|gap| row(&gap.kind, &gap.display_name(), &gap.reason)).collect();
        let is = if manifest.status == Status::Partial { "partial" } else { "complete" };
        out.push_str(&format!("<h2>Skipped: the run is {is} without these</h2>\n"));
        out.push_str(&html::table("Skipped", &head, &rows));
    }
    out.push_str("<h2>Not in the backup, by design</h2>\n");
    if manifest.omitted.is_empty() {
        out.push_str("<p>Nothing was found in this database that a logical backup by this role cannot hold.</p>\n");
    } else {
        out.push_str("<p>What this role is not shown, or what lives outside of the database.</p>\n");
        let rows: String = manifest.omitted.iter().map(|gap| row(&gap.kind, &gap.name, &gap.reason)).collect();
        out.push_str(&html::table("Not in the backup", &head, &rows));
    }
    out
}

fn one(schema: &Schema, whole: u64, open: bool) -> String {
    let rows: u64 = schema.tables.iter().map(|table| table.rows).sum();
    let share = schema.dump.bytes as f64 * 100.0 / whole.max(1) as f64;
    let tables = schema.tables.len();
    let mut out = format!(
        "<details{}><summary><span class=\"name\">{}</span><span class=\"cell\">{tables} table{}</span>\
         <span class=\"cell\">{} rows</span><span class=\"cell\">{}</span>\
         <span class=\"share\" role=\"img\" aria-label=\"{share:.0} % of the run\"><span style=\"width:{share:.1}%\"></span></span>\
         </summary>\n",
        if open { " open" } else { "" },
        text(&schema.name),
        if tables == 1 { "" } else { "s" },
        human::count(rows),
        text(human::size(schema.dump.bytes)),
    );
    let mut about =
        format!("Owner <code>{}</code>, archive <code>{}</code>.", text(&schema.owner), text(&schema.dump.key));
    if !schema.needs.is_empty() {
        about.push_str(&format!(" To be restored alone it needs: {}.", text(schema.needs.join(", "))));
    }
    out.push_str(&format!("<p class=\"soft\">{about}</p>\n"));
    if tables > 0 {
        let head = [
            ("Table", false),
            ("Kind", false),
            ("Rows", true),
            ("Text of rows", true),
            ("Stored", true),
            ("Digest", false),
            ("", false),
        ];
        let rows: String = schema.tables.iter().map(table).collect();
        out.push_str(&html::table(&format!("Tables of {}", schema.name), &head, &rows));
    }
    out.push_str("</details>\n");
    out
}

fn table(table: &Table) -> String {
    let digest = table.digest.rsplit(':').next().unwrap_or_default();
    let mut notes: Vec<String> = table.extension.iter().map(|name| format!("extension {name}")).collect();
    notes.extend(table.filter.clone());
    format!(
        "<tr><th scope=\"row\">{}</th><td>{}</td>{}{}{}<td><code title=\"{}\">{}</code></td><td class=\"wrap\">{}</td></tr>\n",
        text(&table.name),
        table.kind.as_str(),
        html::number(human::count(table.rows)),
        html::number(human::size(table.raw_bytes)),
        html::number(human::size(table.file.bytes)),
        text(&table.digest),
        text(digest.get(..12).unwrap_or(digest)),
        text(notes.join(", "))
    )
}
