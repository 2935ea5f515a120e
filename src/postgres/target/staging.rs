//! The rows of a run beside those of a live table: a temporary table that the run's rows come into, and the statements
//! that compare both and write.
//!
//! Temporary, because nobody else can read such a table, whatever privileges and default privileges the database has; no
//! superuser and no right to create in the database is needed for one; it is not logged; and PostgreSQL itself removes it
//! with the session, however that ends. Nothing is left that a later call would have to find.
//!
//! Rows are the same when PostgreSQL writes them alike: types without an operator `=` are compared too, and 1.0 is not
//! 1.00. Every name is qualified and every operator too; only the condition of a person is read with the search path
//! that the role has in this database.

use futures::StreamExt as _;

use crate::archive::copy_text::{self, Value};
use crate::error::{Error, Result};
use crate::postgres::error::failure;
use crate::postgres::target::live::{Column, Live, Reference};
use crate::postgres::target::load::Loader;
use crate::sql::names::{literal, quote};

/// The names of the two tables in a statement; no table of a person is called so.
const RUN: &str = "\"pgstow:run\"";
const LIVE: &str = "\"pgstow:live\"";
const OTHER: &str = "\"pgstow:other\"";

/// A live table and the rows of a run.
pub(crate) struct Staging {
    pub(crate) live: Live,
    /// The temporary table as SQL.
    table: String,
    /// The columns that the run has, in its order.
    pub(crate) columns: Vec<String>,
    /// The columns by which rows are told apart.
    pub(crate) key: Vec<String>,
    /// Marks the rows that are asked for; as SQL.
    chosen: String,
}

