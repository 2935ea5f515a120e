//! Forgetting: rows that had to be erased since a run was made are not brought back, nor what hangs on them. Owns what a
//! list means for a run, and the account of it; the list itself is read by [`list`], rows are erased by [`erase`].
//!
//! Rows come first, are compared with the manifest, and are erased then, in the target and by PostgreSQL: only there types
//! have their equality. A list that cannot be applied as a whole is never passed over in silence.

pub(crate) mod erase;
pub(crate) mod keys;
pub(crate) mod list;

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use libpgdump::{Entry, ObjectType};
use serde::Serialize;

use crate::archive::catalogue::{namespace, tag};
use crate::archive::columns;
use crate::archive::foreign_keys::{self, ForeignKey};
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::human;
use crate::postgres::connect::session::Session;
use crate::postgres::target::ground::Ground;
use crate::postgres::target::{execute, foreign_keys as declared, types};
use crate::restore::forget::keys::{Keys, Wrong, typed};
use crate::restore::forget::list::List;
use crate::runs::select;
use crate::sql::names::TableName;

/// Numbers of lines that an account names.
const SHOWN: usize = 20;

/// The account of what was erased: counts and numbers of lines, never a value.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Forgotten {
    /// The list, as it was named.
    pub(crate) list: String,
    pub(crate) list_sha256: String,
    /// Lines that hold a key.
    pub(crate) lines: u64,
    /// Lines that say what an earlier one says.
    pub(crate) duplicates: u64,
    /// Keys that no row had: it was erased before the run was made, or came later.
    pub(crate) unmatched: u64,
    /// The numbers of the first of these lines.
    pub(crate) unmatched_lines: Vec<i64>,
    /// Keys of tables that were not brought.
    pub(crate) elsewhere: u64,
    pub(crate) tables: Vec<OfTable>,
    /// What of the list could not be applied, in words.
    pub(crate) not_applied: Vec<String>,
}

/// The rows of one table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OfTable {
    pub(crate) table: String,
    /// Its name as SQL.
    #[serde(skip)]
    pub(crate) sql: String,
    /// Erased by their keys.
    pub(crate) listed: u64,
    /// Erased since they referred to erased rows.
    pub(crate) by_reference: u64,
    /// Kept, with a reference set to NULL.
    pub(crate) set_null: u64,
}

/// A list as it concerns one run.
#[derive(Debug)]
pub(crate) struct Forget {
    from: String,
    sha256: String,
    lines: u64,
    duplicates: u64,
    keys: Vec<Keys>,
    foreign: Vec<ForeignKey>,
    /// Tables that rows are brought into.
    tables: HashSet<TableName>,
    /// What cannot be applied, in words.
    problems: Vec<String>,
    done: Mutex<Option<Forgotten>>,
}

impl Forget {
    /// Finds the tables and columns of a list in a run. `entries` are those of the whole database.
    pub(crate) fn new(list: &List, manifest: &Manifest, entries: &[Entry]) -> Self {
        let (foreign, unread) = foreign_keys::all(entries);
        let mut problems: Vec<String> =
            unread.iter().map(|name| format!("foreign key {name}: its definition cannot be read")).collect();
        let mut keys = Vec::new();
        for group in &list.groups {
            let (first, lines) = (group.lines.first().copied().unwrap_or_default(), group.lines.len());
            let place =
                if lines == 1 { format!("line {first}") } else { format!("{lines} lines, the first is {first}") };
            let found = select::table(manifest, &group.table).map(|(schema, table)| {
                let schema = manifest.schemas.get(schema);
                let table = schema.and_then(|schema| schema.tables.get(table));
                TableName::new(
                    schema.map(|one| one.name.clone()).unwrap_or_default(),
                    table.map(|one| one.name.clone()).unwrap_or_default(),
                )
            });
            let table = match found {
                Ok(table) => table,
                Err(error) => {
                    problems.push(format!("{place}: {}", error.message()));
                    continue;
                }
            };
            let types = types_of(&table, entries);
            if let Some(column) = group.columns.iter().find(|name| !types.is_empty() && !types.contains_key(*name)) {
                problems.push(format!("{place}: {table} of run {} has no column {column:?}", manifest.run));
                continue;
            }
            let (columns, lines, values) = (group.columns.clone(), group.lines.clone(), group.values.clone());
            keys.push(Keys { table, columns, lines, values });
        }
        Self {
            from: list.from.clone(),
            sha256: list.sha256.clone(),
            lines: list.lines,
            duplicates: list.duplicates,
            keys,
            foreign,
            tables: HashSet::new(),
            problems,
            done: Mutex::default(),
        }
    }

    /// The same for a database whose own catalogue says what refers to what.
    pub(crate) fn with_foreign(mut self, foreign: Vec<ForeignKey>) -> Self {
        self.foreign = foreign;
        self
    }

    /// Rows are brought into these tables.
    pub(crate) fn into_tables(mut self, tables: impl IntoIterator<Item = TableName>) -> Self {
        self.tables.extend(tables);
        self
    }

    /// The keys.
    pub(crate) fn keys(&self) -> &[Keys] {
        &self.keys
    }

