//! The sessions that wait behind the locks of a run: those that want what our ACCESS SHARE locks do not allow (a migration, a
//! TRUNCATE), and everybody queued behind them.
//!
//! `pg_locks` and `pg_blocking_pids` may be read by every role; of the statement a role without `pg_read_all_stats`
//! sees only those of its own sessions. Asking costs nothing while nobody waits: `pg_blocking_pids`, which stops the
//! lock manager for a moment, is asked for waiting sessions only.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::error::Result;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;
use crate::postgres::query::Lossy;

/// Longest statement in a message, in characters.
const STATEMENT: usize = 120;

/// A session that waits for a lock on a table because of us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiter {
    /// Its process id.
    pub(crate) pid: i32,
    /// The table (or other relation), qualified.
    pub(crate) table: String,
    /// Its user and program, for people.
    pub(crate) who: String,
    /// Its statement on one line, shortened; or what it is, where it has none.
    pub(crate) statement: String,
    /// Sessions queued behind it, directly or not.
    pub(crate) behind: usize,
}

/// A session of its own that asks; the run's sessions are busy or must not be disturbed.
#[derive(Debug)]
pub(crate) struct Watcher {
    session: Session,
    run: String,
}

/// One row of [`WAITING`].
struct Row {
    waiter: Waiter,
    blockers: Vec<i32>,
    direct: bool,
}

/// Sessions of the run carry its name at the end of their application name. A virtual transaction or another lock is
/// waited for too (CREATE INDEX CONCURRENTLY waits for our snapshot), but holds nobody up: only waits for relations
/// count as waits for us; who is queued behind them may wait for anything.
const WAITING: &str = "
    WITH ours AS MATERIALIZED (
        SELECT pg_catalog.array_agg(pid) AS pids FROM pg_catalog.pg_stat_activity
         WHERE application_name LIKE 'pgstow %' AND pg_catalog.right(application_name, pg_catalog.length($1)) = $1),
    waiting AS MATERIALIZED (
        SELECT l.pid, l.locktype, l.relation, l.database, pg_catalog.pg_blocking_pids(l.pid) AS blockers
          FROM pg_catalog.pg_locks l WHERE NOT l.granted AND l.pid IS NOT NULL)
    SELECT w.pid,
           CASE WHEN w.relation IS NULL THEN '' ELSE w.relation::pg_catalog.regclass::pg_catalog.text END,
           pg_catalog.concat_ws(', ', a.usename, nullif(a.application_name, '')),
           coalesce(nullif(a.query, ''), a.backend_type, '?'),
           w.blockers,
           w.locktype = 'relation' AND w.blockers && o.pids
             AND w.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
      FROM waiting w CROSS JOIN ours o LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = w.pid
     WHERE NOT (w.pid = ANY (o.pids))";

impl Watcher {
    /// Connects. `run` is what the application names of the run's sessions end with.
    pub(crate) async fn connect(info: &ConnInfo, timeout: Duration, run: &str) -> Result<Self> {
        let session = Session::connect(info, timeout, &format!("watcher {run}")).await?;
        Ok(Self { session, run: run.to_owned() })
    }

    /// The sessions that wait for a table because of the run, by process id.
    pub(crate) async fn waiters(&self) -> Result<Vec<Waiter>> {
        let rows = self.session.client.query(WAITING, &[&self.run]).await;
        let rows = rows.map_err(|e| failure(&e).context("ask who waits for our locks"))?;
        let rows: Vec<Row> = rows
            .iter()
            .map(|row| {
                let who = row.get::<_, Lossy>(2).0;
                Row {
                    waiter: Waiter {
                        pid: row.get(0),
                        table: row.get(1),
                        who: one_line(&who),
                        statement: one_line(row.get(3)),
                        behind: 0,
                    },
                    blockers: row.get(4),
                    direct: row.get::<_, Option<bool>>(5).unwrap_or(false),
                }
            })
            .collect();
        Ok(with_queues(&rows))
    }
}

