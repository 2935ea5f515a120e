//! Reads an archive's head and table of contents without trusting the numbers in it.
//!
//! The parser of `libpgdump` makes room for as many entries as the head promises and shifts by the size of integers it
//! names: four changed bytes of a stored object would end the program. The head is read here first, its integers must
//! have pg_dump's sizes, and the parser gets the entries in batches of a few, each behind a head that promises no more.
//! Memory grows with what was read, not with what was promised.
//!
//! The parser takes UTF-8 alone. So the strings of all entries are put into UTF-8 on their way to the parser, out of the
//! encoding that the first entry, `ENCODING`, names, and back again in a head that is written ([`Letters`]).

use std::collections::BTreeSet;
use std::io::{Cursor, Read};

use libpgdump::format::ArchiveMetadata;
use libpgdump::format::custom::read_metadata;
use libpgdump::{Entry, Error, ObjectType};

use crate::archive::catalogue::{namespace, tag};
use crate::sql::letters::{Letters, has_raw, letters_in, may_have_raw};
use crate::sql::names::TableName;

/// Entries of one batch: some hundred kilobytes of room.
const BATCH: u32 = 512;
/// Longest name of a database or version in the head; names have 63 bytes, versions some more.
const LONGEST_WORD: u32 = 1 << 16;
/// `sizeof(int)` on every platform of PostgreSQL; `pg_restore` refuses others as well.
const INT_BYTES: u8 = 4;

/// The encoding of these entries' texts, where it is not UTF-8.
pub(crate) fn letters(entries: &[Entry]) -> Option<Letters> {
    let first = entries.first().filter(|entry| entry.desc == ObjectType::Encoding)?;
    Letters::of_definition(first.defn.as_deref()?)
}

/// The metadata of an archive; `input` stands at the first data block afterwards.
///
/// # Errors
/// When the input fails or ends, or breaks the format's rules.
pub(crate) fn read(input: &mut impl Read) -> libpgdump::Result<ArchiveMetadata> {
    let decode = |bytes: &[u8]| Ok(Letters::default().decode(bytes).into_bytes());
    let mut head = Head { input, bytes: Vec::new() };
    let (mut left, form) = head.read(&decode)?;
    let bytes = head.bytes;
    let parse = |count: u32, entries: &mut dyn Read| {
        let promised = [&bytes[..], &[0], &count.to_le_bytes()].concat();
        read_metadata(&mut Cursor::new(promised).chain(entries))
    };
    if left == 0 {
        return parse(0, input);
    }
    let first = entry(input, form, &|bytes| Ok(bytes.to_vec()))?;
    let mut whole = parse(1, &mut first.as_slice())?;
    let letters = letters(&whole.entries).unwrap_or_default();
    left -= 1;
    while left > 0 {
        let batch = left.min(BATCH);
        let mut recoded = Vec::new();
        for _ in 0..batch {
            recoded.extend(entry(input, form, &|bytes| Ok(letters.decode(bytes).into_bytes()))?);
        }
        whole.entries.extend(parse(batch, &mut recoded.as_slice())?.entries);
        left -= batch;
    }
    Ok(whole)
}

/// The texts of an entry.
fn texts(entry: &mut Entry) -> impl Iterator<Item = &mut String> {
    let Entry { tag, defn, drop_stmt, copy_stmt, namespace, tablespace, tableam, owner, .. } = entry;
    [tag, defn, drop_stmt, copy_stmt, namespace, tablespace, tableam, owner].into_iter().filter_map(Option::as_mut)
}

/// Kind and name of the entries with bytes that are no text in their encoding.
pub(crate) fn odd(meta: &mut ArchiveMetadata) -> Vec<(ObjectType, TableName)> {
    let is_odd = |entry: &mut Entry| texts(entry).any(|text| has_raw(text));
    let odd = meta.entries.iter_mut().filter_map(|entry| is_odd(entry).then_some(entry));
    odd.map(|entry| (entry.desc.clone(), TableName::new(namespace(entry), tag(entry)))).collect()
}

/// The bytes in these entries that are letters of `encoding` and no ASCII.
pub(crate) fn unknown_letters(meta: &mut ArchiveMetadata, encoding: &str) -> BTreeSet<Vec<u8>> {
    let bare = Letters::new(encoding);
    let texts = meta.entries.iter_mut().flat_map(texts).filter(|text| !text.is_ascii());
    let bytes: Vec<Vec<u8>> = texts.filter_map(|text| bare.encode(text).ok()).collect();
    bytes.iter().flat_map(|bytes| letters_in(encoding, bytes)).map(<[u8]>::to_vec).collect()
}

