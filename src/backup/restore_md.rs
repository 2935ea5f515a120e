//! RESTORE.md: how to restore this very run with the stock tools only. Its one `bash` block is a complete script that a
//! test executes verbatim. The script goes on after a statement that fails, counts, and ends with a code that says so;
//! no reader of a pipe stops before its end, so that nobody upstream dies of it.

use std::collections::HashSet;

use libpgdump::ObjectType;

use crate::archive::catalogue::{namespace, with_dependents};
use crate::backup::plan::Plan;
use crate::backup::restore_md_extensions::Extensions;
use crate::backup::restore_md_statements;
use crate::backup::run::Run;
use crate::format::manifest::{Object, Omitted, Schema, Skipped};
use crate::human::{self, shell_quoted};
use crate::postgres::settings;
use crate::postgres::source::leader::Leader;
use crate::seal::compress::Compression;
use crate::sql::names::in_comment;

/// The facts of the text.
pub(crate) struct Facts<'a> {
    pub(crate) run: &'a Run,
    pub(crate) leader: &'a Leader,
    pub(crate) plan: &'a Plan,
    pub(crate) schemas: &'a [Schema],
    pub(crate) roles: &'a Object,
    pub(crate) passwords: bool,
    pub(crate) database: &'a Object,
    pub(crate) large_objects: Option<&'a Object>,
    pub(crate) skipped: &'a [Skipped],
    pub(crate) omitted: &'a [Omitted],
}

/// The text.
pub(crate) fn compose(facts: &Facts<'_>) -> String {
    let server = &facts.leader.detection.server;
    let (run, target) = (&facts.run.name, &facts.run.target);
    let mut text = format!(
        "# Restore run {run}\n\n\
         Database `{}` of a PostgreSQL {} server, saved {} by pgstow {} with pg_dump {}.\n\n\
         With pgstow: `pgstow download {run}{identity}` fetches and verifies everything. Without it, everything below works with\n\
         psql and pg_restore (version {} or newer){}{} alone.\n\n",
        in_comment(&server.database),
        in_comment(&server.version),
        facts.run.started.strftime("%Y-%m-%d %H:%M:%S UTC"),
        env!("CARGO_PKG_VERSION"),
        facts.run.tools.version,
        facts.run.tools.major,
        match target.compression {
            Compression::Zstd(_) => " and zstd",
            Compression::Gzip(_) => " and gzip",
            Compression::None => "",
        },
        if target.recipients.is_some() { " and age" } else { "" },
        identity = if target.recipients.is_some() { " --identity FILE" } else { "" },
    );
    if facts.run.options.form.signing_key.is_some() {
        text.push_str(
            "The run is signed. `manifest.json.minisig` is the signature of `manifest.json`, which contains the SHA-256 of\n\
             every file, of this page too. With the public key that you have from its owner, not from this store:\n\n\
             ```\nminisign -V -P RW... -m manifest.json\n```\n\n",
        );
    }
    if let Some(recipients) = &target.recipients {
        text.push_str(
            "Everything but this page and `manifest.json` is encrypted with [age](https://age-encryption.org). The file\n\
             with the secret key of one of these public keys opens it; without one nothing can be read:\n\n",
        );
        for name in recipients.names() {
            text.push_str(&format!("- `{name}`\n"));
        }
        text.push('\n');
    }
    text.push_str(&fetch(facts));
    text.push_str(&script(facts));
    text.push_str(&parts(facts));
    text.push_str(&gaps(facts));
    text.push_str(&checksums(facts));
    text
}

