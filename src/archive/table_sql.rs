//! The text of a table's SQL file around its rows: what `pg_dump -t` prints, made from pg_dump's own entries.
//!
//! The order is that of a plain dump (`pg_backup_archiver.c`): definitions, rows, sequence values, the rest in the
//! order of the table of contents, then ACLs, then the refresh of a materialised view. But nobody reads rows before all
//! is made: what default privileges of the database gave is taken away, and row security stands, before the first row.
//! Statements come from the entries; only owner and access-method statements are put together here, around names that
//! pg_dump quoted.
//!
//! Nothing a name holds can leave a comment: line ends in comments become spaces. psql stops at the first error
//! (`ON_ERROR_STOP`), so rows are never read as commands when their `COPY` failed.

use libpgdump::format::ArchiveMetadata;
use libpgdump::{Entry, ObjectType, Section};

use crate::archive::catalogue::{namespace, tag};
use crate::sql::names::{TableName, in_comment, plain_or_quoted, quote};
use crate::sql::privileges::plain_table_privileges;
use crate::sql::statements::statements;

/// Relation kind of a partitioned table in an entry (archive version 1.16 and newer).
const PARTITIONED: char = 'p';

/// The text before and after a table's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableSql {
    /// Everything up to and including the `COPY ... FROM stdin;` line, where there is one.
    pub(crate) before: String,
    /// Everything after the last row, beginning with the end marker where there are rows.
    pub(crate) after: String,
}

/// Writes the first lines of the file, which describe it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Title<'a> {
    /// Schema of the table.
    pub(crate) schema: &'a str,
    /// Name of the table.
    pub(crate) table: &'a str,
    /// Words for the kind of relation, and its extension where it has one.
    pub(crate) note: &'a str,
}

/// Puts together the text around the rows from the entries of one table, in the order of the table of contents.
#[must_use]
pub(crate) fn compose(meta: &ArchiveMetadata, title: Title<'_>, entries: &[&Entry]) -> TableSql {
    let mut printer = Printer::new(meta);
    printer.header(title);
    let (main, acls, refreshes) = passes(entries);
    let data = main.iter().position(|entry| entry.desc == ObjectType::TableData);
    let (first, rest) = match data {
        Some(at) => main.split_at(at),
        // Without rows: what would stand before them does.
        None => {
            main.split_at(main.partition_point(|entry| !matches!(entry.section, Section::Data | Section::PostData)))
        }
    };
    for entry in first {
        printer.entry(entry);
    }
    if first.iter().any(|entry| makes(entry, title.table)) {
        printer.line("-- Without what default privileges of this database gave; the grants of the run follow.");
        let name = TableName::new(title.schema, title.table);
        printer.line(&format!("{}\n", plain_table_privileges(&name.sql())));
    }
    let (security, rest): (Vec<&&Entry>, Vec<&&Entry>) =
        rest.iter().partition(|entry| data.is_some() && entry.desc == ObjectType::RowSecurity);
    // A table's owner who is bound by it could load no rows.
    let forced = security.first().and_then(|_| first.iter().find_map(|entry| forced(entry)));
    if let Some(table) = forced {
        printer.line(&format!("{table} NO FORCE ROW LEVEL SECURITY;\n"));
    }
    for entry in security {
        printer.entry(entry);
    }
    let mut rest = rest.into_iter();
    if data.is_some()
        && let Some(rows) = rest.next()
    {
        printer.name_comment("Data for Name", rows);
        printer.out.push_str(rows.copy_stmt.as_deref().unwrap_or_default());
        if !printer.out.ends_with('\n') {
            printer.out.push('\n');
        }
    }
    let before = std::mem::take(&mut printer.out);
    if data.is_some() {
        printer.out.push_str("\\.\n\n\n");
    }
    if let Some(table) = forced {
        printer.line(&format!("{table} FORCE ROW LEVEL SECURITY;\n"));
    }
    for entry in rest.chain(&acls).chain(&refreshes) {
        printer.entry(entry);
    }
    printer.footer(title);
    TableSql { before, after: printer.out }
}

/// The three passes of a plain dump.
fn passes<'a>(entries: &[&'a Entry]) -> (Vec<&'a Entry>, Vec<&'a Entry>, Vec<&'a Entry>) {
    let (mut main, mut acls, mut refreshes) = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        match entry.desc {
            ObjectType::Acl => acls.push(*entry),
            ObjectType::MaterializedViewData => refreshes.push(*entry),
            ObjectType::PublicationTable | ObjectType::SubscriptionTable => {}
            _ => main.push(*entry),
        }
    }
    (main, acls, refreshes)
}

struct Printer<'a> {
    out: String,
    meta: &'a ArchiveMetadata,
    tablespace: Option<String>,
    access_method: Option<String>,
    /// pg_dump before 16 says `ALTER TABLE` for sequences and materialised views.
    plain_alter: bool,
}

impl<'a> Printer<'a> {
    fn new(meta: &'a ArchiveMetadata) -> Self {
        let major = meta.dump_version.split(|c: char| !c.is_ascii_digit()).next().and_then(|word| word.parse().ok());
        let plain_alter = major.is_some_and(|major: u32| major < 16);
        Self { out: String::new(), meta, tablespace: None, access_method: None, plain_alter }
    }

