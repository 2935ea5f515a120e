//! `pgstow restore`: a run, or a part of it, into a database, straight from the store. Owns the order of things.
//!
//! Nothing is changed before everything that can be known to be missing was told. Then: definitions up to the rows by
//! `pg_restore`, rows by our own sessions ([`rows`]) beside the large objects, sequence values, then indexes,
//! constraints, triggers and materialised views by several connections, settings of the database, statistics.
//!
//! A database that was empty is marked while it is being restored. The same command, run again after a failure, finds
//! the mark, removes what was made and starts over; it never removes anything from a database without the mark.

pub(crate) mod checks;
pub(crate) mod database;
pub(crate) mod findings;
pub(crate) mod flow;
pub(crate) mod parts;
pub(crate) mod rights;
pub(crate) mod roles;
pub(crate) mod rows;
pub(crate) mod settings;
pub(crate) mod supabase;

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use libpgdump::format::ArchiveMetadata;
use libpgdump::{Entry, ObjectType};
use read::Watch;
use serde::Serialize;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::task::TaskTracker;

use crate::archive::catalogue::{namespace, tag, with_dependents};
use crate::archive::compose;
use crate::cli::args::{Global, IdentityArgs};
use crate::cli::output;
use crate::cli::progress::Loading;
use crate::cli::restore::{Profile, Restore};
use crate::cli::run::Outcome;
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::layout;
use crate::format::manifest::{Manifest, Object};
use crate::human;
use crate::objects::read;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::programs::pg_restore::PgRestore;
use crate::postgres::programs::tools::PgTools;
use crate::postgres::target;
use crate::postgres::target::{EventTriggers, Server, load};
use crate::restore::checks::Found;
use crate::restore::flow::Source;
use crate::restore::parts::Part;
use crate::restore::roles::Script;
use crate::restore::rows::{Into, Rows, Wanted};
use crate::runs::find;
use crate::seal::decode;
use crate::seal::decrypt::Identities;
use crate::shutdown::Shutdown;
use crate::sql::statements::statements;
use crate::store::Store;

/// How long an end by signal waits for commits under way.
pub(crate) const COMMITS: Duration = Duration::from_secs(10);
/// Up to so many large objects are restored in one transaction: each takes a lock.
const BLOBS_AT_ONCE: u64 = 2_000;

/// Makes jobs of `pg_cron` inactive as they are loaded: they would run at once.
const QUIET: &str = "DO $quiet$ BEGIN IF pg_catalog.to_regclass('cron.job') IS NOT NULL THEN
    CREATE FUNCTION pg_temp.quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.active := false; RETURN NEW; END';
    CREATE TRIGGER pgstow_quiet BEFORE INSERT ON cron.job FOR EACH ROW EXECUTE FUNCTION pg_temp.quiet();
  END IF; END $quiet$";

/// What was restored.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    run: String,
    into: String,
    tables: u64,
    rows: u64,
    raw_bytes: u64,
    large_objects: u64,
    seconds: f64,
    phases: Vec<Phase>,
    /// Of a partial run: what depends on what the run does not hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_restored: Vec<String>,
    /// Of a restore into a project: what could not be restored, and what was left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    findings: Option<findings::Findings>,
}

/// How long one step took.
#[derive(Debug, Serialize)]
struct Phase {
    name: &'static str,
    seconds: f64,
}

/// Restores a run, or a part of it.
///
/// # Errors
/// What stopped it. A damaged object fails it with its key; no table is left with some of its rows.
pub(crate) async fn run(arguments: Restore, global: &Global, shutdown: &Shutdown) -> Result<Outcome> {
    let store = Store::open(&global.store).await?;
    let commits = TaskTracker::new();
    let result = tokio::select! {
        biased;
        error = shutdown.requested() => Err(error),
        result = Box::pin(restore(&arguments, global, store, commits.clone())) => result,
    };
    commits.close();
    if tokio::time::timeout(COMMITS, commits.wait()).await.is_err() {
        tracing::warn!("a commit is still under way; run the same command again");
    }
    match result {
        Ok(report) => {
            print(&report, global.json)?;
            let lost = report.findings.as_ref().is_some_and(|findings| !findings.not_restored.is_empty());
            Ok(if lost || !report.not_restored.is_empty() { Outcome::Partial } else { Outcome::Done })
        }
        // Damage of the store is a finding in verify and drill; here it is why the restore failed.
        Err(error) if error.kind() == Kind::Damage => Err(error
            .with_kind(Kind::Failed)
            .hint("`pgstow verify` tells what else is damaged; another run may be sound (`pgstow list`)")),
        Err(error) => Err(error),
    }
}

