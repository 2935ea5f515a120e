//! A file for the definitions of a run, which programs of PostgreSQL read by its name. It is this user's alone and
//! removed when dropped: definitions may hold passwords of user mappings.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use crate::error::{Context as _, Result};

/// A file that only this user can read, removed when dropped. Holds definitions, never rows.
pub(crate) struct PrivateFile {
    pub(crate) path: PathBuf,
}

impl PrivateFile {
    pub(crate) fn new(content: &[u8]) -> Result<Self> {
        let name = format!("pgstow-{}-{:016x}.dump", std::process::id(), rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        let shown = path.display().to_string();
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).context(&shown)?;
        let this = Self { path };
        file.write_all(content).context(&shown)?;
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
