//! The deleting itself. A failure is remembered with its key and the rest goes on.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use crate::error::Result;
use crate::format::layout;
use crate::store::{OpenUpload, Store};

/// Times the unfinished uploads are listed: Supabase Storage loses entries between the pages of a list.
const ROUNDS: usize = 10;

/// Deletes, or in a dry run only counts.
pub(crate) struct Sweep<'a> {
    store: &'a Store,
    dry: bool,
    /// Versions are deleted too.
    versions: bool,
    /// Bytes of what was deleted that old versions still take.
    left: u64,
    failures: Vec<String>,
    notes: Vec<String>,
}

impl<'a> Sweep<'a> {
    /// Nothing is deleted yet; with `dry` nothing ever is.
    pub(crate) fn new(store: &'a Store, dry: bool, versions: bool) -> Self {
        Self { store, dry, versions, left: 0, failures: Vec::new(), notes: Vec::new() }
    }

    /// The store.
    pub(crate) fn store(&self) -> &'a Store {
        self.store
    }

    /// Notes for a person, though nothing failed.
    pub(crate) fn notes(&mut self) -> Vec<String> {
        if self.left > 0 {
            self.note(
                "the bucket keeps what was deleted as old versions (versioning, Object Lock), which take room: \
                 `pgstow prune --versions` deletes those of the runs it deletes, a lifecycle rule for noncurrent versions \
                 the others, neither before a lock ends",
            );
        }
        self.notes.clone()
    }

    /// Bytes of what was deleted that old versions still take.
    pub(crate) fn left_bytes(&self) -> u64 {
        self.left
    }

    /// The objects that could not be deleted, each with its key.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.clone()
    }

    /// The result, or a failure noted.
    fn noted<T>(&mut self, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| {
                tracing::warn!("{error}");
                self.failures.push(error.message());
            })
            .ok()
    }

    async fn delete(&mut self, keys: Vec<String>) {
        if self.dry {
            return;
        }
        for error in self.store.delete_all(keys).await {
            self.noted::<()>(Err(error));
        }
    }

    fn note(&mut self, note: &str) {
        if !self.notes.iter().any(|known| known == note) {
            self.notes.push(note.to_owned());
        }
    }

    /// Deletes a run: manifest, then everything else, then its receipts. Counts its objects and bytes.
    ///
    /// Returns why it was kept instead; then nothing of it was deleted.
    pub(crate) async fn run(
        &mut self,
        run: &str,
        incomplete: bool,
        objects: &mut u64,
        bytes: &mut u64,
    ) -> Option<String> {
        let prefix = layout::run_prefix(run);
        let listed = self.store.list(&prefix).await;
        let Some(mut listed) = self.noted(listed) else { return Some("its objects could not be listed".to_owned()) };
        let is_own = |key: &str| key.strip_prefix(&prefix).is_some_and(layout::is_object);
        let foreign: Vec<String> =
            listed.extract_if(.., |object| !is_own(&object.key)).map(|object| object.key).collect();
        if let Some(first) = foreign.first() {
            let first = crate::human::plain(first);
            tracing::warn!("{} in run {run} that pgstow did not write stay: {first}", foreign.len());
            if listed.is_empty() {
                return Some(format!("only what pgstow did not write is left of it: {first}"));
            }
        }
        let manifest = layout::in_run(run, layout::MANIFEST);
        if incomplete && listed.iter().any(|object| object.key == manifest) {
            return Some("it was finished just now".to_owned());
        }
        *objects = listed.len() as u64;
        *bytes = listed.iter().map(|object| object.bytes).sum();
        if self.versions {
            match self.run_with_versions(&prefix, &manifest, &is_own, bytes).await {
                Deleted::None => {}
                Deleted::All => {
                    self.receipts(run).await;
                    return None;
                }
                Deleted::Kept(why) => return Some(why),
            }
        }
        if !self.dry && !incomplete {
            let gone = self.store.delete(&manifest).await;
            if self.noted(gone).is_none() {
                return Some("its manifest could not be deleted".to_owned());
            }
        }
        self.delete(listed.into_iter().map(|object| object.key).filter(|key| *key != manifest).collect()).await;
        if self.store.keeps_versions() && !self.dry {
            self.left += match self.store.versions(&prefix).await {
                Ok(versions) => versions.iter().filter(|one| is_own(&one.key)).map(|one| one.bytes).sum(),
                // A key that may not look: deleting has left markers, which hide what they stand for.
                Err(_denied) => *bytes,
            };
        }
        self.receipts(run).await;
        None
    }

    async fn receipts(&mut self, run: &str) {
        let receipts = self.store.list(&layout::receipts(run)).await;
        if let Some(receipts) = self.noted(receipts) {
            self.delete(receipts.into_iter().map(|object| object.key).collect()).await;
        }
    }

    /// Deletes all versions of a run's objects, those of the manifest first: where a lock holds them nothing is deleted.
    /// `bytes` becomes the size of all versions.
    async fn run_with_versions(
        &mut self,
        prefix: &str,
        manifest: &str,
        is_own: &impl Fn(&str) -> bool,
        bytes: &mut u64,
    ) -> Deleted {
        let listed = self.store.versions(prefix).await;
        let Some(mut versions) = self.noted(listed) else {
            return Deleted::Kept("its versions could not be listed".to_owned());
        };
        versions.retain(|version| is_own(&version.key));
        if versions.is_empty() {
            return Deleted::None;
        }
        *bytes = versions.iter().map(|version| version.bytes).sum();
        if self.dry {
            return Deleted::All;
        }
        let (first, rest): (Vec<_>, Vec<_>) = versions.into_iter().partition(|version| version.key == manifest);
        if let Some(error) = self.store.delete_versions(&first).await.first() {
            return Deleted::Kept(format!("its versions cannot be deleted yet (Object Lock?): {}", error.cause()));
        }
        for error in self.store.delete_versions(&rest).await {
            self.noted::<()>(Err(error));
        }
        if !rest.is_empty()
            && let Ok(left) = self.store.versions(prefix).await
        {
            self.left += left.iter().filter(|version| is_own(&version.key)).map(|version| version.bytes).sum::<u64>();
        }
        Deleted::All
    }

    /// Unfinished uploads of this program's keys.
    pub(crate) async fn uploads(&mut self) -> Vec<OpenUpload> {
        // In a directory every object begins as a temporary file; in S3 only those of runs are uploads in parts.
        let prefix = if self.store.local_path().is_some() { "" } else { "runs/" };
        let found = self.store.known_uploads(prefix).await;
        let mut found = match self.noted(found) {
            Some(Some(found)) => found,
            Some(None) => {
                self.note(
                    "the store cannot list unfinished uploads: let it remove those that are older than a week by itself",
                );
                Vec::new()
            }
            None => Vec::new(),
        };
        found.retain(is_ours);
        found
    }

    /// Aborts the unfinished uploads that are older than that. Returns their keys.
    pub(crate) async fn abort(&mut self, mut uploads: Vec<OpenUpload>, grace: Duration) -> Vec<String> {
        let mut tried: Vec<OpenUpload> = Vec::new();
        for _round in 0..ROUNDS {
            uploads.retain(|upload| is_older(upload.started, grace) && !tried.contains(upload));
            if uploads.is_empty() {
                break;
            }
            for upload in uploads {
                if !self.dry {
                    let gone = self.store.abort_upload(&upload).await;
                    self.noted(gone);
                }
                tried.push(upload);
            }
            if self.dry {
                break;
            }
            uploads = self.uploads().await;
        }
        tried.into_iter().map(|upload| upload.key).collect()
    }

    /// Deletes receipts of runs that are not there any more, and old claims at the pointer. Returns their keys.
    pub(crate) async fn leftovers(&mut self, runs: &BTreeSet<&str>, grace: Duration) -> Vec<String> {
        let mut keys = Vec::new();
        for folder in [layout::RECEIPTS, layout::CLAIMS] {
            let listed = self.store.list(folder).await;
            for object in self.noted(listed).unwrap_or_default() {
                let mut parts = object.key.split('/').skip(1);
                let ours = match (folder, parts.next(), parts.next(), parts.next()) {
                    (layout::RECEIPTS, Some(run), Some(_file), None) => layout::is_run(run) && !runs.contains(run),
                    (layout::CLAIMS, Some(name), None, None) => {
                        name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
                    }
                    _ => false,
                };
                if ours && is_older(object.modified, grace) {
                    keys.push(object.key);
                }
            }
        }
        self.delete(keys.clone()).await;
        keys
    }
}