impl Staging {
    /// Makes the temporary table for columns of a run. A column that the live table no longer has becomes text, so that
    /// a condition can name it. `all` chooses every row that comes.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn create(
        loader: &Loader,
        live: Live,
        columns: Vec<String>,
        key: Vec<String>,
        number: usize,
        all: bool,
    ) -> Result<Self> {
        let mut chosen = "pgstow:chosen".to_owned();
        while columns.contains(&chosen) {
            chosen.push(':');
        }
        let table = format!("pg_temp.\"pgstow_rescue_{number}\"");
        let mut definitions: Vec<String> = columns
            .iter()
            .map(|name| {
                live.column(name).map_or_else(|| format!("{} pg_catalog.text", quote(name)), Column::definition)
            })
            .collect();
        definitions.push(format!("{} pg_catalog.bool DEFAULT {all}", quote(&chosen)));
        let sql =
            format!("CREATE TEMPORARY TABLE {} ({})", table.trim_start_matches("pg_temp."), definitions.join(", "));
        loader.execute(&sql, &format!("make a temporary table for {}", live.name)).await?;
        Ok(Self { live, table, columns, key, chosen: quote(&chosen) })
    }

    /// The statement that takes rows with these columns.
    pub(crate) fn copy(&self, columns: &[String]) -> String {
        let names: Vec<String> = columns.iter().map(|name| quote(name)).collect();
        let list = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
        format!("COPY {}{list} FROM stdin", self.table)
    }

    /// Chooses the rows that meet a condition, and gathers what the planner needs.
    ///
    /// # Errors
    /// A condition that the server refuses, of kind `Usage`.
    pub(crate) async fn choose(&self, loader: &Loader, condition: Option<&str>) -> Result<()> {
        if let Some(condition) = condition {
            loader.execute("BEGIN; SET LOCAL search_path TO DEFAULT", "read the condition").await?;
            let alias = quote(&self.live.name.table);
            let sql = format!("UPDATE {} AS {alias} SET {} = true WHERE ({condition}\n)", self.table, self.chosen);
            // One statement, whatever the condition holds: a prepared one cannot be two.
            let done = loader.session().client.execute(&sql, &[]).await;
            done.map_err(|e| failure(&e).context("--where").with_kind(crate::error::Kind::Usage))?;
            loader.execute("COMMIT", "read the condition").await?;
        }
        loader.execute(&format!("ANALYZE {}", self.table), "count the rows of the run").await
    }

    /// Refuses a key that does not tell rows apart. The live table is asked too where no unique index says so.
    ///
    /// # Errors
    /// Kind `Usage`.
    pub(crate) async fn check_key(&self, loader: &Loader) -> Result<()> {
        let names: Vec<String> = self.key.iter().map(|name| quote(name)).collect();
        let list = names.join(", ");
        let mut places = vec![("the run", self.table.as_str())];
        if self.key != self.live.key {
            places.push(("the live table", self.live.from.as_str()));
        }
        for (place, table) in places {
            let nulls: Vec<String> = names.iter().map(|name| format!("{name} IS NULL")).collect();
            let sql = format!(
                "SELECT (SELECT count(*) FROM {table} WHERE {}),
                        (SELECT count(*) FROM (SELECT FROM {table} GROUP BY {list} HAVING count(*) > 1) twice)",
                nulls.join(" OR ")
            );
            let row = loader.session().client.query_typed_one(&sql, &[]).await;
            let row = row.map_err(|e| failure(&e).context(format!("look at the key of {}", self.live.name)))?;
            let (nulls, twice): (i64, i64) = (row.get(0), row.get(1));
            if nulls + twice > 0 {
                let key = self.key.join(", ");
                return Err(Error::usage(format!(
                    "({key}) does not tell the rows of {} apart: in {place} {nulls} rows hold NULL there, and {twice} values stand more than once",
                    self.live.name
                ))
                .hint("--key names other columns"));
            }
        }
        Ok(())
    }

    /// The temporary table as SQL.
    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    /// Removes the temporary table.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn drop(self, loader: &Loader) -> Result<()> {
        loader.execute(&format!("DROP TABLE {}", self.table), "remove a temporary table").await
    }

    /// Chosen rows of the run, as FROM and WHERE.
    pub(crate) fn chosen(&self) -> String {
        format!("FROM {} {RUN} WHERE {RUN}.{}", self.table, self.chosen)
    }

    /// Chosen rows of the run whose key is not in the live table.
    pub(crate) fn missing(&self) -> String {
        let same = self.same_key(RUN, LIVE);
        format!("{} AND NOT EXISTS (SELECT FROM {} {LIVE} WHERE {same})", self.chosen(), self.live.from)
    }

    /// Chosen rows of the run beside a live row of the same key and other content.
    pub(crate) fn changed(&self) -> String {
        let (from, same) = (&self.live.from, self.same_key(RUN, LIVE));
        format!(
            "FROM {} {RUN} JOIN {from} {LIVE} ON {same} WHERE {RUN}.{} AND {}",
            self.table,
            self.chosen,
            self.differs()
        )
    }

    /// Live rows that meet the condition and whose key is not in the run.
    pub(crate) fn extra(&self, condition: Option<&str>) -> String {
        let alias = quote(&self.live.name.table);
        let (from, same) = (&self.live.from, self.same_key(RUN, &alias));
        let condition = condition.map_or_else(String::new, |condition| format!("({condition}\n) AND "));
        format!("FROM {from} AS {alias} WHERE {condition}NOT EXISTS (SELECT FROM {} {RUN} WHERE {same})", self.table)
    }

    fn same_key(&self, run: &str, live: &str) -> String {
        let same = |name: &String| {
            let equals = self.live.column(name).map_or("OPERATOR(pg_catalog.=)", |column| column.equals.as_str());
            format!("{run}.{name} {equals} {live}.{name}", name = quote(name))
        };
        self.key.iter().map(same).collect::<Vec<_>>().join(" AND ")
    }

    /// True, as SQL, where the two rows are not written alike.
    fn differs(&self) -> String {
        let compared = self.compared();
        if compared.is_empty() {
            return "false".to_owned();
        }
        let text = |side: &str| {
            let values: Vec<String> = compared.iter().map(|column| format!("{side}.{}", quote(&column.name))).collect();
            format!("ROW({})::pg_catalog.text COLLATE pg_catalog.\"C\"", values.join(", "))
        };
        format!("{} OPERATOR(pg_catalog.<>) {}", text(RUN), text(LIVE))
    }

    /// The columns that both sides have and a person writes, without those of the key.
    pub(crate) fn compared(&self) -> Vec<&Column> {
        let common = self.columns.iter().filter_map(|name| self.live.column(name));
        common.filter(|column| !column.generated && !self.key.contains(&column.name)).collect()
    }

    /// The columns that the run has and the live table has not.
    pub(crate) fn lost(&self) -> Vec<&str> {
        self.columns.iter().filter(|name| self.live.column(name).is_none()).map(String::as_str).collect()
    }

    /// The columns that the live table has and the run has not; what PostgreSQL computes is not counted.
    pub(crate) fn gained(&self) -> Vec<&str> {
        let gained =
            self.live.columns.iter().filter(|column| !column.generated && !self.columns.contains(&column.name));
        gained.map(|column| column.name.as_str()).collect()
    }

    /// Writes the missing rows; returns how many the server took.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn insert(&self, loader: &Loader) -> Result<u64> {
        let common = self.columns.iter().filter(|name| self.live.column(name).is_some_and(|column| !column.generated));
        let names: Vec<String> = common.map(|name| quote(name)).collect();
        let values: Vec<String> = names.iter().map(|name| format!("{RUN}.{name}")).collect();
        let sql = format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} {}",
            self.live.name.sql(),
            names.join(", "),
            values.join(", "),
            self.missing()
        );
        let done = loader.session().client.execute(&sql, &[]).await;
        done.map_err(|e| failure(&e).context(format!("insert into {}", self.live.name)))
    }

    /// Writes the changed rows; returns how many the server took.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn update(&self, loader: &Loader) -> Result<u64> {
        let columns = self.compared();
        let settable = columns.iter().filter(|column| !column.identity_always);
        let set: Vec<String> = settable.map(|column| format!("{0} = {RUN}.{0}", quote(&column.name))).collect();
        if set.is_empty() {
            return Ok(0);
        }
        let sql = format!(
            "UPDATE {} AS {LIVE} SET {} FROM {} {RUN} WHERE {RUN}.{} AND {} AND {}",
            self.live.from,
            set.join(", "),
            self.table,
            self.chosen,
            self.same_key(RUN, LIVE),
            self.differs()
        );
        let done = loader.session().client.execute(&sql, &[]).await;
        done.map_err(|e| failure(&e).context(format!("update {}", self.live.name)))
    }

    /// Rows that refer to rows which the live table of `other` does not have: as FROM and WHERE. `None` where the run
    /// does not have the columns that refer.
    pub(crate) fn dangling(&self, reference: &Reference, other: &Live, only_missing: bool) -> Option<String> {
        let (mut there, mut same) = (String::new(), Vec::new());
        for (from, equals, to) in &reference.columns {
            if !self.columns.contains(from) {
                return None;
            }
            there.push_str(&format!(" AND {RUN}.{} IS NOT NULL", quote(from)));
            same.push(format!("{OTHER}.{} {equals} {RUN}.{}", quote(to), quote(from)));
        }
        let rows = if only_missing { self.missing() } else { self.chosen() };
        let same = same.join(" AND ");
        Some(format!("{rows}{there} AND NOT EXISTS (SELECT FROM {} {OTHER} WHERE {same})", other.from))
    }

    /// Chooses those rows of `other`, in the run, that dangling rows of this one refer to; returns how many more.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn choose_referred(
        &self,
        loader: &Loader,
        reference: &Reference,
        other: &Self,
        dangling: &str,
    ) -> Result<u64> {
        let same = reference
            .columns
            .iter()
            .map(|(from, equals, to)| format!("\"pgstow:referred\".{} {equals} {RUN}.{}", quote(to), quote(from)));
        let sql = format!(
            "UPDATE {} AS \"pgstow:referred\" SET {1} = true
              WHERE NOT \"pgstow:referred\".{1} AND EXISTS (SELECT {dangling} AND {2})",
            other.table,
            other.chosen,
            same.collect::<Vec<_>>().join(" AND ")
        );
        let done = loader.session().client.execute(&sql, &[]).await;
        done.map_err(|e| failure(&e).context(format!("look for the rows that {} refers to", self.live.name)))
    }

    /// Brings the sequences of the table's columns forward to the chosen rows, never back. Returns the moved ones.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn advance_sequences(&self, loader: &Loader) -> Result<Vec<String>> {
        let mut moved = Vec::new();
        for sequence in self.live.sequences(loader.session()).await? {
            if !self.columns.contains(&sequence.column) {
                continue;
            }
            let (most, beyond) = if sequence.descending { ("min", "<") } else { ("max", ">") };
            let sql = format!(
                "SELECT pg_catalog.setval('{name}', v.most) FROM {seq} q, pg_catalog.pg_sequence p,
                    (SELECT pg_catalog.{most}({RUN}.{column})::pg_catalog.int8 AS most {rows}) v
                  WHERE p.seqrelid = '{name}'::pg_catalog.regclass AND v.most {beyond} q.last_value
                    AND v.most BETWEEN p.seqmin AND p.seqmax",
                name = sequence.name.replace('\'', "''"),
                seq = sequence.name,
                column = quote(&sequence.column),
                rows = self.chosen()
            );
            let rows = loader.session().client.query_typed(&sql, &[]).await;
            let rows = rows.map_err(|e| failure(&e).context(format!("bring sequence {} forward", sequence.name)))?;
            if !rows.is_empty() {
                moved.push(sequence.name);
            }
        }
        Ok(moved)
    }

    /// Values of chosen columns of the run and of the live table, as FROM and WHERE say.
    pub(crate) fn run_column(name: &str) -> String {
        format!("{RUN}.{}", quote(name))
    }

    /// The same of the live table.
    pub(crate) fn live_column(name: &str) -> String {
        format!("{LIVE}.{}", quote(name))
    }
}

