//! The default privileges of a database as statements: those that take them away for the time of a restore, so that
//! nothing that is made gets another privilege than the run says, and those that give them back.

use crate::sql::privileges::grantee;

/// The words before `GRANT` and `REVOKE`.
const SCOPE: &str = "'ALTER DEFAULT PRIVILEGES FOR ROLE ' || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(d.defaclrole))
    || CASE WHEN d.defaclnamespace = 0 THEN '' ELSE ' IN SCHEMA ' || d.defaclnamespace::pg_catalog.regnamespace::pg_catalog.text END";

/// The things that they are about.
const WORDS: &str = "CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS'
    WHEN 'T' THEN 'TYPES' WHEN 'L' THEN 'LARGE OBJECTS' ELSE 'SCHEMAS' END";

/// The privileges that PostgreSQL itself gives: those of a schema are added to them.
const BUILT_IN: &str = "pg_catalog.aclexplode(CASE WHEN d.defaclnamespace = 0 THEN pg_catalog.acldefault(
    CASE d.defaclobjtype WHEN 'S' THEN 's' ELSE d.defaclobjtype END, d.defaclrole) END)";

/// Those that the session's role may change.
const MAY: &str = "pg_catalog.pg_has_role(d.defaclrole, 'USAGE')";

/// A query for the statements that take them away: a default privilege is gone when it says what it says by default.
#[must_use]
pub(crate) fn taken_away() -> String {
    let grantee = grantee("a");
    format!(
        "SELECT {SCOPE} || ' REVOKE ALL ON ' || {WORDS} || ' FROM ' || {grantee} || ';'
  FROM pg_catalog.pg_default_acl d, LATERAL pg_catalog.aclexplode(d.defaclacl) a WHERE {MAY}
 UNION ALL
SELECT {SCOPE} || ' GRANT ' || a.privilege_type || ' ON ' || {WORDS} || ' TO ' || {grantee} || ';'
  FROM pg_catalog.pg_default_acl d, LATERAL {BUILT_IN} a WHERE {MAY}"
    )
}

/// A query for the statements that give back what those took, beside what was given meanwhile.
#[must_use]
pub(crate) fn given_back() -> String {
    let grantee = grantee("x");
    let all =
        |step: u8, from: &str| format!("SELECT {step}, a.grantee, a.privilege_type, a.is_grantable FROM {from} a");
    let own = "pg_catalog.aclexplode(d.defaclacl)";
    format!(
        "SELECT {SCOPE} || CASE x.step WHEN 1 THEN ' REVOKE ' ELSE ' GRANT ' END || x.privilege || ' ON ' || {WORDS}
       || CASE x.step WHEN 1 THEN ' FROM ' ELSE ' TO ' END || {grantee}
       || CASE WHEN x.step = 2 AND x.grantable THEN ' WITH GRANT OPTION;' ELSE ';' END
  FROM pg_catalog.pg_default_acl d, LATERAL (({} EXCEPT {}) UNION ALL ({} EXCEPT {})) x(step, grantee, privilege, grantable)
 WHERE {MAY} ORDER BY x.step",
        all(1, BUILT_IN),
        all(1, own),
        all(2, own),
        all(2, BUILT_IN),
    )
}