fn print(report: &Report, json: bool) -> Result<()> {
    if json {
        return output::print_json(report);
    }
    output::print(&format!(
        "run {} is restored into {}: {} tables with {} rows ({}), {} large objects, {:.1} s\n",
        report.run,
        report.into,
        human::count(report.tables),
        human::count(report.rows),
        human::size(report.raw_bytes),
        human::count(report.large_objects),
        report.seconds
    ))?;
    if !report.not_restored.is_empty() {
        let lost: Vec<String> = report.not_restored.iter().map(|what| human::plain(what)).collect();
        let lost = lost.join("\n  ");
        output::print(&format!("not restored, for it needs what the run does not hold (`pgstow show`):\n  {lost}\n"))?;
    }
    report.findings.as_ref().map_or(Ok(()), |findings| output::print(&findings.text()))
}

/// Everything a restore is made with.
pub(crate) struct Work<'a> {
    arguments: &'a Restore,
    global: &'a Global,
    manifest: &'a Manifest,
    source: &'a Source,
    meta: &'a ArchiveMetadata,
    leave_out: &'a LeaveOut,
    info: ConnInfo,
    part: Part,
    /// The archive of the definitions of this part.
    archive: PrivateFile,
    pg_restore: PgRestore,
    control: Session,
    commits: TaskTracker,
    report: Mutex<Report>,
}

/// A run with what of it is small: its manifest, definitions and roles.
pub(crate) struct Loaded {
    pub(crate) source: Source,
    pub(crate) manifest: Manifest,
    /// The archive of the definitions.
    pub(crate) database: Vec<u8>,
    pub(crate) meta: ArchiveMetadata,
    pub(crate) script: Script,
}

impl Loaded {
    pub(crate) async fn read(store: Store, wanted: &str, identity: &IdentityArgs) -> Result<Self> {
        let identities = Identities::read(&identity.identity)?;
        let found = find::run(&store, wanted).await?;
        let manifest = found.manifest;
        let opening = read::opening(&manifest, &identities)?;
        let source = Source { store, run: found.name, opening };
        let database = source.read(&manifest.database.object).await?;
        let meta = libpgdump::format::custom::read_metadata(&mut database.as_slice())
            .map_err(|error| Error::damage(format!("{}: {error}", manifest.database.object.key)))?;
        let script = source.read(&manifest.roles.object).await?;
        let script = Script::new(script, &manifest.roles.object.key)?;
        Ok(Self { source, manifest, database, meta, script })
    }

    /// The programs that read the run's archives.
    pub(crate) fn tools(&self, arguments: &Restore) -> Result<PgTools> {
        PgTools::find(arguments.pg_bin_dir.as_deref(), major(&self.manifest.source.pg_dump_version) * 10_000)
    }
}

/// What a drill leaves out of a whole run.
#[derive(Debug, Default)]
pub(crate) struct LeaveOut {
    /// Dump ids of entries.
    pub(crate) entries: HashSet<i32>,
    /// Tables whose rows are not loaded.
    pub(crate) tables: HashSet<(String, String)>,
    /// The large objects.
    pub(crate) large_objects: bool,
    /// Keep what is restored from acting: cron jobs come back inactive.
    pub(crate) quiet: bool,
}

impl LeaveOut {
    /// What a partial run holds but cannot bring back, since it depends on what the run does not hold.
    pub(crate) fn of_gaps(loaded: &Loaded) -> Self {
        let mut entries: HashSet<i32> =
            loaded.manifest.dependents.iter().flat_map(|gap| &gap.entries).copied().collect();
        with_dependents(&loaded.meta.entries, &mut entries);
        let tables = loaded.meta.entries.iter().filter(|e| e.desc == ObjectType::Table && entries.contains(&e.dump_id));
        let tables = tables.map(|e| (namespace(e).to_owned(), tag(e).to_owned())).collect();
        Self { entries, tables, ..Self::default() }
    }
}

