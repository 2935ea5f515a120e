//! Where runs are kept: one contract, two makes. [`s3`] speaks to S3-compatible servers, [`dir`] to a directory.
//!
//! Owns keys below the store's prefix, atomic appearance of objects, conditions, bounded memory of uploads, and the
//! wording of what went wrong. Of runs it knows their keys only (which of them a retention is for), of manifests
//! nothing. An object appears whole or not at all; what a dropped or failed writer leaves behind is removed by a tracked
//! task that [`Store::drain`] waits for.

pub mod config;
pub(crate) mod dir;
pub mod probe;
pub(crate) mod s3;
pub(crate) mod writer;

use std::ops::Range;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::task::TaskTracker;

use crate::error::{Error, Result};
use crate::human;
pub use crate::store::config::Config;
pub use crate::store::writer::{ObjectWriter, Plan, Stored, WriteError};

/// Most bytes of a document that is read whole: manifests, `latest.json`, receipts, pins. A manifest has about 1 KiB a
/// table, so this is one of half a million tables; what is larger would fill the memory of whoever reads it.
const LARGEST_DOCUMENT: u64 = 512 << 20;

/// Refuses to read a document of so many bytes.
fn refuse_large(key: &str, bytes: u64) -> Result<()> {
    if bytes <= LARGEST_DOCUMENT {
        return Ok(());
    }
    Err(Error::damage(format!("{key} is larger than {}", human::size(LARGEST_DOCUMENT)))
        .hint("no document of pgstow is that large: look at who can write to the store"))
}

/// How long [`Store::drain`] waits at most: a shutdown must not hang on a dead network.
const DRAIN: Duration = Duration::from_secs(5);

/// A place for objects, below one prefix. Clones share connections, memory bounds and what was learnt.
#[derive(Clone)]
pub struct Store {
    make: Make,
    cleaners: TaskTracker,
}

#[derive(Clone)]
enum Make {
    Dir(Arc<dir::Dir>),
    S3(Arc<s3::S3>),
}

/// What a store knows of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Key below the store's prefix.
    pub key: String,
    /// Stored size.
    pub bytes: u64,
    /// The store's own tag of this version, verbatim; made for [`Condition::Matches`], not for integrity.
    pub etag: Option<String>,
    /// When it was stored, by the store's clock.
    pub modified: Option<SystemTime>,
}

/// When a [`Store::put`] takes effect. S3 servers may ignore conditions (Supabase does): probe before relying on one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Always; replaces what is there.
    None,
    /// Only where no object has the key.
    Absent,
    /// Only where the object's etag is this one.
    Matches(String),
}

/// What became of a [`Store::put`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// The object is stored, durably.
    Stored {
        /// Its etag, where the store tells one.
        etag: Option<String>,
    },
    /// The condition was not met; nothing changed.
    Refused,
}

/// Something unfinished in the store: a multipart upload of S3, a temporary file of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenUpload {
    /// Key it is for, below the store's prefix; of a directory: the temporary file itself.
    pub key: String,
    /// The store's name of the upload; empty for a directory.
    pub id: String,
    /// When it began (S3), when it was last written to (directory).
    pub started: Option<SystemTime>,
}

/// The bytes of (a range of) an object; see [`Store::read`].
pub struct ObjectReader {
    inner: Pin<Box<dyn AsyncRead + Send>>,
}

