//! The abilities of a store, found by trying them on keys below `doctor/<random>/`: the words for it, and a directory's
//! probe.
//!
//! Nothing here judges: what an ability means for a backup is the caller's to say. What a probe makes is noted in
//! [`ProbeObjects`] before it is made, so that [`crate::store::Store::tidy`] removes it whatever became of the probe.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use tokio::io::AsyncReadExt as _;

use crate::error::{Error, Result};
use crate::store::dir::Dir;
use crate::store::object::{Condition, Put};

/// Content of a probe's small objects.
pub(crate) const SMALL: &[u8] = b"pgstow doctor tries what this store can do; this object may be deleted at any time\n";
/// A name with the characters that runs have in their keys.
pub(crate) const ODD_NAME: &str = "a=2F@b.sql.zst";

/// The observation of an ability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    /// It was tried and works.
    Yes,
    /// It was tried and does not.
    No,
    /// It could not be tried, or the answer says nothing.
    Unknown,
}

/// One ability of a store.
#[derive(Debug, Clone, Serialize)]
pub struct Ability {
    /// Its name, for programs: `put`, `if-none-match`, ...
    pub name: &'static str,
    /// The observation.
    pub seen: Seen,
    /// The observation as text.
    pub detail: String,
    /// Not seen because these credentials may not do it, whatever the store can do.
    pub denied: bool,
    /// The failure, where there was one, with hints.
    #[serde(skip)]
    pub error: Option<Error>,
}

/// Room on the disk of a directory store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Bytes that this user may still write.
    pub free_bytes: u64,
    /// Bytes of the whole file system.
    pub total_bytes: u64,
}

/// The findings of a probe.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Probe {
    /// The server's name for itself (header `Server`).
    pub server: Option<String>,
    /// Seconds that the store's clock is ahead of this machine's, to within one or two.
    pub clock_ahead_seconds: Option<i64>,
    /// Of a directory store.
    pub disk: Option<Disk>,
    /// In the order they were tried.
    pub abilities: Vec<Ability>,
}

impl Probe {
    /// The finding about an ability.
    #[must_use]
    pub fn ability(&self, name: &str) -> Option<&Ability> {
        self.abilities.iter().find(|ability| ability.name == name)
    }

    /// The observation of an ability; unknown when it was not tried.
    #[must_use]
    pub fn seen(&self, name: &str) -> Seen {
        self.ability(name).map_or(Seen::Unknown, |ability| ability.seen)
    }

    pub(crate) fn note(&mut self, name: &'static str, seen: Seen, detail: impl Into<String>) {
        self.abilities.push(Ability { name, seen, detail: detail.into(), denied: false, error: None });
    }

    pub(crate) fn denied(&mut self, name: &'static str, detail: &str) {
        self.abilities.push(Ability { name, seen: Seen::No, detail: detail.to_owned(), denied: true, error: None });
    }

    pub(crate) fn fails(&mut self, name: &'static str, error: Error) {
        let detail = error.message();
        self.abilities.push(Ability { name, seen: Seen::No, detail, denied: false, error: Some(error) });
    }
}

