//! Stores of runs: one contract, two makes. [`s3`] speaks to S3-compatible servers, [`dir`] to a directory.
//!
//! Owns keys below the store's prefix, atomic appearance of objects, conditions, bounded memory of uploads, and the
//! wording of what went wrong. Of runs it knows their keys only (which of them a retention is for), of manifests
//! nothing. An object appears whole or not at all; what a dropped or failed writer leaves behind is removed by a
//! tracked task that [`Store::drain`] waits for.

pub mod config;
pub(crate) mod dir;
pub(crate) mod object;
pub mod probe;
pub(crate) mod s3;
pub(crate) mod traffic;
pub(crate) mod writer;

use std::ops::Range;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::task::TaskTracker;

use crate::error::{Error, Result};
pub use crate::store::config::Config;
pub use crate::store::object::{Condition, ObjectInfo, OpenUpload, Plan, Put, Stored, WriteError};
pub(crate) use crate::store::object::{check_key, refuse_large};
use crate::store::traffic::{InFlight, Requests, Traffic};
pub use crate::store::writer::ObjectWriter;

/// Objects deleted at once, one request each; what a store takes from one client without throttling it.
const DELETES: usize = 8;
/// Longest wait of [`Store::drain`]: a shutdown must not hang on a dead network.
const DRAIN: Duration = Duration::from_secs(5);

/// A place for objects, below one prefix. Clones share connections, memory bounds and what was learnt.
#[derive(Clone)]
pub struct Store {
    backend: Backend,
    cleaners: TaskTracker,
    traffic: Arc<Traffic>,
}

#[derive(Clone)]
enum Backend {
    Dir(Arc<dir::Dir>),
    S3(Arc<s3::S3>),
}

/// The bytes of (a range of) an object; see [`Store::read`].
pub struct ObjectReader {
    inner: Pin<Box<dyn AsyncRead + Send>>,
    traffic: Arc<Traffic>,
    /// Since when the store is waited for.
    since: Option<Instant>,
}

impl AsyncRead for ObjectReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = self.inner.as_mut().poll_read(cx, buf);
        self.traffic.add((buf.filled().len() - before) as u64);
        if polled.is_pending() {
            self.since.get_or_insert_with(Instant::now);
        } else if let Some(since) = self.since.take() {
            self.traffic.store.add(since.elapsed());
        }
        polled
    }
}

impl Store {
    /// Opens `s3://bucket/prefix`, `file:///path` or a plain path. No network but what finding credentials needs;
    /// [`Store::check`] tells whether the store can be used.
    ///
    /// # Errors
    /// A name or setting that makes no sense (usage), no credentials found, an unreadable CA file.
    pub async fn open(config: impl Into<Config>) -> Result<Self> {
        Self::open_with(config, None).await
    }

    /// Like [`Store::open`] with a fixed (access key, secret key) instead of the default chain.
    #[doc(hidden)]
    pub async fn open_with(config: impl Into<Config>, credentials: Option<(String, String)>) -> Result<Self> {
        let config = config.into();
        let cleaners = TaskTracker::new();
        let backend = if config.location.starts_with("s3://") {
            Backend::S3(Arc::new(Box::pin(s3::S3::open(&config, credentials)).await?))
        } else {
            s3::Options::refuse_for_directory(&config)?;
            refuse_mistyped(&config)?;
            Backend::Dir(Arc::new(dir::Dir::open(&config.location, cleaners.clone())?))
        };
        Ok(Self { backend, cleaners, traffic: Arc::default() })
    }