fn fetch(facts: &Facts<'_>) -> String {
    let store = &facts.run.target.store;
    let (place, run) = (store.describe(), &facts.run.name);
    let how = if store.local_path().is_some() {
        format!("They are in `{place}/runs/{run}`.\n\n")
    } else {
        let endpoint = store.endpoint().map(|url| format!(" --endpoint-url {}", shell_quoted(url))).unwrap_or_default();
        format!("For example:\n\n    aws s3 cp{endpoint} --recursive {place}/runs/{run}/ ./{run}/\n\n")
    };
    let mut text = format!(
        "## 1. The files\n\nPut the files of this run into a folder, keeping their names. {how}\
         Compare them, in that folder, with the SHA-256 at the end of this page before you trust them:\n\n    \
         sed -n '/^```sha256$/,/^```$/{{/^```/!p;}}' RESTORE.md | sha256sum --quiet -c\n\n"
    );
    if facts.run.target.max_object_bytes.is_some() {
        text.push_str(
            "Files whose names end in a number are volumes of one file, cut to stay below a limit of the store: put\n\
             together in order (`cat name.001 name.002 ...`), they are that file.\n\n",
        );
    }
    text
}

/// The SHA-256 of every file but this page and the manifest, as `sha256sum -c` reads them.
fn checksums(facts: &Facts<'_>) -> String {
    let tables = facts.schemas.iter().flat_map(|schema| {
        let tables = schema.tables.iter().flat_map(|table| std::iter::once(&table.file).chain(&table.index));
        std::iter::once(&schema.dump).chain(tables)
    });
    let objects = [facts.roles, facts.database].into_iter().chain(facts.large_objects).chain(tables);
    let mut text = String::from("## 5. SHA-256\n\n```sha256\n");
    for volume in objects.flat_map(Object::volumes) {
        text.push_str(&format!("{}  {}\n", volume.sha256, volume.key));
    }
    text.push_str("```\n");
    text
}

/// The command that prints the plain content of an object; `$RUN` is the folder, `$KEY` the file with the secret key.
fn print(facts: &Facts<'_>, object: &Object) -> String {
    let (target, key) = (&facts.run.target, object.whole_key());
    let file = format!("\"$RUN/{key}\"");
    let mut steps = Vec::new();
    if !object.volumes.is_empty() {
        // Named by `seq`, not by a pattern: the shell's order of names is not that of numbers from 1000 on.
        steps.push(format!("(cd \"$RUN\" && seq -f '{key}.%03.0f' 1 {} | xargs cat)", object.volumes.len()));
    }
    let argument = |steps: &Vec<String>| if steps.is_empty() { format!(" {file}") } else { String::new() };
    if target.recipients.is_some() {
        steps.push(format!("age -d -i \"$KEY\"{}", argument(&steps)));
    }
    match target.compression {
        Compression::Zstd(_) => steps.push(format!("zstd -qdc{}", argument(&steps))),
        Compression::Gzip(_) => steps.push(format!("gzip -dc{}", argument(&steps))),
        Compression::None if steps.is_empty() => steps.push(format!("cat {file}")),
        Compression::None => {}
    }
    steps.join(" | ")
}

/// The script that restores the whole database.
fn script(facts: &Facts<'_>) -> String {
    let left_out = LeftOut::of(facts.plan);
    let extensions = Extensions::of(facts.plan, &facts.leader.detection.extensions);
    let (before, after) = extensions.around(shell_quoted);
    let (list, kept) = left_out.list(facts.plan);
    let mut sh = definitions(facts, &extensions, &(list + &before), kept);
    rows(facts, &left_out, &extensions, &mut sh);
    sh.push_str(&rest(facts, &left_out, kept, &after));
    sh
}

