//! A database whose platform owns part of it (a Supabase project) as a role that is no superuser sees it: what is
//! there, what the role may do with it, and what the platform's default privileges do to new objects.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;
use crate::postgres::query::{Lossy, execute, strings};
use crate::sql::letters::sendable;
use crate::sql::names::{TableName, literal, quote};

/// A schema of the target.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    /// True when the role may act as its owner.
    pub(crate) owned: bool,
    /// True when the role may make objects in it.
    pub(crate) creatable: bool,
    /// True when an extension owns it.
    pub(crate) extension: bool,
}

/// A column that can be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    /// Its name.
    pub(crate) name: String,
    /// True when the server computes it.
    pub(crate) generated: bool,
}

/// A table of the target.
#[allow(clippy::struct_excessive_bools, reason = "independent facts about a table, not states")]
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// True when an extension owns it.
    pub(crate) extension: bool,
    /// True when row-level security is on.
    pub(crate) row_security: bool,
    /// True when the role may insert rows.
    pub(crate) fillable: bool,
    /// True when the role may remove its rows.
    pub(crate) emptyable: bool,
    /// Its columns, in order.
    pub(crate) columns: Vec<Column>,
}

/// The rights that the session's role has as another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reach {
    /// It may act as that role.
    pub(crate) member: bool,
    /// That role is a superuser.
    pub(crate) superuser: bool,
}

/// The target as the role sees it.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    /// The role of the session.
    pub(crate) role: String,
    /// True when it may make schemas.
    pub(crate) creates_schemas: bool,
    /// Schemas by name.
    pub(crate) schemas: BTreeMap<String, Schema>,
    /// Tables, ordinary and partitioned.
    pub(crate) tables: BTreeMap<TableName, Table>,
    /// The existing objects: kind, schema (empty for an object outside of schemas), name. As [`target::known`], and
    /// `trigger`, `policy`, `constraint` and `rule` named `table name`, `publication`, `published` (publication as
    /// schema, `schema.table` as name), `event trigger`, `wrapper`, `language`.
    pub(crate) known: BTreeSet<(String, String, String)>,
    /// Roles by name.
    pub(crate) roles: BTreeMap<String, Reach>,
    /// True when objects that the role makes get other privileges than PostgreSQL's own.
    pub(crate) default_privileges: bool,
}

impl Project {
    /// True when there is such a thing (see [`Project::known`]).
    #[must_use]
    pub(crate) fn has(&self, kind: &str, schema: &str, name: &str) -> bool {
        self.known.contains(&(kind.to_owned(), schema.to_owned(), name.to_owned()))
    }

    /// True when the role may act as that one.
    #[must_use]
    pub(crate) fn is(&self, role: &str) -> bool {
        role == self.role || self.roles.get(role).is_some_and(|reach| reach.member)
    }
}

/// Reads the state of the target.
///
/// # Errors
/// A connection that broke.
pub(crate) async fn project(session: &Session) -> Result<Project> {
    let client = &session.client;
    let failed = |e: tokio_postgres::Error| failure(&e).context("read the project");
    let row = client
        .query_one(
            "SELECT current_user::pg_catalog.text,
                    pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
                    EXISTS (SELECT FROM pg_catalog.pg_default_acl WHERE pg_catalog.pg_has_role(defaclrole, 'MEMBER'))",
            &[],
        )
        .await
        .map_err(failed)?;
    let (role, creates_schemas, default_privileges) = (row.get(0), row.get(1), row.get(2));
    let sql = "SELECT nspname::pg_catalog.text, pg_catalog.pg_has_role(nspowner, 'MEMBER'),
                      pg_catalog.has_schema_privilege(n.oid, 'CREATE'),
                      EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 2615 AND d.objid = n.oid AND d.deptype = 'e')
                 FROM pg_catalog.pg_namespace n WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'";
    let rows = client.query_typed(sql, &[]).await.map_err(failed)?;
    let schema = |row: &tokio_postgres::Row| {
        (row.get(0), Schema { owned: row.get(1), creatable: row.get(2), extension: row.get(3) })
    };
    let schemas = rows.iter().map(schema).collect();
    // From 16 on a member may be one that cannot act as the role.
    let may = if session.server_version_num() >= 160_000 { "SET" } else { "MEMBER" };
    let sql = format!(
        "SELECT rolname::pg_catalog.text, pg_catalog.pg_has_role(oid, '{may}'), rolsuper FROM pg_catalog.pg_roles"
    );
    let rows = client.query_typed(&sql, &[]).await.map_err(failed)?;
    let roles = rows
        .iter()
        .map(|row| (row.get::<_, Lossy>(0).0, Reach { member: row.get(1), superuser: row.get(2) }))
        .collect();
    Ok(Project {
        role,
        creates_schemas,
        schemas,
        tables: tables(session).await?,
        known: known(session).await?,
        roles,
        default_privileges,
    })
}

