//! The leader: one session that locks every table, then exports the snapshot everything else reads.
//!
//! Order matters. Inside its transaction nothing but `BEGIN`, `SET LOCAL` and `LOCK TABLE` precedes
//! `pg_export_snapshot()`: any SELECT would freeze the snapshot before the locks are held, and a TRUNCATE or a
//! rewriting ALTER in between would show an empty table (pg_dump itself has that hole). After the snapshot the tables
//! are listed again, in it; a table that vanished or appeared in between means starting over.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::{Error, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::connect::stall;
use crate::postgres::error::failure;
use crate::postgres::query::{Lossy, sent};
use crate::postgres::source::detect::{Detection, Relation, detect, detect_in_transaction};
use crate::postgres::source::waiters::end_backend;
use crate::sql::names::quote;

/// Tables in one LOCK statement: a statement of a few KiB, a round trip for every few hundred tables.
const LOCKED_AT_ONCE: usize = 200;
/// Most such statements sent ahead of their answers: some hundred KiB.
const LOCKS_ON_THE_WIRE: usize = 32;
/// Most times that the lead starts over when tables come and go (Supabase makes and drops realtime partitions every
/// day).
const ATTEMPTS: u32 = 3;

/// Longest wait for a connection to let its locks go.
const LET_GO: Duration = Duration::from_secs(10);

/// The application name of a leader's session, before the name of its run (and after the program's).
const LEADER: &str = "leader ";

/// A session that holds the locks and the snapshot. Dropping it lets everything go.
#[derive(Debug)]
pub(crate) struct Leader {
    /// The session, in its transaction.
    pub(crate) session: Arc<Session>,
    /// Name of the exported snapshot.
    pub(crate) snapshot: String,
    /// WAL position at the snapshot, where the role may ask.
    pub(crate) wal_lsn: Option<String>,
    /// The contents of the database at the snapshot.
    pub(crate) detection: Detection,
}

/// A session with the advisory lock of this store and database, before any transaction.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// The session.
    pub(crate) session: Arc<Session>,
    /// The contents of the database now.
    pub(crate) detection: Detection,
}

impl Leader {
    /// Lets snapshot, locks and the advisory lock go, so that the next attempt finds them free.
    pub(crate) async fn release(self) {
        let sql = "ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all()";
        let_go(&self.session, sql).await;
    }

    /// Lets snapshot and table locks go once everything was read; the advisory lock stays until the leader is dropped.
    pub(crate) async fn end_transaction(&self) {
        let_go(&self.session, "ROLLBACK").await;
    }
}

/// Lets locks go. A connection that does not answer is cut, and its backend ended through another one.
async fn let_go(session: &Session, sql: &str) {
    match tokio::time::timeout(LET_GO, session.client.batch_execute(sql)).await {
        Ok(Ok(())) => return,
        // A connection that was cut leaves its backend where it was.
        Ok(Err(error)) => tracing::debug!("let the locks go: {error}"),
        Err(_elapsed) => session.abandon(),
    }
    let end = async {
        let other = Session::connect_again(session.info(), LET_GO, "cleanup").await?;
        end_backend(&other.client, session.pid()).await
    };
    if let Ok(Ok(())) = tokio::time::timeout(LET_GO, end).await {
        tracing::warn!("the leader's connection did not answer any more; its backend was ended");
    } else {
        tracing::warn!(
            "the leader's connection does not answer any more; the server lets its locks go when it notices"
        );
    }
}

/// The name of a relation as SQL.
#[must_use]
pub(crate) fn qualified(relation: &Relation) -> String {
    format!("{}.{}", quote(&relation.schema), quote(&relation.name))
}

/// True when `LOCK TABLE` takes it: ordinary and partitioned tables that the role can read.
#[must_use]
pub(crate) fn lockable(relation: &Relation) -> bool {
    relation.relkind.is_lockable() && relation.unreadable.is_none()
}

