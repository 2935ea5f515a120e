//! The contents of one object, judged while its bytes pass on a blocking thread: blocks of an archive, statements and rows
//! of a SQL file, pieces of an index, each compared with the manifest.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::Arc;

use libpgdump::ObjectType;
use libpgdump::format::ArchiveMetadata;
use tokio::io::AsyncReadExt as _;

use crate::archive::reader;
use crate::archive::reader::Tally;
use crate::archive::sql_reader::{END, Sql, SqlReader};
use crate::error::{Context as _, Error, Result};
use crate::format::layout;
use crate::format::manifest::{Index, Manifest, Object, Piece, Schema, Table};
use crate::objects::read;
use crate::objects::read::{Plain, Stored, Watch};
use crate::runs::contents;
use crate::seal::decode;
use crate::seal::decode::Decoding;
use crate::seal::digest::Fingerprint;
use crate::seal::hash::{Tap, Tapped};
use crate::verify::task::{Finding, Task, impossible};

/// Bytes of RESTORE.md that are read for its statements; the list of what is missing stands behind them.
const LONGEST_RESTORE_MD: u64 = 16 << 20;

/// The reading of one object, on a blocking thread.
pub(super) struct Reading {
    pub(super) manifest: Arc<Manifest>,
    pub(super) decoding: Decoding,
    pub(super) task: Task,
    pub(super) object: Object,
    pub(super) watch: Watch,
    pub(super) finding: Finding,
    pub(super) index: Option<(Index, String)>,
    /// Problems of the manifest that this object shows, where it is sound itself.
    pub(super) of_manifest: Vec<String>,
}

impl Reading {
    pub(super) fn read(mut self, stored: Tapped<Stored>) -> Finding {
        let (index, manifest) = (self.index.take(), Arc::clone(&self.manifest));
        let plain = match (self.task, index) {
            (Task::File(..), Some((index, key))) => self.pieces(stored, &index, &key),
            (task, _) => {
                let mut plain = Plain::new(stored, &self.decoding);
                if task == Task::Database {
                    plain = plain.at_most(self.object.raw_bytes);
                }
                let result = self.structure(&manifest, task, &mut plain);
                // The bytes behind the damage still count for the SHA-256 of the stored object.
                let drained = result.and_then(|()| drain(&mut plain)).or_else(|error| {
                    self.problem(&error.message());
                    drain(&mut plain)
                });
                drained.ok().map(|()| plain.bytes)
            }
        };
        if let Some(plain) = plain {
            if plain != self.object.raw_bytes {
                self.problem(&format!("holds {plain} plain bytes, the manifest says {}", self.object.raw_bytes));
            }
            if self.watch.is_sound(&self.object) {
                let shown = std::mem::take(&mut self.of_manifest);
                self.finding.problems.extend(shown.into_iter().map(|problem| (layout::MANIFEST.to_owned(), problem)));
            } else {
                self.problem("SHA-256 differs from the manifest's");
            }
        }
        self.finding.bytes += self.watch.whole.bytes();
        self.finding
    }

    fn problem(&mut self, problem: &str) {
        self.finding.problems.push((self.object.key.clone(), problem.to_owned()));
    }

    fn structure(&mut self, manifest: &Manifest, task: Task, plain: &mut Plain<'_>) -> Result<()> {
        match task {
            Task::Roles => drain(plain),
            Task::RestoreMd => {
                let mut text = Vec::new();
                plain.take(LONGEST_RESTORE_MD).read_to_end(&mut text)?;
                let found = contents::large_objects_unnamed(manifest, &String::from_utf8_lossy(&text));
                self.of_manifest.extend(found);
                Ok(())
            }
            Task::Database => {
                read::most(&self.object)?;
                let metadata = reader::read(plain, &mut Tally::default())?;
                if metadata.entries.iter().any(|entry| entry.had_dumper) {
                    self.problem("holds data blocks; it must have none");
                }
                let found = contents::disagreements(manifest, &metadata.entries);
                self.of_manifest.extend(found.into_iter().map(|one| one.problem));
                Ok(())
            }
            Task::LargeObjects => {
                let mut tally = Tally::default();
                reader::read(plain, &mut tally)?;
                self.large_objects(manifest, &tally);
                Ok(())
            }
            Task::Dump(at) => {
                let schema = manifest.schemas.get(at).ok_or_else(|| impossible("a schema"))?;
                let mut tally = Tally::default();
                let metadata = reader::read(plain, &mut tally)?;
                self.dump(manifest, schema, &metadata, tally);
                Ok(())
            }
            Task::File(..) => {
                let mut sql = SqlReader::default();
                feed(plain, &mut sql)?;
                self.file(manifest, sql.finish()?);
                Ok(())
            }
        }
    }

