//! The mark of an unfinished restore, made before the first object and removed after the last, so that a database with
//! half of a run in it is never taken for a whole one.
//!
//! It is the comment on the database: a shared object, so that no event trigger of anybody fires when it is made, changed
//! or removed. Its first line names the restore, the second what was there before (JSON), the rest is the comment that
//! the database had. A role that does not own the database marks it by a schema, as all restores did once; such a role
//! cannot restore event triggers either.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::Client;

use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;
use crate::postgres::query::execute;
use crate::sql::names::{literal, quote};

/// The words that the comment begins with.
const WORDS: &str = "pgstow restore, unfinished: ";

/// Schema that marks an unfinished restore where the comment cannot; its comment names the restore.
pub(crate) const MARK: &str = "pgstow_restore";

/// The application name of a restore's sessions and of those of its programs.
pub(crate) const APPLICATION: &str = "pgstow restore";

/// Number of the advisory lock: `pgstowrs` as bytes, so that it is nobody else's.
pub(crate) const LOCK: u64 = 0x7067_7374_6f77_7273;

/// Times, and the pause, with which terminated sessions are listed again.
pub(crate) const ENDINGS: u32 = 200;

pub(crate) const ENDING: Duration = Duration::from_millis(50);

/// The word before the transaction that a closed mark names, among what was present before.
const CLOSED: &str = "pgstow: all transactions of the restore are before";

/// The object that carries a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Comment,
    Schema,
}

/// The mark of an unfinished restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The run, and the kind of restore.
    pub(crate) what: String,
    /// The objects that were present before: kind and name.
    pub(crate) kept: BTreeSet<(String, String)>,
    /// The comment that the database had.
    comment: Option<String>,
    place: Place,
    /// The database.
    database: String,
}

/// True for a comment on a database that is a mark.
pub(crate) fn is_mark(comment: &str) -> bool {
    comment.starts_with(WORDS)
}

impl Mark {
    /// The mark that a comment on this database is.
    fn parse(database: &str, comment: &str) -> Option<Self> {
        let rest = comment.strip_prefix(WORDS)?;
        let (what, rest) = rest.split_once('\n').unwrap_or((rest, "[]"));
        let (kept, comment) = rest.split_once('\n').map_or((rest, None), |(kept, own)| (kept, Some(own.to_owned())));
        let kept: Vec<(String, String)> = serde_json::from_str(kept).unwrap_or_default();
        Some(Self {
            what: what.to_owned(),
            kept: kept.into_iter().collect(),
            comment,
            place: Place::Comment,
            database: database.to_owned(),
        })
    }

    /// The comment that this mark is.
    fn text(&self) -> String {
        let kept: Vec<&(String, String)> = self.kept.iter().collect();
        let kept = serde_json::to_string(&kept).unwrap_or_else(|_impossible| "[]".to_owned());
        let own = self.comment.as_ref().map_or_else(String::new, |own| format!("\n{own}"));
        format!("{WORDS}{}\n{kept}{own}", self.what)
    }

    fn on_database(&self, comment: Option<&str>) -> String {
        let comment = comment.map_or_else(|| "NULL".to_owned(), literal);
        format!("COMMENT ON DATABASE {} IS {comment}", quote(&self.database))
    }

    /// The statement that removes the mark and nothing else.
    pub(crate) fn removal(&self) -> String {
        match self.place {
            Place::Comment => self.on_database(self.comment.as_deref()),
            Place::Schema => format!("DROP SCHEMA {MARK} CASCADE"),
        }
    }

    /// The transaction that all of the restore were before, where it ended by itself.
    pub(crate) fn closed(&self) -> Option<u64> {
        self.kept.iter().find(|(kind, _)| kind == CLOSED).and_then(|(_, number)| number.parse().ok())
    }

    /// Notes that no transaction from now on is one of the restore, whose other sessions have ended. A schema cannot say
    /// it.
    pub(crate) async fn close(&mut self, session: &Session) -> Result<()> {
        if self.place == Place::Schema {
            return Ok(());
        }
        let sql = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text";
        let row = session.client.query_typed_one(sql, &[]).await;
        let next: String = row.map_err(|e| failure(&e).context("close the mark of the restore"))?.get(0);
        self.kept.retain(|(kind, _)| kind != CLOSED);
        self.kept.insert((CLOSED.to_owned(), next));
        let what = self.what.clone();
        self.change(session, &what).await
    }

    /// Takes that note back, before anything is changed again.
    pub(crate) async fn reopen(&mut self, session: &Session) -> Result<()> {
        if self.closed().is_none() {
            return Ok(());
        }
        self.kept.retain(|(kind, _)| kind != CLOSED);
        let what = self.what.clone();
        self.change(session, &what).await
    }

