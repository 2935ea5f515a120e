//! One table as one Parquet file: its rows are read once, or once more for each step that a column's type has to go towards
//! text. The file appears when its rows were compared with the manifest, and not before.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::archive::columns;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::export::encode::{self, Plan, TooNarrow};
use crate::export::kinds::{Domains, Kind};
use crate::format::layout;
use crate::format::manifest::Table;
use crate::objects::flow::Before;
use crate::objects::lines;
use crate::objects::stored_run::StoredRun;
use crate::sql::names::TableName;
use crate::store::{self, ObjectWriter, Store};

/// Parts of the file on their way to the store.
const PARTS: usize = 4;

/// Times that a table is read at most: as what it is, as text, as bytes.
const READS: usize = 3;

/// What all tables of an export share.
pub(super) struct Shared {
    pub(super) run: StoredRun,
    pub(super) to: Store,
    pub(super) entries: Vec<libpgdump::Entry>,
    pub(super) domains: Domains,
}

/// A table as `export.json` names it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Exported {
    pub(crate) schema: String,
    pub(crate) table: String,
    /// Its file; absent for a table without columns, which Parquet does not have.
    pub(crate) file: Option<String>,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) sha256: Option<String>,
    pub(crate) columns: Vec<ExportedColumn>,
}

/// A column as `export.json` names it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExportedColumn {
    pub(crate) name: String,
    /// As PostgreSQL names it; absent where the run does not say.
    pub(crate) postgresql: Option<String>,
    pub(crate) parquet: String,
    /// The type that it would have, were there not a value which that one cannot hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instead_of: Option<String>,
    /// The first row with such a value, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) row: Option<u64>,
}

/// A column and the types that were tried.
struct Column {
    name: String,
    declared: Option<String>,
    first: Kind,
    kind: Kind,
    row: Option<u64>,
}

impl Shared {
    /// Writes the file of one table.
    ///
    /// # Errors
    /// Damage of the object; what either store fails with. No file is there then.
    pub(super) async fn export(&self, name: &TableName, table: &Table) -> Result<Exported> {
        let mut known: Option<Vec<Column>> = None;
        for _read in 0..READS {
            let (head, flow) = self.run.file(&table.file);
            let Ok(before) = head.await else {
                flow.finish().await?;
                return Err(Error::damage(format!("{}: has no COPY statement", table.file.key)));
            };
            let mut columns = match known.take() {
                Some(columns) => columns,
                None => self.columns(&before, table)?,
            };
            let key = layout::table_parquet(&name.schema, &name.table);
            if columns.is_empty() {
                let (fingerprint, _after) = drained(flow).await?;
                compare(&fingerprint, table)?;
                return Ok(exported(name, table, None, columns));
            }
            let plan = Plan {
                table: name.to_string(),
                columns: columns.iter().map(|column| (column.name.clone(), column.kind.clone())).collect(),
                notes: vec![
                    ("pgstow.run".to_owned(), self.run.manifest.run.clone()),
                    ("pgstow.table".to_owned(), name.to_string()),
                ],
            };
            let expected_bytes = table.raw_bytes.saturating_mul(2);
            let writer = self.to.writer(&key, store::Plan { expected_bytes });
            let (send, written) = mpsc::channel(PARTS);
            let crate::objects::flow::Flow { rows, end } = flow;
            let encoding = tokio::task::spawn_blocking(move || encode::encode(&plan, rows, send));
            let stored = store_all(writer, written).await;
            let encoded = encoding.await.map_err(|error| Error::failed(format!("write Parquet: {error}")))?;
            let read = end.await.map_err(|error| Error::failed(format!("read rows: {error}")))?;
            // The first cause counts: a store that took no more ends the encoding, a damaged object too.
            let writer = match (stored, encoded) {
                (Err(error), _) => return Err(error),
                (Ok(writer), Err(error)) => {
                    writer.abort().await;
                    return Err(if error.kind() == ErrorKind::Damage { read.err().unwrap_or(error) } else { error });
                }
                (Ok(writer), Ok(narrow)) if narrow.is_empty() => writer,
                (Ok(writer), Ok(narrow)) => {
                    writer.abort().await;
                    read?;
                    widen(&mut columns, &narrow, table)?;
                    known = Some(columns);
                    continue;
                }
            };
            if let Err(error) = read.and_then(|(fingerprint, _after)| compare(&fingerprint, table)) {
                writer.abort().await;
                return Err(error);
            }
            let stored = writer.finish().await.map_err(|error| Error::from(error).context(format!("write {key}")))?;
            return Ok(exported(name, table, Some((key, stored)), columns));
        }
        Err(Error::failed(format!("{name}: a column has values of no type")))
    }

