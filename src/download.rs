//! Fetches a run, or parts of it, into a folder, verified before a file gets its final name.
//!
//! Re-running continues: finished files are kept when their content still is what was written. The folder holds one
//! run only, and says which in its state file. Memory: the buffers of one stream a job.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Instant;

use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tracing::debug;

use crate::error::{Context as _, Error, Result};
use crate::format::layout;
use crate::format::manifest::{Manifest, Object, Volume};
use crate::objects::read::Plain;
use crate::objects::stored_run::StoredRun;
use crate::objects::{read, turns};
use crate::runs::{find, outside, select};
use crate::seal::compress::Compression;
use crate::seal::decode::Decoding;
use crate::seal::keys::Keys;
use crate::seal::{decode, hash};
use crate::store::Store;
use crate::store::dir::{PRIVATE, make_private_folders};

/// Which run the folder holds and what was finished in it.
const STATE: &str = ".pgstow-download.json";
/// Finished files between two writes of the state.
const STATE_EVERY: u64 = 64;
/// The suffix of an unfinished file's name.
const UNFINISHED: &str = ".pgstow-part";

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    run: String,
    /// By path below the folder.
    files: BTreeMap<String, Finished>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Finished {
    /// SHA-256 of the file.
    sha256: String,
    bytes: u64,
    /// SHA-256 of the object it came from.
    stored_sha256: String,
}

/// One file to make.
#[derive(Debug, Clone)]
struct Target {
    path: String,
    object: Object,
    decoding: Decoding,
}

/// The result of a download.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) run: String,
    pub(crate) to: PathBuf,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Files that were there already.
    pub(crate) kept: u64,
    pub(crate) seconds: f64,
}

/// The options.
#[derive(Debug)]
pub(crate) struct Options {
    /// `latest`, a run's name or the beginning of one.
    pub(crate) run: String,
    /// The folder.
    pub(crate) to: PathBuf,
    /// Schemas and tables as they were typed; everything where both are empty.
    pub(crate) schemas: Vec<String>,
    pub(crate) tables: Vec<String>,
    /// Keep the objects as they are stored.
    pub(crate) raw: bool,
    /// Objects fetched at the same time.
    pub(crate) jobs: usize,
    /// The keys that the run is read with.
    pub(crate) keys: Keys,
}

/// Downloads a run.
///
/// # Errors
/// A run that is unknown, a folder that cannot be used, a store that fails; kind `Damage` where objects are damaged.
pub(crate) async fn download(store: &Store, options: &Options) -> Result<Summary> {
    let started = Instant::now();
    outside::refuse_inside_store(store, &options.to)
        .map_err(|error| error.hint("choose a folder outside with --to"))?;
    let found = find::trusted(store, &options.run, &options.keys.trust).await?;
    let run = if options.raw {
        StoredRun::as_stored(store.clone(), found.manifest)
    } else {
        StoredRun::new(store.clone(), found.manifest, &options.keys.identities)
            .map_err(|error| error.hint("or take the objects as they are stored, encrypted: --raw"))?
    };
    let targets = targets(&run, options)?;
    let mut state = open_folder(&options.to, &found.name)?;
    let stale = stale(&mut state, &found.name, &options.to, &targets)?;
    write_state(&options.to, &state)?;
    let mut summary =
        Summary { run: found.name.clone(), to: options.to.clone(), files: 0, bytes: 0, kept: 0, seconds: 0.0 };
    let is_missing = |target: &&Target| !state.files.contains_key(&target.path);
    store.traffic().expect(targets.iter().filter(is_missing).map(|target| target.object.bytes).sum());
    let files = state.files.clone();
    let mut results = pin!(turns::side_by_side(
        targets,
        options.jobs,
        |target| target.object.bytes,
        |target| {
            let done = files.get(&target.path).cloned();
            fetch(run.clone(), options.to.clone(), target, done)
        }
    ));
    let mut failures = Vec::new();
    while let Some((path, result)) = results.next().await {
        match result {
            Ok((finished, kept)) => {
                debug!(file = %path, kept, "done");
                summary.files += 1;
                summary.bytes += finished.bytes;
                summary.kept += u64::from(kept);
                state.files.insert(path, finished);
                // Files whose entry a crash loses are fetched again; the state grows with the run.
                if !kept && summary.files.is_multiple_of(STATE_EVERY) {
                    write_state(&options.to, &state)?;
                }
            }
            // Damage of one object must not keep a person from the others; anything else would repeat itself.
            Err(error) if error.kind() == crate::error::Kind::Damage => failures.push(error),
            Err(error) => return Err(error),
        }
    }
    write_state(&options.to, &state)?;
    if let Some(error) = together(&failures) {
        return Err(error);
    }
    for path in stale {
        remove(&options.to.join(&path))?;
        state.files.remove(&path);
    }
    write_state(&options.to, &state)?;
    put_signature(store, &found.name, &options.to).await?;
    // Last, so that a folder with a manifest is a finished download.
    write_whole(&options.to.join(layout::MANIFEST), &found.bytes)?;
    summary.seconds = started.elapsed().as_secs_f64();
    Ok(summary)
}

