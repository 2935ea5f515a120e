//! From COPY text to the bytes of a Parquet file, on a blocking thread: rows fill the columns of a row group, a full group is
//! written, and what is written goes on through a channel. Memory: one row group, and some parts of the channels.
//!
//! A value that the type of its column cannot hold ends the file, not the reading: every column that needs a wider type is
//! found in one pass.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use tokio::sync::mpsc;

use crate::archive::copy_text;
use crate::error::{Error, Result};
use crate::export::group::Column;
use crate::export::kinds::Kind;

/// Bytes of COPY text in a row group: some hundred thousand rows of usual size, which is what readers like, and a bound of the
/// memory of each job.
const GROUP_BYTES: usize = 32 << 20;
/// Bytes that a value is counted for besides its text: its levels and its end.
const VALUE_BYTES: usize = 12;
/// Bytes of the file that are sent on at once.
const PART_BYTES: usize = 1 << 20;
/// The level of the backups.
const ZSTD_LEVEL: i32 = 3;

/// What the file is to hold.
pub(super) struct Plan {
    /// The table, for errors.
    pub(super) table: String,
    pub(super) columns: Vec<(String, Kind)>,
    /// Pairs that stand in the file's own metadata.
    pub(super) notes: Vec<(String, String)>,
}

/// A column whose type cannot hold one of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooNarrow {
    pub(super) column: usize,
    /// The first such row, from 1.
    pub(super) row: u64,
}

/// Reads all rows and writes the file. Returns the columns that need a wider type; where there are any, the file is none.
pub(super) fn encode(
    plan: &Plan,
    mut rows: mpsc::Receiver<Result<Bytes>>,
    send: mpsc::Sender<Bytes>,
) -> Result<Vec<TooNarrow>> {
    let mut file = File::new(plan, send)?;
    let mut begun = BytesMut::new();
    while let Some(part) = rows.blocking_recv() {
        let mut rest = part?;
        while let Some(end) = memchr::memchr(b'\n', &rest) {
            let line = rest.split_to(end);
            rest.advance(1);
            if begun.is_empty() {
                file.row(&line)?;
            } else {
                begun.extend_from_slice(&line);
                file.row(&begun.split())?;
            }
        }
        begun.extend_from_slice(&rest);
    }
    if !begun.is_empty() {
        return Err(Error::damage(format!("{}: the last row has no end", plan.table)));
    }
    file.finish()
}

/// The file that is being written.
struct File<'a> {
    plan: &'a Plan,
    writer: SerializedFileWriter<Sink>,
    columns: Vec<Column>,
    held: usize,
    rows: u64,
    narrow: Vec<TooNarrow>,
}

impl<'a> File<'a> {
    fn new(plan: &'a Plan, send: mpsc::Sender<Bytes>) -> Result<Self> {
        let sink = Sink { buffer: Vec::new(), send };
        let writer = writer(plan, sink).map_err(|error| failed(plan, &error))?;
        let columns = plan.columns.iter().map(|(_, kind)| Column::new(kind)).collect();
        Ok(Self { plan, writer, columns, held: 0, rows: 0, narrow: Vec::new() })
    }

    fn row(&mut self, line: &[u8]) -> Result<()> {
        self.rows += 1;
        let values = copy_text::values(line, self.columns.len());
        if values.len() != self.columns.len() {
            let (table, has, wants) = (&self.plan.table, values.len(), self.columns.len());
            return Err(Error::damage(format!("{table}: a row of {has} values in {wants} columns")));
        }
        let is_file = self.narrow.is_empty();
        for (at, (column, value)) in self.columns.iter_mut().zip(&values).enumerate() {
            if !column.push(value.as_deref()) && !self.narrow.iter().any(|narrow| narrow.column == at) {
                self.narrow.push(TooNarrow { column: at, row: self.rows });
            }
        }
        self.held += line.len() + values.len() * VALUE_BYTES;
        if !self.narrow.is_empty() && (is_file || self.held >= GROUP_BYTES) {
            self.columns = self.plan.columns.iter().map(|(_, kind)| Column::new(kind)).collect();
            self.held = 0;
        }
        if self.held >= GROUP_BYTES {
            self.group()?;
        }
        Ok(())
    }

    /// Writes the row group.
    fn group(&mut self) -> Result<()> {
        self.held = 0;
        let mut write = || {
            let mut group = self.writer.next_row_group()?;
            let mut columns = self.columns.iter_mut();
            while let (Some(column), Some(mut writer)) = (columns.next(), group.next_column()?) {
                column.write(&mut writer)?;
                writer.close()?;
            }
            group.close().map(drop)
        };
        write().map_err(|error| failed(self.plan, &error))
    }

    fn finish(mut self) -> Result<Vec<TooNarrow>> {
        if !self.narrow.is_empty() {
            return Ok(self.narrow);
        }
        if self.held > 0 {
            self.group()?;
        }
        let finished = self.writer.into_inner().and_then(|mut sink| Ok(sink.send()?));
        finished.map_err(|error| failed(self.plan, &error))?;
        Ok(Vec::new())
    }
}

fn writer(plan: &Plan, sink: Sink) -> std::result::Result<SerializedFileWriter<Sink>, ParquetError> {
    let fields = plan.columns.iter().map(|(name, kind)| kind.field(name));
    let fields = fields.collect::<std::result::Result<Vec<_>, ParquetError>>()?;
    let schema = Type::group_type_builder("row").with_fields(fields);
    let notes = plan.notes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_created_by(format!("pgstow version {}", env!("CARGO_PKG_VERSION")))
        .set_key_value_metadata(Some(notes.collect()))
        .build();
    SerializedFileWriter::new(sink, Arc::new(schema.build()?), Arc::new(properties))
}

fn failed(plan: &Plan, error: &ParquetError) -> Error {
    Error::failed(format!("{}: write Parquet: {error}", plan.table))
}

/// Sends on what is written.
struct Sink {
    buffer: Vec<u8>,
    send: mpsc::Sender<Bytes>,
}

impl Sink {
    fn send(&mut self) -> io::Result<()> {
        let part = Bytes::from(std::mem::take(&mut self.buffer));
        self.send.blocking_send(part).map_err(|_closed| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PART_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
