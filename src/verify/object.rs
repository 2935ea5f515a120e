//! Reads one object of a run to its last byte and says what is wrong with it. The part of `verify` that touches bytes.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::Arc;

use libpgdump::ObjectType;
use libpgdump::format::ArchiveMetadata;
use tokio::io::AsyncReadExt as _;

use crate::archive::reader;
use crate::archive::reader::Tally;
use crate::archive::sql_reader::{END, Sql, SqlReader};
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::layout;
use crate::format::manifest::{Index, Manifest, Object, Piece, Schema, Table};
use crate::objects::read::{Plain, Stored, Watch};
use crate::objects::stored_run::StoredRun;
use crate::objects::{index, read};
use crate::runs::contents;
use crate::runs::listing::Listing;
use crate::seal::decode;
use crate::seal::decode::Opening;
use crate::seal::digest::Fingerprint;
use crate::seal::hash::{Tap, Tapped};

/// Bytes of RESTORE.md that are read for its statements; the list of what is missing stands behind them.
const LONGEST_RESTORE_MD: u64 = 16 << 20;

/// The run that is verified.
#[derive(Clone)]
pub(crate) struct Run {
    /// The run.
    pub(crate) stored: StoredRun,
    /// True where its objects cannot be opened: then only their stored bytes are compared.
    pub(crate) sealed_away: bool,
    /// The keys and sizes that the store lists of it.
    pub(crate) listing: Arc<Listing>,
}

/// One object (a SQL file together with its index) to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// The roles script.
    Roles,
    /// RESTORE.md.
    RestoreMd,
    /// The archive of the database's DDL.
    Database,
    /// The archive of the large objects.
    LargeObjects,
    /// The archive of this schema.
    Dump(usize),
    /// The SQL file of this schema's table.
    File(usize, usize),
}

impl Task {
    /// Schema and table of a table's file; `None` for every other object.
    fn table(self, manifest: &Manifest) -> Option<(&Schema, &Table)> {
        let Self::File(schema, table) = self else { return None };
        let schema = manifest.schemas.get(schema)?;
        Some((schema, schema.tables.get(table)?))
    }

    /// The object to read.
    pub(crate) fn object(self, manifest: &Manifest) -> Option<&Object> {
        match self {
            Self::Roles => Some(&manifest.roles.object),
            Self::RestoreMd => manifest.restore_md.as_ref(),
            Self::Database => Some(&manifest.database.object),
            Self::LargeObjects => manifest.large_objects.object.as_ref(),
            Self::Dump(schema) => manifest.schemas.get(schema).map(|schema| &schema.dump),
            Self::File(schema, table) => Some(&manifest.schemas.get(schema)?.tables.get(table)?.file),
        }
    }
}

/// An error for a task that does not fit the manifest it was made from: a check must never be passed over in silence.
fn impossible(what: &str) -> Error {
    Error::failed(format!("internal error: verify lost {what} of the manifest")).hint("please report this")
}

/// All objects of a run.
pub(crate) fn tasks(manifest: &Manifest) -> Vec<Task> {
    let mut tasks = vec![Task::Roles, Task::Database, Task::RestoreMd, Task::LargeObjects];
    for (at, schema) in manifest.schemas.iter().enumerate() {
        tasks.push(Task::Dump(at));
        tasks.extend((0..schema.tables.len()).map(|table| Task::File(at, table)));
    }
    tasks
}

/// What reading an object brought.
#[derive(Debug, Default)]
pub(crate) struct Finding {
    /// Stored bytes read.
    pub(crate) bytes: u64,
    /// Key and problem.
    pub(crate) problems: Vec<(String, String)>,
    /// Table and `COPY` statement, of every block of rows.
    pub(crate) copies: Vec<(String, String)>,
    /// Key of the index and why the pieces it tells of could not be read.
    pieces: Option<(String, String)>,
}

/// Reads one object.
///
/// # Errors
/// When the store fails; damage is no error but in the finding.
pub(crate) async fn examine(run: &Run, task: Task) -> Result<Finding> {
    let mut finding = Finding::default();
    let Some(object) = task.object(&run.stored.manifest).cloned() else {
        match task {
            Task::LargeObjects if run.stored.manifest.large_objects.count > 0 => {
                let problem = "the manifest counts large objects, but names no archive of them";
                finding.problems.push((layout::MANIFEST.to_owned(), problem.to_owned()));
            }
            // A run without large objects, or of a version that wrote no RESTORE.md.
            Task::LargeObjects | Task::RestoreMd => {}
            _ => return Err(impossible("an object")),
        }
        return Ok(finding);
    };
    let mut index = None;
    if let Some((schema, table)) = task.table(&run.stored.manifest)
        && let Some(stored) = &table.index
        && present(run, stored, &mut finding)
    {
        if run.sealed_away {
            stored_bytes(run, stored, &mut finding).await?;
        } else {
            match read_index(&run.stored, stored, &schema.name, table).await? {
                Ok(found) => index = Some((found, stored.key.clone())),
                Err(problem) => finding.problems.push((stored.key.clone(), problem)),
            }
        }
    }
    if !present(run, &object, &mut finding) {
        return Ok(finding);
    }
    if run.sealed_away && task != Task::RestoreMd {
        stored_bytes(run, &object, &mut finding).await?;
        return Ok(finding);
    }
    let opening = if task == Task::RestoreMd { Opening::AS_STORED } else { run.stored.opening.clone() };
    let before = finding.problems.len();
    let mut finding = read_once(run, &opening, task, object.clone(), finding, index).await?;
    if let Some((key, problem)) = finding.pieces.take() {
        // Either of the two may be the damaged one: the file is judged without its index, then blame is clear.
        finding.problems.truncate(before);
        finding = read_once(run, &opening, task, object.clone(), finding, None).await?;
        if finding.problems.len() == before {
            finding.problems.push((key, problem));
        }
    }
    if finding.problems.len() > before && !object.volumes.is_empty() {
        blame_volumes(run, &object, before, &mut finding).await?;
    }
    Ok(finding)
}

