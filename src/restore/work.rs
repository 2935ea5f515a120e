//! A restore under way: everything its steps share, and the report that grows with them.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use libpgdump::format::ArchiveMetadata;
use serde::Serialize;
use tokio_util::task::TaskTracker;

use crate::error::Result;
use crate::objects::stored_run::StoredRun;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::programs::pg_restore::PgRestore;
use crate::restore::checks;
use crate::restore::findings::{Findings, Ledger};
use crate::restore::forget::Forgotten;
use crate::restore::options::{Destination, Options};
use crate::restore::parts::Part;
use crate::restore::progress::Progress;
use crate::restore::rows::{Rows, Tables};
use crate::restore::source::{LeaveOut, Loaded, UNFINISHED};
use crate::restore::wanted::Wanted;

/// The result of a restore.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) run: String,
    pub(crate) into: String,
    pub(crate) tables: u64,
    pub(crate) rows: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) large_objects: u64,
    pub(crate) seconds: f64,
    pub(crate) phases: Vec<Phase>,
    /// Entries that belong to extensions which were left out.
    #[serde(skip)]
    pub(crate) of_left_out: Vec<i32>,
    /// Rows that were erased after they came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) forgotten: Option<Forgotten>,
    /// Objects that were not restored, objects that were left alone, and notes.
    pub(crate) findings: Findings,
}

/// The time that one step took.
#[derive(Debug, Serialize)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) seconds: f64,
}

/// Everything a restore is made with.
pub(crate) struct Work<'a> {
    pub(crate) options: &'a Options,
    pub(crate) progress: &'a Arc<Progress>,
    pub(crate) run: &'a StoredRun,
    pub(crate) meta: &'a ArchiveMetadata,
    pub(crate) leave_out: &'a LeaveOut,
    pub(crate) info: ConnInfo,
    pub(crate) part: Part,
    pub(crate) pg_restore: PgRestore,
    pub(crate) control: Session,
    pub(crate) commits: TaskTracker,
    /// This restore marked the database, and made what it holds.
    pub(crate) marked: AtomicBool,
    /// Takes what could not be restored.
    pub(crate) ledger: Ledger,
    pub(crate) report: Mutex<Report>,
}

impl<'a> Work<'a> {
    /// A restore of this part of a run, steered by `control`.
    ///
    /// # Errors
    /// Programs that are missing or too old.
    pub(crate) fn new(
        options: &'a Options,
        progress: &'a Arc<Progress>,
        loaded: &'a Loaded,
        leave_out: &'a LeaveOut,
        (part, control): (Part, Session),
        commits: TaskTracker,
    ) -> Result<Self> {
        let manifest = &loaded.run.manifest;
        let info = options.target.with_own_money(manifest.source.lc_monetary.is_none()).for_restoring();
        let pg_restore = PgRestore {
            tools: loaded.tools(options)?,
            info: info.clone(),
            server_version_num: control.server_version_num(),
            no_event_triggers: false,
        };
        let report = Mutex::new(Report { run: manifest.run.clone(), ..Report::default() });
        let (run, meta, ledger) = (&loaded.run, &loaded.meta, Ledger::default());
        let marked = AtomicBool::new(false);
        Ok(Self {
            options,
            progress,
            run,
            meta,
            leave_out,
            info,
            part,
            pg_restore,
            control,
            commits,
            marked,
            ledger,
            report,
        })
    }

    /// Notes a run of a database that held an unfinished restore.
    pub(crate) fn note_unfinished(&self, loaded: &Loaded) {
        if loaded.unfinished && self.options.destination == Destination::Scratch {
            self.ledger.note(UNFINISHED.to_owned());
        } else if loaded.unfinished {
            let step = "compare what is there with the run that was being restored";
            self.ledger.lost("run", &self.run.manifest.run, UNFINISHED, step);
        }
    }

    /// Ends the control session; returns the report of a restore by this role that began at `started`.
    pub(crate) async fn finish(self, role: &str, started: Instant) -> Report {
        self.control.close().await;
        let mut report = self.report.into_inner().unwrap_or_default();
        report.into = self.info.to_string();
        report.findings = self.ledger.finish(role);
        report.seconds = started.elapsed().as_secs_f64();
        report
    }

    /// Runs one step, timed; ends with an error when the control session is lost meanwhile.
    pub(crate) async fn step<T>(&self, name: &'static str, doing: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let started = Instant::now();
        let done = tokio::select! {
            biased;
            done = doing => done?,
            gone = self.control.closed() => return Err(gone.context("restore")),
        };
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!("{name}: {seconds:.1} s");
        self.note(|report| report.phases.push(Phase { name, seconds }));
        Ok(done)
    }

    /// Adds the rows of these tables to the report.
    pub(crate) fn count<'w>(&self, tables: impl IntoIterator<Item = &'w Wanted>) {
        self.note(|report| {
            for Wanted { table, .. } in tables {
                report.tables += 1;
                report.rows += table.rows;
                report.raw_bytes += table.raw_bytes;
            }
        });
    }

    /// Changes the report.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A loader of rows into such tables.
    pub(crate) fn rows(&self, tables: Tables) -> Rows {
        Rows {
            run: self.run.clone(),
            info: self.info.clone(),
            connect_timeout: self.options.connect_timeout,
            jobs: usize::from(self.options.jobs),
            tables,
            lock_timeout: self.options.lock_timeout,
            forget: None,
            no_owner: self.options.ignores_owners(),
            in_pieces: self.options.destination == Destination::Scratch
                || checks::marked(&self.run.manifest.run, self.options).is_some(),
            progress: Arc::clone(self.progress),
            commits: self.commits.clone(),
            goes_on: !self.options.exit_on_error,
            refused: std::sync::Mutex::default(),
        }
    }
}