    /// Says something else in the mark.
    pub(crate) async fn change(&mut self, session: &Session, what: &str) -> Result<()> {
        what.clone_into(&mut self.what);
        let sql = match self.place {
            Place::Comment => self.on_database(Some(&self.text())),
            Place::Schema => format!("COMMENT ON SCHEMA {MARK} IS {}", literal(what)),
        };
        execute(session, &sql, "change the mark of the restore").await
    }

    /// Removes the mark. `comment` is the statement that gives the database the comment it should have; without one it
    /// has the old one again.
    pub(crate) async fn remove(&self, session: &Session, comment: Option<&str>) -> Result<()> {
        let doing = "take the mark away";
        match (self.place, comment) {
            // The saved database may have carried a mark itself.
            (Place::Comment, Some(statement)) if !statement.contains(WORDS) => execute(session, statement, doing).await,
            (Place::Comment, _) => execute(session, &self.removal(), doing).await,
            (Place::Schema, _) => execute(session, DROP_IN_SILENCE, doing).await,
        }
    }
}

/// Drops the schema that is a mark; event triggers are off meanwhile, where the role is a superuser.
const DROP_IN_SILENCE: &str =
    "DO $pgstow$ DECLARE t record; on_again pg_catalog.text[] := '{}'; s pg_catalog.text; BEGIN
  IF pg_catalog.current_setting('is_superuser') = 'on' THEN
    FOR t IN SELECT evtname, evtenabled FROM pg_catalog.pg_event_trigger WHERE evtenabled <> 'D' LOOP
      EXECUTE pg_catalog.format('ALTER EVENT TRIGGER %I DISABLE', t.evtname);
      on_again := on_again || pg_catalog.format('ALTER EVENT TRIGGER %I ENABLE %s', t.evtname,
        CASE t.evtenabled WHEN 'A' THEN 'ALWAYS' WHEN 'R' THEN 'REPLICA' ELSE '' END);
    END LOOP;
  END IF;
  DROP SCHEMA IF EXISTS pgstow_restore CASCADE;
  FOREACH s IN ARRAY on_again LOOP EXECUTE s; END LOOP;
END $pgstow$";

/// Looks for the mark of an unfinished restore in the session's database.
///
/// # Errors
/// A connection that broke.
pub(crate) async fn find(client: &Client) -> Result<Option<Mark>> {
    let doing = "look for an unfinished restore";
    let sql = format!(
        "SELECT pg_catalog.current_database()::pg_catalog.text,
                (SELECT coalesce(pg_catalog.shobj_description(oid, 'pg_database'), '') FROM pg_catalog.pg_database
                  WHERE datname = pg_catalog.current_database()),
                (SELECT coalesce(pg_catalog.obj_description(oid, 'pg_namespace'), '') FROM pg_catalog.pg_namespace WHERE nspname = {0}),
                EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                         WHERE n.nspname = {0} AND c.relname = 'kept')",
        literal(MARK)
    );
    let row = client.query_typed_one(&sql, &[]).await.map_err(|e| failure(&e).context(doing))?;
    let (database, comment, schema): (String, String, Option<String>) = (row.get(0), row.get(1), row.get(2));
    if let Some(mark) = Mark::parse(&database, &comment) {
        return Ok(Some(mark));
    }
    let Some(what) = schema else { return Ok(None) };
    let mut kept = BTreeSet::new();
    if row.get(3) {
        let rows = client.query(&format!("SELECT kind, name FROM {MARK}.kept"), &[]).await;
        let rows = rows.map_err(|e| failure(&e).context(doing))?;
        kept.extend(rows.iter().map(|row| (row.get(0), row.get(1))));
    }
    let comment = Some(comment).filter(|text| !text.is_empty());
    Ok(Some(Mark { what, kept, comment, place: Place::Schema, database }))
}

impl Mark {
    /// Marks the database as being restored; an old mark that it carries becomes this one.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn make(session: &Session, what: &str, old: Option<Self>) -> Result<Self> {
        match old {
            Some(mut mark) if mark.place == Place::Comment => mark.change(session, what).await.map(|()| mark),
            // The event triggers of the run are gone now, those that it brings would fire at the end.
            Some(mark) => {
                let new = comment(session, what, mark.kept.clone()).await;
                match new {
                    Err(error) if error.is_sqlstate("42501") => {
                        let mut mark = mark;
                        mark.change(session, what).await.map(|()| mark)
                    }
                    Err(error) => Err(error),
                    Ok(new) => mark.remove(session, None).await.map(|()| new),
                }
            }
            None => Self::new(session, what, BTreeSet::new()).await,
        }
    }

    /// Marks the database as being restored, with what was there before.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn new(session: &Session, what: &str, kept: BTreeSet<(String, String)>) -> Result<Self> {
        match comment(session, what, kept.clone()).await {
            Err(error) if error.is_sqlstate("42501") => schema(session, what, kept).await,
            done => done,
        }
    }

    /// True for a mark that is the database's comment.
    pub(crate) fn is_comment(&self) -> bool {
        self.place == Place::Comment
    }
}

