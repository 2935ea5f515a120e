//! The words of a store and its callers about one object: its key, its state, conditions, results. Owns the
//! types only, so that every make of store and every caller can import them.

use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::human;

/// Most bytes of a document that is read whole: manifests, `latest.json`, receipts, pins. A manifest has about 1 KiB a
/// table, so this is one of half a million tables; what is larger would fill the memory of whoever reads it.
const LARGEST_DOCUMENT: u64 = 512 << 20;

/// Refuses to read a document of so many bytes.
pub(crate) fn refuse_large(key: &str, bytes: u64) -> Result<()> {
    if bytes <= LARGEST_DOCUMENT {
        return Ok(());
    }
    Err(Error::damage(format!("{key} is larger than {}", human::size(LARGEST_DOCUMENT)))
        .hint("no document of pgstow is that large: look at who can write to the store"))
}

/// The facts that a store returns about an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Key below the store's prefix.
    pub key: String,
    /// Stored size.
    pub bytes: u64,
    /// The store's own tag of this version, verbatim; made for [`Condition::Matches`], not for integrity.
    pub etag: Option<String>,
    /// The moment it was stored, by the store's clock.
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

/// The result of a [`Store::put`].
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
    /// The moment it began (S3), or was last written to (directory).
    pub started: Option<SystemTime>,
}

/// The facts about an object before it is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan {
    /// Upper estimate of the stored bytes; 0 when unknown or small.
    pub expected_bytes: u64,
}

/// The stored object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Bytes of the object.
    pub bytes: u64,
    /// SHA-256 of the object, lower-case hex.
    pub sha256: String,
}

/// The reason why an object could not be written.
#[derive(Debug)]
pub enum WriteError {
    /// 90 % of the parts the provider allows are used: write the object again with a larger `Plan`.
    PartsExhausted {
        /// The object's key.
        key: String,
        /// The part size that was too small.
        part_bytes: u64,
    },
    /// Anything else.
    Failed(Error),
}

impl From<Error> for WriteError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<WriteError> for Error {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Failed(error) => error,
            WriteError::PartsExhausted { key, part_bytes } => {
                Self::failed(format!("write {key}: too many parts of {} MiB", part_bytes >> 20))
                    .hint("set --s3-part-size-mib higher")
            }
        }
    }
}

/// Refuses keys that no store could hold safely: empty segments, `.` and `..`, control characters.
pub(crate) fn check_key(key: &str) -> Result<()> {
    let bad = key.split('/').any(|segment| matches!(segment, "" | "." | "..")) || key.chars().any(char::is_control);
    if bad { Err(Error::failed(format!("{key:?} is no key of an object"))) } else { Ok(()) }
}