    /// `s3://bucket/prefix` or the path; never a secret.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.backend {
            Backend::Dir(dir) => dir.root().display().to_string(),
            Backend::S3(s3) => s3.describe(),
        }
    }

    /// The identity of this store: endpoint, bucket and prefix, or the directory where links lead to. Two
    /// names of one server are two stores.
    #[must_use]
    pub fn identity(&self) -> String {
        match &self.backend {
            Backend::Dir(dir) => {
                let root = dir.root();
                root.canonicalize().unwrap_or_else(|_not_there_yet| root.to_owned()).display().to_string()
            }
            Backend::S3(s3) => {
                let endpoint = s3.endpoint().unwrap_or_default().trim_end_matches('/').to_ascii_lowercase();
                format!("{endpoint} {}", s3.describe())
            }
        }
    }

    /// The directory of a directory store.
    #[must_use]
    pub fn local_path(&self) -> Option<&Path> {
        match &self.backend {
            Backend::Dir(dir) => Some(dir.root()),
            Backend::S3(_) => None,
        }
    }

    /// The S3 endpoint, when one is set.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        match &self.backend {
            Backend::Dir(_) => None,
            Backend::S3(s3) => s3.endpoint(),
        }
    }

    /// Checks that the store can be reached, exists and accepts the credentials. A directory that does not exist yet is
    /// fine: the first object makes it.
    ///
    /// # Errors
    /// A store that does not answer or refuses, with hints.
    pub async fn check(&self) -> Result<()> {
        match &self.backend {
            Backend::Dir(dir) => dir.check().await,
            Backend::S3(s3) => Box::pin(s3.check()).await,
        }
    }

    /// A small object whole, in memory; `None` when absent.
    ///
    /// # Errors
    /// Kind `Damage` for one larger than any document of pgstow.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        match &self.backend {
            Backend::Dir(dir) => dir.get(key).await,
            Backend::S3(s3) => Box::pin(s3.get(key)).await,
        }
    }

    /// The facts about an object; `None` when absent.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectInfo>> {
        match &self.backend {
            Backend::Dir(dir) => dir.head(key).await,
            Backend::S3(s3) => Box::pin(s3.head(key)).await,
        }
    }

    /// The bytes `[start, end)` of an object. A broken or stalled stream is resumed at the byte it reached. An object
    /// that ends before `end` ends the stream early: the caller compares sizes.
    ///
    /// # Errors
    /// An absent key, now; a stream that cannot be resumed, or an object replaced meanwhile, while reading.
    pub async fn read(&self, key: &str, range: Range<u64>) -> Result<ObjectReader> {
        let inner = match &self.backend {
            Backend::Dir(dir) => dir.read(key, range).await?,
            Backend::S3(s3) => Box::pin(s3::S3::read(s3, key, range)).await?,
        };
        Ok(ObjectReader { inner, traffic: Arc::clone(&self.traffic), since: None })
    }

    /// Stores a small object in one piece.
    pub async fn put(&self, key: &str, body: Bytes, condition: Condition) -> Result<Put> {
        match &self.backend {
            Backend::Dir(dir) => dir.put(key, body, condition).await,
            Backend::S3(s3) => Box::pin(s3.put(key, body, &condition)).await,
        }
    }

    /// Begins a streamed object; nothing is sent before the first part is full.
    #[must_use]
    pub fn writer(&self, key: &str, plan: Plan) -> ObjectWriter {
        let cleaners = self.cleaners.clone();
        match &self.backend {
            Backend::Dir(dir) => ObjectWriter::dir(dir::Writer::new(Arc::clone(dir), key, cleaners)),
            Backend::S3(s3) => ObjectWriter::s3(s3::Writer::new(Arc::clone(s3), key, plan, cleaners)),
        }
    }

    /// All objects whose keys begin with `prefix`, in byte order of their keys.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut objects = match &self.backend {
            Backend::Dir(dir) => dir.list(prefix).await,
            Backend::S3(s3) => Box::pin(s3.list(prefix)).await,
        }?;
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// Names of the direct sub-folders of `prefix` (empty, or ending in `/`) that hold an object, sorted, without `/`.
    pub async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let mut names = match &self.backend {
            Backend::Dir(dir) => dir.folders(prefix).await,
            Backend::S3(s3) => Box::pin(s3.folders(prefix)).await,
        }?;
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Deletes an object; an absent one is fine.
    pub async fn delete(&self, key: &str) -> Result<()> {
        match &self.backend {
            Backend::Dir(dir) => dir.delete(key).await,
            Backend::S3(s3) => Box::pin(s3.delete(key)).await,
        }
    }

    /// The unfinished uploads below `prefix`, of this or any other process.
    pub async fn uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>> {
        match &self.backend {
            Backend::Dir(dir) => dir.uploads(prefix).await,
            Backend::S3(s3) => Box::pin(s3.uploads(prefix)).await.map(Option::unwrap_or_default),
        }
    }

    /// As [`Store::uploads`]; `None` where the store cannot list them.
    pub(crate) async fn known_uploads(&self, prefix: &str) -> Result<Option<Vec<OpenUpload>>> {
        match &self.backend {
            Backend::Dir(dir) => dir.uploads(prefix).await.map(Some),
            Backend::S3(s3) => Box::pin(s3.uploads(prefix)).await,
        }
    }

    /// Deletes objects, absent ones too, with as few requests as the store allows. Returns one error for each that
    /// could not be deleted.
    pub(crate) async fn delete_all(&self, keys: Vec<String>) -> Vec<Error> {
        let keys = match &self.backend {
            Backend::Dir(_) => keys,
            Backend::S3(s3) => match Box::pin(s3.delete_batches(keys)).await {
                s3::delete::Batches { errors, left } if left.is_empty() => return errors,
                s3::delete::Batches { errors, left } => {
                    return errors.into_iter().chain(self.delete_each(left).await).collect();
                }
            },
        };
        self.delete_each(keys).await
    }

    async fn delete_each(&self, keys: Vec<String>) -> Vec<Error> {
        let deleting = stream::iter(keys).map(|key| async move { self.delete(&key).await });
        let results: Vec<Result<()>> = deleting.buffer_unordered(DELETES).collect().await;
        results.into_iter().filter_map(Result::err).collect()
    }

    /// All versions below `prefix`, delete markers included; empty where the store keeps none.
    pub(crate) async fn versions(&self, prefix: &str) -> Result<Vec<s3::versions::Version>> {
        let Backend::S3(s3) = &self.backend else { return Ok(Vec::new()) };
        let versions = Box::pin(s3.versions(prefix)).await?;
        // A bucket without versioning answers with one version of each object, named null.
        Ok(if versions.iter().all(|version| version.id == "null") { Vec::new() } else { versions })
    }

    /// Deletes versions. Returns one error for each that could not be deleted.
    pub(crate) async fn delete_versions(&self, versions: &[s3::versions::Version]) -> Vec<Error> {
        match &self.backend {
            Backend::Dir(_) => Vec::new(),
            Backend::S3(s3) => Box::pin(s3.delete_versions(versions)).await,
        }
    }

    /// The share that was read of what is going to be.
    pub(crate) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// The requests sent so far, by kind; none of a directory.
    pub(crate) fn requests(&self) -> Vec<Requests> {
        match &self.backend {
            Backend::Dir(_) => Vec::new(),
            Backend::S3(s3) => s3.requests(self.traffic.total()),
        }
    }

    /// The requests with a body that may be under way at once; `None` of a directory.
    pub(crate) fn in_flight(&self) -> Option<InFlight> {
        match &self.backend {
            Backend::Dir(_) => None,
            Backend::S3(s3) => Some(s3.in_flight()),
        }
    }

    /// True where a bucket is read as it was at a moment, so that nothing can be written.
    pub(crate) fn is_past(&self) -> bool {
        matches!(&self.backend, Backend::S3(s3) if s3.is_past())
    }

    /// True where a deletion was seen to leave old versions behind.
    pub(crate) fn keeps_versions(&self) -> bool {
        matches!(&self.backend, Backend::S3(s3) if s3.keeps_versions())
    }

    /// Removes something unfinished; already gone is fine.
    pub async fn abort_upload(&self, upload: &OpenUpload) -> Result<()> {
        match &self.backend {
            Backend::Dir(dir) => dir.delete_file(&upload.key).await,
            Backend::S3(s3) => Box::pin(s3.abort(&upload.key, &upload.id)).await,
        }
    }

    /// Tries what the store can do, on keys that `probe_objects` remembers; the caller hands it to [`Store::tidy`] afterwards,
    /// also when this call was dropped. Never an error: what fails is part of the answer.
    ///
    /// Sends about 20 MiB to an S3 server, since its smallest part is 5 MiB.
    pub async fn probe(&self, probe_objects: &probe::ProbeObjects) -> probe::Probe {
        match &self.backend {
            Backend::Dir(dir) => probe::directory(dir, probe_objects).await,
            Backend::S3(s3) => Box::pin(s3::probe(s3, probe_objects)).await,
        }
    }

    /// Removes what a probe made. Returns what could not be removed.
    pub async fn tidy(&self, probe_objects: &probe::ProbeObjects) -> Vec<String> {
        match &self.backend {
            Backend::Dir(dir) => probe::tidy_directory(dir, probe_objects).await,
            Backend::S3(s3) => Box::pin(s3::tidy(s3, probe_objects)).await,
        }
    }

    /// Bucket and prefix (empty, or ending in `/`) of an S3 store.
    #[must_use]
    pub fn bucket(&self) -> Option<(&str, &str)> {
        match &self.backend {
            Backend::Dir(_) => None,
            Backend::S3(s3) => Some(s3.bucket()),
        }
    }

    /// Waits, 5 s at most, until what dropped writers left behind is removed. Call before the runtime ends.
    pub async fn drain(&self) {
        self.cleaners.close();
        if tokio::time::timeout(DRAIN, self.cleaners.wait()).await.is_err() {
            tracing::warn!(store = %self.describe(), "unfinished uploads may be left in the store");
        }
        self.cleaners.reopen();
    }
}

