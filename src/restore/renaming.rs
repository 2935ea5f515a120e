//! Schemas and owners under other names than in the run: the loaded run is changed before anything reads it, so that every
//! step sees a run that has these names. The objects in the store keep theirs; [`StoredRun`] translates.
//!
//! [`StoredRun`]: crate::objects::stored_run::StoredRun

use std::collections::HashMap;
use std::sync::Arc;

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::tag;
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::restore::findings;
use crate::restore::options::{Options, Profile};
use crate::restore::source::Loaded;
use crate::runs::select;
use crate::sql::statements::{name, statements};

/// Objects that are shown of those that still name a schema.
const SHOWN: usize = 10;

/// Names that rules and triggers give to rows: `old.x` is no object of a schema `old`.
const ROWS: [&str; 3] = ["old", "new", "excluded"];

impl Options {
    /// Refuses renames that make no sense for this run, and those that cannot be done.
    fn check_renames(&self, manifest: &Manifest, entries: &[Entry]) -> Result<()> {
        if self.schema_names.0.is_empty() {
            return Ok(());
        }
        let with = [
            (!self.tables.is_empty(), "--table", "`pgstow rescue --as` restores one table under another name"),
            (self.profile != Profile::Plain, "--profile supabase", "restore the schema without the profile"),
            (self.forget.is_some(), "--forget", "restore under the saved names, into a database of its own"),
        ];
        if let Some((_, flag, hint)) = with.iter().find(|(given, _, _)| *given) {
            return Err(Error::usage(format!("--rename-schema cannot be combined with {flag}")).hint(*hint));
        }
        for (at, (from, to)) in self.schema_names.0.iter().enumerate() {
            select::schema(manifest, from)?;
            let refuse = |why: String| Err(Error::usage(format!("--rename-schema {from}={to}: {why}")));
            if !self.schemas.is_empty() && !self.schemas.contains(from) {
                return refuse(format!("--schema does not name {from}"));
            }
            if self.schema_names.0.iter().take(at).any(|(one, other)| one == from || other == to) {
                return refuse("the name stands twice".to_owned());
            }
            if manifest.schemas.iter().any(|schema| schema.name == *to) || to.is_empty() || to.starts_with("pg_") {
                return refuse(format!("the name {to:?} is taken")).map_err(|error| error.hint("choose another name"));
            }
            if ROWS.contains(&from.as_str()) {
                return refuse("rules and triggers use this name for rows".to_owned());
            }
            if let Some(extension) = entries.iter().find(|entry| is_extension_in(entry, from)) {
                return refuse(format!(
                    "extension {} is in this schema: its objects cannot be told from the others",
                    tag(extension)
                ))
                .map_err(|error| error.hint("restore into a database of its own, without --rename-schema"));
            }
        }
        Ok(())
    }

    /// The owner here of what belongs to this role in the run.
    pub(crate) fn owner<'a>(&'a self, saved: &'a str) -> &'a str {
        self.owner_names.iter().find(|(from, _)| from == saved).map_or(saved, |(_, to)| to)
    }

    /// The words of the new names in a mark; other names make another restore.
    pub(crate) fn renames(&self) -> String {
        let schemas = self.schema_names.0.iter().map(|pair| ("schema", pair));
        let owners = self.owner_names.iter().map(|pair| ("owner", pair));
        schemas
            .chain(owners)
            .map(|(kind, (from, to))| format!(" --{kind} {from:?}={to:?}"))
            .collect::<Vec<String>>()
            .concat()
    }
}

fn is_extension_in(entry: &Entry, schema: &str) -> bool {
    let defn = entry.defn.as_deref().unwrap_or_default();
    entry.desc == ObjectType::Extension
        && statements(defn).into_iter().any(|statement| {
            let place = statement.rsplit_once(" WITH SCHEMA ").and_then(|(_, rest)| name(rest));
            place.is_some_and(|(found, _)| found == schema)
        })
}

impl Loaded {
    /// Gives the run the names that are asked for. Returns the options in terms of these.
    ///
    /// # Errors
    /// Kind `Usage` for names that are not in the run, are taken, or cannot be replaced.
    pub(crate) fn rename(&mut self, options: &Options) -> Result<Options> {
        options.check_renames(&self.run.manifest, &self.meta.entries)?;
        let mut options = options.clone();
        for (from, _) in &options.owner_names {
            let is_known = self.meta.entries.iter().any(|entry| entry.owner.as_deref() == Some(from));
            if !is_known {
                return Err(Error::usage(format!("--owner: role {from:?} owns nothing in this run")));
            }
        }
        let names = &options.schema_names;
        for entry in &mut self.meta.entries {
            if let Some(owner) = &mut entry.owner {
                *owner = options.owner(owner).to_owned();
            }
            if let Some(left) = names.rename(entry) {
                self.unrenamed.insert(entry.dump_id, left);
            }
        }
        let mut manifest = (*self.run.manifest).clone();
        for schema in &mut manifest.schemas {
            schema.name = names.here(&schema.name).to_owned();
            schema.owner = options.owner(&schema.owner).to_owned();
        }
        for gap in manifest.skipped.iter_mut().chain(&mut manifest.dependents) {
            gap.schema = names.here(&gap.schema).to_owned();
        }
        self.run.manifest = Arc::new(manifest);
        self.run.schemas = Arc::new(names.clone());
        options.schemas = options.schemas.iter().map(|schema| names.here(schema).to_owned()).collect();
        Ok(options)
    }
}

/// Refuses definitions that still name a schema which has another name here; with --best-effort they come as they are.
pub(crate) fn refuse(unrenamed: &HashMap<i32, String>, entries: &[&Entry], options: &Options) -> Result<()> {
    if options.best_effort {
        return Ok(());
    }
    let found = unrenamed_of(unrenamed, entries);
    let Some((_, schema)) = found.first() else { return Ok(()) };
    let shown: Vec<String> = found
        .iter()
        .take(SHOWN)
        .map(|(entry, _)| format!("{} {}", findings::kind(entry), findings::name(entry)))
        .collect();
    let more = if found.len() > SHOWN { format!(" and {} more", found.len() - SHOWN) } else { String::new() };
    Err(Error::usage(format!(
        "--rename-schema: {} use the name {schema} in a text, a body or for something else, where it cannot be replaced: {}{more}",
        if found.len() == 1 { "one definition may" } else { "definitions may" },
        shown.join(", ")
    ))
    .hint("--best-effort restores what the server takes of them, and lists them: the name in them then means the schema of that name")
    .hint("or restore into a database of its own, without --rename-schema; nothing was changed"))
}

/// The definitions that still name a schema of the run, with its saved name.
pub(crate) fn unrenamed_of<'a>(
    unrenamed: &'a HashMap<i32, String>,
    entries: &[&'a Entry],
) -> Vec<(&'a Entry, &'a str)> {
    let found = entries.iter().filter_map(|entry| Some((*entry, unrenamed.get(&entry.dump_id)?.as_str())));
    found.collect()
}
