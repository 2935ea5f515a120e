//! The rows of the scratch database, read back by several sessions as a backup reads them, and compared with the
//! manifest table by table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use crate::drill::options::Options;
use crate::drill::receipt::Observations;
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, Table};
use crate::objects::stored_run::StoredRun;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::target::load;
use crate::postgres::target::load::{Loader, Readable};
use crate::restore::source::{LeaveOut, Loaded};
use crate::seal::digest::Fingerprint;
use crate::sql::names::{TableName, literal};
use crate::sql::statements::{copy_columns, names};

/// The tables and rows that were compared, and what was found.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    pub(crate) tables: u64,
    pub(crate) rows: u64,
    pub(crate) observations: Observations,
}

/// A table to read back: its schema and its entry of the manifest.
type Wanted<'a> = (&'a str, &'a Table);

/// A table that was read back.
struct Seen<'a> {
    name: TableName,
    table: &'a Table,
    /// The topmost table that it is a partition of, as SQL.
    root: String,
    fingerprint: Fingerprint,
    /// Its columns came back in another order.
    reordered: bool,
}

/// Reads every table back and compares it with the manifest; of a sample, those that have rows.
pub(crate) async fn compare(
    options: &Options,
    loaded: &Loaded,
    leave_out: &LeaveOut,
    info: &ConnInfo,
) -> Result<Compared> {
    // That tables outside of a sample are empty proves nothing about them.
    let mut wanted = wanted(&loaded.run.manifest, leave_out, !options.tables.is_empty());
    wanted.sort_by_key(|(_, table)| table.raw_bytes);
    let queue = Mutex::new(wanted);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let worker = || async {
        let session = Session::connect(info, options.connect_timeout, "drill").await?;
        let loader = Loader::connect(info, options.connect_timeout).await?;
        let (mut seen, mut missing) = (Vec::new(), Vec::new());
        while let Some(one) = next() {
            match read_back(&loaded.run, one, &session, &loader).await? {
                Some(one) => seen.push(one),
                None => missing.push(format!("table {}.{} is missing", one.0, one.1.name)),
            }
        }
        loader.close().await;
        session.close().await;
        Ok::<_, Error>((seen, missing))
    };
    let read = futures::future::try_join_all((0..options.jobs).map(|_| worker())).await?;
    let (seen, missing): (Vec<_>, Vec<_>) = read.into_iter().unzip();
    let mut compared = judge(&seen.into_iter().flatten().collect::<Vec<_>>());
    compared.observations.differences.splice(0..0, missing.into_iter().flatten());
    Ok(compared)
}

fn wanted<'a>(manifest: &'a Manifest, leave_out: &LeaveOut, only_with_rows: bool) -> Vec<Wanted<'a>> {
    let all = manifest.schemas.iter().flat_map(|s| s.tables.iter().map(move |table| (s.name.as_str(), table)));
    all.filter(|(schema, table)| manifest.has_rows_of(schema, table))
        .filter(|(schema, table)| !leave_out.tables.contains(&TableName::new(*schema, &table.name)))
        .filter(|(_, table)| !only_with_rows || table.rows > 0)
        .collect()
}

/// Reads one table; `None` where it is missing.
async fn read_back<'a>(
    run: &StoredRun,
    (schema, table): Wanted<'a>,
    session: &Session,
    loader: &Loader,
) -> Result<Option<Seen<'a>>> {
    let name = TableName::new(schema, &table.name);
    let doing = format!("read {name} back");
    let Some(readable) = load::readable(session, schema, &table.name).await? else { return Ok(None) };
    let mut fingerprint = loader.fingerprint(&copy(&name, table, &readable), &doing).await?;
    let differs = fingerprint.rows == table.rows && fingerprint.digest() != table.digest;
    let saved = if differs { saved_order(run, table, &readable).await } else { None };
    if let Some(saved) = &saved {
        fingerprint = loader.fingerprint(&copy(&name, table, saved), &doing).await?;
    }
    Ok(Some(Seen { name, table, root: readable.root, fingerprint, reordered: saved.is_some() }))
}

/// The columns in the order in which they were saved, where they came back in another one: those of a table that
/// inherits from one which got a column later. `pg_dump` makes the columns of parents first.
async fn saved_order(run: &StoredRun, table: &Table, readable: &Readable) -> Option<Readable> {
    let (head, flow) = run.file(&table.file);
    let head = head.await;
    drop(flow);
    let head = head.ok()?;
    let saved = copy_columns(&head.copy)?.strip_prefix('(')?.strip_suffix(')')?;
    let sorted = |list| {
        let mut names = names(list);
        names.sort();
        names
    };
    let other = saved != readable.columns && sorted(saved) == sorted(&readable.columns);
    other.then(|| Readable { columns: saved.to_owned(), root: readable.root.clone() })
}

/// The statement by which a backup reads the table.
fn copy(name: &TableName, table: &Table, readable: &Readable) -> String {
    let name = name.sql();
    let copy = match &table.filter {
        Some(filter) => format!("COPY (SELECT {} FROM {name} {filter}) TO STDOUT", readable.columns),
        None if readable.columns.is_empty() => format!("COPY {name} TO STDOUT"),
        None => format!("COPY {name} ({}) TO STDOUT", readable.columns),
    };
    match &table.encoding {
        Some(encoding) => format!("{copy} WITH (ENCODING {})", literal(encoding)),
        None => copy,
    }
}

fn sum(digest: &str) -> u128 {
    digest.rsplit(':').next().and_then(|hex| u128::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

/// Compares tables one by one; those that differ and are partitions, together with the others of their root: rows of
/// hash partitions by an enumeration move when they are loaded again.
fn judge(seen: &[Seen<'_>]) -> Compared {
    let mut compared = Compared::default();
    let found = &mut compared.observations;
    let mut roots: BTreeMap<&str, (i128, u128)> = BTreeMap::new();
    let (mut differing, mut moved) = (Vec::new(), BTreeSet::new());
    for one in seen {
        compared.tables += 1;
        compared.rows += one.fingerprint.rows;
        let root = roots.entry(&one.root).or_default();
        root.0 += i128::from(one.fingerprint.rows) - i128::from(one.table.rows);
        root.1 = root.1.wrapping_add(sum(&one.fingerprint.digest())).wrapping_sub(sum(&one.table.digest));
        if one.fingerprint.rows != one.table.rows || one.fingerprint.digest() != one.table.digest {
            differing.push(one);
        } else if one.reordered {
            found.notes.push(format!(
                "{}: its columns are in another order than they were, as pg_dump makes those of parents first",
                one.name
            ));
        }
    }
    for one in differing {
        let (name, same_count) = (&one.name, one.fingerprint.rows == one.table.rows);
        if roots.get(one.root.as_str()) == Some(&(0, 0)) {
            moved.insert(&one.root);
        } else if one.table.extension.is_some() && same_count {
            found.notes.push(format!(
                "{name}: compared by count; its extension's triggers, or the drill (cron jobs are inactive), change rows as they are loaded"
            ));
        } else {
            found.differences.push(format!(
                "{name}: {} rows restored, {} saved{}",
                one.fingerprint.rows,
                one.table.rows,
                if same_count { ", with another content" } else { "" }
            ));
        }
    }
    let together = |root| format!("{root}: rows moved between its hash partitions; compared as a whole");
    found.notes.extend(moved.into_iter().map(together));
    compared
}