/// The script up to the rows: checks, roles and definitions.
fn definitions(facts: &Facts<'_>, extensions: &Extensions<'_>, list: &str, kept: &str) -> String {
    let encrypted = facts.run.target.recipients.is_some();
    let (key_named, key_wanted) = if encrypted {
        (
            ", and the file with the secret key as `KEY`",
            ": \"${KEY:?file with the secret key (AGE-SECRET-KEY-1...)}\"\n",
        )
    } else {
        ("", "")
    };
    format!(
        "## 2. The whole database\n\n\
         Make an empty database on a server with the same extensions available, and give its connection string as\n\
         `DB`, the folder as `RUN`{key_named}. The role should be a superuser.\n\n\
         ```bash\n\
         set -Eeuo pipefail\n\
         : \"${{RUN:?folder with the files of this run}}\"\n\
         : \"${{DB:?connection string of the empty database}}\"\n{key_wanted}\
         export PGOPTIONS='{options}' PGCLIENTENCODING=UTF8\n\
         work=$(mktemp -d) failed=0\n\
         trap 'rm -rf \"$work\"' EXIT\n\
         trap 'echo \"RESTORE.md: stopped at line $LINENO of the script: $BASH_COMMAND\" >&2\n  \
           echo \"Mend the cause, drop the database and make it again (roles may stay), and run all of this again.\" >&2' ERR\n\
         # One step; what PostgreSQL refuses of it is counted, and the others go on. The rest of a pipe is read to its end.\n\
         load() {{ pg_restore \"$@\" || failed=$((failed + 1)); }}\n\
         piped() {{ local code=0; pg_restore \"$@\" || code=$?; cat > /dev/null; return \"$code\"; }}\n\
         {functions}\
         # A second restore on top of a first one would double its rows.\n\
         if [ \"$(psql -X -A -t -d \"$DB\" -c \"{NOT_EMPTY}\")\" = t ]; then\n  \
           echo 'RESTORE.md: the database has tables already: drop it, make it again, and run all of this again.' >&2\n  \
           exit 1\n\
         fi\n\n\
         {roles}\
         {database} > \"$work/database.dump\"\n\
         {first}\
         # Definitions: extensions, schemas, types, functions, tables.\n\
         {tries}{list}\
         load{kept} --section=pre-data -d \"$DB\" \"$work/database.dump\"\n\n\
         {closed}\
         # Rows, schema by schema, those with rows of extensions first. Not in parallel: these rows need their order.\n",
        options = settings::for_every_server(),
        functions = restore_md_statements::functions(),
        roles = restore_md_statements::roles(&print(facts, facts.roles)),
        first = restore_md_statements::before_definitions(),
        closed = restore_md_statements::before_rows(facts.plan, !kept.is_empty()),
        database = print(facts, facts.database),
        tries = extensions.tries(shell_quoted),
    )
}

/// Keeps what the list of kept entries names.
const KEPT: &str = " -L \"$work/kept-rows\"";

/// The part of the script that loads rows and large objects.
fn rows(facts: &Facts<'_>, left_out: &LeftOut<'_>, extensions: &Extensions<'_>, sh: &mut String) {
    for schema in facts.plan.rows_in_order.iter().filter_map(|number| facts.schemas.get(*number)) {
        let print = print(facts, &schema.dump);
        let name = schema.name.as_str();
        // -Fc: pg_restore would open the pipe twice to find out the format.
        let list = format!("pg_restore -Fc -l <({print}) | kept > \"$work/kept-rows\"");
        let load = |kept: &str| format!("{print} | piped{kept} --section=data -d \"$DB\" || failed=$((failed + 1))");
        sh.push_str(&if left_out.rows_of.contains(name) {
            format!("{list}\n{}\n", load(KEPT))
        } else if extensions.rows_of.contains(name) {
            format!("if [ -n \"$gone\" ]; then\n  {list}\n  {}\nelse\n  {}\nfi\n", load(KEPT), load(""))
        } else {
            load("") + "\n"
        });
    }
    if let Some(object) = facts.large_objects {
        let print = print(facts, object);
        sh.push_str(&format!("\n# Large objects.\n{print} | piped -d \"$DB\" || failed=$((failed + 1))\n"));
    }
}

