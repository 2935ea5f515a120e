//! The state of the server that could stop a backup: facts only, judged by `doctor`.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use tokio_postgres::Client;

use crate::error::Result;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::error::failure;
use crate::postgres::source::detect::Detection;
use crate::postgres::source::leader::lockable;

/// Facts about the server and the role, as of now.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Time limits of the role, the database or the server, as `name = value`; those that are off are not listed.
    pub(crate) timeouts: Vec<String>,
    /// TLS as the server sees it: version and cipher; `None` where its side is not encrypted. Behind a pooler this is
    /// the way from the pooler to the server.
    pub(crate) server_tls: Option<String>,
    /// Sessions of the role, this one included.
    pub(crate) role_connections: i64,
    /// Sessions in the database, this one included.
    pub(crate) database_connections: i64,
    /// Most sessions in the database, -1 without a limit.
    pub(crate) database_connection_limit: i64,
    /// Seconds until the role's password is no longer accepted.
    pub(crate) password_ends_in: Option<i64>,
    /// `old_snapshot_threshold` where it is on (before PostgreSQL 17): it makes long snapshots fail.
    pub(crate) old_snapshot_threshold: Option<String>,
    /// The facts of a standby only.
    pub(crate) standby: Option<Standby>,
}

/// A standby's settings.
#[derive(Debug, Clone)]
pub(crate) struct Standby {
    /// `max_standby_streaming_delay` in milliseconds; -1: for ever.
    pub(crate) streaming_delay_ms: i64,
    /// `max_standby_archive_delay`, the same.
    pub(crate) archive_delay_ms: i64,
    /// `hot_standby_feedback`.
    pub(crate) feedback: bool,
    /// Seconds since the last replayed transaction.
    pub(crate) behind: Option<i64>,
}

/// A lock that keeps others from reading a table, held or waited for.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Blocking {
    /// The table.
    pub(crate) table: String,
    /// Process id of the session; `None` for a prepared transaction.
    pub(crate) pid: Option<i32>,
    /// Held, not only waited for.
    pub(crate) granted: bool,
    /// The session's role.
    pub(crate) role: String,
    /// Seconds since its transaction began.
    pub(crate) age: i64,
    /// Its current or last statement, on one line, shortened.
    pub(crate) query: String,
}

const FACTS: &str = "
SELECT
    ARRAY(SELECT name || ' = ' || reset_val || coalesce(unit, '') FROM pg_catalog.pg_settings
        WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
            'transaction_timeout', 'idle_session_timeout') AND reset_val <> '0' ORDER BY name),
    (SELECT s.version || ', ' || s.cipher FROM pg_catalog.pg_stat_ssl s
        WHERE s.pid = pg_catalog.pg_backend_pid() AND s.ssl),
    (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE usename = current_user),
    (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = current_database()
        AND coalesce(backend_type, 'client backend') = 'client backend'),
    d.datconnlimit::int8,
    CASE WHEN pg_catalog.isfinite(r.rolvaliduntil) THEN extract(epoch FROM r.rolvaliduntil - now())::int8 END,
    nullif(current_setting('old_snapshot_threshold', true), '-1'),
    pg_catalog.pg_is_in_recovery()
FROM pg_catalog.pg_database d, pg_catalog.pg_roles r
WHERE d.datname = current_database() AND r.rolname = current_user";

const STANDBY: &str = "
SELECT (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'max_standby_streaming_delay'),
    (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'max_standby_archive_delay'),
    current_setting('hot_standby_feedback')::bool,
    extract(epoch FROM now() - pg_catalog.pg_last_xact_replay_timestamp())::int8";

const BLOCKING: &str = "
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), l.pid, l.granted, coalesce(a.usename::text, '?'),
    coalesce(extract(epoch FROM now() - coalesce(a.xact_start, p.prepared)), 0)::int8,
    CASE WHEN l.pid IS NULL THEN 'prepared transaction ' || coalesce(p.gid, '?') ELSE coalesce(a.query, '?') END
FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_class c ON c.oid = l.relation
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_catalog.pg_prepared_xacts p ON l.pid IS NULL AND p.transaction IN (
    SELECT x.transactionid FROM pg_catalog.pg_locks x
     WHERE x.virtualtransaction = l.virtualtransaction AND x.locktype = 'transactionid')
WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.relation = ANY($1)
    AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
    AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
ORDER BY l.granted DESC, 5 DESC, 1";

/// Asks for the facts.
///
/// # Errors
/// When the connection or a catalogue fails.
pub(crate) async fn facts(client: &Client) -> Result<Facts> {
    let context = |error: tokio_postgres::Error| failure(&error).context("read the server's settings");
    let row = client.query_typed_one(FACTS, &[]).await.map_err(context)?;
    let standby = if row.get(7) {
        let row = client.query_typed_one(STANDBY, &[]).await.map_err(context)?;
        Some(Standby {
            streaming_delay_ms: row.get(0),
            archive_delay_ms: row.get(1),
            feedback: row.get(2),
            behind: row.get(3),
        })
    } else {
        None
    };
    Ok(Facts {
        timeouts: row.get(0),
        server_tls: row.get(1),
        role_connections: row.get(2),
        database_connections: row.get(3),
        database_connection_limit: row.get(4),
        password_ends_in: row.get(5),
        old_snapshot_threshold: row.get(6),
        standby,
    })
}

/// The moment when the server of a session was started: it tells one server from another.
///
/// # Errors
/// When the connection fails.
pub(crate) async fn started(client: &Client) -> Result<String> {
    let row = client.query_one("SELECT pg_catalog.pg_postmaster_start_time()::pg_catalog.text", &[]).await;
    Ok(row.map_err(|error| failure(&error).context("ask when the server was started"))?.get(0))
}

/// The sessions that keep tables of the backup from being read, or waits to: those who hold a lock first, the oldest first.
///
/// # Errors
/// When the connection or a catalogue fails.
pub(crate) async fn blocking(client: &Client, detection: &Detection) -> Result<Vec<Blocking>> {
    let tables: Vec<u32> = detection.relations.iter().filter(|r| lockable(r)).map(|r| r.oid).collect();
    let rows = client.query(BLOCKING, &[&tables]).await;
    let rows = rows.map_err(|error| failure(&error).context("ask who holds locks"))?;
    let one_line = |query: String| query.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(120).collect();
    let made = rows.iter().map(|row| Blocking {
        table: row.get(0),
        pid: row.get(1),
        granted: row.get(2),
        role: row.get(3),
        age: row.get(4),
        query: one_line(row.get(5)),
    });
    Ok(made.collect())
}

/// The addresses of the first host; none for a socket's folder, or where `hostaddr` says it.
///
/// # Errors
/// The addresses that the resolver returns.
pub(crate) async fn addresses(info: &ConnInfo) -> std::io::Result<Vec<IpAddr>> {
    if let Some(address) = info.get("hostaddr").and_then(|text| text.split(',').next()?.parse().ok()) {
        return Ok(vec![address]);
    }
    if info.host().starts_with('/') {
        return Ok(Vec::new());
    }
    let found = tokio::net::lookup_host((info.host(), info.port())).await?;
    Ok(found.map(|address| address.ip()).collect())
}

/// True when this machine has a route to an address. Nothing is sent: connecting a UDP socket only asks the kernel.
#[must_use]
pub(crate) fn has_route(address: IpAddr) -> bool {
    let any: SocketAddr = match address {
        IpAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        IpAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
    };
    std::net::UdpSocket::bind(any).and_then(|socket| socket.connect((address, 9))).is_ok()
}
