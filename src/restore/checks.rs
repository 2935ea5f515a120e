//! Checks before anything is changed: the database is the right one, and has what the run needs.

use std::collections::{BTreeSet, HashMap};

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag};
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::human;
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::postgres::target::Server;
use crate::postgres::target::mark::{self, Mark};
use crate::restore::early::Lack;
use crate::restore::entry::is_for_absent;
use crate::restore::findings;
use crate::restore::options::{Destination, Options};
use crate::restore::roles::{Script, mentions};
use crate::restore::source::Loaded;
use crate::sql::names::in_comment;

/// Refuses a run whose manifest does not name what the run contains: it would be left out without a word. A part of a
/// run that is not concerned can be restored.
pub(crate) async fn refuse_disagreements(loaded: &Loaded, options: &Options) -> Result<()> {
    let found = loaded.disagreements().await?;
    let concerns = |schema: &str| {
        let of_table = |table: &String| table.trim_start_matches('"').starts_with(schema);
        let of_part = options.schemas.iter().any(|one| one == schema) || options.tables.iter().any(of_table);
        options.is_whole() || (!schema.is_empty() && of_part)
    };
    let (grave, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|one| concerns(&one.schema));
    for other in others {
        tracing::warn!("the run's manifest is damaged: {}", other.problem);
    }
    if grave.is_empty() {
        return Ok(());
    }
    let problems = human::shortened(grave.iter().map(|one| &one.problem), SHOWN, "; ");
    Err(Error::damage(format!("the run's manifest is damaged: {problems}")).hint("nothing was changed"))
}

/// Most problems that one message lists.
const SHOWN: usize = 5;

/// Refuses the database that was saved.
pub(crate) async fn refuse_source(session: &Session, manifest: &Manifest, options: &Options) -> Result<()> {
    let server = crate::postgres::source::detect::server(&session.client).await?;
    if server.in_recovery {
        return Err(Error::usage(format!("{} is a standby: it cannot be written to", session.info())));
    }
    if server.identity != manifest.source.identity {
        return Ok(());
    }
    let message = format!("{} is the very database that run {} was made of", session.info(), manifest.run);
    if options.allow_source {
        tracing::warn!("{message}; going on (--allow-source)");
        return Ok(());
    }
    Err(Error::usage(message)
        .hint("restore into another database, for example with --create and a new name in --to")
        .hint("if you really mean it: --allow-source"))
}

/// The text of this restore's mark, which is the same for the same command only: the run, and whether rows come.
/// `None` where no mark is made: a part of a run, or a database that may hold something else, is never wiped.
pub(crate) fn marked(run: &str, options: &Options) -> Option<String> {
    let marked = matches!(options.destination, Destination::Empty | Destination::Create);
    let alone = options.is_whole() && marked && options.has_definitions();
    alone.then(|| {
        let rows = if options.has_rows() { options.forgets() } else { " --schema-only".to_owned() };
        format!("{run}{rows}{}", options.renames())
    })
}

/// The contents of a database that may be restored into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing of a restore.
    Nothing,
    /// An unfinished restore by this very command, which starts over.
    Unfinished(Mark),
    /// An unfinished restore of something else, which is to be removed.
    Other(Mark),
    /// Everything of this very command but the planner's statistics.
    Restored(Mark),
}

/// The text of the mark when only statistics are missing.
pub(crate) fn restored(mark: &str) -> String {
    format!("{mark}, all but statistics")
}

/// Refuses a database that is not empty, and one that is being restored at this moment.
pub(crate) async fn refuse_full(session: &Session, run: &str, options: &Options) -> Result<Found> {
    let ours = marked(run, options);
    if ours.is_some() && !target::lock(session).await? {
        return Err(Error::usage(format!("another restore into {} is running", session.info()))
            .hint("wait for it, or stop it; nothing was changed"));
    }
    match mark::find(&session.client).await? {
        Some(found) if ours.as_ref() == Some(&found.what) => return Ok(Found::Unfinished(found)),
        Some(found) if ours.as_deref().map(restored).as_ref() == Some(&found.what) => {
            return Ok(Found::Restored(found));
        }
        Some(other) if ours.is_some() && options.start_over => return Ok(Found::Other(other)),
        Some(other) => return Err(unfinished(session, &other)),
        None => {}
    }
    let contents = target::contents(session).await?;
    let may_be_full = options.destination == Destination::Existing;
    if contents.is_empty() || may_be_full || !options.has_definitions() {
        return Ok(Found::Nothing);
    }
    let contents = human::shortened(contents.iter().map(|thing| in_comment(thing)), 3, ", ");
    let refused = Error::usage(format!("{} is not empty: {contents}", session.info()));
    let refused = if target::is_project(session).await? {
        refused.hint("if it is a Supabase project, whose platform has made schemas of its own: --profile supabase")
    } else {
        refused
    };
    Err(refused
        .hint("restore into a new database: --create with a new name in --to")
        .hint("if what is restored does not collide with what is there: --into-existing"))
}

