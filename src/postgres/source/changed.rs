//! Rows of an extension's configuration table that its own condition leaves out although a person changed them (a
//! reference system of PostGIS below 998999): `pg_dump` takes them for what `CREATE EXTENSION` makes.
//!
//! A row's own transaction tells: those that the extension made came in a transaction that made members of it, or, where
//! none did (after `pg_upgrade`), in the one that made most of them; where there is none, all are saved. Changed rows are saved by their key: the condition of
//! the table names them, and the load replaces what the extension has made again.

use std::collections::HashSet;

use tokio_postgres::Client;

use crate::error::Result;
use crate::format::manifest::Omitted;
use crate::postgres::error::failure;
use crate::postgres::source::absent::{self, AbsentTable};
use crate::postgres::source::detect::{Detection, RelKind, Relation};
use crate::postgres::source::leader::qualified;
use crate::sql::names::{literal, quote};

/// Most changed rows of one table that are named by their keys; more are told and not saved.
const MOST: usize = 1000;

const MADE: &str = "
    SELECT DISTINCT d.xmin::text FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
     WHERE d.refclassid = 3079 AND d.deptype = 'e' AND e.extname = $1
    UNION SELECT e.xmin::text FROM pg_catalog.pg_extension e WHERE e.extname = $1";

const KEY: &str = "
    SELECT a.attname::text FROM pg_catalog.pg_constraint k, unnest(k.conkey) WITH ORDINALITY u(attnum, n), pg_catalog.pg_attribute a
     WHERE k.conrelid = $1 AND k.contype = 'p' AND a.attrelid = k.conrelid AND a.attnum = u.attnum ORDER BY u.n";

/// Widens the conditions of the tables that have such rows, and returns how these are read and loaded. What cannot be
/// saved is named in `omitted`.
pub(crate) async fn with_changed_rows(client: &Client, detection: &mut Detection) -> Result<Vec<AbsentTable>> {
    let mut found = Vec::new();
    for relation in &mut detection.relations {
        let Some((extension, filter)) = relation.extension.clone().zip(relation.filter.clone()) else { continue };
        if relation.relkind != RelKind::Table || relation.unreadable.is_some() {
            continue;
        }
        let rows = changed(client, relation, &extension, &filter).await;
        let rows = rows.map_err(|error| error.context(format!("look at {}", qualified(relation))))?;
        match rows {
            Changed::None => {}
            Changed::Rows(condition) => {
                relation.filter = Some(condition.clone());
                for mut table in absent::tables(client, &[relation]).await? {
                    table.read = format!("COPY (SELECT {} FROM {} {condition}) TO STDOUT", table.columns, qualified(relation));
                    found.push(table);
                }
            }
            Changed::Many(number) => detection.omitted.push(Omitted {
                kind: "changed rows of an extension's table".to_owned(),
                name: format!("{}.{}", relation.schema, relation.name),
                reason: format!(
                    "{number} rows that extension {extension} made were changed since; it has no key, or they are too many, to save them by: apply the changes again after a restore"
                ),
            }),
        }
    }
    Ok(found)
}

/// The rows beyond the condition that the extension did not make.
enum Changed {
    None,
    /// The condition with their keys.
    Rows(String),
    /// So many that cannot be named.
    Many(i64),
}

async fn changed(client: &Client, relation: &Relation, extension: &str, filter: &str) -> Result<Changed> {
    let table = qualified(relation);
    let words = filter.trim();
    let Some(condition) = words.get(..5).filter(|w| w.eq_ignore_ascii_case("where")).and_then(|_| words.get(5..))
    else {
        return Ok(Changed::None);
    };
    let fail = |e: tokio_postgres::Error| failure(&e);
    let beyond = format!("FROM ONLY {table} WHERE ({condition}) IS NOT TRUE");
    let sql = format!("SELECT xmin::text, count(*) {beyond} GROUP BY 1 ORDER BY 2 DESC");
    let groups: Vec<(String, i64)> =
        client.query_typed(&sql, &[]).await.map_err(fail)?.iter().map(|row| (row.get(0), row.get(1))).collect();
    let made = client.query(MADE, &[&extension]).await.map_err(fail)?;
    let mut made: HashSet<String> = made.iter().map(|row| row.get(0)).collect();
    // After pg_upgrade all rows are of one transaction that made no member; after a rewrite of the table all but the latest.
    let all: i64 = groups.iter().map(|(_, rows)| rows).sum();
    let most = groups.first().filter(|(_, rows)| rows * 2 > all);
    if !groups.iter().any(|(transaction, _)| made.contains(transaction)) {
        made.extend(most.map(|(transaction, _)| transaction.clone()));
    }
    let others: Vec<&(String, i64)> = groups.iter().filter(|(transaction, _)| !made.contains(transaction)).collect();
    if others.is_empty() {
        return Ok(Changed::None);
    }
    let number: i64 = others.iter().map(|(_, rows)| rows).sum();
    let key: Vec<String> =
        client.query(KEY, &[&relation.oid]).await.map_err(fail)?.iter().map(|row| quote(row.get(0))).collect();
    if key.is_empty() || usize::try_from(number).is_ok_and(|number| number > MOST) {
        return Ok(Changed::Many(number));
    }
    let transactions: Vec<&str> = others.iter().map(|(transaction, _)| transaction.as_str()).collect();
    let values = key.iter().map(|column| format!("{column}::text")).collect::<Vec<_>>().join(", ");
    let sql = format!("SELECT ARRAY[{values}] {beyond} AND xmin::text = ANY ($1) ORDER BY {}", key.join(", "));
    let rows = client.query(&sql, &[&transactions]).await.map_err(fail)?;
    let keys = rows.iter().map(|row| {
        let values: Vec<String> = row.get(0);
        format!("({})", values.iter().map(|value| literal(value)).collect::<Vec<_>>().join(", "))
    });
    let keys = keys.collect::<Vec<_>>().join(", ");
    Ok(Changed::Rows(format!("WHERE (({condition}) OR ({}) IN ({keys}))", key.join(", "))))
}
