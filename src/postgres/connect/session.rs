//! One connection to PostgreSQL, set up so that what it reads does not depend on the settings of server, database
//! or role; what a restore evaluates in it does, as it did where it was saved. Owns the task that moves its bytes; what is done in a session is its user's business.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, SimpleQueryMessage};
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, Result};
use crate::postgres::connect::conninfo::{ConnInfo, as_given};
use crate::postgres::connect::gate::{Connector, Gate};
use crate::postgres::connect::tls;
use crate::postgres::error::{explain, failure, is_tls};
use crate::postgres::settings;

/// The statements of every session right after connecting, in one round trip: the settings of [`settings`], then these.
/// By `SET`, since poolers drop startup options, and in this place, since settings of the role or the database came in
/// at the start of the session. The first statements make this very transaction an ordinary one: on a standby a
/// serializable one may not even ask.
///
/// - `client_connection_check_interval` (where the server's system can): a backend that waits for a lock or scans a
///   table notices that this program was killed, and lets its locks go;
/// - `client_encoding`: UTF8, so that a LATIN1 database comes back right; a `SQL_ASCII` database has no encoding to
///   convert from, so both sides stay `SQL_ASCII` and bytes pass as they are.
const SET_UP: &str = "\
SELECT pg_catalog.set_config(name, '10s', false) FROM pg_catalog.pg_settings \
WHERE name = 'client_connection_check_interval' AND pg_catalog.version() LIKE '%linux%'; \
SELECT pg_catalog.set_config('client_encoding', \
CASE pg_catalog.current_setting('server_encoding') WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END, false); \
SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('server_version_num'), \
pg_catalog.current_setting('server_encoding')";

/// Before anything else is asked: the owner of a database may have put operators and functions of his own before those of
/// `pg_catalog`, and they would run with the rights of whoever asks.
const NO_PATH: &str = "SET search_path = ''";

/// The moment when the server was started: anybody may ask for it, unless that was revoked. A number whose text does not
/// depend on the settings of a session.
const STARTED: &str = "pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time())::pg_catalog.numeric";

