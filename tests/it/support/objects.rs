//! The objects of a run as a judge compares them with those of another run of the same data: everything but what differs by
//! design (the moment an archive was made, pg_dumpall's random keys, the run's name).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use pgstow::seal::hash::hex;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Objects of a run by key, as SHA-256 of what can be compared.
pub type Prints = BTreeMap<String, String>;

/// Reads the run in a folder (`.../runs/<run>`). An error where the manifest is missing or does not name exactly what is
/// there.
pub fn prints(folder: &Path) -> Result<Prints, String> {
    let manifest = fs::read(folder.join("manifest.json")).map_err(|error| format!("manifest.json: {error}"))?;
    let manifest: Value = serde_json::from_slice(&manifest).map_err(|error| format!("manifest.json: {error}"))?;
    let run = folder.file_name().unwrap().to_string_lossy().into_owned();
    let mut objects = Vec::new();
    super::program::collect(&manifest, &mut objects);
    if manifest["run"] != run.as_str() || objects.len() < 4 {
        return Err(format!("{run}: not its manifest: {manifest:#}"));
    }
    let mut found = Prints::new();
    for (key, object) in objects {
        let stored = fs::read(folder.join(&key)).map_err(|error| format!("{run}: {key}: {error}"))?;
        if object["bytes"] != stored.len() || object["sha256"] != sha256(&stored).as_str() {
            return Err(format!("{run}: {key} is not what the manifest says: {object}"));
        }
        found.insert(key.clone(), sha256(&comparable(&key, stored, &run)));
    }
    let there: Vec<String> = super::program::files(folder).into_iter().filter(|file| file != "manifest.json").collect();
    if !there.iter().eq(found.keys()) {
        return Err(format!("{run}: the manifest names {:?}, there are {there:?}", found.keys()));
    }
    found.insert("manifest.json".to_owned(), sha256(facts(&manifest).to_string().as_bytes()));
    Ok(found)
}

/// SHA-256 in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn comparable(key: &str, stored: Vec<u8>, run: &str) -> Vec<u8> {
    let plain = |stored: &[u8]| {
        if key.ends_with(".zst") { zstd::decode_all(stored).unwrap() } else { stored.to_vec() }
    };
    if key.contains(".dump") {
        let mut archive = plain(&stored);
        // After `PGDMP`, three bytes of version, two of sizes and one of format comes the compression: an integer, from
        // version 1.15 on a byte. Then seven integers of five bytes each say when the archive was made.
        let from = 11 + if archive[6] < 15 { 5 } else { 1 };
        archive[from..from + 35].fill(0);
        return archive;
    }
    if key.starts_with("@roles") {
        let text = String::from_utf8(plain(&stored)).unwrap();
        return super::judge::comparable(&text).into_bytes();
    }
    if key == "RESTORE.md" {
        let text = String::from_utf8(stored).unwrap().replace(run, "RUN");
        let same = |line: &&str| !line.contains(", saved 20") && !line.contains("/runs/RUN");
        // Sums are compared through what they are of, as those of the manifest are.
        let without_sum = |line| match str::split_once(line, "  ") {
            Some((sum, key)) if sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit()) => key,
            _ => line,
        };
        return text.lines().filter(same).map(without_sum).collect::<Vec<_>>().join("\n").into_bytes();
    }
    stored
}

/// What a manifest says about the data.
fn facts(manifest: &Value) -> Value {
    let mut facts = manifest.clone();
    for name in ["run", "started_at", "finished_at"] {
        facts[name] = Value::Null;
    }
    for name in ["snapshot", "wal_lsn", "port"] {
        facts["source"][name] = Value::Null;
    }
    // Compressed, what differs by design may differ in length too.
    facts["totals"]["stored_bytes"] = Value::Null;
    forget_sums(&mut facts);
    facts
}

fn forget_sums(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.contains_key("sha256") {
                fields["sha256"] = Value::Null;
                fields["bytes"] = Value::Null;
                if fields["key"].as_str().is_some_and(|key| key.starts_with("@roles") || key == "RESTORE.md") {
                    fields["raw_bytes"] = Value::Null;
                }
            }
            fields.values_mut().for_each(forget_sums);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_sums),
        _ => {}
    }
}

/// Names the keys that differ.
pub fn same(calm: &Prints, other: &Prints) -> Result<(), String> {
    let keys: BTreeSet<&String> = calm.keys().chain(other.keys()).collect();
    let differ: Vec<&&String> = keys.iter().filter(|key| calm.get(**key) != other.get(**key)).collect();
    if differ.is_empty() { Ok(()) } else { Err(format!("not as in a run without faults: {differ:?}")) }
}
