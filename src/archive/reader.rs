//! Reads a custom-format archive from front to back, as `pg_restore` reads a pipe: head, table of contents, data
//! blocks.
//!
//! Owns the walk over the blocks and its rules: every entry with data has exactly one block, in the order of the table
//! of contents, and after the last one the archive ends. Offsets are not needed; where an archive has them they must
//! be right. Memory: the table of contents and one buffer of 256 KiB; a block is never held.
//!
//! Format (`pg_backup_custom.c`): a block is a type byte (1 rows, 3 large objects), the entry's dump id, then chunks of
//! a length and so many bytes until a length of 0; large objects are `oid, chunks, 0` until an oid of 0. Integers are a
//! sign byte and four little-endian bytes.

use std::io::{self, BufReader, Read};

use libpgdump::format::ArchiveMetadata;
use libpgdump::{CompressionAlgorithm, Entry, ObjectType, OffsetState};
use xxhash_rust::xxh3::Xxh3;

use crate::archive::head;
use crate::archive::rows::Rows;
use crate::error::{Context as _, Error, Result};
use crate::seal::digest::Fingerprint;

/// Bytes moved at once; large enough that the cost of a call does not matter.
const BUFFER: usize = 256 * 1024;

/// Receives the content of an archive in its order. An error ends the reading.
pub(crate) trait Visitor {
    /// The table of contents was read; blocks follow.
    fn contents(&mut self, _metadata: &ArchiveMetadata) -> Result<()> {
        Ok(())
    }
    /// The block of this entry begins.
    fn begin(&mut self, entry: &Entry) -> Result<()>;
    /// Inside a block of large objects: the next one begins.
    fn large_object(&mut self, oid: u32) -> Result<()>;
    /// Some bytes of the rows or of the current large object.
    fn bytes(&mut self, bytes: &[u8]) -> Result<()>;
    /// The current large object ends.
    fn large_object_end(&mut self) -> Result<()>;
    /// The block ends.
    fn end(&mut self, entry: &Entry) -> Result<()>;
}

/// Reads an archive to its last byte.
///
/// # Errors
/// Kind `Damage` where the archive breaks the format's rules; errors of `input` and of the visitor unchanged.
pub(crate) fn read<R: Read, V: Visitor>(input: R, visitor: &mut V) -> Result<ArchiveMetadata> {
    let mut input = Counted { inner: BufReader::with_capacity(BUFFER, input), at: 0 };
    let metadata = head::read(&mut input).map_err(toc_error)?;
    check_head(&metadata)?;
    visitor.contents(&metadata)?;
    let mut expected = metadata.entries.iter().filter(|entry| entry.had_dumper);
    let mut buffer = vec![0; BUFFER];
    let int_size = metadata.header.int_size;
    loop {
        let start = input.at;
        let Some(kind) = input.byte()? else { break };
        let id = input.int(int_size).context("read a block's dump id")?;
        let Some(entry) = expected.next() else {
            return Err(Error::damage(format!("byte {start}: a block of entry {id} after the last expected one")));
        };
        if entry.dump_id != id {
            return Err(Error::damage(format!(
                "byte {start}: block of entry {id} where that of {} ({}) must stand",
                entry.dump_id,
                name(entry)
            )));
        }
        if entry.data_state == OffsetState::Set && entry.offset != start {
            return Err(Error::damage(format!("{}: block at byte {start}, offset says {}", name(entry), entry.offset)));
        }
        visitor.begin(entry)?;
        let block = Block { input: &mut input, buffer: &mut buffer, int_size };
        block.read(kind, entry, visitor).with_context(|| name(entry))?;
        visitor.end(entry).with_context(|| name(entry))?;
    }
    match expected.next() {
        Some(missing) => Err(Error::damage(format!("ends without the block of {}", name(missing)))),
        None => Ok(metadata),
    }
}

/// `TABLE DATA "schema"."table"`-like words for a message.
fn name(entry: &Entry) -> String {
    let namespace = entry.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    let tag = entry.tag.as_deref().unwrap_or_default();
    match namespace {
        Some(namespace) => format!("{} {namespace:?}.{tag:?}", entry.desc.as_str()),
        None => format!("{} {tag:?}", entry.desc.as_str()),
    }
}

fn toc_error(error: libpgdump::Error) -> Error {
    match error {
        libpgdump::Error::Io(error) => match error.downcast::<Error>() {
            Ok(own) => own,
            Err(other) => Error::damage(format!("table of contents: {other}")),
        },
        other => Error::damage(format!("table of contents: {other}")),
    }
}

fn check_head(metadata: &ArchiveMetadata) -> Result<()> {
    if metadata.header.compression != CompressionAlgorithm::None {
        return Err(Error::damage("the archive is compressed inside"));
    }
    let mut ids: Vec<i32> = metadata.entries.iter().map(|entry| entry.dump_id).collect();
    ids.sort_unstable();
    if let Some([id, _]) = ids.array_windows().find(|[a, b]| a == b) {
        return Err(Error::damage(format!("two entries with dump id {id}")));
    }
    Ok(())
}

struct Block<'a, R> {
    input: &'a mut Counted<R>,
    buffer: &'a mut [u8],
    int_size: u8,
}