/// One connection. Dropping it closes the socket at once, whatever was under way; the server then ends what it did.
pub(crate) struct Session {
    /// The client: queries, COPY, transactions.
    pub(crate) client: Client,
    info: ConnInfo,
    tls_version: Option<&'static str>,
    pid: i32,
    version_num: u32,
    encoding: String,
    ended: watch::Receiver<Option<Error>>,
    abandoned: Arc<AtomicBool>,
    gate: Arc<Gate>,
    task: AbortOnDropHandle<()>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("info", &self.info).field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl Session {
    /// Connects to the one host and sets nothing.
    pub(crate) async fn open(info: &ConnInfo, timeout: Duration, name: &str) -> Result<Self> {
        let with_password = info.fresh().await?;
        let (tls, negotiated) = tls::connector(info)?;
        let mut config = config(&with_password, timeout, name)?;
        let gate = Gate::new();
        let mut result = None;
        for way in ways(info) {
            negotiated.forget();
            let tls = (*way == Way::Encrypted).then(|| tls.clone());
            let connector = Connector { tls, gate: Arc::clone(&gate) };
            result = Some(connect(info, &mut config, connector, timeout).await);
            // As libpq: the other way is tried when this one was refused by pg_hba.conf or TLS itself failed.
            let again = match &result {
                Some(Err(error)) => {
                    error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
                        || is_tls(error)
                        || *way == Way::Encrypted && has_no_tls(error)
                }
                _ => false,
            };
            if !again {
                break;
            }
        }
        let (client, connection) = match result {
            Some(Ok(pair)) => pair,
            Some(Err(error)) => return Err(explain(info, &error)),
            None => return Err(Error::usage("no way to connect")),
        };
        let (sender, ended) = watch::channel(None);
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let why = match connection.await {
                Ok(()) => Error::failed("closed"),
                Err(error) => failure(&error),
            };
            sender.send_replace(Some(why));
        }));
        let (info, tls_version) = (info.clone(), negotiated.version());
        Ok(Self {
            client,
            info,
            tls_version,
            pid: 0,
            version_num: 0,
            encoding: String::new(),
            ended,
            abandoned: Arc::default(),
            gate,
            task,
        })
    }

    /// True when the server is a standby; to be asked before the session is set up.
    pub(super) async fn is_standby(&self) -> Result<bool> {
        let asked = self.client.simple_query("SELECT pg_catalog.pg_is_in_recovery()").await;
        let messages = asked.map_err(|error| failure(&error))?;
        Ok(messages.iter().any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t"))))
    }

    /// Sets the session up; the answer is for [`Session::is_set_up`].
    pub(super) async fn set_up(&self, name: &str) -> Result<Vec<SimpleQueryMessage>> {
        let sql = format!(
            "SET application_name = {}; SET TRANSACTION ISOLATION LEVEL READ COMMITTED; {NO_PATH}; {}; {SET_UP}",
            crate::sql::names::literal(&application_name(name)),
            settings::statement(self.info.own_money(), self.info.restores())
        );
        let messages = match self.client.simple_query(&format!("{sql}, {STARTED}")).await {
            // All of it was one transaction.
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                self.client.simple_query(&sql).await
            }
            asked => asked,
        };
        messages.map_err(|error| failure(&error))
    }

    /// Reads the answer to [`Session::set_up`]; returns the moment when its server was started, where the role may ask.
    pub(super) fn is_set_up(&mut self, messages: &[SimpleQueryMessage]) -> Result<Option<String>> {
        let row = messages.iter().rev().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let field = |index| row.and_then(|row| row.try_get(index).ok().flatten()).unwrap_or_default();
        let odd = || Error::failed("the server's answer is not PostgreSQL's");
        self.pid = field(0).parse().map_err(|_not_a_number| odd())?;
        self.version_num = field(1).parse().map_err(|_not_a_number| odd())?;
        field(2).clone_into(&mut self.encoding);
        Ok(row.and_then(|row| row.try_get(3).ok().flatten()).map(str::to_owned))
    }

    /// The gate that the rows of this connection pass.
    #[must_use]
    pub(crate) const fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// A function that cuts the connection, as [`Session::abandon`] does, without keeping it.
    pub(crate) fn cutter(&self) -> impl FnOnce() + Send + 'static {
        let (abandoned, connection) = (Arc::clone(&self.abandoned), self.task.abort_handle());
        move || {
            abandoned.store(true, Ordering::SeqCst);
            connection.abort();
        }
    }

    /// Process id of the server's backend; behind a pooler, of the one that served the set-up.
    #[must_use]
    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }

    /// `TLSv1.2` or `TLSv1.3`; `None` where the connection is not encrypted.
    #[must_use]
    pub(crate) const fn tls_version(&self) -> Option<&'static str> {
        self.tls_version
    }

    /// `server_version_num`, for example 150020.
    #[must_use]
    pub(crate) const fn server_version_num(&self) -> u32 {
        self.version_num
    }

    /// The encoding of the database.
    pub(crate) fn encoding(&self) -> &str {
        &self.encoding
    }

    /// The parameters of this very connection: of the one host, where several were given.
    #[must_use]
    pub(crate) const fn info(&self) -> &ConnInfo {
        &self.info
    }

    /// Waits until the connection has ended and returns why. Safe to cancel, and to call again.
    pub(crate) async fn closed(&self) -> Error {
        let mut ended = self.ended.clone();
        let why = match ended.wait_for(Option::is_some).await {
            Ok(why) => why.clone(),
            Err(_task_gone) => None,
        };
        why.unwrap_or_else(|| Error::failed("closed")).context(format!("connection to {} lost", self.info))
    }

    /// Cuts a connection that has died unnoticed.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
        self.task.abort();
    }

    /// True once the connection has ended.
    #[must_use]
    pub(crate) fn is_closed(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst) || self.client.is_closed() || self.ended.borrow().is_some()
    }

    /// Ends the session in good order, at most two seconds; then as a drop.
    pub(crate) async fn close(self) {
        let Self { client, task, .. } = self;
        drop(client);
        if tokio::time::timeout(Duration::from_secs(2), task).await.is_err() {
            tracing::debug!("a session did not end in time and was cut");
        }
    }
}

/// A way to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Encrypted,
}

/// The ways that `sslmode` allows, in the order in which they are tried.
fn ways(info: &ConnInfo) -> &'static [Way] {
    match info.get("sslmode").unwrap_or("prefer") {
        _ if info.host().starts_with('/') => &[Way::Plain],
        "disable" => &[Way::Plain],
        "allow" => &[Way::Plain, Way::Encrypted],
        "prefer" => &[Way::Encrypted, Way::Plain],
        _ => &[Way::Encrypted],
    }
}