/// Those of these entries in words that are left out.
pub(crate) fn gaps<'a>(entries: impl IntoIterator<Item = &'a Entry>, out: &LeaveOut) -> Vec<String> {
    let gone = entries.into_iter().filter(|e| out.entries.contains(&e.dump_id) && e.desc != ObjectType::TableData);
    gone.map(|e| format!("{} {}.{}", e.desc.to_string().to_lowercase(), namespace(e), tag(e))).collect()
}

async fn restore(arguments: &Restore, global: &Global, store: Store, commits: TaskTracker) -> Result<Report> {
    let info = ConnInfo::resolve(Some(&arguments.to))?;
    if arguments.profile.is_some() {
        supabase::check(arguments)?;
    } else if arguments.truncate && !arguments.data_only {
        return Err(Error::usage("--truncate needs --data-only, or --profile supabase"));
    }
    let loaded = Loaded::read(store, &arguments.run, &arguments.identity).await?;
    if arguments.profile == Some(Profile::Supabase) {
        return Box::pin(supabase::restore(arguments, global, &loaded, info, commits)).await;
    }
    restore_loaded(arguments, global, &loaded, info, &LeaveOut::of_gaps(&loaded), commits).await
}

pub(crate) async fn restore_loaded(
    arguments: &Restore,
    global: &Global,
    loaded: &Loaded,
    info: ConnInfo,
    leave_out: &LeaveOut,
    commits: TaskTracker,
) -> Result<Report> {
    let started = Instant::now();
    let Loaded { source, manifest, database, meta, .. } = loaded;
    let part = Part::choose(manifest, arguments)?;
    compare_sizes(source, manifest, &part).await?;
    let mut part = part.with_contents(source, manifest).await?;
    if arguments.data_only {
        part = part.with_sequences(manifest, meta);
    }
    let mut entries = part.entries(meta);
    let not_restored = gaps(entries.iter().copied(), leave_out);
    entries.retain(|entry| !leave_out.entries.contains(&entry.dump_id));
    let tools = loaded.tools(arguments)?;
    let (control, found) = connect(arguments, loaded, &info, &entries, &commits).await?;
    let (from, to) = (major(&manifest.source.server_version), control.server_version_num() / 10_000);
    if i64::from(from) > i64::from(to) {
        tracing::warn!("the target is PostgreSQL {to}, the run is of {from}: what only newer servers know will fail");
    }
    for word in &arguments.table {
        let (schema, number) = crate::download::table(manifest, word)?;
        let table = manifest.schemas.get(schema).and_then(|schema| schema.tables.get(number));
        if table.is_some_and(|table| table.kind == crate::format::manifest::TableKind::PartitionedTable) {
            tracing::warn!(
                "{word} is partitioned and has no rows of its own: they come with its partitions, where those are named too"
            );
        }
    }
    part.check(&control, meta, arguments).await?;
    let all = part.is_whole() && leave_out.entries.is_empty();
    let archive = if all && !meta.entries.iter().any(|entry| entry.desc == ObjectType::IndexAttach) {
        PrivateFile::new(database)?
    } else {
        let mut own: Vec<Entry> =
            if all { meta.entries.clone() } else { part.archived(meta, &target::known(&control).await?) };
        own.retain(|entry| !leave_out.entries.contains(&entry.dump_id));
        parts::one_by_one(&mut own);
        PrivateFile::new(&compose::head(meta, own)?)?
    };
    let work = Work {
        arguments,
        global,
        manifest,
        source,
        meta,
        leave_out,
        part,
        archive,
        pg_restore: PgRestore {
            tools,
            info: info.clone(),
            server_version_num: control.server_version_num(),
            no_event_triggers: false,
        },
        info,
        control,
        commits,
        report: Mutex::new(Report { run: manifest.run.clone(), not_restored, ..Report::default() }),
    };
    tracing::info!(run = %work.manifest.run, into = %work.info, "restore started");
    Box::pin(work.all(found)).await?;
    work.control.close().await;
    let mut report = work.report.into_inner().unwrap_or_default();
    report.into = work.info.to_string();
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// `15` of `15.20`.
pub(crate) fn major(version: &str) -> u32 {
    let digits =
        version.find(|c: char| !c.is_ascii_digit()).map_or(version, |end| version.get(..end).unwrap_or(version));
    digits.parse().unwrap_or(0)
}

/// Objects that are missing or of another size fail the restore before it begins.
async fn compare_sizes(source: &Source, manifest: &Manifest, part: &Part) -> Result<()> {
    let prefix = layout::run_prefix(&source.run);
    let listing = source.store.list(&prefix).await.context("list the run's objects")?;
    let sizes: HashMap<&str, u64> =
        listing.iter().filter_map(|o| Some((o.key.strip_prefix(&prefix)?, o.bytes))).collect();
    let mut problems = Vec::new();
    for volume in part.objects(manifest).into_iter().flat_map(read::volumes) {
        match sizes.get(volume.key.as_str()) {
            None => problems.push(format!("{}: missing", volume.key)),
            Some(bytes) if *bytes != volume.bytes => {
                problems.push(format!("{}: is {bytes} bytes, the manifest says {}", volume.key, volume.bytes));
            }
            Some(_) => {}
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::damage(problems.join("; ")).hint("nothing was changed")) }
}

/// Connects to the target, made first if so asked, after looking whether it can hold the run. Says what it holds.
async fn connect(
    arguments: &Restore,
    loaded: &Loaded,
    info: &ConnInfo,
    entries: &[&Entry],
    commits: &TaskTracker,
) -> Result<(Session, Found)> {
    let Loaded { manifest, meta, script, .. } = loaded;
    let timeout = arguments.connect_timeout;
    if !arguments.create {
        let control = Session::connect_unpooled(info, timeout, "restore").await?;
        checks::refuse_source(&control, manifest, arguments).await?;
        let found = checks::refuse_full(&control, &manifest.run, arguments).await?;
        let server = target::server(&control).await?;
        checks::missing(entries, script, &server, arguments)?;
        rights::refuse(entries, &target::rights(&control).await?, arguments)?;
        make_roles(&control, arguments, script, &server).await?;
        return Ok((control, found));
    }
    let maintenance = match Session::connect(&info.with_database("postgres"), timeout, "restore").await {
        Ok(session) => session,
        Err(_no_such) => Session::connect(&info.with_database("template1"), timeout, "restore").await?,
    };
    let server = target::server(&maintenance).await?;
    checks::missing(entries, script, &server, arguments)?;
    rights::refuse(entries, &target::rights(&maintenance).await?, arguments)?;
    make_roles(&maintenance, arguments, script, &server).await?;
    let mut statements = Vec::new();
    if !server.databases.contains(info.database()) {
        let sql = database::create(&meta.entries, info.database(), maintenance.server_version_num());
        statements.push((sql, "create the database"));
        if let Some(owner) = database::owner(&meta.entries).filter(|_| !arguments.no_owner) {
            let quoted = crate::sql::names::quote;
            let sql = format!("ALTER DATABASE {} OWNER TO {}", quoted(info.database()), quoted(owner));
            statements.push((sql, "give the database to its owner"));
        }
    }
    // Not to be cut: the server would go on without us, and a drill would drop its database before it is there.
    let creating = commits.spawn(async move {
        for (sql, doing) in statements {
            target::execute(&maintenance, &sql, doing).await?;
        }
        maintenance.close().await;
        Ok::<_, Error>(())
    });
    creating.await.map_err(|error| Error::failed(format!("create the database: {error}")))??;
    let control = Session::connect_unpooled(info, timeout, "restore").await?;
    checks::refuse_source(&control, manifest, arguments).await?;
    let found = checks::refuse_full(&control, &manifest.run, arguments).await?;
    Ok((control, found))
}

async fn make_roles(session: &Session, arguments: &Restore, script: &Script, server: &Server) -> Result<()> {
    if !arguments.roles {
        return Ok(());
    }
    let mut statements = settings::taken(session, script.missing(&server.roles, arguments.role_passwords)).await?;
    if statements.is_empty() {
        return Ok(());
    }
    if session.server_version_num() < 160_000 {
        statements = statements.into_iter().map(roles::before_16).collect();
    }
    let sql = format!("BEGIN; {}; COMMIT", statements.join(";\n"));
    target::execute(session, &sql, "create the missing roles").await
}

impl Work<'_> {
    async fn all(&self, found: Found) -> Result<()> {
        let arguments = self.arguments;
        let mark = checks::mark(&self.manifest.run, arguments);
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
        if !arguments.data_only && self.part.archives() {
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
        if self.part.has_single_tables() && !arguments.data_only {
            after = self.step("tables", Box::pin(self.single_tables())).await?;
        }
        if !arguments.schema_only {
            self.step("rows", Box::pin(self.data())).await?;
        }
        if !arguments.schema_only && self.part.archives() {
            self.step(
                "sequences",
                self.pg_restore.file("restore sequence values", &["--section=data"], &self.archive.path),
            )
            .await?;
        }
        if !arguments.data_only && self.part.archives() {
            self.step("indexes and constraints", self.post_data()).await?;
        }
        for (table, statements) in after {
            target::execute(&self.control, &format!("BEGIN;\n{statements};\nCOMMIT"), &format!("finish {table}"))
                .await?;
        }
        if self.part.is_whole() && !arguments.data_only {
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
        if !self.arguments.no_analyze && !self.arguments.schema_only {
            self.step("statistics", self.analyze()).await?;
        }
        target::flush(&self.control).await?;
        if marked { target::unmark(&self.control).await } else { Ok(()) }
    }

    async fn step<T>(&self, name: &'static str, doing: impl Future<Output = Result<T>> + Send) -> Result<T> {
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

    /// Indexes, constraints, triggers and what else comes after the rows, by several sessions. Event triggers that an
    /// extension brought stay silent: those of the user's come last for the same reason. Where they cannot, and where they
    /// are the operator's, one session does it all.
    async fn post_data(&self) -> Result<()> {
        let found = target::event_triggers(&self.control).await?;
        let silent = found == EventTriggers::Avoidable && self.part.is_whole();
        let jobs = if found == EventTriggers::None || silent { self.arguments.jobs } else { 1 };
        if jobs < self.arguments.jobs {
            tracing::info!("event triggers fire here: indexes and constraints are made by one session");
        }
        let jobs = format!("--jobs={jobs}");
        let pg_restore = PgRestore { no_event_triggers: silent, ..self.pg_restore.clone() };
        let post = self.owned(&["--section=post-data", &jobs]);
        pg_restore.file("restore indexes and constraints", &post, &self.archive.path).await
    }

    /// Arguments of `pg_restore`, with what is to be said of owners.
    fn owned<'a>(&self, arguments: &[&'a str]) -> Vec<&'a str> {
        arguments.iter().copied().chain(self.arguments.no_owner.then_some("--no-owner")).collect()
    }

    fn note(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    fn rows(&self, taken: &Arc<AtomicU64>, into: Into) -> Rows {
        Rows {
            source: self.source.clone(),
            info: self.info.clone(),
            connect_timeout: self.arguments.connect_timeout,
            jobs: usize::from(self.arguments.jobs),
            into,
            no_owner: self.arguments.no_owner,
            in_pieces: checks::mark(&self.manifest.run, self.arguments).is_some(),
            taken: Arc::clone(taken),
            commits: self.commits.clone(),
        }
    }

    /// Rows and large objects.
    async fn data(&self) -> Result<()> {
        let arguments = self.arguments;
        let into = if arguments.data_only { Into::Existing { truncate: arguments.truncate } } else { Into::Fresh };
        let mut tables = self.part.tables(self.manifest, arguments.data_only);
        tables.retain(|w| !self.leave_out.tables.contains(&(w.schema.clone(), w.table.name.clone())));
        tables.retain(|wanted| wanted.table.rows > 0 || into == Into::Existing { truncate: true });
        if into == (Into::Existing { truncate: false }) && !arguments.into_existing {
            self.refuse_rows(&tables).await?;
        }
        if into != Into::Fresh {
            self.refuse_triggers(&tables).await?;
            self.refuse_large_objects().await?;
        }
        let total: u64 = tables.iter().map(|w| w.table.raw_bytes).sum();
        let taken = Arc::new(AtomicU64::new(0));
        self.note(|report| {
            report.tables += tables.len() as u64;
            report.rows += tables.iter().map(|w| w.table.rows).sum::<u64>();
            report.raw_bytes += total;
        });
        let progress = Loading::start(self.global, &taken, total);
        let blobs = self
            .manifest
            .large_objects
            .object
            .as_ref()
            .filter(|_| self.part.is_whole() && !self.leave_out.large_objects);
        let result = tokio::try_join!(Arc::new(self.rows(&taken, into)).load(tables), async {
            match blobs {
                Some(object) => self.large_objects(object, &[]).await,
                None => Ok(()),
            }
        });
        progress.end();
        tracing::debug!(bytes = taken.load(Ordering::Relaxed), "rows loaded");
        result.map(drop)
    }

    async fn refuse_rows(&self, tables: &[Wanted]) -> Result<()> {
        for wanted in tables {
            if target::has_rows(&self.control, &wanted.name()).await? {
                return Err(Error::usage(format!("{}.{} is not empty", wanted.schema, wanted.table.name))
                    .hint("--truncate replaces its rows, --into-existing adds to them; nothing was changed"));
            }
        }
        Ok(())
    }

    /// Triggers that are `ENABLE ALWAYS` fire in a session that loads as a replica does, and would change what is loaded.
    async fn refuse_triggers(&self, tables: &[Wanted]) -> Result<()> {
        let names: Vec<String> = tables.iter().map(Wanted::name).collect();
        let found = target::always_triggers(&self.control, &names).await?;
        let Some((table, trigger)) = found.first() else { return Ok(()) };
        let more = if found.len() > 1 { format!(", and {} more", found.len() - 1) } else { String::new() };
        Err(Error::usage(format!(
            "trigger {trigger} of {table} is ENABLE ALWAYS: it would fire for each row that is loaded{more}"
        ))
        .hint(format!(
            "ALTER TABLE {table} DISABLE TRIGGER {trigger}, restore, then ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}; nothing was changed"
        )))
    }

    /// Large objects keep their numbers, so those that are there would collide, after the tables were replaced.
    async fn refuse_large_objects(&self) -> Result<()> {
        if !self.part.is_whole() || self.leave_out.large_objects || self.manifest.large_objects.count == 0 {
            return Ok(());
        }
        if target::has_rows(&self.control, "pg_catalog.pg_largeobject_metadata").await? {
            return Err(Error::usage("the run holds large objects, and the target has some already").hint(
                "remove them first: SELECT lo_unlink(oid) FROM pg_largeobject_metadata; or name schemas with --schema: nothing was changed",
            ));
        }
        Ok(())
    }

    /// Streams the large objects into `pg_restore`. The end of the archive is held back until its SHA-256 was compared.
    async fn large_objects(&self, object: &Object, options: &[&str]) -> Result<()> {
        let (watch, stored) = read::watched(&self.source.store, &self.source.run, object);
        let plain = self.source.opening.decoder(stored);
        let (watched, damage) = (watch.clone(), Arc::new(Mutex::new(None)));
        let mut held = HeldBack {
            inner: plain,
            last: Vec::new(),
            ended: false,
            object: object.clone(),
            watch,
            damage: Arc::clone(&damage),
        };
        let mut arguments = options.to_vec();
        if self.manifest.large_objects.count <= BLOBS_AT_ONCE {
            arguments.push("--single-transaction");
        }
        let arguments = self.owned(&arguments);
        let result = self.pg_restore.pipe("restore large objects", &arguments, &mut held).await;
        if let Some(failure) = watched.whole.store_failure() {
            return Err(failure.context(&object.key));
        }
        let damaged = damage.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(damaged) = damaged {
            return Err(damaged);
        }
        result?;
        self.note(|report| report.large_objects = self.manifest.large_objects.count);
        Ok(())
    }

    /// Makes single tables from their SQL files, with their rows; returns what is to be run when all are there.
    async fn single_tables(&self) -> Result<Vec<(String, String)>> {
        let taken = Arc::new(AtomicU64::new(0));
        let rows = self.rows(&taken, Into::Fresh);
        let mut after = Vec::new();
        for wanted in self.part.single_tables_in_order(self.manifest, &self.meta.entries) {
            let finish = rows.with_definition(&wanted, !self.arguments.schema_only).await?;
            after.push((format!("{}.{}", wanted.schema, wanted.table.name), finish));
            self.note(|report| {
                report.tables += 1;
                report.rows += wanted.table.rows;
                report.raw_bytes += wanted.table.raw_bytes;
            });
        }
        Ok(after)
    }

    /// Gathers the planner's statistics, table by table, by several sessions.
    async fn analyze(&self) -> Result<()> {
        let mut tables = load::analyzable(&self.control).await?;
        if self.part.is_whole() {
            tables.retain(|table| !table.is_partition);
        } else {
            let ours = self.part.tables(self.manifest, true);
            let ours: HashSet<(&str, &str)> = ours.iter().map(|w| (w.schema.as_str(), w.table.name.as_str())).collect();
            tables.retain(|table| ours.contains(&(&table.schema, &table.name)));
        }
        self.analyze_these(tables).await
    }

    async fn analyze_these(&self, tables: Vec<load::Analyzable>) -> Result<()> {
        let rough = AtomicU64::new(0);
        let queue = Mutex::new(tables.into_iter());
        let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
        let worker = || async {
            let loader = load::Loader::connect(&self.info, self.arguments.connect_timeout).await?;
            while let Some(table) = next() {
                let (statements, is_rough) = table.statements(self.arguments.full_analyze);
                loader.execute(&statements, &format!("analyze {}.{}", table.schema, table.name)).await?;
                rough.fetch_add(u64::from(is_rough), Ordering::Relaxed);
            }
            loader.close().await;
            Ok::<(), Error>(())
        };
        futures::future::try_join_all((0..self.arguments.jobs).map(|_| worker())).await?;
        let rough = rough.into_inner();
        if rough > 0 {
            tracing::info!("{rough} tables have rough statistics, which the server's autovacuum completes");
        }
        Ok(())
    }
}

/// A file that only this user can read, removed when dropped. Holds definitions, never rows.
pub(crate) struct PrivateFile {
    pub(crate) path: PathBuf,
}

impl PrivateFile {
    pub(crate) fn new(content: &[u8]) -> Result<Self> {
        let name = format!("pgstow-{}-{:016x}.dump", std::process::id(), rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        let shown = path.display().to_string();
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).context(&shown)?;
        let this = Self { path };
        file.write_all(content).context(&shown)?;
        Ok(this)
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("remove {}: {error}", self.path.display());
        }
    }
}

