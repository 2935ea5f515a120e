//! The chunks in which a table's rows are read, and the tasks that sessions take them in.

use std::sync::Arc;

use libpgdump::Entry;

use crate::error::{Error, Result};
use crate::pipeline::extremes::Fields;
use crate::postgres::source::detect::{RelKind, Relation};
use crate::postgres::source::leader::{lockable, qualified};
use crate::postgres::source::rows::{Chunk, Task};
use crate::sql::statements::{copy_columns, names};

/// A large heap table is cut into chunks of about so many bytes on disk: enough that a COPY's start costs nothing,
/// small enough that four sessions share a table of 64 MiB.
const CHUNK_BYTES: i64 = 16 << 20;

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
    let table = qualified(relation);
    let label = format!("{}.{}", relation.schema, relation.name);
    let lockable = lockable(relation);
    let no_fields = Fields::default();
    let with = |copy: String, label: String, watched: &Fields| {
        Arc::new(Chunk { table: table.clone(), copy, label, lockable, watched: Fields::clone(watched) })
    };
    let chunk = |copy: String, label: String| with(copy, label, &no_fields);
    if let Some(read) = own_read {
        return Ok(vec![chunk(read.to_owned(), label)]);
    }
    let columns = copy_columns(entry.copy_stmt.as_deref().unwrap_or_default())
        .ok_or_else(|| Error::failed(format!("{label}: pg_dump's COPY statement is not understood")))?;
    let bare = columns.strip_prefix('(').and_then(|c| c.strip_suffix(')')).unwrap_or(columns);
    if let Some(filter) = &relation.filter {
        return Ok(vec![chunk(format!("COPY (SELECT {bare} FROM {table} {filter}) TO STDOUT"), label)]);
    }
    let ranges = ctid_ranges(relation);
    if ranges.len() <= 1 {
        return Ok(vec![chunk(format!("COPY {table} {columns} TO STDOUT"), label)]);
    }
    let watched = watched(&names(bare));
    Ok(ranges
        .into_iter()
        .map(|(from, to)| {
            let upper = to.map_or_else(String::new, |to| format!(" AND ctid < '({to},0)'::pg_catalog.tid"));
            let copy = format!(
                "COPY (SELECT {bare} FROM ONLY {table} WHERE ctid >= '({from},0)'::pg_catalog.tid{upper}) TO STDOUT"
            );
            let to = to.map_or_else(|| "end".to_owned(), |to| to.to_string());
            with(copy, format!("{label} (blocks {from} to {to})"), &watched)
        })
        .collect())
}

/// Ranges of heap blocks; the last one is open, so that no row can fall behind it.
fn ctid_ranges(relation: &Relation) -> Vec<(i64, Option<i64>)> {
    let pieces = relation.bytes / CHUNK_BYTES;
    if relation.relkind != RelKind::Table
        || relation.access_method.as_deref() != Some("heap")
        || pieces < 2
        || relation.heap_blocks < 2
    {
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
                        && task.chunks.first().is_some_and(|c| c.table == chunk.table) =>
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
