//! Reads an archive's head and table of contents without trusting the numbers in it.
//!
//! The parser of `libpgdump` makes room for as many entries as the head promises and shifts by the size of integers it
//! names: four changed bytes of a stored object would end the program. The head is read here first, its integers must
//! have pg_dump's sizes, and the parser gets the entries in batches of a few, each behind a head that promises no more.
//! Memory grows with what was read, not with what was promised.

use std::io::{Cursor, Read};

use libpgdump::Error;
use libpgdump::format::ArchiveMetadata;
use libpgdump::format::custom::read_metadata;

/// Entries of one batch: some hundred kilobytes of room.
const BATCH: u32 = 512;
/// Longest name of a database or version in the head; names have 63 bytes, versions some more.
const LONGEST_WORD: u32 = 1 << 16;
/// `sizeof(int)` on every platform of PostgreSQL; `pg_restore` refuses others as well.
const INT_BYTES: u8 = 4;

/// The metadata of an archive; `input` stands at the first data block afterwards.
///
/// # Errors
/// When the input fails or ends, or breaks the format's rules.
pub(crate) fn read(input: &mut impl Read) -> libpgdump::Result<ArchiveMetadata> {
    let mut head = Head { input, bytes: Vec::new() };
    let mut left = head.read()?;
    let bytes = head.bytes;
    let mut whole: Option<ArchiveMetadata> = None;
    loop {
        let batch = left.min(BATCH);
        let promised = [&bytes[..], &[0], &batch.to_le_bytes()].concat();
        let part = read_metadata(&mut Cursor::new(promised).chain(&mut *input))?;
        match &mut whole {
            None => whole = Some(part),
            Some(whole) => whole.entries.extend(part.entries),
        }
        left -= batch;
        if left == 0 {
            return whole.ok_or_else(|| Error::DataIntegrity("no head".to_owned()));
        }
    }
}

/// The bytes of the head up to the number of entries.
struct Head<'a, R> {
    input: &'a mut R,
    bytes: Vec<u8>,
}

impl<R: Read> Head<'_, R> {
    /// Reads to the number of entries and returns it.
    fn read(&mut self) -> libpgdump::Result<u32> {
        let fixed = self.take(5 + 3 + 3)?;
        let [magic @ .., major, minor, _, int_bytes, offset_bytes, _] = fixed.as_slice() else {
            return Err(Error::DataIntegrity("no head".to_owned()));
        };
        if magic != b"PGDMP" {
            return Err(Error::InvalidHeader(format!("begins with {:?}, not PGDMP", String::from_utf8_lossy(magic))));
        }
        if *int_bytes != INT_BYTES || !(1..=8).contains(offset_bytes) {
            return Err(Error::InvalidHeader(format!("integers of {int_bytes} bytes, offsets of {offset_bytes}")));
        }
        // Archives before 1.15 have a level of compression there, later ones the number of a method.
        if (*major, *minor) >= (1, 15) {
            self.take(1)?;
        } else {
            self.int()?;
        }
        // Seconds, minutes, hours, day, month, year, daylight saving.
        for _ in 0..7 {
            self.int()?;
        }
        for _ in ["database", "version of the server", "version of pg_dump"] {
            match self.int()? {
                Some(length) if length > LONGEST_WORD => {
                    return Err(Error::InvalidHeader(format!("a word of {length} bytes")));
                }
                Some(length) => self.take(length.into()).map(drop)?,
                None => {}
            }
        }
        let start = self.bytes.len();
        let count = self.int()?.ok_or_else(|| Error::DataIntegrity("a negative number of entries".to_owned()))?;
        self.bytes.truncate(start);
        Ok(count)
    }

    fn take(&mut self, length: u64) -> libpgdump::Result<Vec<u8>> {
        let mut taken = Vec::new();
        self.input.by_ref().take(length).read_to_end(&mut taken)?;
        if (taken.len() as u64) < length {
            return Err(Error::Io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        self.bytes.extend_from_slice(&taken);
        Ok(taken)
    }

    /// A sign byte and four bytes, the least significant first; `None` below zero.
    fn int(&mut self) -> libpgdump::Result<Option<u32>> {
        let taken = self.take(5)?;
        match taken.as_slice() {
            [0, a, b, c, d] if *d < 0x80 => Ok(Some(u32::from_le_bytes([*a, *b, *c, *d]))),
            _ => Ok(None),
        }
    }
}
