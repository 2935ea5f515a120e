//! The extensions of a run in the target: those that cannot be created there, found before anything is changed and left out
//! with everything that depends on them; the functions that some want called around a restore; other versions.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, of_extensions, tag, with_dependents};
use crate::error::Result;
use crate::format::manifest::{Extension, Manifest, Table};
use crate::human;
use crate::postgres::connect::session::Session;
use crate::postgres::extensions::{Care, care};
use crate::postgres::target::trial::{self, Try};
use crate::postgres::target::{self, EventTriggers};
use crate::restore::entry::{is_for_absent, is_part, is_refusal};
use crate::restore::findings::{self, Ledger};
use crate::restore::options::Options;
use crate::restore::source::LeaveOut;
use crate::sql::names::{TableName, literal};
use crate::sql::statements::{name, statements};

/// An extension that the target cannot have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Impossible {
    pub(crate) name: String,
    pub(crate) why: String,
    /// The step that a person must take.
    pub(crate) step: String,
}

impl Impossible {
    /// An extension without a package on the server.
    pub(crate) fn absent(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            why: "is not on this server".to_owned(),
            step: "install its package on the server, and restore again".to_owned(),
        }
    }
}

/// The statement that makes an extension, in the version that was saved where it must be that one.
pub(crate) fn statement(entry: &Entry, saved: &[Extension]) -> String {
    let defn = entry.defn.as_deref().unwrap_or_default();
    let same = care(tag(entry)).is_some_and(|care| care.same_version);
    let version = saved.iter().find(|one| same && one.name == tag(entry)).map(|one| &one.version);
    let (Some(version), Some(create)) = (version, statements(defn).first().copied()) else { return defn.to_owned() };
    format!("{create} VERSION {};", literal(version))
}

/// The schema that `CREATE EXTENSION ... WITH SCHEMA x` names.
fn schema(statement: &str) -> Option<String> {
    let (_, rest) = statement.split_once(" WITH SCHEMA ")?;
    name(rest).map(|(schema, _)| schema)
}

/// The extensions among these entries that cannot be created in the database of `control`, though the server has them.
/// Nothing of a trial stays.
///
/// # Errors
/// A lost connection.
pub(crate) async fn impossible(
    control: &Session,
    options: &Options,
    entries: &[&Entry],
    saved: &[Extension],
) -> Result<Vec<Impossible>> {
    // What the trial makes would set them off; what is there needs no trial.
    if !options.has_definitions() || target::event_triggers(control).await? != EventTriggers::None {
        return Ok(Vec::new());
    }
    let (present, server) = (target::extensions(control).await?, target::server(control).await?);
    let wanted = entries.iter().copied().filter(|e| {
        e.desc == ObjectType::Extension && server.extensions.contains(tag(e)) && !present.contains_key(tag(e))
    });
    let wanted: Vec<&Entry> = wanted.collect();
    let tries: Vec<Try> = wanted
        .iter()
        .map(|entry| {
            let sql = statement(entry, saved);
            Try { schema: schema(&sql).unwrap_or_default(), sql }
        })
        .collect();
    let answers = trial::all(control.info(), options.connect_timeout, &tries).await?;
    let mut found = Vec::new();
    for (entry, answer) in wanted.into_iter().zip(answers) {
        // What the role may not do is another question.
        let Some(why) = answer.filter(|error| !error.is_sqlstate("42501")) else { continue };
        found.push(Impossible {
            name: tag(entry).to_owned(),
            why: format!("cannot be created in this database: {}", why.cause()),
            step: step(care(tag(entry)), control.info().database()),
        });
    }
    Ok(found)
}

/// The step that a person must take about an extension that cannot be created.
fn step(care: Option<&Care>, database: &str) -> String {
    let lines = care.map(|care| care.configuration(database)).unwrap_or_default();
    if lines.is_empty() {
        return "see to what it asks for, and restore again".to_owned();
    }
    format!("put these lines into postgresql.conf, restart the server, and restore again:\n{}", lines.join("\n"))
}

/// The entries left out with extensions.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// The tables of each extension.
    tables: BTreeMap<String, BTreeSet<TableName>>,
    /// Other objects, for people.
    with: Vec<String>,
}

