//! An independent, sequential reader of pg_dump's custom format: shares no code with the product or its libraries.
//!
//! It reads from front to back as a pipe gives it, uses no offsets, and accepts nothing it can't explain: every block
//! belongs to an entry that announced data, every such entry has one block, and the file ends with the last block.
//! Facts come from PostgreSQL's `pg_backup_archiver.c` and `pg_backup_custom.c`, archive versions 1.12 to 1.16.

use std::collections::BTreeMap;
use std::io::Read;

/// One entry of the table of contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub dump_id: i64,
    pub has_data: bool,
    pub desc: String,
    pub tag: String,
    pub namespace: String,
    pub owner: String,
    pub section: i64,
    pub defn: String,
    pub copy_stmt: String,
    pub dependencies: Vec<String>,
}

/// What a walk to the last byte found.
#[derive(Debug)]
pub struct Walked {
    /// Archive version, as (1, 15).
    pub version: (u8, u8),
    /// Entries in their order.
    pub entries: Vec<Entry>,
    /// Rows of each `TABLE DATA` block by dump id.
    pub rows: BTreeMap<i64, u64>,
    /// Bytes of each large object by oid.
    pub large_objects: BTreeMap<i64, u64>,
}

impl Walked {
    /// Rows of one table; none where the archive has no data block for it.
    pub fn rows_of(&self, namespace: &str, tag: &str) -> Option<u64> {
        let entry = self.entries.iter().find(|e| e.desc == "TABLE DATA" && e.namespace == namespace && e.tag == tag)?;
        self.rows.get(&entry.dump_id).copied()
    }
}

/// Walks an uncompressed (`-Z0`) archive to its end; the error says what is wrong and at which byte.
pub fn walk(source: impl Read) -> Result<Walked, String> {
    let mut input = Input { source, at: 0, int_size: 4 };
    walk_all(&mut input).map_err(|error| format!("at byte {}: {error}", input.at))
}

fn walk_all<R: Read>(input: &mut Input<R>) -> Result<Walked, String> {
    let (version, offset_size) = header(input)?;
    let count = input.int()?;
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(entry(input, version, offset_size)?);
    }
    let mut walked = Walked { version, entries, rows: BTreeMap::new(), large_objects: BTreeMap::new() };
    let mut seen = Vec::new();
    while let Some(kind) = input.byte_or_end()? {
        let id = input.int()?;
        let entry = walked.entries.iter().find(|e| e.dump_id == id && e.has_data);
        let desc = entry.ok_or_else(|| format!("a block for dump id {id}, which announced no data"))?.desc.clone();
        if seen.contains(&id) {
            return Err(format!("a second block for dump id {id}"));
        }
        seen.push(id);
        match (kind, desc.as_str()) {
            (1, "TABLE DATA") => {
                let mut rows = Rows::default();
                input.chunks(|bytes| rows.take(bytes))?;
                walked.rows.insert(id, rows.finish()?);
            }
            (3, "BLOBS") => large_objects(input, &mut walked.large_objects)?,
            _ => return Err(format!("block type {kind} for an entry {desc}")),
        }
    }
    match walked.entries.iter().find(|e| e.has_data && !seen.contains(&e.dump_id)) {
        Some(missing) => Err(format!("no block for {} {}.{}", missing.desc, missing.namespace, missing.tag)),
        None => Ok(walked),
    }
}

fn header<R: Read>(input: &mut Input<R>) -> Result<((u8, u8), usize), String> {
    if input.bytes(5)? != b"PGDMP" {
        return Err("no PGDMP at the front".into());
    }
    let version = (input.byte()?, input.byte()?);
    if version.0 != 1 || !(12..=16).contains(&version.1) {
        return Err(format!("archive version {version:?}"));
    }
    input.byte()?;
    input.int_size = usize::from(input.byte()?);
    let offset_size = usize::from(input.byte()?);
    if input.byte()? != 1 {
        return Err("not the custom format".into());
    }
    let compression = if version.1 >= 15 { i64::from(input.byte()?) } else { input.int()? };
    if compression != 0 {
        return Err(format!("compressed ({compression})"));
    }
    for _ in 0..7 {
        input.int()?;
    }
    for _ in 0..3 {
        input.text()?;
    }
    Ok((version, offset_size))
}

fn entry<R: Read>(input: &mut Input<R>, version: (u8, u8), offset_size: usize) -> Result<Entry, String> {
    let (dump_id, has_data) = (input.int()?, input.int()? != 0);
    input.text()?;
    input.text()?;
    let (tag, desc, section) = (input.text()?, input.text()?, input.int()?);
    let (defn, _drop, copy_stmt) = (input.text()?, input.text()?, input.text()?);
    let (namespace, _tablespace) = (input.text()?, input.text()?);
    if version.1 >= 14 {
        input.text()?;
    }
    if version.1 >= 16 {
        input.int()?;
    }
    let (owner, _with_oids) = (input.text()?, input.text()?);
    let mut dependencies = Vec::new();
    while let Some(id) = input.nullable_text()? {
        dependencies.push(id);
    }
    let flag = input.byte()?;
    if !(1..=3).contains(&flag) || (flag == 3) == has_data {
        return Err(format!("offset flag {flag} of dump id {dump_id}, has_data {has_data}"));
    }
    input.bytes(offset_size)?;
    Ok(Entry { dump_id, has_data, desc, tag, namespace, owner, section, defn, copy_stmt, dependencies })
}

