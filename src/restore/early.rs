//! The early look: what a run needs and the server lacks, found before the first change and told all at once, each with
//! what to do. `--best-effort` goes on without it.

use std::collections::BTreeSet;

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag};
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::postgres::connect::session::Session;
use crate::postgres::extensions::care;
use crate::postgres::target;
use crate::postgres::target::trial::{self, Try};
use crate::restore::options::{Destination, Options};
use crate::restore::settings;
use crate::restore::source::Loaded;
use crate::restore::{database, findings};
use crate::sql::names::{in_comment, literal};
use crate::sql::statements::{name, statements};

/// Something that the server lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lack {
    /// The thing, for people.
    pub(crate) thing: String,
    /// The step that a person must take.
    pub(crate) hint: String,
}

/// The things that the server lacks beside roles, tablespaces and packages of extensions; `session` is in some database of it.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) lacks: Vec<Lack>,
    /// Libraries that settings of the run name and that no session could load: a database with such a setting takes no
    /// connection.
    pub(crate) libraries: BTreeSet<String>,
    /// The locale of the database is not there.
    pub(crate) no_locale: bool,
}

/// Looks.
///
/// # Errors
/// A lost connection.
pub(crate) async fn look(session: &Session, options: &Options, loaded: &Loaded, entries: &[&Entry]) -> Result<Look> {
    let mut look = Look::default();
    if !options.has_definitions() {
        return Ok(look);
    }
    let manifest = &loaded.run.manifest;
    look.lacks.extend(versions(session, entries, manifest).await?);
    let encoding = encoding(session).await?;
    if encoding == manifest.source.encoding {
        look.lacks.extend(collations(session, options, entries).await?);
    }
    look.lacks.extend(system_collations(session, entries).await?);
    look.lacks.extend(dictionaries(session, options, entries).await?);
    if options.destination == Destination::Create {
        let lacks = locales(session, options, loaded, &encoding).await?;
        look.no_locale = !lacks.is_empty();
        look.lacks.extend(lacks);
    } else if encoding != manifest.source.encoding && encoding != "UTF8" {
        tracing::warn!(
            "{} is in {encoding}, the run in {}: rows with characters that {encoding} does not have will be refused",
            session.info(),
            manifest.source.encoding
        );
    }
    if options.is_whole() {
        look.libraries = libraries(session, options, loaded, &mut look.lacks).await?;
    }
    warn_of_functions(session, options, entries).await?;
    Ok(look)
}

async fn encoding(session: &Session) -> Result<String> {
    let sql = "SELECT pg_catalog.current_setting('server_encoding')";
    Ok(target::strings(&session.client, sql, "look at the server").await?.into_iter().next().unwrap_or_default())
}

/// Extensions whose saved version is needed and not there.
async fn versions(session: &Session, entries: &[&Entry], manifest: &Manifest) -> Result<Vec<Lack>> {
    let mut lacks = Vec::new();
    for entry in entries.iter().filter(|e| e.desc == ObjectType::Extension) {
        let saved = manifest.extensions.iter().find(|one| one.name == tag(entry));
        let Some(saved) = saved.filter(|_| care(tag(entry)).is_some_and(|care| care.same_version)) else { continue };
        let here = target::versions(session, &saved.name).await?;
        if !here.is_empty() && !here.contains(&saved.version) {
            let versions: Vec<String> = here.into_iter().collect();
            lacks.push(Lack {
                thing: format!(
                    "extension {} in version {} (it has {})",
                    saved.name,
                    saved.version,
                    versions.join(", ")
                ),
                hint: format!(
                    "install version {} of extension {}: it restores its own only",
                    saved.version, saved.name
                ),
            });
        }
    }
    Ok(lacks)
}

/// Collations of the run that cannot be made: their locale is not there, or the server knows no ICU.
async fn collations(session: &Session, options: &Options, entries: &[&Entry]) -> Result<Vec<Lack>> {
    let made: Vec<&&Entry> = entries.iter().filter(|e| e.desc == ObjectType::Collation).collect();
    let tries: Vec<Try> =
        made.iter().map(|e| Try { schema: namespace(e).to_owned(), sql: e.defn.clone().unwrap_or_default() }).collect();
    let answers = trial::all(session.info(), options.connect_timeout, &tries).await?;
    // What is there already, and what the role may not do, are other questions.
    let lacking = made.iter().zip(answers).filter_map(|(entry, answer)| {
        let why = answer.filter(|error| !error.is_sqlstate("42710") && !error.is_sqlstate("42501"))?;
        Some(Lack { thing: format!("collation {} ({})", findings::name(entry), why.cause()), hint: LOCALES.to_owned() })
    });
    Ok(lacking.collect())
}