impl AsyncRead for ObjectReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.inner.as_mut().poll_read(cx, buf)
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
        let make = if config.location.starts_with("s3://") {
            Make::S3(Arc::new(Box::pin(s3::S3::open(&config, credentials)).await?))
        } else {
            s3::Options::refuse_for_directory(&config)?;
            Make::Dir(Arc::new(dir::Dir::open(&config.location, cleaners.clone())?))
        };
        Ok(Self { make, cleaners })
    }

    /// `s3://bucket/prefix` or the path; never a secret.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.make {
            Make::Dir(dir) => dir.root().display().to_string(),
            Make::S3(s3) => s3.describe(),
        }
    }

    /// What tells this store from every other: endpoint, bucket and prefix, or the directory where links lead to. Two
    /// names of one server are two stores.
    #[must_use]
    pub fn identity(&self) -> String {
        match &self.make {
            Make::Dir(dir) => {
                let root = dir.root();
                root.canonicalize().unwrap_or_else(|_not_there_yet| root.to_owned()).display().to_string()
            }
            Make::S3(s3) => {
                let endpoint = s3.endpoint().unwrap_or_default().trim_end_matches('/').to_ascii_lowercase();
                format!("{endpoint} {}", s3.describe())
            }
        }
    }

    /// The directory of a directory store.
    #[must_use]
    pub fn local_path(&self) -> Option<&Path> {
        match &self.make {
            Make::Dir(dir) => Some(dir.root()),
            Make::S3(_) => None,
        }
    }

    /// The S3 endpoint, when one is set.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        match &self.make {
            Make::Dir(_) => None,
            Make::S3(s3) => s3.endpoint(),
        }
    }

    /// Whether the store can be reached, exists and accepts the credentials. A directory that does not exist yet is
    /// fine: the first object makes it.
    ///
    /// # Errors
    /// What is wrong, with hints.
    pub async fn check(&self) -> Result<()> {
        match &self.make {
            Make::Dir(dir) => dir.check().await,
            Make::S3(s3) => Box::pin(s3.check()).await,
        }
    }

    /// A small object whole, in memory; `None` when absent.
    ///
    /// # Errors
    /// Kind `Damage` for one larger than any document of pgstow.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        match &self.make {
            Make::Dir(dir) => dir.get(key).await,
            Make::S3(s3) => Box::pin(s3.get(key)).await,
        }
    }

    /// What is known of an object; `None` when absent.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectInfo>> {
        match &self.make {
            Make::Dir(dir) => dir.head(key).await,
            Make::S3(s3) => Box::pin(s3.head(key)).await,
        }
    }

    /// The bytes `[start, end)` of an object. A broken or stalled stream is resumed at the byte it reached. An object
    /// that ends before `end` ends the stream early: the caller compares sizes.
    ///
    /// # Errors
    /// An absent key, now; a stream that cannot be resumed, or an object replaced meanwhile, while reading.
    pub async fn read(&self, key: &str, range: Range<u64>) -> Result<ObjectReader> {
        let inner = match &self.make {
            Make::Dir(dir) => dir.read(key, range).await?,
            Make::S3(s3) => Box::pin(s3::S3::read(s3, key, range)).await?,
        };
        Ok(ObjectReader { inner })
    }

    /// Stores a small object in one piece.
    pub async fn put(&self, key: &str, body: Bytes, condition: Condition) -> Result<Put> {
        match &self.make {
            Make::Dir(dir) => dir.put(key, body, condition).await,
            Make::S3(s3) => Box::pin(s3.put(key, body, &condition)).await,
        }
    }

    /// Begins a streamed object; nothing is sent before the first part is full.
    #[must_use]
    pub fn writer(&self, key: &str, plan: Plan) -> ObjectWriter {
        let cleaners = self.cleaners.clone();
        match &self.make {
            Make::Dir(dir) => ObjectWriter::dir(dir::Writer::new(Arc::clone(dir), key, cleaners)),
            Make::S3(s3) => ObjectWriter::s3(s3::Writer::new(Arc::clone(s3), key, plan, cleaners)),
        }
    }

    /// All objects whose keys begin with `prefix`, in byte order of their keys.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut objects = match &self.make {
            Make::Dir(dir) => dir.list(prefix).await,
            Make::S3(s3) => Box::pin(s3.list(prefix)).await,
        }?;
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// Names of the direct sub-folders of `prefix` (empty, or ending in `/`) that hold an object, sorted, without `/`.
    pub async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let mut names = match &self.make {
            Make::Dir(dir) => dir.folders(prefix).await,
            Make::S3(s3) => Box::pin(s3.folders(prefix)).await,
        }?;
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Deletes an object; an absent one is fine.
    pub async fn delete(&self, key: &str) -> Result<()> {
        match &self.make {
            Make::Dir(dir) => dir.delete(key).await,
            Make::S3(s3) => Box::pin(s3.delete(key)).await,
        }
    }

    /// What is unfinished below `prefix`, of this or any other process.
    pub async fn uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>> {
        match &self.make {
            Make::Dir(dir) => dir.uploads(prefix).await,
            Make::S3(s3) => Box::pin(s3.uploads(prefix)).await,
        }
    }

    /// Removes something unfinished; already gone is fine.
    pub async fn abort_upload(&self, upload: &OpenUpload) -> Result<()> {
        match &self.make {
            Make::Dir(dir) => dir.delete_file(&upload.key).await,
            Make::S3(s3) => Box::pin(s3.abort(&upload.key, &upload.id)).await,
        }
    }

    /// Tries what the store can do, on keys that `litter` remembers; the caller hands it to [`Store::tidy`] afterwards,
    /// also when this call was dropped. Never an error: what fails is part of the answer.
    ///
    /// Sends about 20 MiB to an S3 server, since its smallest part is 5 MiB.
    pub async fn probe(&self, litter: &probe::Litter) -> probe::Probe {
        match &self.make {
            Make::Dir(dir) => probe::directory(self, dir.root(), litter).await,
            Make::S3(s3) => Box::pin(s3::probe(s3, litter)).await,
        }
    }

    /// Removes what a probe made. Returns what could not be removed.
    pub async fn tidy(&self, litter: &probe::Litter) -> Vec<String> {
        match &self.make {
            Make::Dir(dir) => probe::tidy_directory(self, dir.root(), litter).await,
            Make::S3(s3) => Box::pin(s3::tidy(s3, litter)).await,
        }
    }

    /// Bucket and prefix (empty, or ending in `/`) of an S3 store.
    #[must_use]
    pub fn bucket(&self) -> Option<(&str, &str)> {
        match &self.make {
            Make::Dir(_) => None,
            Make::S3(s3) => Some(s3.bucket()),
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

/// Refuses keys that no store could hold safely: empty segments, `.` and `..`, control characters.
fn check_key(key: &str) -> Result<()> {
    let bad = key.split('/').any(|segment| matches!(segment, "" | "." | "..")) || key.chars().any(char::is_control);
    if bad { Err(Error::failed(format!("{key:?} is no key of an object"))) } else { Ok(()) }
}