/// The script after the rows.
fn rest(facts: &Facts<'_>, left_out: &LeftOut<'_>, kept: &str, after: &str) -> String {
    format!(
        "\n# Sequence values, then indexes, constraints, triggers, policies, materialised views.\n\
         load{kept} --section=data -d \"$DB\" \"$work/database.dump\"\n\
         {silence}load{kept} --section=post-data{jobs} -d \"$DB\" \"$work/database.dump\"\n{after}\n\
         {end}\
         # The end: 0 only when everything is there, 3 when a part is not.\n\
         if [ \"$failed\" -gt 0 ]; then\n  \
           echo \"RESTORE.md: $failed steps had errors, named above; everything else is restored.\" >&2\n  \
           echo \"Run the refused statements by hand; or mend the cause, drop the database and make it again, and start over.\" >&2\n  \
           exit 3\n\
         fi\n\
         {left_out_end}{extensions_end}```\n\n\
         Rows that had to be erased since it was made (requests of persons, GDPR Art. 17) are in this run: erase them, and what\n\
         refers to them, before anybody uses the database. `pgstow restore --forget LIST` does that; `pgstow manual restore`\n\
         has the statements for doing it by hand.\n\n",
        left_out_end = left_out.end(),
        extensions_end = if facts.plan.has_extensions() { "[ \"$left\" -eq 0 ] || exit 3\n" } else { "" },
        jobs = post_data_jobs(facts),
        silence = if facts.plan.event_triggers { SILENCE } else { "" },
        end = restore_md_statements::at_the_end(),
    )
}

/// The saved objects that cannot be restored because they depend on objects that this run does not contain.
struct LeftOut<'a> {
    /// Dump ids, which are the same in every archive of a run; ascending.
    ids: Vec<i32>,
    /// Schemas whose archives hold rows of such tables.
    rows_of: HashSet<&'a str>,
}

impl<'a> LeftOut<'a> {
    fn of(plan: &'a Plan) -> Self {
        let entries = &plan.catalogue.meta.entries;
        let mut out: HashSet<i32> = plan.dependents.iter().flat_map(|gap| &gap.entries).copied().collect();
        with_dependents(entries, &mut out);
        let rows = entries.iter().filter(|e| e.desc == ObjectType::TableData && out.contains(&e.dump_id));
        let rows_of = rows.map(namespace).collect();
        let mut ids: Vec<i32> = out.into_iter().collect();
        ids.sort_unstable();
        Self { ids, rows_of }
    }

    /// The lines of the script that list what `@database.dump` holds beside them, and the option that gives the list
    /// to `pg_restore`; nothing where there is nothing to leave out.
    fn list(&self, plan: &Plan) -> (String, &'static str) {
        if self.ids.is_empty() && !plan.has_extensions() {
            return (String::new(), "");
        }
        let joined = |ids: Vec<String>| ids.join(" ");
        let late = joined(plan.late.iter().map(i32::to_string).collect());
        let (late_named, late_kept) = if late.is_empty() {
            (String::new(), "!($1 in gone)")
        } else {
            // What needs a table that CREATE EXTENSION does not make comes behind it.
            let named = format!("-v late=\"{late}\" ");
            (
                named,
                "!($1 in gone) { if (index(\" \" late \" \", \" \" $1 \" \")) last = last $0 \"\\n\"; else print } END { printf \"%s\", last }",
            )
        };
        let lines = format!(
            "# Without what depends on what this run does not hold (see 4), or on an extension that is not here.\n\
             kept() {{\n  \
               awk -F ';' {late_named}-v out=\"{} ${{gone:-}}\" 'BEGIN {{ n = split(out, ids, \" \"); for (i = 1; i <= n; i++) gone[ids[i]] }} {late_kept}'\n\
             }}\n\
             pg_restore -l \"$work/database.dump\" | kept > \"$work/kept\"\n",
            joined(self.ids.iter().map(i32::to_string).collect())
        );
        (lines, " -L \"$work/kept\"")
    }
}

impl LeftOut<'_> {
    /// The last lines of the script: a database without everything is no success.
    fn end(&self) -> String {
        if self.ids.is_empty() {
            return String::new();
        }
        format!(
            "echo \"RESTORE.md: {} objects of this run were left out, as they depend on what it does not contain: see 4.\" >&2\n\
             exit 3\n",
            self.ids.len()
        )
    }
}

