//! Loading rows: a session in a transaction that takes COPY text. What is loaded together, and when it is committed,
//! is the caller's decision; dropping a session rolls back what it had open.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::archive::rows::Rows;
use crate::error::{Error, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;
use crate::postgres::settings;
use crate::seal::digest::Fingerprint;
use crate::sql::letters::sendable;
use crate::sql::names::quote;

/// Makes the server look whether the client is there while it waits for something else.
const CHECK: &str = "SET client_connection_check_interval = '2s'";

/// All rows of a small table, and the statement that takes them.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) statement: String,
    pub(crate) rows: Vec<Bytes>,
}

/// A session that loads rows.
#[derive(Debug)]
pub(crate) struct Loader {
    session: Session,
    /// An error of a COPY comes with the place where it happened, which may hold values.
    explains: bool,
}

impl Loader {
    /// Connects. Commits of this session need not be on disk when they return: the restore ends with one that is.
    pub(crate) async fn connect(info: &ConnInfo, timeout: Duration) -> Result<Self> {
        let session = Session::connect(info, timeout, "restore").await?;
        let loader = Self { session, explains: false };
        let doing = "set up a session for loading";
        // Not known before 14, nor allowed on every system: without it a session whose client is gone notices when it
        // next reads rows, and keeps its locks until then.
        let (commits, checks) =
            tokio::join!(loader.execute("SET synchronous_commit = off", doing), loader.execute(CHECK, doing));
        commits?;
        if let Err(error) = checks {
            tracing::debug!("{error}");
        }
        Ok(loader)
    }

    /// Loads by a session that is connected already. Where a COPY is refused, the line and the column are shown.
    pub(crate) const fn of(session: Session) -> Self {
        Self { session, explains: true }
    }

    /// Turns triggers and foreign keys off for this session; false where the role may not.
    pub(crate) async fn replica_role(&self) -> bool {
        match self.execute("SET session_replication_role = replica", "turn triggers off").await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!("{error}");
                false
            }
        }
    }

    /// Runs statements without results.
    pub(crate) async fn execute(&self, sql: &str, doing: &str) -> Result<()> {
        let sql = sendable(sql, self.session.encoding());
        self.session.client.batch_execute(&sql).await.map_err(|e| failure(&e).context(doing))
    }

    /// Takes the rows that come through `rows` by this `COPY ... FROM stdin` and returns how many the server counted.
    /// The channel's end is the end of the rows; an error that comes through it cancels the COPY.
    pub(crate) async fn copy(
        &self,
        statement: &str,
        rows: &mut mpsc::Receiver<Result<Bytes>>,
        doing: &str,
    ) -> Result<u64> {
        let failed = |e: &tokio_postgres::Error| {
            let place = e.as_db_error().and_then(tokio_postgres::error::DbError::where_).filter(|_| self.explains);
            let failed = failure(e).context(doing);
            match place {
                Some(place) => failed.hint(place.replace('\n', " ")),
                None => failed,
            }
        };
        let statement = statement.trim().trim_end_matches(';');
        let sink = self.session.client.copy_in(statement).await.map_err(|e| failed(&e))?;
        let mut sink = std::pin::pin!(sink);
        while let Some(part) = rows.recv().await {
            let sent = sink.as_mut().send(part?).await;
            if let Err(error) = sent {
                // The server's message about the rows comes with the end of the COPY.
                return Err(match sink.as_mut().finish().await {
                    Err(cause) => failed(&cause),
                    Ok(_) => failed(&error),
                });
            }
        }
        sink.finish().await.map_err(|e| failed(&e))
    }

    /// Opens a transaction by `begin` and takes the rows of several tables in it; returns how many the server counted of
    /// each. One round trip to begin and to prepare everything, and one a table: a COPY follows the one before it without
    /// waiting for its end.
    pub(crate) async fn copy_several(&self, begin: &str, tables: Vec<Taken>, doing: &str) -> Result<Vec<u64>> {
        let client = &self.session.client;
        let failed = |e: tokio_postgres::Error| failure(&e).context(doing);
        let prepared: Vec<_> = tables.iter().map(|table| client.prepare(&table.statement).boxed()).collect();
        // The driver sends each when it is polled first; these are polled in their order.
        let (begun, statements) = tokio::join!(client.batch_execute(begin), futures::future::join_all(prepared));
        begun.map_err(failed)?;
        let mut ends = JoinSet::new();
        let mut counts = vec![0; tables.len()];
        for (number, (table, statement)) in tables.into_iter().zip(statements).enumerate() {
            let sink = client.copy_in(&statement.map_err(failed)?).await.map_err(failed)?;
            let mut sink = Box::pin(sink);
            for part in table.rows {
                sink.send(part).await.map_err(failed)?;
            }
            ends.spawn(async move { (number, sink.as_mut().finish().await) });
        }
        while let Some(ended) = ends.join_next().await {
            let (number, counted) = ended.map_err(|error| Error::failed(format!("{doing}: {error}")))?;
            if let Some(count) = counts.get_mut(number) {
                *count = counted.map_err(failed)?;
            }
        }
        Ok(counts)
    }

    /// The time of a round trip to the server.
    pub(crate) async fn round_trip(&self) -> Result<Duration> {
        let begun = Instant::now();
        self.execute("", "measure the distance").await?;
        Ok(begun.elapsed())
    }

    /// Connections that the server has free for ordinary roles.
    pub(crate) async fn free_connections(&self) -> Result<usize> {
        let sql = "SELECT greatest(0, pg_catalog.current_setting('max_connections')::pg_catalog.int8
                          - pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int8
                          - (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend'))";
        let row = self.session.client.query_typed_one(sql, &[]).await;
        let row = row.map_err(|e| failure(&e).context("count the server's connections"))?;
        Ok(usize::try_from(row.get::<_, i64>(0)).unwrap_or_default())
    }

    /// The fingerprint of what a `COPY ... TO STDOUT` gives, with the settings of a backup.
    pub(crate) async fn fingerprint(&self, statement: &str, doing: &str) -> Result<Fingerprint> {
        let (alike, end) = settings::written_alike();
        if self.session.info().restores() {
            self.execute(&alike, doing).await?;
        }
        let stream = self.session.client.copy_out(statement).await.map_err(|e| failure(&e).context(doing))?;
        let mut stream = std::pin::pin!(stream);
        let mut rows = Rows::default();
        while let Some(part) = stream.next().await {
            rows.feed(&part.map_err(|e| failure(&e).context(doing))?);
        }
        if self.session.info().restores() {
            self.execute(&end, doing).await?;
        }
        Ok(*rows.fingerprint())
    }

    /// The session itself.
    #[must_use]
    pub(crate) const fn session(&self) -> &Session {
        &self.session
    }

    /// Ends the session in good order.
    pub(crate) async fn close(self) {
        self.session.close().await;
    }
}

