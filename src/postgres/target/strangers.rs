//! What somebody else put into a database that holds an unfinished restore. Asks only.
//!
//! Names of objects are compared with those of the run whatever ended the restore. Where it ended by itself its mark names
//! the first transaction that is not its own: every row of a table and of the catalogues carries the transaction that
//! wrote it, so what came later is seen too: rows that were changed, functions that were replaced, privileges. Rows that
//! a vacuum has frozen since carry none any more, and what was deleted leaves nothing to be seen: the restore brings
//! both back as they were saved.

use crate::error::Result;
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;
use crate::postgres::query::strings;
use crate::sql::names::{TableName, literal};

const DOING: &str = "look for what is not of the unfinished restore";

/// Catalogues of a database whose rows have a number and are written by definitions only.
const CATALOGUES: &[&str] = &[
    "pg_am",
    "pg_attrdef",
    "pg_cast",
    "pg_class",
    "pg_collation",
    "pg_constraint",
    "pg_conversion",
    "pg_default_acl",
    "pg_event_trigger",
    "pg_foreign_data_wrapper",
    "pg_foreign_server",
    "pg_language",
    "pg_largeobject_metadata",
    "pg_namespace",
    "pg_opclass",
    "pg_operator",
    "pg_opfamily",
    "pg_policy",
    "pg_proc",
    "pg_publication",
    "pg_rewrite",
    "pg_statistic_ext",
    "pg_transform",
    "pg_trigger",
    "pg_ts_config",
    "pg_ts_dict",
    "pg_ts_parser",
    "pg_ts_template",
    "pg_type",
];

/// True, as SQL, for a row that this transaction, or one after it, wrote.
fn since(row: &str, closed: u64) -> String {
    format!("pg_catalog.age({row}.xmin) <= pg_catalog.age('{closed}'::pg_catalog.xid8::pg_catalog.xid)")
}

/// Objects that belong to no extension and to no other object: in words, and their names.
pub(crate) async fn objects(session: &Session, mark: &str) -> Result<Vec<(String, TableName)>> {
    let in_schemas = [
        (
            "pg_class",
            "relname",
            "relnamespace",
            "(x.relkind IN ('r', 'p', 'v', 'm', 'f') OR x.relkind = 'S' AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend a WHERE a.classid = 1259 AND a.objid = x.oid AND a.deptype = 'a'))",
        ),
        ("pg_proc", "proname", "pronamespace", "true"),
        (
            "pg_type",
            "typname",
            "typnamespace",
            "x.typtype IN ('d', 'e', 'r', 'c') AND (x.typrelid = 0 OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = x.typrelid AND c.relkind = 'c'))",
        ),
        ("pg_collation", "collname", "collnamespace", "true"),
        ("pg_conversion", "conname", "connamespace", "true"),
        ("pg_operator", "oprname", "oprnamespace", "true"),
        ("pg_statistic_ext", "stxname", "stxnamespace", "true"),
        ("pg_ts_config", "cfgname", "cfgnamespace", "true"),
        ("pg_ts_dict", "dictname", "dictnamespace", "true"),
        ("pg_ts_parser", "prsname", "prsnamespace", "true"),
        ("pg_ts_template", "tmplname", "tmplnamespace", "true"),
    ];
    let outside = [
        ("pg_namespace", "nspname"),
        ("pg_publication", "pubname"),
        ("pg_event_trigger", "evtname"),
        ("pg_foreign_data_wrapper", "fdwname"),
        ("pg_foreign_server", "srvname"),
    ];
    let inside = in_schemas.map(|(catalogue, name, schema, condition)| {
        format!(
            "SELECT x.tableoid, x.oid, n.nspname::pg_catalog.text, x.{name}::pg_catalog.text FROM pg_catalog.{catalogue} x
               JOIN pg_catalog.pg_namespace n ON n.oid = x.{schema}
              WHERE n.nspname <> {mark} AND n.nspname !~ '^pg_(temp|toast)' AND {condition}",
            mark = literal(mark)
        )
    });
    let outside = outside.map(|(catalogue, name)| {
        format!(
            "SELECT x.tableoid, x.oid, ''::pg_catalog.text, x.{name}::pg_catalog.text FROM pg_catalog.{catalogue} x
              WHERE x.{name} NOT IN ('public', {mark}) AND x.{name} !~ '^pg_'",
            mark = literal(mark)
        )
    });
    let all: Vec<String> = inside.into_iter().chain(outside).collect();
    let sql = format!(
        "SELECT pg_catalog.pg_describe_object(x.class, x.oid, 0), x.schema, x.name FROM ({}) x(class, oid, schema, name)
          WHERE x.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                WHERE d.classid = x.class AND d.objid = x.oid AND d.deptype IN ('e', 'i'))
          ORDER BY x.class, 2, 3",
        all.join(" UNION ALL ")
    );
    let rows = session.client.query_typed(&sql, &[]).await.map_err(|e| failure(&e).context(DOING))?;
    let name = |row: &tokio_postgres::Row| TableName::new(row.get::<_, String>(1), row.get::<_, String>(2));
    Ok(rows.iter().map(|row| (row.get(0), name(row))).collect())
}

/// Some objects, in words, that were made or changed since a restore closed its mark. Extensions, and what every database
/// has, are not removed with it, and not counted. Large objects are described by the number of `pg_largeobject`.
pub(crate) async fn changed(session: &Session, closed: u64) -> Result<Vec<String>> {
    let all: Vec<String> = CATALOGUES
        .iter()
        .map(|catalogue| format!("SELECT CASE x.tableoid WHEN 2995 THEN 2613 ELSE x.tableoid END, x.oid FROM pg_catalog.{catalogue} x WHERE {}", since("x", closed)))
        .collect();
    let sql = format!(
        "SELECT w.words FROM ({}) x(class, oid), LATERAL (SELECT pg_catalog.pg_describe_object(x.class, x.oid, 0)) w(words)
          WHERE w.words IS NOT NULL AND (x.oid >= 16384 OR x.class = 2613)
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = x.class AND d.objid = x.oid AND d.deptype = 'e')
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname ~ '^pg_(temp|toast)' AND n.oid IN (x.oid,
                   (SELECT c.relnamespace FROM pg_catalog.pg_class c WHERE x.class = 1259 AND c.oid = x.oid),
                   (SELECT t.typnamespace FROM pg_catalog.pg_type t WHERE x.class = 1247 AND t.oid = x.oid)))
          LIMIT 4",
        all.join(" UNION ALL ")
    );
    strings(&session.client, &sql, DOING).await
}

/// The number of rows of a table, as SQL, without those of its heirs; and of those among them that were written since.
pub(crate) async fn rows(session: &Session, table: &str, closed: Option<u64>) -> Result<(u64, u64)> {
    let filter = closed.map_or_else(|| "false".to_owned(), |closed| since("x", closed));
    let sql = format!("SELECT count(*), count(*) FILTER (WHERE {filter}) FROM ONLY {table} x");
    let row = session.client.query_typed_one(&sql, &[]).await;
    let row = row.map_err(|e| failure(&e).context("count the rows of an unfinished restore"))?;
    Ok((row.get::<_, i64>(0).unsigned_abs(), row.get::<_, i64>(1).unsigned_abs()))
}

/// The number of large objects.
pub(crate) async fn large_objects(session: &Session) -> Result<u64> {
    let row = session.client.query_typed_one("SELECT count(*) FROM pg_catalog.pg_largeobject_metadata", &[]).await;
    Ok(row.map_err(|e| failure(&e).context(DOING))?.get::<_, i64>(0).unsigned_abs())
}