/// Plain bytes of an object, the last of which come only when the whole object was compared with the manifest. What
/// is damaged so ends early, and who reads it fails.
struct HeldBack<R> {
    inner: R,
    last: Vec<u8>,
    ended: bool,
    object: Object,
    watch: Watch,
    damage: Arc<Mutex<Option<Error>>>,
}

impl<R: AsyncRead + Unpin> AsyncRead for HeldBack<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while !self.ended {
            // Two readings are held, so that the one before the last can be given out.
            let mut buffer = vec![0; decode::BUFFER.min(out.remaining())];
            let mut read = ReadBuf::new(&mut buffer);
            let damage = match Pin::new(&mut self.inner).poll_read(context, &mut read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if read.filled().is_empty() => (!self.watch.is_sound(&self.object))
                    .then(|| "its stored bytes are not the manifest's (SHA-256)".to_owned()),
                Poll::Ready(Ok(())) => {
                    let new = read.filled().to_vec();
                    let before = std::mem::replace(&mut self.last, new);
                    if before.is_empty() {
                        continue;
                    }
                    out.put_slice(&before);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => Some(format!("does not decode: {error}")),
            };
            self.ended = true;
            if let Some(why) = damage {
                self.last.clear();
                let error = Error::damage(format!("{}: {why}", self.watch.blame(&self.object)));
                *self.damage.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
            }
        }
        let last = std::mem::take(&mut self.last);
        let now = last.len().min(out.remaining());
        let (given, kept) = last.split_at(now);
        out.put_slice(given);
        self.last = kept.to_vec();
        Poll::Ready(Ok(()))
    }
}
