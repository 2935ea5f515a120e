//! The parts of a run that a drill leaves out: subscriptions, which would connect elsewhere, and extensions that the
//! scratch database cannot have, each with everything that depends on it; the properties of the saved database that
//! would stand in the way of the scratch database.

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag};
use crate::drill::receipt::Observations;
use crate::error::Result;
use crate::postgres::connect::session::Session;
use crate::postgres::extensions::care;
use crate::postgres::target;
use crate::restore::extensions::{self, Impossible};
use crate::restore::findings;
use crate::restore::options::Options;
use crate::restore::source::{LeaveOut, Loaded, gaps};
use crate::sql::statements::{name, statements};

/// Chooses what is left out of the scratch database that `session` is in, and says what is therefore not proven.
pub(crate) async fn choose(loaded: &Loaded, session: &Session, options: &Options) -> Result<(LeaveOut, Observations)> {
    let entries = &loaded.meta.entries;
    let manifest = &loaded.run.manifest;
    let server = target::server(session).await?;
    let mut out = LeaveOut { quiet: true, ..LeaveOut::of_gaps(loaded) };
    let lost = gaps(entries, &out).into_iter();
    let mut not_proven: Vec<String> = lost
        .map(|e| {
            format!("{} {}: depends on objects that this run does not contain", findings::kind(e), findings::name(e))
        })
        .collect();
    let is_subscription = |e: &&Entry| {
        matches!(e.desc, ObjectType::Subscription | ObjectType::SubscriptionTable)
            || (namespace(e).is_empty() && tag(e).starts_with("SUBSCRIPTION "))
    };
    out.entries.extend(entries.iter().filter(is_subscription).map(|e| e.dump_id));
    let extensions = entries.iter().filter(|e| e.desc == ObjectType::Extension);
    let mut gone: Vec<Impossible> =
        extensions.filter(|e| !server.extensions.contains(tag(e))).map(|e| Impossible::absent(tag(e))).collect();
    let all: Vec<&Entry> = entries.iter().collect();
    gone.extend(extensions::impossible(session, options, &all, &manifest.extensions).await?);
    let tables = extensions::leave(&mut out, entries, manifest, &gone);
    not_proven.extend(gone.iter().map(|one| {
        let other = care(&one.name).and_then(|care| care.one_database).is_some();
        let hint = if other { " (--scratch-name, where it can be in another database)" } else { "" };
        format!("extension {} {}{hint}", one.name, extensions::line(one, &tables))
    }));
    Ok((out, Observations { not_proven, ..Observations::default() }))
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