fn large_objects<R: Read>(input: &mut Input<R>, found: &mut BTreeMap<i64, u64>) -> Result<(), String> {
    loop {
        let oid = input.int()?;
        if oid == 0 {
            return Ok(());
        }
        let mut size = 0;
        input.chunks(|bytes| {
            size += bytes.len() as u64;
            Ok(())
        })?;
        if found.insert(oid, size).is_some() {
            return Err(format!("large object {oid} twice"));
        }
    }
}

/// Counts lines up to the `\.` that must stand alone before the last two empty lines.
#[derive(Default)]
struct Rows {
    line: Vec<u8>,
    rows: u64,
    after_end: Option<u32>,
}

impl Rows {
    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        for &byte in bytes {
            if byte != b'\n' {
                // Three bytes are enough to tell `\.` from a row.
                if self.line.len() < 3 {
                    self.line.push(byte);
                }
                continue;
            }
            match &mut self.after_end {
                Some(empty) if self.line.is_empty() => *empty += 1,
                Some(_) => return Err("bytes after the end of the rows".into()),
                None if self.line == b"\\." => self.after_end = Some(0),
                None => self.rows += 1,
            }
            self.line.clear();
        }
        Ok(())
    }

    fn finish(self) -> Result<u64, String> {
        if self.after_end == Some(2) && self.line.is_empty() {
            Ok(self.rows)
        } else {
            Err("the rows don't end with \\. and three newlines".into())
        }
    }
}

struct Input<R> {
    source: R,
    at: u64,
    int_size: usize,
}

impl<R: Read> Input<R> {
    fn bytes(&mut self, length: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; length];
        self.source.read_exact(&mut bytes).map_err(|error| format!("{length} bytes wanted: {error}"))?;
        self.at += length as u64;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.bytes(1)?[0])
    }

    fn byte_or_end(&mut self) -> Result<Option<u8>, String> {
        let mut byte = Vec::new();
        self.source.by_ref().take(1).read_to_end(&mut byte).map_err(|error| error.to_string())?;
        self.at += byte.len() as u64;
        Ok(byte.first().copied())
    }

    /// A sign byte, then the magnitude with its lowest byte first.
    fn int(&mut self) -> Result<i64, String> {
        let negative = self.byte()? != 0;
        let size = self.int_size;
        let magnitude = self.bytes(size)?.iter().rev().fold(0_i64, |sum, byte| sum << 8 | i64::from(*byte));
        Ok(if negative { -magnitude } else { magnitude })
    }

    fn nullable_text(&mut self) -> Result<Option<String>, String> {
        match usize::try_from(self.int()?) {
            Ok(length) => Ok(Some(String::from_utf8_lossy(&self.bytes(length)?).into_owned())),
            Err(_) => Ok(None),
        }
    }

    fn text(&mut self) -> Result<String, String> {
        Ok(self.nullable_text()?.unwrap_or_default())
    }

    fn chunks(&mut self, mut each: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        loop {
            let length = usize::try_from(self.int()?).map_err(|_| "a negative chunk length".to_owned())?;
            if length == 0 {
                return Ok(());
            }
            each(&self.bytes(length)?)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{pg, process};
    use super::*;

    #[test]
    fn real_archives_are_walked_to_the_last_byte_and_no_shorter_or_longer_ones() {
        for version in pg::versions() {
            let cluster = pg::shared(version);
            cluster.create_database("walker");
            cluster.psql(
                "walker",
                "CREATE TABLE t (a text); INSERT INTO t SELECT repeat('x', i) || E'\\n\\\\.' FROM generate_series(1, 3000) i;
                 CREATE TABLE none (); INSERT INTO none SELECT FROM generate_series(1, 4); CREATE TABLE empty (a int);
                 SELECT lo_create(5), lo_from_bytea(6, decode(repeat('ab', 70000), 'hex'))",
            );
            let mut dump = cluster.command("pg_dump");
            dump.args(["-Fc", "-Z0", "-d", &cluster.url("walker")]);
            let piped = process::succeed_with(&mut dump, b"").stdout;
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("a.dump");
            process::succeed(dump.arg("-f").arg(&file));
            for bytes in [&piped, &std::fs::read(&file).unwrap()] {
                let walked = walk(bytes.as_slice()).unwrap();
                assert_eq!(walked.rows_of("public", "t"), Some(3000));
                assert_eq!(walked.rows_of("public", "none"), Some(4));
                assert_eq!(walked.rows_of("public", "empty"), Some(0));
                assert_eq!(walked.large_objects, BTreeMap::from([(5, 0), (6, 70000)]));
                walk(&bytes[..bytes.len() - 1]).unwrap_err();
                walk([bytes.as_slice(), b"\0"].concat().as_slice()).unwrap_err();
            }
            cluster.drop_database("walker");
        }
    }
}