async fn tables(session: &Session) -> Result<BTreeMap<TableName, Table>> {
    let sql = "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
                      EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 1259 AND d.objid = c.oid AND d.deptype = 'e'),
                      c.relrowsecurity, a.attname::pg_catalog.text, a.attgenerated <> '',
                      pg_catalog.has_any_column_privilege(c.oid, 'INSERT'),
                      pg_catalog.has_table_privilege(c.oid, 'DELETE') OR pg_catalog.has_table_privilege(c.oid, 'TRUNCATE')
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
                ORDER BY c.oid, a.attnum";
    let rows =
        session.client.query_typed(sql, &[]).await.map_err(|e| failure(&e).context("read the project's tables"))?;
    let mut tables: BTreeMap<TableName, Table> = BTreeMap::new();
    for row in rows {
        let fresh = || Table {
            extension: row.get(2),
            row_security: row.get(3),
            fillable: row.get(6),
            emptyable: row.get(7),
            columns: Vec::new(),
        };
        let table =
            tables.entry(TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).or_insert_with(fresh);
        if let Some(name) = row.get(4) {
            table.columns.push(Column { name, generated: row.get(5) });
        }
    }
    Ok(tables)
}

async fn known(session: &Session) -> Result<BTreeSet<(String, String, String)>> {
    let mut known = crate::postgres::target::known(session).await?;
    let of_table = "JOIN pg_catalog.pg_class c ON c.oid = r JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace";
    let sql = format!(
        "SELECT kind, nspname::pg_catalog.text, relname || ' ' || name FROM (
            SELECT 'trigger', tgrelid, tgname FROM pg_catalog.pg_trigger WHERE NOT tgisinternal
            UNION ALL SELECT 'policy', polrelid, polname FROM pg_catalog.pg_policy
            UNION ALL SELECT 'constraint', conrelid, conname FROM pg_catalog.pg_constraint WHERE conrelid <> 0
            UNION ALL SELECT 'rule', ev_class, rulename FROM pg_catalog.pg_rewrite) x(kind, r, name) {of_table}
         UNION SELECT 'publication', '', pubname::pg_catalog.text FROM pg_catalog.pg_publication
         UNION SELECT 'published', p.pubname::pg_catalog.text, n.nspname || '.' || c.relname
                 FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
                 JOIN pg_catalog.pg_class c ON c.oid = r.prrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         UNION SELECT 'event trigger', '', evtname::pg_catalog.text FROM pg_catalog.pg_event_trigger
         UNION SELECT 'wrapper', '', fdwname::pg_catalog.text FROM pg_catalog.pg_foreign_data_wrapper
         UNION SELECT 'language', '', lanname::pg_catalog.text FROM pg_catalog.pg_language"
    );
    let rows = session.client.query_typed(&sql, &[]).await.map_err(|e| failure(&e).context("read the project"))?;
    known.extend(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))));
    Ok(known)
}

/// Times a transaction that another one stood in the way of is begun again.
const AGAIN: u32 = 5;

/// True for a deadlock or a conflict with another session: the same statement may go through when it is tried again.
pub(crate) fn is_passing(error: &Error) -> bool {
    error.is_sqlstate("40P01") || error.is_sqlstate("40001")
}

