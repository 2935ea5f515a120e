//! Damages one thing of a run in a directory store, drawn by a number.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::server::run;

/// Damages something and says what; none where there is nothing of that kind.
pub fn damage(store: &Path, draw: usize) -> Option<String> {
    let mut files = Vec::new();
    list(&store.join("runs"), &mut files);
    files.retain(|file| file.metadata().is_ok_and(|metadata| metadata.len() > 0));
    files.sort();
    let objects: Vec<&PathBuf> = files.iter().filter(|file| !file.ends_with("manifest.json")).collect();
    let object = objects.get((draw / 8) % objects.len().max(1))?;
    let name = object.strip_prefix(store).ok()?.display();
    match draw % 5 {
        4 => number_of_manifest(files.iter().find(|file| file.ends_with("manifest.json"))?, store, draw / 8),
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

/// Changes one number of the manifest and mends the hash in `latest.json`, as somebody who can write would.
fn number_of_manifest(manifest: &Path, store: &Path, draw: usize) -> Option<String> {
    const COUNTS: [&str; 4] = ["\"rows\": ", "\"bytes\": ", "\"raw_bytes\": ", "\"count\": "];
    let text = fs::read_to_string(manifest).ok()?;
    // Totals and sizes of the server are told, not promised.
    let from = text.find("\"roles\"")?;
    let places: Vec<usize> = COUNTS
        .iter()
        .flat_map(|word| text.match_indices(word).map(|(at, _)| at + word.len()))
        .filter(|at| *at > from)
        .collect();
    let at = *places.get(draw % places.len().max(1))?;
    let end = at + text.get(at..)?.find(|letter: char| !letter.is_ascii_digit())?;
    let number: u64 = text.get(at..end)?.parse().ok()?;
    let changed = format!("{}{}{}", text.get(..at)?, number + 1, text.get(end..)?);
    let line = text.get(..at)?.rsplit('\n').next()?.trim();
    let hash =
        |of: &str| Some(run(Command::new("sha256sum").arg("-"), of.as_bytes()).out.split(' ').next()?.to_owned());
    let (old, new) = (hash(&text)?, hash(&changed)?);
    fs::write(manifest, &changed).ok()?;
    let latest = store.join("latest.json");
    let pointer = fs::read_to_string(&latest).ok()?.replace(&old, &new);
    fs::write(&latest, pointer).ok()?;
    Some(format!("{line} {number} is {} in the manifest", number + 1))
}

fn list(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { list(&path, found) } else { found.push(path) }
    }
}