    fn large_objects(&mut self, manifest: &Manifest, tally: &Tally) {
        let (said, found) = (&manifest.large_objects, &tally.large_objects);
        if !tally.tables.is_empty() {
            self.problem("holds rows of tables");
        }
        if found.count != said.count {
            self.problem(&format!("holds {} large objects, the manifest says {}", found.count, said.count));
        }
        if found.bytes != said.bytes {
            self.problem(&format!("holds {} bytes of contents, the manifest says {}", found.bytes, said.bytes));
        }
        if said.digest.as_ref().is_some_and(|digest| *digest != found.digest()) {
            self.problem("digest of the large objects differs from the manifest's");
        }
    }

    fn dump(&mut self, manifest: &Manifest, schema: &Schema, metadata: &ArchiveMetadata, tally: Tally) {
        let mut schemas = metadata.entries.iter().filter(|entry| matches!(entry.desc, ObjectType::Schema)).peekable();
        if schemas.peek().is_some() && !schemas.any(|entry| entry.tag.as_deref() == Some(&schema.name)) {
            self.problem(&format!("is not the archive of schema {:?}", schema.name));
        }
        if tally.large_objects.count > 0 {
            self.problem("holds large objects");
        }
        let tables: HashMap<&str, &Table> = schema.tables.iter().map(|table| (table.name.as_str(), table)).collect();
        let mut seen = HashSet::new();
        for found in tally.tables {
            let name = format!("{:?}.{:?}", found.schema, found.table);
            let table = tables.get(found.table.as_str()).filter(|_| found.schema == schema.name);
            let Some(table) = table else {
                self.problem(&format!("holds rows of {name}, which the manifest does not name there"));
                continue;
            };
            if !seen.insert(found.table.clone()) {
                self.problem(&format!("holds the rows of {name} twice"));
            }
            for problem in differences(table, &found.rows) {
                self.problem(&format!("{name}: {problem}"));
            }
            self.finding.copies.push((found.table, found.copy.unwrap_or_default().trim().to_owned()));
        }
        for table in &schema.tables {
            if !seen.contains(&table.name) && manifest.has_rows_of(&schema.name, table) {
                self.problem(&format!("holds no block of rows of {:?}.{:?}", schema.name, table.name));
            }
        }
    }

    fn file(&mut self, manifest: &Manifest, sql: Sql) {
        let Some((schema, table)) = self.task.table(manifest) else {
            return self.problem(&impossible("a table").message());
        };
        for problem in differences(table, &sql.rows) {
            self.problem(&problem);
        }
        let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if plain(&schema.name) && plain(&table.name) && sql.end != format!("{END} of {}.{}", schema.name, table.name) {
            self.problem(&format!("is the file of another table: {:?}", sql.end));
        }
        match sql.copy {
            Some(copy) => self.finding.copies.push((table.name.clone(), copy.trim().to_owned())),
            None if manifest.has_rows_of(&schema.name, table) => self.problem("has no COPY statement"),
            None => {}
        }
    }

