//! One entry of a run's table of contents as an object to be made: its section, what owns it, what can be granted on
//! it, and what a person must do where it was refused. Nothing here talks to a server.

use libpgdump::{Entry, ObjectType, Section};

use crate::archive::catalogue::{namespace, tag};
use crate::error::{Error, SqlState};
use crate::restore::findings::may_hold_secret;
use crate::sql::names::quote;

/// The settings of a session that runs definitions of `pg_dump`.
pub(crate) const SETTINGS: &str = "SET check_function_bodies = false; SET xmloption = content; \
    SET client_min_messages = error; SET synchronous_commit = off";

/// Longest statement that is printed in full.
const STATEMENT: usize = 600;

/// True where the server refused a statement and the session goes on. A lost connection has no SQLSTATE; a server that is
/// full or damaged would refuse everything that follows.
pub(crate) fn is_refusal(error: &Error) -> bool {
    let aborts = ["53", "57P", "58030", "XX001", "XX002"];
    error.sqlstate().is_some() && !aborts.iter().any(|class| error.is_sqlstate(class))
}

/// Entries with the section they are restored in; those without one follow the one before them.
pub(crate) fn sections<'a>(entries: &[&'a Entry]) -> Vec<(&'a Entry, bool)> {
    let mut after = false;
    let mut sorted = Vec::with_capacity(entries.len());
    for entry in entries {
        match entry.section {
            Section::None => {}
            Section::PostData => after = true,
            _ => after = false,
        }
        sorted.push((*entry, after));
    }
    sorted
}

/// True for an entry of ours, which makes a table or sequence of an extension only where it is not there.
pub(crate) fn is_for_absent(entry: &Entry) -> bool {
    entry.defn.as_deref().is_some_and(|defn| defn.starts_with("DO $pgstow"))
}

/// True where the entries bring event triggers that fire when a session begins (PostgreSQL 17).
pub(crate) fn has_login_triggers(entries: &[Entry]) -> bool {
    let is_login = |e: &Entry| e.defn.as_deref().is_some_and(|defn| defn.contains(" ON login\n"));
    entries.iter().any(|e| e.desc == ObjectType::EventTrigger && is_login(e))
}

/// True for what is part of another object, or attached to one: it is nothing without it.
pub(crate) const fn is_part(entry: &Entry) -> bool {
    matches!(
        entry.desc,
        ObjectType::Acl
            | ObjectType::Comment
            | ObjectType::SecurityLabel
            | ObjectType::RowSecurity
            | ObjectType::Default
            | ObjectType::SequenceOwnedBy
            | ObjectType::SequenceSet
            | ObjectType::TableAttach
            | ObjectType::IndexAttach
            | ObjectType::Constraint
            | ObjectType::CheckConstraint
            | ObjectType::FkConstraint
            | ObjectType::Index
            | ObjectType::Trigger
            | ObjectType::Policy
            | ObjectType::Rule
            | ObjectType::MaterializedViewData
    )
}

/// True for the contents of objects, for the database itself and for settings of the session.
pub(crate) const fn is_content_or_setting(entry: &Entry) -> bool {
    matches!(
        entry.desc,
        ObjectType::Encoding
            | ObjectType::StdStrings
            | ObjectType::SearchPath
            | ObjectType::Database
            | ObjectType::DatabaseProperties
            | ObjectType::TableData
            | ObjectType::SequenceSet
            | ObjectType::StatisticsData
            | ObjectType::Blob
            | ObjectType::BlobMetadata
            | ObjectType::Blobs
            | ObjectType::SubscriptionTable
    )
}

/// True for a definition on an extension's relation, which makes only what is missing.
pub(crate) fn is_guarded(entry: &Entry) -> bool {
    entry.defn.as_deref().is_some_and(|defn| defn.starts_with("DO $pgstow"))
        && !matches!(entry.desc, ObjectType::Table | ObjectType::Sequence)
}

/// The step that a person must take about a statement that was refused with this error.
pub(crate) fn step(error: &Error, statement: &str) -> String {
    match error.sqlstate().as_ref().map(SqlState::as_str) {
        // The object exists: tables and indexes, other objects, functions, schemas, a second primary key.
        Some("42P07" | "42710" | "42723" | "42P06" | "42P16") => {
            "drop or rename what is there, where the run's is wanted, and restore again".to_owned()
        }
        // What this server cannot do, or a parameter or value that it does not know: no role may run it here.
        Some("0A000" | "22023") => format!("where the server can do it, run: {}", brief(statement)),
        // A missing object: tables, types and other objects, functions, columns, schemas.
        Some("42P01" | "42704" | "42883" | "42703" | "3F000") => when_there(statement),
        _ => by_hand(statement),
    }
}

