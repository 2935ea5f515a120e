//! The scratch databases of drills and the roles made for them, as the server keeps them: made, marked, found, dropped.
//!
//! The mark is a comment on the database or role (a shared object: no event trigger of anybody fires) with a random
//! token. While its drill runs, a session holds the advisory lock of that number; `pg_locks` shows it in every database.
//! So a mark whose lock nobody holds is a dead drill's. Nothing is dropped that does not carry the expected mark.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;
use crate::postgres::query::{Lossy, execute, strings};
use crate::sql::names::{literal, quote};

/// The words that a mark begins with.
const WORDS: &str = "pgstow drill ";

/// The server waits until all its processes have let go of a database that is dropped; a process of an extension that
/// never does (seen with pglogical 2.4.2) would keep the drill for ever.
const DROP_LIMIT: &str = "SET statement_timeout = '5min'";

/// The mark of one drill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    token: i64,
    text: String,
}

impl Mark {
    /// A new mark of a drill of this run.
    pub(crate) fn new(run: &str) -> Self {
        let token: i64 = rand::random();
        // Linux only; it is for people.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.is_empty() { "an unknown host" } else { host.trim() };
        let (process, at) = (std::process::id(), jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ"));
        let text = format!(
            "{WORDS}{token:016x} of run {run}, process {process} on {host}, begun {at}; removed when that drill ends, or by a later one"
        );
        Self { token, text }
    }

    /// The mark that a comment holds.
    fn parse(comment: &str) -> Option<Self> {
        let token = u64::from_str_radix(comment.strip_prefix(WORDS)?.split(' ').next()?, 16).ok()?;
        Some(Self { token: token.cast_signed(), text: comment.to_owned() })
    }

    /// The comment.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

/// Something that a drill left on the server.
#[derive(Debug, Clone)]
pub(crate) struct Leftover {
    /// Name of the database or role.
    pub(crate) name: String,
    /// Its mark; `None` for a database that only has the name of a scratch database.
    pub(crate) mark: Option<Mark>,
    /// Sessions in it that are not pgstow's.
    pub(crate) strangers: i64,
}

/// Most bytes of a name that this server keeps; it cuts longer ones in silence.
pub(crate) async fn longest_name(session: &Session) -> Result<usize> {
    let sql = "SELECT pg_catalog.current_setting('max_identifier_length')";
    let length = strings(&session.client, sql, "ask for the length of names").await?;
    Ok(length.first().and_then(|text| text.parse().ok()).unwrap_or(63))
}

/// Takes the lock of a mark, which lasts as long as the session.
pub(crate) async fn hold(session: &Session, mark: &Mark) -> Result<()> {
    let sql = format!("SELECT pg_catalog.pg_advisory_lock({})", mark.token);
    execute(session, &sql, "take the lock of this drill").await
}

/// Ends the session of this backend, whatever it does.
pub(crate) async fn end(session: &Session, pid: i32) -> Result<()> {
    execute(session, &format!("SELECT pg_catalog.pg_terminate_backend({pid})"), "end a session").await
}

/// Marks a database that this session has just made.
pub(crate) async fn mark_database(session: &Session, name: &str, mark: &Mark) -> Result<()> {
    let sql = format!("COMMENT ON DATABASE {} IS {}", quote(name), literal(&mark.text));
    execute(session, &sql, "mark the scratch database").await
}

/// The comment on a database, empty where it has none; `None` where there is no such database.
async fn comment(session: &Session, name: &str) -> Result<Option<String>> {
    let sql = format!(
        "SELECT coalesce(pg_catalog.shobj_description(oid, 'pg_database'), '') FROM pg_catalog.pg_database WHERE datname = {}",
        literal(name)
    );
    Ok(strings(&session.client, &sql, "read the scratch database").await?.into_iter().next())
}

/// Drops the database of this name if it carries this mark, whatever its properties and whoever is connected. A database
/// that is gone already is none of our business any more.
///
/// # Errors
/// A database that does not carry the mark, which stays; the server's refusal.
pub(crate) async fn drop_database(session: &Session, name: &str, mark: &Mark) -> Result<()> {
    let doing = "drop the scratch database";
    match comment(session, name).await? {
        None => return Ok(()),
        Some(found) if found == mark.text => {}
        Some(_) => {
            return Err(Error::failed(format!(
                "database {name:?} does not carry the mark of this drill any more: it was not dropped"
            ))
            .hint("if nobody needs it, drop it by hand"));
        }
    }
    execute(session, DROP_LIMIT, doing).await?;
    execute(session, &open(name), doing).await?;
    execute(session, &format!("DROP DATABASE {} WITH (FORCE)", quote(name)), doing).await
}

/// Takes away the properties with which a database cannot be dropped or connected to.
fn open(name: &str) -> String {
    format!("ALTER DATABASE {} WITH IS_TEMPLATE false ALLOW_CONNECTIONS true CONNECTION LIMIT -1", quote(name))
}

/// Databases that drills have left: with a mark whose lock nobody holds, or with nothing but the name of one. Those of
/// drills that are running are not among them.
pub(crate) async fn left_databases(session: &Session) -> Result<Vec<Leftover>> {
    let doing = "find scratch databases of killed drills";
    let sql = format!(
        "SELECT d.datname::pg_catalog.text, coalesce(pg_catalog.shobj_description(d.oid, 'pg_database'), ''),
                (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a
                  WHERE a.datid = d.oid AND a.backend_type = 'client backend'
                    AND a.application_name NOT LIKE 'pgstow%')
           FROM pg_catalog.pg_database d
          WHERE pg_catalog.starts_with(coalesce(pg_catalog.shobj_description(d.oid, 'pg_database'), ''), {})
             OR d.datname LIKE 'pgstow\\_drill\\_%'
          ORDER BY 1",
        literal(WORDS)
    );
    let rows = session.client.query_typed(&sql, &[]).await.map_err(|e| failure(&e).context(doing))?;
    let found = rows.iter().map(|row| {
        let comment: String = row.get(1);
        Leftover { name: row.get(0), mark: Mark::parse(&comment), strangers: row.get(2) }
    });
    dead(session, found.collect()).await
}

/// Roles that drills have left.
pub(crate) async fn left_roles(session: &Session) -> Result<Vec<Leftover>> {
    let sql = format!(
        "SELECT rolname::pg_catalog.text, pg_catalog.shobj_description(oid, 'pg_authid') FROM pg_catalog.pg_roles
          WHERE pg_catalog.starts_with(pg_catalog.shobj_description(oid, 'pg_authid'), {}) ORDER BY 1",
        literal(WORDS)
    );
    let rows = session.client.query_typed(&sql, &[]).await;
    let rows = rows.map_err(|e| failure(&e).context("find roles of killed drills"))?;
    let found = rows.iter().map(|row| {
        let comment: String = row.get(1);
        Leftover { name: row.get::<_, Lossy>(0).0, mark: Mark::parse(&comment), strangers: 0 }
    });
    dead(session, found.collect()).await
}

/// Those whose drill is not running.
async fn dead(session: &Session, found: Vec<Leftover>) -> Result<Vec<Leftover>> {
    let sql = "SELECT DISTINCT ((classid::pg_catalog.int8 << 32) | objid::pg_catalog.int8)::pg_catalog.text
                 FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted";
    let held = strings(&session.client, sql, "find drills that are running").await?;
    let held: BTreeSet<i64> = held.iter().filter_map(|text| text.parse().ok()).collect();
    Ok(found.into_iter().filter(|one| one.mark.as_ref().is_none_or(|mark| !held.contains(&mark.token))).collect())
}

/// Drops a database that a dead drill has left. It is renamed first, in the same transaction in which its mark is looked
/// at: another drill may be removing it too, and making one of its own by that name.
pub(crate) async fn drop_left_database(session: &Session, name: &str, mark: &Mark) -> Result<()> {
    let doing = "drop the scratch database of a killed drill";
    let aside = format!("pgstow_drill_dead_{:016x}", mark.token);
    let ours = format!(
        "SELECT 1 / pg_catalog.count(*)::pg_catalog.int4 FROM pg_catalog.pg_database
          WHERE datname = {} AND pg_catalog.shobj_description(oid, 'pg_database') = {}",
        literal(&aside),
        literal(&mark.text)
    );
    let end = format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
          WHERE datname = {} AND application_name LIKE 'pgstow%'",
        literal(name)
    );
    if name != aside {
        execute(session, &end, doing).await?;
        let rename = format!("BEGIN; ALTER DATABASE {} RENAME TO {}; {ours}; COMMIT", quote(name), quote(&aside));
        if let Err(error) = execute(session, &rename, doing).await {
            execute(session, "ROLLBACK", doing).await?;
            return Err(error);
        }
    }
    drop_database(session, &aside, mark).await
}

/// Drops roles that a drill made, in one statement: those that carry this mark.
pub(crate) async fn drop_roles(session: &Session, mark: &Mark) -> Result<Vec<String>> {
    let doing = "drop the roles of the drill";
    let sql = format!(
        "SELECT rolname::pg_catalog.text FROM pg_catalog.pg_roles
          WHERE pg_catalog.shobj_description(oid, 'pg_authid') = {} ORDER BY 1",
        literal(&mark.text)
    );
    let roles = strings(&session.client, &sql, doing).await?;
    if roles.is_empty() {
        return Ok(roles);
    }
    // A privilege on a parameter is in no database, and would keep its grantee.
    let mut statements = Vec::new();
    if session.server_version_num() >= 150_000 {
        let sql = "SELECT DISTINCT parname FROM pg_catalog.pg_parameter_acl";
        for parameter in strings(&session.client, sql, doing).await? {
            let from: Vec<String> = roles.iter().map(|role| quote(role)).collect();
            statements.push(format!("REVOKE ALL ON PARAMETER {} FROM {}", quote(&parameter), from.join(", ")));
        }
    }
    let names: Vec<String> = roles.iter().map(|role| quote(role)).collect();
    statements.push(format!("DROP ROLE {}", names.join(", ")));
    execute(session, &format!("BEGIN; {}; COMMIT", statements.join("; ")), doing).await?;
    Ok(roles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_from_its_comment_and_nothing_else_is_one() {
        let mark = Mark::new("20261122T150405Z-1a2b3c");
        assert_eq!(Mark::parse(mark.text()), Some(mark));
        for other in ["", "pgstow drill", "pgstow drill xyz of run a", "my database"] {
            assert_eq!(Mark::parse(other), None, "{other}");
        }
    }
}
