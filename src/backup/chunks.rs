//! The chunks in which a table's rows are read, and the tasks that sessions take them in.

use std::sync::Arc;

use libpgdump::Entry;

use crate::error::{Error, Result};
use crate::pipeline::extremes::Fields;
use crate::postgres::source::detect::{RelKind, Relation};
use crate::postgres::source::leader::{lockable, qualified};
use crate::postgres::source::rows::{Blocks, Chunk, Origin, Task};
use crate::sql::names::TableName;
use crate::sql::statements::{copy_columns, names};

/// A large heap table is cut into chunks of about so many bytes on disk: enough that a COPY's start costs nothing,
/// small enough that four sessions share a table of 64 MiB.
pub(crate) const CHUNK_BYTES: i64 = 16 << 20;

/// Chunks of a large table that follow each other in one session: the server begins the next one while the last
/// bytes of the one before are still on their way. More would let one session fall behind the global order.
const CHUNKS_TOGETHER: usize = 2;

/// Small tables are read together in one transaction, up to so many bytes on disk.
const BATCH_BYTES: u64 = 8 << 20;

/// Most small tables of one transaction.
const BATCH_TABLES: usize = 256;

/// The chunks of one table's rows.
pub(crate) fn table_chunks(
    relation: &Relation,
    entry: &Entry,
    own_read: Option<&str>,
    watched: impl FnOnce(&[String]) -> Fields,
) -> Result<Vec<Arc<Chunk>>> {
    let mut origin = origin(relation, entry, own_read)?;
    let ranges = if origin.columns.is_some() { ctid_ranges(relation) } else { Vec::new() };
    if let (2.., Some(columns)) = (ranges.len(), &origin.columns) {
        origin.watched = watched(&names(columns));
    }
    let origin = Arc::new(origin);
    if ranges.len() <= 1 {
        return Ok(vec![Arc::new(Chunk { origin, blocks: None })]);
    }
    let chunk =
        |(from, to)| Chunk { origin: Arc::clone(&origin), blocks: Some(Blocks { from, to, ..Blocks::default() }) };
    Ok(ranges.into_iter().map(|range| Arc::new(chunk(range))).collect())
}

/// The way in which the rows of a table are read.
fn origin(relation: &Relation, entry: &Entry, own_read: Option<&str>) -> Result<Origin> {
    let table = qualified(relation);
    let label = format!("{}.{}", relation.schema, relation.name);
    let (whole, columns) = if let Some(read) = own_read {
        (read.to_owned(), None)
    } else {
        let columns = copy_columns(entry.copy_stmt.as_deref().unwrap_or_default())
            .ok_or_else(|| Error::failed(format!("{label}: pg_dump's COPY statement is not understood")))?;
        let bare = columns.strip_prefix('(').and_then(|c| c.strip_suffix(')')).unwrap_or(columns);
        let is_heap = relation.relkind == RelKind::Table && relation.access_method.as_deref() == Some("heap");
        match &relation.filter {
            Some(filter) => (format!("COPY (SELECT {bare} FROM {table} {filter}) TO STDOUT"), None),
            None => (format!("COPY {table} {columns} TO STDOUT"), is_heap.then(|| bare.to_owned())),
        }
    };
    let name = TableName::new(&relation.schema, &relation.name);
    let watched = Fields::default();
    Ok(Origin { oid: relation.oid, name, table, label, lockable: lockable(relation), whole, columns, watched })
}

/// Ranges of heap blocks; the last one is open, so that no row can fall behind it.
fn ctid_ranges(relation: &Relation) -> Vec<(i64, Option<i64>)> {
    let pieces = relation.bytes / CHUNK_BYTES;
    if pieces < 2 || relation.heap_blocks < 2 {
        return vec![(0, None)];
    }
    let blocks = (relation.heap_blocks / pieces).max(1);
    let starts: Vec<i64> = (0..relation.heap_blocks).step_by(usize::try_from(blocks).unwrap_or(usize::MAX)).collect();
    starts.iter().enumerate().map(|(at, start)| (*start, starts.get(at + 1).copied())).collect()
}

/// The tasks that read these tables in their order, each given by its chunks and its size on disk.
#[must_use]
pub(crate) fn tasks<'a>(tables: impl Iterator<Item = (&'a [Arc<Chunk>], u64)>) -> Vec<Task> {
    let mut tasks: Vec<Task> = Vec::new();
    let mut batch_bytes = BATCH_BYTES;
    for (chunks, size) in tables {
        let large = chunks.len() > 1;
        for chunk in chunks {
            match tasks.last_mut() {
                Some(task)
                    if large
                        && task.chunks.len() < CHUNKS_TOGETHER
                        && task.chunks.first().is_some_and(|c| Arc::ptr_eq(&c.origin, &chunk.origin)) =>
                {
                    task.chunks.push(Arc::clone(chunk));
                }
                Some(task)
                    if !large
                        && batch_bytes.saturating_add(size) <= BATCH_BYTES
                        && task.chunks.len() < BATCH_TABLES =>
                {
                    task.chunks.push(Arc::clone(chunk));
                    batch_bytes += size;
                }
                _ => {
                    tasks.push(Task { chunks: vec![Arc::clone(chunk)] });
                    batch_bytes = if large { BATCH_BYTES + 1 } else { size };
                }
            }
        }
    }
    tasks
}
