//! Foreign keys as the system catalogues have them, and the rows that break them.
//!
//! The statement that finds those rows is the check that PostgreSQL makes itself when a foreign key is added
//! (`RI_Initial_Check` in `ri_triggers.c`): the operators of the constraint, the collation of the key, `ONLY` the tables
//! themselves, periods put together. Whatever compares otherwise finds rows that are sound, or misses some that are not.

use std::collections::HashMap;

use tokio_postgres::Client;

use crate::archive::foreign_keys::ForeignKey as Declared;
use crate::error::Result;
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;
use crate::sql::names::TableName;

/// References between two tables of extensions: (oid of the one that refers, oid of the other). These foreign keys are
/// there before any row is restored, so the rows of the one can only come after those of the other.
///
/// # Errors
/// The server's.
pub(crate) async fn of_extensions(client: &Client) -> Result<Vec<(u32, u32)>> {
    let sql = "SELECT DISTINCT k.conrelid, k.confrelid FROM pg_catalog.pg_constraint k
                WHERE k.contype = 'f' AND k.conrelid <> k.confrelid
                  AND (SELECT count(*) = 2 FROM pg_catalog.pg_depend d
                        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid IN (k.conrelid, k.confrelid)
                          AND d.objsubid = 0 AND d.deptype = 'e')
                ORDER BY 1, 2";
    let rows =
        client.query_typed(sql, &[]).await.map_err(|e| failure(&e).context("read the extensions' foreign keys"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// A foreign key between two tables, with what counts the rows that refer to nothing.
#[derive(Debug, Clone)]
pub(crate) struct ForeignKey {
    /// Its name.
    pub(crate) name: String,
    /// The table that refers.
    pub(crate) from: TableName,
    /// The table that is referred to.
    pub(crate) to: TableName,
    /// It holds for every row.
    pub(crate) is_validated: bool,
    /// `FROM` and `WHERE` of the rows of the one, as `f`, that refer to no row of the other.
    pub(crate) orphans: String,
}

impl ForeignKey {
    /// Counts the rows that refer to nothing.
    pub(crate) fn count(&self) -> String {
        format!("SELECT count(*) {}", self.orphans)
    }
}

/// Rows that referred to nothing at one moment: their tables, and their places there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    tables: Vec<u32>,
    places: Vec<String>,
}

/// The rows that refer to nothing now.
///
/// # Errors
/// The server's.
pub(crate) async fn dangling(session: &Session, key: &ForeignKey, doing: &str) -> Result<Known> {
    let sql = format!("SELECT f.tableoid, f.ctid::pg_catalog.text {}", key.orphans);
    let rows = session.client.query_typed(&sql, &[]).await.map_err(|e| failure(&e).context(doing))?;
    Ok(Known {
        tables: rows.iter().map(|row| row.get(0)).collect(),
        places: rows.iter().map(|row| row.get(1)).collect(),
    })
}

/// Counts the rows that refer to nothing now and did not before.
///
/// # Errors
/// The server's.
pub(crate) async fn new_dangling(session: &Session, key: &ForeignKey, before: &Known, doing: &str) -> Result<u64> {
    let sql = format!(
        "SELECT count(*) {} AND NOT EXISTS (
            SELECT FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.oid[]), pg_catalog.unnest($2::pg_catalog.text[])) b(t, c)
             WHERE b.t OPERATOR(pg_catalog.=) f.tableoid AND b.c::pg_catalog.tid OPERATOR(pg_catalog.=) f.ctid)",
        key.orphans
    );
    let row = session.client.query_one(&sql, &[&before.tables, &before.places]).await;
    Ok(row.map_err(|e| failure(&e).context(doing))?.get::<_, i64>(0).unsigned_abs())
}

/// All foreign keys of a database.
///
/// # Errors
/// A connection that broke.
pub(crate) async fn all(session: &Session) -> Result<Vec<ForeignKey>> {
    matching(session, "true", &[]).await
}

