//! A restore into a plain database. Owns the order of things.
//!
//! Nothing is changed before everything that can be known to be missing was reported. Then: definitions up to the rows,
//! rows by our own sessions beside the large objects, sequence values, then indexes, constraints, triggers and
//! materialized views by several connections, settings of the database, statistics.
//!
//! A database that was empty is marked while it is being restored. The same command, run again after a failure, finds
//! the mark, removes what was made and starts over; it never removes anything from a database without the mark.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use libpgdump::{Entry, ObjectType};
use tokio_util::task::TaskTracker;

use crate::archive::catalogue::tag;
use crate::archive::compose;
use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::postgres::connect::session::Session;
use crate::postgres::programs::pg_restore::PgRestore;
use crate::postgres::target;
use crate::postgres::target::EventTriggers;
use crate::restore::checks::Found;
use crate::restore::findings::Ledger;
use crate::restore::options::{Content, Destination, Options, Statistics};
use crate::restore::parts::Part;
use crate::restore::private_file::PrivateFile;
use crate::restore::progress::Progress;
use crate::restore::rows::Tables;
use crate::restore::source::{LeaveOut, Loaded, gaps, major};
use crate::restore::work::{Report, Work};
use crate::restore::{checks, database, findings, parts, prepare, settings};
use crate::sql::statements::statements;

/// Makes jobs of `pg_cron` inactive as they are loaded: they would run at once.
const QUIET: &str = "DO $quiet$ BEGIN IF pg_catalog.to_regclass('cron.job') IS NOT NULL THEN
    CREATE FUNCTION pg_temp.quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.active := false; RETURN NEW; END';
    CREATE TRIGGER pgstow_quiet BEFORE INSERT ON cron.job FOR EACH ROW EXECUTE FUNCTION pg_temp.quiet();
  END IF; END $quiet$";