/// Empties a table whose rows were committed by some sessions and refused to another.
pub(crate) async fn truncate(info: &ConnInfo, timeout: Duration, table: &str) -> Result<()> {
    let loader = Loader::connect(info, timeout).await?;
    loader.execute(&format!("TRUNCATE ONLY {table}"), &format!("empty {table} again")).await?;
    loader.close().await;
    Ok(())
}

/// A table or materialised view whose statistics the planner needs.
#[derive(Debug, Clone)]
pub(crate) struct Analyzable {
    /// Its schema.
    pub(crate) schema: String,
    /// Its name.
    pub(crate) name: String,
    /// True when it is a partition: analysing the topmost table gathers its statistics too.
    pub(crate) is_partition: bool,
    /// Its columns, quoted, where autovacuum is going to gather full statistics of it anyhow.
    columns: Option<String>,
    /// Worth a request of its own.
    pub(crate) is_large: bool,
    /// A foreign table is below it: analysing it would contact that one's server.
    pub(crate) has_foreign: bool,
}

/// Bytes from which the time of a sample does not matter beside that of loading the table.
const LARGE: i64 = 64 << 20;

impl Analyzable {
    /// The statements that gather its statistics, for a transaction of their own, and whether they are rough ones. Those come from a hundredth of the
    /// usual sample, of a large table from a tenth: the first two stages of `vacuumdb --analyze-in-stages`. They name
    /// the columns, since PostgreSQL then goes on counting the table as not analysed, so that autovacuum brings the
    /// full ones (`do_analyze_rel` in `commands/analyze.c`).
    #[must_use]
    pub(crate) fn statements(&self, full: bool) -> (String, bool) {
        let name = format!("{}.{}", quote(&self.schema), quote(&self.name));
        match self.columns.as_ref().filter(|_| !full) {
            Some(columns) => {
                let stage = if self.is_large { 10 } else { 1 };
                let sql = format!("SET LOCAL default_statistics_target = {stage}; ANALYZE {name} ({columns})");
                (sql, true)
            }
            None => (format!("ANALYZE {name}"), false),
        }
    }
}

