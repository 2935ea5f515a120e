//! The mark of an unfinished restore: a schema whose comment names the run. It is made before the first object and
//! removed after the last, so that a database with half of a run in it is never taken for a whole one.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;
use crate::postgres::query::{execute, strings};
use crate::sql::names::literal;

/// Schema that marks an unfinished restore; its comment names the run.
pub(crate) const MARK: &str = "pgstow_restore";

/// The application name of a restore's sessions and of those of its programs.
pub(crate) const APPLICATION: &str = "pgstow restore";

/// Number of the advisory lock: `pgstowrs` as bytes, so that it is nobody else's.
pub(crate) const LOCK: u64 = 0x7067_7374_6f77_7273;

/// Times, and the pause, with which terminated sessions are listed again.
pub(crate) const ENDINGS: u32 = 200;

pub(crate) const ENDING: Duration = Duration::from_millis(50);

/// The text of the mark, which names the unfinished restore; `None` without a mark.
pub(crate) async fn unfinished(session: &Session) -> Result<Option<String>> {
    let sql = format!(
        "SELECT coalesce(pg_catalog.obj_description(oid, 'pg_namespace'), '') FROM pg_catalog.pg_namespace WHERE nspname = {}",
        literal(MARK)
    );
    Ok(strings(&session.client, &sql, "find an unfinished restore").await?.into_iter().next())
}

/// Marks the database, which is empty, as being restored; the mark says by what.
pub(crate) async fn mark(session: &Session, what: &str) -> Result<()> {
    let sql = format!("BEGIN; CREATE SCHEMA {MARK}; COMMENT ON SCHEMA {MARK} IS {}; COMMIT", literal(what));
    execute(session, &sql, "mark the database as being restored").await
}

/// Replaces the text of the mark.
pub(crate) async fn remark(session: &Session, what: &str) -> Result<()> {
    let sql = format!("COMMENT ON SCHEMA {MARK} IS {}", literal(what));
    execute(session, &sql, "change the mark of the restore").await
}

/// Takes the lock that one restore at a time holds in a database, as long as the session lasts; false where another
/// session has it.
pub(crate) async fn lock(session: &Session) -> Result<bool> {
    let sql = format!("SELECT pg_catalog.pg_try_advisory_lock({LOCK})");
    let row = session.client.query_one(&sql, &[]).await;
    Ok(row.map_err(|e| failure(&e).context("lock the database for the restore"))?.get(0))
}

/// Ends what a killed restore left running in this database: its `pg_restore` outlives it. For the holder of [`lock`].
pub(crate) async fn end_others(session: &Session) -> Result<()> {
    let doing = "end what a killed restore left running";
    let sql = format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
          WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid() AND application_name = {}",
        literal(APPLICATION)
    );
    for _time in 0..ENDINGS {
        let others = session.client.query(&sql, &[]).await.map_err(|e| failure(&e).context(doing))?;
        if others.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(ENDING).await;
    }
    Err(Error::failed("sessions of a killed restore do not end").hint("check pg_stat_activity, then try again"))
}

/// Takes the mark away.
pub(crate) async fn unmark(session: &Session) -> Result<()> {
    execute(session, &format!("DROP SCHEMA {MARK}"), "take the mark away").await
}

/// Brings every commit before this one, of whatever session, to disk. A transaction that wrote nothing is not flushed,
/// even if it has a number (PostgreSQL's `RecordTransactionCommit`): so it writes a message that nobody reads.
pub(crate) async fn flush(session: &Session) -> Result<()> {
    let sql = "BEGIN; SET LOCAL synchronous_commit = on;
               SELECT pg_catalog.pg_logical_emit_message(true, 'pgstow', 'restored'); COMMIT";
    execute(session, sql, "bring what was restored to disk").await
}
