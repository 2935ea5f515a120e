//! The settings of one store, whoever read them (flags, the environment, a
//! file). Owns their types only; which of them go together is checked where they take effect (`s3::options`,
//! `s3::client`), so that every caller gets the same answer.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// The settings of one store.
#[derive(Debug, Clone)]
pub struct Config {
    /// `s3://bucket/prefix`, or a directory.
    pub location: String,
    /// Endpoint of an S3-compatible server; the environment's where it is `None`.
    pub endpoint: Option<String>,
    /// Address buckets as a path instead of a host name; `None`: with an endpoint only.
    pub path_style: Option<bool>,
    /// Region; the environment's where it is `None`.
    pub region: Option<String>,
    /// Most parts of one upload.
    pub max_parts: u32,
    /// Smallest part of an upload in bytes.
    pub part_bytes: u64,
    /// When requests carry checksum headers.
    pub checksums: Checksums,
    /// PEM file with certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Encryption by the provider.
    pub sse: Option<Sse>,
    /// Key of [`Sse::AwsKms`]; the account's own where it is `None`.
    pub sse_kms_key_id: Option<String>,
    /// Storage class of every object.
    pub storage_class: Option<String>,
    /// Object Lock of the objects of each run; needs `lock_retain`.
    pub lock_mode: Option<LockMode>,
    /// The time for which each run stays locked; needs `lock_mode`.
    pub lock_retain: Option<Duration>,
    /// Send `Content-MD5` with every object and part.
    pub content_md5: bool,
    /// Read a bucket with versions as it was at this moment; nothing can be written then.
    pub at: Option<SystemTime>,
    /// Attempts for each request, the first included.
    pub attempts: u32,
    /// Abort a request when not a byte moved for so long.
    pub stall_timeout: Duration,
}

/// When requests carry checksum headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    /// Only where S3 requires one: many compatible stores refuse the SDK's default.
    WhenRequired,
    /// Always (CRC32).
    WhenSupported,
}

/// The party that encrypts stored objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sse {
    /// The store, with keys of its own (SSE-S3).
    Aes256,
    /// The store, with a key of a key management service (SSE-KMS).
    AwsKms,
}

/// The strength of a lock: whether anybody may end it before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Users with a permission of their own.
    Governance,
    /// Nobody.
    Compliance,
}
