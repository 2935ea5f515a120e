//! A restore into a plain database. Owns the order of things.
//!
//! Nothing is changed before everything that can be known to be missing was reported. Then: settings that definitions
//! may need, definitions up to the rows, rows beside the large objects, sequence values, then indexes, constraints,
//! triggers and materialized views by several sessions, the other settings of the database, statistics. What the server
//! refuses on the way is listed in the report; it ends nothing, unless the first refusal is to end it.
//!
//! A database that was empty is marked while it is being restored. The same command, run again after a failure, finds
//! the mark, removes what was made and starts over; it never removes anything from a database without the mark.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use libpgdump::{Entry, ObjectType};
use tokio_util::task::TaskTracker;

use crate::archive::catalogue::{namespace, tag};
use crate::error::{Kind, Result};
use crate::format::manifest::Manifest;
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::postgres::target::mark::{self, Mark};
use crate::postgres::target::{EventTriggers, constraints, project};
use crate::restore::checks::Found;
use crate::restore::entry::is_refusal;
use crate::restore::executor::Executor;
use crate::restore::extensions::{self, Moment};
use crate::restore::forget::Forget;
use crate::restore::make_roles::{Lost, Made};
use crate::restore::options::{Content, Destination, Options, Statistics};
use crate::restore::parts::Part;
use crate::restore::prepare::Prepared;
use crate::restore::progress::Progress;
use crate::restore::rows::{Refused, Rows, Tables};
use crate::restore::settings::Late;
use crate::restore::source::{LeaveOut, Loaded, major};
use crate::restore::wanted::Wanted;
use crate::restore::work::{Report, Work};
use crate::restore::{checks, database, entry, executor, findings, parts, prepare, renaming, settings};
use crate::sql::names::TableName;
use crate::sql::statements::statements;

/// Makes jobs of `pg_cron` inactive as they are loaded: they would run at once.
const QUIET: &str = "DO $quiet$ BEGIN IF pg_catalog.to_regclass('cron.job') IS NOT NULL THEN
    CREATE FUNCTION pg_temp.quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.active := false; RETURN NEW; END';
    CREATE TRIGGER pgstow_quiet BEFORE INSERT ON cron.job FOR EACH ROW EXECUTE FUNCTION pg_temp.quiet();
  END IF; END $quiet$";