/// The refusal of a database that holds an unfinished restore of something else.
pub(crate) fn unfinished(session: &Session, mark: &Mark) -> Error {
    Error::usage(format!("{} holds an unfinished restore of run {:?}", session.info(), mark.what))
        .hint("finish that one first, by the same command without any choice of parts or --into-existing")
        .hint("--start-over removes everything in it and restores this run; or drop the database and make a new one")
        .hint(format!("to keep it as it is, take the mark away: {}; nothing was changed", mark.removal()))
}

/// Names extensions, tablespaces and roles that the entries need and the server does not have.
pub(crate) fn missing(entries: &[&Entry], script: &Script, server: &Server, options: &Options) -> Vec<Lack> {
    let extensions: BTreeSet<&str> =
        entries.iter().filter(|e| e.desc == ObjectType::Extension).map(|e| tag(e)).collect();
    let extensions = extensions.into_iter().filter(|name| !server.extensions.contains(*name)).map(|name| Lack {
        thing: format!("extension {name}"),
        hint: "install the extensions' packages on the server".to_owned(),
    });
    let named = entries.iter().filter_map(|e| e.tablespace.as_deref()).filter(|name| !name.is_empty());
    let tablespaces: BTreeSet<&str> = named.filter_map(|name| options.tablespace(name)).collect();
    let tablespaces = tablespaces.into_iter().filter(|name| !server.tablespaces.contains(*name)).map(|name| Lack {
        thing: format!("tablespace {name}"),
        hint: "CREATE TABLESPACE with that name; or --no-tablespaces, or --tablespace OLD=NEW".to_owned(),
    });
    let mut roles = missing_roles(entries, script, server);
    if options.creates_roles() {
        let made = script.roles();
        roles.retain(|role| !made.contains(role));
    }
    let hint = if options.creates_roles() {
        "make the roles first: the run does not contain them"
    } else {
        "--roles creates the missing roles, without passwords"
    };
    let roles = roles.into_iter().map(|role| Lack { thing: format!("role {role}"), hint: hint.to_owned() });
    extensions.chain(tablespaces).chain(roles).collect()
}

/// Owners of the entries, and roles of the run that privileges and policies name, which the server does not have.
pub(crate) fn missing_roles(entries: &[&Entry], script: &Script, server: &Server) -> BTreeSet<String> {
    let owners = entries.iter().filter_map(|e| e.owner.clone()).filter(|owner| !owner.is_empty());
    let mut missing: BTreeSet<String> = owners.filter(|owner| !server.roles.contains(owner)).collect();
    let candidates: Vec<String> = script.roles().into_iter().filter(|role| !server.roles.contains(role)).collect();
    if candidates.is_empty() {
        return missing;
    }
    let naming = entries.iter().filter(|e| {
        matches!(
            e.desc,
            ObjectType::Acl
                | ObjectType::DefaultAcl
                | ObjectType::Policy
                | ObjectType::UserMapping
                | ObjectType::DatabaseProperties
        )
    });
    for text in naming.filter_map(|e| e.defn.as_deref()) {
        missing.extend(candidates.iter().filter(|role| mentions(text, role)).cloned());
    }
    missing
}