    /// Refuses values that their columns do not take, as far as the types are PostgreSQL's own: the others are made by
    /// the restore.
    ///
    /// # Errors
    /// Kind `Usage`, with the number of the line.
    pub(crate) async fn check_values(&self, session: &Session, entries: &[Entry]) -> Result<()> {
        for (number, keys) in self.keys.iter().enumerate() {
            let types = types_of(&keys.table, entries);
            let mut own: HashMap<&str, String> = HashMap::new();
            for column in &keys.columns {
                let Some(kind) = types.get(column) else { continue };
                if let Some(kind) = types::built_in(session, kind).await? {
                    own.insert(column, kind);
                }
            }
            let kept: Vec<usize> = (0..keys.columns.len())
                .filter(|at| keys.columns.get(*at).is_some_and(|name| own.contains_key(name.as_str())))
                .collect();
            if kept.is_empty() {
                continue;
            }
            let some = Keys {
                table: keys.table.clone(),
                columns: kept.iter().filter_map(|at| keys.columns.get(*at).cloned()).collect(),
                lines: keys.lines.clone(),
                values: kept.iter().filter_map(|at| keys.values.get(*at).cloned()).collect(),
            };
            execute(session, &format!("BEGIN; {}", erase::SET_UP), "look at the forget list").await?;
            let kind = |name: &str| Ok((own.get(name).cloned().unwrap_or_default(), String::new()));
            let tried = typed(session, &some, &number.to_string(), kind).await;
            execute(session, "ROLLBACK", "look at the forget list").await?;
            tried.map_err(|wrong| self.explained(wrong).hint("nothing was changed"))?;
        }
        Ok(())
    }

    /// Erases in the session's open transaction. The foreign keys are those of the run and those of the database.
    ///
    /// # Errors
    /// What the server refuses, and a value that is no key: the transaction is to be rolled back.
    pub(crate) async fn erase(&self, session: &Session) -> Result<()> {
        let mut foreign = self.foreign.clone();
        for key in declared::declared(session).await? {
            if !foreign.contains(&key) {
                foreign.push(key);
            }
        }
        let ground = Ground::of_database(session, &self.tables).await?;
        self.erase_in(session, &foreign, ground).await
    }

    /// Erases in these tables.
    ///
    /// # Errors
    /// As [`Self::erase`].
    pub(crate) async fn erase_in(&self, session: &Session, foreign: &[ForeignKey], ground: Ground) -> Result<()> {
        let erased = erase::erase(session, &self.keys, foreign, ground).await;
        let erased = erased.map_err(|wrong| self.explained(wrong))?;
        let mut not_applied = self.problems.clone();
        not_applied.extend(erased.unknown.iter().map(|(table, why)| format!("{table}: {why}")));
        not_applied.dedup();
        let of_table = |(table, count): (TableName, erase::Count)| OfTable {
            table: table.to_string(),
            sql: table.sql(),
            listed: count.listed,
            by_reference: count.by_reference,
            set_null: count.set_null,
        };
        let done = Forgotten {
            list: self.from.clone(),
            list_sha256: self.sha256.clone(),
            lines: self.lines,
            duplicates: self.duplicates,
            unmatched: erased.unmatched.len() as u64,
            unmatched_lines: erased.unmatched.iter().copied().take(SHOWN).collect(),
            elsewhere: erased.elsewhere,
            tables: erased.tables.into_iter().map(of_table).collect(),
            not_applied,
        };
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        Ok(())
    }

    /// The account, once rows were erased.
    pub(crate) fn take(&self) -> Option<Forgotten> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn explained(&self, wrong: Wrong) -> Error {
        match wrong {
            Wrong::Value { line, column, kind } => {
                let why = format!("the value of {column:?} is no {kind}");
                Error::usage(format!("line {line} of the forget list {}: {why}", self.from))
            }
            Wrong::Error(error) => error.context("erase the rows of the forget list"),
        }
    }
}

impl Forgotten {
    /// The lines for a person.
    pub(crate) fn lines(&self) -> Vec<String> {
        let count = human::count;
        let mut lines = vec![format!(
            "forget list {}: {} keys, {} of them twice; {} match no row of the run{}",
            self.list,
            count(self.lines),
            count(self.duplicates),
            count(self.unmatched),
            match self.elsewhere {
                0 => String::new(),
                elsewhere => format!("; {} are of tables that were not brought", count(elsewhere)),
            }
        )];
        if !self.unmatched_lines.is_empty() {
            let shown: Vec<String> = self.unmatched_lines.iter().map(ToString::to_string).collect();
            let more = if self.unmatched > SHOWN as u64 { ", ..." } else { "" };
            lines.push(format!("match no row: line {}{more}", shown.join(", ")));
        }
        for table in &self.tables {
            let mut words = format!(
                "erased in {}: {} listed, {} that refer to erased rows",
                table.table,
                count(table.listed),
                count(table.by_reference)
            );
            if table.set_null > 0 {
                words.push_str(&format!("; {} references set to NULL", count(table.set_null)));
            }
            lines.push(words);
        }
        lines.extend(self.not_applied.iter().map(|why| format!("NOT applied: {why}")));
        lines
    }
}

/// The types of a table's columns as the run's definitions name them; empty where they do not.
fn types_of(table: &TableName, entries: &[Entry]) -> HashMap<String, String> {
    let mut all = entries.iter().filter(|entry| entry.desc == ObjectType::Table);
    let entry = all.find(|entry| namespace(entry) == table.schema && tag(entry) == table.table);
    let Some(definition) = entry.and_then(|entry| entry.defn.as_deref()) else { return HashMap::new() };
    let mut definition = columns::definition(definition);
    columns::complete(&mut definition, entries);
    definition.types
}