/// Reads entries again with the letters of their encoding; they are said to be UTF-8 where that can say all of them.
pub(crate) fn with_letters(meta: &mut ArchiveMetadata, letters: &Letters) {
    let bare = Letters::new(letters.encoding());
    for text in meta.entries.iter_mut().flat_map(texts).filter(|text| !text.is_ascii()) {
        if let Ok(bytes) = bare.encode(text) {
            *text = letters.decode(&bytes);
        }
    }
    let is_odd = meta.entries.iter_mut().flat_map(texts).any(|text| has_raw(text));
    if let Some(first) = meta.entries.first_mut().filter(|entry| entry.desc == ObjectType::Encoding) {
        let utf8 = || "SET client_encoding = 'UTF8';\n".to_owned();
        first.defn = Some(if is_odd { letters.definition() } else { utf8() });
    }
}

/// A head in UTF-8, with its table of contents, in the encoding that its entries are for.
///
/// # Errors
/// A letter that this encoding does not have.
pub(crate) fn encoded(head: Vec<u8>, entries: &[Entry]) -> libpgdump::Result<Vec<u8>> {
    let letters = letters(entries);
    if letters.is_none() && !may_have_raw(&head) {
        return Ok(head);
    }
    let letters = letters.unwrap_or_default();
    let encode = |letters: &Letters, bytes: &[u8]| {
        let absent = |c| Error::DataIntegrity(format!("{} has no letter {c:?}", letters.encoding()));
        letters.encode(&String::from_utf8_lossy(bytes)).map_err(absent)
    };
    let mut input = head.as_slice();
    let mut out = Head { input: &mut input, bytes: Vec::new() };
    let (count, form) = out.read(&|bytes| encode(&Letters::default(), bytes))?;
    let mut bytes = out.bytes;
    bytes.push(0);
    bytes.extend(count.to_le_bytes());
    for _ in 0..count {
        bytes.extend(entry(&mut input, form, &|bytes| encode(&letters, bytes))?);
    }
    Ok(bytes)
}

/// The numbers by which an entry's form is known.
#[derive(Debug, Clone, Copy)]
struct Form {
    version: (u8, u8),
    offset_bytes: u8,
}

/// A change of the bytes of a string.
type Change<'c> = dyn Fn(&[u8]) -> libpgdump::Result<Vec<u8>> + 'c;

/// The bytes of one entry (`ReadToc` in `pg_backup_archiver.c`), with its strings changed.
fn entry<R: Read>(input: &mut R, form: Form, change: &Change<'_>) -> libpgdump::Result<Vec<u8>> {
    let Form { version, offset_bytes } = form;
    let mut head = Head { input, bytes: Vec::new() };
    let strings = |head: &mut Head<'_, R>, count: usize| -> libpgdump::Result<()> {
        (0..count).try_for_each(|_| head.string(u32::MAX, change).map(drop))
    };
    // Dump id, has data; catalogue, oid, tag, description.
    head.int()?;
    head.int()?;
    strings(&mut head, 4)?;
    // Section.
    if version >= (1, 11) {
        head.int()?;
    }
    // Definition, drop statement; COPY statement, namespace, tablespace, access method.
    strings(&mut head, 2 + [3, 6, 10, 14].iter().filter(|minor| version >= (1, **minor)).count())?;
    // Kind of relation.
    if version >= (1, 16) {
        head.int()?;
    }
    // Owner, with oids.
    strings(&mut head, 1 + usize::from(version >= (1, 9)))?;
    while version >= (1, 5) && head.string(u32::MAX, change)? > 0 {}
    head.take(1 + u64::from(offset_bytes))?;
    Ok(head.bytes)
}

/// The bytes of the head up to the number of entries.
struct Head<'a, R> {
    input: &'a mut R,
    bytes: Vec<u8>,
}

impl<R: Read> Head<'_, R> {
    /// Reads to the number of entries, with the words changed; returns that number.
    fn read(&mut self, change: &Change<'_>) -> libpgdump::Result<(u32, Form)> {
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
            self.string(LONGEST_WORD, change)?;
        }
        let start = self.bytes.len();
        let count = self.int()?.ok_or_else(|| Error::DataIntegrity("a negative number of entries".to_owned()))?;
        self.bytes.truncate(start);
        Ok((count, Form { version: (*major, *minor), offset_bytes: *offset_bytes }))
    }

    /// Reads a string and keeps it changed; returns the length that was read, 0 for none.
    fn string(&mut self, longest: u32, change: &Change<'_>) -> libpgdump::Result<u32> {
        let start = self.bytes.len();
        let Some(length) = self.int()? else { return Ok(0) };
        if length > longest {
            return Err(Error::InvalidHeader(format!("a word of {length} bytes")));
        }
        let text = self.take(length.into())?;
        self.bytes.truncate(start);
        let text = change(&text)?;
        let changed = u32::try_from(text.len()).ok().filter(|length| *length <= i32::MAX.cast_unsigned());
        let changed = changed.ok_or_else(|| Error::DataIntegrity("a string of 2 GiB".to_owned()))?;
        self.bytes.push(0);
        self.bytes.extend(changed.to_le_bytes());
        self.bytes.extend(text);
        Ok(length)
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