/// Restores a loaded run, or a part of it, without what is left out.
///
/// # Errors
/// What stopped it: damage of the store, a lost connection, a target that lacks what the run needs.
pub(crate) async fn restore(
    options: &Options,
    loaded: &Loaded,
    leave_out: &LeaveOut,
    progress: &Arc<Progress>,
    commits: TaskTracker,
) -> Result<Report> {
    let started = Instant::now();
    let Loaded { source, manifest, meta, .. } = loaded;
    let part = Part::choose(manifest, options)?;
    prepare::compare_sizes(source, manifest, &part).await?;
    let mut part = part.with_contents(source, manifest).await?;
    if !options.has_definitions() {
        part = part.with_sequences(manifest, meta);
    }
    let mut entries = part.entries(meta);
    let ledger = Ledger::default();
    for entry in gaps(entries.iter().copied(), leave_out) {
        ledger.lost(
            &findings::kind(entry),
            &findings::name(entry),
            "it depends on objects that this run does not contain",
            "restore it from a run that contains them (`pgstow show` lists what is missing)",
        );
    }
    entries.retain(|entry| !leave_out.entries.contains(&entry.dump_id));
    let tools = loaded.tools(options)?;
    let (control, found) = prepare::connect(options, loaded, &entries, &commits).await?;
    warn(manifest, &part, &control);
    part.check(&control, meta, options).await?;
    let archive = archive(loaded, &part, leave_out, &control).await?;
    let work = Work {
        options,
        progress,
        manifest,
        source,
        meta,
        leave_out,
        part,
        archive,
        pg_restore: PgRestore {
            tools,
            info: options.target.clone(),
            server_version_num: control.server_version_num(),
            no_event_triggers: false,
        },
        info: options.target.clone(),
        control,
        commits,
        ledger,
        report: Mutex::new(Report { run: manifest.run.clone(), ..Report::default() }),
    };
    tracing::info!(run = %work.manifest.run, into = %work.info, "restore started");
    Box::pin(work.all(found)).await?;
    work.control.close().await;
    let mut report = work.report.into_inner().unwrap_or_default();
    report.into = work.info.to_string();
    report.findings = work.ledger.finish("");
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// Warns of an older server, and of partitioned tables whose rows were not asked for.
fn warn(manifest: &Manifest, part: &Part, control: &Session) {
    let (from, to) = (major(&manifest.source.server_version), control.server_version_num() / 10_000);
    if from > to {
        tracing::warn!("the target is PostgreSQL {to}, the run is of {from}: what only newer servers know will fail");
    }
    for table in part.partitioned(manifest) {
        tracing::warn!(
            "{table} is partitioned and has no rows of its own: they come with its partitions, where those are named too"
        );
    }
}

/// The archive of the definitions of this part.
async fn archive(loaded: &Loaded, part: &Part, leave_out: &LeaveOut, control: &Session) -> Result<PrivateFile> {
    let meta = &loaded.meta;
    let all = part.is_whole() && leave_out.entries.is_empty();
    if all && !meta.entries.iter().any(|entry| entry.desc == ObjectType::IndexAttach) {
        return PrivateFile::new(&loaded.database);
    }
    let mut own: Vec<Entry> =
        if all { meta.entries.clone() } else { part.archived(meta, &target::known(control).await?) };
    own.retain(|entry| !leave_out.entries.contains(&entry.dump_id));
    parts::one_by_one(&mut own);
    PrivateFile::new(&compose::head(meta, own)?)
}

impl Work<'_> {
    async fn all(&self, found: Found) -> Result<()> {
        let options = self.options;
        let mark = checks::mark(&self.manifest.run, options);
        match (found, &mark) {
            (Found::Restored, _) => {
                tracing::info!("all but the statistics is there from an earlier restore of this run");
                return self.statistics(mark.is_some()).await;
            }
            (Found::Unfinished, _) => {
                tracing::info!("an unfinished restore of this run is removed first");
                target::end_others(&self.control).await?;
                let made = self.meta.entries.iter().filter(|e| e.desc == ObjectType::Extension);
                target::wipe(&self.control, &made.map(|e| tag(e).to_owned()).collect()).await?;
            }
            (Found::Nothing, Some(mark)) => target::mark(&self.control, mark).await?,
            (Found::Nothing, None) => {}
        }
        if options.has_definitions() && self.part.archives() {
            self.step(
                "definitions",
                self.pg_restore.file("restore definitions", &self.owned(&["--section=pre-data"]), &self.archive.path),
            )
            .await?;
        }
        if self.leave_out.quiet {
            target::execute(&self.control, QUIET, "keep cron jobs from running").await?;
        }
        let mut after = Vec::new();
        if self.part.has_single_tables() && options.has_definitions() {
            after = self.step("tables", Box::pin(self.single_tables())).await?;
        }
        if options.has_rows() {
            self.step("rows", Box::pin(self.data())).await?;
        }
        if options.has_rows() && self.part.archives() {
            self.step(
                "sequences",
                self.pg_restore.file("restore sequence values", &["--section=data"], &self.archive.path),
            )
            .await?;
        }
        if options.has_definitions() && self.part.archives() {
            self.step("indexes and constraints", self.post_data()).await?;
        }
        for (table, statements) in after {
            target::execute(&self.control, &format!("BEGIN;\n{statements};\nCOMMIT"), &format!("finish {table}"))
                .await?;
        }
        if self.part.is_whole() && options.has_definitions() {
            for text in database::settings(&self.meta.entries, &self.manifest.source.database, self.info.database()) {
                let statements = statements(&text).into_iter().map(str::to_owned).collect();
                let text = settings::taken(&self.control, statements).await?.join(";\n");
                target::execute(&self.control, &text, "restore the database's settings").await?;
            }
        }
        if let Some(mark) = &mark {
            // Said only when everything before is sure to stay.
            target::flush(&self.control).await?;
            target::remark(&self.control, &checks::restored(mark)).await?;
        }
        self.statistics(mark.is_some()).await
    }

    /// The last step, after which nothing is unfinished.
    async fn statistics(&self, marked: bool) -> Result<()> {
        if self.options.statistics != Statistics::None && self.options.has_rows() {
            self.step("statistics", self.analyze()).await?;
        }
        target::flush(&self.control).await?;
        if marked { target::unmark(&self.control).await } else { Ok(()) }
    }

    /// Indexes, constraints, triggers and what else comes after the rows, by several sessions. Event triggers that an
    /// extension brought stay silent: those of the user's come last for the same reason. Where they cannot, and where they
    /// are the operator's, one session does it all.
    async fn post_data(&self) -> Result<()> {
        let found = target::event_triggers(&self.control).await?;
        let silent = found == EventTriggers::Avoidable && self.part.is_whole();
        let jobs = if found == EventTriggers::None || silent { self.options.jobs } else { 1 };
        if jobs < self.options.jobs {
            tracing::info!("event triggers fire here: indexes and constraints are made by one session");
        }
        let jobs = format!("--jobs={jobs}");
        let pg_restore = PgRestore { no_event_triggers: silent, ..self.pg_restore.clone() };
        let post = self.owned(&["--section=post-data", &jobs]);
        pg_restore.file("restore indexes and constraints", &post, &self.archive.path).await
    }

    /// Rows and large objects.
    async fn data(&self) -> Result<()> {
        let options = self.options;
        let into = match options.content {
            Content::Rows { replace } => Tables::Existing { replace },
            _ => Tables::New,
        };
        let mut tables = self.part.tables(self.manifest, !options.has_definitions());
        tables.retain(|w| !self.leave_out.tables.contains(&(w.schema.clone(), w.table.name.clone())));
        tables.retain(|wanted| wanted.table.rows > 0 || into == Tables::Existing { replace: true });
        if into == (Tables::Existing { replace: false }) && options.destination != Destination::Existing {
            self.refuse_rows(&tables).await?;
        }
        if into != Tables::New {
            self.refuse_triggers(&tables).await?;
            self.refuse_large_objects().await?;
        }
        let total: u64 = tables.iter().map(|w| w.table.raw_bytes).sum();
        self.progress.total.store(total, Ordering::Relaxed);
        self.note(|report| {
            report.tables += tables.len() as u64;
            report.rows += tables.iter().map(|w| w.table.rows).sum::<u64>();
            report.raw_bytes += total;
        });
        let blobs = self
            .manifest
            .large_objects
            .object
            .as_ref()
            .filter(|_| self.part.is_whole() && !self.leave_out.large_objects);
        let result = tokio::try_join!(Arc::new(self.rows(into)).load(tables), async {
            match blobs {
                Some(object) => self.large_objects(object, &[]).await,
                None => Ok(()),
            }
        });
        tracing::debug!(bytes = self.progress.taken.load(Ordering::Relaxed), "rows loaded");
        result.map(drop)
    }

    /// Makes single tables from their SQL files, with their rows; returns what is to be run when all are there.
    async fn single_tables(&self) -> Result<Vec<(String, String)>> {
        let rows = self.rows(Tables::New);
        let mut after = Vec::new();
        for wanted in self.part.single_tables_in_order(self.manifest, &self.meta.entries) {
            let finish = rows.with_definition(&wanted, self.options.has_rows()).await?;
            after.push((format!("{}.{}", wanted.schema, wanted.table.name), finish));
            self.note(|report| {
                report.tables += 1;
                report.rows += wanted.table.rows;
                report.raw_bytes += wanted.table.raw_bytes;
            });
        }
        Ok(after)
    }
}