/// The fate of a run whose versions were to be deleted.
enum Deleted {
    /// The store keeps no versions.
    None,
    All,
    /// Nothing was deleted, and why.
    Kept(String),
}

/// True when a moment is that long ago; false for an unknown moment.
pub(crate) fn is_older(moment: Option<SystemTime>, than: Duration) -> bool {
    moment.and_then(|moment| moment.elapsed().ok()).is_some_and(|age| age >= than)
}

/// True when an unfinished upload is for a key of this program, directly below the prefix.
fn is_ours(upload: &OpenUpload) -> bool {
    let segments: Vec<&str> = upload.key.split('/').collect();
    match segments.as_slice() {
        ["runs" | "receipts", run, _, ..] => layout::is_run(run),
        // Temporary files of a directory.
        [_] | ["pins" | "claims", _] => upload.id.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uploads_of_runs_are_ours() {
        let ours = |key: &str, id: &str| is_ours(&OpenUpload { key: key.to_owned(), id: id.to_owned(), started: None });
        assert!(ours("runs/20261122T150405Z-1a2b3c/public.dump.zst", "id"));
        assert!(ours("runs/20261122T150405Z-1a2b3c/public/a.sql.zst", "id"));
        assert!(ours("receipts/20261122T150405Z-1a2b3c/.pgstow-tmp-0", ""));
        assert!(ours(".pgstow-tmp-0", ""));
        for foreign in
            ["runs/other/file", "other/runs/20261122T150405Z-1a2b3c/x", "file", "runs/20261122T150405Z-1a2b3c"]
        {
            assert!(!ours(foreign, "id"), "{foreign}");
        }
    }
}