/// The question for tables that no extension owns.
const NOT_EMPTY: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c \
    WHERE c.relkind IN ('r', 'p') AND c.oid >= 16384 AND c.relnamespace >= 2200 AND c.relpersistence <> 't' \
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e'))";

/// Event triggers that extensions brought would see every statement of post-data, and may refuse some.
const SILENCE: &str = "\
    # Event triggers of extensions stay silent meanwhile, where the role is a superuser.\n\
    if [ \"$(psql -X -A -t -d \"$DB\" -c 'SHOW is_superuser')\" = on ]; then\n  \
      PGOPTIONS=\"$PGOPTIONS -c session_replication_role=replica\"\n\
    fi\n";

/// Post-data runs in parallel unless indexes of partitions are attached: two `ALTER INDEX ... ATTACH PARTITION` of one
/// tree at the same moment can both see the parent as incomplete and leave it invalid, and then a foreign key to it
/// fails (seen with PostgreSQL 15, three levels of partitions, pg_restore -j 4). Nor where event triggers of extensions
/// fire, whose locks two sessions can deadlock on (seen with those of the extension periods).
fn post_data_jobs(facts: &Facts<'_>) -> &'static str {
    let attached = facts.plan.catalogue.meta.entries.iter().any(|e| e.desc == libpgdump::ObjectType::IndexAttach);
    if attached || facts.plan.event_triggers { "" } else { " -j 4" }
}

fn parts(facts: &Facts<'_>) -> String {
    let suffix = facts.run.target.suffix();
    let mut text = format!(
        "## 3. Parts of it\n\n\
         One table with its rows, indexes, constraints, policies and grants (types, functions and tables it refers to\n\
         must exist): `<schema>/<table>.sql{suffix}`, for psql. One schema with its rows: `<schema>.dump{suffix}`, for\n\
         pg_restore. What a schema's archive needs from elsewhere:\n\n"
    );
    for schema in facts.schemas {
        let needs = if schema.needs.is_empty() { "nothing".to_owned() } else { schema.needs.join(", ") };
        text.push_str(&format!("- `{}`: {}\n", schema.dump.whole_key(), in_comment(&needs)));
    }
    if let Some(schema) = facts.schemas.first() {
        text.push_str(&format!(
            "\nThis prints the plain archive of the first one:\n\n    {}\n",
            print(facts, &schema.dump)
        ));
    }
    text.push('\n');
    text
}

fn gaps(facts: &Facts<'_>) -> String {
    let mut text = String::from("## 4. What is not in this run\n\n");
    if !facts.passwords {
        text.push_str("- role passwords: the role that made the backup may not read `pg_authid`. Set them with `ALTER ROLE ... PASSWORD`.\n");
    }
    for skipped in facts.skipped {
        let name = in_comment(&skipped.display_name());
        text.push_str(&format!("- {} `{name}`: {}\n", skipped.kind, in_comment(&skipped.reason)));
    }
    if !facts.plan.dependents.is_empty() {
        text.push_str(
            "\nThese are in the run, but depend on what is not. The script above leaves them out, as `pgstow restore` does: \
             restoring them ends with the errors given here.\n\n",
        );
    }
    for dependent in &facts.plan.dependents {
        let name = in_comment(&dependent.name);
        text.push_str(&format!("- {} `{name}`: {}\n", dependent.kind, in_comment(&dependent.reason)));
    }
    let omitted = facts.omitted.iter().map(|o| (&*o.kind, format!("`{}`", in_comment(&o.name)), &*o.reason));
    for line in human::grouped(omitted, usize::MAX) {
        text.push_str(&format!("- {line}\n"));
    }
    if facts.plan.skipped.is_empty() && facts.omitted.is_empty() && facts.skipped.is_empty() && facts.passwords {
        text.push_str("Nothing that was found.\n");
    }
    text
}