/// Text search dictionaries of the run whose files the server does not have, or cannot read.
async fn dictionaries(session: &Session, options: &Options, entries: &[&Entry]) -> Result<Vec<Lack>> {
    let made: Vec<&&Entry> = entries.iter().filter(|e| e.desc == ObjectType::TextSearchDictionary).collect();
    let tries: Vec<Try> =
        made.iter().map(|e| Try { schema: namespace(e).to_owned(), sql: e.defn.clone().unwrap_or_default() }).collect();
    let answers = trial::all(session.info(), options.connect_timeout, &tries).await?;
    let lacking = made.iter().zip(answers).filter_map(|(entry, answer)| {
        // A template of an extension, say, is another question.
        let why = answer.filter(|error| error.is_sqlstate(CONFIG_FILE_ERROR))?;
        let hint = "copy the files of dictionaries (.dict, .affix, .stop, .ths, .syn, .rules) into the folder tsearch_data \
                    that `pg_config --sharedir` names, from the server that was saved";
        Some(Lack { thing: format!("dictionary {} ({})", findings::name(entry), why.cause()), hint: hint.to_owned() })
    });
    Ok(lacking.collect())
}

/// The state of a server that cannot read a file of a dictionary.
const CONFIG_FILE_ERROR: &str = "F0000";

const LOCALES: &str = "install the locales on the server (locale-gen, localedef; a build with ICU), restart it, and run \
    pg_import_system_collations() where the collation is the system's";

/// Collations of the system that definitions name and the database does not have.
async fn system_collations(session: &Session, entries: &[&Entry]) -> Result<Vec<Lack>> {
    let kinds = |e: &&&Entry| {
        matches!(
            e.desc,
            ObjectType::Table
                | ObjectType::ForeignTable
                | ObjectType::View
                | ObjectType::MaterializedView
                | ObjectType::Domain
                | ObjectType::Type
                | ObjectType::Index
                | ObjectType::Constraint
        )
    };
    let texts = entries.iter().filter(kinds).filter_map(|e| e.defn.as_deref());
    let named: BTreeSet<String> = texts.flat_map(collations_in).collect();
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let sql =
        "SELECT collname::pg_catalog.text FROM pg_catalog.pg_collation WHERE collnamespace = 11 AND collencoding IN
                 (-1, (SELECT encoding FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))";
    let here: BTreeSet<String> =
        target::strings(&session.client, sql, "look at the collations").await?.into_iter().collect();
    let lack = |name: &String| Lack { thing: format!("collation pg_catalog.{name}"), hint: LOCALES.to_owned() };
    Ok(named.iter().filter(|name| !here.contains(*name)).map(lack).collect())
}

/// The collations of the system that a definition names, outside of its literals.
fn collations_in(defn: &str) -> Vec<String> {
    const WORDS: &str = " COLLATE pg_catalog.";
    let mut found = Vec::new();
    let (mut literal, mut quoted) = (false, false);
    for (at, c) in defn.char_indices() {
        match c {
            '\'' if !quoted => literal = !literal,
            '"' if !literal => quoted = !quoted,
            ' ' if !literal && !quoted => {
                let rest = defn.get(at..).and_then(|rest| rest.strip_prefix(WORDS));
                found.extend(rest.and_then(name).map(|(name, _)| name));
            }
            _ => {}
        }
    }
    found
}

/// Locales that the saved database has and the server does not know.
async fn locales(session: &Session, options: &Options, loaded: &Loaded, encoding: &str) -> Result<Vec<Lack>> {
    let manifest = &loaded.run.manifest;
    let wanted = database::locales(&loaded.meta.entries);
    let version = session.server_version_num();
    let since = match wanted.provider.as_str() {
        "icu" => 150_000,
        "builtin" => 170_000,
        _ => 0,
    };
    let about = |thing: String| Lack {
        thing,
        hint: format!(
            "{LOCALES}; or make the database yourself with another locale and restore without --create; --best-effort \
             makes it with locale C"
        ),
    };
    if version < since {
        return Ok(vec![about(format!("a database with locales of {}", wanted.provider))]);
    }
    if encoding != manifest.source.encoding || wanted.provider == "builtin" {
        return Ok(Vec::new());
    }
    let libc = wanted.libc.iter().filter(|name| !matches!(name.as_str(), "C" | "POSIX" | ""));
    let mut tried: Vec<(&String, &str)> = libc.map(|name| (name, "libc")).collect();
    tried.extend(wanted.icu.iter().map(|name| (name, "icu")));
    let make = |(at, (name, provider)): (usize, &(&String, &str))| Try {
        schema: String::new(),
        sql: format!("CREATE COLLATION pg_temp.pgstow_try_{at} (provider = {provider}, locale = {})", literal(name)),
    };
    let tries: Vec<Try> = tried.iter().enumerate().map(make).collect();
    let answers = trial::all(session.info(), options.connect_timeout, &tries).await?;
    let lacking = tried.iter().zip(answers).filter_map(|((name, _), answer)| {
        answer.filter(|error| !error.is_sqlstate("42501")).map(|_| about(format!("locale {name}")))
    });
    Ok(lacking.collect())
}

