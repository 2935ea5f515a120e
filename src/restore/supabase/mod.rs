//! `pgstow restore --profile supabase`: into a project whose role is no superuser and whose platform has made schemas
//! of its own. Owns the order of things there.
//!
//! The application's schemas are made object by object (what the platform forbids is noted, everything else goes on),
//! with the privileges of the run and not those that the project gives to new objects. Of the platform's schemas only
//! rows are loaded, and what the user has added to its tables is made again.
//!
//! As in an ordinary restore of a whole run, a mark says that it is unfinished: the same command removes what it made
//! in the application's schemas and starts over. Nothing is ever removed from the platform's, whose rows are merged.

pub(crate) mod after;
pub(crate) mod apply;
pub(crate) mod cron;
pub(crate) mod database_wide;
pub(crate) mod large_objects;
pub(crate) mod places;
pub(crate) mod platform;
pub(crate) mod roles;
pub(crate) mod rows;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use libpgdump::{Entry, ObjectType};
use tokio_util::task::TaskTracker;

use crate::archive::catalogue::{namespace, tag};
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::human;
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::postgres::target::mark::Mark;
use crate::postgres::target::project::Project;
use crate::postgres::target::{load, project};
use crate::restore::entry::{self, SETTINGS};
use crate::restore::findings;
use crate::restore::findings::Ledger;
use crate::restore::large_objects::LargeObjects;
use crate::restore::options::{Destination, Options, Roles, Statistics};
use crate::restore::parts::Part;
use crate::restore::progress::Progress;
use crate::restore::roles::Script;
use crate::restore::rows::Tables;
use crate::restore::source::{LeaveOut, Loaded};
use crate::restore::supabase::apply::{Applier, Closed, Failed};
use crate::restore::supabase::places::{Map, Place};
use crate::restore::wanted::Wanted;
use crate::restore::work::{Report, Work};
use crate::restore::{checks, database, prepare};
use crate::sql::names::{in_comment, quote};

/// Restores a run, or some schemas of it, into a project.
///
/// # Errors
/// Damage of the store, a lost connection, a project that does not have what the run needs. What the
/// platform refused is in the report.
pub(crate) async fn restore(
    options: &Options,
    replace: bool,
    loaded: &Loaded,
    progress: &Arc<Progress>,
    commits: TaskTracker,
) -> Result<Report> {
    let started = Instant::now();
    let Loaded { run, meta, script, .. } = loaded;
    let manifest = &*run.manifest;
    let part = Part::choose(manifest, options)?;
    prepare::compare_sizes(run, &part).await?;
    let part = part.with_contents(run).await?;
    let entries = part.entries(meta);
    let control = Session::connect(&options.target, options.connect_timeout, "restore").await?;
    checks::refuse_source(&control, manifest, options).await?;
    let before = project::project(&control).await?;
    if mark(options, manifest).is_some() && !target::lock(&control).await? {
        return Err(Error::usage(format!("another restore into {} is running", control.info()))
            .hint("wait for it, or stop it; nothing was changed"));
    }
    let old = unfinished(&control, options, manifest).await?;
    let resumed = old.is_some();
    let was = |name: &str| old.as_ref().is_none_or(|mark| mark.kept.contains(&("schema".to_owned(), name.to_owned())));
    let map = Map::new(&meta.entries, names(&entries, &part, manifest), &before, was);
    if !resumed {
        refuse(&control, options, manifest, &map, &before).await?;
    }
    refuse_missing_roles(&control, options, &entries, script).await?;
    let leave_out = LeaveOut::default();
    let work = Work::new(options, progress, loaded, &leave_out, (part, control), commits)?;
    work.note_unfinished(loaded);
    tracing::info!(run = %manifest.run, into = %work.info, "restore into a project started");
    let ledger = &work.ledger;
    let (failed, closed) = (Failed::default(), Closed::default());
    let mut restoring = Restoring {
        work: &work,
        map: &map,
        entries: &entries,
        replace,
        ledger,
        failed: &failed,
        closed: &closed,
        before,
        project: None,
    };
    if let Roles::Create { passwords } = options.roles {
        roles::make(&work.control, script, &restoring.before, passwords, ledger).await?;
    }
    Box::pin(restoring.all(old)).await?;
    note_gaps(manifest, &work.part, ledger);
    let role = restoring.before.role.clone();
    Ok(work.finish(&role, started).await)
}

