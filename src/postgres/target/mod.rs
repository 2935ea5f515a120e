//! The database that is restored into: what it holds, what it lacks, and the mark of an unfinished restore in it.

pub(crate) mod foreign_keys;
pub(crate) mod load;
pub(crate) mod project;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::Client;

use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;
use crate::sql::names::{literal, quote};

/// Schema that marks an unfinished restore; its comment names the run.
pub(crate) const MARK: &str = "pgstow_restore";

/// What the sessions of a restore, and of the programs it starts, are called.
pub(crate) const APPLICATION: &str = "pgstow restore";

/// Number of the advisory lock: `pgstowrs` as bytes, so that it is nobody else's.
const LOCK: u64 = 0x7067_7374_6f77_7273;
/// How often, and after what time, sessions that were told to end are looked for again.
const ENDINGS: u32 = 200;
const ENDING: Duration = Duration::from_millis(50);

/// Tables dropped in one statement: each needs some locks.
const DROPPED_AT_ONCE: usize = 50;

pub(crate) async fn strings(client: &Client, sql: &str, doing: &str) -> Result<Vec<String>> {
    let rows = client.query(sql, &[]).await.map_err(|e| failure(&e).context(doing))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Runs statements without results.
pub(crate) async fn execute(session: &Session, sql: &str, doing: &str) -> Result<()> {
    session.client.batch_execute(sql).await.map_err(|e| failure(&e).context(doing))
}

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
    strings(&session.client, &sql, "look at what the database holds").await
}

/// Whether the server is a Supabase project's.
pub(crate) async fn is_project(session: &Session) -> Result<bool> {
    let sql = "SELECT rolname::pg_catalog.text FROM pg_catalog.pg_roles WHERE rolname = 'supabase_admin'
                AND EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'auth')";
    Ok(!strings(&session.client, sql, "look at the server").await?.is_empty())
}

/// What the mark says, where a restore was not finished here: which one.
pub(crate) async fn unfinished(session: &Session) -> Result<Option<String>> {
    let sql = format!(
        "SELECT coalesce(pg_catalog.obj_description(oid, 'pg_namespace'), '') FROM pg_catalog.pg_namespace WHERE nspname = {}",
        literal(MARK)
    );
    Ok(strings(&session.client, &sql, "look for an unfinished restore").await?.into_iter().next())
}

/// Marks the database, which is empty, as being restored; the mark says by what.
pub(crate) async fn mark(session: &Session, what: &str) -> Result<()> {
    let sql = format!("BEGIN; CREATE SCHEMA {MARK}; COMMENT ON SCHEMA {MARK} IS {}; COMMIT", literal(what));
    execute(session, &sql, "mark the database as being restored").await
}

/// Says something else in the mark.
pub(crate) async fn remark(session: &Session, what: &str) -> Result<()> {
    let sql = format!("COMMENT ON SCHEMA {MARK} IS {}", literal(what));
    execute(session, &sql, "change the mark of the restore").await
}

/// Takes the lock that one restore at a time holds in a database, as long as the session lasts; false where another
/// session has it.
pub(crate) async fn lock(session: &Session) -> Result<bool> {
    let sql = format!("SELECT pg_catalog.pg_try_advisory_lock({LOCK})");
    let row = session.client.query_one(&sql, &[]).await;
    Ok(row.map_err(|e| failure(&e).context("lock the database for the restore"))?.get(0))
}

/// Ends what a killed restore left running in this database: its `pg_restore` outlives it. For the holder of [`lock`].
pub(crate) async fn end_others(session: &Session) -> Result<()> {
    let doing = "end what a killed restore left running";
    let sql = format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
          WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid() AND application_name = {}",
        literal(APPLICATION)
    );
    for _time in 0..ENDINGS {
        let others = session.client.query(&sql, &[]).await.map_err(|e| failure(&e).context(doing))?;
        if others.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(ENDING).await;
    }
    Err(Error::failed("sessions of a killed restore do not end").hint("look at pg_stat_activity, then try again"))
}