impl Candidate {
    /// Connects and lists what there is. The session's name ends with that of the run.
    /// After `silence` of a session that owes an answer its backend is looked at.
    pub(crate) async fn connect(info: &ConnInfo, timeout: Duration, silence: Duration, run: &str) -> Result<Self> {
        let session = Session::connect_unpooled(info, timeout, &format!("{LEADER}{run}")).await?;
        stall::guard(&session, timeout, silence);
        let detection = detect(&session.client).await?;
        Ok(Self { session: Arc::new(session), detection })
    }

    /// Takes the advisory lock that keeps two runs of one database into one store apart.
    pub(crate) async fn lock_store(&self, store: &str) -> Result<()> {
        let key = lock_key(store, &self.detection.server.identity);
        let client = &self.session.client;
        let row = client.query_typed_one(&format!("SELECT pg_catalog.pg_try_advisory_lock({key})"), &[]).await;
        if row.map_err(|e| failure(&e).context("take the advisory lock"))?.get(0) {
            return Ok(());
        }
        Err(already_running(client, key).await)
    }

    /// Locks all tables, exports the snapshot and lists again, up to [`ATTEMPTS`] times.
    pub(crate) async fn lead(mut self, lock_timeout: Duration) -> Result<Leader> {
        for attempt in 1..=ATTEMPTS {
            match self.attempt(lock_timeout).await? {
                Ok((snapshot, wal_lsn, detection)) => {
                    return Ok(Leader { session: self.session, snapshot, wal_lsn, detection });
                }
                Err(why) => {
                    tracing::info!(
                        "{why} while tables were being locked; starting over (attempt {attempt} of {ATTEMPTS})"
                    );
                    rollback(&self.session.client).await?;
                    self.detection = detect(&self.session.client).await?;
                }
            }
        }
        Err(Error::failed("lock all tables: tables were created or dropped each time")
            .hint("run the backup when no migration is running"))
    }

    /// One attempt; the inner error says what came or went. Locks, snapshot and the questions behind them are sent
    /// without waiting for each answer.
    async fn attempt(&self, lock_timeout: Duration) -> Result<Result<(String, Option<String>, Detection), String>> {
        let client = &self.session.client;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = {}",
            lock_timeout.as_millis()
        );
        let tables: Vec<String> = self.detection.relations.iter().filter(|r| lockable(r)).map(qualified).collect();
        let lock = |some: &[String]| format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", some.join(", ONLY "));
        let locks: Vec<String> = tables.chunks(LOCKED_AT_ONCE).map(lock).collect();
        let begun = sent(client.batch_execute(&begin)).await;
        let mut on_the_wire = VecDeque::new();
        let mut refused = None;
        for lock in &locks {
            on_the_wire.push_back(sent(client.batch_execute(lock)).await);
            if on_the_wire.len() >= LOCKS_ON_THE_WIRE
                && let Some(answer) = on_the_wire.pop_front()
                && let Err(error) = answer.await
            {
                refused = Some(error);
                break;
            }
        }
        let snapshot = sent(client.query_typed_one("SELECT pg_catalog.pg_export_snapshot()", &[])).await;
        let server = &self.detection.server;
        let (locked, detection, wal_lsn) = tokio::join!(
            biased;
            async move {
                begun.await.map_err(|e| failure(&e).context("open the leader's transaction"))?;
                // Those behind the first that was refused fail for that reason only.
                while refused.is_none()
                    && let Some(answer) = on_the_wire.pop_front()
                {
                    refused = answer.await.err();
                }
                Ok::<_, Error>(refused)
            },
            detect_in_transaction(client, server),
            wal_lsn(client, server.in_recovery),
        );
        if let Some(error) = locked? {
            return self.lock_failed(&error, lock_timeout).await.map(Err);
        }
        let snapshot: String = snapshot.await.map_err(|e| failure(&e).context("export the snapshot"))?.get(0);
        let detection = detection?;
        if let Some(why) = difference(&self.detection, &detection) {
            return Ok(Err(why));
        }
        Ok(Ok((snapshot, wal_lsn?, detection)))
    }

    /// A table that is gone means starting over; a lock that is not to be had names the table and who holds it.
    async fn lock_failed(&self, error: &tokio_postgres::Error, lock_timeout: Duration) -> Result<String> {
        let client = &self.session.client;
        match error.code() {
            Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME) => Ok("a table was dropped".to_owned()),
            Some(&SqlState::T_R_DEADLOCK_DETECTED) => Ok("a deadlock was ended".to_owned()),
            Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                rollback(client).await?;
                let held = holders(client, &self.detection).await?;
                let held = held.unwrap_or_else(|| "the holder let go meanwhile".to_owned());
                let waited = humantime::format_duration(lock_timeout);
                Err(Error::failed(format!("lock the tables: not to be had within {waited}: {held}"))
                    .hint("wait for that statement, end it, or raise --lock-timeout"))
            }
            Some(&SqlState::OUT_OF_MEMORY) => Err(failure(error).context("lock the tables").hint(
                "raise max_locks_per_transaction on the server: every table needs a lock, twice (leader and pg_dump)",
            )),
            _ => Err(failure(error).context("lock the tables")),
        }
    }
}