    /// Reads a SQL file piece by piece of its index, each with a decoder of its own; returns its plain bytes when
    /// all pieces were as the index says.
    fn pieces(&mut self, stored: Tapped<Stored>, index: &Index, key: &str) -> Option<u64> {
        let mut sql = SqlReader::default();
        let mut bytes = 0;
        let begin = index.pieces.first().map_or(0, |piece| piece.offset);
        let end = index.pieces.last().map_or(begin, |piece| piece.offset + piece.bytes);
        // Pieces are of what was sealed, so that an encrypted object has a tap of its own behind its opening.
        let sealed = self.decoding.identities().is_some();
        let tap = if sealed { Tap::default() } else { self.watch.whole.clone() };
        let mut frames: decode::Plain<'_> =
            if sealed { Box::new(tap.reader(self.decoding.unsealed(stored))) } else { Box::new(stored) };
        let decoding = self.decoding.clone();
        let mut part = |frames: &mut decode::Plain<'_>, sql: &mut SqlReader, size: u64| {
            if size == 0 {
                return Ok(());
            }
            let mut plain = Plain::of_frames(frames.take(size), &decoding);
            let result = feed(&mut plain, sql);
            bytes += plain.bytes;
            result
        };
        let mut read = || -> Result<()> {
            part(&mut frames, &mut sql, begin)?;
            for (at, piece) in index.pieces.iter().enumerate() {
                let before = sql.between_rows();
                tap.begin_piece();
                part(&mut frames, &mut sql, piece.bytes).with_context(|| format!("piece {at}"))?;
                let sha256 = tap.piece_sha256();
                whole_rows(piece, before, sql.between_rows(), sha256.as_deref())
                    .map_err(|problem| Error::damage(format!("piece {at} {problem}")))?;
            }
            // The rest of a sealed object is known at its end only; an end that was cut off is an error there.
            part(&mut frames, &mut sql, if sealed { u64::MAX } else { self.object.bytes.saturating_sub(end) })
        };
        if let Err(error) = read() {
            self.finding.pieces = Some((key.to_owned(), error.message()));
            return None;
        }
        match sql.finish() {
            Ok(sql) => {
                if !sql.copy.as_deref().is_some_and(|copy| ends_in(&index.copy, copy)) {
                    let problem = format!("its COPY statement is not the one of {}", self.object.key);
                    self.finding.problems.push((key.to_owned(), problem));
                }
                let manifest = Arc::clone(&self.manifest);
                self.file(&manifest, sql);
            }
            Err(error) => self.problem(&error.message()),
        }
        Some(bytes)
    }
}

fn whole_rows(piece: &Piece, before: Option<u64>, after: Option<u64>, sha256: Option<&str>) -> Result<(), String> {
    if sha256 != Some(&piece.sha256) {
        return Err("differs from its SHA-256".to_owned());
    }
    match (before, after) {
        (Some(before), Some(after)) if after - before == piece.rows => Ok(()),
        (Some(before), Some(after)) => Err(format!("holds {} rows, not {}", after - before, piece.rows)),
        _ => Err("is not whole rows".to_owned()),
    }
}

/// The differences of rows from a table's entry in the manifest.
fn differences(table: &Table, rows: &Fingerprint) -> Vec<String> {
    let mut problems = Vec::new();
    if rows.rows != table.rows {
        problems.push(format!("{} rows, the manifest says {}", rows.rows, table.rows));
    }
    if rows.bytes != table.raw_bytes {
        problems.push(format!("{} bytes of rows, the manifest says {}", rows.bytes, table.raw_bytes));
    }
    if rows.digest() != table.digest {
        problems.push("digest of the rows differs from the manifest's".to_owned());
    } else if table.order.as_ref().is_some_and(|order| *order != rows.order()) {
        problems.push("the rows are not in the order the manifest says".to_owned());
    }
    problems
}

fn feed(plain: &mut Plain<'_>, sql: &mut SqlReader) -> Result<()> {
    let mut buffer = vec![0; decode::BUFFER];
    loop {
        let size = plain.read(&mut buffer)?;
        let Some(part) = buffer.get(..size).filter(|part| !part.is_empty()) else { return Ok(()) };
        sql.feed(part)?;
    }
}

fn drain(plain: &mut Plain<'_>) -> Result<()> {
    io::copy(plain, &mut io::sink()).map(drop).map_err(Error::from)
}

/// True when statements end in this `COPY`. Rows of an extension's table are loaded behind statements of their own.
pub(crate) fn ends_in(statements: &str, copy: &str) -> bool {
    let before = statements.trim().strip_suffix(copy.trim());
    before.is_some_and(|before| before.is_empty() || before.ends_with(";\n"))
}
