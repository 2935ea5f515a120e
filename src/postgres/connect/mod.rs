//! Connections to PostgreSQL: from what a person typed to a session that is set up.
//!
//! A connection string's way, each file once:
//!
//! 1. [`conninfo`] reads the string, the service file and the variables of the [`environment`], and checks that every
//!    word of it is known and can be kept; [`passfile`] adds a password where none was given. The result is one
//!    `ConnInfo`: host, port, user and database are always known, passwords are [`secret`]s;
//! 2. the programs of PostgreSQL get it as environment variables (`ConnInfo::apply`), never as arguments;
//! 3. `Session::connect` (here) tries each host in turn: [`tls`] makes the connector that `sslmode` asks for,
//!    [`session`] opens the connection, and where a run needs to keep its backend, [`pooler`] refuses what would share it;
//! 4. `Session::set_up` makes what is read independent of the settings of server, database and role;
//! 5. [`stall`] watches over answers that do not come.

pub(crate) mod conninfo;
pub(crate) mod environment;
pub(crate) mod passfile;
pub(crate) mod pooler;
pub(crate) mod secret;
pub(crate) mod session;
pub(crate) mod stall;
pub(crate) mod tls;

use std::time::Duration;

use crate::error::{Error, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;

impl Session {
    /// Connects and sets the session up. `name` is added to the application name `pgstow`; `timeout` bounds each
    /// host's attempt, the set-up included. Several hosts are tried in their order.
    ///
    /// # Errors
    /// One message that names the server (never a password), with hints.
    pub(crate) async fn connect(info: &ConnInfo, timeout: Duration, name: &str) -> Result<Self> {
        Self::connect_to_one(info, timeout, name, false).await
    }

    /// As [`Session::connect`], and refuses a pooler that gives each transaction another backend, before anything is
    /// set: what a session sets there stays with the backend, and other clients would get it.
    ///
    /// For a moment this takes a second connection.
    ///
    /// # Errors
    /// As [`Session::connect`], and the pooler, with what to connect to instead.
    pub(crate) async fn connect_unpooled(info: &ConnInfo, timeout: Duration, name: &str) -> Result<Self> {
        Self::connect_to_one(info, timeout, name, true).await
    }

    async fn connect_to_one(info: &ConnInfo, timeout: Duration, name: &str, unpooled: bool) -> Result<Self> {
        let mut last = Error::usage("no host to connect to");
        for host in info.each_host() {
            match tokio::time::timeout(timeout, Self::connect_host(&host, timeout, name, unpooled)).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => last = error,
                Err(_elapsed) => {
                    last = Error::failed(format!(
                        "connect to {host}: no answer within {}",
                        humantime::format_duration(timeout)
                    ))
                    .hint("is the port right, and does a firewall let it through? --connect-timeout waits longer");
                }
            }
        }
        Err(last)
    }

    async fn connect_host(info: &ConnInfo, timeout: Duration, name: &str, unpooled: bool) -> Result<Self> {
        if unpooled {
            pooler::refuse_by_name(info)?;
        }
        let mut session = Self::open(info, timeout, name).await?;
        if unpooled {
            pooler::refuse(&session, timeout / 2).await?;
        }
        session.set_up(name).await.map_err(|error| error.context(format!("set up the session with {info}")))?;
        Ok(session)
    }
}