/// The tables and materialised views whose statistics the planner needs, largest first. Which of them autovacuum is
/// going to analyse is decided by its own rule (`relation_needs_vacanalyze` in `postmaster/autovacuum.c`); a table with
/// settings of its own for it counts as one that it does not.
pub(crate) async fn analyzable(session: &Session) -> Result<Vec<Analyzable>> {
    let sql = "WITH RECURSIVE below(root, rel) AS (
                      SELECT inhparent, inhrelid FROM pg_catalog.pg_inherits
                      UNION SELECT b.root, i.inhrelid FROM below b JOIN pg_catalog.pg_inherits i ON i.inhparent = b.rel),
                    mixed AS (SELECT DISTINCT b.root FROM below b JOIN pg_catalog.pg_class f ON f.oid = b.rel WHERE f.relkind = 'f')
               SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
                      CASE WHEN c.relkind IN ('r', 'm') AND c.reloptions::pg_catalog.text !~ 'autovacuum' IS NOT FALSE
                            AND pg_catalog.current_setting('autovacuum')::pg_catalog.bool
                            AND pg_catalog.current_setting('track_counts')::pg_catalog.bool
                            AND pg_catalog.pg_stat_get_mod_since_analyze(c.oid) >
                                pg_catalog.current_setting('autovacuum_analyze_threshold')::pg_catalog.float8
                                + pg_catalog.current_setting('autovacuum_analyze_scale_factor')::pg_catalog.float8
                                * greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid))
                      THEN (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)
                              FROM pg_catalog.pg_attribute a
                             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) END,
                      c.relispartition AND NOT EXISTS (SELECT FROM below b JOIN mixed m ON m.root = b.root WHERE b.rel = c.oid),
                      coalesce(pg_catalog.pg_relation_size(c.oid), 0) >= $1,
                      EXISTS (SELECT FROM mixed m WHERE m.root = c.oid)
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE c.relkind IN ('r', 'm', 'p') AND n.nspname <> 'information_schema'
                  AND n.nspname !~ '^pg_(catalog|toast|temp_|toast_temp_)' AND c.relpersistence <> 't'
                ORDER BY c.relpages DESC, pg_catalog.pg_relation_size(c.oid) DESC";
    let rows = session.client.query(sql, &[&LARGE]).await.map_err(|e| failure(&e).context("list the tables"))?;
    Ok(rows
        .iter()
        .map(|row| Analyzable {
            schema: row.get(0),
            name: row.get(1),
            columns: row.get(2),
            is_partition: row.get(3),
            is_large: row.get(4),
            has_foreign: row.get(5),
        })
        .collect())
}

/// The error of a row count that is not the one that was sent.
#[must_use]
pub(crate) fn miscounted(what: &str, sent: u64, counted: u64) -> Error {
    Error::failed(format!("{what}: {sent} rows were sent, the server took {counted}"))
}

/// Partitions below a hash-partitioned table: schema, name, and the topmost table as SQL.
pub(crate) async fn hash_partitions(loader: &Loader) -> Result<Vec<(String, String, String)>> {
    let sql = "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
                      pg_catalog.pg_partition_root(c.oid)::pg_catalog.regclass::pg_catalog.text
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE c.relispartition AND c.relkind = 'r'
                  AND EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(c.oid) a
                                JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = a.relid AND p.partstrat = 'h')
                ORDER BY 1, 2";
    let rows = loader.session.client.query_typed(sql, &[]).await;
    let rows = rows.map_err(|e| failure(&e).context("list the partitions"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

/// The columns and partition root that a backup reads from a table.
#[derive(Debug, Clone)]
pub(crate) struct Readable {
    /// Its columns that are not generated, quoted, in order.
    pub(crate) columns: String,
    /// The topmost table it is a partition of, as `schema.table`, quoted; itself where it is none.
    pub(crate) root: String,
}

/// Columns and root of a table, given by its names; `None` where there is no such table.
pub(crate) async fn readable(session: &Session, schema: &str, table: &str) -> Result<Option<Readable>> {
    let sql = "SELECT coalesce((SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)
                         FROM pg_catalog.pg_attribute a
                        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), ''),
                      coalesce(pg_catalog.pg_partition_root(c.oid)::pg_catalog.oid, c.oid)::pg_catalog.regclass::pg_catalog.text
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = $1 AND c.relname = $2";
    let row = session.client.query_opt(sql, &[&schema, &table]).await;
    let row = row.map_err(|e| failure(&e).context(format!("read {schema}.{table}")))?;
    Ok(row.map(|row| Readable { columns: row.get(0), root: row.get(1) }))
}
