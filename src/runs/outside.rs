//! Folders outside of stores: what a command writes for people must not lie among a store's own files.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::layout;
use crate::store::Store;

/// Refuses a folder inside a directory store: its files would look like the store's own.
///
/// # Errors
/// Kind `Usage`; a path that cannot be found.
pub(crate) fn refuse_inside_store(store: &Store, to: &Path) -> Result<()> {
    let to = absolute(to)?;
    let refused = || Error::usage(format!("{} is inside a store", to.display()));
    if let Some(own) = store.local_path()
        && to.starts_with(absolute(own)?)
    {
        return Err(refused());
    }
    if to.ancestors().any(|folder| folder.join(layout::LATEST).is_file() && folder.join("runs").is_dir()) {
        return Err(refused());
    }
    Ok(())
}

/// The real path, links followed, of a folder that need not exist yet.
fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).map_err(|error| Error::failed(format!("find {}: {error}", path.display())))?;
    for existing in path.ancestors() {
        if let Ok(real) = existing.canonicalize() {
            let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
            return Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) });
        }
    }
    Ok(path)
}
