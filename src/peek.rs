//! Rows of a run without a database: which objects hold them, of which types their columns are, and as many of them as
//! are asked for. Prints nothing; reads no further than the last row that is wanted.

pub(crate) mod difference;

use crate::archive::columns::{self, Definition};
use crate::archive::copy_text::Value;
use crate::error::{Error, Result};
use crate::format::manifest::TableKind;
use crate::human;
use crate::objects::index;
use crate::objects::lines::{self, Chosen, Line, Lines};
use crate::objects::stored_run::StoredRun;
use crate::runs::{find, holders, select};
use crate::seal::keys::Keys;
use crate::sql::names::TableName;
use crate::store::Store;

/// A request for rows.
pub(crate) struct Options {
    /// Run: its name, the beginning of its name, or `latest`.
    pub(crate) run: String,
    /// The table, as `schema.table`.
    pub(crate) table: String,
    /// Only rows that have these values: column and text.
    pub(crate) wanted: Vec<(String, String)>,
    pub(crate) keys: Keys,
}

/// A column of the rows.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Its type as pg_dump wrote it; `None` where the run does not say.
    pub(crate) kind: Option<String>,
}

/// Rows that are being read.
pub(crate) struct Peek {
    pub(crate) run: String,
    pub(crate) table: TableName,
    pub(crate) columns: Vec<Column>,
    /// Rows of the table in the run, of all its partitions together.
    pub(crate) rows: u64,
    lines: Lines,
    wanted: Vec<Wanted>,
}

/// A value that a row must have.
struct Wanted {
    column: String,
    value: String,
    kind: Option<String>,
}

impl Peek {
    /// Finds the rows and reads what stands before the first.
    ///
    /// # Errors
    /// Kind `Usage` for a run, table or column that is not there; `Damage` for objects that are not the manifest's.
    pub(crate) async fn open(store: Store, options: &Options) -> Result<Self> {
        let found = find::trusted(&store, &options.run, &options.keys.trust).await?;
        let source = StoredRun::new(store, found.manifest, &options.keys.identities)?;
        let manifest = std::sync::Arc::clone(&source.manifest);
        let at = select::table(&manifest, &options.table)?;
        let schema = manifest.schemas.get(at.0).map(|schema| schema.name.clone()).unwrap_or_default();
        let stored = manifest.schemas.get(at.0).and_then(|schema| schema.tables.get(at.1));
        let name = TableName::new(schema, stored.map(|table| table.name.clone()).unwrap_or_default());
        let is_partitioned = stored.is_some_and(|table| table.kind == TableKind::PartitionedTable);
        let mut entries = if is_partitioned {
            Some(source.table_of_contents(&manifest.database.object).await?.entries)
        } else {
            None
        };
        let holders = holders::of(&manifest, at, entries.as_deref().unwrap_or_default())?;
        let rows = holders.iter().map(|(_, table)| table.rows).sum();
        let Some((_, first)) = holders.first() else {
            return Err(Error::usage(format!("{name} has no partitions in run {}: it has no rows", manifest.run)));
        };
        let before = lines::before(&source, &first.file).await?;
        let mut definition = columns::definition(&before.before);
        let names = lines::columns(&before.copy).unwrap_or_default();
        let incomplete = |definition: &Definition| names.iter().any(|name| !definition.types.contains_key(name));
        if incomplete(&definition) && !definition.from.is_empty() {
            let entries = match entries.take() {
                Some(entries) => entries,
                None => source.table_of_contents(&manifest.database.object).await?.entries,
            };
            columns::complete(&mut definition, &entries);
        }
        let kind = |name: &str| definition.types.get(name).cloned();
        let columns: Vec<Column> = names.iter().map(|name| Column { kind: kind(name), name: name.clone() }).collect();
        let wanted = wanted(&options.wanted, &name, &columns)?;
        let chosen =
            Chosen::new(&source, holders, &wanted.iter().filter_map(Wanted::range).collect::<Vec<_>>()).await?;
        if let Some(plan) = chosen.plan() {
            tracing::info!("reading {name}: {plan}, {}", human::size(chosen.bytes));
        }
        let lines = Lines::new(&source, chosen);
        Ok(Self { run: manifest.run.clone(), table: name, columns, rows, lines, wanted })
    }

    /// The next row that is wanted, its values in the order of [`Peek::columns`]; `None` after the last.
    ///
    /// # Errors
    /// Damage, and what the store fails with.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Value>>> {
        while let Some(mut line) = self.lines.next().await? {
            if !self.wanted.iter().all(|wanted| wanted.is_met_by(&line)) {
                continue;
            }
            // Partitions may have their columns in another order.
            if line.columns.len() == self.columns.len()
                && line.columns.iter().zip(&self.columns).all(|(one, other)| *one == other.name)
            {
                return Ok(Some(line.values));
            }
            let take = |column: &Column| match line.columns.iter().position(|name| *name == column.name) {
                Some(at) => line.values.get_mut(at).map(Option::take).unwrap_or_default(),
                None => None,
            };
            return Ok(Some(self.columns.iter().map(take).collect()));
        }
        Ok(None)
    }
}

/// Refuses a column that the rows do not have.
fn wanted(asked: &[(String, String)], table: &TableName, columns: &[Column]) -> Result<Vec<Wanted>> {
    let each = asked.iter().map(|(name, value)| {
        let Some(column) = columns.iter().find(|column| column.name == *name) else {
            let known: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            let near = select::nearest(name, &known).join(" or ");
            let error = Error::usage(format!("{table} has no column {name:?} in this run"));
            return Err(if near.is_empty() { error } else { error.hint(format!("did you mean {near}?")) });
        };
        Ok(Wanted { column: name.clone(), value: value.clone(), kind: column.kind.clone() })
    });
    each.collect()
}

impl Wanted {
    /// The same for an index, with the value as PostgreSQL writes it; `None` where that is not certain.
    fn range(&self) -> Option<index::Wanted> {
        let value = match self.kind.as_deref()? {
            "smallint" | "integer" | "bigint" => number(self.value.as_bytes())?.to_string(),
            "uuid" => self.value.to_ascii_lowercase(),
            _ => self.value.clone(),
        };
        Some(index::Wanted { column: self.column.clone(), spans: vec![(Some(value.clone()), Some(value))] })
    }

    fn is_met_by(&self, line: &Line) -> bool {
        let at = line.columns.iter().position(|name| *name == self.column);
        let Some(Some(value)) = at.and_then(|at| line.values.get(at)) else { return false };
        let wanted = self.value.as_bytes();
        match self.kind.as_deref() {
            Some("smallint" | "integer" | "bigint") => match (number(value), number(wanted)) {
                (Some(one), Some(other)) => one == other,
                _ => value == wanted,
            },
            Some("uuid") => value.eq_ignore_ascii_case(wanted),
            Some("boolean") => match self.value.to_ascii_lowercase().as_str() {
                "true" => value == b"t",
                "false" => value == b"f",
                _ => value == wanted,
            },
            _ => value == wanted,
        }
    }
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}
