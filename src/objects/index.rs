//! The index of a large table: its rows cut into pieces that can be fetched and decompressed on their own.

use sha2::{Digest as _, Sha256};

use crate::format::manifest::{FORMAT, Index, Piece, Table};
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
}

impl Pieces {
    /// The pieces of rows that begin at this offset of the compressed text.
    #[must_use]
    pub(crate) fn starting_at(offset: u64) -> Self {
        Self { offset, ..Self::default() }
    }

    /// Adds a frame of so many rows.
    pub(crate) fn add(&mut self, frame: &[u8], rows: u64) {
        self.sha256.update(frame);
        self.bytes += frame.len() as u64;
        self.rows += rows;
        if self.bytes >= PIECE_BYTES {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let sha256 = hex(&std::mem::take(&mut self.sha256).finalize());
        self.done.push(Piece { offset: self.offset, bytes: self.bytes, rows: self.rows, sha256 });
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
