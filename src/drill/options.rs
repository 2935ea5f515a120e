//! The request for a drill, as the engine takes it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::restore::forget::list::List;
use crate::seal::keys::Keys;

/// A drill that is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The run: `latest`, its name or the beginning of it.
    pub(crate) run: String,
    /// Connection words of a database on the server where the scratch database is made.
    pub(crate) on: String,
    /// Name of the scratch database; made from the run's name where none is given.
    pub(crate) scratch_name: Option<String>,
    /// The tables to load and compare: one percentage, or names; empty for all.
    pub(crate) tables: Vec<String>,
    /// Create the roles that the server lacks.
    pub(crate) roles: bool,
    /// Sessions that load and compare rows at the same time.
    pub(crate) jobs: u16,
    /// Folder of PostgreSQL's programs.
    pub(crate) pg_bin_dir: Option<PathBuf>,
    /// Time limit for each connection.
    pub(crate) connect_timeout: Duration,
    /// Silence of the server after which its backend is looked at.
    pub(crate) stall_timeout: Duration,
    /// Keys of rows that are erased once everything was compared.
    pub(crate) forget: Option<Arc<List>>,
    /// The keys that the run is read with.
    pub(crate) keys: Keys,
}