/// The direct waiters, each with the number of sessions that wait for it or for one of those.
fn with_queues(rows: &[Row]) -> Vec<Waiter> {
    let direct: HashSet<i32> = rows.iter().filter(|row| row.direct).map(|row| row.waiter.pid).collect();
    let mut waiters: Vec<Waiter> = Vec::new();
    for row in rows.iter().filter(|row| row.direct) {
        let mut queue: HashSet<i32> = HashSet::from([row.waiter.pid]);
        loop {
            let before = queue.len();
            let queued = rows.iter().filter(|other| other.blockers.iter().any(|pid| queue.contains(pid)));
            let queued: Vec<i32> = queued.map(|other| other.waiter.pid).collect();
            queue.extend(queued);
            if queue.len() == before {
                break;
            }
        }
        let behind = queue.difference(&direct).count();
        waiters.push(Waiter { behind, ..row.waiter.clone() });
    }
    waiters.sort_by_key(|waiter| waiter.pid);
    waiters
}

/// A lock that a session of the run waits for, and who stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wait {
    /// Process id of the waiting backend.
    pub(crate) pid: i32,
    /// The relation, qualified; or the kind of lock.
    pub(crate) lock: String,
    /// The sessions in the way, for people.
    pub(crate) holders: String,
    /// True while a session of somebody else is blocked by the run.
    pub(crate) blocks_others: bool,
}

/// The lock that the session with this application name waits for. A blocking process id of 0 stands for a prepared
/// transaction.
const WAIT: &str = r"
    WITH ours AS MATERIALIZED (
        SELECT pg_catalog.array_agg(pid) AS pids FROM pg_catalog.pg_stat_activity
         WHERE application_name LIKE 'pgstow %' AND pg_catalog.right(application_name, pg_catalog.length($2)) = $2)
    SELECT l.pid,
           CASE WHEN l.relation IS NULL THEN l.locktype ELSE l.relation::pg_catalog.regclass::pg_catalog.text END,
           (SELECT pg_catalog.string_agg(CASE WHEN b.pid = 0
                     THEN 'prepared transaction ' || coalesce((SELECT pg_catalog.string_agg(p.gid, ', ')
                       FROM pg_catalog.pg_prepared_xacts p WHERE p.database = pg_catalog.current_database()), '?')
                     ELSE 'pid ' || b.pid || ' (' || pg_catalog.concat_ws(', ', h.usename, nullif(h.application_name, ''), h.state)
                       || '): ' || pg_catalog.left(pg_catalog.regexp_replace(coalesce(h.query, '?'), '\s+', ' ', 'g'), 120) END, '; ')
              FROM (SELECT DISTINCT pid FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(l.pid)) u(pid)) b
              LEFT JOIN pg_catalog.pg_stat_activity h ON h.pid = b.pid),
           EXISTS (SELECT FROM pg_catalog.pg_locks w WHERE NOT w.granted AND w.locktype = 'relation'
                      AND NOT (w.pid = ANY (o.pids)) AND pg_catalog.pg_blocking_pids(w.pid) && o.pids)
      FROM ours o, pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
     WHERE NOT l.granted AND a.application_name = $1 LIMIT 1";

/// The lock that the session of this application name waits for now, if it waits for one. May be asked in a transaction
/// that holds a snapshot: locks and sessions are those of the moment.
pub(crate) async fn wait_of(client: &Client, application: &str, run: &str) -> Result<Option<Wait>> {
    let context = |e: &tokio_postgres::Error| failure(e).context("ask for the locks of pg_dump");
    client.batch_execute("SELECT pg_catalog.pg_stat_clear_snapshot()").await.map_err(|e| context(&e))?;
    let row = client.query_opt(WAIT, &[&application, &run]).await.map_err(|e| context(&e))?;
    Ok(row.map(|row| Wait {
        pid: row.get(0),
        lock: row.get(1),
        holders: row
            .get::<_, Option<Lossy>>(2)
            .map_or_else(|| "the holder let go meanwhile".to_owned(), |holders| holders.0),
        blocks_others: row.get(3),
    }))
}

/// The state of a program's backend, and whether it has work to do: not when it waits for the program to ask, to send
/// or to read.
const STATE: &str = "
    SELECT pid, pg_catalog.concat_ws(' ', pid, state, state_change, wait_event),
           coalesce(state, '') = 'active' AND coalesce(wait_event, '') NOT IN ('ClientRead', 'ClientWrite')
      FROM pg_catalog.pg_stat_activity WHERE application_name = $1 AND usename = current_user LIMIT 1";
