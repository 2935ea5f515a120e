//! Who waits behind the locks of a run: sessions that want what our ACCESS SHARE locks do not allow (a migration, a
//! TRUNCATE), and everybody queued behind them.
//!
//! `pg_locks` and `pg_blocking_pids` may be read by every role; of the statement a role without `pg_read_all_stats`
//! sees only those of its own sessions. Asking costs nothing while nobody waits: `pg_blocking_pids`, which stops the
//! lock manager for a moment, is asked for waiting sessions only.

use std::collections::HashSet;
use std::time::Duration;

use crate::error::Result;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;

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

/// What one row of [`WAITING`] says.
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
                let who: String = row.get(2);
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