/// Refuses objects that are there already, all at once and before anything is made: what a restore into a database with
/// other things makes comes as a whole. `--best-effort` makes the rest.
///
/// # Errors
/// Kind `Usage`.
pub(crate) fn refuse_collisions(
    session: &Session,
    entries: &[&Entry],
    known: &BTreeSet<(String, String, String)>,
    options: &Options,
) -> Result<()> {
    let has = |kind: &str, e: &Entry| known.contains(&(kind.to_owned(), namespace(e).to_owned(), tag(e).to_owned()));
    let collides = |e: &&&Entry| match e.desc {
        ObjectType::Table
        | ObjectType::View
        | ObjectType::MaterializedView
        | ObjectType::ForeignTable
        | ObjectType::Sequence => has("relation", e) && !is_for_absent(e),
        ObjectType::Type | ObjectType::Domain => has("type", e),
        ObjectType::Function | ObjectType::Procedure | ObjectType::Aggregate => has("signature", e),
        _ => false,
    };
    let there: Vec<String> =
        entries.iter().filter(collides).map(|e| format!("{} {}", findings::kind(e), findings::name(e))).collect();
    if there.is_empty() || options.best_effort {
        return Ok(());
    }
    let there = human::shortened(there.iter().map(|thing| in_comment(thing)), 20, ", ");
    Err(Error::usage(format!("{} has already: {there}", session.info()))
        .hint("drop or rename what is there, where the run's is wanted; --data-only loads rows into tables that are there")
        .hint("--best-effort restores the rest and lists these; nothing was changed"))
}

/// Names what some entries refer to outside of themselves and the database does not have.
pub(crate) async fn prerequisites(session: &Session, entries: &[&Entry], all: &[Entry]) -> Result<()> {
    let own: BTreeSet<i32> = entries.iter().map(|e| e.dump_id).collect();
    let by_id: HashMap<i32, &Entry> = all.iter().map(|e| (e.dump_id, e)).collect();
    let known = target::known(session).await?;
    let has =
        |kind: &str, schema: &str, name: &str| known.contains(&(kind.to_owned(), schema.to_owned(), name.to_owned()));
    let mut lacking: BTreeSet<String> = BTreeSet::new();
    let outside = entries
        .iter()
        .filter(|e| e.desc != ObjectType::Statistics)
        .flat_map(|e| &e.dependencies)
        .filter(|id| !own.contains(id))
        .filter_map(|id| by_id.get(id));
    for other in outside {
        let (schema, name) = (namespace(other), tag(other));
        let there = match other.desc {
            ObjectType::Schema => has("schema", "", name),
            ObjectType::Extension => has("extension", "", name),
            ObjectType::Server | ObjectType::ForeignServer => has("server", "", name),
            ObjectType::Table
            | ObjectType::View
            | ObjectType::MaterializedView
            | ObjectType::ForeignTable
            | ObjectType::Sequence => has("relation", schema, name),
            ObjectType::Type | ObjectType::Domain | ObjectType::ShellType => has("type", schema, name),
            ObjectType::Function | ObjectType::Procedure | ObjectType::Aggregate => {
                has("function", schema, name.split('(').next().unwrap_or_default())
            }
            ObjectType::Collation => has("collation", schema, name),
            ObjectType::Conversion => has("conversion", schema, name),
            ObjectType::Operator => has("operator", schema, name),
            ObjectType::OperatorClass => has("operator class", schema, name),
            ObjectType::OperatorFamily => has("operator family", schema, name),
            ObjectType::AccessMethod => has("access method", "", name),
            ObjectType::TextSearchConfiguration => has("text search configuration", schema, name),
            ObjectType::TextSearchDictionary => has("text search dictionary", schema, name),
            ObjectType::TextSearchParser => has("text search parser", schema, name),
            ObjectType::TextSearchTemplate => has("text search template", schema, name),
            ObjectType::ForeignDataWrapper => has("foreign-data wrapper", "", name),
            ObjectType::ProceduralLanguage => has("language", "", name),
            _ => true,
        };
        if !there {
            let dot = if schema.is_empty() { "" } else { "." };
            lacking.insert(format!("{} {schema}{dot}{name}", other.desc.as_str().to_lowercase()));
        }
    }
    let schemas: BTreeSet<&str> = entries.iter().map(|e| namespace(e)).filter(|name| !name.is_empty()).collect();
    let made: BTreeSet<&str> = entries.iter().filter(|e| e.desc == ObjectType::Schema).map(|e| tag(e)).collect();
    lacking
        .extend(schemas.difference(&made).filter(|name| !has("schema", "", name)).map(|name| format!("schema {name}")));
    if lacking.is_empty() {
        return Ok(());
    }
    let told: Vec<String> = lacking.iter().map(|thing| in_comment(thing)).collect();
    Err(Error::failed(format!("{} lacks what this part needs: {}", session.info(), told.join(", ")))
        .hint("restore these too (more --schema or --table), or make them first; nothing was changed"))
}