/// Leaves the run's signature in the folder, or none where the run has none.
async fn put_signature(store: &Store, run: &str, to: &Path) -> Result<()> {
    let (key, file) = (layout::in_run(run, layout::SIGNATURE), to.join(layout::SIGNATURE));
    match store.get(&key).await.with_context(|| format!("read {key}"))? {
        Some(text) => write_whole(&file, &text),
        None => remove(&file),
    }
}

fn together(failures: &[Error]) -> Option<Error> {
    let messages: Vec<String> = failures.iter().map(ToString::to_string).collect();
    (!messages.is_empty()).then(|| {
        Error::damage(format!("{} objects are damaged: {}", messages.len(), messages.join("; ")))
            .hint("all other files were fetched; `pgstow verify` tells more, another run may be sound")
    })
}

/// The files that the options ask for.
fn targets(run: &StoredRun, options: &Options) -> Result<Vec<Target>> {
    let StoredRun { manifest, decoding, .. } = run;
    let everything = options.schemas.is_empty() && options.tables.is_empty();
    let mut chosen: Vec<&Object> = Vec::new();
    if everything {
        chosen.extend([&manifest.roles.object, &manifest.database.object]);
        chosen.extend(&manifest.large_objects.object);
    }
    for wanted in &options.schemas {
        select::schema(manifest, wanted)?;
    }
    let tables: Vec<_> = options.tables.iter().map(|wanted| select::table(manifest, wanted)).collect::<Result<_>>()?;
    for (at, schema) in manifest.schemas.iter().enumerate() {
        let whole = everything || options.schemas.contains(&schema.name);
        if whole {
            chosen.push(&schema.dump);
        }
        for (number, table) in schema.tables.iter().enumerate() {
            if whole || tables.contains(&(at, number)) {
                chosen.push(&table.file);
                chosen.extend(table.index.as_ref().filter(|_| options.raw));
            }
        }
    }
    let mut targets: Vec<Target> = Vec::new();
    for object in chosen {
        if options.raw {
            targets.extend(object.volumes().into_iter().map(|Volume { key, bytes, sha256 }| {
                let object = Object { key: key.clone(), bytes, sha256, raw_bytes: bytes, volumes: Vec::new() };
                Target { path: key, object, decoding: Decoding::AS_STORED }
            }));
        } else {
            targets.push(Target {
                path: stem(object, manifest).to_owned(),
                object: object.clone(),
                decoding: decoding.clone(),
            });
        }
    }
    let as_it_is = manifest.restore_md.iter().cloned();
    targets.extend(as_it_is.map(|object| Target { path: object.key.clone(), object, decoding: Decoding::AS_STORED }));
    if let Some(target) =
        targets.iter().find(|t| !read::safe(&t.path) || t.path.ends_with(UNFINISHED) || t.path == STATE)
    {
        return Err(Error::damage(format!(
            "the manifest names an object {:?}, which cannot be a file",
            target.object.key
        )));
    }
    targets.sort_by_key(|target| std::cmp::Reverse(target.object.bytes));
    Ok(targets)
}

/// The key of an object without what compression, encryption and volumes added to it.
fn stem<'a>(object: &'a Object, manifest: &Manifest) -> &'a str {
    let key = object.whole_key();
    let key = if manifest.encryption.is_some() { key.strip_suffix(".age").unwrap_or(key) } else { key };
    let suffix = manifest.compression.parse::<Compression>().map_or("", Compression::suffix);
    key.strip_suffix(suffix).unwrap_or(key)
}

/// Makes the folder ready for this run, or says why it is not for it.
fn open_folder(to: &Path, run: &str) -> Result<State> {
    make_private_folders(to).map_err(|error| at(to, &error, "create"))?;
    match fs::read(to.join(STATE)) {
        Ok(bytes) => {
            let state: State = serde_json::from_slice(&bytes)
                .map_err(|error| Error::failed(format!("{}: {error}", to.join(STATE).display())))?;
            Ok(state)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if fs::read_dir(to).map_err(|error| at(to, &error, "read"))?.next().is_some() {
                return Err(Error::usage(format!("{} is not empty and no download began in it", to.display()))
                    .hint("choose another folder with --to, or empty this one"));
            }
            Ok(State { run: run.to_owned(), files: BTreeMap::new() })
        }
        Err(error) => Err(at(&to.join(STATE), &error, "read")),
    }
}

