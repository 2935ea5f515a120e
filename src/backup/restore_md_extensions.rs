//! The extensions in the script of RESTORE.md: each is tried first, and left out with what belongs to it where it cannot be
//! created; the functions that some want called around a restore.

use std::collections::{BTreeSet, HashSet};

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{about_schema, namespace, of_extensions, oid, tag};
use crate::backup::plan::Plan;
use crate::format::manifest::Extension;
use crate::postgres::extensions::{Care, care};
use crate::sql::names::{literal, quote};
use crate::sql::statements::{name, statements};

/// The extensions of a run, for its script.
pub(crate) struct Extensions<'a> {
    all: Vec<One<'a>>,
    /// Schemas whose archives hold rows that may be left out.
    pub(crate) rows_of: HashSet<&'a str>,
}

struct One<'a> {
    entry: &'a Entry,
    /// The statements that make it.
    create: String,
    /// The schema of its functions, as SQL.
    schema: String,
    /// Dump ids of everything that goes with it.
    ids: Vec<i32>,
}

/// The functions of the script.
const FUNCTIONS: &str = "\
    # Extensions that cannot be created here are left out, with everything that needs them.\n\
    gone='' left=0\n\
    try() {\n  \
      psql -X -q -v ON_ERROR_STOP=1 -d \"$DB\" -c \"BEGIN; $2; ROLLBACK\" > /dev/null 2> \"$work/why\" && return\n  \
      echo \"RESTORE.md: extension $1 is left out: $(head -n 1 \"$work/why\")\" >&2\n  \
      [ -z \"$4\" ] || printf '%s\\n' \"  put these lines into postgresql.conf, restart the server, and start over:\" \"$4\" >&2\n  \
      gone=\"$gone $3\" left=$((left + 1))\n\
    }\n";

impl<'a> Extensions<'a> {
    /// Those of this plan; `saved` are their versions.
    pub(crate) fn of(plan: &'a Plan, saved: &[Extension]) -> Self {
        let entries = &plan.catalogue.meta.entries;
        let all: Vec<One<'a>> = entries
            .iter()
            .filter(|e| e.desc == ObjectType::Extension)
            .map(|entry| One::new(entry, plan, saved))
            .collect();
        let ids: HashSet<i32> = all.iter().flat_map(|one| one.ids.iter().copied()).collect();
        let rows = entries.iter().filter(|e| e.desc == ObjectType::TableData && ids.contains(&e.dump_id));
        Self { rows_of: rows.map(namespace).collect(), all }
    }

    /// The lines that try them; `database` is a shell word for the name of the database.
    pub(crate) fn tries(&self, shell_quoted: impl Fn(&str) -> String) -> String {
        if self.all.is_empty() {
            return String::new();
        }
        let mut text = FUNCTIONS.to_owned();
        for one in &self.all {
            let ids: Vec<String> = one.ids.iter().map(i32::to_string).collect();
            let lines = care(tag(one.entry)).map(|care| care.configuration("NAME OF THE DATABASE")).unwrap_or_default();
            text.push_str(&format!(
                "try {} {} {} {}\n",
                shell_quoted(tag(one.entry)),
                shell_quoted(&one.create),
                shell_quoted(&ids.join(" ")),
                shell_quoted(&lines.join("\n")),
            ));
        }
        text
    }

    /// The lines before everything else is made, and those at the end.
    pub(crate) fn around(&self, shell_quoted: impl Fn(&str) -> String) -> (String, String) {
        const SCHEMAS: &str = "'^[0-9]+; [0-9]+ [0-9]+ SCHEMA - '";
        let (mut before, mut after) = (String::new(), String::new());
        for one in &self.all {
            let Some((first, last)) = care(tag(one.entry)).and_then(|care: &Care| care.around) else { continue };
            let there = format!("[[ \" $gone \" == *\" {} \"* ]] ||", one.entry.dump_id);
            let call = |function: &str| shell_quoted(&format!("SELECT {}.{function}()", one.schema));
            if before.is_empty() {
                before.push_str(&format!(
                    "# These want to know of a restore before anything else than schemas is made.\n\
                     LC_ALL=C grep -aE {SCHEMAS} \"$work/kept\" > \"$work/schemas\" || true\n\
                     load -L \"$work/schemas\" --section=pre-data -d \"$DB\" \"$work/database.dump\"\n\
                     LC_ALL=C grep -avE {SCHEMAS} \"$work/kept\" > \"$work/others\" && mv \"$work/others\" \"$work/kept\"\n"
                ));
            }
            let psql = "psql -X -q -v ON_ERROR_STOP=1 -o /dev/null -d \"$DB\"";
            let create = shell_quoted(&one.create);
            before.push_str(&format!("{there} {psql} -c {create} -c {}\n", call(first)));
            after.push_str(&format!("{there} {psql} -c {}\n", call(last)));
        }
        (before, after)
    }
}

impl<'a> One<'a> {
    fn new(entry: &'a Entry, plan: &Plan, saved: &[Extension]) -> Self {
        let entries = &plan.catalogue.meta.entries;
        let extension = tag(entry);
        let statement = statements(entry.defn.as_deref().unwrap_or_default()).first().copied().unwrap_or_default();
        let schema = statement.split_once(" WITH SCHEMA ").and_then(|(_, rest)| name(rest)).map(|(schema, _)| schema);
        let same = care(extension).is_some_and(|care| care.same_version);
        let version = saved.iter().find(|one| same && one.name == extension);
        let version = version.map_or_else(String::new, |one| format!(" VERSION {}", literal(&one.version)));
        let own = schema.as_deref().filter(|name| !name.starts_with("pg_") && *name != "public");
        let own = own.map_or_else(String::new, |name| format!("CREATE SCHEMA IF NOT EXISTS {}; ", quote(name)));
        let mut ids: Vec<i32> = of(entry, plan, entries).into_iter().collect();
        ids.sort_unstable();
        Self {
            entry,
            create: format!("{own}{statement}{version} CASCADE"),
            schema: quote(&schema.unwrap_or_default()),
            ids,
        }
    }
}

/// Dump ids of everything that goes with an extension.
fn of(entry: &Entry, plan: &Plan, entries: &[Entry]) -> HashSet<i32> {
    let extension = tag(entry);
    let is_of = |table: &crate::backup::plan::PlannedTable| table.extension.as_deref() == Some(extension);
    let theirs = plan.schemas.iter().filter(|s| s.tables.iter().any(is_of) && s.tables.iter().all(is_of));
    let theirs: HashSet<&str> = theirs.map(|s| s.name.as_str()).collect();
    let mut ids = of_extensions(entries, &BTreeSet::from([extension]), &theirs);
    // Privileges on its members, which no entry makes: known by a schema that is in nobody else's reach.
    let (own, others): (Vec<_>, Vec<_>) = plan.reach.iter().partition(|reach| reach.oid == oid(entry));
    let schemas = own.iter().flat_map(|reach| &reach.schemas);
    let schemas: HashSet<&String> =
        schemas.filter(|name| !others.iter().any(|reach| reach.schemas.contains(*name))).collect();
    let made: HashSet<i32> = entries.iter().map(|e| e.dump_id).collect();
    let is_attached = |e: &&Entry| {
        matches!(e.desc, ObjectType::Acl | ObjectType::Comment | ObjectType::SecurityLabel)
            && !e.dependencies.first().is_some_and(|id| made.contains(id))
            && schemas.iter().any(|name| {
                namespace(e) == name.as_str() || about_schema(e).is_some_and(|schema| schema == name.as_str())
            })
    };
    ids.extend(entries.iter().filter(is_attached).map(|e| e.dump_id));
    ids
}
