//! Rows of a run as Parquet files, one a table, for DuckDB, Athena, Spark and their kin: no database is asked. Owns which
//! tables, the order of things and `export.json`; the types are those of the run's own catalogue (`kinds`).
//!
//! `export.json` is written last and removed first: where it is, the files that it names are whole. Memory: one row group
//! for each table that is written at the same time.

mod encode;
mod group;
mod kinds;
pub(crate) mod table;
mod values;

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Instant;

use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::error::{Context as _, Error, Kind, Result};
use crate::export::kinds::Domains;
use crate::export::table::{Exported, Shared};
use crate::format::layout;
use crate::format::manifest::{Manifest, Table, TableKind};
use crate::objects::stored_run::StoredRun;
use crate::objects::turns;
use crate::runs::{find, holders, outside, select};
use crate::seal::keys::Keys;
use crate::sql::names::TableName;
use crate::store::{Condition, Store};

/// The list of the files.
const INDEX: &str = layout::EXPORT;

/// The value of `format` in it.
const FORMAT: &str = "pgstow-export/1";

/// Tables at once, however many jobs there are: each takes two of the runtime's 512 threads that may block, and its file one
/// more.
const MOST: usize = 128;

/// The request.
pub(crate) struct Options {
    /// `latest`, a run's name or the beginning of one.
    pub(crate) run: String,
    /// Schemas and tables as they were typed; everything where both are empty.
    pub(crate) schemas: Vec<String>,
    pub(crate) tables: Vec<String>,
    /// Large tables written at the same time.
    pub(crate) jobs: usize,
    pub(crate) keys: Keys,
}

/// A table that has no file, though its schema was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LeftOut {
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) reason: String,
    /// True where the run should have its rows.
    pub(crate) skipped: bool,
}

/// `export.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    format: String,
    run: String,
    tables: Vec<Exported>,
    left_out: Vec<LeftOut>,
}

/// The result of an export.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) run: String,
    pub(crate) to: String,
    pub(crate) files: u64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) tables: Vec<Exported>,
    pub(crate) left_out: Vec<LeftOut>,
    pub(crate) seconds: f64,
}

