//! The steps before anything is restored: objects are compared with the store's listing, the target is connected to
//! (created first, if asked for), and everything that can be known to be missing is refused.

use std::collections::{BTreeMap, HashSet};

use libpgdump::{Entry, ObjectType};
use tokio_util::task::TaskTracker;

use crate::archive::catalogue::{namespace, tag};
use crate::archive::partitions;
use crate::error::{Error, Result};
use crate::human;
use crate::objects::stored_run::StoredRun;
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::postgres::target::mark::Mark;
use crate::postgres::target::{MARK, Server, strangers};
use crate::restore::checks::Found;
use crate::restore::early::{self, Look};
use crate::restore::entry::is_refusal;
use crate::restore::extensions::{self, Impossible};
use crate::restore::make_roles::Made;
use crate::restore::options::{Destination, Options, Roles};
use crate::restore::parts::Part;
use crate::restore::roles::Script;
use crate::restore::source::Loaded;
use crate::restore::wanted::Wanted;
use crate::restore::work::Work;
use crate::restore::{checks, database, make_roles, rights, settings};
use crate::runs::listing::Listing;
use crate::sql::names::{TableName, in_comment, quote};

/// Objects that are missing or of another size fail the restore before it begins.
pub(crate) async fn compare_sizes(run: &StoredRun, part: &Part) -> Result<()> {
    let listing = Listing::read(&run.store, &run.manifest.run).await?;
    let wrong = part.objects(&run.manifest).into_iter().flat_map(|object| listing.mismatches(object));
    let problems: Vec<String> = wrong.map(|one| format!("{}: {}", one.key, one.problem())).collect();
    if problems.is_empty() { Ok(()) } else { Err(Error::damage(problems.join("; ")).hint("nothing was changed")) }
}

/// A target that can be restored into.
pub(crate) struct Prepared {
    /// The session that the restore is steered by.
    pub(crate) control: Session,
    /// The contents of the database.
    pub(crate) found: Found,
    /// This very restore created it.
    pub(crate) created: bool,
    /// The saved owner that the new database could not be given to, with the server's reason.
    pub(crate) unowned: Option<(String, String)>,
    /// The account of the roles that were made.
    pub(crate) roles: Made,
    /// Extensions that it cannot have.
    pub(crate) gone: Vec<Impossible>,
    /// The early look at its server.
    pub(crate) look: Look,
}

/// Drops the database that this restore created and has put nothing into.
pub(crate) async fn drop_created(options: &Options) -> Result<()> {
    let maintenance = maintenance(options).await?;
    let sql = format!("DROP DATABASE {}", quote(options.target.database()));
    target::execute(&maintenance, &sql, "drop the new database again").await?;
    maintenance.close().await;
    Ok(())
}

/// A session in another database of the target's server.
async fn maintenance(options: &Options) -> Result<Session> {
    let (info, timeout) = (&options.target, options.connect_timeout);
    match Session::connect(&info.with_database("postgres"), timeout, "restore").await {
        Ok(session) => Ok(session),
        Err(_no_such) => Session::connect(&info.with_database("template1"), timeout, "restore").await,
    }
}

/// Connects to the target, made first if so asked, after looking whether it can hold the run. Says what it holds.
pub(crate) async fn connect(
    options: &Options,
    loaded: &Loaded,
    entries: &[&Entry],
    commits: &TaskTracker,
) -> Result<Prepared> {
    let Loaded { run, meta, script, .. } = loaded;
    let manifest = &*run.manifest;
    let info = &options.target;
    let timeout = options.connect_timeout;
    if options.destination != Destination::Create {
        let control = Session::connect_unpooled(info, timeout, "restore").await?;
        checks::refuse_source(&control, manifest, options).await?;
        let found = checks::refuse_full(&control, &manifest.run, options).await?;
        let server = target::server(&control).await?;
        let look = look(&control, options, loaded, entries, &server).await?;
        let roles = make_roles(&control, options, script, &server, &look).await?;
        let gone = lacking_extensions(&control, options, loaded, entries, &server).await?;
        return Ok(Prepared { control, found, created: false, unowned: None, roles, gone, look });
    }
    let maintenance = maintenance(options).await?;
    let server = target::server(&maintenance).await?;
    let look = look(&maintenance, options, loaded, entries, &server).await?;
    let roles = make_roles(&maintenance, options, script, &server, &look).await?;
    let created = !server.databases.contains(info.database());
    let mut unowned = None;
    if created {
        let create = if look.no_locale { database::create_without_locale } else { database::create };
        let sql = create(&meta.entries, info.database(), maintenance.server_version_num());
        unowned =
            make(maintenance, sql, saved_owner(&meta.entries, options).map(str::to_owned), options, commits).await?;
    }
    let control = Session::connect_unpooled(info, timeout, "restore").await?;
    checks::refuse_source(&control, manifest, options).await?;
    let found = checks::refuse_full(&control, &manifest.run, options).await?;
    let gone = lacking_extensions(&control, options, loaded, entries, &server).await?;
    Ok(Prepared { control, found, created, unowned, roles, gone, look })
}

