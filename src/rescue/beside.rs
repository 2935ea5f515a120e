//! The table of a run under another name, beside the live one: to look at, to compare with, to take from.
//!
//! Everything happens in one transaction, so that however the program ends there is the whole table or nothing. Indexes,
//! constraints and sequences are the run's own under names of their own. What would touch other tables (foreign keys,
//! triggers) is left out, and nobody gets privileges: rows that somebody may not see must not show up under another name.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::archive::renamed::Renamer;
use crate::error::{Error, Kind, Result};
use crate::format::manifest::TableKind;
use crate::objects::flow::Flow;
use crate::objects::lines::{self, Chosen};
use crate::postgres::error::failure;
use crate::postgres::target::ground;
use crate::postgres::target::live::Live;
use crate::postgres::target::load::{self, Loader};
use crate::rescue::begin::Begun;
use crate::rescue::forget;
use crate::rescue::options::Options;
use crate::restore::entry::SETTINGS;
use crate::restore::forget::Forgotten;
use crate::restore::rows::compare;
use crate::restore::wanted::Wanted;
use crate::sql::names::{TableName, quote};
use crate::sql::privileges;
use crate::sql::statements::{self, statements};
use crate::store::Store;

/// What was made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) run: String,
    pub(crate) table: TableName,
    pub(crate) name: TableName,
    pub(crate) into: String,
    /// Stored bytes that were read for rows.
    pub(crate) read_bytes: u64,
    /// Rows in the new table.
    pub(crate) rows: u64,
    pub(crate) forgotten: Option<Forgotten>,
    pub(crate) notes: Vec<String>,
    pub(crate) seconds: f64,
}

/// Makes the table of this name.
///
/// # Errors
/// Kind `Usage` for a name that is taken; what the server refuses. Nothing was changed then.
pub(crate) async fn make(store: Store, options: &Options, name: &str) -> Result<Made> {
    let started = Instant::now();
    let name = parse(name)?;
    let mut begun = Begun::new(store, options).await?;
    let made = Box::pin(make_as(&mut begun, options, name)).await.map_err(|error| {
        let error = if error.kind() == Kind::Damage { error.with_kind(Kind::Failed) } else { error };
        error.hint("nothing was changed")
    });
    let mut made = made?;
    begun.loader.close().await;
    made.seconds = started.elapsed().as_secs_f64();
    Ok(made)
}

/// The name as it was written: `schema.table`, each part quoted or not.
fn parse(text: &str) -> Result<TableName> {
    let wrong = || Error::usage(format!("--as {text:?} is no name of a table")).hint("write it as schema.table");
    let parsed = if text.starts_with('"') || text.contains(".\"") {
        let parts = statements::name(text).and_then(|(schema, rest)| {
            let (table, rest) = statements::name(rest.strip_prefix('.')?)?;
            rest.is_empty().then_some((schema, table))
        });
        parts.ok_or_else(wrong)?
    } else {
        let (schema, table) = text.split_once('.').ok_or_else(wrong)?;
        (schema.to_owned(), table.to_owned())
    };
    if parsed.0.is_empty() || parsed.1.is_empty() { Err(wrong()) } else { Ok(TableName::new(parsed.0, parsed.1)) }
}

async fn make_as(begun: &mut Begun, options: &Options, name: TableName) -> Result<Made> {
    let (own, table, holders) = begun.found().await?;
    if table.extension.is_some() {
        return Err(Error::usage(format!("{own} belongs to an extension")));
    }
    let taken = taken(&begun.loader, &name).await?;
    let mut staged = Vec::new();
    let mut ready = None;
    if let Some(list) = &options.forget {
        ready = Some(forget::read(begun, &mut staged, std::slice::from_ref(&own), 1, list).await?);
    }
    let mut renamer = Renamer::new(own.clone(), name.clone(), taken);
    begun.loader.execute(&format!("{SETTINGS}; BEGIN; SET LOCAL synchronous_commit = on"), "begin").await?;
    let (rows, late) = if table.kind == TableKind::PartitionedTable {
        let text = begun.source.read(&table.file).await?;
        let text = String::from_utf8(text).map_err(|error| Error::damage(format!("{}: {error}", table.file.key)))?;
        let (early, late): (Vec<&str>, Vec<&str>) = statements(&text).into_iter().partition(|one| !is_late(one));
        define(&begun.loader, &mut renamer, &name, &early).await?;
        let chosen = Chosen::new(&begun.source, holders, &[]).await?;
        begun.read_bytes += chosen.bytes;
        let mut rows = 0;
        for part in chosen.parts {
            let (columns, flow) = part.open(&begun.source).await?;
            let of = Wanted { schema: part.name.schema.clone(), table: part.table.clone() };
            rows += load(&begun.loader, &name, &columns, flow, &of).await?.0;
        }
        (rows, late.into_iter().map(str::to_owned).collect())
    } else {
        begun.read_bytes += table.file.bytes;
        let (head, flow) = begun.source.file(&table.file);
        let Ok(head) = head.await else {
            flow.finish().await?;
            return Err(Error::damage(format!("{}: has no COPY statement", table.file.key)));
        };
        let columns = lines::columns(&head.copy)
            .ok_or_else(|| Error::damage(format!("{}: {:?} is not a COPY statement", table.file.key, head.copy)))?;
        let (early, mut late): (Vec<&str>, Vec<&str>) =
            statements(&head.before).into_iter().filter(|one| !is_block(one)).partition(|one| !is_late(one));
        define(&begun.loader, &mut renamer, &name, &early).await?;
        let of = Wanted { schema: own.schema.clone(), table: table.clone() };
        let (rows, after) = load(&begun.loader, &name, &columns, flow, &of).await?;
        late.extend(statements(&after));
        (rows, late.into_iter().map(str::to_owned).collect::<Vec<String>>())
    };
    let mut rows = rows;
    if let Some(condition) = &options.condition {
        rows -= leave_out(&begun.loader, &own, &name, condition).await?;
    }
    let mut forgotten = None;
    if let Some(ready) = ready {
        let live = Live::find(begun.loader.session(), &name).await?;
        let mut ground = forget::ground(begun, &staged).await?;
        let new = ground::Table { from: live.from, columns: live.columns };
        ground.add(begun.loader.session(), &own, new).await?;
        let done = ready.erase(begun.loader.session(), ground).await?;
        let of_own = done.tables.iter().filter(|one| one.table == own.to_string());
        rows -= of_own.map(|one| one.listed + one.by_reference).sum::<u64>();
        forgotten = Some(done);
    }
    finish(&begun.loader, &mut renamer, &name, &late).await?;
    let left: Vec<&str> = renamer.left.iter().copied().collect();
    let notes = if left.is_empty() { Vec::new() } else { vec![format!("left out: {}", left.join(", "))] };
    let (run, into) = (begun.source.manifest.run.clone(), begun.loader.session().info().to_string());
    let read_bytes = begun.read_bytes;
    Ok(Made { run, table: own, name, into, read_bytes, rows, forgotten, notes, seconds: 0.0 })
}