/// True where no server said anything against the connection: it has no TLS, and where `sslmode` allows, goes without.
fn has_no_tls(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_none() && std::error::Error::source(error).is_some_and(|cause| !cause.is::<std::io::Error>())
}

type Connecting = Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>;

/// Connects; the second half of the answer moves the bytes.
async fn connect(
    info: &ConnInfo,
    config: &mut tokio_postgres::Config,
    connector: Connector,
    timeout: Duration,
) -> Result<(Client, Connecting), tokio_postgres::Error> {
    let direct = info.get("sslnegotiation") == Some("direct");
    config.ssl_mode(SslMode::Require);
    config.ssl_negotiation(if direct || connector.tls.is_none() {
        SslNegotiation::Direct
    } else {
        SslNegotiation::Postgres
    });
    if !info.host().starts_with('/') {
        let (client, connection) = config.connect(connector).await?;
        return Ok((client, Box::pin(connection)));
    }
    // The driver itself puts nothing above a socket's stream.
    let path = format!("{}/.s.PGSQL.{}", info.host(), info.port());
    let socket = tokio::time::timeout(timeout, tokio::net::UnixStream::connect(path)).await;
    let attrs = config.get_target_session_attrs();
    match (socket, attrs) {
        (Ok(Ok(socket)), TargetSessionAttrs::Any) => {
            let mut connector = connector;
            let to_host = MakeTlsConnect::<tokio::net::UnixStream>::make_tls_connect(&mut connector, "");
            match to_host {
                Ok(to_host) => {
                    let (client, connection) = config.connect_raw(socket, to_host).await?;
                    Ok((client, Box::pin(connection)))
                }
                Err(_never) => without_gate(config).await,
            }
        }
        // The driver says why, or asks the server what it is.
        _ => without_gate(config).await,
    }
}

/// Connects to a socket as the driver does by itself.
async fn without_gate(config: &mut tokio_postgres::Config) -> Result<(Client, Connecting), tokio_postgres::Error> {
    config.ssl_mode(SslMode::Disable);
    config.ssl_negotiation(SslNegotiation::Postgres);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    Ok((client, Box::pin(connection)))
}

fn application_name(name: &str) -> String {
    if name.is_empty() { "pgstow".to_owned() } else { format!("pgstow {name}") }
}

fn config(info: &ConnInfo, timeout: Duration, name: &str) -> Result<tokio_postgres::Config> {
    let mut config = tokio_postgres::Config::new();
    config.user(info.user()).dbname(info.database()).host(info.host()).port(info.port());
    config.application_name(application_name(name));
    // Half of the whole, so that a dead first address (IPv6 without a route) leaves time for the second.
    config.connect_timeout(timeout / 2);
    // A server that vanished is noticed in a minute and a half instead of two hours.
    let seconds =
        |key, default| Duration::from_secs(info.get(key).and_then(|text| text.parse().ok()).unwrap_or(default));
    config.keepalives(info.get("keepalives") != Some("0"));
    config.keepalives_idle(seconds("keepalives_idle", 30)).keepalives_interval(seconds("keepalives_interval", 15));
    config.keepalives_retries(info.get("keepalives_count").and_then(|text| text.parse().ok()).unwrap_or(4));
    if let Some(password) = info.password() {
        config.password(as_given(password.reveal()).as_encoded_bytes());
    }
    if let Some(address) = info.get("hostaddr") {
        config.hostaddr(address.parse().map_err(|_not_an_address| Error::usage("hostaddr is not an IP address"))?);
    }
    if let Some(options) = info.get("options") {
        config.options(options);
    }
    config.channel_binding(match info.get("channel_binding") {
        Some("disable") => ChannelBinding::Disable,
        Some("require") => ChannelBinding::Require,
        _ => ChannelBinding::Prefer,
    });
    // The others are asked of the server by `Session::connect`.
    config.target_session_attrs(match info.get("target_session_attrs") {
        Some("read-write") => TargetSessionAttrs::ReadWrite,
        Some("read-only") => TargetSessionAttrs::ReadOnly,
        _ => TargetSessionAttrs::Any,
    });
    Ok(config)
}