/// The topmost table of each partition.
///
/// # Errors
/// A connection that broke.
pub(crate) async fn roots(session: &Session) -> Result<HashMap<TableName, TableName>> {
    let sql = "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, rn.nspname::pg_catalog.text, r.relname::pg_catalog.text
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 JOIN pg_catalog.pg_class r ON r.oid = pg_catalog.pg_partition_root(c.oid)
                 JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
                WHERE c.relispartition AND c.relkind IN ('r', 'p', 'f')";
    let rows = session.client.query_typed(sql, &[]).await.map_err(|e| failure(&e).context("read the partitions"))?;
    let table =
        |row: &tokio_postgres::Row, at: usize| TableName::new(row.get::<_, String>(at), row.get::<_, String>(at + 1));
    Ok(rows.iter().map(|row| (table(row, 0), table(row, 2))).collect())
}

/// The foreign keys that refer from or to these tables (names as SQL) or to what they are partitions of, and that hold for
/// every row.
///
/// # Errors
/// A connection that broke.
pub(crate) async fn touching(session: &Session, tables: &[String]) -> Result<Vec<ForeignKey>> {
    let ours = "SELECT pg_catalog.to_regclass(n)::pg_catalog.oid FROM pg_catalog.unnest($1::pg_catalog.text[]) n
                UNION SELECT a.relid::pg_catalog.oid FROM pg_catalog.unnest($1::pg_catalog.text[]) n,
                             LATERAL pg_catalog.pg_partition_ancestors(pg_catalog.to_regclass(n)) a";
    let condition = format!("k.convalidated AND (k.conrelid IN ({ours}) OR k.confrelid IN ({ours}))");
    matching(session, &condition, &[&tables]).await
}

/// The name of a table as a foreign key sees it, as SQL that makes SQL: without its heirs, but with its partitions.
fn itself(namespace: &str, class: &str) -> String {
    format!(
        "CASE {class}.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || pg_catalog.quote_ident({namespace}.nspname) || '.'
         || pg_catalog.quote_ident({class}.relname)"
    )
}

/// The cast of a column to what an operator takes, as SQL that makes SQL; nothing where it takes types of many kinds.
fn cast(taken: &str, column: &str) -> String {
    format!(
        "CASE WHEN {taken} OPERATOR(pg_catalog.=) {column}
               OR (SELECT y.typtype = 'p' FROM pg_catalog.pg_type y WHERE y.oid = {taken}) THEN ''
              ELSE '::' || pg_catalog.format_type({taken}, -1) END"
    )
}

async fn matching(
    session: &Session,
    condition: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Vec<ForeignKey>> {
    let sql = format!(
        "SELECT k.conname::pg_catalog.text, n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
                rn.nspname::pg_catalog.text, r.relname::pg_catalog.text, k.convalidated,
                'FROM ' || {from} || ' f WHERE ' || CASE k.confmatchtype WHEN 'f' THEN '(' || p.anyone || ')' ELSE p.every END
                || CASE WHEN coalesce((pg_catalog.to_jsonb(k) ->> 'conperiod')::pg_catalog.bool, false)
                   THEN ' AND NOT coalesce((SELECT ' || p.last || ' OPERATOR(pg_catalog.<@) pg_catalog.range_agg(' || p.other_last
                        || ') FROM ' || {to} || ' t WHERE ' || p.same || '), false)'
                   ELSE ' AND NOT EXISTS (SELECT FROM ' || {to} || ' t WHERE ' || p.same || ')' END
           FROM pg_catalog.pg_constraint k
           JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_catalog.pg_class r ON r.oid = k.confrelid JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace,
                LATERAL (SELECT pg_catalog.string_agg({own} || ' IS DISTINCT FROM NULL', ' AND ' ORDER BY u.at),
                                pg_catalog.string_agg({own} || ' IS DISTINCT FROM NULL', ' OR ' ORDER BY u.at),
                                pg_catalog.string_agg({other} || {to_left}
                                  || coalesce((SELECT ' COLLATE ' || pg_catalog.quote_ident(ln.nspname) || '.' || pg_catalog.quote_ident(l.collname)
                                                 FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace ln ON ln.oid = l.collnamespace
                                                WHERE l.oid = b.attcollation), '')
                                  || ' OPERATOR(' || pg_catalog.quote_ident(m.nspname) || '.' || o.oprname || ') ' || {own} || {to_right},
                                  ' AND ' ORDER BY u.at),
                                (pg_catalog.array_agg({own} ORDER BY u.at DESC))[1],
                                (pg_catalog.array_agg({other} ORDER BY u.at DESC))[1]
                           FROM ROWS FROM (pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.confkey), pg_catalog.unnest(k.conpfeqop))
                                WITH ORDINALITY u(one, other, op, at)
                           JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.one
                           JOIN pg_catalog.pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = u.other
                           JOIN pg_catalog.pg_operator o ON o.oid = u.op
                           JOIN pg_catalog.pg_namespace m ON m.oid = o.oprnamespace) p(every, anyone, same, last, other_last)
          WHERE k.contype = 'f' AND k.conparentid = 0 AND {condition}
          ORDER BY k.oid",
        from = itself("n", "c"),
        to = itself("rn", "r"),
        own = "'f.' || pg_catalog.quote_ident(a.attname)",
        other = "'t.' || pg_catalog.quote_ident(b.attname)",
        to_left = cast("o.oprleft", "b.atttypid"),
        to_right = cast("o.oprright", "a.atttypid"),
    );
    let rows =
        session.client.query(&sql, parameters).await.map_err(|e| failure(&e).context("read the foreign keys"))?;
    let table =
        |row: &tokio_postgres::Row, at: usize| TableName::new(row.get::<_, String>(at), row.get::<_, String>(at + 1));
    let key = |row: &tokio_postgres::Row| ForeignKey {
        name: row.get(0),
        from: table(row, 1),
        to: table(row, 3),
        is_validated: row.get(5),
        orphans: row.get(6),
    };
    Ok(rows.iter().map(key).collect())
}