/// Where the folder holds an earlier download of another run, it becomes one of this run: same objects stay, others
/// are replaced one by one, and what this run does not have is returned, to be removed at the end. Its manifest goes
/// first: a folder with a manifest is a finished download.
fn stale(state: &mut State, run: &str, to: &Path, targets: &[Target]) -> Result<Vec<String>> {
    if state.run == run {
        return Ok(Vec::new());
    }
    tracing::info!("{} holds run {}; bringing it to run {run}", to.display(), state.run);
    remove(&to.join(layout::MANIFEST))?;
    run.clone_into(&mut state.run);
    let wanted: std::collections::HashSet<&str> = targets.iter().map(|target| target.path.as_str()).collect();
    Ok(state.files.keys().filter(|path| !wanted.contains(path.as_str())).cloned().collect())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(at(path, &error, "remove")),
        _ => Ok(()),
    }
}

fn write_state(to: &Path, state: &State) -> Result<()> {
    let text = serde_json::to_vec_pretty(state).map_err(|error| Error::failed(error.to_string()))?;
    write_whole(&to.join(STATE), &text)
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let unfinished = unfinished(path);
    create(&unfinished)?.write_all(bytes).map_err(|error| at(&unfinished, &error, "write"))?;
    fs::rename(&unfinished, path).map_err(|error| at(path, &error, "rename to"))
}

/// Makes a file that is for its owner only, whatever the umask.
fn create(path: &Path) -> Result<File> {
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE).open(path);
    made.map_err(|error| at(path, &error, "create"))
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    PathBuf::from(name)
}

/// Makes one file; true when it was there already.
async fn fetch(
    run: StoredRun,
    to: PathBuf,
    target: Target,
    done: Option<Finished>,
) -> (String, Result<(Finished, bool)>) {
    let path = target.path.clone();
    let made = tokio::task::spawn_blocking(move || {
        let file = to.join(&target.path);
        if let Some(done) = done
            && done.stored_sha256 == target.object.sha256
            && intact(&file, &done)?
        {
            return Ok((done, true));
        }
        make(&run, &file, &target).map(|finished| (finished, false))
    });
    let result = made.await.unwrap_or_else(|error| Err(Error::failed(format!("write a file: {error}"))));
    (path, result)
}

/// True when a finished file still is what was written.
fn intact(path: &Path, done: &Finished) -> Result<bool> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(at(path, &error, "read")),
    };
    if file.metadata().map_err(|error| at(path, &error, "read"))?.len() != done.bytes {
        return Ok(false);
    }
    let mut hash = Sha256::new();
    copy(&mut file, |part| {
        hash.update(part);
        Ok(())
    })
    .map_err(|error| error.context(path.display()))?;
    Ok(hash::hex(&hash.finalize()) == done.sha256)
}

fn make(run: &StoredRun, path: &Path, target: &Target) -> Result<Finished> {
    let folder = path.parent().unwrap_or(Path::new("."));
    make_private_folders(folder).map_err(|error| at(folder, &error, "create"))?;
    let temporary = unfinished(path);
    let mut file = create(&temporary)?;
    let result = fill(run, &mut file, &temporary, target);
    if result.is_err() {
        // The error counts; what is left over is overwritten next time.
        let _left_over = fs::remove_file(&temporary);
    }
    let finished = result?;
    fs::rename(&temporary, path).map_err(|error| at(path, &error, "rename to"))?;
    Ok(finished)
}

fn fill(run: &StoredRun, file: &mut File, path: &Path, target: &Target) -> Result<Finished> {
    let object = &target.object;
    let (watch, stored) = run.watched(object);
    let mut plain = Plain::new(stored, &target.decoding);
    let mut hash = Sha256::new();
    let copied = copy(&mut plain, |part| {
        hash.update(part);
        file.write_all(part).map_err(|error| at(path, &error, "write"))
    });
    read::settle(&watch, object, copied, plain.bytes)?;
    file.sync_all().map_err(|error| at(path, &error, "write"))?;
    Ok(Finished { sha256: hash::hex(&hash.finalize()), bytes: plain.bytes, stored_sha256: object.sha256.clone() })
}

fn copy(from: &mut impl Read, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; decode::BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(size) => each(buffer.get(..size).unwrap_or_default())?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// An error of the file system, with the path and what was being done.
fn at(path: &Path, error: &io::Error, operation: &str) -> Error {
    let message = format!("{operation} {}: {error}", path.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::failed(message)
            .hint("free some room, or choose another disk with --to; the same command goes on where this one stopped"),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            Error::failed(message).hint("choose a folder you may write to with --to")
        }
        _ => Error::failed(message),
    }
}
