//! The rows of a table out of its stored objects, one line of COPY text after the other: of the table itself, or of all
//! partitions of a partitioned one. Reads as far as it is asked; what was read to its end was compared with the manifest.
//!
//! Memory: some parts of a [`Flow`], and the line that is being put together.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};

use crate::archive::copy_text::{self, Value};
use crate::error::{Error, Result};
use crate::format::manifest::Table;
use crate::objects::flow::{Before, Flow};
use crate::objects::stored_run::StoredRun;
use crate::sql::names::TableName;
use crate::sql::statements;

/// The lines of one or more objects.
pub(crate) struct Lines {
    source: StoredRun,
    /// Tables that are not opened yet.
    next: VecDeque<(TableName, Table)>,
    open: Option<Open>,
}

/// An object that is being read.
struct Open {
    table: TableName,
    columns: Vec<String>,
    flow: Flow,
    part: Bytes,
}

/// A row: its values under the names of its columns.
#[derive(Debug)]
pub(crate) struct Line {
    /// The columns of the object that it comes from, in their order.
    pub(crate) columns: Vec<String>,
    pub(crate) values: Vec<Value>,
}

impl Lines {
    /// The rows of these tables, in their order.
    pub(crate) fn new(source: &StoredRun, tables: Vec<(TableName, Table)>) -> Self {
        Self { source: source.clone(), next: tables.into(), open: None }
    }

    /// Opens the next table and returns what stands before its rows; `None` after the last.
    ///
    /// # Errors
    /// Damage, and what the store fails with.
    pub(crate) async fn open(&mut self) -> Result<Option<Before>> {
        let Some((table, stored)) = self.next.pop_front() else { return Ok(None) };
        let (head, flow) = self.source.file(&stored.file);
        let Ok(head) = head.await else {
            flow.finish().await?;
            return Err(Error::damage(format!("{}: has no COPY statement", stored.file.key)));
        };
        let columns = statements::copy_columns(&head.copy).map(|list| {
            let inner = list.strip_prefix('(').and_then(|list| list.strip_suffix(')'));
            statements::names(inner.unwrap_or_default())
        });
        let columns = columns.ok_or_else(|| {
            Error::damage(format!("{}: {:?} is not a COPY statement of pg_dump", stored.file.key, head.copy))
        })?;
        self.open = Some(Open { table, columns, flow, part: Bytes::new() });
        Ok(Some(head))
    }

    /// The columns of the table that is open.
    pub(crate) fn columns(&self) -> &[String] {
        self.open.as_ref().map(|open| open.columns.as_slice()).unwrap_or_default()
    }

    /// The next row; `None` after the last of the last table.
    ///
    /// # Errors
    /// As [`Lines::open`].
    pub(crate) async fn next(&mut self) -> Result<Option<Line>> {
        loop {
            if self.open.is_none() && self.open().await?.is_none() {
                return Ok(None);
            }
            let Some(open) = &mut self.open else { return Ok(None) };
            if let Some(line) = open.line().await? {
                let values = copy_text::values(&line, open.columns.len());
                if values.len() != open.columns.len() {
                    let (has, wants) = (values.len(), open.columns.len());
                    return Err(Error::damage(format!("{}: a row of {has} values in {wants} columns", open.table)));
                }
                return Ok(Some(Line { columns: open.columns.clone(), values }));
            }
            if let Some(done) = self.open.take() {
                done.flow.finish().await?;
            }
        }
    }
}

impl Open {
    /// The next line without its newline; `None` where the rows end.
    async fn line(&mut self) -> Result<Option<Bytes>> {
        let mut begun = BytesMut::new();
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.part) {
                let line = self.part.split_to(end);
                self.part.advance(1);
                if begun.is_empty() {
                    return Ok(Some(line));
                }
                begun.extend_from_slice(&line);
                return Ok(Some(begun.freeze()));
            }
            begun.extend_from_slice(&self.part);
            match self.flow.rows.recv().await {
                Some(part) => self.part = part?,
                None if begun.is_empty() => return Ok(None),
                None => return Err(Error::damage(format!("{}: the last row has no end", self.table))),
            }
        }
    }
}