const DOING: &str = "mark the database as being restored";

/// Marks the database by its comment, which only its owner may change.
async fn comment(session: &Session, what: &str, kept: BTreeSet<(String, String)>) -> Result<Mark> {
    let sql = "SELECT pg_catalog.current_database()::pg_catalog.text, pg_catalog.shobj_description(oid, 'pg_database')
                 FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()";
    let row = session.client.query_typed_one(sql, &[]).await.map_err(|e| failure(&e).context(DOING))?;
    let mark = Mark { what: what.to_owned(), kept, comment: row.get(1), place: Place::Comment, database: row.get(0) };
    execute(session, &mark.on_database(Some(&mark.text())), DOING).await.map(|()| mark)
}

/// Marks somebody else's database, in which the role may make schemas.
async fn schema(session: &Session, what: &str, kept: BTreeSet<(String, String)>) -> Result<Mark> {
    let database = session.info().database().to_owned();
    let mark = Mark { what: what.to_owned(), kept, comment: None, place: Place::Schema, database };
    let rows: Vec<String> =
        mark.kept.iter().map(|(kind, name)| format!("({}, {})", literal(kind), literal(name))).collect();
    let mut sql = format!("BEGIN; CREATE SCHEMA {MARK}; COMMENT ON SCHEMA {MARK} IS {};", literal(what));
    if !rows.is_empty() {
        sql.push_str(&format!(
            "CREATE TABLE {MARK}.kept (kind pg_catalog.text NOT NULL, name pg_catalog.text NOT NULL);
             INSERT INTO {MARK}.kept VALUES {};",
            rows.join(", ")
        ));
    }
    sql.push_str("COMMIT");
    execute(session, &sql, DOING).await.map(|()| mark)
}

/// The error of a database whose restore was not finished: what it holds is not whole.
///
/// # Errors
/// That error, or a connection that broke.
pub(crate) async fn refuse(client: &Client) -> Result<()> {
    let Some(mark) = find(client).await? else { return Ok(()) };
    Err(Error::failed(format!("database {:?} holds an unfinished restore of run {}", mark.database, mark.what))
        .hint("finish it by the same `pgstow restore` command: a backup of half a database would be called complete")
        .hint(format!("if it is complete as it is, take the mark away: {}", mark.removal())))
}

/// Takes the lock that one restore at a time holds in a database, as long as the session lasts; false where another
/// session has it.
pub(crate) async fn lock(session: &Session) -> Result<bool> {
    let sql = format!("SELECT pg_catalog.pg_try_advisory_lock({LOCK})");
    let row = session.client.query_typed_one(&sql, &[]).await;
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
        let others = session.client.query_typed(&sql, &[]).await.map_err(|e| failure(&e).context(doing))?;
        if others.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(ENDING).await;
    }
    Err(Error::failed("sessions of a killed restore do not end").hint("check pg_stat_activity, then try again"))
}

/// Brings every commit before this one, of whatever session, to disk. A transaction that wrote nothing is not flushed,
/// even if it has a number (PostgreSQL's `RecordTransactionCommit`): so it writes a message that nobody reads.
pub(crate) async fn flush(session: &Session) -> Result<()> {
    let sql = "BEGIN; SET LOCAL synchronous_commit = on;
               SELECT pg_catalog.pg_logical_emit_message(true, 'pgstow', 'restored'); COMMIT";
    execute(session, sql, "bring what was restored to disk").await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_with_the_comment_that_the_database_had() {
        for comment in [None, Some("two\nlines [\"x\"]".to_owned()), Some("[]".to_owned())] {
            let closed = (CLOSED.to_owned(), "4294967297".to_owned());
            let kept = [("schema".to_owned(), "a \"b\"\n".to_owned()), closed].into();
            let what = "20261122T150405Z-1a2b3c --schema-only".to_owned();
            let mark = Mark { what, kept, comment, place: Place::Comment, database: "x".to_owned() };
            assert_eq!(mark.closed(), Some(4_294_967_297));
            assert_eq!(Mark::parse("x", &mark.text()), Some(mark));
        }
        assert_eq!(Mark::parse("x", "pgstow drill 1 of run 2"), None);
        assert!(Mark::parse("x", &format!("{WORDS}a run")).is_some_and(|mark| mark.what == "a run"));
    }
}