/// Creates the database as its owner's; returns the owner who could not get it, with the server's reason. One statement
/// makes both: whoever ends us in between finds no database that nobody gave away.
async fn make(
    maintenance: Session,
    create: String,
    owner: Option<String>,
    options: &Options,
    commits: &TaskTracker,
) -> Result<Option<(String, String)>> {
    const DOING: &str = "create the database";
    let goes_on = !options.exit_on_error;
    // Not to be cut: the server would go on without us, and a drill would drop its database before it is there.
    let creating = commits.spawn(async move {
        let mut unowned = None;
        if let Some(owner) = owner {
            let owned = format!("{create} OWNER = {}", quote(&owner));
            match target::execute(&maintenance, &owned, DOING).await {
                Err(error) if is_refusal(&error) && goes_on => unowned = Some((owner, error.cause())),
                other => {
                    maintenance.close().await;
                    return other.map(|()| None);
                }
            }
        }
        let made = target::execute(&maintenance, &create, DOING).await;
        maintenance.close().await;
        made.map(|()| unowned)
    });
    creating.await.map_err(|error| Error::failed(format!("{DOING}: {error}")))?
}

/// Gives the database of the session to the saved one's owner; returns the owner who could not get it, with the
/// server's reason.
pub(crate) async fn give_away(
    control: &Session,
    entries: &[Entry],
    options: &Options,
) -> Result<Option<(String, String)>> {
    let Some(owner) = saved_owner(entries, options) else { return Ok(None) };
    let sql = format!("ALTER DATABASE {} OWNER TO {}", quote(control.info().database()), quote(owner));
    match target::execute(control, &sql, "give the database to its owner").await {
        Err(error) if is_refusal(&error) && !options.exit_on_error => Ok(Some((owner.to_owned(), error.cause()))),
        other => other.map(|()| None),
    }
}

/// The owner that a new database gets.
fn saved_owner<'a>(entries: &'a [Entry], options: &Options) -> Option<&'a str> {
    database::owner(entries).filter(|_| !options.ignores_owners())
}

/// The early look at the server; what it lacks and what the role may not are refused all at once. A drill names what a
/// restore would be refused for beside roles, and goes on.
async fn look(
    session: &Session,
    options: &Options,
    loaded: &Loaded,
    entries: &[&Entry],
    server: &Server,
) -> Result<Look> {
    let look = early::look(session, options, loaded, entries).await?;
    let mut lacks = checks::missing(entries, &loaded.script, server, options);
    if options.destination == Destination::Scratch {
        for lack in &look.lacks {
            tracing::warn!("this server lacks {}", lack.thing);
        }
    } else {
        lacks.extend(look.lacks.iter().cloned());
    }
    early::refuse(&lacks, rights::refuse(entries, &target::rights(session).await?, options), options)?;
    Ok(look)
}

/// The extensions that the target cannot have; those of a drill were left out before.
async fn lacking_extensions(
    control: &Session,
    options: &Options,
    loaded: &Loaded,
    entries: &[&Entry],
    server: &Server,
) -> Result<Vec<Impossible>> {
    if options.destination == Destination::Scratch || !options.has_definitions() {
        return Ok(Vec::new());
    }
    let named = entries.iter().filter(|e| e.desc == ObjectType::Extension);
    let absent = named.filter(|e| !server.extensions.contains(tag(e)));
    let mut gone: Vec<Impossible> = absent.map(|e| Impossible::absent(tag(e))).collect();
    gone.extend(extensions::impossible(control, options, entries, &loaded.run.manifest.extensions).await?);
    Ok(gone)
}

async fn make_roles(
    session: &Session,
    options: &Options,
    script: &Script,
    server: &Server,
    look: &Look,
) -> Result<Made> {
    let Roles::Create { passwords } = options.roles else { return Ok(Made::default()) };
    let mut statements = settings::taken(session, script.missing(&server.roles, passwords)).await?;
    let is_lost =
        |statement: &String| settings::libraries(statement).iter().any(|library| look.libraries.contains(library));
    for statement in statements.extract_if(.., |statement| is_lost(statement)) {
        tracing::warn!("left out, since a library that it loads is not on this server: {statement}");
    }
    if statements.is_empty() {
        return Ok(Made::default());
    }
    make_roles::make(session, statements, !options.exit_on_error).await
}

