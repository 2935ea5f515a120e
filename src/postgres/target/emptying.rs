//! Questions before a table is emptied: who has its locks, and the harm that is done beside it, by foreign keys of other
//! tables that delete or change rows there, by triggers and rules of the user. Asks only. A session whose `session_replication_role` is `replica` is spared the foreign keys
//! and the ordinary triggers; one whose role may not set it is not.

use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;
use crate::postgres::target::mark::APPLICATION;

/// The statement that empties a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Emptied {
    Truncated,
    Deleted,
}

/// True for a refused TRUNCATE in whose place a DELETE may do: others refer to the table, or the role lacks the right. A
/// lock that was not to be had, or a trigger that forbids it, is not among them.
pub(crate) fn is_deletable(error: &Error) -> bool {
    error.is_sqlstate("0A000") || error.is_sqlstate("42501")
}

/// Foreign keys of tables that keep their rows, or some, whose rows go or change with rows of these tables (names as SQL;
/// all rows of the first go, of the second some): the table that is emptied, the one that refers, the action.
///
/// # Errors
/// The server's.
pub(crate) async fn acting(
    session: &Session,
    wholly: &[String],
    partly: &[String],
) -> Result<Vec<(String, String, String)>> {
    // A partition has a foreign key of its own for each one of the partitioned table.
    let sql = "WITH gone(oid) AS MATERIALIZED (SELECT pg_catalog.to_regclass(n)::pg_catalog.oid FROM pg_catalog.unnest($1::pg_catalog.text[]) n),
                    partly(oid) AS MATERIALIZED (SELECT pg_catalog.to_regclass(n)::pg_catalog.oid FROM pg_catalog.unnest($2::pg_catalog.text[]) n)
               SELECT DISTINCT rn.nspname::pg_catalog.text || '.' || r.relname::pg_catalog.text,
                      n.nspname::pg_catalog.text || '.' || c.relname::pg_catalog.text,
                      'ON DELETE ' || CASE k.confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' ELSE 'SET DEFAULT' END
                 FROM pg_catalog.pg_constraint k
                 JOIN pg_catalog.pg_class r ON r.oid = k.confrelid JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace,
                      LATERAL (SELECT k.conrelid UNION SELECT t.relid::pg_catalog.oid
                                 FROM pg_catalog.pg_partition_tree(k.conrelid::pg_catalog.regclass) t WHERE t.isleaf) l(oid)
                 JOIN pg_catalog.pg_class c ON c.oid = l.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE k.contype = 'f' AND k.confdeltype IN ('c', 'n', 'd') AND c.relkind <> 'p'
                  AND (k.confrelid IN (SELECT oid FROM gone) OR k.confrelid IN (SELECT oid FROM partly))
                  AND l.oid NOT IN (SELECT oid FROM gone WHERE oid IS NOT NULL)
                ORDER BY 1, 2, 3";
    let rows = session.client.query(sql, &[&wholly, &partly]).await;
    let rows = rows.map_err(|e| failure(&e).context("find what refers to the tables"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

/// Refuses triggers and rules of the user that would fire in this session when tables (names as SQL) are emptied so.
///
/// # Errors
/// Kind `Usage` for the first of them.
pub(crate) async fn refuse_fires(session: &Session, tables: &[String], how: Emptied, replica: bool) -> Result<()> {
    if tables.is_empty() {
        return Ok(());
    }
    let (bit, word) = match how {
        Emptied::Truncated => (32, "TRUNCATE"),
        Emptied::Deleted => (8, "DELETE"),
    };
    let enabled = if replica { "('A', 'R')" } else { "('O', 'A')" };
    let rules = match how {
        Emptied::Truncated => String::new(),
        Emptied::Deleted => format!(
            "UNION ALL SELECT 'rule', r.ev_class, r.rulename FROM pg_catalog.pg_rewrite r
              WHERE r.ev_type = '4' AND r.ev_enabled IN {enabled}"
        ),
    };
    let sql = format!(
        "SELECT f.kind, pg_catalog.quote_ident(f.name), f.rel::pg_catalog.regclass::pg_catalog.text
           FROM (SELECT 'trigger'::pg_catalog.text, t.tgrelid, t.tgname FROM pg_catalog.pg_trigger t
                  WHERE NOT t.tgisinternal AND t.tgenabled IN {enabled} AND t.tgtype & {bit} <> 0 {rules}) f(kind, rel, name)
          WHERE f.rel IN (SELECT pg_catalog.to_regclass(n)::pg_catalog.oid FROM pg_catalog.unnest($1::pg_catalog.text[]) n)
          ORDER BY 3, 1, 2 LIMIT 1"
    );
    let rows = session.client.query(&sql, &[&tables]).await;
    let rows = rows.map_err(|e| failure(&e).context("find what fires when the tables are emptied"))?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (kind, name, table): (String, String, String) = (row.get(0), row.get(1), row.get(2));
    let upper = kind.to_uppercase();
    Err(Error::usage(format!("empty {table}: {kind} {name} of it fires ON {word}"))
        .hint(format!("ALTER TABLE {table} DISABLE {upper} {name}, restore, then enable it again as it was"))
        .hint("or let a role that may set session_replication_role restore, as a superuser may"))
}

/// The sessions that have locks on these tables (names as SQL), in words; those of restores are left out.
///
/// # Errors
/// The server's.
pub(crate) async fn holders(session: &Session, tables: &[String]) -> Result<Vec<String>> {
    let sql = r"SELECT DISTINCT l.relation::pg_catalog.regclass::pg_catalog.text || ' is locked by '
                       || CASE WHEN l.pid IS NULL THEN 'a prepared transaction'
                          ELSE 'pid ' || l.pid || ' (' || pg_catalog.concat_ws(', ', a.usename, nullif(a.application_name, ''), a.state) || '): '
                            || pg_catalog.left(pg_catalog.regexp_replace(coalesce(a.query, '?'), '\s+', ' ', 'g'), 120) END
                  FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
                 WHERE l.locktype = 'relation' AND l.granted AND a.application_name IS DISTINCT FROM $2
                   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
                   AND l.relation IN (SELECT pg_catalog.to_regclass(n)::pg_catalog.oid FROM pg_catalog.unnest($1::pg_catalog.text[]) n)
                 ORDER BY 1 LIMIT 3";
    let rows = session.client.query(sql, &[&tables, &APPLICATION]).await;
    let rows = rows.map_err(|e| failure(&e).context("ask who holds the locks"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