/// Refuses the name of a directory that reads like a mistyped `s3://bucket/prefix`: a backup into a folder of that name
/// would look like a success. A directory that is there already is meant.
fn refuse_mistyped(config: &Config) -> Result<()> {
    let location = config.location.as_str();
    if location.starts_with("file://") || Path::new(location).is_dir() {
        return Ok(());
    }
    let shown = crate::error::without_secrets(location);
    if location.trim().is_empty() {
        return Err(Error::usage("--store is empty").hint("write s3://bucket/prefix, or a directory"));
    }
    let scheme = location.split_once(':').map_or("", |(scheme, _)| scheme);
    let is_scheme = scheme.len() > 1
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    if is_scheme || location.contains("://") || location.get(..4).is_some_and(|head| head.eq_ignore_ascii_case("s3//"))
    {
        return Err(Error::usage(format!("--store {shown}: not s3://bucket/prefix"))
            .hint(format!("write s3://bucket/prefix; a directory of this name is ./{shown}")));
    }
    let is_bare = !location.starts_with(['.', '/', '~']);
    if is_bare && let Some(endpoint) = config.endpoint.clone().or_else(s3::client::named_endpoint) {
        return Err(Error::usage(format!(
            "--store {shown}: a new directory, though the S3 endpoint {endpoint} is set"
        ))
        .hint(format!("write s3://{shown} for the bucket, or ./{shown} for the directory")));
    }
    Ok(())
}
