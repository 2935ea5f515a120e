//! Statements that take away what default privileges gave a new object: privileges in a dump are written as changes of
//! those that PostgreSQL itself gives.

use crate::sql::names::literal;

/// The grantee of an `aclexplode` with this alias, as SQL writes it as a name.
pub(crate) fn grantee(of: &str) -> String {
    format!(
        "CASE {of}.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid({of}.grantee)) END"
    )
}

/// A statement that gives a new object of the session's role the privileges that PostgreSQL itself gives, whatever the
/// default privileges are: what a dump says of privileges begins from there. `word` is what `GRANT ... ON` calls it
/// (`TABLE`, `SEQUENCE`, `TYPE`, `SCHEMA`; `ROUTINE` is every routine of the open transaction), `name` its name as SQL;
/// `None` for what has no privileges of its own.
#[must_use]
pub(crate) fn plain_privileges(word: &str, name: &str) -> Option<String> {
    let (catalogue, acl, owner, cast, letter) = match word {
        "TABLE" => ("pg_class", "relacl", "relowner", "regclass", "r"),
        "SEQUENCE" => ("pg_class", "relacl", "relowner", "regclass", "s"),
        "ROUTINE" => ("pg_proc", "proacl", "proowner", "", "f"),
        "TYPE" => ("pg_type", "typacl", "typowner", "regtype", "T"),
        "SCHEMA" => ("pg_namespace", "nspacl", "nspowner", "regnamespace", "n"),
        _ => return None,
    };
    let (mut on, mut which) =
        (literal(&format!("{word} {name}")), format!("o.oid = {}::pg_catalog.{cast}", literal(name)));
    if word == "ROUTINE" {
        // Argument names and modes keep a routine's name from being looked up: it is the one this transaction made.
        "'ROUTINE ' || o.oid::pg_catalog.regprocedure::pg_catalog.text".clone_into(&mut on);
        "o.xmin = pg_catalog.pg_current_xact_id()::pg_catalog.xid".clone_into(&mut which);
    }
    let grantee = grantee("a");
    Some(anonymous(&format!(
        "DECLARE s pg_catalog.text; BEGIN
          FOR s IN SELECT x.sql FROM pg_catalog.{catalogue} o, LATERAL (
              SELECT 1, 'REVOKE ALL ON ' || {on} || ' FROM ' || {grantee}
                FROM pg_catalog.aclexplode(o.{acl}) a
              UNION SELECT 2, 'GRANT ' || a.privilege_type || ' ON ' || {on} || ' TO ' || {grantee}
                FROM pg_catalog.aclexplode(pg_catalog.acldefault('{letter}', o.{owner})) a) x(step, sql)
            WHERE {which} AND o.{acl} IS NOT NULL ORDER BY x.step, x.sql
          LOOP EXECUTE s; END LOOP; END;"
    )))
}

/// As [`plain_privileges`], of a table and the sequences that belong to it.
#[must_use]
pub(crate) fn plain_table_privileges(name: &str) -> String {
    let table = format!("{}::pg_catalog.regclass", literal(name));
    let on =
        "CASE o.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || o.oid::pg_catalog.regclass::pg_catalog.text";
    let grantee = grantee("a");
    anonymous(&format!(
        "DECLARE s pg_catalog.text; BEGIN
          FOR s IN SELECT x.sql FROM pg_catalog.pg_class o, LATERAL (
              SELECT 1, 'REVOKE ALL ON ' || {on} || ' FROM ' || {grantee} FROM pg_catalog.aclexplode(o.relacl) a
              UNION SELECT 2, 'GRANT ' || a.privilege_type || ' ON ' || {on} || ' TO ' || {grantee}
                FROM pg_catalog.aclexplode(pg_catalog.acldefault(CASE o.relkind WHEN 'S' THEN 's'::\"char\" ELSE 'r' END, o.relowner)) a) x(step, sql)
            WHERE o.relacl IS NOT NULL AND (o.oid = {table} OR o.relkind = 'S' AND o.oid IN (
              SELECT d.objid FROM pg_catalog.pg_depend d WHERE d.classid = 1259 AND d.refclassid = 1259
                 AND d.refobjid = {table} AND d.deptype IN ('a', 'i'))) ORDER BY o.oid, x.step, x.sql
          LOOP EXECUTE s; END LOOP; END;"
    ))
}

/// A block as a statement: in quotes, which no name in it can leave.
fn anonymous(block: &str) -> String {
    format!("DO {};", literal(block))
}