impl Work<'_> {
    pub(crate) async fn refuse_rows(&self, tables: &[Wanted]) -> Result<()> {
        for wanted in tables {
            if target::has_rows(&self.control, &wanted.name()).await? {
                return Err(Error::usage(format!("{}.{} is not empty", wanted.schema, wanted.table.name))
                    .hint("--truncate replaces its rows, --into-existing adds to them; nothing was changed"));
            }
        }
        Ok(())
    }

    /// Refuses to remove what somebody put into a database whose restore was not finished: objects that the run does not
    /// have, rows beyond those of the run, and whatever was written after the restore ended, where its mark says when.
    pub(crate) async fn refuse_strangers(&self, mark: &Mark) -> Result<()> {
        if self.options.start_over {
            return Ok(());
        }
        let entries = &self.meta.entries;
        // The arguments of a function are written in many ways: its name has to do.
        let names = |e: &'_ Entry| -> Vec<TableName> {
            let plain = tag(e).match_indices('(').filter_map(|(at, _)| tag(e).get(..at));
            plain.chain([tag(e)]).map(|name| TableName::new(namespace(e), name)).collect()
        };
        let made: HashSet<TableName> = entries.iter().flat_map(names).collect();
        let objects = strangers::objects(&self.control, MARK).await?;
        let mut found: Vec<String> = objects
            .iter()
            .filter(|(_, name)| !made.contains(name))
            .map(|(words, _)| format!("{words} is not in the run"))
            .collect();
        if strangers::large_objects(&self.control).await? > self.run.manifest.large_objects.count {
            found.push("it has large objects that are not in the run".to_owned());
        }
        let closed = mark.closed();
        if let Some(closed) = closed {
            let changed = strangers::changed(&self.control, closed).await?;
            found.extend(changed.iter().map(|words| format!("{words} was made or changed since")));
        }
        let present: HashSet<&TableName> = objects.iter().map(|(_, name)| name).collect();
        // Rows of hash partitions by an enumeration move between them: they count as those of the topmost table.
        let above = partitions::parents(entries);
        let mut counts: BTreeMap<TableName, (u64, u64)> = BTreeMap::new();
        for wanted in self.part.tables(&self.run.manifest, false) {
            let name = wanted.table_name();
            let root = partitions::ancestors(&name, &above).last().unwrap_or(&name).clone();
            let (here, saved) = counts.entry(root).or_default();
            *saved += wanted.table.rows;
            if present.contains(&name) {
                let (rows, since) = strangers::rows(&self.control, &wanted.name(), closed).await?;
                *here += rows;
                if since > 0 {
                    found.push(format!("{since} rows of {name} were written since"));
                }
            }
        }
        let more = counts.iter().filter(|(_, (here, saved))| here > saved);
        found.extend(more.map(|(name, _)| format!("{name} has rows that are not in the run")));
        let strangers = found;
        if strangers.is_empty() {
            return Ok(());
        }
        let strangers = human::shortened(strangers.iter().map(|thing| in_comment(thing)), 3, ", ");
        Err(Error::usage(format!("{} holds an unfinished restore, and more than that: {strangers}", self.info))
            .hint("--start-over removes everything in it and restores again")
            .hint(format!("to keep it as it is, take the mark away: {}; nothing was changed", mark.removal())))
    }

    /// Triggers that are `ENABLE ALWAYS` or `ENABLE REPLICA` fire in a session that loads as a replica does, and would
    /// change what is loaded.
    pub(crate) async fn refuse_triggers(&self, tables: &[Wanted]) -> Result<()> {
        let names: Vec<String> = tables.iter().map(Wanted::name).collect();
        let found = target::loud_triggers(&self.control, &names).await?;
        let Some((table, trigger, when)) = found.first() else { return Ok(()) };
        let more = if found.len() > 1 { format!(", and {} more", found.len() - 1) } else { String::new() };
        Err(Error::usage(format!(
            "trigger {trigger} of {table} is ENABLE {when}: it would fire for each row that is loaded{more}"
        ))
        .hint(format!(
            "ALTER TABLE {table} DISABLE TRIGGER {trigger}, restore, then ALTER TABLE {table} ENABLE {when} TRIGGER {trigger}; nothing was changed"
        )))
    }

    /// Large objects keep their numbers, so those that are there would collide, after the tables were replaced.
    pub(crate) async fn refuse_large_objects(&self) -> Result<()> {
        if !self.part.is_whole() || self.leave_out.large_objects || self.run.manifest.large_objects.count == 0 {
            return Ok(());
        }
        if target::has_rows(&self.control, "pg_catalog.pg_largeobject_metadata").await? {
            return Err(Error::usage("the run holds large objects, and the target has some already").hint(
                "remove them first: SELECT lo_unlink(oid) FROM pg_largeobject_metadata; or name schemas with --schema: nothing was changed",
            ));
        }
        Ok(())
    }
}
