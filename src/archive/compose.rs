//! Composing custom-format archives: the head with its table of contents, and the framing of data blocks.
//!
//! Format facts (PostgreSQL `src/bin/pg_dump/pg_backup_custom.c` and `pg_backup_archiver.c`): an integer is a sign
//! byte and `intSize` little-endian bytes; a data block is byte 1 (rows) or 3 (large objects), the dump id, then chunks
//! (length, bytes) and length 0; a large-object block repeats (oid, chunks, 0) and ends with oid 0. Blocks stand in
//! the order of the table of contents, else `pg_restore` cannot read from a pipe. Offsets are left "not set", as
//! pg_dump leaves them when it writes to a pipe.

use std::collections::HashMap;
use std::io::Cursor;

use libpgdump::format::ArchiveMetadata;
use libpgdump::{ArchiveData, Entry};

use crate::archive::head;
use crate::error::{Error, Result};

/// The text behind the rows of a table's data block, as pg_dump writes it: without it `pg_restore -f - | psql` restores
/// no row.
pub(crate) const END_OF_ROWS: &[u8] = b"\\.\n\n\n";

const BLOCK_DATA: u8 = 1;
const BLOCK_BLOBS: u8 = 3;

/// The head of an archive: header and table of contents with these entries, no data.
pub(crate) fn head(like: &ArchiveMetadata, entries: Vec<Entry>) -> Result<Vec<u8>> {
    let failed = |error| Error::failed(format!("write an archive's table of contents: {error}"));
    let archive = ArchiveData {
        header: like.header.clone(),
        timestamp: like.timestamp.clone(),
        dbname: like.dbname.clone(),
        server_version: like.server_version.clone(),
        dump_version: like.dump_version.clone(),
        entries,
        data: HashMap::new(),
        blobs: HashMap::new(),
    };
    let mut out = Cursor::new(Vec::new());
    libpgdump::format::custom::write_archive(&mut out, &archive).map_err(failed)?;
    head::encoded(out.into_inner(), &archive.entries).map_err(failed)
}

/// Writes the small pieces between the rows of data blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Framing {
    int_size: u8,
}

impl Framing {
    /// Framing for archives with the header of `like`.
    #[must_use]
    pub(crate) const fn new(like: &ArchiveMetadata) -> Self {
        Self { int_size: like.header.int_size }
    }

    fn int(self, out: &mut Vec<u8>, value: i64) {
        out.push(u8::from(value < 0));
        let bytes = value.unsigned_abs().to_le_bytes();
        out.extend(bytes.iter().copied().chain(std::iter::repeat(0)).take(usize::from(self.int_size)));
    }

    /// Begin of a table's block.
    pub(crate) fn begin_data(self, out: &mut Vec<u8>, dump_id: i32) {
        out.push(BLOCK_DATA);
        self.int(out, dump_id.into());
    }

    /// Begin of a block of large objects.
    pub(crate) fn begin_blobs(self, out: &mut Vec<u8>, dump_id: i32) {
        out.push(BLOCK_BLOBS);
        self.int(out, dump_id.into());
    }

    /// Begin of one large object.
    pub(crate) fn blob(self, out: &mut Vec<u8>, oid: u32) {
        self.int(out, oid.cast_signed().into());
    }

    /// Length of the chunk that follows. A chunk may not be empty: length 0 ends the sequence.
    pub(crate) fn chunk(self, out: &mut Vec<u8>, bytes: usize) -> Result<()> {
        let length =
            i32::try_from(bytes).map_err(|error| Error::failed(format!("a chunk of {bytes} bytes: {error}")))?;
        self.int(out, length.into());
        Ok(())
    }

    /// The end marker of rows as a last chunk, and the end of the block.
    pub(crate) fn end_rows(self, out: &mut Vec<u8>) -> Result<()> {
        self.chunk(out, END_OF_ROWS.len())?;
        out.extend_from_slice(END_OF_ROWS);
        self.end(out);
        Ok(())
    }

    /// End of a table's block, of one large object, or of a block of large objects.
    pub(crate) fn end(self, out: &mut Vec<u8>) {
        self.int(out, 0);
    }
}