/// Refuses a project without roles that the run needs and that this restore does not create.
async fn refuse_missing_roles(control: &Session, options: &Options, entries: &[&Entry], script: &Script) -> Result<()> {
    let server = target::server(control).await?;
    let mut lacking = checks::missing_roles(entries, script, &server);
    let made = script.roles();
    lacking.retain(|role| !(platform::reserves_role(role) || options.creates_roles() && made.contains(role)));
    if lacking.is_empty() {
        return Ok(());
    }
    let roles: Vec<String> = lacking.iter().map(|role| format!("role {}", in_comment(role))).collect();
    Err(Error::failed(format!("the project lacks what the run needs: {}", roles.join(", ")))
        .hint("--roles creates the missing roles, without passwords")
        .hint("nothing was changed"))
}

/// Notes the gaps of a whole run.
fn note_gaps(manifest: &Manifest, part: &Part, ledger: &Ledger) {
    if part.is_whole() {
        let skipped = manifest.skipped.iter().map(|s| format!("{} {}.{}: {}", s.kind, s.schema, s.name, s.reason));
        let omitted = manifest.omitted.iter().map(|o| format!("{} {}: {}", o.kind, o.name, o.reason));
        skipped.chain(omitted).for_each(|gap| ledger.note(format!("not in the run: {gap}")));
    }
}

/// The schemas of this part.
fn names(entries: &[&Entry], part: &Part, manifest: &Manifest) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = entries
        .iter()
        .filter(|e| !matches!(e.desc, ObjectType::PublicationTable | ObjectType::DefaultAcl))
        .map(|e| if e.desc == ObjectType::Schema { tag(e) } else { namespace(e) })
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    names.extend(part.tables(manifest, false).into_iter().map(|wanted| wanted.schema));
    names
}

/// The text of the mark of this very command; `None` where no mark is made.
fn mark(options: &Options, manifest: &Manifest) -> Option<String> {
    let whole = options.schemas.is_empty() && options.destination != Destination::Existing;
    let only = if options.has_rows() { "" } else { " --schema-only" };
    whole.then(|| format!("{} --profile supabase{only}{}", manifest.run, options.forgets()))
}

/// The mark of an unfinished restore by this very command; one by another is refused.
async fn unfinished(control: &Session, options: &Options, manifest: &Manifest) -> Result<Option<Mark>> {
    match target::mark::find(&control.client).await? {
        Some(found) if mark(options, manifest).as_ref() == Some(&found.what) => Ok(Some(found)),
        Some(other) => {
            Err(Error::usage(format!("{} holds an unfinished restore of run {:?}", control.info(), other.what))
                .hint("finish that one first, by the same command")
                .hint(format!("or give it up: {}; nothing was changed", other.removal())))
        }
        None => Ok(None),
    }
}

/// Refuses a project that cannot take the application's schemas, or that holds something in them.
async fn refuse(
    control: &Session,
    options: &Options,
    manifest: &Manifest,
    map: &Map<'_>,
    project: &Project,
) -> Result<()> {
    let made = map.application.iter().filter(|name| !project.schemas.contains_key(*name)).count();
    if (made > 0 || mark(options, manifest).is_some()) && !project.creates_schemas {
        return Err(Error::failed(format!("role {} may not make schemas in {}", project.role, control.info()))
            .hint(format!("GRANT CREATE ON DATABASE {} TO {}", quote(control.info().database()), quote(&project.role)))
            .hint("nothing was changed"));
    }
    let mut full = Vec::new();
    for name in &map.application {
        let Some(schema) = project.schemas.get(name) else { continue };
        if !schema.creatable {
            return Err(Error::failed(format!("role {} may not make anything in schema {name}", project.role))
                .hint(format!("GRANT CREATE ON SCHEMA {} TO {}", quote(name), quote(&project.role)))
                .hint("nothing was changed"));
        }
        full.extend(project::contents(control, name).await?);
    }
    if full.is_empty() || options.destination == Destination::Existing {
        return Ok(());
    }
    let full = human::shortened(full.iter().map(|thing| in_comment(thing)), 3, ", ");
    Err(Error::usage(format!("the application's schemas of {} are not empty: {full}", control.info()))
        .hint("restore into a new project")
        .hint("if what is restored does not collide with what is there: --into-existing"))
}

