//! One bucket and prefix of a server, as all files of this folder use it: the client, the settings, the bounds that its
//! requests share, and what was learnt of the server. What is done with it stands in the other files.

use std::sync::atomic::{AtomicBool, AtomicU8};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::Credentials;
use tokio::sync::Semaphore;

use crate::store::config::Config;
use crate::store::s3::flight::Flight;
use crate::store::s3::options::Options;
use crate::store::s3::tally::Tally;
use crate::store::traffic::{InFlight, Requests};

/// Bytes of parts in flight of all writers together: a share of the 256 MiB that the program may use.
pub(super) const IN_FLIGHT_BYTES: usize = 32 << 20;
/// Largest body of one PUT whose `ETag` is its MD5 on Supabase Storage; larger ones go in parts.
pub(super) const SINGLE_PUT: usize = 16 << 20;
/// Attempts of [`S3::check`]: a person waits for it.
pub(super) const CHECK_ATTEMPTS: u32 = 3;

pub(super) const UNKNOWN: u8 = 0;
pub(super) const IS_MD5: u8 = 1;
pub(super) const NOT_MD5: u8 = 2;

/// One bucket and prefix of a server.
pub(crate) struct S3 {
    pub(super) connection: RwLock<Connection>,
    /// Held by whoever renews the credentials.
    pub(super) renewing: tokio::sync::Mutex<()>,
    /// The parts of a new client.
    pub(super) config: Config,
    pub(super) bucket: String,
    /// Empty, or ending in `/`.
    pub(super) prefix: String,
    pub(super) endpoint: Option<String>,
    pub(super) max_parts: u32,
    pub(super) part_bytes: u64,
    pub(super) attempts: u32,
    pub(super) stall: Duration,
    pub(super) options: Options,
    pub(super) bytes: Arc<Semaphore>,
    pub(super) flight: Flight,
    pub(super) tally: Arc<Tally>,
    /// The knowledge whether this store's etags are MD5 sums, learnt from the first upload.
    pub(super) etags: AtomicU8,
    /// False when the server was seen to know no conditions of PUTs, and to say so.
    pub(super) conditions: AtomicBool,
    /// The moment as of which the bucket is read; `None`: now.
    pub(super) at: Option<SystemTime>,
    /// True where a deletion was seen to leave an old version.
    pub(super) versions: AtomicBool,
}

/// A client and what it signs with.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    /// `None` where they are given and never change.
    pub(super) credentials: Option<Credentials>,
    /// The number of renewals.
    pub(super) renewed: u32,
}

impl S3 {
    pub(super) fn connection(&self) -> Connection {
        self.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The requests sent so far, by kind; `received_bytes` came by those for objects.
    pub(crate) fn requests(&self, received_bytes: u64) -> Vec<Requests> {
        self.tally.requests(received_bytes)
    }

    /// The requests with a body that may be under way at once.
    pub(crate) fn in_flight(&self) -> InFlight {
        self.flight.now()
    }

    pub(super) fn client(&self) -> Client {
        self.connection().client
    }
}