/// Runs statements in one transaction; it leaves the session usable when they are refused. A deadlock with a session of
/// the platform is tried again.
///
/// # Errors
/// The server's.
pub(crate) async fn transaction(session: &Session, sql: &str, doing: &str) -> Result<()> {
    let mut tries = 0;
    let sql = sendable(sql, session.encoding());
    loop {
        let done = execute(session, &format!("BEGIN;\n{sql}\n;COMMIT"), doing).await;
        let Err(error) = &done else { return done };
        if error.sqlstate().is_none() {
            return done;
        }
        let again = is_passing(error);
        execute(session, "ROLLBACK", doing).await?;
        tries += 1;
        if !again || tries > AGAIN {
            return done;
        }
    }
}

/// At most four objects of a schema that no extension owns, as text.
///
/// # Errors
/// A connection that broke.
pub(crate) async fn contents(session: &Session, schema: &str) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT pg_catalog.pg_describe_object(d.classid, d.objid, 0) {} AND d.classid <> 826 LIMIT 4",
        in_schema(schema)
    );
    strings(&session.client, &sql, "read the contents of the schemas").await
}

/// `FROM ... WHERE` of what is in a schema and not an extension's.
fn in_schema(schema: &str) -> String {
    format!(
        "FROM pg_catalog.pg_depend d WHERE d.refclassid = 2615 AND d.deptype = 'n' AND d.objid >= 16384 AND d.classid <> 3079
            AND d.refobjid = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = {})
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e')",
        literal(schema)
    )
}

/// Removes what an unfinished restore made in these schemas. Those that were there before it stay.
///
/// # Errors
/// An object that could not be removed.
pub(crate) async fn wipe(session: &Session, made: &[String], kept: &[String]) -> Result<()> {
    let doing = "remove an unfinished restore";
    execute(session, "SET client_min_messages = error", doing).await?;
    for schema in kept {
        let sql = format!(
            "SELECT 'DROP ' || pg_catalog.replace(i.type, 'statistics object', 'statistics') || ' IF EXISTS ' || i.identity || ' CASCADE'
               FROM (SELECT d.classid, d.objid {}) d, LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, 0) i
              WHERE i.type NOT IN ('default acl', 'index')",
            in_schema(schema)
        );
        for drop in strings(&session.client, &sql, doing).await? {
            execute(session, &drop, &format!("{doing} ({drop})")).await?;
        }
    }
    for schema in made {
        let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", quote(schema));
        execute(session, &drop, &format!("{doing} ({drop})")).await?;
    }
    execute(session, "RESET client_min_messages", doing).await
}

/// Removes those of these large objects that are there.
///
/// # Errors
/// The server's.
pub(crate) async fn unlink(session: &Session, oids: &[u32]) -> Result<()> {
    let sql = "SELECT pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata WHERE oid = ANY($1)";
    let done = session.client.query(sql, &[&oids]).await;
    done.map(drop).map_err(|e| failure(&e).context("remove an unfinished restore"))
}

/// Which of these large objects are there.
///
/// # Errors
/// A connection that broke.
pub(crate) async fn large_objects(session: &Session, oids: &[u32]) -> Result<Vec<u32>> {
    let sql = "SELECT oid FROM pg_catalog.pg_largeobject_metadata WHERE oid = ANY($1) ORDER BY oid";
    let rows = session.client.query(sql, &[&oids]).await;
    Ok(rows.map_err(|e| failure(&e).context("find large objects"))?.iter().map(|row| row.get(0)).collect())
}

/// The first column of the first row of a query, a number.
///
/// # Errors
/// The server's.
pub(crate) async fn count(session: &Session, sql: &str, doing: &str) -> Result<i64> {
    let row = session.client.query_typed_opt(sql, &[]).await.map_err(|e| failure(&e).context(doing))?;
    Ok(row.map_or(0, |row| row.get(0)))
}