/// Libraries that settings of the run make every session load, and that cannot be loaded here.
async fn libraries(
    session: &Session,
    options: &Options,
    loaded: &Loaded,
    lacks: &mut Vec<Lack>,
) -> Result<BTreeSet<String>> {
    let from = &loaded.run.manifest.source.database;
    let mut all: Vec<String> = Vec::new();
    for text in database::settings(&loaded.meta.entries, from, from) {
        all.extend(statements(&text).into_iter().map(str::to_owned));
    }
    if options.creates_roles() {
        all.extend(loaded.script.missing(&target::server(session).await?.roles, false));
    }
    let names: BTreeSet<String> = all.iter().flat_map(|statement| settings::libraries(statement)).collect();
    let names: Vec<String> = names.into_iter().collect();
    let missing = trial::libraries(session.info(), options.connect_timeout, &names).await?;
    for (library, why) in &missing {
        lacks.push(Lack {
            thing: format!("library {library}, which a setting loads into every session ({})", why.cause()),
            hint: format!("install library {library} on the server: no session could begin with that setting"),
        });
    }
    Ok(missing.into_iter().map(|(library, _)| library).collect())
}

/// Warns of functions whose libraries are not there: they are refused one by one, and everything else is restored.
async fn warn_of_functions(session: &Session, options: &Options, entries: &[&Entry]) -> Result<()> {
    let library = |e: &&Entry| {
        let defn = e.defn.as_deref()?;
        let (_, rest) = defn.split_once("\n    LANGUAGE c ")?;
        let (_, rest) = rest.split_once("AS '")?;
        rest.split_once('\'').map(|(library, _)| library.to_owned())
    };
    let functions = entries.iter().copied().filter(|e| matches!(e.desc, ObjectType::Function | ObjectType::Procedure));
    let names: BTreeSet<String> = functions.filter_map(|e| library(&e)).collect();
    let names: Vec<String> = names.into_iter().collect();
    for (library, why) in trial::libraries(session.info(), options.connect_timeout, &names).await? {
        tracing::warn!("functions of library {library} cannot be restored here: {}", why.cause());
    }
    Ok(())
}

/// Refuses what the server lacks, all at once; with `--best-effort`, and in a drill, it is only told. `rights` is what the
/// role may not.
///
/// # Errors
/// Kind `Failed`.
pub(crate) fn refuse(lacks: &[Lack], rights: Result<()>, options: &Options) -> Result<()> {
    let things: Vec<String> = lacks.iter().map(|lack| in_comment(&lack.thing)).collect();
    if things.is_empty() {
        return rights;
    }
    let message = format!("the server lacks what the run needs: {}", things.join(", "));
    if options.best_effort {
        tracing::warn!("{message}; going on (--best-effort)");
        return rights;
    }
    let mut hints: Vec<&str> = Vec::new();
    for lack in lacks {
        if !hints.contains(&lack.hint.as_str()) {
            hints.push(&lack.hint);
        }
    }
    let mut error = match &rights {
        Ok(()) => Error::failed(message),
        Err(other) => Error::failed(format!("{message}; {}", other.message())),
    };
    for hint in hints {
        error = error.hint(hint);
    }
    match rights {
        Ok(()) => {
            error = error.hint("--best-effort restores the rest and lists what cannot be").hint("nothing was changed");
        }
        Err(other) => error = other.hints().iter().cloned().fold(error, Error::hint),
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collations_of_the_system_are_found_outside_of_literals() {
        let defn =
            "CREATE TABLE a (b text DEFAULT ' COLLATE pg_catalog.\"no\"' COLLATE pg_catalog.\"sv_SE.utf8\" NOT NULL,
            \"x COLLATE pg_catalog.no\" text COLLATE pg_catalog.ucs_basic)";
        assert_eq!(collations_in(defn), ["sv_SE.utf8", "ucs_basic"]);
    }
}