/// Leaves these extensions out, with their tables and everything that depends on them.
pub(crate) fn leave(out: &mut LeaveOut, entries: &[Entry], manifest: &Manifest, gone: &[Impossible]) -> Left {
    let names: BTreeSet<&str> = gone.iter().map(|one| one.name.as_str()).collect();
    if names.is_empty() {
        return Left::default();
    }
    let before = out.entries.clone();
    out.entries.extend(of_extensions(entries, &names, &schemas_of(manifest, &names)));
    with_dependents(entries, &mut out.entries);
    out.extensions.extend(names.iter().map(|name| (*name).to_owned()));
    let tables = names.into_iter().map(|name| (name.to_owned(), tables_of(manifest, name)));
    let tables: BTreeMap<String, BTreeSet<TableName>> = tables.collect();
    out.tables.extend(tables.values().flatten().cloned());
    // Tables that need a type or a function of such an extension are not made either.
    let lost = entries.iter().filter(|e| e.desc == ObjectType::Table && out.entries.contains(&e.dump_id));
    let lost: Vec<TableName> = lost.map(|e| TableName::new(namespace(e), tag(e))).collect();
    out.tables.extend(lost);
    let named = entries.iter().filter(|e| {
        let rows = matches!(e.desc, ObjectType::Extension | ObjectType::TableData);
        out.entries.contains(&e.dump_id) && !before.contains(&e.dump_id) && !rows && !is_part(e)
    });
    let with = named.filter(|e| !is_for_absent(e)).map(|e| format!("{} {}", findings::kind(e), findings::name(e)));
    Left { tables, with: with.collect() }
}

fn tables_of(manifest: &Manifest, extension: &str) -> BTreeSet<TableName> {
    let all = manifest.schemas.iter().flat_map(|s| s.tables.iter().map(move |t| (s, t)));
    all.filter(|(_, t)| t.extension.as_deref() == Some(extension))
        .map(|(s, t)| TableName::new(&s.name, &t.name))
        .collect()
}

/// The schemas that hold nothing but tables of these extensions.
fn schemas_of<'a>(manifest: &'a Manifest, extensions: &BTreeSet<&str>) -> HashSet<&'a str> {
    let of = |t: &Table| t.extension.as_deref().is_some_and(|name| extensions.contains(name));
    let theirs = manifest.schemas.iter().filter(|s| s.tables.iter().any(of) && s.tables.iter().all(of));
    theirs.map(|s| s.name.as_str()).collect()
}

/// The line about an extension that was left out.
pub(crate) fn line(gone: &Impossible, left: &Left) -> String {
    let tables: Vec<String> = left.tables.get(&gone.name).into_iter().flatten().map(TableName::to_string).collect();
    let tables = if tables.is_empty() { String::new() } else { format!("; its tables: {}", tables.join(", ")) };
    let with = if left.with.is_empty() {
        String::new()
    } else {
        format!("; left out with it: {}", human::shortened(left.with.iter().cloned(), 20, ", "))
    };
    format!("{}{tables}{with}", gone.why)
}

/// The moment of a call around a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    After,
}

/// Calls the function that each of these extensions wants called at this moment, where it has one; what is refused is
/// listed.
///
/// # Errors
/// A lost connection.
pub(crate) async fn call(session: &Session, ledger: &Ledger, names: &[&str], moment: Moment) -> Result<()> {
    for name in names {
        let Some((before, after)) = care(name).and_then(|care| care.around) else { continue };
        let function = if moment == Moment::Before { before } else { after };
        let Some(function) = target::function_of(session, name, function).await? else { continue };
        let sql = format!("SELECT {function}()");
        tracing::info!("{sql} ({name})");
        match target::execute(session, &sql, &format!("call {function} of {name}")).await {
            Err(error) if is_refusal(&error) => {
                ledger.refused("extension", name, &error.cause(), &format!("run: {sql}"), &sql);
            }
            done => done?,
        }
    }
    Ok(())
}

/// Extensions that are here in another version than the saved one, a line each.
///
/// # Errors
/// A lost connection.
pub(crate) async fn other_versions(session: &Session, saved: &[Extension]) -> Result<Vec<String>> {
    let here = target::extensions(session).await?;
    let differs = |one: &&Extension| here.get(&one.name).is_some_and(|version| *version != one.version);
    let line = |one: &Extension| {
        let version = here.get(&one.name).map_or("", String::as_str);
        format!("extension {}: version {} was saved, {version} is here", one.name, one.version)
    };
    Ok(saved.iter().filter(differs).map(line).collect())
}