/// Compares the stored bytes of an object with the manifest, whatever they mean.
async fn stored_bytes(run: &Run, object: &Object, finding: &mut Finding) -> Result<()> {
    let (watch, mut stored) = run.stored.watched(object);
    let read = tokio::task::spawn_blocking(move || {
        let copied = io::copy(&mut tokio_util::io::SyncIoBridge::new(&mut stored), &mut io::sink());
        copied.map(drop).map_err(Error::from)
    });
    read.await.map_err(|error| Error::failed(format!("read an object: {error}")))??;
    finding.bytes += watch.whole.bytes();
    let differ = watch.damaged(object).into_iter().map(|key| (key, "SHA-256 differs from the manifest's".to_owned()));
    finding.problems.extend(differ);
    Ok(())
}

/// What is wrong with an object was found somewhere in it: names the volumes whose bytes are others, where there are.
async fn blame_volumes(run: &Run, object: &Object, before: usize, finding: &mut Finding) -> Result<()> {
    let mut again = Finding::default();
    stored_bytes(run, object, &mut again).await?;
    if !again.problems.is_empty() {
        finding.problems.truncate(before);
        finding.problems.append(&mut again.problems);
    }
    Ok(())
}

/// Reads the stored bytes from the first to the last.
async fn read_once(
    run: &Run,
    opening: &Opening,
    task: Task,
    object: Object,
    finding: Finding,
    index: Option<(Index, String)>,
) -> Result<Finding> {
    let (watch, stored) = run.stored.watched(&object);
    let (manifest, opening) = (Arc::clone(&run.stored.manifest), opening.clone());
    let of_manifest = Vec::new();
    let reading = Reading { manifest, opening, task, object, watch: watch.clone(), finding, index, of_manifest };
    let read = tokio::task::spawn_blocking(move || reading.read(stored)).await;
    let finding = read.map_err(|error| Error::failed(format!("read an object: {error}")))?;
    match watch.whole.store_failure() {
        Some(failure) => Err(failure),
        None => Ok(finding),
    }
}

/// Notes what the listing shows; false when there is nothing to read.
fn present(run: &Run, object: &Object, finding: &mut Finding) -> bool {
    let mut readable = true;
    for wrong in run.listing.mismatches(object) {
        readable &= wrong.found.is_some();
        let problem = wrong.problem();
        finding.problems.push((wrong.key, problem));
    }
    readable
}

/// The index of a table, or what is wrong with it.
async fn read_index(run: &StoredRun, stored: &Object, schema: &str, table: &Table) -> Result<Result<Index, String>> {
    let bytes = match run.read_with(stored, &run.opening.uncompressed()).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == Kind::Damage => return Ok(Err(error.message())),
        Err(error) => return Err(error),
    };
    let index: Index = match serde_json::from_slice(&bytes) {
        Ok(index) => index,
        Err(error) => return Ok(Err(error.to_string())),
    };
    Ok(index::check(&index, schema, table).map(|()| index))
}

/// The reading of one object, on a blocking thread.
struct Reading {
    manifest: Arc<Manifest>,
    opening: Opening,
    task: Task,
    object: Object,
    watch: Watch,
    finding: Finding,
    index: Option<(Index, String)>,
    /// Problems of the manifest that this object shows, where it is sound itself.
    of_manifest: Vec<String>,
}

impl Reading {
    fn read(mut self, stored: Tapped<Stored>) -> Finding {
        let (index, manifest) = (self.index.take(), Arc::clone(&self.manifest));
        let plain = match (self.task, index) {
            (Task::File(..), Some((index, key))) => self.pieces(stored, &index, &key),
            (task, _) => {
                let mut plain = Plain::new(stored, &self.opening);
                if task == Task::Database {
                    plain = plain.at_most(self.object.raw_bytes);
                }
                let result = self.structure(&manifest, task, &mut plain);
                // What follows the damage still tells whether the stored bytes are the manifest's.
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
        let sealed = self.opening.identities().is_some();
        let tap = if sealed { Tap::default() } else { self.watch.whole.clone() };
        let mut frames: decode::Plain<'_> =
            if sealed { Box::new(tap.reader(self.opening.unsealed(stored))) } else { Box::new(stored) };
        let opening = self.opening.clone();
        let mut part = |frames: &mut decode::Plain<'_>, sql: &mut SqlReader, size: u64| {
            if size == 0 {
                return Ok(());
            }
            let mut plain = Plain::of_frames(frames.take(size), &opening);
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
            // What is left of a sealed object is known at its end only; an end that was cut off is an error there.
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

/// How rows differ from what the manifest says of a table.
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

/// Whether statements end in this `COPY`. Rows of an extension's table are loaded behind statements of their own.
pub(crate) fn ends_in(statements: &str, copy: &str) -> bool {
    let before = statements.trim().strip_suffix(copy.trim());
    before.is_some_and(|before| before.is_empty() || before.ends_with(";\n"))
}
