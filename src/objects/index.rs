//! The index of a large table: its rows cut into pieces that can be fetched and decompressed on their own.

use sha2::{Digest as _, Sha256};

use crate::format::manifest::Piece;
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
