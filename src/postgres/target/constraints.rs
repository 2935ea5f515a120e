//! Check constraints that rows do not fulfil: taken away while the rows come in, put back afterwards, if need be as
//! `NOT VALID`, so that neither the rows nor the rule for new ones is lost.

use crate::error::Result;
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;
use crate::postgres::query::execute;
use crate::sql::names::literal;

/// A check constraint that was taken away.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    /// `TABLE a.b` or `DOMAIN a.b`.
    on: String,
    /// Its name, quoted.
    name: String,
    /// `CHECK (...)`.
    definition: String,
    comment: Option<String>,
}

impl Check {
    /// Its name and that of its table or domain, for people.
    pub(crate) fn told(&self) -> String {
        format!("{} on {}", self.name, self.on.to_lowercase().split(' ').next().unwrap_or_default())
            + self.on.find(' ').and_then(|at| self.on.get(at..)).unwrap_or_default()
    }

    /// The statement that makes the server check all rows again.
    pub(crate) fn validate(&self) -> String {
        format!("ALTER {} VALIDATE CONSTRAINT {}", self.on, self.name)
    }

    /// The statements that put it back, for new rows only where it is not `valid`.
    fn back(&self, valid: bool) -> String {
        let marked = if valid || self.definition.ends_with(" NOT VALID") { "" } else { " NOT VALID" };
        let (on, name, definition) = (&self.on, &self.name, &self.definition);
        let comment = self.comment.as_ref().map_or_else(String::new, |comment| {
            let on = on.strip_prefix("TABLE ").unwrap_or(on);
            format!("; COMMENT ON CONSTRAINT {name} ON {on} IS {}", literal(comment))
        });
        format!("BEGIN; ALTER {on} ADD CONSTRAINT {name} {definition}{marked}{comment}; COMMIT")
    }
}

/// Takes the check constraints away that rows of this table (its name as SQL) must fulfil: its own, those of the tables it
/// inherits from or is a partition of, and those of its columns' domains.
///
/// # Errors
/// The server's.
pub(crate) async fn take_away(session: &Session, table: &str) -> Result<Vec<Check>> {
    let doing = format!("take the check constraints of {table} away");
    let sql = "WITH RECURSIVE above(oid, depth) AS (
                   SELECT pg_catalog.to_regclass($1)::pg_catalog.oid, 0
                   UNION SELECT i.inhparent, a.depth + 1 FROM above a JOIN pg_catalog.pg_inherits i ON i.inhrelid = a.oid)
               SELECT x.o, x.n, x.d, x.c FROM (
                   SELECT 'TABLE ' || k.conrelid::pg_catalog.regclass::pg_catalog.text, pg_catalog.quote_ident(k.conname),
                          pg_catalog.pg_get_constraintdef(k.oid), pg_catalog.obj_description(k.oid, 'pg_constraint'), a.depth
                     FROM (SELECT oid, max(depth) AS depth FROM above GROUP BY oid) a
                     JOIN pg_catalog.pg_constraint k ON k.conrelid = a.oid WHERE k.contype = 'c' AND k.conislocal
                   UNION ALL
                   SELECT 'DOMAIN ' || pg_catalog.format_type(k.contypid, NULL), pg_catalog.quote_ident(k.conname),
                          pg_catalog.pg_get_constraintdef(k.oid), pg_catalog.obj_description(k.oid, 'pg_constraint'), -1
                     FROM pg_catalog.pg_constraint k WHERE k.contype = 'c' AND k.contypid IN (
                          SELECT atttypid FROM pg_catalog.pg_attribute
                           WHERE attrelid = pg_catalog.to_regclass($1) AND attnum > 0 AND NOT attisdropped)
                   ) x(o, n, d, c, depth) ORDER BY x.depth DESC, x.o, x.n";
    let rows = session.client.query(sql, &[&table]).await.map_err(|e| failure(&e).context(&doing))?;
    let mut taken = Vec::with_capacity(rows.len());
    for row in &rows {
        let check = Check { on: row.get(0), name: row.get(1), definition: row.get(2), comment: row.get(3) };
        execute(session, &format!("ALTER {} DROP CONSTRAINT IF EXISTS {}", check.on, check.name), &doing).await?;
        taken.push(check);
    }
    Ok(taken)
}

/// Puts a constraint back.
///
/// # Errors
/// The server's; the session's transaction is rolled back.
pub(crate) async fn put_back(session: &Session, check: &Check, valid: bool) -> Result<()> {
    let doing = format!("put constraint {} back", check.told());
    let done = execute(session, &check.back(valid), &doing).await;
    if done.as_ref().is_err_and(|error| error.sqlstate().is_some()) {
        execute(session, "ROLLBACK", &doing).await?;
    }
    done
}