/// Takes the mark away.
pub(crate) async fn unmark(session: &Session) -> Result<()> {
    execute(session, &format!("DROP SCHEMA {MARK}"), "take the mark away").await
}

/// Brings every commit before this one, of whatever session, to disk. A transaction that wrote nothing is not flushed,
/// even if it has a number (PostgreSQL's `RecordTransactionCommit`): so it writes a message that nobody reads.
pub(crate) async fn flush(session: &Session) -> Result<()> {
    let sql = "BEGIN; SET LOCAL synchronous_commit = on;
               SELECT pg_catalog.pg_logical_emit_message(true, 'pgstow', 'restored'); COMMIT";
    execute(session, sql, "bring what was restored to disk").await
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
        Ok::<_, Error>(strings(&session.client, sql, "look at the server").await?.into_iter().collect())
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

/// What the connected role may do.
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
}

/// Asks for that.
pub(crate) async fn rights(session: &Session) -> Result<Rights> {
    let doing = "look at what the role may do";
    // From 16 on a membership says by itself whether it lets a role act as another one.
    let act = if session.server_version_num() >= 160_000 { "SET" } else { "MEMBER" };
    let one = "SELECT rolname::pg_catalog.text, rolsuper,
                      rolsuper OR coalesce((SELECT pg_catalog.pg_has_role(s.oid, 'USAGE') FROM pg_catalog.pg_roles s
                                             WHERE s.rolname = 'pg_create_subscription'), false)
                 FROM pg_catalog.pg_roles WHERE rolname = current_user";
    let row = session.client.query_one(one, &[]).await.map_err(|e| failure(&e).context(doing))?;
    let can_be = format!(
        "SELECT rolname::pg_catalog.text FROM pg_catalog.pg_roles
          WHERE pg_catalog.pg_has_role(oid, '{act}') AND pg_catalog.pg_has_role(oid, 'USAGE')"
    );
    let extensions =
        "SELECT name::pg_catalog.text FROM pg_catalog.pg_available_extension_versions WHERE trusted OR NOT superuser
                      UNION SELECT extname::pg_catalog.text FROM pg_catalog.pg_extension";
    Ok(Rights {
        role: row.get(0),
        superuser: row.get(1),
        subscriptions: row.get(2),
        can_be: strings(&session.client, &can_be, doing).await?.into_iter().collect(),
        extensions: strings(&session.client, extensions, doing).await?.into_iter().collect(),
    })
}

