//! Emptying a database that holds nothing but an unfinished restore.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::postgres::connect::session::Session;
use crate::postgres::query::{execute, strings};
use crate::postgres::target::defaults;
use crate::postgres::target::mark::MARK;
use crate::sql::names::{literal, quote};

/// Tables dropped in one statement: each needs some locks.
pub(crate) const DROPPED_AT_ONCE: usize = 50;

/// Empties a database that holds nothing but an unfinished restore. `extensions` are those the restore makes; where they
/// are not known all go.
pub(crate) async fn wipe(session: &Session, extensions: Option<&BTreeSet<String>>) -> Result<()> {
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
            .filter(|name| extensions.is_none_or(|made| made.contains(*name)))
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

/// The rest in `public` and outside of schemas. What belongs to something else goes with it, or stays with an extension that
/// stays.
pub(crate) async fn loose_ends(session: &Session) -> Result<()> {
    let client = &session.client;
    let doing = "remove an unfinished restore";
    let sql = "SELECT 'DROP ' || i.type || ' IF EXISTS ' || i.identity || ' CASCADE' FROM pg_catalog.pg_depend d,
                      LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, d.objsubid) i
                WHERE d.refclassid = 2615 AND d.refobjid = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'public')
                  AND d.deptype = 'n' AND d.objid >= 16384 AND i.type NOT IN ('default acl', 'extension', 'index')
                  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend o
                                   WHERE o.classid = d.classid AND o.objid = d.objid AND o.deptype IN ('e', 'i'))
                UNION ALL
               SELECT 'DROP ' || i.type || ' IF EXISTS ' || i.identity || ' CASCADE'
                 FROM (SELECT 2605, oid FROM pg_catalog.pg_cast UNION ALL SELECT 2612, oid FROM pg_catalog.pg_language
                       UNION ALL SELECT 2601, oid FROM pg_catalog.pg_am) c(class, oid),
                      LATERAL pg_catalog.pg_identify_object(c.class::pg_catalog.oid, c.oid, 0) i
                WHERE c.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = c.class::pg_catalog.oid AND d.objid = c.oid AND d.deptype = 'e')";
    run_all(session, &strings(client, sql, doing).await?).await?;
    run_all(session, &strings(client, &defaults::taken_away(), doing).await?).await?;
    execute(session, "SELECT pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata", doing).await?;
    execute(session, "SET synchronous_commit = on; RESET client_min_messages", doing).await
}

pub(crate) async fn run_all(session: &Session, statements: &[String]) -> Result<()> {
    for sql in statements {
        execute(session, sql, &format!("remove an unfinished restore ({sql})")).await?;
    }
    Ok(())
}