/// The names in the new schema.
///
/// # Errors
/// Kind `Usage` where the table is there, or the schema is not.
async fn taken(loader: &Loader, name: &TableName) -> Result<BTreeSet<String>> {
    let sql = "SELECT ARRAY(SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid)
                 FROM pg_catalog.pg_namespace n WHERE n.nspname = $1";
    let row = loader.session().client.query_opt(sql, &[&name.schema]).await;
    let row = row.map_err(|e| failure(&e).context(format!("look at schema {}", name.schema)))?;
    let database = loader.session().info().database();
    let row = row.ok_or_else(|| {
        Error::usage(format!("database {database} has no schema {}", name.schema))
            .hint(format!("CREATE SCHEMA {}", quote(&name.schema)))
    })?;
    let taken: Vec<String> = row.get(0);
    if taken.contains(&name.table) {
        return Err(Error::usage(format!("{name} exists already in database {database}")).hint("--as another name"));
    }
    Ok(taken.into_iter().collect())
}

/// True for the block that takes away what default privileges gave, which is about the table of the run.
fn is_block(statement: &str) -> bool {
    statement.starts_with("DO ")
}

/// True for what is made once the rows are there.
fn is_late(statement: &str) -> bool {
    let heads = ["CREATE INDEX ", "CREATE UNIQUE INDEX ", "SELECT "];
    heads.iter().any(|head| statement.starts_with(head))
        || statement.starts_with("ALTER TABLE ") && statement.contains(" ADD CONSTRAINT ")
        || statement.ends_with(" ROW LEVEL SECURITY")
}

/// Makes the table, without rows, so that nobody else may read it.
async fn define(loader: &Loader, renamer: &mut Renamer, name: &TableName, early: &[&str]) -> Result<()> {
    let doing = format!("make {name}");
    renamer.find_sequences(early);
    for statement in early {
        if let Some(new) = renamer.renamed(statement).map_err(Error::usage)? {
            loader.execute(&new, &doing).await?;
        }
    }
    loader.execute(&privileges::plain_table_privileges(&name.sql()), &doing).await
}

/// Loads the rows of one object; returns their number and the text that follows them.
async fn load(
    loader: &Loader,
    name: &TableName,
    columns: &[String],
    mut flow: Flow,
    of: &Wanted,
) -> Result<(u64, String)> {
    let doing = format!("load {name}");
    let names: Vec<String> = columns.iter().map(|column| quote(column)).collect();
    let list = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
    let counted = loader.copy(&format!("COPY {}{list} FROM stdin", name.sql()), &mut flow.rows, &doing).await;
    let (fingerprint, after) = flow.finish().await?;
    let counted = counted?;
    compare(of, &fingerprint)?;
    if counted != fingerprint.rows {
        return Err(load::miscounted(&doing, fingerprint.rows, counted));
    }
    Ok((counted, after))
}

/// Removes the rows that do not meet the condition of a person.
async fn leave_out(loader: &Loader, own: &TableName, name: &TableName, condition: &str) -> Result<u64> {
    loader.execute("SET LOCAL search_path TO DEFAULT", "read the condition").await?;
    let sql = format!("DELETE FROM {} AS {} WHERE (({condition}\n)) IS NOT TRUE", name.sql(), quote(&own.table));
    let done = loader.session().client.execute(&sql, &[]).await;
    let done = done.map_err(|e| failure(&e).context("--where").with_kind(Kind::Usage))?;
    loader.execute("SET LOCAL search_path = ''", "read the condition").await?;
    Ok(done)
}

/// Makes indexes and constraints, sets the sequences, and commits.
async fn finish(loader: &Loader, renamer: &mut Renamer, name: &TableName, late: &[String]) -> Result<()> {
    let doing = format!("finish {name}");
    loader.execute("SET LOCAL search_path = ''", &doing).await?;
    for statement in late {
        if let Some(new) = renamer.renamed(statement).map_err(Error::usage)? {
            loader.execute(&new, &doing).await?;
        }
    }
    loader.execute(&privileges::plain_table_privileges(&name.sql()), &doing).await?;
    loader.execute(&format!("ANALYZE {}", name.sql()), &doing).await?;
    loader.execute("COMMIT", &doing).await
}
