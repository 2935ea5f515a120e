//! Damages one thing of a run in a directory store, drawn by a number.

use std::fs;
use std::path::{Path, PathBuf};

/// Damages something and says what; none where there is nothing of that kind.
pub fn damage(store: &Path, draw: usize) -> Option<String> {
    let mut files = Vec::new();
    list(&store.join("runs"), &mut files);
    files.retain(|file| file.metadata().is_ok_and(|metadata| metadata.len() > 0));
    files.sort();
    let objects: Vec<&PathBuf> = files.iter().filter(|file| !file.ends_with("manifest.json")).collect();
    let object = objects.get((draw / 8) % objects.len().max(1))?;
    let name = object.strip_prefix(store).ok()?.display();
    match draw % 4 {
        0 | 1 => {
            let mut bytes = fs::read(object).ok()?;
            let at = (draw / 64) % bytes.len();
            *bytes.get_mut(at)? ^= 1 << (draw % 8);
            fs::write(object, bytes).ok()?;
            Some(format!("a bit of \"{name}\" at {at}"))
        }
        2 => {
            fs::remove_file(object).ok()?;
            Some(format!("\"{name}\" is gone"))
        }
        _ => {
            let bytes = fs::read(object).ok()?;
            fs::write(object, bytes.get(..bytes.len() / 2)?).ok()?;
            Some(format!("half of \"{name}\""))
        }
    }
}

fn list(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { list(&path, found) } else { found.push(path) }
    }
}
