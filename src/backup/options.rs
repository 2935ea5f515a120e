//! The request for a run, checked: made by the command line, read by the engine.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::format::manifest::NotNotified;
use crate::pipeline::rate::BytesPerSecond;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::runs::anomaly;
use crate::seal::compress::Compression;
use crate::seal::encrypt::Recipients;
use crate::seal::sign::SigningKey;

/// Everything that a run can be asked for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The database to read.
    pub(crate) info: ConnInfo,
    pub(crate) connect_timeout: Duration,
    /// The only folder to look for PostgreSQL's programs in; `None`: the usual ones.
    pub(crate) pg_bin_dir: Option<PathBuf>,
    pub(crate) form: Form,
    pub(crate) limits: Limits,
    pub(crate) partial: Partial,
    pub(crate) labels: Labels,
    pub(crate) odd: Odd,
    pub(crate) adopt: Adopt,
    /// Allows the Storage of the very project that is saved.
    pub(crate) allow_same_project: bool,
    /// The notifications that have failed so far, for the manifest.
    pub(crate) not_notified: Arc<Mutex<Vec<NotNotified>>>,
}

/// The form of the stored objects.
#[derive(Debug, Clone)]
pub(crate) struct Form {
    pub(crate) compression: Compression,
    /// Public keys to encrypt to; `None`: not encrypted.
    pub(crate) recipients: Option<Recipients>,
    /// The key that signs the manifest; `None`: not signed.
    pub(crate) signing_key: Option<Arc<SigningKey>>,
    /// Objects above so many stored bytes are cut into volumes.
    pub(crate) max_object_bytes: Option<u64>,
    /// Most parts of one upload that the store allows.
    pub(crate) max_parts: u32,
}

/// The limits that a run keeps to.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// The moment from which the deadline counts.
    pub(crate) begun: Instant,
    pub(crate) deadline: Option<Duration>,
    /// Sessions that read rows at the same time.
    pub(crate) jobs: u16,
    /// Longest wait for a lock.
    pub(crate) lock_timeout: Duration,
    /// Longest time that another session may be blocked by the run's locks.
    pub(crate) max_block: Option<Duration>,
    pub(crate) rate: Option<BytesPerSecond>,
    /// Silence of the server after which its state is asked for on another connection.
    pub(crate) stall_timeout: Duration,
}

/// The treatment of anomalies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Odd {
    pub(crate) limits: anomaly::Limits,
    /// Leaves `latest` where it is.
    pub(crate) hold: bool,
}

/// The names that people and schedulers give the run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Labels {
    pub(crate) note: Option<String>,
    /// The name that all tasks of one start have.
    pub(crate) round: Option<String>,
    /// True where a round has one run of a database: a second one is refused.
    pub(crate) once: bool,
}

/// Which prefixes a run takes over that hold runs of another database, or of another server with the same identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adopt {
    None,
    /// Those of the server that this one was a standby of.
    Failover,
    Any,
}

/// The treatment of what a run does not hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Partial {
    /// Leaves it out; refused otherwise.
    pub(crate) allowed: bool,
    /// Lets a partial run become `latest`.
    pub(crate) becomes_latest: bool,
    /// A database in which there is nothing is what is expected.
    pub(crate) may_be_empty: bool,
}
