//! The scratch database of a drill: claimed, made again for a second comparison, and dropped whatever happens. Owns the
//! rule that nothing is dropped which this very process has not made.
//!
//! The server's own `CREATE DATABASE` is the claim: of two drills with one name, and of a drill and anybody's
//! `createdb`, one is refused. The database is then marked (`postgres::target::scratch`), and the mark is compared
//! before the database is dropped.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libpgdump::Entry;
use tokio_util::task::TaskTracker;

use crate::error::{Error, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::postgres::target::scratch::{self, Mark};
use crate::restore::database;
use crate::sql::names::quote;

/// Longest wait for a statement that makes a database, once the drill has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// The scratch database, and how it is made.
pub(crate) struct Scratch {
    info: ConnInfo,
    /// The database that the drill was given, from which this one is made and dropped.
    on: ConnInfo,
    server_version_num: u32,
    connect_timeout: Duration,
    mark: Mark,
    /// Made by this process, and not dropped yet.
    claimed: Arc<AtomicBool>,
    /// Statements that make or drop databases: they are waited for, as the server would go on without us.
    making: TaskTracker,
    /// The backend that runs them.
    backend: Arc<AtomicI32>,
    /// Made by a drill that is given up, so that nothing is begun any more.
    ended: Mutex<bool>,
}

impl Scratch {
    /// The database of this name on the server of `maintenance`, which is not there yet.
    pub(crate) fn new(name: &str, maintenance: &Session, connect_timeout: Duration, mark: Mark) -> Self {
        Self {
            info: maintenance.info().with_database(name),
            on: maintenance.info().clone(),
            server_version_num: maintenance.server_version_num(),
            connect_timeout,
            mark,
            claimed: Arc::default(),
            making: TaskTracker::new(),
            backend: Arc::default(),
            ended: Mutex::new(false),
        }
    }

    /// Connection parameters of the scratch database.
    pub(crate) const fn info(&self) -> &ConnInfo {
        &self.info
    }

    /// `server_version_num` of its server.
    pub(crate) const fn server_version_num(&self) -> u32 {
        self.server_version_num
    }

    /// Makes the database with the properties of the saved one, and marks it.
    ///
    /// # Errors
    /// Kind `Usage` where there is a database of that name already.
    pub(crate) async fn claim(&self, entries: &[Entry]) -> Result<()> {
        self.make(entries, false).await.map_err(|error| {
            let taken = TAKEN.iter().any(|state| error.is_sqlstate(state));
            if taken { exists(self.info.database()) } else { error }
        })
    }

    /// Makes it again, empty.
    pub(crate) async fn anew(&self, entries: &[Entry]) -> Result<()> {
        self.make(entries, true).await
    }

    /// Not to be cut: the server would go on without us, and make the database after it was dropped.
    async fn make(&self, entries: &[Entry], again: bool) -> Result<()> {
        let name = self.info.database().to_owned();
        let create = database::create(entries, &name, self.server_version_num);
        let session = Session::connect(&self.on, self.connect_timeout, "drill").await?;
        self.backend.store(session.pid(), Ordering::SeqCst);
        let (claimed, mark) = (Arc::clone(&self.claimed), self.mark.clone());
        let statements = async move {
            if again {
                scratch::drop_database(&session, &name, &mark).await?;
                claimed.store(false, Ordering::SeqCst);
            }
            target::execute(&session, &create, "create the scratch database").await?;
            claimed.store(true, Ordering::SeqCst);
            scratch::mark_database(&session, &name, &mark).await?;
            session.close().await;
            Ok::<_, Error>(())
        };
        let making = {
            let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            if *ended {
                return Err(Error::failed("the drill has ended"));
            }
            self.making.spawn(statements)
        };
        making.await.map_err(|error| Error::failed(format!("create the scratch database: {error}")))?
    }

    /// Gives the database to the owner of the saved one, where the server has that role: a restore names those it lacks.
    pub(crate) async fn give_away(&self, entries: &[Entry], maintenance: &Session) -> Result<()> {
        let Some(owner) = database::owner(entries) else { return Ok(()) };
        if !target::server(maintenance).await?.roles.contains(owner) {
            return Ok(());
        }
        let sql = format!("ALTER DATABASE {} OWNER TO {}", quote(self.info.database()), quote(owner));
        target::execute(maintenance, &sql, "give the scratch database to its owner").await
    }

    /// Drops the database, if this drill has made it, with a connection of its own: the others may be what broke.
    ///
    /// # Errors
    /// The server's refusal, or a database that is not the one which was made: it stays, and the hint says so.
    pub(crate) async fn drop(&self) -> Result<()> {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.making.close();
        if tokio::time::timeout(PATIENCE, self.making.wait()).await.is_err() {
            let session = Session::connect_again(&self.on, self.connect_timeout, "drill").await?;
            scratch::end(&session, self.backend.load(Ordering::SeqCst)).await?;
            self.making.wait().await;
        }
        if !self.claimed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let name = self.info.database();
        let by_hand = |error: Error| {
            error.hint(format!("a later drill on this server drops {}, or drop it by hand", quote(name)))
        };
        let session = Session::connect_again(&self.on, self.connect_timeout, "drill").await.map_err(by_hand)?;
        scratch::drop_database(&session, name, &self.mark).await.map_err(by_hand)?;
        session.close().await;
        Ok(())
    }
}

/// SQLSTATE of a database that exists already, and of one that was being made at the same time.
const TAKEN: [&str; 2] = ["42P04", "23505"];

/// The refusal of a name that is taken.
pub(crate) fn exists(name: &str) -> Error {
    Error::usage(format!("database {name:?} exists; a drill makes its scratch database, and drops it at the end"))
        .hint("choose another name with --scratch-name, or none: a name is then made from the run's")
}