/// Writes the files.
///
/// # Errors
/// Kind `Usage` for a run, schema or table that is not there, and for a place that belongs to a store; `Damage` where objects
/// are damaged: the other files are written then, `export.json` is not.
pub(crate) async fn export(from: &Store, to: &Store, options: &Options) -> Result<Summary> {
    let started = Instant::now();
    refuse_stores(from, to).await?;
    let found = find::trusted(from, &options.run, &options.keys.trust).await?;
    let run = StoredRun::new(from.clone(), found.manifest, &options.keys.identities)?;
    let manifest = std::sync::Arc::clone(&run.manifest);
    let entries = run.table_of_contents(&manifest.database.object).await?.entries;
    let (mut chosen, left_out) = chosen(&manifest, &entries, options)?;
    chosen.sort_by_key(|(_, table)| std::cmp::Reverse(table.file.bytes));
    from.traffic().expect(chosen.iter().map(|(_, table)| table.file.bytes).sum());
    let old = begin(to).await?;
    let shared = Shared { domains: Domains::new(&entries), run, to: to.clone(), entries };
    let (places, shared) = (Semaphore::new(MOST), &shared);
    let mut results = pin!(turns::side_by_side(
        chosen,
        options.jobs,
        |(_, table)| table.file.bytes,
        |(name, table)| {
            let places = &places;
            async move {
                // Never closed: without a permit nothing is lost but the bound.
                let _place = places.acquire().await.ok();
                Box::pin(shared.export(&name, &table)).await.map_err(|error| error.context(format!("export {name}")))
            }
        }
    ));
    let (mut tables, mut failures) = (Vec::new(), Vec::new());
    while let Some(result) = results.next().await {
        match result {
            Ok(exported) => tables.push(exported),
            // Damage of one object must not keep a person from the others; anything else would repeat itself.
            Err(error) if error.kind() == Kind::Damage => failures.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    if !failures.is_empty() {
        return Err(Error::damage(format!("{} objects are damaged: {}", failures.len(), failures.join("; ")))
            .hint("all other tables were exported; `pgstow verify` tells more, another run may be sound"));
    }
    tables.sort_by(|a, b| (&a.schema, &a.table).cmp(&(&b.schema, &b.table)));
    let mut index = Index { format: FORMAT.to_owned(), run: manifest.run.clone(), tables, left_out };
    finish(to, &index, old).await?;
    let tables = std::mem::take(&mut index.tables);
    Ok(Summary {
        run: index.run,
        to: to.describe(),
        files: tables.iter().filter(|table| table.file.is_some()).count() as u64,
        rows: tables.iter().map(|table| table.rows).sum(),
        bytes: tables.iter().map(|table| table.bytes).sum(),
        tables,
        left_out: index.left_out,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Refuses a place where backups are.
async fn refuse_stores(from: &Store, to: &Store) -> Result<()> {
    let refused = || {
        Error::usage(format!("{} holds backups", to.describe()))
            .hint("choose a folder or a prefix of its own with --parquet")
    };
    if let Some(folder) = to.local_path() {
        return outside::refuse_inside_store(from, folder)
            .map_err(|error| error.hint("choose a folder outside with --parquet"));
    }
    let is_below = |prefix: &str, store: &str| {
        let rest = prefix.strip_prefix(store);
        rest.is_some_and(|rest| {
            rest.is_empty()
                || [layout::RUNS, layout::RECEIPTS, layout::CLAIMS, layout::PINS]
                    .iter()
                    .any(|own| rest.starts_with(own))
        })
    };
    if let (Some((bucket, prefix)), Some((other, store))) = (to.bucket(), from.bucket())
        && bucket == other
        && is_below(prefix, store)
    {
        return Err(refused());
    }
    to.check().await.map_err(|error| error.context("--parquet"))?;
    if to.get(layout::LATEST).await?.is_some() || to.folders("").await?.iter().any(|name| name == "runs") {
        return Err(refused());
    }
    Ok(())
}

/// Removes an earlier list, and returns the files that it named.
async fn begin(to: &Store) -> Result<BTreeSet<String>> {
    let Some(text) = to.get(INDEX).await.with_context(|| format!("read {INDEX}"))? else { return Ok(BTreeSet::new()) };
    let index: Index = serde_json::from_slice(&text).map_err(|error| {
        Error::usage(format!("{}: {INDEX} is not one of pgstow: {error}", to.describe()))
            .hint("choose another place with --parquet")
    })?;
    to.delete(INDEX).await.with_context(|| format!("remove {INDEX}"))?;
    let own = |key: &String| key.ends_with(layout::PARQUET);
    Ok(index.tables.into_iter().filter_map(|table| table.file).filter(own).collect())
}

/// Removes files of an earlier export that this one does not have, and writes the list.
async fn finish(to: &Store, index: &Index, mut old: BTreeSet<String>) -> Result<()> {
    for key in index.tables.iter().filter_map(|table| table.file.as_ref()) {
        old.remove(key);
    }
    if let Some(error) = to.delete_all(old.into_iter().collect()).await.into_iter().next() {
        return Err(error.context("remove a file of an earlier export"));
    }
    let mut text = serde_json::to_vec_pretty(index).map_err(|error| Error::failed(format!("{INDEX}: {error}")))?;
    text.push(b'\n');
    to.put(INDEX, text.into(), Condition::None).await.map(drop).with_context(|| format!("write {INDEX}"))
}

type Chosen = (Vec<(TableName, Table)>, Vec<LeftOut>);

/// The tables that get a file, and those of the same schemas that get none.
fn chosen(manifest: &Manifest, entries: &[libpgdump::Entry], options: &Options) -> Result<Chosen> {
    let (mut tables, mut left_out): (Vec<(TableName, Table)>, Vec<LeftOut>) = Default::default();
    let everything = options.schemas.is_empty() && options.tables.is_empty();
    for wanted in &options.schemas {
        select::schema(manifest, wanted)?;
    }
    for wanted in &options.tables {
        tables.extend(holders::of(manifest, select::table(manifest, wanted)?, entries)?);
    }
    for schema in manifest.schemas.iter().filter(|schema| everything || options.schemas.contains(&schema.name)) {
        for table in &schema.tables {
            let name = TableName::new(&schema.name, &table.name);
            let has_rows = manifest.has_rows_of(&schema.name, table);
            match table.kind {
                TableKind::Table if has_rows => tables.push((name, table.clone())),
                TableKind::PartitionedTable => {}
                kind => left_out.push(left(name, kind)),
            }
        }
    }
    let mut seen = BTreeSet::new();
    tables.retain(|(name, _)| seen.insert(name.clone()));
    Ok((tables, left_out))
}

fn left(name: TableName, kind: TableKind) -> LeftOut {
    let reason = match kind {
        TableKind::Table => "the run contains no rows of it: it was skipped",
        TableKind::ForeignTable => "a foreign table: its rows are elsewhere",
        TableKind::MaterializedView => "a materialized view: its rows are not saved",
        TableKind::PartitionedTable => "its rows are in its partitions",
    };
    LeftOut { schema: name.schema, table: name.table, reason: reason.to_owned(), skipped: kind == TableKind::Table }
}