/// The tables that one listing has and the other has not.
fn difference(before: &Detection, after: &Detection) -> Option<String> {
    let names = |d: &Detection| -> BTreeSet<(u32, String, String)> {
        d.relations.iter().filter(|r| lockable(r)).map(|r| (r.oid, r.schema.clone(), r.name.clone())).collect()
    };
    let (before, after) = (names(before), names(after));
    let gone = before.difference(&after).next().map(|(_, schema, name)| format!("{schema}.{name} vanished"));
    gone.or_else(|| after.difference(&before).next().map(|(_, schema, name)| format!("{schema}.{name} appeared")))
}

async fn rollback(client: &Client) -> Result<()> {
    client.batch_execute("ROLLBACK").await.map_err(|e| failure(&e).context("let the locks go"))
}

/// The WAL position, where the role may ask. In a transaction that must not fail: behind a savepoint.
async fn wal_lsn(client: &Client, in_recovery: bool) -> Result<Option<String>> {
    let function = if in_recovery { "pg_last_wal_replay_lsn" } else { "pg_current_wal_lsn" };
    let context = |e: tokio_postgres::Error| failure(&e).context("ask for the WAL position");
    let sql = format!("SELECT pg_catalog.{function}()::pg_catalog.text");
    let before = sent(client.batch_execute("SAVEPOINT optional")).await;
    let asked = sent(client.query_typed_one(&sql, &[])).await;
    let after = sent(client.batch_execute("ROLLBACK TO SAVEPOINT optional; RELEASE SAVEPOINT optional")).await;
    before.await.map_err(context)?;
    let asked = asked.await;
    after.await.map_err(context)?;
    match asked {
        Ok(row) => Ok(row.get(0)),
        Err(error) => {
            tracing::debug!("the WAL position is not known: {error}");
            Ok(None)
        }
    }
}

