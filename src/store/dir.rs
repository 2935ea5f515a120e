//! A directory as a store. An object is written to a temporary file in its own folder, synced, renamed, the folder
//! synced: it appears whole and stays after a power cut.
//!
//! Temporary files are `.pgstow-tmp-<random>`, the lock for conditions is `.pgstow-lock` in the root; every name that
//! begins with `.pgstow-` is invisible as an object. No file stays open between writes: thousands of writers may live.
//!
//! One file, since a write, its lock and its clean-up make one promise together: nothing half written is ever seen.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::error::{Context as _, Error, Result, without_secrets};
use crate::store::{Condition, ObjectInfo, OpenUpload, Put, check_key, refuse_large};

/// Bytes a writer gathers before it touches the disk; a smaller object costs one file operation sequence.
pub(crate) const FLUSH_BYTES: usize = 1 << 20;
const OWN: &str = ".pgstow-";
const TEMPORARY: &str = ".pgstow-tmp-";
const LOCK: &str = ".pgstow-lock";

/// The directory.
#[derive(Debug)]
pub(crate) struct Dir {
    root: PathBuf,
    /// File operations under way, which run to their end even when nobody waits for them any more.
    working: TaskTracker,
}

impl Dir {
    /// Takes a path, or a `file://` URL without a host. `working` counts what is under way on other threads.
    pub(crate) fn open(name: &str, working: TaskTracker) -> Result<Self> {
        let path = match name.split_once("://") {
            None => name,
            Some(("file", path)) if path.starts_with('/') => path,
            Some(_) => {
                return Err(Error::usage(format!("--store {}: no such kind of store", without_secrets(name)))
                    .hint("use s3://bucket/prefix, or the path of a directory"));
            }
        };
        if path.is_empty() {
            return Err(Error::usage("--store is empty").hint("use s3://bucket/prefix, or the path of a directory"));
        }
        let root = std::path::absolute(path).with_context(|| format!("--store {name}"))?;
        Ok(Self { root, working })
    }

