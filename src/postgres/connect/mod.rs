//! Connections to PostgreSQL: from what a person typed to a session that is set up.
//!
//! A connection string's way, each file once:
//!
//! 1. [`conninfo`] reads the string, the service file and the variables of the [`environment`], and checks that every
//!    word of it is known and can be kept; [`passfile`] adds a password where none was given. The result is one
//!    `ConnInfo`: host, port, user and database are always known, passwords are [`secret`]s;
//! 2. the programs of PostgreSQL get it as environment variables (`ConnInfo::apply`), never as arguments;
//! 3. `Session::connect` (here) tries each host in turn: [`tls`] makes the connector that `sslmode` asks for,
//!    [`session`] opens the connection, and where a run needs to keep its backend, [`pooler`] refuses one that shares it;
//!    and every byte that the server sends passes a [`gate`], which keeps giant rows from filling the memory;
//! 4. `Session::set_up` makes what is read independent of the settings of server, database and role;
//!    and a session that reached another server than the ones before it is refused ([`one_server`]);
//! 5. [`stall`] watches over answers that do not come.

pub(crate) mod conninfo;
pub(crate) mod environment;
pub(crate) mod gate;
pub(crate) mod one_server;
pub(crate) mod passfile;
pub(crate) mod password;
pub(crate) mod pooler;
pub(crate) mod secret;
pub(crate) mod session;
pub(crate) mod stall;
pub(crate) mod tls;

use std::time::Duration;

