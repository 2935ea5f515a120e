//! The index of a large table: its rows cut into pieces that can be fetched and decompressed on their own.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::format::manifest::{FORMAT, Index, Piece, Table};
use crate::objects::key_columns;
use crate::pipeline::extremes::{Bounds, Order};
use crate::seal::hash::hex;

/// A piece ends at the first frame end at or after this many stored bytes (a promise of the format: about 16 MiB).
const PIECE_BYTES: u64 = 16 << 20;

/// The pieces of a table whose frames are being written.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    done: Vec<Piece>,
    sha256: Sha256,
    offset: u64,
    bytes: u64,
    rows: u64,
    orders: Vec<Order>,
    extremes: Vec<Bounds>,
}

impl Pieces {
    /// The pieces of rows that begin at this offset of the compressed text; fields of these orders are watched.
    #[must_use]
    pub(crate) fn starting_at(offset: u64, orders: Vec<Order>) -> Self {
        Self { offset, extremes: vec![Bounds::None; orders.len()], orders, ..Self::default() }
    }

    /// Adds a frame of so many rows, in pieces of its own.
    pub(crate) fn add(&mut self, frame: &[Bytes], rows: u64, extremes: &[Bounds]) {
        for ((bounds, order), more) in self.extremes.iter_mut().zip(&self.orders).zip(extremes) {
            bounds.merge(*order, more);
        }
        for part in frame {
            self.sha256.update(part);
            self.bytes += part.len() as u64;
        }
        self.rows += rows;
        if self.bytes >= PIECE_BYTES {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let sha256 = hex(&std::mem::take(&mut self.sha256).finalize());
        let ranges = self.extremes.iter_mut().map(|bounds| range(std::mem::take(bounds))).collect();
        self.done.push(Piece { offset: self.offset, bytes: self.bytes, rows: self.rows, sha256, ranges });
        self.offset += self.bytes;
        (self.bytes, self.rows) = (0, 0);
    }

    /// All pieces, the last one ended.
    #[must_use]
    pub(crate) fn finish(mut self) -> Vec<Piece> {
        if self.bytes > 0 {
            self.cut();
        }
        self.done
    }
}

/// Smallest and largest value as the index writes them.
fn range(bounds: Bounds) -> Option<[String; 2]> {
    let Bounds::Within(least, most) = bounds else { return None };
    Some([String::from_utf8(least).ok()?, String::from_utf8(most).ok()?])
}

/// Values that a column must have: one of these spans, both ends included, as PostgreSQL writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) column: String,
    pub(crate) spans: Vec<(Option<String>, Option<String>)>,
}

/// The numbers of the pieces that can hold a row that meets all of these. What the index does not know, or a value that
/// has no certain order, excludes nothing.
#[must_use]
pub(crate) fn holding(index: &Index, wanted: &[Wanted]) -> Vec<usize> {
    let can_hold = |piece: &Piece| {
        wanted.iter().all(|wanted| {
            let at = index.columns.iter().position(|column| column.name == wanted.column);
            let Some((column, at)) = at.and_then(|at| Some((index.columns.get(at)?, at))) else { return true };
            let (Some(order), Some(Some([least, most]))) = (key_columns::order(&column.kind), piece.ranges.get(at))
            else {
                return true;
            };
            let (least, most) = (least.as_bytes(), most.as_bytes());
            if !order.takes(least) || !order.takes(most) {
                return true;
            }
            wanted.spans.iter().any(|(from, to)| {
                let is_odd = |end: &Option<String>| end.as_ref().is_some_and(|end| !order.takes(end.as_bytes()));
                let above = from.as_ref().is_some_and(|from| order.is_before(most, from.as_bytes()));
                let below = to.as_ref().is_some_and(|to| order.is_before(to.as_bytes(), least));
                is_odd(from) || is_odd(to) || !(above || below)
            })
        })
    };
    index.pieces.iter().enumerate().filter(|(_, piece)| can_hold(piece)).map(|(at, _)| at).collect()
}

/// Checks that an index belongs to the table and that its pieces are all of its rows, one after the other.
pub(crate) fn check(index: &Index, schema: &str, table: &Table) -> Result<(), String> {
    if index.format.split('.').next() != Some(FORMAT) {
        return Err(format!("format {:?}", index.format));
    }
    if index.schema != schema || index.table != table.name {
        return Err(format!("belongs to {:?}.{:?}", index.schema, index.table));
    }
    let mut next = index.pieces.first().map_or(0, |piece| piece.offset);
    for (at, piece) in index.pieces.iter().enumerate() {
        if piece.offset != next {
            return Err(format!("piece {at} begins at {}, the one before ends at {next}", piece.offset));
        }
        next = piece.offset.checked_add(piece.bytes).ok_or_else(|| format!("piece {at} has no end"))?;
    }
    if next > table.file.bytes {
        return Err(format!("its pieces end at {next}, {} has {} bytes", table.file.key, table.file.bytes));
    }
    let rows = index.pieces.iter().try_fold(0_u64, |sum, piece| sum.checked_add(piece.rows));
    if rows != Some(table.rows) {
        return Err(format!("its pieces do not add up to {} rows", table.rows));
    }
    Ok(())
}
