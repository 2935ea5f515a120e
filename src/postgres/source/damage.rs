//! The readable part of a table whose data is damaged on the server: blocks are halved until those that fail are found,
//! and in a block that can be opened its rows are tried one by one (a damaged row, a TOAST value that is missing).
//!
//! Reads the table once more, on the snapshot of the run, each part behind a savepoint. Memory: a piece of a row, and the
//! damage found.

use std::sync::Arc;

use futures::stream::TryStreamExt as _;
use tokio_postgres::Client;

use crate::error::{Error, Result};
use crate::format::manifest::Skipped;
use crate::human;
use crate::pipeline::extremes::Fields;
use crate::postgres::error::failure;
use crate::postgres::source::rows::{Blocks, Chunk, Origin, Readers, is_damage};

/// Blocks that are tried at once.
const STRIDE: i64 = 4096;
/// Most places that are named.
const NAMED: usize = 8;

/// The places of a table that cannot be read.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    /// Blocks, in order.
    blocks: Vec<i64>,
    /// Rows by block and ctid, in order.
    rows: Vec<(i64, String)>,
    /// Nothing of it can be read by blocks.
    whole: bool,
}

/// Looks for the damage of a table.
///
/// # Errors
/// A lost connection; any error that is no damage.
pub(crate) async fn look(readers: &Readers, origin: &Arc<Origin>) -> Result<Damage> {
    let mut damage = Damage::default();
    if origin.columns.is_none() {
        damage.whole = true;
        return Ok(damage);
    }
    let session = readers.on_snapshot().await?;
    let client = &session.client;
    let question = "SELECT pg_catalog.pg_relation_size($1::pg_catalog.oid) / pg_catalog.current_setting('block_size')::pg_catalog.int8";
    let size = client.query_one(question, &[&origin.oid]).await;
    let blocks: i64 = size.map_err(|e| failure(&e).context(format!("measure {}", origin.label)))?.get(0);
    // The last first: the next to be tried is the end of the list.
    let mut ranges: Vec<(i64, i64)> = (0..blocks)
        .step_by(usize::try_from(STRIDE).unwrap_or(1))
        .map(|from| (from, (from + STRIDE).min(blocks)))
        .collect();
    ranges.reverse();
    while let Some((from, to)) = ranges.pop() {
        let chunk =
            Chunk { origin: Arc::clone(origin), blocks: Some(Blocks { from, to: Some(to), without: Vec::new() }) };
        if can_be_read(client, &chunk.copy(readers.encoding.as_deref()), &chunk.label()).await? {
            continue;
        }
        if to - from > 1 {
            let middle = i64::midpoint(from, to);
            ranges.push((middle, to));
            ranges.push((from, middle));
            continue;
        }
        let found = rows_of_block(client, readers, origin, from).await?;
        match found {
            Some(rows) => damage.rows.extend(rows.into_iter().map(|row| (from, row))),
            None => damage.blocks.push(from),
        }
    }
    session.close().await;
    Ok(damage)
}

/// The rows of a block that cannot be read; `None` where the block itself cannot.
async fn rows_of_block(client: &Client, readers: &Readers, origin: &Origin, block: i64) -> Result<Option<Vec<String>>> {
    let Origin { table, columns, label, .. } = origin;
    let within = format!("ctid >= '({block},0)'::pg_catalog.tid AND ctid < '({},0)'::pg_catalog.tid", block + 1);
    let list = format!("COPY (SELECT ctid FROM ONLY {table} WHERE {within}) TO STDOUT");
    if !can_be_read(client, &list, label).await? {
        return Ok(None);
    }
    let rows = client.query(&format!("SELECT ctid::pg_catalog.text FROM ONLY {table} WHERE {within}"), &[]).await;
    let rows = rows.map_err(|e| failure(&e).context(format!("list the rows of {label}, block {block}")))?;
    let encoding = readers.encoding.as_ref().map(|name| format!(" WITH (ENCODING '{name}')")).unwrap_or_default();
    let mut damaged = Vec::new();
    for row in &rows {
        let ctid: String = row.get(0);
        let columns = columns.as_deref().unwrap_or_default();
        let copy = format!(
            "COPY (SELECT {columns} FROM ONLY {table} WHERE ctid = '{ctid}'::pg_catalog.tid) TO STDOUT{encoding}"
        );
        if !can_be_read(client, &copy, label).await? {
            damaged.push(ctid);
        }
    }
    Ok(Some(damaged))
}