/// A constant as PostgreSQL writes values of that type; `None` where it does not take it.
pub(crate) async fn as_written(loader: &Loader, text: &str, kind: &str) -> Option<String> {
    let sql = format!("SELECT CAST({} AS {kind})::pg_catalog.text", literal(text));
    let row = loader.session().client.query_typed_one(&sql, &[]).await.ok()?;
    row.try_get(0).ok()
}

/// The number that `SELECT count(*)` gives for these rows.
///
/// # Errors
/// The server's.
pub(crate) async fn count(loader: &Loader, rows: &str, doing: &str) -> Result<u64> {
    let row = loader.session().client.query_one(&format!("SELECT count(*) {rows}"), &[]).await;
    let count: i64 = row.map_err(|e| failure(&e).context(doing))?.get(0);
    Ok(count.unsigned_abs())
}

/// At most so many of these rows, each value as PostgreSQL writes it.
///
/// # Errors
/// The server's.
pub(crate) async fn rows(
    loader: &Loader,
    columns: &[String],
    from: &str,
    order: &[String],
    limit: u64,
    doing: &str,
) -> Result<Vec<Vec<Value>>> {
    let order = if order.is_empty() { String::new() } else { format!(" ORDER BY {}", order.join(", ")) };
    let sql = format!("COPY (SELECT {} {from}{order} LIMIT {limit}) TO STDOUT", columns.join(", "));
    let stream = loader.session().client.copy_out(&sql).await.map_err(|e| failure(&e).context(doing))?;
    let mut stream = std::pin::pin!(stream);
    let (mut text, mut rows) = (Vec::new(), Vec::new());
    while let Some(part) = stream.next().await {
        text.extend_from_slice(&part.map_err(|e| failure(&e).context(doing))?);
        while let Some(end) = memchr::memchr(b'\n', &text) {
            let line: Vec<u8> = text.drain(..=end).collect();
            rows.push(copy_text::values(line.get(..end).unwrap_or_default(), columns.len()));
        }
    }
    Ok(rows)
}