/// All foreign keys of a database, as their definitions say.
///
/// # Errors
/// A connection that broke.
pub(crate) async fn declared(session: &Session) -> Result<Vec<Declared>> {
    // Periods and lists of columns came with later versions than the oldest server.
    let names = |relation: &str, numbers: &str| {
        format!(
            "ARRAY(SELECT a.attname::pg_catalog.text FROM {numbers} u(num, at)
                     JOIN pg_catalog.pg_attribute a ON a.attrelid = {relation} AND a.attnum = u.num::pg_catalog.int2 ORDER BY u.at)"
        )
    };
    let only = "pg_catalog.jsonb_array_elements_text(CASE pg_catalog.jsonb_typeof(j.j -> 'confdelsetcols') WHEN 'array'
                    THEN j.j -> 'confdelsetcols' ELSE '[]' END) WITH ORDINALITY";
    let sql = format!(
        "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, rn.nspname::pg_catalog.text, r.relname::pg_catalog.text,
                {}, {}, coalesce((j.j ->> 'conperiod')::pg_catalog.bool, false), k.confdeltype = 'n', {}
           FROM pg_catalog.pg_constraint k
           JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_catalog.pg_class r ON r.oid = k.confrelid JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace,
                LATERAL (SELECT pg_catalog.to_jsonb(k)) j(j)
          WHERE k.contype = 'f' AND k.conparentid = 0
          ORDER BY k.oid",
        names("k.conrelid", "pg_catalog.unnest(k.conkey) WITH ORDINALITY"),
        names("k.confrelid", "pg_catalog.unnest(k.confkey) WITH ORDINALITY"),
        names("k.conrelid", only)
    );
    let rows = session.client.query(&sql, &[]).await.map_err(|e| failure(&e).context("read the foreign keys"))?;
    let key = |row: &tokio_postgres::Row| {
        let (own, other, only): (Vec<String>, Vec<String>, Vec<String>) = (row.get(4), row.get(5), row.get(8));
        let set_null = match (row.get(7), only.is_empty()) {
            (false, _) => Vec::new(),
            (true, true) => own.clone(),
            (true, false) => only,
        };
        Declared {
            from: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
            to: TableName::new(row.get::<_, String>(2), row.get::<_, String>(3)),
            columns: own.into_iter().zip(other).collect(),
            period: row.get(6),
            set_null,
        }
    };
    Ok(rows.iter().map(key).collect())
}
