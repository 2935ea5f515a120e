//! The database that is restored into: what it holds, what it lacks and what the role may do in it.

pub(crate) mod constraints;
pub(crate) mod defaults;
pub(crate) mod emptying;
pub(crate) mod foreign_keys;
pub(crate) mod ground;
pub(crate) mod live;
pub(crate) mod load;
pub(crate) mod mark;
pub(crate) mod project;
pub(crate) mod requests;
pub(crate) mod scratch;
pub(crate) mod staging;
pub(crate) mod strangers;
pub(crate) mod trial;
pub(crate) mod types;
pub(crate) mod wipe;

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;
pub(crate) use crate::postgres::query::{execute, strings};
pub(crate) use crate::postgres::target::mark::{APPLICATION, MARK, end_others, flush, lock};
pub(crate) use crate::postgres::target::wipe::wipe;
use crate::sql::names::literal;

/// Some of what a person has in this database, in words; nothing when it is empty. Members of extensions, and the mark,
/// are not counted.
pub(crate) async fn contents(session: &Session) -> Result<Vec<String>> {
    let sql = format!(
        "WITH things(class, oid) AS (
            SELECT 1259, oid FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND relpersistence <> 't'
            UNION ALL SELECT 1255, oid FROM pg_catalog.pg_proc
            UNION ALL SELECT 1247, oid FROM pg_catalog.pg_type WHERE typtype IN ('d', 'e', 'r')
            UNION ALL SELECT 2615, oid FROM pg_catalog.pg_namespace
                       WHERE nspname <> {mark} AND nspname !~ '^pg_(temp|toast_temp)_'
            UNION ALL SELECT 2328, oid FROM pg_catalog.pg_foreign_data_wrapper
            UNION ALL SELECT 6104, oid FROM pg_catalog.pg_publication
            UNION ALL SELECT 3466, oid FROM pg_catalog.pg_event_trigger
            UNION ALL SELECT 2613, oid FROM pg_catalog.pg_largeobject_metadata)
         SELECT pg_catalog.pg_describe_object(class::pg_catalog.oid, oid, 0) FROM things
          WHERE (oid >= 16384 OR class = 2613)
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = class::pg_catalog.oid AND d.objid = things.oid AND d.deptype = 'e')
          LIMIT 4",
        mark = literal(MARK)
    );
    strings(&session.client, &sql, "read the contents of the database").await
}

/// True when the server is a Supabase project's.
pub(crate) async fn is_project(session: &Session) -> Result<bool> {
    let sql = "SELECT rolname::pg_catalog.text FROM pg_catalog.pg_roles WHERE rolname = 'supabase_admin'
                AND EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'auth')";
    Ok(!strings(&session.client, sql, "read the server").await?.is_empty())
}

/// Names of roles, extensions that can be had, and tablespaces of the server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Server {
    /// Roles.
    pub(crate) roles: BTreeSet<String>,
    /// Extensions available or installed.
    pub(crate) extensions: BTreeSet<String>,
    /// Tablespaces.
    pub(crate) tablespaces: BTreeSet<String>,
    /// Databases.
    pub(crate) databases: BTreeSet<String>,
}

/// Asks for those names.
pub(crate) async fn server(session: &Session) -> Result<Server> {
    let ask = |sql| async move {
        Ok::<_, Error>(strings(&session.client, sql, "read the server").await?.into_iter().collect())
    };
    Ok(Server {
        roles: ask("SELECT rolname::pg_catalog.text FROM pg_catalog.pg_roles").await?,
        extensions: ask("SELECT name::pg_catalog.text FROM pg_catalog.pg_available_extensions
             UNION SELECT extname::pg_catalog.text FROM pg_catalog.pg_extension")
        .await?,
        tablespaces: ask("SELECT spcname::pg_catalog.text FROM pg_catalog.pg_tablespace").await?,
        databases: ask("SELECT datname::pg_catalog.text FROM pg_catalog.pg_database").await?,
    })
}

/// The rights of the connected role.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rights {
    /// Its name.
    pub(crate) role: String,
    /// It may do everything.
    pub(crate) superuser: bool,
    /// Roles that it can act as and whose rights it has by itself.
    pub(crate) can_be: BTreeSet<String>,
    /// Extensions that it can create, where it may create in the database.
    pub(crate) extensions: BTreeSet<String>,
    /// It may create subscriptions.
    pub(crate) subscriptions: bool,
    /// Roles of the server that may do everything.
    pub(crate) superusers: BTreeSet<String>,
    /// The owner of schema `public`.
    pub(crate) owner_of_public: Option<String>,
}