    fn line(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn header(&mut self, title: Title<'_>) {
        let name = in_comment(&format!("{}.{}", title.schema, title.table));
        self.line("--");
        self.line(&format!("-- pgstow: {} {name}", in_comment(title.note)));
        self.line(&format!("-- Dumped from database version {}", in_comment(&self.meta.server_version)));
        self.line(&format!("-- DDL by pg_dump version {}", in_comment(&self.meta.dump_version)));
        self.line("--\n");
        self.line("\\set ON_ERROR_STOP on\n");
        self.line("SET statement_timeout = 0;");
        self.line("SET lock_timeout = 0;");
        self.line("SET idle_in_transaction_session_timeout = 0;");
        self.line("SET default_transaction_read_only = off;");
        self.line("SET lc_monetary = 'C';");
        self.line("SET array_nulls = on;");
        let prelude = |wanted: &ObjectType| self.meta.entries.iter().find(|e| e.desc == *wanted);
        let settings: String = [ObjectType::Encoding, ObjectType::StdStrings, ObjectType::SearchPath]
            .iter()
            .filter_map(|desc| prelude(desc).and_then(|entry| entry.defn.as_deref()))
            .collect();
        self.out.push_str(&settings);
        self.line("SET check_function_bodies = false;");
        self.line("SET xmloption = content;");
        self.line("SET client_min_messages = warning;");
        self.line("SET row_security = off;\n");
    }

    fn footer(&mut self, title: Title<'_>) {
        let name = in_comment(&format!("{}.{}", title.schema, title.table));
        self.line(&format!("-- pgstow: end of {name}"));
    }

    fn name_comment(&mut self, what: &str, entry: &Entry) {
        let schema = if namespace(entry).is_empty() { "-" } else { namespace(entry) };
        let owner = entry.owner.as_deref().filter(|owner| !owner.is_empty()).unwrap_or("-");
        let text = format!(
            "--\n-- {what}: {}; Type: {}; Schema: {}; Owner: {}\n--\n",
            in_comment(tag(entry)),
            entry.desc,
            in_comment(schema),
            in_comment(owner)
        );
        self.line(&text);
    }

    fn entry(&mut self, entry: &Entry) {
        self.select_tablespace(entry);
        self.select_access_method(entry);
        self.name_comment("Name", entry);
        if let Some(defn) = entry.defn.as_deref().filter(|defn| !defn.is_empty()) {
            self.out.push_str(defn);
            self.out.push_str("\n\n");
        }
        self.owner(entry);
        self.access_method_without_storage(entry);
    }

    fn select_tablespace(&mut self, entry: &Entry) {
        let Some(wanted) = &entry.tablespace else { return };
        if self.tablespace.as_ref() != Some(wanted) {
            let value = if wanted.is_empty() { "''".to_owned() } else { quote(wanted) };
            self.line(&format!("SET default_tablespace = {value};\n"));
            self.tablespace = Some(wanted.clone());
        }
    }

    fn select_access_method(&mut self, entry: &Entry) {
        let Some(wanted) = entry.tableam.as_ref().filter(|name| !name.is_empty()) else { return };
        if entry.relkind != Some(PARTITIONED) && self.access_method.as_ref() != Some(wanted) {
            self.line(&format!("SET default_table_access_method = {};\n", plain_or_quoted(wanted)));
            self.access_method = Some(wanted.clone());
        }
    }

    fn access_method_without_storage(&mut self, entry: &Entry) {
        if let Some(method) = entry.tableam.as_ref().filter(|name| !name.is_empty())
            && entry.relkind == Some(PARTITIONED)
            && let Some((_kind, name)) = dropped_name(entry)
        {
            self.line(&format!("ALTER TABLE {name} SET ACCESS METHOD {};\n", plain_or_quoted(method)));
        }
    }

    fn owner(&mut self, entry: &Entry) {
        let Some(owner) = entry.owner.as_deref().filter(|owner| !owner.is_empty()) else { return };
        if let Some((kind, name)) = dropped_name(entry) {
            let kind =
                if self.plain_alter && matches!(kind, "MATERIALIZED VIEW" | "SEQUENCE") { "TABLE" } else { kind };
            self.line(&format!("ALTER {kind} {name} OWNER TO {};\n", plain_or_quoted(owner)));
        }
    }
}

/// True for the entry that makes the table itself: one of an extension has its privileges from there.
fn makes(entry: &Entry, table: &str) -> bool {
    let kinds = [
        ObjectType::Table,
        ObjectType::View,
        ObjectType::MaterializedView,
        ObjectType::ForeignTable,
        ObjectType::Sequence,
    ];
    tag(entry) == table && kinds.contains(&entry.desc)
}

/// The beginning of the statement that binds a table's owner by row security, where its definition has one.
fn forced(entry: &Entry) -> Option<&str> {
    let all = statements(entry.defn.as_deref().unwrap_or_default());
    let of = all.into_iter().filter(|one| one.starts_with("ALTER TABLE "));
    of.filter_map(|one| one.strip_suffix(" FORCE ROW LEVEL SECURITY")).find(|one| !one.ends_with(" NO"))
}

/// Kind and quoted name of an object that has an owner of its own, from its `DROP` statement, as pg_dump wrote it.
fn dropped_name(entry: &Entry) -> Option<(&str, &str)> {
    let kind = match entry.desc {
        ObjectType::Table
        | ObjectType::ForeignTable
        | ObjectType::MaterializedView
        | ObjectType::Sequence
        | ObjectType::Statistics => entry.desc.as_str(),
        _ => return None,
    };
    let statement = entry.drop_stmt.as_deref()?.trim_end();
    let name = statement.strip_prefix("DROP ")?.strip_prefix(kind)?.strip_prefix(' ')?.strip_suffix(';')?;
    Some((kind, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_comment() {
        assert_eq!(in_comment("a\n\\! touch x\r--"), "a \\! touch x --");
    }

    #[test]
    fn names_are_quoted_where_they_must_be() {
        assert_eq!(plain_or_quoted("lh_owner"), "lh_owner");
        assert_eq!(plain_or_quoted("user"), "\"user\"");
        assert_eq!(plain_or_quoted("Odd \"x\""), "\"Odd \"\"x\"\"\"");
    }
}