/// The sessions that hold or wait for a lock that conflicts with reading one of the tables.
pub(crate) async fn holders(client: &Client, detection: &Detection) -> Result<Option<String>> {
    let oids: Vec<u32> = detection.relations.iter().filter(|r| lockable(r)).map(|r| r.oid).collect();
    let rows = client
        .query(
            "SELECT l.relation::pg_catalog.regclass::pg_catalog.text, l.granted,
                    CASE WHEN l.pid IS NULL THEN 'prepared transaction ' || coalesce(
                        (SELECT p.gid FROM pg_catalog.pg_prepared_xacts p
                          WHERE p.transaction = (SELECT x.transactionid FROM pg_catalog.pg_locks x
                             WHERE x.virtualtransaction = l.virtualtransaction AND x.locktype = 'transactionid' LIMIT 1)), '?')
                    ELSE 'pid ' || l.pid || ' (' || coalesce(a.usename::pg_catalog.text, '?') || ', '
                        || coalesce(nullif(a.application_name, ''), '?') || ')' END,
                    CASE WHEN l.pid IS NOT NULL THEN coalesce(a.query, '?') END
               FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
              WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.relation = ANY($1)
                AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
              ORDER BY l.granted DESC, a.xact_start LIMIT 3",
            &[&oids],
        )
        .await
        .map_err(|e| failure(&e).context("ask who holds the locks"))?;
    let told: Vec<String> = rows
        .iter()
        .map(|row| {
            let (table, granted, who): (String, bool, String) = (row.get(0), row.get(1), row.get::<_, Lossy>(2).0);
            let query: Option<String> = row.get(3);
            let does = if granted { "is locked by" } else { "is waited for by" };
            let query = query.map_or_else(String::new, |query| {
                let line: String = query.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(120).collect();
                format!(": {line}")
            });
            format!("{table} {does} {who}{query}")
        })
        .collect();
    Ok((!told.is_empty()).then(|| told.join("; ")))
}

/// Most sessions in the database at once; -1 without a limit.
pub(crate) async fn database_connection_limit(client: &Client) -> Result<i64> {
    let sql = "SELECT datconnlimit::pg_catalog.int8 FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()";
    let row =
        client.query_typed_one(sql, &[]).await.map_err(|e| failure(&e).context("ask for the database's limit"))?;
    Ok(row.get(0))
}

/// Bytes of the large objects with what surrounds them, the base of the part size planned.
pub(crate) async fn large_object_bytes(client: &Client) -> Result<u64> {
    let sql = "SELECT pg_catalog.pg_relation_size('pg_catalog.pg_largeobject')";
    let row =
        client.query_typed_one(sql, &[]).await.map_err(|e| failure(&e).context("ask for the size of large objects"))?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

fn lock_key(store: &str, identity: &str) -> i64 {
    let words = format!("pgstow backup\0{store}\0{identity}");
    xxhash_rust::xxh3::xxh3_64(words.as_bytes()).cast_signed()
}

/// The error about a backup of that database into that store that is running now; `None` without one.
pub(crate) async fn running(client: &Client, store: &str, identity: &str) -> Result<Option<Error>> {
    let key = lock_key(store, identity);
    let row = client
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted
                AND ((classid::pg_catalog.int8 << 32) | objid::pg_catalog.int8) = $1)",
            &[&key],
        )
        .await;
    let held: bool = row.map_err(|e| failure(&e).context("find another backup"))?.get(0);
    Ok(if held { Some(already_running(client, key).await) } else { None })
}

/// Names the run that has the lock: every role may see a session's application name, only some its start.
async fn already_running(client: &Client, key: i64) -> Error {
    let holder = client
        .query_opt(
            "SELECT a.pid, pg_catalog.to_char(a.backend_start, 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), a.application_name,
                    pg_catalog.host(a.client_addr)
               FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
              WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
                AND ((l.classid::pg_catalog.int8 << 32) | l.objid::pg_catalog.int8) = $1",
            &[&key],
        )
        .await;
    let who = match holder {
        Ok(Some(row)) => {
            let pid: i32 = row.get(0);
            let name: Option<String> = row.get(2);
            let run = name.as_deref().and_then(|name| name.strip_prefix("pgstow ")?.strip_prefix(LEADER));
            let told = [
                run.map(|run| format!("run {run}")),
                Some(format!("pid {pid}")),
                row.get::<_, Option<String>>(1).map(|since| format!("started {since}")),
                row.get::<_, Option<String>>(3).map(|address| format!("from {address}")),
            ];
            format!(" ({})", told.into_iter().flatten().collect::<Vec<_>>().join(", "))
        }
        _ => String::new(),
    };
    Error::failed(format!("another backup of this database into this store is running{who}"))
        .hint("wait for it to end; its lock goes with its connection")
}