/// Asks for that.
pub(crate) async fn rights(session: &Session) -> Result<Rights> {
    let doing = "read the rights of the role";
    // From 16 on a membership says by itself whether it lets a role act as another one.
    let act = if session.server_version_num() >= 160_000 { "SET" } else { "MEMBER" };
    let one = "SELECT rolname::pg_catalog.text, rolsuper,
                      rolsuper OR coalesce((SELECT pg_catalog.pg_has_role(s.oid, 'USAGE') FROM pg_catalog.pg_roles s
                                             WHERE s.rolname = 'pg_create_subscription'), false)
                 FROM pg_catalog.pg_roles WHERE rolname = current_user";
    let row = session.client.query_typed_one(one, &[]).await.map_err(|e| failure(&e).context(doing))?;
    let can_be = format!(
        "SELECT rolname::pg_catalog.text FROM pg_catalog.pg_roles
          WHERE pg_catalog.pg_has_role(oid, '{act}') AND pg_catalog.pg_has_role(oid, 'USAGE')"
    );
    let extensions =
        "SELECT name::pg_catalog.text FROM pg_catalog.pg_available_extension_versions WHERE trusted OR NOT superuser
                      UNION SELECT extname::pg_catalog.text FROM pg_catalog.pg_extension";
    let superusers = "SELECT rolname::pg_catalog.text FROM pg_catalog.pg_roles WHERE rolsuper";
    let public = "SELECT pg_catalog.pg_get_userbyid(nspowner)::pg_catalog.text FROM pg_catalog.pg_namespace
                   WHERE nspname = 'public'";
    Ok(Rights {
        role: row.get(0),
        superuser: row.get(1),
        subscriptions: row.get(2),
        can_be: strings(&session.client, &can_be, doing).await?.into_iter().collect(),
        extensions: strings(&session.client, extensions, doing).await?.into_iter().collect(),
        superusers: strings(&session.client, superusers, doing).await?.into_iter().collect(),
        owner_of_public: strings(&session.client, public, doing).await?.into_iter().next(),
    })
}

/// True where large objects that the session's role makes get other privileges than PostgreSQL's own (from 18 on).
pub(crate) async fn opens_large_objects(session: &Session) -> Result<bool> {
    let sql =
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_default_acl d JOIN pg_catalog.pg_roles r ON r.oid = d.defaclrole
                               WHERE d.defaclobjtype = 'L' AND r.rolname = current_user)";
    let row = session.client.query_typed_one(sql, &[]).await;
    Ok(row.map_err(|e| failure(&e).context("find default privileges of large objects"))?.get(0))
}

/// Makes empty large objects, with PostgreSQL's own privileges whatever the default privileges are: nobody sees them with
/// others.
///
/// # Errors
/// The server's.
pub(crate) async fn make_large_objects(session: &Session, oids: &[u32]) -> Result<()> {
    let numbers = oids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let grantee =
        "CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END";
    let sql = format!(
        "DO $pgstow_acl$ DECLARE s pg_catalog.text; n CONSTANT pg_catalog.oid[] := '{{{numbers}}}'; BEGIN
          PERFORM pg_catalog.lo_create(oid) FROM pg_catalog.unnest(n) oid;
          FOR s IN SELECT x.sql FROM pg_catalog.pg_largeobject_metadata o, LATERAL (
              SELECT 1, 'REVOKE ALL ON LARGE OBJECT ' || o.oid || ' FROM ' || {grantee}
                FROM pg_catalog.aclexplode(o.lomacl) a
              UNION SELECT 2, 'GRANT ' || a.privilege_type || ' ON LARGE OBJECT ' || o.oid || ' TO ' || {grantee}
                FROM pg_catalog.aclexplode(pg_catalog.acldefault('L', o.lomowner)) a) x(step, sql)
            WHERE o.oid = ANY (n) AND o.lomacl IS NOT NULL ORDER BY o.oid, x.step, x.sql
          LOOP EXECUTE s; END LOOP; END $pgstow_acl$"
    );
    execute(session, &sql, "make large objects").await
}