/// The objects that a probe may have left in a store. Clones share the list.
#[derive(Debug, Clone)]
pub struct ProbeObjects {
    /// `doctor/<random>/`: everything of the probe is below it.
    pub(crate) folder: String,
    left: Arc<Mutex<Left>>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Left {
    pub(crate) keys: BTreeSet<String>,
    /// Key and version, of a bucket that keeps versions.
    pub(crate) versions: BTreeSet<(String, String)>,
    /// Key and id.
    pub(crate) uploads: BTreeSet<(String, String)>,
    /// The end of the last lock.
    pub(crate) locked_until: Option<SystemTime>,
    /// Folders that were not there before, the outermost first.
    pub(crate) folders: Vec<PathBuf>,
}

impl Default for ProbeObjects {
    fn default() -> Self {
        Self { folder: format!("doctor/{:016x}/", rand::random::<u64>()), left: Arc::default() }
    }
}

impl ProbeObjects {
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }

    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Left) -> T) -> T {
        change(&mut self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn now(&self) -> Left {
        self.with(|left| left.clone())
    }
}

/// Tries a directory. The first failure to write or read ends it.
pub(crate) async fn directory(dir: &Dir, probe_objects: &ProbeObjects) -> Probe {
    let root = dir.root();
    let mut probe = Probe::default();
    let absent: Vec<PathBuf> = root.ancestors().take_while(|folder| !folder.exists()).map(Path::to_owned).collect();
    probe_objects.with(|left| left.folders = absent.into_iter().rev().collect());
    if let Err(error) = try_directory(dir, probe_objects, &mut probe).await {
        probe.fails("put", error);
        return probe;
    }
    match disk(root) {
        Ok(disk) => probe.disk = Some(disk),
        Err(error) => tracing::debug!("ask for free space: {error}"),
    }
    probe
}

async fn try_directory(dir: &Dir, probe_objects: &ProbeObjects, probe: &mut Probe) -> Result<()> {
    let (small, odd) = (probe_objects.key("small"), probe_objects.key(ODD_NAME));
    probe_objects.with(|left| left.keys.extend([small.clone(), odd.clone()]));
    let begun = Instant::now();
    dir.put(&small, Bytes::from_static(SMALL), Condition::None).await?;
    let took = begun.elapsed();
    probe.note("put", Seen::Yes, format!("written, synced to the disk and renamed in {}", milliseconds(took)));
    let whole = dir.get(&small).await?;
    let same = whole.as_deref() == Some(SMALL);
    probe.note("read", yes(same), if same { "reads back as written" } else { "does not read back as written" });
    let mut part = Vec::new();
    dir.read(&small, 7..13).await?.read_to_end(&mut part).await?;
    let same = SMALL.get(7..13) == Some(&part);
    probe.note("range", yes(same), "bytes 7 to 12 of a file");
    dir.put(&odd, Bytes::from_static(SMALL), Condition::None).await?;
    let listed: Vec<String> = dir.list(&probe_objects.folder).await?.into_iter().map(|object| object.key).collect();
    probe.note("list", yes(listed.contains(&small)), format!("{} files found again", listed.len()));
    probe.note("key-characters", yes(listed.contains(&odd)), "= and @ in a name");
    let refused = dir.put(&small, Bytes::new(), Condition::Absent).await? == Put::Refused;
    probe.note("if-none-match", yes(refused), "a file that is there is not replaced (by a lock file)");
    let refused = dir.put(&small, Bytes::new(), Condition::Matches("other".to_owned())).await? == Put::Refused;
    probe.note("if-match", yes(refused), "a file that changed is not replaced (by a lock file)");
    dir.delete(&odd).await?;
    let gone = dir.head(&odd).await?.is_none();
    probe.note("delete", yes(gone), "a file is gone once deleted");
    Ok(())
}

fn disk(root: &Path) -> std::io::Result<Disk> {
    let there = root.ancestors().find(|folder| folder.exists()).unwrap_or(root);
    let facts = rustix::fs::statvfs(there)?;
    Ok(Disk {
        free_bytes: facts.f_bavail.saturating_mul(facts.f_frsize),
        total_bytes: facts.f_blocks.saturating_mul(facts.f_frsize),
    })
}

/// Removes a directory's probe_objects; returns what is left all the same.
pub(crate) async fn tidy_directory(dir: &Dir, probe_objects: &ProbeObjects) -> Vec<String> {
    let root = dir.root();
    let mut remaining = Vec::new();
    let left = probe_objects.now();
    for key in &left.keys {
        if let Err(error) = dir.delete(key).await {
            tracing::debug!(%error, "tidy up");
            remaining.push(root.join(key).display().to_string());
        }
    }
    for upload in dir.uploads(&probe_objects.folder).await.unwrap_or_default() {
        if dir.delete_file(&upload.key).await.is_err() {
            remaining.push(root.join(&upload.key).display().to_string());
        }
    }
    if !left.folders.is_empty() {
        Dir::remove_lock(root);
    }
    for folder in left.folders.iter().rev() {
        // Somebody else may have put something there meanwhile: then it stays.
        if let Err(error) = std::fs::remove_dir(folder) {
            tracing::debug!("{}: {error}", folder.display());
        }
    }
    remaining
}

pub(crate) fn yes(seen: bool) -> Seen {
    if seen { Seen::Yes } else { Seen::No }
}

pub(crate) fn milliseconds(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}