/// Runs one statement and returns how many rows it touched.
///
/// # Errors
/// The server's.
pub(crate) async fn run(session: &Session, sql: &str, doing: &str) -> Result<u64> {
    session.client.execute(sql, &[]).await.map_err(|e| failure(&e).context(doing))
}

/// The privileges that a role was given on a thing, and how many there are of its kind; `what` as `GRANT ... ON` says
/// it (`TABLE a.b`, `SCHEMA a`, `DATABASE a`, `FUNCTION a.f(x integer)`). A `GRANT` that could give nothing is no error
/// to the server. `None` for other kinds.
///
/// # Errors
/// The server's.
pub(crate) async fn granted(session: &Session, what: &str, role: &str) -> Result<Option<(Vec<String>, usize)>> {
    let Some((word, name)) = what.split_once(' ') else { return Ok(None) };
    let literal = literal(name);
    let (from, acl, letter, owner, which) = match word {
        "TABLE" => ("pg_class", "relacl", "r", "relowner", format!("o.oid = {literal}::pg_catalog.regclass")),
        "SEQUENCE" => ("pg_class", "relacl", "s", "relowner", format!("o.oid = {literal}::pg_catalog.regclass")),
        "SCHEMA" => ("pg_namespace", "nspacl", "n", "nspowner", format!("o.oid = {literal}::pg_catalog.regnamespace")),
        "DATABASE" => ("pg_database", "datacl", "d", "datdba", "o.datname = pg_catalog.current_database()".to_owned()),
        "FUNCTION" | "PROCEDURE" => (
            "pg_proc",
            "proacl",
            "f",
            "proowner",
            format!(
                "pg_catalog.format('%I.%I(%s)', o.pronamespace::pg_catalog.regnamespace::pg_catalog.name, o.proname,
                   pg_catalog.pg_get_function_identity_arguments(o.oid)) = {literal}"
            ),
        ),
        _ => return Ok(None),
    };
    let columns = if word == "TABLE" {
        "UNION SELECT c.privilege_type, c.grantee FROM pg_catalog.pg_attribute t, LATERAL pg_catalog.aclexplode(t.attacl) c WHERE t.attrelid = o.oid"
    } else {
        ""
    };
    let sql = format!(
        "SELECT coalesce((SELECT pg_catalog.array_agg(x.p) FROM
                  (SELECT a.privilege_type, a.grantee FROM pg_catalog.aclexplode(o.{acl}) a {columns}) x(p, g)
                 WHERE x.g = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1)), '{{}}'),
                (SELECT count(*) FROM pg_catalog.aclexplode(pg_catalog.acldefault('{letter}', o.{owner})) d WHERE d.grantee = o.{owner})
           FROM pg_catalog.{from} o WHERE {which}"
    );
    let row = session.client.query_opt(&sql, &[&role]).await;
    let row = row.map_err(|e| failure(&e).context(format!("read the privileges on {name}")))?;
    Ok(row.map(|row| (row.get(0), usize::try_from(row.get::<_, i64>(1)).unwrap_or(usize::MAX))))
}

/// Statements that take away what default privileges of the session's role give in these schemas.
///
/// # Errors
/// A connection that broke.
pub(crate) async fn own_default_privileges(session: &Session, schemas: &[String]) -> Result<Vec<String>> {
    let names: Vec<String> = schemas.iter().map(|name| literal(name)).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT DISTINCT 'ALTER DEFAULT PRIVILEGES FOR ROLE ' || pg_catalog.quote_ident(current_user) || ' IN SCHEMA '
                || pg_catalog.quote_ident(n.nspname) || ' REVOKE ALL ON '
                || CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' ELSE 'TYPES' END
                || ' FROM ' || CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END
           FROM pg_catalog.pg_default_acl d JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace,
                LATERAL pg_catalog.aclexplode(d.defaclacl) a
          WHERE d.defaclrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user)
            AND d.defaclobjtype IN ('r', 'S', 'f', 'T') AND n.nspname IN ({})",
        names.join(", ")
    );
    strings(&session.client, &sql, "read the default privileges").await
}
