//! The parts of a run that a drill leaves out: subscriptions, which would connect elsewhere, and extensions that the
//! scratch database cannot have, each with everything that depends on it.

use std::collections::{BTreeSet, HashSet};

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag, with_dependents};
use crate::drill::receipt::Observations;
use crate::error::Result;
use crate::format::manifest::{Manifest, Table};
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::restore::{LeaveOut, Loaded, gaps};
use crate::sql::names::TableName;

/// Chooses what is left out of the scratch database of this name, and says what is therefore not proven.
pub(crate) async fn choose(loaded: &Loaded, session: &Session, scratch: &str) -> Result<(LeaveOut, Observations)> {
    let entries = &loaded.meta.entries;
    let server = target::server(session).await?;
    let cron = target::cron_database(session).await?;
    let mut out = LeaveOut { quiet: true, ..LeaveOut::of_gaps(loaded) };
    let lost = gaps(entries, &out).into_iter();
    let mut not_proven: Vec<String> =
        lost.map(|lost| format!("{lost}: depends on objects that this run does not contain")).collect();
    let mut extensions: BTreeSet<&str> = BTreeSet::new();
    for entry in entries {
        let is_subscription = matches!(entry.desc, ObjectType::Subscription | ObjectType::SubscriptionTable)
            || (namespace(entry).is_empty() && tag(entry).starts_with("SUBSCRIPTION "));
        if is_subscription {
            out.entries.insert(entry.dump_id);
        }
        if entry.desc != ObjectType::Extension {
            continue;
        }
        let why = if !server.extensions.contains(tag(entry)) {
            "is not on this server".to_owned()
        } else if tag(entry) == "pg_cron" && cron.as_deref() != Some(scratch) {
            let of = cron.as_deref().unwrap_or("none");
            format!("can only be in database {of:?} of this server: --scratch-name")
        } else {
            continue;
        };
        let tables = tables_of(&loaded.manifest, tag(entry));
        let names: Vec<String> = tables.iter().map(TableName::to_string).collect();
        not_proven.push(format!("extension {} {why}; its tables: {}", tag(entry), names.join(", ")));
        out.tables.extend(tables.into_iter().map(|name| (name.schema, name.table)));
        extensions.insert(tag(entry));
        out.entries.insert(entry.dump_id);
    }
    if !extensions.is_empty() {
        let alone = in_schemas_of(entries, &loaded.manifest, &extensions);
        out.entries.extend(alone);
        with_dependents(entries, &mut out.entries);
    }
    Ok((out, Observations { not_proven, ..Observations::default() }))
}

fn tables_of(manifest: &Manifest, extension: &str) -> BTreeSet<TableName> {
    let all = manifest.schemas.iter().flat_map(|s| s.tables.iter().map(move |t| (s, t)));
    all.filter(|(_, t)| t.extension.as_deref() == Some(extension))
        .map(|(s, t)| TableName::new(&s.name, &t.name))
        .collect()
}

/// The entries in schemas that hold nothing but tables of these extensions.
fn in_schemas_of<'a>(
    entries: &'a [Entry],
    manifest: &'a Manifest,
    extensions: &BTreeSet<&str>,
) -> impl Iterator<Item = i32> + 'a {
    let of = |t: &Table| t.extension.as_deref().is_some_and(|name| extensions.contains(name));
    let theirs: HashSet<&str> = manifest
        .schemas
        .iter()
        .filter(|s| s.tables.iter().any(of) && s.tables.iter().all(of))
        .map(|s| s.name.as_str())
        .collect();
    entries.iter().filter(move |e| theirs.contains(namespace(e))).map(|e| e.dump_id)
}