/// True where the server can read all that a COPY asks for.
async fn can_be_read(client: &Client, copy: &str, label: &str) -> Result<bool> {
    let lost = |e: tokio_postgres::Error| failure(&e).context(format!("look for the damage of {label}"));
    client.batch_execute("SAVEPOINT part").await.map_err(lost)?;
    let read = async {
        let stream = client.copy_out(copy).await?;
        stream.try_for_each(|_piece| std::future::ready(Ok(()))).await
    };
    let read: Result<(), tokio_postgres::Error> = read.await;
    match read {
        Ok(()) => {
            client.batch_execute("RELEASE SAVEPOINT part").await.map_err(lost)?;
            Ok(true)
        }
        Err(error) if error.code().is_some_and(is_damage) => {
            client.batch_execute("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part").await.map_err(lost)?;
            Ok(false)
        }
        Err(error) => Err(lost(error)),
    }
}

impl Damage {
    /// The chunks that read everything else.
    pub(crate) fn chunks(&self, origin: &Arc<Origin>) -> Vec<Arc<Chunk>> {
        if self.whole {
            let Origin { oid, name, table, label, lockable, watched, .. } = origin.as_ref();
            let (whole, columns) = ("COPY (SELECT WHERE false) TO STDOUT".to_owned(), None);
            let (name, table, label) = (name.clone(), table.clone(), label.clone());
            let origin = Origin {
                oid: *oid,
                name,
                table,
                label,
                lockable: *lockable,
                whole,
                columns,
                watched: Fields::clone(watched),
            };
            return vec![Arc::new(Chunk { origin: Arc::new(origin), blocks: None })];
        }
        let mut parts = Vec::new();
        let mut from = 0;
        for block in &self.blocks {
            parts.push((from, Some(*block)));
            from = block + 1;
        }
        parts.push((from, None));
        let part = |(from, to): (i64, Option<i64>)| {
            let inside = |block: i64| block >= from && to.is_none_or(|to| block < to);
            let without = self.rows.iter().filter(|(block, _)| inside(*block)).map(|(_, row)| row.clone()).collect();
            Blocks { from, to, without }
        };
        let parts = parts.into_iter().filter(|(from, to)| to.is_none_or(|to| to > *from)).map(part);
        parts.map(|blocks| Arc::new(Chunk { origin: Arc::clone(origin), blocks: Some(blocks) })).collect()
    }

    /// The gap for the manifest, with the words of the server.
    pub(crate) fn skipped(&self, origin: &Origin, error: &Error) -> Skipped {
        let blocks = self.blocks.iter().map(|block| format!("block {block}"));
        let rows = self.rows.iter().map(|(_, row)| format!("row {row}"));
        let shown =
            if self.whole { "all of its rows".to_owned() } else { human::shortened(blocks.chain(rows), NAMED, ", ") };
        let state = error.sqlstate();
        let state = state.as_ref().map(|state| format!(" ({})", state.as_str())).unwrap_or_default();
        Skipped {
            schema: origin.name.schema.clone(),
            name: format!("{} ({shown})", origin.name.table),
            kind: "damaged rows".to_owned(),
            reason: format!(
                "the server cannot read them: {}{state}; everything else of the table is saved",
                error.cause()
            ),
            entries: Vec::new(),
        }
    }
}