impl<R: Read> Block<'_, R> {
    fn read<V: Visitor>(mut self, kind: u8, entry: &Entry, visitor: &mut V) -> Result<()> {
        let large_objects = matches!(entry.desc, ObjectType::Blobs);
        match (kind, large_objects) {
            (1, false) => self.chunks(visitor),
            (3, true) => loop {
                match self.input.int(self.int_size)? {
                    0 => return Ok(()),
                    // Oids above 2^31 are written as negative numbers.
                    oid => visitor.large_object(oid.cast_unsigned())?,
                }
                self.chunks(visitor)?;
                visitor.large_object_end()?;
            },
            _ => Err(Error::damage(format!("block of type {kind}"))),
        }
    }

    fn chunks<V: Visitor>(&mut self, visitor: &mut V) -> Result<()> {
        loop {
            let mut left = match self.input.int(self.int_size)? {
                0 => return Ok(()),
                length => usize::try_from(length)
                    .map_err(|_negative| Error::damage(format!("byte {}: chunk length {length}", self.input.at)))?,
            };
            while left > 0 {
                let size = left.min(self.buffer.len());
                let (part, _) = self.buffer.split_at_mut(size);
                self.input.exactly(part)?;
                visitor.bytes(part)?;
                left -= size;
            }
        }
    }
}

/// Counts bytes on their way; the end of the input inside a value is damage.
struct Counted<R> {
    inner: R,
    at: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.inner.read(buffer)?;
        self.at += size as u64;
        Ok(size)
    }
}

impl<R: Read> Counted<R> {
    fn exactly(&mut self, buffer: &mut [u8]) -> Result<()> {
        let at = self.at;
        self.read_exact(buffer).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof && error.get_ref().is_none_or(|inner| !inner.is::<Error>())
            {
                Error::damage(format!("ends too early, in what begins at byte {at}"))
            } else {
                error.into()
            }
        })
    }

    /// The next byte, `None` at the end.
    fn byte(&mut self) -> Result<Option<u8>> {
        let mut one = [0];
        loop {
            match self.read(&mut one) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(one.first().copied()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn int(&mut self, size: u8) -> Result<i32> {
        let mut bytes = [0; 5];
        if size != 4 {
            return Err(Error::damage(format!("integers of {size} bytes")));
        }
        self.exactly(&mut bytes)?;
        let [sign, a, b, c, d] = bytes;
        let value = i32::from_le_bytes([a, b, c, d]);
        match sign {
            0 => Ok(value),
            1 => Ok(value.wrapping_neg()),
            other => Err(Error::damage(format!("byte {}: sign byte {other}", self.at - 5))),
        }
    }
}

/// The contents of an archive's blocks.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// One for each block of rows, in order.
    pub(crate) tables: Vec<TableRows>,
    /// Large objects of all blocks.
    pub(crate) large_objects: LargeObjects,
    rows: Rows,
    tail: Vec<u8>,
}

/// The rows of one `TABLE DATA` entry.
#[derive(Debug, Clone)]
pub(crate) struct TableRows {
    /// Schema of the table.
    pub(crate) schema: String,
    /// Name of the table.
    pub(crate) table: String,
    /// The entry's `COPY` statement.
    pub(crate) copy: Option<String>,
    /// The rows.
    pub(crate) rows: Fingerprint,
}

/// Large objects seen; the sum is the manifest's (`LargeObjects::digest`).
#[derive(Clone, Default)]
pub(crate) struct LargeObjects {
    /// The number.
    pub(crate) count: u64,
    /// Bytes of their contents.
    pub(crate) bytes: u64,
    sum: u128,
    open: Option<Box<Xxh3>>,
}

impl std::fmt::Debug for LargeObjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LargeObjects")
            .field("count", &self.count)
            .field("digest", &self.digest())
            .finish_non_exhaustive()
    }
}

impl LargeObjects {
    /// `xxh3-128-sum:<32 hex>`.
    #[must_use]
    pub(crate) fn digest(&self) -> String {
        format!("xxh3-128-sum:{:032x}", self.sum)
    }
}

impl Visitor for Tally {
    fn begin(&mut self, _entry: &Entry) -> Result<()> {
        self.rows = Rows::default();
        self.tail.clear();
        Ok(())
    }

    fn large_object(&mut self, oid: u32) -> Result<()> {
        let mut open = Box::new(Xxh3::new());
        open.update(&oid.to_le_bytes());
        self.large_objects.open = Some(open);
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(open) = &mut self.large_objects.open {
            open.update(bytes);
            self.large_objects.bytes += bytes.len() as u64;
            return Ok(());
        }
        let (_, after) = bytes.split_at(self.rows.feed(bytes));
        if self.tail.len() + after.len() > 2 {
            return Err(Error::damage("more than two empty lines after the end of the rows"));
        }
        self.tail.extend_from_slice(after);
        Ok(())
    }

    fn large_object_end(&mut self) -> Result<()> {
        if let Some(open) = self.large_objects.open.take() {
            self.large_objects.sum = self.large_objects.sum.wrapping_add(open.digest128());
            self.large_objects.count += 1;
        }
        Ok(())
    }

    fn end(&mut self, entry: &Entry) -> Result<()> {
        if matches!(entry.desc, ObjectType::Blobs) {
            return Ok(());
        }
        if !self.rows.ended() || self.tail != b"\n\n" {
            return Err(Error::damage(r"the rows do not end with \. and three newlines"));
        }
        self.tables.push(TableRows {
            schema: entry.namespace.clone().unwrap_or_default(),
            table: entry.tag.clone().unwrap_or_default(),
            copy: entry.copy_stmt.clone(),
            rows: *self.rows.fingerprint(),
        });
        Ok(())
    }
}