/// A restore under way.
struct Restoring<'a> {
    work: &'a Work<'a>,
    map: &'a Map<'a>,
    entries: &'a [&'a Entry],
    ledger: &'a Ledger,
    failed: &'a Failed,
    closed: &'a Closed,
    /// Empty the platform's tables first.
    replace: bool,
    /// The project before anything was changed.
    before: Project,
    /// The project with roles, extensions and definitions made.
    project: Option<Project>,
}

impl Restoring<'_> {
    fn project(&self) -> &Project {
        self.project.as_ref().unwrap_or(&self.before)
    }

    fn applier(&self) -> Applier<'_> {
        Applier {
            session: &self.work.control,
            project: self.project(),
            map: self.map,
            ledger: self.ledger,
            failed: self.failed,
            closed: self.closed,
            no_owner: self.work.options.ignores_owners(),
        }
    }

    async fn read_project(&mut self) -> Result<()> {
        self.project = Some(project::project(&self.work.control).await?);
        Ok(())
    }

    async fn all(&mut self, old: Option<Mark>) -> Result<()> {
        let (work, options) = (self.work, self.work.options);
        let blobs = LargeObjects::read(work).await?;
        let forget = work.forget();
        if let Some(forget) = &forget {
            forget.check_values(&work.control, &work.meta.entries).await?;
        }
        let mark = match (old, mark(options, &work.run.manifest)) {
            (Some(old), _) => {
                tracing::info!("an unfinished restore of this run is removed first");
                target::end_others(&work.control).await?;
                self.remove(&blobs, &old.kept).await?;
                self.before = project::project(&work.control).await?;
                Some(old)
            }
            (None, Some(what)) => {
                let schemas = self.before.schemas.keys().map(|name| ("schema".to_owned(), name.clone()));
                let collide = project::large_objects(&work.control, &blobs.oids).await?;
                let blobs = collide.iter().map(|oid| (large_objects::KIND.to_owned(), oid.to_string()));
                Some(Mark::new(&work.control, &what, schemas.chain(blobs).collect()).await?)
            }
            (None, None) => None,
        };
        target::execute(&work.control, SETTINGS, "set up the session").await?;
        self.read_project().await?;
        if !options.ignores_owners()
            && roles::join(&work.control, &self.application(), self.project(), self.ledger).await?
        {
            self.read_project().await?;
        }
        work.step("definitions", self.definitions()).await?;
        self.read_project().await?;
        if options.has_rows() {
            work.step("rows", Box::pin(self.rows(&blobs))).await?;
            work.step("sequences", self.sequences()).await?;
            if let Some(forget) = &forget {
                work.step("erasing", work.erase(forget)).await?;
            }
        }
        work.step("indexes and constraints", Box::pin(self.after())).await?;
        work.step("privileges", self.privileges()).await?;
        let comment = work.step("the rest", Box::pin(self.rest(mark.as_ref()))).await?;
        if let Some(mark) = &mark {
            // Gone only when everything before is sure to stay.
            target::flush(&work.control).await?;
            mark.remove(&work.control, comment.as_deref()).await?;
        }
        if options.statistics != Statistics::None && options.has_rows() {
            let tables = self.analyzable(load::analyzable(&work.control).await?);
            work.step("statistics", work.analyze_these(tables)).await?;
        }
        target::flush(&work.control).await
    }

    /// The entries of the application's schemas.
    fn application(&self) -> Vec<&Entry> {
        self.entries.iter().copied().filter(|e| self.map.place(e) == Place::Application).collect()
    }

    /// Removes what an unfinished restore made.
    async fn remove(&self, blobs: &LargeObjects, kept: &BTreeSet<(String, String)>) -> Result<()> {
        let control = &self.work.control;
        let was = |kind: &str, name: &str| kept.contains(&(kind.to_owned(), name.to_owned()));
        let (old, made): (Vec<String>, Vec<String>) =
            self.map.application.iter().cloned().partition(|name| was("schema", name));
        project::wipe(control, &made, &old).await?;
        let ours: Vec<u32> =
            blobs.oids.iter().copied().filter(|oid| !was(large_objects::KIND, &oid.to_string())).collect();
        project::unlink(control, &ours).await
    }

    /// Schemas and extensions, then what is made before rows come, each in the archive's order.
    async fn definitions(&mut self) -> Result<()> {
        let extensions = self.applier();
        for entry in self.entries {
            match (self.map.place(entry), &entry.desc) {
                (Place::Extension, ObjectType::Extension) => extensions.extension(entry).await?,
                (Place::Application, ObjectType::Schema) if !places::there(entry, self.project()) => {
                    extensions.make(entry).await?;
                }
                (Place::Application, ObjectType::Schema) if tag(entry) != "public" => extensions.own(entry).await?,
                _ => {}
            }
        }
        self.read_project().await?;
        let applier = self.applier();
        let mut together = Vec::new();
        for (entry, after) in entry::sections(self.entries) {
            let now = !after
                && self.map.place(entry) == Place::Application
                && !matches!(entry.desc, ObjectType::Acl | ObjectType::Schema | ObjectType::MaterializedViewData);
            if now {
                self.note_tablespace(entry);
                together.push(entry);
            }
            // Foreign tables need their servers.
            if places::comes_first(entry) && self.map.place(entry) == Place::Wide {
                applier.make_all(&std::mem::take(&mut together)).await?;
                applier.wide(entry).await?;
            }
        }
        applier.make_all(&together).await
    }

    fn note_tablespace(&self, entry: &Entry) {
        if let Some(tablespace) = entry.tablespace.as_deref().filter(|name| !name.is_empty()) {
            self.ledger.note(format!(
                "{}: was in tablespace {tablespace}, is in the database's own here",
                findings::name(entry)
            ));
        }
    }

    /// Rows: first the platform's, since the application's refer to them, then the application's beside the large
    /// objects.
    async fn rows(&self, blobs: &LargeObjects) -> Result<()> {
        let work = self.work;
        let mut wanted = work.part.tables(&work.run.manifest, false);
        wanted.retain(|wanted| wanted.table.rows > 0);
        let fresh = |wanted: &Wanted| {
            self.map.application.contains(&wanted.schema)
                && !self.before.tables.contains_key(&wanted.table_name())
                && self.project().tables.get(&wanted.table_name()).is_some_and(|table| !table.extension)
        };
        let (fresh, others): (Vec<Wanted>, Vec<Wanted>) = wanted.into_iter().partition(fresh);
        let total = fresh.iter().chain(&others).map(|wanted| wanted.table.raw_bytes).sum();
        work.progress.total.store(total, Ordering::Relaxed);
        let managed = rows::Managed {
            work,
            project: self.project(),
            ledger: self.ledger,
            rows: Arc::new(work.rows(Tables::Existing { replace: false })),
            replace: self.replace,
        };
        let done = async {
            let jobs = managed.load(others).await?;
            work.count(&fresh);
            let applier = self.applier();
            let rows = Arc::new(work.rows(Tables::New));
            let (refused, ()) = tokio::try_join!(rows.load(fresh), large_objects::restore(blobs, work, &applier))?;
            for refused in refused {
                rows::lost(self.ledger, &refused);
            }
            for wanted in &jobs {
                cron::jobs(work, self.project(), self.ledger, wanted).await?;
            }
            Ok::<(), Error>(())
        };
        Box::pin(done).await
    }

    async fn sequences(&self) -> Result<()> {
        let applier = self.applier();
        let values: Vec<&Entry> = self.entries.iter().copied().filter(|e| e.desc == ObjectType::SequenceSet).collect();
        applier.sequences(&values).await
    }

    /// Makes everything that comes after the rows.
    async fn after(&self) -> Result<()> {
        let applier = self.applier();
        let of = |place: Place| {
            let entries = entry::sections(self.entries).into_iter().filter(|(_, after)| *after).map(|(e, _)| e);
            entries.filter(move |e| {
                self.map.place(e) == place && !matches!(e.desc, ObjectType::Acl | ObjectType::MaterializedViewData)
            })
        };
        let attached = |e: &&Entry| matches!(e.desc, ObjectType::Comment | ObjectType::SecurityLabel);
        let (comments, objects): (Vec<&Entry>, Vec<&Entry>) = of(Place::Application).partition(attached);
        after::all(self.work, &applier, &objects).await?;
        applier.make_all(&comments).await?;
        // The user's triggers and policies, when no row of the run comes any more.
        for entry in self.entries.iter().filter(|e| self.map.place(e) == Place::Managed) {
            match entry.desc {
                ObjectType::Acl => {}
                ObjectType::Comment | ObjectType::SecurityLabel => applier.attached(entry).await?,
                _ => applier.managed(entry).await?,
            }
        }
        Ok(())
    }

    async fn privileges(&self) -> Result<()> {
        let applier = self.applier();
        let mut together = Vec::new();
        for entry in self.entries.iter().filter(|e| e.desc == ObjectType::Acl) {
            match self.map.place(entry) {
                Place::Application => together.push(*entry),
                Place::Managed => {
                    applier.privileges_of(&std::mem::take(&mut together)).await?;
                    applier.custom_privileges(entry).await?;
                }
                _ => {}
            }
        }
        applier.privileges_of(&together).await
    }

    /// Materialised views, and what is the database's: default privileges, publications, event triggers, settings. Returns
    /// the statement about its comment, which is the mark until then.
    async fn rest(&self, mark: Option<&Mark>) -> Result<Option<String>> {
        let applier = self.applier();
        if self.work.options.has_rows() {
            let views = self.entries.iter().filter(|e| e.desc == ObjectType::MaterializedViewData);
            let views: Vec<&Entry> = views.copied().collect();
            if !views.is_empty() {
                // Their queries see the settings of the database, not those of the control session.
                let session = Session::connect(&self.work.info, self.work.options.connect_timeout, "restore").await?;
                target::execute(&session, SETTINGS, "set up the session").await?;
                let applier = Applier { session: &session, ..self.applier() };
                for entry in views {
                    applier.make(entry).await?;
                }
                session.close().await;
            }
        }
        applier.default_privileges(self.entries).await?;
        let wide = self.entries.iter().filter(|e| self.map.place(e) == Place::Wide && !places::comes_first(e));
        for entry in wide {
            applier.wide(entry).await?;
        }
        if self.work.part.is_whole() {
            let from = &self.work.run.manifest.source.database;
            let mut texts = database::settings(&self.work.meta.entries, from, self.work.info.database());
            let is_comment = |text: &String| text.starts_with("COMMENT ON DATABASE ");
            let comment = texts.iter().position(is_comment).filter(|_| mark.is_some_and(Mark::is_comment));
            let comment = comment.map(|at| texts.remove(at));
            applier.settings(&texts).await?;
            return Ok(comment);
        }
        Ok(None)
    }

    /// Those of these tables and materialised views that are the application's.
    fn analyzable(&self, mut all: Vec<load::Analyzable>) -> Vec<load::Analyzable> {
        let ours = self.application();
        let ours: HashSet<(&str, &str)> = ours
            .iter()
            .filter(|e| matches!(e.desc, ObjectType::Table | ObjectType::MaterializedView))
            .map(|e| (namespace(e), tag(e)))
            .collect();
        let whole = self.work.part.is_whole();
        all.retain(|table| ours.contains(&(&table.schema, &table.name)) && !(whole && table.is_partition));
        all
    }
}