/// The advice about a statement that only another role may run.
pub(crate) fn by_hand(statement: &str) -> String {
    format!("run it as a role that may: {}", brief(statement))
}

/// The advice about a statement that needs a missing object.
pub(crate) fn when_there(statement: &str) -> String {
    format!("make what it needs, then run: {}", brief(statement))
}

/// A statement as it stands, or where to find one that is too long, or that may hold a secret: keys stand in triggers
/// that call web hooks, passwords in user mappings.
pub(crate) fn brief(statement: &str) -> String {
    const WHOLE: &str = "@database.dump (pgstow download, pg_restore -f -)";
    let text = statement.trim().trim_end_matches(';');
    if may_hold_secret(text) {
        return format!("it is in {WHOLE}, and may hold a secret");
    }
    if text.len() <= STATEMENT {
        return text.to_owned();
    }
    let begin: String = text.chars().take(STATEMENT / 4).collect();
    format!("{begin} ... (whole in {WHOLE})")
}

/// The name of an object in `ALTER ... OWNER TO`, from its `DROP` statement, as `pg_restore` does
/// (`_printTocEntry` in PostgreSQL's `pg_backup_archiver.c`).
pub(crate) fn owned(entry: &Entry) -> Option<String> {
    let has_owner = matches!(
        entry.desc,
        ObjectType::Table
            | ObjectType::ForeignTable
            | ObjectType::View
            | ObjectType::MaterializedView
            | ObjectType::Sequence
            | ObjectType::Schema
            | ObjectType::Type
            | ObjectType::Domain
            | ObjectType::Function
            | ObjectType::Procedure
            | ObjectType::Aggregate
            | ObjectType::Operator
            | ObjectType::OperatorClass
            | ObjectType::OperatorFamily
            | ObjectType::Collation
            | ObjectType::Conversion
            | ObjectType::Statistics
            | ObjectType::TextSearchConfiguration
            | ObjectType::TextSearchDictionary
            | ObjectType::Publication
            | ObjectType::Subscription
            | ObjectType::EventTrigger
            | ObjectType::ForeignDataWrapper
            | ObjectType::Server
            | ObjectType::ForeignServer
            | ObjectType::ProceduralLanguage
    );
    // `public` is neither created nor dropped by an entry; its owner is given all the same.
    if entry.desc == ObjectType::Schema {
        return Some(format!("SCHEMA {}", quote(tag(entry))));
    }
    let what = entry.drop_stmt.as_deref()?.trim().strip_prefix("DROP ")?.strip_suffix(';')?;
    let what = what.strip_prefix("PROCEDURAL ").unwrap_or(what);
    has_owner.then(|| what.to_owned())
}

/// True for the schema `public`, which is there before an entry is made: only its owner may be another one.
pub(crate) fn is_public(entry: &Entry) -> bool {
    entry.desc == ObjectType::Schema && entry.defn.as_deref().is_none_or(|defn| defn.starts_with("--"))
}

/// The words for an object in `GRANT ... ON`, and its name as SQL.
pub(crate) fn grantable(entry: &Entry) -> Option<(&'static str, String)> {
    let qualified = || format!("{}.{}", quote(namespace(entry)), quote(tag(entry)));
    Some(match entry.desc {
        ObjectType::Table | ObjectType::ForeignTable | ObjectType::View | ObjectType::MaterializedView => {
            ("TABLE", qualified())
        }
        ObjectType::Sequence => ("SEQUENCE", qualified()),
        ObjectType::Function | ObjectType::Procedure | ObjectType::Aggregate => ("ROUTINE", String::new()),
        ObjectType::Type | ObjectType::Domain => ("TYPE", qualified()),
        ObjectType::Schema => ("SCHEMA", quote(tag(entry))),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_with_a_key_is_not_told() {
        let told = by_hand("CREATE TRIGGER x EXECUTE FUNCTION hook('{\"Authorization\": \"Bearer abc\"}')");
        assert!(!told.contains("abc") && told.contains("@database.dump"), "{told}");
        assert!(by_hand("CREATE TABLE x (\n  a integer\n);").ends_with("(\n  a integer\n)"));
    }
}
