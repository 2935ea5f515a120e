//! The options of `doctor`.

use std::path::PathBuf;
use std::time::Duration;

use crate::postgres::connect::password::Source;
use crate::seal::sign::{SigningKey, Trust};
use crate::store::Config;

/// The options.
#[derive(Debug)]
pub(crate) struct Options {
    /// The database; `None`: the store only.
    pub(crate) database: Option<Database>,
    /// The store; `None`: the database only.
    pub(crate) store: Option<Config>,
    /// The key that the next backup would sign with.
    pub(crate) signing_key: Option<SigningKey>,
    /// The keys whose signatures are trusted.
    pub(crate) trust: Trust,
}

/// The database, and how the backup will read it.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) source: Option<String>,
    /// Makes the password of each session.
    pub(crate) passwords: Option<Source>,
    pub(crate) pg_bin_dir: Option<PathBuf>,
    pub(crate) connect_timeout: Duration,
    pub(crate) jobs: u16,
    pub(crate) lock_timeout: Duration,
}
