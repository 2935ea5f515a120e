//! The rows of tables out of their stored objects: which parts of them are read, and their rows as one line of COPY text
//! after the other. A part is a whole object, or a piece of a large one that can hold what is looked for. Reads as far as
//! it is asked; what was read to its end was compared with the manifest.
//!
//! Memory: some parts of a [`Flow`], and the line that is being put together.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};

use crate::archive::copy_text::{self, Value};
use crate::error::{Error, Result};
use crate::format::manifest::{Index, Object, Table};
use crate::objects::flow::{Before, Flow, Head};
use crate::objects::index::{self, Wanted};
use crate::objects::stored_run::StoredRun;
use crate::sql::names::TableName;
use crate::sql::statements;

/// The rows of a table, or some of them.
pub(crate) struct Part {
    pub(crate) name: TableName,
    pub(crate) table: Table,
    piece: Option<(Arc<Index>, Head, usize)>,
}

/// The parts that are read, and what that costs.
#[derive(Default)]
pub(crate) struct Chosen {
    pub(crate) parts: VecDeque<Part>,
    /// Bytes as they are stored.
    pub(crate) bytes: u64,
    /// Pieces of large tables that are read.
    pub(crate) pieces: usize,
    /// Pieces that these tables have.
    pub(crate) of: usize,
}

impl Chosen {
    /// Chooses the parts of these tables that can hold rows which meet all of these.
    ///
    /// # Errors
    /// Damage of an index, and what the store fails with.
    pub(crate) async fn new(run: &StoredRun, tables: Vec<(TableName, Table)>, wanted: &[Wanted]) -> Result<Self> {
        let mut chosen = Self::default();
        for (name, table) in tables {
            let index = match &table.index {
                Some(object) if !wanted.is_empty() => Some(run.index(&name.schema, &table, object).await?),
                _ => None,
            };
            let knows = |index: &Index| index.columns.iter().any(|one| wanted.iter().any(|w| w.column == one.name));
            let Some((index, head)) = index.filter(|(index, _)| knows(index)) else {
                chosen.bytes += table.file.bytes;
                chosen.parts.push_back(Part { name, table, piece: None });
                continue;
            };
            let mut numbers = index::holding(&index, wanted);
            if numbers.is_empty() {
                // One is read all the same: by it the columns are known.
                numbers.push(0);
            }
            let index = Arc::new(index);
            chosen.of += index.pieces.len();
            for (number, piece) in numbers.into_iter().filter_map(|at| Some((at, index.pieces.get(at)?))) {
                chosen.bytes += piece.bytes;
                chosen.pieces += 1;
                let piece = Some((Arc::clone(&index), head.clone(), number));
                chosen.parts.push_back(Part { name: name.clone(), table: table.clone(), piece });
            }
        }
        Ok(chosen)
    }

    /// The cost in words, where it is not that of whole objects.
    pub(crate) fn plan(&self) -> Option<String> {
        (self.of > 0).then(|| format!("{} of {} pieces can hold such rows", self.pieces, self.of))
    }
}

impl Part {
    /// True for all rows of the table.
    pub(crate) const fn is_whole(&self) -> bool {
        self.piece.is_none()
    }

    /// Opens the rows, with the names of their columns.
    ///
    /// # Errors
    /// Damage, and what the store fails with.
    pub(crate) async fn open(&self, run: &StoredRun) -> Result<(Vec<String>, Flow)> {
        let key = &self.table.file.key;
        let named = |copy: &str| {
            columns(copy).ok_or_else(|| Error::damage(format!("{key}: {copy:?} is not a COPY statement of pg_dump")))
        };
        if let Some((index, head, number)) = &self.piece {
            let piece = index.pieces.get(*number).ok_or_else(|| Error::failed("a piece is missing"))?;
            return Ok((named(&index.copy)?, run.piece(&self.table.file, piece, head, *number)?));
        }
        let (head, flow) = run.file(&self.table.file);
        match head.await {
            Ok(head) => Ok((named(&head.copy)?, flow)),
            Err(_ended) => {
                flow.finish().await?;
                Err(Error::damage(format!("{key}: has no COPY statement")))
            }
        }
    }
}

/// The names of the columns of pg_dump's COPY statement.
pub(crate) fn columns(copy: &str) -> Option<Vec<String>> {
    let list = statements::copy_columns(copy)?;
    let inner = list.strip_prefix('(').and_then(|list| list.strip_suffix(')')).unwrap_or_default();
    Some(statements::names(inner))
}

/// The text before the rows in a table's object; the rest is not fetched.
///
/// # Errors
/// Damage, and what the store fails with.
pub(crate) async fn before(run: &StoredRun, object: &Object) -> Result<Before> {
    let (head, flow) = run.file(object);
    match head.await {
        Ok(before) => Ok(before),
        Err(_ended) => {
            flow.finish().await?;
            Err(Error::damage(format!("{}: has no COPY statement", object.key)))
        }
    }
}

/// The lines of one or more parts.
pub(crate) struct Lines {
    run: StoredRun,
    /// Parts that are not opened yet.
    next: VecDeque<Part>,
    open: Option<Open>,
}

/// A part that is being read.
struct Open {
    table: TableName,
    columns: Arc<[String]>,
    flow: Flow,
    rest: Bytes,
}

/// A row: its values under the names of its columns.
#[derive(Debug)]
pub(crate) struct Line {
    /// The columns of the object that it comes from, in their order.
    pub(crate) columns: Arc<[String]>,
    pub(crate) values: Vec<Value>,
}

impl Lines {
    /// The rows of these parts, in their order.
    pub(crate) fn new(run: &StoredRun, chosen: Chosen) -> Self {
        Self { run: run.clone(), next: chosen.parts, open: None }
    }

    /// Opens the next part and returns the names of its columns; `None` after the last.
    ///
    /// # Errors
    /// Damage, and what the store fails with.
    pub(crate) async fn open(&mut self) -> Result<Option<Vec<String>>> {
        let Some(part) = self.next.pop_front() else { return Ok(None) };
        let (columns, flow) = part.open(&self.run).await?;
        self.open = Some(Open { table: part.name, columns: columns.as_slice().into(), flow, rest: Bytes::new() });
        Ok(Some(columns))
    }

    /// The next row; `None` after the last of the last part.
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
                return Ok(Some(Line { columns: Arc::clone(&open.columns), values }));
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
            if let Some(end) = memchr::memchr(b'\n', &self.rest) {
                let line = self.rest.split_to(end);
                self.rest.advance(1);
                if begun.is_empty() {
                    return Ok(Some(line));
                }
                begun.extend_from_slice(&line);
                return Ok(Some(begun.freeze()));
            }
            begun.extend_from_slice(&self.rest);
            match self.flow.rows.recv().await {
                Some(part) => self.rest = part?,
                None if begun.is_empty() => return Ok(None),
                None => return Err(Error::damage(format!("{}: the last row has no end", self.table))),
            }
        }
    }
}
