//! Loading rows: a session in a transaction that takes COPY text. What is loaded together, and when it is committed,
//! is the caller's decision; dropping a session rolls back what it had open.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;

use super::conninfo::ConnInfo;
use super::session::{Session, failure};
use crate::archive::rows::Rows;
use crate::error::{Error, Result};
use crate::seal::digest::Fingerprint;

/// A session that loads rows.
#[derive(Debug)]
pub struct Loader {
    session: Session,
}

impl Loader {
    /// Connects. Commits of this session need not be on disk when they return: the restore ends with one that is.
    pub async fn connect(info: &ConnInfo, timeout: Duration) -> Result<Self> {
        let session = Session::connect(info, timeout, "restore").await?;
        let loader = Self { session };
        loader.execute("SET synchronous_commit = off", "set up a session for loading").await?;
        Ok(loader)
    }

    /// Turns triggers and foreign keys off for this session; false where the role may not.
    pub async fn replica_role(&self) -> bool {
        match self.execute("SET session_replication_role = replica", "turn triggers off").await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!("{error}");
                false
            }
        }
    }

    /// Runs statements without results.
    pub async fn execute(&self, sql: &str, doing: &str) -> Result<()> {
        self.session.client.batch_execute(sql).await.map_err(|e| failure(&e).context(doing))
    }

    /// Takes the rows that come through `rows` by this `COPY ... FROM stdin` and returns how many the server counted.
    /// The channel's end is the end of the rows; an error that comes through it cancels the COPY.
    pub async fn copy(&self, statement: &str, rows: &mut mpsc::Receiver<Result<Bytes>>, doing: &str) -> Result<u64> {
        let failed = |e: &tokio_postgres::Error| failure(e).context(doing);
        let statement = statement.trim().trim_end_matches(';');
        let sink = self.session.client.copy_in(statement).await.map_err(|e| failed(&e))?;
        let mut sink = std::pin::pin!(sink);
        while let Some(part) = rows.recv().await {
            let sent = sink.as_mut().send(part?).await;
            if let Err(error) = sent {
                // What the server said about the rows is told by the end of the COPY.
                return Err(match sink.as_mut().finish().await {
                    Err(cause) => failed(&cause),
                    Ok(_) => failed(&error),
                });
            }
        }
        sink.finish().await.map_err(|e| failed(&e))
    }

    /// The fingerprint of what a `COPY ... TO STDOUT` gives, with the settings of a backup.
    pub async fn fingerprint(&self, statement: &str, doing: &str) -> Result<Fingerprint> {
        let stream = self.session.client.copy_out(statement).await.map_err(|e| failure(&e).context(doing))?;
        let mut stream = std::pin::pin!(stream);
        let mut rows = Rows::default();
        while let Some(part) = stream.next().await {
            rows.feed(&part.map_err(|e| failure(&e).context(doing))?);
        }
        Ok(*rows.fingerprint())
    }

    /// The session itself.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Ends the session in good order.
    pub async fn close(self) {
        self.session.close().await;
    }
}

/// Empties a table whose rows were committed by some sessions and refused to another.
pub async fn truncate(info: &ConnInfo, timeout: Duration, table: &str) -> Result<()> {
    let loader = Loader::connect(info, timeout).await?;
    loader.execute(&format!("TRUNCATE ONLY {table}"), &format!("empty {table} again")).await?;
    loader.close().await;
    Ok(())
}

/// Names of the tables and materialised views whose statistics the planner needs, largest first, quoted.
pub async fn analyzable(session: &Session) -> Result<Vec<String>> {
    let sql = "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE c.relkind IN ('r', 'm', 'p') AND n.nspname <> 'information_schema'
                  AND n.nspname !~ '^pg_(catalog|toast|temp_|toast_temp_)' AND c.relpersistence <> 't'
                ORDER BY c.relpages DESC, pg_catalog.pg_relation_size(c.oid) DESC";
    let rows = session.client.query(sql, &[]).await.map_err(|e| failure(&e).context("list the tables"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The error of a row count that is not the one that was sent.
#[must_use]
pub fn miscounted(what: &str, sent: u64, counted: u64) -> Error {
    Error::failed(format!("{what}: {sent} rows were sent, the server took {counted}"))
}

/// What of a table a backup reads.
#[derive(Debug, Clone)]
pub struct Readable {
    /// Its columns that are not generated, quoted, in order.
    pub columns: String,
    /// The topmost table it is a partition of, as `schema.table`, quoted; itself where it is none.
    pub root: String,
}

/// Columns and root of a table, given by its names; `None` where there is no such table.
pub async fn readable(session: &Session, schema: &str, table: &str) -> Result<Option<Readable>> {
    let sql = "SELECT coalesce((SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)
                         FROM pg_catalog.pg_attribute a
                        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), ''),
                      coalesce(pg_catalog.pg_partition_root(c.oid)::pg_catalog.oid, c.oid)::pg_catalog.regclass::pg_catalog.text
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = $1 AND c.relname = $2";
    let row = session.client.query_opt(sql, &[&schema, &table]).await;
    let row = row.map_err(|e| failure(&e).context(format!("look at {schema}.{table}")))?;
    Ok(row.map(|row| Readable { columns: row.get(0), root: row.get(1) }))
}