use crate::error::{Error, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::one_server::NAME_ONE;
use crate::postgres::connect::pooler::Refused;
use crate::postgres::connect::session::Session;

/// Times that a connection may lead to another server before what must be put in order is left.
const STRAYS: u32 = 8;
/// Longest time to find out why a program was refused.
const PROBE: Duration = Duration::from_secs(15);

/// True when a session with startup options is refused and one without them is not: PgBouncer refuses those that it does
/// not know, before anything was done.
pub(crate) async fn refuses_options(without: &ConnInfo, with: &ConnInfo) -> bool {
    Session::open(with, PROBE, "").await.is_err() && Session::open(without, PROBE, "").await.is_ok()
}

impl Session {
    /// Connects and sets the session up. `name` is added to the application name `pgstow`; `timeout` bounds each
    /// host's attempt, the set-up included. Several hosts are tried in their order.
    ///
    /// # Errors
    /// One message that names the server (never a password), with hints.
    pub(crate) async fn connect(info: &ConnInfo, timeout: Duration, name: &str) -> Result<Self> {
        Ok(Self::connect_to_one(info, timeout, name, false).await?)
    }

    /// As [`Session::connect`], for what must be put in order in any case: where an endpoint leads to another server, tries
    /// again until it leads to the right one.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub(crate) async fn connect_again(info: &ConnInfo, timeout: Duration, name: &str) -> Result<Self> {
        for _ in 0..STRAYS {
            match Self::connect(info, timeout, name).await {
                Err(error) if info.server().has_strayed() => tracing::debug!("{error}"),
                other => return other,
            }
        }
        Self::connect(info, timeout, name).await
    }

    /// As [`Session::connect`], and refuses a pooler that gives each transaction another backend, before anything is
    /// set: what a session sets there stays with the backend, and other clients would get it.
    ///
    /// For a moment this takes a second connection.
    ///
    /// # Errors
    /// As [`Session::connect`], and the pooler, with what to connect to instead.
    pub(crate) async fn connect_unpooled(info: &ConnInfo, timeout: Duration, name: &str) -> Result<Self, Refused> {
        Self::connect_to_one(info, timeout, name, true).await
    }

    async fn connect_to_one(info: &ConnInfo, timeout: Duration, name: &str, unpooled: bool) -> Result<Self, Refused> {
        let mut last = Refused::Other(Error::usage("no host to connect to"));
        let mut hosts = info.each_host();
        if info.get("load_balance_hosts") == Some("random") {
            shuffle(&mut hosts);
        }
        // With prefer-standby, a primary will do once every host was asked.
        let wanted: &[Option<bool>] = match info.get("target_session_attrs") {
            Some("primary") => &[Some(false)],
            Some("standby") => &[Some(true)],
            Some("prefer-standby") => &[Some(true), None],
            _ => &[None],
        };
        let each = |standby: &Option<bool>| hosts.iter().map(|host| (*standby, host.clone())).collect::<Vec<_>>();
        let attempts: Vec<(Option<bool>, ConnInfo)> = wanted.iter().flat_map(each).collect();
        for (standby, host) in attempts {
            match tokio::time::timeout(timeout, Self::connect_host(&host, timeout, name, unpooled, standby)).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => last = error,
                Err(_elapsed) => {
                    let waited = humantime::format_duration(timeout);
                    let late = Error::failed(format!("connect to {host}: no answer within {waited}"))
                        .hint("is the port right, and does a firewall let it through? --connect-timeout waits longer");
                    last = Refused::Other(late);
                }
            }
        }
        Err(last)
    }

    async fn connect_host(
        info: &ConnInfo,
        timeout: Duration,
        name: &str,
        unpooled: bool,
        standby: Option<bool>,
    ) -> Result<Self, Refused> {
        if unpooled {
            pooler::refuse_by_name(info)?;
        }
        require_peer(info).await?;
        let opened = Self::open(info, timeout, name).await;
        // What this command has made on one server is not there on another.
        let may_stray = |error: &Error| error.is_sqlstate("3D000") && info.server().is_known();
        let mut session = opened.map_err(|error| if may_stray(&error) { error.hint(NAME_ONE) } else { error })?;
        if let Some(standby) = standby
            && session.is_standby().await? != standby
        {
            let (is, attrs) = (if standby { "a primary" } else { "a standby" }, info.get("target_session_attrs"));
            return Err(Error::failed(format!("connect to {info}: the server is {is}"))
                .hint(format!("target_session_attrs={} wants the other", attrs.unwrap_or_default()))
                .into());
        }
        let second = if unpooled { pooler::refuse(&session, timeout / 2).await? } else { None };
        let gone = async {
            if let Some(pid) = second {
                pooler::wait_for_end(&session, pid).await;
            }
        };
        let (set_up, ()) = tokio::join!(session.set_up(name), gone);
        let started = set_up.and_then(|answer| session.is_set_up(&answer));
        let started = started.map_err(|error| error.context(format!("set up the session with {info}")))?;
        if started.is_some_and(|started| !info.server().is_same(&started)) {
            let why = "reached another server than the sessions before, or the same one restarted: theirs are lost";
            return Err(Error::failed(format!("connect to {info}: {why}"))
                .hint("run it again, where the server was restarted")
                .hint(NAME_ONE)
                .into());
        }
        if let Some(silence) = info.silence() {
            stall::guard(&session, timeout, silence);
        }
        Ok(session)
    }
}

/// Puts the hosts into an order that differs from one program to the next.
fn shuffle(hosts: &mut [ConnInfo]) {
    use std::hash::{BuildHasher as _, RandomState};
    let order = RandomState::new();
    let mut number = 0_usize;
    hosts.sort_by_cached_key(|_| {
        number += 1;
        order.hash_one(number)
    });
}

/// Refuses a socket whose server runs as another user than `requirepeer` names. Over TCP the word says nothing, as in
/// libpq.
async fn require_peer(info: &ConnInfo) -> Result<()> {
    let Some(wanted) = info.get("requirepeer").filter(|_| info.host().starts_with('/')) else { return Ok(()) };
    let path = format!("{}/.s.PGSQL.{}", info.host(), info.port());
    let failed = |error: std::io::Error| Error::failed(format!("connect to {info}: {error}"));
    let socket = tokio::net::UnixStream::connect(&path).await.map_err(failed)?;
    let user = socket.peer_cred().map_err(failed)?.uid();
    if environment::user_named(user).as_deref() == Some(wanted) {
        return Ok(());
    }
    Err(Error::failed(format!("connect to {info}: the server does not run as the user that requirepeer names"))
        .hint("is another server listening in that folder?"))
}