/// True where objects that somebody makes here get other privileges than PostgreSQL's own.
pub(crate) async fn has_default_privileges(session: &Session) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_default_acl)";
    let row = session.client.query_typed_one(sql, &[]).await;
    Ok(row.map_err(|e| failure(&e).context("find default privileges"))?.get(0))
}

/// The things that can be referred to in the database: kind (`schema`, `relation`, `type`, `function`, `signature` of a
/// function of a user's, `extension`, `server`, `collation`, `operator` and so on),
/// schema (empty for what is in none) and name.
pub(crate) async fn known(session: &Session) -> Result<BTreeSet<(String, String, String)>> {
    let sql = "WITH n AS (SELECT oid, nspname::pg_catalog.text AS s FROM pg_catalog.pg_namespace)
               SELECT 'schema', '', s FROM n
               UNION SELECT 'relation', s, relname FROM pg_catalog.pg_class c JOIN n ON n.oid = relnamespace
               UNION SELECT 'type', s, typname FROM pg_catalog.pg_type JOIN n ON n.oid = typnamespace
               UNION SELECT 'function', s, proname FROM pg_catalog.pg_proc JOIN n ON n.oid = pronamespace
               UNION SELECT 'signature', s, proname || '(' || pg_catalog.oidvectortypes(proargtypes) || ')'
                       FROM pg_catalog.pg_proc JOIN n ON n.oid = pronamespace WHERE pg_proc.oid >= 16384
               UNION SELECT 'collation', s, collname FROM pg_catalog.pg_collation JOIN n ON n.oid = collnamespace
               UNION SELECT 'conversion', s, conname FROM pg_catalog.pg_conversion JOIN n ON n.oid = connamespace
               UNION SELECT 'operator', s, oprname FROM pg_catalog.pg_operator JOIN n ON n.oid = oprnamespace
               UNION SELECT 'operator class', s, opcname FROM pg_catalog.pg_opclass JOIN n ON n.oid = opcnamespace
               UNION SELECT 'operator family', s, opfname FROM pg_catalog.pg_opfamily JOIN n ON n.oid = opfnamespace
               UNION SELECT 'access method', '', amname FROM pg_catalog.pg_am
               UNION SELECT 'text search configuration', s, cfgname FROM pg_catalog.pg_ts_config JOIN n ON n.oid = cfgnamespace
               UNION SELECT 'text search dictionary', s, dictname FROM pg_catalog.pg_ts_dict JOIN n ON n.oid = dictnamespace
               UNION SELECT 'text search parser', s, prsname FROM pg_catalog.pg_ts_parser JOIN n ON n.oid = prsnamespace
               UNION SELECT 'text search template', s, tmplname FROM pg_catalog.pg_ts_template JOIN n ON n.oid = tmplnamespace
               UNION SELECT 'foreign-data wrapper', '', fdwname FROM pg_catalog.pg_foreign_data_wrapper
               UNION SELECT 'language', '', lanname FROM pg_catalog.pg_language
               UNION SELECT 'extension', '', extname FROM pg_catalog.pg_extension
               UNION SELECT 'server', '', srvname FROM pg_catalog.pg_foreign_server";
    let sql = format!("SELECT a::pg_catalog.text, b::pg_catalog.text, c::pg_catalog.text FROM ({sql}) x(a, b, c)");
    let rows = session
        .client
        .query_typed(&sql, &[])
        .await
        .map_err(|e| failure(&e).context("read the contents of the database"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

/// True when the server knows a setting. One with a dot in its name may be anybody's: every server takes it.
pub(crate) async fn knows(session: &Session, setting: &str) -> Result<bool> {
    if setting.contains('.') {
        return Ok(true);
    }
    let row = session.client.query_one("SELECT pg_catalog.current_setting($1, true) IS NOT NULL", &[&setting]).await;
    Ok(row.map_err(|e| failure(&e).context("ask for a setting"))?.get(0))
}

/// True when a table, given as SQL, has a row.
pub(crate) async fn has_rows(session: &Session, table: &str) -> Result<bool> {
    let sql = format!("SELECT EXISTS (SELECT FROM {table})");
    let row =
        session.client.query_typed_one(&sql, &[]).await.map_err(|e| failure(&e).context(format!("read {table}")))?;
    Ok(row.get(0))
}

/// Triggers of these tables (names as SQL) that fire in a session whose `session_replication_role` is `replica`: table
/// and trigger, quoted, and the word by which it is enabled.
pub(crate) async fn loud_triggers(session: &Session, tables: &[String]) -> Result<Vec<(String, String, String)>> {
    let sql = "SELECT t.tgrelid::pg_catalog.regclass::pg_catalog.text, pg_catalog.quote_ident(t.tgname),
                      CASE t.tgenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END
                 FROM pg_catalog.pg_trigger t
                WHERE t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal
                  AND t.tgrelid = ANY (SELECT pg_catalog.to_regclass(name)::pg_catalog.oid FROM unnest($1::text[]) name)
                ORDER BY 1, 2";
    let rows = session.client.query(sql, &[&tables]).await;
    let rows = rows.map_err(|e| failure(&e).context("find triggers that fire always"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

/// The event triggers that fire when definitions are made in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventTriggers {
    /// None, or none with code that could wait for a lock.
    None,
    /// Some fire unless `session_replication_role` is `replica`, which this role, a superuser, can say.
    Avoidable,
    /// Some fire.
    Fire,
}

/// Finds event triggers. Their code takes locks, and two sessions that make definitions at once can deadlock.
pub(crate) async fn event_triggers(session: &Session) -> Result<EventTriggers> {
    let doing = "find event triggers";
    let sql = "SELECT t.evtenabled::pg_catalog.text FROM pg_catalog.pg_event_trigger t
                 JOIN pg_catalog.pg_proc p ON p.oid = t.evtfoid JOIN pg_catalog.pg_language l ON l.oid = p.prolang
                WHERE t.evtenabled IN ('O', 'A') AND l.lanname NOT IN ('c', 'internal')";
    let enabled = strings(&session.client, sql, doing).await?;
    if enabled.is_empty() {
        return Ok(EventTriggers::None);
    }
    // Said in the startup packet, which a role that is merely allowed to SET it may not.
    let superuser = strings(&session.client, "SELECT pg_catalog.current_setting('is_superuser')", doing).await?;
    let avoidable = superuser.iter().any(|is| is == "on") && enabled.iter().all(|when| when == "O");
    Ok(if avoidable { EventTriggers::Avoidable } else { EventTriggers::Fire })
}

/// Connection parameters of sessions like this one that set no event trigger off, where its role can say so.
pub(crate) async fn without_event_triggers(session: &Session, info: &ConnInfo) -> Result<ConnInfo> {
    let sql = "SELECT pg_catalog.current_setting('is_superuser')";
    let superuser = strings(&session.client, sql, "look at what the role may do").await?.iter().any(|is| is == "on");
    let can = superuser && session.server_version_num() >= 170_000;
    Ok(info.with_options(if can { "-c event_triggers=off" } else { "" }))
}

/// The extensions of the database, with their versions.
pub(crate) async fn extensions(session: &Session) -> Result<BTreeMap<String, String>> {
    let sql = "SELECT extname::pg_catalog.text, extversion FROM pg_catalog.pg_extension";
    let rows = session.client.query_typed(sql, &[]).await.map_err(|e| failure(&e).context("look at the extensions"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// True where the server has a table access method of that name.
///
/// # Errors
/// A lost connection.
pub(crate) async fn has_access_method(session: &Session, name: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_am WHERE amname OPERATOR(pg_catalog.=) $1::pg_catalog.text)";
    let row = session.client.query_one(sql, &[&name]).await;
    Ok(row.map_err(|e| failure(&e).context("ask for an access method"))?.get(0))
}

/// The versions of an extension that the server can install.
pub(crate) async fn versions(session: &Session, extension: &str) -> Result<BTreeSet<String>> {
    let sql = "SELECT version FROM pg_catalog.pg_available_extension_versions WHERE name = $1";
    let rows = session.client.query(sql, &[&extension]).await;
    let rows = rows.map_err(|e| failure(&e).context("look at the extensions"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The name, as SQL, of a function without arguments that belongs to an extension.
pub(crate) async fn function_of(session: &Session, extension: &str, function: &str) -> Result<Option<String>> {
    let sql = "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname)
                 FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                 JOIN pg_catalog.pg_depend d ON d.classid = 1255 AND d.objid = p.oid AND d.deptype = 'e'
                 JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND d.refclassid = 3079
                WHERE e.extname = $1 AND p.proname = $2 AND p.pronargs = 0";
    let row = session.client.query_opt(sql, &[&extension, &function]).await;
    let row = row.map_err(|e| failure(&e).context(format!("look for {function} of {extension}")))?;
    Ok(row.map(|row| row.get(0)))
}