/// What can be referred to in the database: kind (`schema`, `relation`, `type`, `function`, `extension`, `server`),
/// schema (empty for what is in none) and name.
pub(crate) async fn known(session: &Session) -> Result<BTreeSet<(String, String, String)>> {
    let sql = "WITH n AS (SELECT oid, nspname::pg_catalog.text AS s FROM pg_catalog.pg_namespace)
               SELECT 'schema', '', s FROM n
               UNION SELECT 'relation', s, relname FROM pg_catalog.pg_class c JOIN n ON n.oid = relnamespace
               UNION SELECT 'type', s, typname FROM pg_catalog.pg_type JOIN n ON n.oid = typnamespace
               UNION SELECT 'function', s, proname FROM pg_catalog.pg_proc JOIN n ON n.oid = pronamespace
               UNION SELECT 'extension', '', extname FROM pg_catalog.pg_extension
               UNION SELECT 'server', '', srvname FROM pg_catalog.pg_foreign_server";
    let sql = format!("SELECT a::pg_catalog.text, b::pg_catalog.text, c::pg_catalog.text FROM ({sql}) x(a, b, c)");
    let rows =
        session.client.query(&sql, &[]).await.map_err(|e| failure(&e).context("look at what the database holds"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

/// Whether the server knows a setting. One with a dot in its name may be anybody's: every server takes it.
pub(crate) async fn knows(session: &Session, setting: &str) -> Result<bool> {
    if setting.contains('.') {
        return Ok(true);
    }
    let row = session.client.query_one("SELECT pg_catalog.current_setting($1, true) IS NOT NULL", &[&setting]).await;
    Ok(row.map_err(|e| failure(&e).context("ask for a setting"))?.get(0))
}

/// Whether a table, given as SQL, has a row.
pub(crate) async fn has_rows(session: &Session, table: &str) -> Result<bool> {
    let sql = format!("SELECT EXISTS (SELECT FROM {table})");
    let row =
        session.client.query_one(&sql, &[]).await.map_err(|e| failure(&e).context(format!("look into {table}")))?;
    Ok(row.get(0))
}

/// Triggers of these tables (names as SQL) that fire whatever `session_replication_role` says: table and trigger, quoted.
pub(crate) async fn always_triggers(session: &Session, tables: &[String]) -> Result<Vec<(String, String)>> {
    let sql = "SELECT t.tgrelid::pg_catalog.regclass::pg_catalog.text, pg_catalog.quote_ident(t.tgname)
                 FROM pg_catalog.pg_trigger t
                WHERE t.tgenabled = 'A' AND NOT t.tgisinternal
                  AND t.tgrelid = ANY (SELECT pg_catalog.to_regclass(name)::pg_catalog.oid FROM unnest($1::text[]) name)
                ORDER BY 1, 2";
    let rows = session.client.query(sql, &[&tables]).await;
    let rows = rows.map_err(|e| failure(&e).context("look for triggers that fire always"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// What definitions set off that are made in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventTriggers {
    /// There are none, or none with code that could wait for a lock.
    None,
    /// Some fire unless `session_replication_role` is `replica`, which this role, a superuser, can say.
    Avoidable,
    /// Some fire.
    Fire,
}

/// Looks for event triggers. What they do takes locks, and two sessions that make definitions at once can deadlock.
pub(crate) async fn event_triggers(session: &Session) -> Result<EventTriggers> {
    let doing = "look for event triggers";
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

/// Empties a database that holds nothing but an unfinished restore. `extensions` are those the restore makes.
pub(crate) async fn wipe(session: &Session, extensions: &BTreeSet<String>) -> Result<()> {
    let client = &session.client;
    let doing = "remove an unfinished restore";
    execute(session, "SET synchronous_commit = off; SET client_min_messages = error", doing).await?;
    let mut drops: Vec<String> = Vec::new();
    let named = |kind: &str, names: Vec<String>| {
        names.into_iter().map(|n| format!("DROP {kind} {n} CASCADE")).collect::<Vec<_>>()
    };
    let quoted = |sql: &str| format!("SELECT pg_catalog.quote_ident(x.name) FROM ({sql}) x(name)");
    let subscriptions = strings(client, &quoted("SELECT subname FROM pg_catalog.pg_subscription WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"), doing).await;
    // Only a superuser may look at subscriptions, and only such a one can have restored any.
    for name in subscriptions.unwrap_or_default() {
        drops.extend([
            format!("ALTER SUBSCRIPTION {name} DISABLE"),
            format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"),
            format!("DROP SUBSCRIPTION {name}"),
        ]);
    }
    let own = |catalogue: &str, column: &str| {
        quoted(&format!(
        "SELECT {column} FROM pg_catalog.{catalogue} c WHERE c.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
          WHERE d.classid = c.tableoid AND d.objid = c.oid AND d.deptype = 'e')"
    ))
    };
    drops.extend(named("EVENT TRIGGER", strings(client, &own("pg_event_trigger", "evtname"), doing).await?));
    drops.extend(named("PUBLICATION", strings(client, &own("pg_publication", "pubname"), doing).await?));
    let present = strings(
        client,
        "SELECT extname::pg_catalog.text FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql'",
        doing,
    )
    .await?;
    drops.extend(
        present
            .iter()
            .filter(|name| extensions.contains(*name))
            .map(|n| format!("DROP EXTENSION IF EXISTS {} CASCADE", quote(n))),
    );
    run_all(session, &std::mem::take(&mut drops)).await?;
    drops.extend(named(
        "FOREIGN DATA WRAPPER",
        strings(client, &own("pg_foreign_data_wrapper", "fdwname"), doing).await?,
    ));
    let tables = "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
                    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                   WHERE c.relkind IN ('r', 'p') AND c.oid >= 16384 AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
                     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 1259 AND d.objid = c.oid AND d.deptype = 'e')";
    for some in strings(client, tables, doing).await?.chunks(DROPPED_AT_ONCE) {
        drops.push(format!("DROP TABLE IF EXISTS {} CASCADE", some.join(", ")));
    }
    run_all(session, &std::mem::take(&mut drops)).await?;
    let schemas = quoted(&format!(
        "SELECT nspname FROM pg_catalog.pg_namespace c WHERE nspname NOT IN ('public', 'information_schema', {}) AND nspname !~ '^pg_'
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 2615 AND d.objid = c.oid AND d.deptype = 'e')",
        literal(MARK)
    ));
    drops.extend(named("SCHEMA", strings(client, &schemas, doing).await?));
    run_all(session, &std::mem::take(&mut drops)).await?;
    loose_ends(session).await
}

/// What is left in `public` and outside of schemas.
async fn loose_ends(session: &Session) -> Result<()> {
    let client = &session.client;
    let doing = "remove an unfinished restore";
    let sql = "SELECT 'DROP ' || i.type || ' IF EXISTS ' || i.identity || ' CASCADE' FROM pg_catalog.pg_depend d,
                      LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, d.objsubid) i
                WHERE d.refclassid = 2615 AND d.refobjid = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'public')
                  AND d.deptype = 'n' AND d.objid >= 16384 AND i.type NOT IN ('default acl', 'extension', 'index')
                UNION ALL
               SELECT 'DROP ' || i.type || ' IF EXISTS ' || i.identity || ' CASCADE'
                 FROM (SELECT 2605, oid FROM pg_catalog.pg_cast UNION ALL SELECT 2612, oid FROM pg_catalog.pg_language
                       UNION ALL SELECT 2601, oid FROM pg_catalog.pg_am) c(class, oid),
                      LATERAL pg_catalog.pg_identify_object(c.class::pg_catalog.oid, c.oid, 0) i
                WHERE c.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = c.class::pg_catalog.oid AND d.objid = c.oid AND d.deptype = 'e')";
    run_all(session, &strings(client, sql, doing).await?).await?;
    // A default privilege is gone when it says what it says by default.
    let words = "CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES' ELSE 'SCHEMAS' END";
    let scope = "'ALTER DEFAULT PRIVILEGES FOR ROLE ' || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(d.defaclrole))
                 || CASE WHEN d.defaclnamespace = 0 THEN '' ELSE ' IN SCHEMA ' || d.defaclnamespace::pg_catalog.regnamespace::pg_catalog.text END";
    let grantee =
        "CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END";
    let sql = format!(
        "SELECT {scope} || ' REVOKE ALL ON ' || {words} || ' FROM ' || {grantee}
           FROM pg_catalog.pg_default_acl d, LATERAL pg_catalog.aclexplode(d.defaclacl) a
         UNION ALL
         SELECT {scope} || ' GRANT ' || a.privilege_type || ' ON ' || {words} || ' TO ' || {grantee}
           FROM pg_catalog.pg_default_acl d, LATERAL pg_catalog.aclexplode(pg_catalog.acldefault(
                CASE d.defaclobjtype WHEN 'S' THEN 's' ELSE d.defaclobjtype END, d.defaclrole)) a WHERE d.defaclnamespace = 0"
    );
    run_all(session, &strings(client, &sql, doing).await?).await?;
    execute(session, "SELECT pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata", doing).await?;
    execute(session, "SET synchronous_commit = on; RESET client_min_messages", doing).await
}

async fn run_all(session: &Session, statements: &[String]) -> Result<()> {
    for sql in statements {
        execute(session, sql, &format!("remove an unfinished restore ({sql})")).await?;
    }
    Ok(())
}

/// The one database that `pg_cron` can live in on this server; `None` where it is not loaded.
pub(crate) async fn cron_database(session: &Session) -> Result<Option<String>> {
    let row = session.client.query_one("SELECT pg_catalog.current_setting('cron.database_name', true)", &[]).await;
    Ok(row.map_err(|e| failure(&e).context("look for pg_cron"))?.get(0))
}