    /// The columns of the rows, of the types that hold all their values unless one is out of the ordinary.
    fn columns(&self, before: &Before, table: &Table) -> Result<Vec<Column>> {
        let names = lines::columns(&before.copy).ok_or_else(|| {
            Error::damage(format!("{}: {:?} is not a COPY statement of pg_dump", table.file.key, before.copy))
        })?;
        let mut definition = columns::definition(&before.before);
        columns::complete(&mut definition, &self.entries);
        let column = |name: String| {
            let declared = definition.types.get(&name).cloned();
            let mut kind = self.domains.kind(declared.as_deref());
            if table.encoding.is_some() {
                kind = kind.in_foreign_encoding();
            }
            Column { name, declared, first: kind.clone(), kind, row: None }
        };
        Ok(names.into_iter().map(column).collect())
    }
}

/// Gives columns the next wider type.
fn widen(columns: &mut [Column], narrow: &[TooNarrow], table: &Table) -> Result<()> {
    for TooNarrow { column, row } in narrow {
        let column = columns.get_mut(*column).ok_or_else(|| Error::failed("a column is missing"))?;
        let wider = column.kind.wider().ok_or_else(|| Error::failed("bytes hold every value"))?;
        column.kind = if table.encoding.is_some() { wider.in_foreign_encoding() } else { wider };
        column.row = Some(*row);
    }
    Ok(())
}

/// Writes what comes; the object does not appear yet.
async fn store_all(mut writer: ObjectWriter, mut written: mpsc::Receiver<Bytes>) -> Result<ObjectWriter> {
    while let Some(part) = written.recv().await {
        writer.write(part).await.map_err(Error::from)?;
    }
    Ok(writer)
}

/// Reads rows that nobody needs: those of a table without columns.
async fn drained(mut flow: crate::objects::flow::Flow) -> Result<(crate::seal::digest::Fingerprint, String)> {
    while let Some(part) = flow.rows.recv().await {
        part?;
    }
    flow.finish().await
}

/// Compares what was read with the manifest, as `verify` does.
fn compare(read: &crate::seal::digest::Fingerprint, table: &Table) -> Result<()> {
    let key = &table.file.key;
    if read.rows != table.rows {
        return Err(Error::damage(format!("{key}: {} rows, the manifest says {}", read.rows, table.rows)));
    }
    if read.digest() != table.digest {
        return Err(Error::damage(format!("{key}: digest of the rows differs from the manifest's")));
    }
    Ok(())
}

fn exported(name: &TableName, table: &Table, file: Option<(String, store::Stored)>, columns: Vec<Column>) -> Exported {
    let column = |column: Column| ExportedColumn {
        name: column.name,
        postgresql: column.declared,
        parquet: column.kind.to_string(),
        instead_of: (column.kind != column.first).then(|| column.first.to_string()),
        row: column.row,
    };
    let (file, stored) = file.unzip();
    Exported {
        schema: name.schema.clone(),
        table: name.table.clone(),
        file,
        rows: table.rows,
        bytes: stored.as_ref().map_or(0, |stored| stored.bytes),
        sha256: stored.map(|stored| stored.sha256),
        columns: columns.into_iter().map(column).collect(),
    }
}
