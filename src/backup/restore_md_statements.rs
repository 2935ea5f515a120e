//! The parts of RESTORE.md's script that run statements with psql: roles, settings and rights of the database, default
//! privileges, row security before the rows. Text of others is taken apart by whole statements, never by lines: any role
//! can put line ends, quotes and psql's commands into its own settings, comments and names.

use std::collections::HashSet;

use libpgdump::{Entry, ObjectType};

use crate::backup::plan::Plan;
use crate::human::shell_quoted;
use crate::postgres::settings::LAST;
use crate::postgres::target::defaults;

/// The program that reads them.
const PROGRAM: &str = include_str!("restore_md_statements.awk");

/// The functions of the script.
pub(crate) fn functions() -> String {
    format!(
        "# Statements of roles and of the database, by whole statements; says how many were refused.\n\
         cat > \"$work/statements.awk\" <<'AWK'\n\
         {PROGRAM}\
         AWK\n\
         statements() {{ LC_ALL=C awk -f \"$work/statements.awk\" \"$@\" | psql -X -q -d \"$DB\" | wc -l; }}\n\n"
    )
}

/// The lines that make the missing roles; `print` prints their script.
pub(crate) fn roles(print: &str) -> String {
    format!(
        "# Roles that are missing; those that exist are left as they are.\n\
         psql -X -A -t -d \"$DB\" -c \"SELECT encode(textsend(rolname::text), 'hex') FROM pg_roles\" > \"$work/have\"\n\
         refused=$({print} | statements -v what=roles \"$work/have\" -)\n\
         failed=$((failed + refused))\n\n"
    )
}

/// The lines before all definitions: settings of the database, which these may need, and its default privileges, which
/// would give what they make to others.
pub(crate) fn before_definitions() -> String {
    format!(
        "# Settings of the database first, under whatever name it has now: definitions and rows may need them. Those that\n\
         # would be in the way come at the end, with rights and comment; what is refused is refused there again, and counted.\n\
         pg_restore --create -l \"$work/database.dump\" |\n  \
           LC_ALL=C grep -aE '^[0-9]+; [0-9]+ [0-9]+ (DATABASE |(ACL|COMMENT|SECURITY LABEL) - DATABASE )' > \"$work/list\" || true\n\
         pg_restore --create -L \"$work/list\" -f \"$work/database.sql\" \"$work/database.dump\" || failed=$((failed + 1))\n\
         statements -v what=database -v late='{late}' \"$work/database.sql\" > /dev/null 2>&1\n\n\
         # Default privileges that this database has already would widen those of the run: they are away meanwhile.\n\
         psql -X -A -t -q -d \"$DB\" -c {back} > \"$work/defaults.sql\"\n\
         psql -X -A -t -q -d \"$DB\" -c {away} > \"$work/without.sql\"\n\
         psql -X -q -v ON_ERROR_STOP=1 -d \"$DB\" -f \"$work/without.sql\"\n\n",
        late = LAST.join(" "),
        back = shell_quoted(&defaults::given_back()),
        away = shell_quoted(&defaults::taken_away()),
    )
}

/// The lines between definitions and rows; `list` is the list of what is restored, where there is one.
pub(crate) fn before_rows(plan: &Plan, list: bool) -> String {
    let entries = &plan.catalogue.meta.entries;
    if !entries.iter().any(|e| e.desc == ObjectType::RowSecurity) {
        return String::new();
    }
    let binds_owner = |e: &&Entry| e.defn.as_deref().unwrap_or_default().contains(" FORCE ROW LEVEL SECURITY");
    let tables: HashSet<i32> = entries.iter().filter(binds_owner).map(|e| e.dump_id).collect();
    let security = entries.iter().filter(|e| e.desc == ObjectType::RowSecurity);
    let forced = security.filter(|e| e.dependencies.first().is_some_and(|id| tables.contains(id)));
    let forced: Vec<String> = forced.map(|e| e.dump_id.to_string()).collect();
    let listed = if list { "cat \"$work/kept\"" } else { "pg_restore -l \"$work/database.dump\"" };
    let mut text = format!(
        "# Row security before the rows: nobody reads meanwhile what policies hide.\n\
         {listed} | LC_ALL=C grep -aE '^[0-9]+; [0-9]+ [0-9]+ ROW SECURITY ' > \"$work/closed\" || true\n"
    );
    if !forced.is_empty() {
        text.push_str(&format!(
            "# A role that is bound by it could load no rows: there it comes with the policies.\n\
             if [ \"$(psql -X -A -t -d \"$DB\" -c 'SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user')\" != t ]; then\n  \
               LC_ALL=C awk -F ';' -v out=' {} ' '!index(out, \" \" $1 \" \")' \"$work/closed\" > \"$work/open\" && mv \"$work/open\" \"$work/closed\"\n\
             fi\n",
            forced.join(" ")
        ));
    }
    text.push_str("[ ! -s \"$work/closed\" ] || load -L \"$work/closed\" -d \"$DB\" \"$work/database.dump\"\n\n");
    text
}

/// The lines at the end.
pub(crate) fn at_the_end() -> &'static str {
    "psql -X -q -d \"$DB\" -c ANALYZE || echo 'RESTORE.md: not all statistics were gathered; autovacuum does it in time.' >&2\n\n\
     # The default privileges that it had, beside those of the run.\n\
     psql -X -q -v ON_ERROR_STOP=1 -d \"$DB\" -f \"$work/defaults.sql\" || failed=$((failed + 1))\n\n\
     # Settings, rights and comment of the database itself.\n\
     refused=$(statements -v what=database \"$work/database.sql\")\n\
     failed=$((failed + refused))\n\n"
}