/// Restores a loaded run, or a part of it, without what is left out.
///
/// # Errors
/// Damage of the store, a lost connection, a target that lacks what the run needs. What the server refused
/// is in the report.
pub(crate) async fn restore(
    options: &Options,
    loaded: &Loaded,
    leave_out: &LeaveOut,
    progress: &Arc<Progress>,
    commits: TaskTracker,
) -> Result<Report> {
    let started = Instant::now();
    let Loaded { run, meta, .. } = loaded;
    let manifest = &*run.manifest;
    let part = Part::choose(manifest, options)?;
    prepare::compare_sizes(run, &part).await?;
    let mut part = part.with_contents(run).await?;
    if !options.has_definitions() {
        part = part.with_sequences(manifest, meta);
    }
    let mut entries = part.entries(meta);
    entries.retain(|entry| !leave_out.entries.contains(&entry.dump_id));
    renaming::refuse(&loaded.unrenamed, &entries, options)?;
    // Missing programs fail it before the target is touched.
    loaded.tools(options)?;
    let Prepared { control, found, created, unowned, roles, gone, look } =
        prepare::connect(options, loaded, &entries, &commits).await?;
    warn(manifest, &part, &control);
    let forget = options.forget.as_ref().map(|list| Forget::new(list, manifest, &meta.entries));
    let mut checked = part.check(&control, meta, options).await;
    if let (Ok(()), Some(forget)) = (&checked, &forget) {
        checked = forget.check_values(&control, &meta.entries).await;
    }
    if let Err(error) = checked {
        if created {
            control.close().await;
            prepare::drop_created(options).await?;
        }
        return Err(error);
    }
    let mut kept = Vec::new();
    if !part.is_whole() || options.destination == Destination::Existing {
        let known = target::known(&control).await?;
        entries.retain(|entry| !parts::exists(entry, &known));
        let own: HashSet<i32> = entries.iter().map(|entry| entry.dump_id).collect();
        entries.retain(|entry| !parts::lacks_its_table(entry, &meta.entries, &own, &known));
        if options.destination == Destination::Existing && options.has_definitions() {
            kept = parts::keep_living(&mut entries, &known);
            checks::refuse_collisions(&control, &entries, &known, options)?;
        }
    }
    let mut out = leave_out.clone();
    out.libraries = look.libraries;
    let tables = extensions::leave(&mut out, &meta.entries, &run.manifest, &gone);
    entries.retain(|entry| !out.entries.contains(&entry.dump_id));
    let work = Work::new(options, progress, loaded, &out, (part, control), commits)?;
    work.note_unfinished(loaded);
    work.list_kept(kept);
    tracing::info!(run = %work.run.manifest.run, into = %work.info, "restore started");
    for one in &gone {
        work.ledger.lost("extension", &one.name, &extensions::line(one, &tables), &one.step);
    }
    work.list_unowned(unowned);
    work.list_roles(roles);
    if look.no_locale && created {
        let step =
            "nothing, where text may sort by bytes; else make the database with another locale, and restore into it";
        work.ledger.lost("locale", "of the database", "the server does not have it: it was made with locale C", step);
    }
    work.list_unrenamed(loaded, &entries);
    match Box::pin(work.all(found, &entries)).await {
        Ok(role) => Ok(work.finish(&role, started).await),
        Err(error) => {
            work.close_mark().await;
            Err(error)
        }
    }
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

impl Work<'_> {
    /// All steps; returns the role that restored.
    async fn all(&self, found: Found, entries: &[&Entry]) -> Result<String> {
        let options = self.options;
        let saved = (&*self.run.manifest, !self.leave_out.extensions.is_empty());
        self.bound_waits(&self.control).await?;
        let executor = Executor::new(&self.control, options, &self.ledger, &self.meta.entries, saved).await?;
        let role = executor.role().to_owned();
        let (first, mut last) = self.database_settings().await?;
        let comment = last.iter().position(|late| late.statement.starts_with("COMMENT ON DATABASE "));
        if let Found::Restored(mark) = &found {
            tracing::info!("everything but the statistics was restored by an earlier run of this command");
            let comment = comment.map(|at| last.remove(at).statement);
            if options.forget.is_some() {
                self.ledger.note("the rows of the forget list were erased by that run".to_owned());
            }
            self.statistics(Some(mark), comment.as_deref()).await?;
            return Ok(role);
        }
        let goes_on = matches!(found, Found::Unfinished(_));
        let mut mark = self.begin(found).await?;
        if goes_on && options.destination == Destination::Create {
            // A restore that ended without a list may have been refused this.
            let unowned = prepare::give_away(&self.control, &self.meta.entries, options).await?;
            self.list_unowned(unowned);
        }
        // The comment that is the mark is replaced by the saved one at the end.
        let comment =
            comment.filter(|_| mark.as_ref().is_some_and(Mark::is_comment)).map(|at| last.remove(at).statement);
        self.set(first.into_iter().map(|statement| Late { statement, is_repeated: false })).await?;
        let defines = options.has_definitions() && self.part.archives();
        if defines {
            let session = self.definer(false).await?;
            self.step("definitions", executor.before(&session, entries)).await?;
            session.close().await;
        }
        let is_made = |e: &&&Entry| self.part.is_whole() && e.desc == ObjectType::Extension;
        let around: Vec<&str> = entries.iter().filter(is_made).map(|e| tag(e)).collect();
        extensions::call(&self.control, &self.ledger, &around, Moment::Before).await?;
        if self.leave_out.quiet {
            target::execute(&self.control, QUIET, "keep cron jobs from running").await?;
        }
        let mut after = Vec::new();
        if self.part.has_single_tables() && options.has_definitions() {
            after = self.step("tables", Box::pin(self.single_tables())).await?;
        }
        let into = match options.content {
            Content::Rows { replace } => Tables::Existing { replace },
            _ => Tables::New,
        };
        if options.has_rows() {
            self.step("rows", Box::pin(self.data(into, &executor, entries))).await?;
            self.step("sequences", self.sequences(entries, into)).await?;
            if let Some(forget) = self.forget().filter(|_| into == Tables::New) {
                self.step("erasing", self.erase(&forget)).await?;
            }
        }
        if defines {
            self.step("indexes and constraints", Box::pin(self.post_data(&executor, entries))).await?;
        } else if options.has_rows() && !options.has_definitions() {
            self.step("materialized views", executor.refresh(&self.control, entries)).await?;
        }
        let of_left_out = executor.finish();
        self.note(|report| report.of_left_out = of_left_out);
        extensions::call(&self.control, &self.ledger, &around, Moment::After).await?;
        for line in extensions::other_versions(&self.control, &self.run.manifest.extensions).await? {
            self.ledger.note(line);
        }
        if !after.is_empty() {
            let session = Session::connect(&self.info, self.options.connect_timeout, "restore").await?;
            for (table, statements) in after {
                self.finish_table(&session, &table, &statements).await?;
            }
            session.close().await;
        }
        self.set(last).await?;
        if let Some(mark) = &mut mark {
            self.say_restored(mark).await?;
        }
        self.statistics(mark.as_ref(), comment.as_deref()).await?;
        Ok(role)
    }

    /// Notes in the mark of a restore that failed where its transactions end: what comes later is somebody else's.
    async fn close_mark(&self) {
        if !self.marked.load(Ordering::Relaxed) {
            return;
        }
        let close = async {
            target::execute(&self.control, "ROLLBACK", "close the mark of the restore").await?;
            target::end_others(&self.control).await?;
            match mark::find(&self.control.client).await? {
                Some(mut mark) => mark.close(&self.control).await,
                None => Ok(()),
            }
        };
        if let Err(error) = close.await {
            tracing::debug!("{error}");
        }
    }

    /// Notes what a living database keeps.
    fn list_kept(&self, kept: Vec<String>) {
        for one in kept {
            self.ledger.note(format!("left as it is here: {one}"));
        }
    }

    /// Lists what may still name a schema that has another name now.
    fn list_unrenamed(&self, loaded: &Loaded, entries: &[&Entry]) {
        for (entry, schema) in renaming::unrenamed_of(&loaded.unrenamed, entries) {
            let step = format!("change it by hand, where it means what was in {schema}");
            let why = format!("it may name schema {schema} in a text or body, which stayed as it was");
            self.ledger.lost(&findings::kind(entry), &findings::name(entry), &why, &step);
        }
    }

    /// Lists the owner that the database could not be given to.
    fn list_unowned(&self, unowned: Option<(String, String)>) {
        if let Some((owner, why)) = unowned {
            self.ledger.unowned(&owner, &why, format!("database {}", self.options.target.database()));
        }
    }

    /// Lists what could not be given to the roles that were made.
    fn list_roles(&self, made: Made) {
        for lost in made.lost {
            self.ledger.refused(lost.kind, &lost.name, &lost.why, Lost::STEP, &lost.statement);
        }
        made.notes.into_iter().for_each(|note| self.ledger.note(note));
    }

    /// Says in the mark that only statistics are missing, once everything before is sure to stay.
    async fn say_restored(&self, mark: &mut Mark) -> Result<()> {
        target::flush(&self.control).await?;
        let what = checks::restored(&mark.what);
        mark.change(&self.control, &what).await
    }

    /// Empties a database that holds an unfinished restore, and marks it.
    async fn begin(&self, found: Found) -> Result<Option<Mark>> {
        let old = match found {
            Found::Unfinished(mut mark) => {
                target::end_others(&self.control).await?;
                self.refuse_strangers(&mark).await?;
                mark.reopen(&self.control).await?;
                tracing::info!("an unfinished restore of this run is removed first");
                let made = self.meta.entries.iter().filter(|e| e.desc == ObjectType::Extension);
                target::wipe(&self.control, Some(&made.map(|e| tag(e).to_owned()).collect())).await?;
                Some(mark)
            }
            Found::Other(mut mark) => {
                target::end_others(&self.control).await?;
                mark.reopen(&self.control).await?;
                tracing::warn!("an unfinished restore of run {} is removed first (--start-over)", mark.what);
                target::wipe(&self.control, None).await?;
                Some(mark)
            }
            Found::Nothing | Found::Restored(_) => None,
        };
        let Some(what) = checks::marked(&self.run.manifest.run, self.options) else { return Ok(None) };
        let mark = Mark::make(&self.control, &what, old).await?;
        self.marked.store(true, Ordering::Relaxed);
        Ok(Some(mark))
    }

    /// The last step, after which nothing is unfinished.
    async fn statistics(&self, mark: Option<&Mark>, comment: Option<&str>) -> Result<()> {
        if self.options.statistics != Statistics::None && self.options.has_rows() {
            self.step("statistics", self.analyze()).await?;
        }
        target::flush(&self.control).await?;
        match mark {
            Some(mark) => mark.remove(&self.control, comment).await,
            None => Ok(()),
        }
    }

    /// The settings, rights and comment of the database: those that rows and definitions may need, and the others.
    async fn database_settings(&self) -> Result<(Vec<String>, Vec<Late>)> {
        if !self.part.is_whole() || !self.options.has_definitions() {
            return Ok((Vec::new(), Vec::new()));
        }
        if self.options.destination == Destination::Existing {
            // Its users live by what it has.
            self.ledger
                .note("settings, limits, rights and comment of the database are left as they are here".to_owned());
            return Ok((Vec::new(), Vec::new()));
        }
        let mut all = Vec::new();
        for text in database::settings(&self.meta.entries, &self.run.manifest.source.database, self.info.database()) {
            let statements = statements(&text).into_iter().map(str::to_owned).collect();
            all.extend(settings::taken(&self.control, statements).await?);
        }
        // No session could begin with these.
        let is_lost = |statement: &String| {
            settings::libraries(statement).iter().any(|library| self.leave_out.libraries.contains(library))
        };
        for statement in all.extract_if(.., |statement| is_lost(statement)) {
            let why = "a library that it loads is not on this server: no session could begin";
            if self.options.destination == Destination::Scratch {
                self.ledger.note(format!("left out, {why}: {statement}"));
            } else {
                self.ledger.refused("setting", "of the database", why, &entry::when_there(&statement), &statement);
            }
        }
        Ok(settings::in_two_steps(all))
    }

    /// Runs statements about the database, each by itself: what the role may not say is listed.
    async fn set(&self, statements: impl IntoIterator<Item = Late>) -> Result<()> {
        for Late { statement, is_repeated } in statements {
            match target::execute(&self.control, &statement, "restore the database's settings").await {
                // It was listed the first time.
                Err(error) if is_refusal(&error) && is_repeated => {}
                Err(error) if is_refusal(&error) && !self.options.exit_on_error => {
                    let step = entry::by_hand(&statement);
                    self.ledger.refused("setting", "of the database", &error.cause(), &step, &statement);
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// True where others may work in the database meanwhile.
    fn is_living(&self) -> bool {
        self.options.destination == Destination::Existing || !self.options.has_definitions()
    }

    /// Bounds the waits for locks of others. A session that waited for another one of this restore so long keeps its
    /// statement for the end, when only one is at work.
    async fn bound_waits(&self, session: &Session) -> Result<()> {
        if !self.is_living() {
            return Ok(());
        }
        let sql = format!("SET lock_timeout = {}", self.options.lock_timeout.as_millis());
        target::execute(session, &sql, "set up the session").await
    }

    /// A session that makes definitions; a silent one sets no ordinary event trigger off.
    async fn definer(&self, silent: bool) -> Result<Session> {
        let session = Session::connect(&self.info, self.options.connect_timeout, "restore").await?;
        executor::set_up(&session, &self.meta.entries).await?;
        self.bound_waits(&session).await?;
        if silent {
            target::execute(&session, "SET session_replication_role = replica", "keep event triggers silent").await?;
        }
        Ok(session)
    }

    /// Indexes, constraints, triggers and what else comes after the rows, by several sessions. Event triggers that an
    /// extension brought stay silent: those of the user's come last for the same reason. Where they cannot, and where
    /// they are the operator's, one session does it all.
    async fn post_data<'e>(&self, executor: &Executor<'e>, entries: &[&'e Entry]) -> Result<()> {
        let found = target::event_triggers(&self.control).await?;
        let silent = found == EventTriggers::Avoidable && self.part.is_whole();
        // The first refusal ends it: none of them may be a wait for one of our own.
        let alone = self.is_living() && self.options.exit_on_error;
        let jobs = if (found == EventTriggers::None || silent) && !alone { self.options.jobs } else { 1 };
        if jobs < self.options.jobs {
            tracing::info!(
                "event triggers fire here, or the first refusal ends it: indexes and constraints are made by one session"
            );
        }
        let mut sessions = Vec::new();
        for _session in 0..jobs {
            match self.definer(silent).await {
                Ok(session) => sessions.push(session),
                // Few connections mean fewer sessions.
                Err(error) if error.is_sqlstate("53300") && !sessions.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        executor.after(&sessions, entries).await?;
        for session in sessions {
            session.close().await;
        }
        Ok(())
    }

    /// Rows and large objects.
    async fn data(&self, into: Tables, executor: &Executor<'_>, entries: &[&Entry]) -> Result<()> {
        let options = self.options;
        let mut wanted = self.part.tables(&self.run.manifest, !options.has_definitions());
        wanted.retain(|w| !self.leave_out.tables.contains(&w.table_name()));
        let is_loaded = |w: &Wanted| w.table.rows > 0 || into == Tables::Existing { replace: true };
        let (tables, empty): (Vec<Wanted>, Vec<Wanted>) = wanted.into_iter().partition(is_loaded);
        if into == (Tables::Existing { replace: false }) && options.destination != Destination::Existing {
            self.refuse_rows(&tables).await?;
        }
        if into != Tables::New {
            self.refuse_triggers(&tables).await?;
            self.refuse_large_objects().await?;
        }
        // A table that was not made may be there all the same, with rows of somebody else.
        let refused: HashSet<TableName> = entries
            .iter()
            .filter(|e| e.desc == ObjectType::Table && executor.has_refused(e.dump_id))
            .map(|e| TableName::new(namespace(e), tag(e)))
            .collect();
        let (lost, tables): (Vec<Wanted>, Vec<Wanted>) =
            tables.into_iter().partition(|wanted| refused.contains(&wanted.table_name()));
        for wanted in &lost {
            self.lost_rows(wanted, "the table could not be restored");
        }
        let total: u64 = tables.iter().map(|w| w.table.raw_bytes).sum();
        self.progress.total.store(total, Ordering::Relaxed);
        self.count(&tables);
        self.count(empty.iter().filter(|wanted| !refused.contains(&wanted.table_name())));
        let mut rows = self.rows(into);
        rows.forget = self.forget().filter(|_| into != Tables::New).map(Arc::new);
        let rows = Arc::new(rows);
        let (refused, ()) = tokio::try_join!(Arc::clone(&rows).load(tables), self.owned_large_objects(executor))?;
        tracing::debug!(bytes = self.progress.taken.load(Ordering::Relaxed), "rows loaded");
        if let Some(forget) = &rows.forget {
            self.say_forgotten(forget);
        }
        self.once_more(&rows, refused).await
    }

    /// Loads refused rows once more, when all others are there: without the check constraints that they did not fulfil,
    /// which are put back afterwards.
    async fn once_more(&self, rows: &Rows, refused: Vec<Refused>) -> Result<()> {
        let mut checks = Vec::new();
        for Refused { wanted, why } in refused {
            if why.is_sqlstate("23514") {
                match constraints::take_away(&self.control, &wanted.name()).await {
                    Err(error) if is_refusal(&error) => tracing::debug!("{error}"),
                    taken => checks.extend(taken?),
                }
            }
            match rows.one(&wanted).await {
                Err(error) if error.kind() != Kind::Damage && is_refusal(&error) => {
                    self.note(|report| {
                        report.tables = report.tables.saturating_sub(1);
                        report.rows = report.rows.saturating_sub(wanted.table.rows);
                        report.raw_bytes = report.raw_bytes.saturating_sub(wanted.table.raw_bytes);
                    });
                    self.lost_rows(&wanted, &error.cause());
                }
                other => other?,
            }
        }
        if checks.is_empty() {
            return Ok(());
        }
        // Rows are checked with the settings of the database, which came after the control session.
        let session = Session::connect(&self.info, self.options.connect_timeout, "restore").await?;
        for check in checks.iter().rev() {
            let valid = match constraints::put_back(&session, check, true).await {
                Err(error) if is_refusal(&error) => error,
                other => {
                    other?;
                    continue;
                }
            };
            let (why, then) = match constraints::put_back(&session, check, false).await {
                Ok(()) => (format!("restored as NOT VALID: {}", valid.cause()), "change the rows that break it, then"),
                Err(error) if is_refusal(&error) => (error.cause(), "make the constraint again; then"),
                Err(error) => return Err(error),
            };
            let statement = check.validate();
            self.ledger.refused(
                "check constraint",
                &check.told(),
                &why,
                &format!("{then} run: {statement}"),
                &statement,
            );
        }
        session.close().await;
        Ok(())
    }

    fn lost_rows(&self, wanted: &Wanted, why: &str) {
        let name = wanted.table_name();
        let step = format!("when the table can take them: pgstow restore RUN --data-only --table {name}");
        self.ledger.lost("rows of", &name.to_string(), &format!("{} rows: {why}", wanted.table.rows), &step);
    }

    /// Makes single tables from their SQL files, with their rows; returns the statements that follow when all are
    /// there.
    async fn single_tables(&self) -> Result<Vec<(TableName, Vec<String>)>> {
        let rows = self.rows(Tables::New);
        let mut after = Vec::new();
        for wanted in self.part.single_tables_in_order(&self.run.manifest, &self.meta.entries) {
            let finish = rows.with_definition(&wanted, self.options).await?;
            after.push((wanted.table_name(), finish));
            self.count([&wanted]);
        }
        Ok(after)
    }

    /// Indexes, constraints and the like of a single table: all in one transaction, or one by one where some are
    /// refused.
    async fn finish_table(&self, session: &Session, table: &TableName, statements: &[String]) -> Result<()> {
        let doing = format!("finish {table}");
        let together = statements.join(";\n");
        match project::transaction(session, &together, &doing).await {
            Err(error) if is_refusal(&error) && !self.options.exit_on_error => {}
            other => return other,
        }
        for statement in statements {
            match project::transaction(session, statement, &doing).await {
                Err(error) if is_refusal(&error) => {
                    let step = entry::step(&error, statement);
                    self.ledger.refused("statement of", &table.to_string(), &error.cause(), &step, statement);
                }
                other => other?,
            }
        }
        Ok(())
    }
}
