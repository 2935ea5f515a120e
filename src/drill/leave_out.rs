//! The parts of a run that a drill leaves out: subscriptions, which would connect elsewhere, and extensions that the
//! scratch database cannot have, each with everything that depends on it; the properties of the saved database that
//! would stand in the way of the scratch database.

use std::collections::{BTreeSet, HashSet};

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag, with_dependents};
use crate::drill::receipt::Observations;
use crate::error::Result;
use crate::format::manifest::{Manifest, Table};
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::restore::findings;
use crate::restore::source::{LeaveOut, Loaded, gaps};
use crate::sql::names::TableName;
use crate::sql::statements::{name, statements};

/// Chooses what is left out of the scratch database of this name, and says what is therefore not proven.
pub(crate) async fn choose(loaded: &Loaded, session: &Session, scratch: &str) -> Result<(LeaveOut, Observations)> {
    let entries = &loaded.meta.entries;
    let server = target::server(session).await?;
    let cron = target::cron_database(session).await?;
    let mut out = LeaveOut { quiet: true, ..LeaveOut::of_gaps(loaded) };
    let lost = gaps(entries, &out).into_iter();
    let mut not_proven: Vec<String> = lost
        .map(|e| {
            format!("{} {}: depends on objects that this run does not contain", findings::kind(e), findings::name(e))
        })
        .collect();
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
        let tables = tables_of(&loaded.run.manifest, tag(entry));
        let names: Vec<String> = tables.iter().map(TableName::to_string).collect();
        not_proven.push(format!("extension {} {why}; its tables: {}", tag(entry), names.join(", ")));
        out.tables.extend(tables);
        extensions.insert(tag(entry));
        out.entries.insert(entry.dump_id);
    }
    if !extensions.is_empty() {
        let alone = in_schemas_of(entries, &loaded.run.manifest, &extensions);
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

/// Takes from the entries the database's comment, which is the drill's mark, and the properties that keep a database from
/// being connected to or dropped. `pg_dump` compares neither.
pub(crate) fn properties(entries: &mut Vec<Entry>) {
    let about = |e: &Entry| namespace(e).is_empty() && tag(e).starts_with("DATABASE ");
    entries.retain(|e| e.desc != ObjectType::Comment || !about(e));
    for entry in entries.iter_mut().filter(|e| e.desc == ObjectType::DatabaseProperties) {
        let Some(text) = &entry.defn else { continue };
        let mut kept = statements(text);
        kept.retain(|statement| !stands_in_the_way(statement));
        entry.defn = Some(kept.into_iter().flat_map(|statement| [statement, ";\n"]).collect());
    }
}

fn stands_in_the_way(statement: &str) -> bool {
    let of_database = statement.strip_prefix("ALTER DATABASE ").and_then(name);
    let words = [" IS_TEMPLATE", " CONNECTION LIMIT", " ALLOW_CONNECTIONS"];
    of_database.is_some_and(|(_, rest)| words.iter().any(|word| rest.starts_with(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_stay_and_limits_go() {
        for (statement, goes) in [
            ("ALTER DATABASE \"a IS_TEMPLATE\" SET x TO ' IS_TEMPLATE = true'", false),
            ("ALTER DATABASE a IS_TEMPLATE = true", true),
            ("ALTER DATABASE \"b c\" CONNECTION LIMIT = 0", true),
            ("ALTER ROLE r IN DATABASE a SET x TO 1", false),
        ] {
            assert_eq!(stands_in_the_way(statement), goes, "{statement}");
        }
    }
}