/// Time between two checks of a program's backend, at most.
const SEEN: Duration = Duration::from_secs(5);

/// Waits until the backend of the program with this application name, or the program without one, has had nothing to do for
/// so long: its connection is lost though nobody has closed it. Ends the backend. May run in a transaction that holds a
/// snapshot.
pub(crate) async fn until_stuck(client: &Client, application: &str, silence: Duration) -> Result<()> {
    let context = |e: &tokio_postgres::Error| failure(e).context("look at a program's backend");
    let mut since: Option<(String, Instant)> = None;
    loop {
        tokio::time::sleep((silence / 4).clamp(Duration::from_millis(50), SEEN)).await;
        client.batch_execute("SELECT pg_catalog.pg_stat_clear_snapshot()").await.map_err(|e| context(&e))?;
        let row = client.query_opt(STATE, &[&application]).await.map_err(|e| context(&e))?;
        let (pid, state, works) = row.map_or((None, String::new(), false), |r| (Some(r.get(0)), r.get(1), r.get(2)));
        let began = match since.take().filter(|(before, _)| !works && *before == state) {
            Some((_, began)) => began,
            None => Instant::now(),
        };
        since = Some((state, began));
        if !works && began.elapsed() >= silence {
            return match pid {
                Some(pid) => end_backend(client, pid).await,
                None => Ok(()),
            };
        }
    }
}

/// The backends of a run, whatever began them; a role may end those of its own.
const BACKENDS: &str = "
    FROM pg_catalog.pg_stat_activity
   WHERE application_name LIKE 'pgstow %' AND pg_catalog.right(application_name, pg_catalog.length($1)) = $1
     AND usename = current_user AND pid <> pg_catalog.pg_backend_pid()";

/// Ends the backends of a run and returns how many there were.
pub(crate) async fn terminate(client: &Client, run: &str) -> Result<usize> {
    let sql = format!("SELECT pg_catalog.pg_terminate_backend(pid) {BACKENDS}");
    let rows = client.query(&sql, &[&run]).await.map_err(|e| failure(&e).context("end the run's backends"))?;
    Ok(rows.len())
}

/// Ends one backend of the role's own.
pub(crate) async fn end_backend(client: &Client, pid: i32) -> Result<()> {
    let ended = client.query_one("SELECT pg_catalog.pg_terminate_backend($1)", &[&pid]).await;
    ended.map(drop).map_err(|e| failure(&e).context("end pg_dump's backend"))
}

/// Ends the backends of a program, by its application name.
pub(crate) async fn end_program(client: &Client, application: &str) -> Result<()> {
    let sql = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
                WHERE application_name = $1 AND usename = current_user AND pid <> pg_catalog.pg_backend_pid()";
    let ended = client.query(sql, &[&application]).await;
    ended.map(drop).map_err(|e| failure(&e).context("end a program's backend"))
}

/// The number of backends of a run.
pub(crate) async fn backends(client: &Client, run: &str) -> Result<i64> {
    let sql = format!("SELECT count(*) {BACKENDS}");
    let row = client.query_one(&sql, &[&run]).await.map_err(|e| failure(&e).context("count the run's backends"))?;
    Ok(row.get(0))
}

fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= STATEMENT {
        return line;
    }
    line.chars().take(STATEMENT - 3).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pid: i32, blockers: &[i32], direct: bool) -> Row {
        let waiter = Waiter { pid, table: "t".to_owned(), who: String::new(), statement: String::new(), behind: 0 };
        Row { waiter, blockers: blockers.to_vec(), direct }
    }

    #[test]
    fn a_queue_is_followed_to_its_end() {
        let rows = vec![row(3, &[2], false), row(1, &[100], true), row(2, &[1], false), row(9, &[8], false)];
        let waiters = with_queues(&rows);
        assert_eq!(waiters.iter().map(|w| (w.pid, w.behind)).collect::<Vec<_>>(), [(1, 2)]);
    }

    #[test]
    fn a_statement_is_one_short_line() {
        assert_eq!(one_line("ALTER TABLE t\n\tADD c int"), "ALTER TABLE t ADD c int");
        assert_eq!(one_line(&"é".repeat(500)).chars().count(), STATEMENT);
    }
}
