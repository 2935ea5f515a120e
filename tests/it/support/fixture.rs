//! A database and an S3 server to run backups between while something breaks, and the judge of what such a run leaves.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::bucket::Bucket;
use super::objects::{self, Prints};
use super::pg::Cluster;
use super::program::files;
use super::tally::Outcome;

/// A database and a bucket. Each test of it has a prefix of its own.
pub struct Fixture {
    /// The store, and the runtime where proxies live.
    pub bucket: Bucket,
    cluster: &'static Cluster,
    database: String,
}

/// What was below a prefix before a run: paths and SHA-256.
pub type Kept = BTreeMap<String, String>;

/// How a run of the program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// What it printed on stdout.
    pub out: String,
    /// What it printed on stderr.
    pub err: String,
}

impl Fixture {
    /// Serves an empty bucket for that database.
    pub fn new(cluster: &'static Cluster, database: &str) -> Self {
        Self { bucket: Bucket::start(), cluster, database: database.to_owned() }
    }

    /// `pgstow backup` into that prefix, uncompressed (so that objects come in several parts), to be given other
    /// addresses of database and store.
    pub fn backup(&self, prefix: &str) -> Command {
        let mut command = self.bucket.backup(self.cluster, &self.database, prefix);
        command.args(["--s3-part-size-mib", "5"]).env("PGSTOW_COMPRESSION", "none");
        command
    }

    /// The database's URL.
    pub fn url(&self) -> String {
        self.cluster.url(&self.database)
    }

    /// Copies what is below one prefix to another.
    pub fn copy(&self, from: &str, to: &str) {
        self.adopt(self, from, to);
    }

    /// Copies what another fixture has below a prefix.
    pub fn adopt(&self, other: &Self, from: &str, to: &str) {
        for file in files(&other.bucket.path(from)) {
            let target = self.bucket.path(to).join(&file);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(other.bucket.path(from).join(&file), target).unwrap();
        }
    }

    /// Everything below a prefix.
    pub fn kept(&self, prefix: &str) -> Kept {
        kept(&self.bucket.path(prefix))
    }

    /// Removes what is below a prefix, to spare the disk.
    pub fn forget(&self, prefix: &str) {
        // The server may be at work still, on a request whose program has ended.
        fs::remove_dir_all(self.bucket.path(prefix)).ok();
    }

    /// The objects of the run that `latest.json` of a prefix names.
    pub fn latest(&self, prefix: &str) -> Result<Prints, String> {
        latest(&self.bucket.path(prefix))
    }

    /// What became of a run: see [`judged`]. Survivors leave no upload open; nor do failures, unless the program says so.
    pub fn judge(&self, prefix: &str, before: &Kept, calm: &Prints, ended: &Ended) -> Result<Outcome, String> {
        let outcome = judged(&self.bucket.path(prefix), before, calm, ended)?;
        let open = self.bucket.uploads(prefix);
        let told = ["left open", "may be left"].iter().any(|words| ended.err.contains(words));
        if open.is_empty() || (outcome == Outcome::Failed && told) {
            return Ok(outcome);
        }
        Err(format!("uploads were left open: {open:?}"))
    }
}

/// Everything below a folder.
pub fn kept(folder: &Path) -> Kept {
    let files = files(folder).into_iter().filter(|file| !file.ends_with(".pgstow-lock"));
    files.map(|file| (file.clone(), objects::sha256(&fs::read(folder.join(&file)).unwrap()))).collect()
}

/// The objects of the run that `latest.json` names; an error unless it knows the run's manifest.
pub fn latest(prefix: &Path) -> Result<Prints, String> {
    let pointer = super::program::json(&prefix.join("latest.json"));
    let run = pointer["run"].as_str().ok_or("latest.json names no run")?;
    let folder = prefix.join("runs").join(run);
    let manifest =
        fs::read(folder.join("manifest.json")).map_err(|error| format!("latest.json names {run}: {error}"))?;
    if pointer["sha256"] != objects::sha256(&manifest).as_str() {
        return Err(format!("latest.json does not know the manifest of {run}"));
    }
    objects::prints(&folder)
}

/// The promise: the run completed, its objects are those of a run without faults and `latest.json` names it; or it
/// failed with the right exit code and one error, what was there before is as it was, and there is no new manifest.
/// (A run that was whole when its store went away may leave its manifest, and says so.)
pub fn judged(prefix: &Path, before: &Kept, calm: &Prints, ended: &Ended) -> Result<Outcome, String> {
    let now = kept(prefix);
    let changed: Vec<&String> =
        before.iter().filter(|(file, sum)| now.get(*file) != Some(sum)).map(|(file, _)| file).collect();
    let fresh: Vec<&String> = now.keys().filter(|file| !before.contains_key(*file)).collect();
    if ended.code == Some(0) {
        if changed.iter().any(|file| *file != "latest.json")
            || (changed.is_empty() && before.contains_key("latest.json"))
        {
            return Err(format!("of what was there before, these changed: {changed:?}"));
        }
        objects::same(calm, &latest(prefix)?)?;
        return Ok(Outcome::Survived);
    }
    let errors: Vec<&str> = ended.err.lines().filter(|line| line.starts_with("error: ")).collect();
    if !matches!(ended.code, Some(1 | 130 | 143)) || errors.len() != 1 || ended.err.contains("panicked") {
        return Err("not a clean failure".to_owned());
    }
    // A store that is gone at the very end takes with it the knowledge of what it did last: the program must say so, and
    // what is left must be a whole run.
    let told = |words: &str| ended.err.lines().any(|line| line.starts_with("hint: ") && line.contains(words));
    if !ended.out.is_empty() {
        return Err(format!("a failed run said {:?}", ended.out));
    }
    if changed == ["latest.json"] && told("latest.json may name this run already") {
        objects::same(calm, &latest(prefix)?)?;
    } else if !changed.is_empty() {
        return Err(format!("a failed run changed {changed:?}"));
    }
    for manifest in fresh.iter().filter(|file| file.ends_with("manifest.json")) {
        if !told("the run itself is complete") && !told("manifest.json may be stored all the same") {
            return Err(format!("a failed run left {manifest}"));
        }
        objects::same(calm, &objects::prints(prefix.join(manifest).parent().unwrap())?)?;
    }
    let temporary = |file: &&&String| file.contains("tmp") || file.contains(".part") || file.contains("/.");
    match fresh.iter().find(temporary) {
        Some(file) => Err(format!("a failed run left {file}")),
        None => Ok(Outcome::Failed),
    }
}
