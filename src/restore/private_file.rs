//! A file for the definitions of a run, which programs of PostgreSQL read by its name. It is this user's alone and
//! removed when dropped: definitions may hold passwords of user mappings.
//!
//! `kill -9` leaves it behind. While its process lives, the file is locked and the process id in its name is that
//! process's; a file of which neither is true is removed by [`sweep`].

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, geteuid, test_kill_process};

use crate::error::{Context as _, Result};

/// A file that only this user can read, removed when dropped. Holds definitions, never rows.
pub(crate) struct PrivateFile {
    pub(crate) path: PathBuf,
    /// Holds the lock.
    file: File,
}

impl PrivateFile {
    pub(crate) fn new(content: &[u8]) -> Result<Self> {
        let name = format!("pgstow-{}-{:016x}.dump", std::process::id(), rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        let shown = path.display().to_string();
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).context(&shown)?;
        let mut this = Self { path, file };
        if let Err(error) = this.file.try_lock() {
            tracing::debug!("lock {shown}: {error}");
        }
        this.file.write_all(content).context(&shown)?;
        Ok(this)
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("remove {}: {error}", self.path.display());
        }
    }
}

/// Removes such files of this user's processes that were killed, and returns what it removed.
pub(crate) fn sweep() -> Vec<PathBuf> {
    let Ok(folder) = std::fs::read_dir(std::env::temp_dir()) else { return Vec::new() };
    let paths = folder.flatten().map(|entry| entry.path());
    paths.filter(|path| path.file_name().is_some_and(is_of_dead_process) && remove(path)).collect()
}

/// True for the name of a private file whose process is not running.
fn is_of_dead_process(name: &OsStr) -> bool {
    let process = || {
        let (process, random) = name.to_str()?.strip_prefix("pgstow-")?.strip_suffix(".dump")?.split_once('-')?;
        let is_random = random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
        Pid::from_raw(process.parse().ok().filter(|_| is_random)?)
    };
    process().is_some_and(|process| test_kill_process(process) == Err(rustix::io::Errno::SRCH))
}

/// Removes the file if it is this user's and nobody has locked it.
fn remove(path: &Path) -> bool {
    let own = std::fs::symlink_metadata(path).is_ok_and(|it| it.is_file() && it.uid() == geteuid().as_raw());
    own && File::open(path).is_ok_and(|file| file.try_lock().is_ok() && std::fs::remove_file(path).is_ok())
}