    /// Removes the lock of conditions; only for a directory that nobody else uses yet.
    pub(crate) fn remove_lock(root: &Path) {
        if let Err(error) = absent(fs::remove_file(root.join(LOCK))) {
            tracing::debug!("{}: {error}", root.display());
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        check_key(key)?;
        Ok(self.root.join(key))
    }

    /// Adds store, operation and key to an error of the file system.
    fn failed(&self, operation: &str, key: &str, error: &std::io::Error) -> Error {
        let mut text = format!("{}: {operation}", self.root.display());
        if !key.is_empty() {
            text = format!("{text} {key}");
        }
        let failed = Error::failed(format!("{text}: {error}"));
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                failed.hint("free some space there, or choose another --store").hint(
                    "`pgstow prune --keep-last 1000000 --incomplete-older-than 1h` removes what runs that died since left there",
                )
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                failed.hint("the user that runs pgstow needs to read and write this directory")
            }
            _ => failed,
        }
    }

    /// Runs file operations on a thread that may block.
    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        match self.working.spawn_blocking(work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.failed(operation, key, &error)),
            Err(error) => Err(Error::failed(format!("{operation} {key}: {error}"))),
        }
    }

    pub(crate) async fn check(&self) -> Result<()> {
        let root = self.root.clone();
        self.run("open the directory", "", move || match fs::read_dir(root) {
            Ok(_entries) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        })
        .await
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let path = self.path(key)?;
        let name = key.to_owned();
        let read = move || {
            let mut file = File::open(path)?;
            if let Err(large) = refuse_large(&name, file.metadata()?.len()) {
                return Ok(Err(large));
            }
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(Ok(Bytes::from(bytes)))
        };
        self.run("read", key, move || absent(read())).await?.transpose()
    }

    pub(crate) async fn head(&self, key: &str) -> Result<Option<ObjectInfo>> {
        let path = self.path(key)?;
        let name = key.to_owned();
        self.run("look up", key, move || info(&path, name)).await
    }

    pub(crate) async fn read(&self, key: &str, range: Range<u64>) -> Result<Pin<Box<dyn AsyncRead + Send>>> {
        let path = self.path(key)?;
        let start = range.start;
        let file = self
            .run("read", key, move || {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(start))?;
                Ok(file)
            })
            .await?;
        let length = range.end.saturating_sub(range.start);
        Ok(Box::pin(tokio::fs::File::from_std(file).take(length)))
    }

    pub(crate) async fn put(&self, key: &str, body: Bytes, condition: Condition) -> Result<Put> {
        let path = self.path(key)?;
        let root = self.root.clone();
        self.run("write", key, move || {
            let temporary = temporary(&path);
            let stored = (|| {
                create(&root, &temporary, &[body])?;
                let _lock = if condition == Condition::None { None } else { Some(lock(&root)?) };
                if !met(&path, &condition)? {
                    fs::remove_file(&temporary)?;
                    return Ok(Put::Refused);
                }
                commit(&temporary, &path)?;
                Ok(Put::Stored { etag: Some(etag(&fs::metadata(&path)?)) })
            })();
            if stored.is_err() {
                discard(&root, &temporary);
            }
            stored
        })
        .await
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let (root, wanted) = (self.root.clone(), prefix.to_owned());
        self.run("list", prefix, move || {
            let mut found = Vec::new();
            walk(&root, folder_of(&wanted), &mut |key, name, path| {
                if !name.starts_with(OWN) && key.starts_with(&wanted) {
                    found.extend(info(path, key)?);
                }
                Ok(true)
            })?;
            Ok(found)
        })
        .await
    }

    pub(crate) async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let (root, folder) = (self.root.clone(), folder_of(prefix).to_owned());
        self.run("list", prefix, move || {
            let mut names = Vec::new();
            let Some(entries) = absent(fs::read_dir(root.join(&folder)))? else { return Ok(names) };
            for entry in entries {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                if !entry.file_type()?.is_dir() {
                    continue;
                }
                let mut holds = false;
                walk(&root, &format!("{folder}{name}/"), &mut |_key, name, _path| {
                    holds |= !name.starts_with(OWN);
                    Ok(!holds)
                })?;
                if holds {
                    names.push(name);
                }
            }
            Ok(names)
        })
        .await
    }

    pub(crate) async fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        self.delete_file(key).await
    }

    /// Deletes a file, temporary ones too, and the folders it leaves empty.
    pub(crate) async fn delete_file(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        let root = self.root.clone();
        self.run("delete", key, move || {
            if absent(fs::remove_file(&path))?.is_some() {
                prune_folders(&root, &path);
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>> {
        let (root, wanted) = (self.root.clone(), prefix.to_owned());
        self.run("list", prefix, move || {
            let mut found = Vec::new();
            walk(&root, folder_of(&wanted), &mut |key, name, path| {
                if name.starts_with(TEMPORARY)
                    && key.starts_with(&wanted)
                    && let Some(metadata) = absent(fs::metadata(path))?
                {
                    found.push(OpenUpload { key, id: String::new(), started: metadata.modified().ok() });
                }
                Ok(true)
            })?;
            Ok(found)
        })
        .await
    }
}

/// One object on its way into the directory.
pub(crate) struct Writer {
    dir: Arc<Dir>,
    key: String,
    temporary: Option<PathBuf>,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    flush: Option<JoinHandle<std::io::Result<()>>>,
    failed: bool,
    cleaners: TaskTracker,
}

impl Writer {
    pub(crate) fn new(dir: Arc<Dir>, key: &str, cleaners: TaskTracker) -> Self {
        Self {
            dir,
            key: key.to_owned(),
            temporary: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            flush: None,
            failed: false,
            cleaners,
        }
    }

    pub(crate) fn held(&self) -> usize {
        self.waiting_bytes
    }

    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if self.failed {
            return Err(Error::failed(format!("write {}: an earlier write failed", self.key)));
        }
        self.waiting_bytes += bytes.len();
        self.waiting.push(bytes);
        if self.waiting_bytes >= FLUSH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Writes what waits; the file is closed again after each turn.
    async fn flush(&mut self) -> Result<()> {
        let path = self.dir.path(&self.key)?;
        let root = self.dir.root.clone();
        let chunks = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let existing = self.temporary.clone();
        let target = self.temporary.get_or_insert_with(|| temporary(&path)).clone();
        // Kept in `self`: when this call is dropped, the cleaner waits for the thread before it removes the file.
        let task = self.flush.insert(tokio::task::spawn_blocking(move || match existing {
            None => create_unsynced(&root, &target, &chunks).map(drop),
            Some(_) => write_chunks(&mut OpenOptions::new().append(true).open(&target)?, &chunks),
        }));
        let done = task.await;
        self.flush = None;
        let result = match done {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => Err(self.dir.failed("write", &self.key, &error)),
            Err(error) => Err(Error::failed(format!("write {}: {error}", self.key))),
        };
        self.failed = true;
        self.remove().await;
        result
    }

    pub(crate) async fn finish(mut self) -> Result<()> {
        if self.failed {
            return Err(Error::failed(format!("write {}: an earlier write failed", self.key)));
        }
        if self.temporary.is_none() {
            let body: Vec<Bytes> = std::mem::take(&mut self.waiting);
            let path = self.dir.path(&self.key)?;
            let root = self.dir.root.clone();
            return self
                .dir
                .run("write", &self.key, move || {
                    let temporary = temporary(&path);
                    let stored = create(&root, &temporary, &body).and_then(|()| commit(&temporary, &path));
                    if stored.is_err() {
                        discard(&root, &temporary);
                    }
                    stored
                })
                .await;
        }
        self.flush().await?;
        let Some(temporary) = self.temporary.take() else { return Ok(()) };
        let path = self.dir.path(&self.key)?;
        let root = self.dir.root.clone();
        // Once begun, the end of an object runs to its end even when this call is dropped.
        self.dir
            .run("write", &self.key, move || {
                let stored = OpenOptions::new()
                    .append(true)
                    .open(&temporary)
                    .and_then(|file| file.sync_all())
                    .and_then(|()| commit(&temporary, &path));
                if stored.is_err() {
                    discard(&root, &temporary);
                }
                stored
            })
            .await
    }

    pub(crate) async fn abort(mut self) {
        self.remove().await;
    }

    async fn remove(&mut self) {
        self.waiting.clear();
        if let Some(flush) = self.flush.take()
            && flush.await.is_err()
        {
            tracing::debug!(key = %self.key, "the write was cancelled");
        }
        if let Some(temporary) = self.temporary.take() {
            discard(&self.dir.root, &temporary);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let (flush, Some(temporary)) = (self.flush.take(), self.temporary.take()) else { return };
        let dir = Arc::clone(&self.dir);
        let Some(flush) = flush else { return discard(&dir.root, &temporary) };
        self.cleaners.spawn(async move {
            if flush.await.is_err() {
                tracing::debug!("the write was cancelled");
            }
            discard(&dir.root, &temporary);
        });
    }
}

/// `None` for what is not there.
fn absent<T>(result: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The folder part of a prefix, `/` at its end included.
fn folder_of(prefix: &str) -> &str {
    prefix.rfind('/').and_then(|at| prefix.get(..=at)).unwrap_or("")
}

/// A name that no other writer has, in the folder of `path`.
fn temporary(path: &Path) -> PathBuf {
    path.with_file_name(format!("{TEMPORARY}{:016x}", rand::random::<u64>()))
}

/// Changes with every version of an object, since each is a new file: inode, size, time.
fn etag(metadata: &fs::Metadata) -> String {
    format!("{:x}-{:x}-{:x}.{:x}", metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec())
}

fn info(path: &Path, key: String) -> std::io::Result<Option<ObjectInfo>> {
    Ok(absent(fs::metadata(path))?.filter(fs::Metadata::is_file).map(|metadata| ObjectInfo {
        key,
        bytes: metadata.len(),
        etag: Some(etag(&metadata)),
        modified: metadata.modified().ok(),
    }))
}

/// Visits every file below `folder` with (key, name, path) until the visitor says `false`. Links to folders are not
/// followed; names that are not UTF-8 cannot be keys.
fn walk(
    root: &Path,
    folder: &str,
    visit: &mut dyn FnMut(String, &str, &Path) -> std::io::Result<bool>,
) -> std::io::Result<bool> {
    let Some(entries) = absent(fs::read_dir(root.join(folder)))? else { return Ok(true) };
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let go_on = if entry.file_type()?.is_dir() {
            walk(root, &format!("{folder}{name}/"), visit)?
        } else {
            visit(format!("{folder}{name}"), &name, &entry.path())?
        };
        if !go_on {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Mode of every file: rows and password hashes are for their owner only.
pub(crate) const PRIVATE: u32 = 0o600;

/// Makes the missing folders of a path, for their owner only.
pub(crate) fn make_private_folders(folder: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes the missing folders above `path` durable, top down.
fn make_folders(root: &Path, path: &Path) -> std::io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    if folder.is_dir() {
        return Ok(());
    }
    let mut missing: Vec<&Path> = folder.ancestors().take_while(|above| !above.is_dir()).collect();
    missing.reverse();
    make_private_folders(folder)?;
    for made in missing {
        if let Some(above) = made.parent()
            && (made.starts_with(root) || above.is_dir())
        {
            sync_folder(above)?;
        }
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> std::io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems (network shares) cannot sync a folder; the rename has happened all the same.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

fn write_chunks(file: &mut File, chunks: &[Bytes]) -> std::io::Result<()> {
    chunks.iter().try_for_each(|chunk| file.write_all(chunk))
}

fn create_unsynced(root: &Path, temporary: &Path, chunks: &[Bytes]) -> std::io::Result<File> {
    // A folder may vanish between making and using it: deleting the last object of a folder removes the folder.
    let mut tries = 0;
    let mut file = loop {
        make_folders(root, temporary)?;
        match OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(temporary) {
            Err(error) if error.kind() == ErrorKind::NotFound && tries < 10 => tries += 1,
            other => break other?,
        }
    };
    write_chunks(&mut file, chunks)?;
    Ok(file)
}

fn create(root: &Path, temporary: &Path, chunks: &[Bytes]) -> std::io::Result<()> {
    create_unsynced(root, temporary, chunks)?.sync_all()
}

/// Gives a synced temporary file its name.
fn commit(temporary: &Path, path: &Path) -> std::io::Result<()> {
    fs::rename(temporary, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Removes a temporary file and the folders it leaves empty; a failure is logged, nothing depends on it.
fn discard(root: &Path, temporary: &Path) {
    match absent(fs::remove_file(temporary)) {
        Ok(_removed) => prune_folders(root, temporary),
        Err(error) => tracing::warn!(file = %temporary.display(), %error, "cannot remove a temporary file"),
    }
}

/// Removes empty folders above `path`, up to the root; one that is in use stays.
fn prune_folders(root: &Path, path: &Path) {
    for folder in path.ancestors().skip(1).take_while(|folder| *folder != root && folder.starts_with(root)) {
        if fs::remove_dir(folder).is_err() {
            return;
        }
    }
}

/// Holds the lock that conditional puts share, across processes, until dropped.
fn lock(root: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(PRIVATE).open(root.join(LOCK))?;
    file.lock()?;
    Ok(file)
}

fn met(path: &Path, condition: &Condition) -> std::io::Result<bool> {
    let current = absent(fs::metadata(path))?;
    Ok(match condition {
        Condition::None => true,
        Condition::Absent => current.is_none(),
        Condition::Matches(wanted) => current.is_some_and(|metadata| etag(&metadata) == *wanted),
    })
}
