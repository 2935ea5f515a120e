//! Keys of rows, brought into temporary tables with the types of the columns. A value that its type does not take is found
//! by the number of its key; the value itself is never shown.

use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::error::{failure, is_rejection};
use crate::postgres::query::{execute, insert_arrays};
use crate::sql::names::TableName;

/// Keys that one statement carries.
const CHUNK: usize = 10_000;

/// Keys of one table.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    pub(crate) table: TableName,
    pub(crate) columns: Vec<String>,
    /// The number of each key.
    pub(crate) lines: Vec<i64>,
    /// Of each column, the values of all keys.
    pub(crate) values: Vec<Vec<String>>,
}

/// The reason why keys could not be read.
#[derive(Debug)]
pub(crate) enum Wrong {
    /// A value that the column's type does not take.
    Value { line: i64, column: String, kind: String },
    /// Anything else.
    Error(Error),
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// The name of a temporary table as CREATE takes it.
pub(crate) fn bare(table: &str) -> &str {
    table.trim_start_matches("pg_temp.")
}

/// Brings keys into a temporary table: `line`, and `k0`, `k1`... of the types that `kind` names (with the collation).
///
/// # Errors
/// [`Wrong::Value`] for a value that its type does not take; the server's.
pub(crate) async fn typed(
    session: &Session,
    keys: &Keys,
    number: &str,
    kind: impl Fn(&str) -> Result<(String, String)>,
) -> Result<String, Wrong> {
    let doing = format!("read the keys of {}", keys.table);
    let (raw, table) = (format!("pg_temp.\"pgstow_raw_{number}\""), format!("pg_temp.\"pgstow_keys_{number}\""));
    let texts: Vec<String> = (0..keys.columns.len()).map(|at| format!(", v{at} pg_catalog.text")).collect();
    let texts = texts.concat();
    let make = format!("CREATE TEMPORARY TABLE {} (line pg_catalog.int8{texts}) ON COMMIT DROP", bare(&raw));
    execute(session, &make, &doing).await?;
    let arrays: Vec<String> =
        (0..keys.columns.len()).map(|at| format!(", pg_catalog.unnest(${}::pg_catalog.text[])", at + 2)).collect();
    let arrays = arrays.concat();
    let insert =
        format!("INSERT INTO {raw} SELECT * FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.int8[]){arrays}) x");
    for (at, lines) in keys.lines.chunks(CHUNK).enumerate() {
        let start = at * CHUNK;
        let values: Vec<&[String]> =
            keys.values.iter().map(|all| all.get(start..start + lines.len()).unwrap_or_default()).collect();
        insert_arrays(session, &insert, lines, &values, &doing).await?;
    }
    let mut casts = Vec::new();
    for (at, name) in keys.columns.iter().enumerate() {
        let (kind, collate) = kind(name)?;
        casts.push((format!("CAST(v{at} AS {kind})"), collate, name.clone(), kind));
    }
    let columns: Vec<String> =
        casts.iter().enumerate().map(|(at, (cast, collate, _, _))| format!(", {cast}{collate} AS k{at}")).collect();
    let columns = columns.concat();
    let make = format!("CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT line{columns} FROM {raw}", bare(&table));
    execute(session, "SAVEPOINT keys", &doing).await?;
    match execute(session, &make, &doing).await {
        Ok(()) => {
            execute(session, &format!("RELEASE SAVEPOINT keys; ANALYZE {table}"), &doing).await?;
            Ok(table)
        }
        Err(error) if error.is_sqlstate("22") => {
            for (cast, _, column, kind) in casts {
                if let Some(line) = first_wrong(session, &raw, &cast, &keys.lines).await? {
                    return Err(Wrong::Value { line, column, kind });
                }
            }
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// The first line whose value a cast does not take, found by halves; `None` where it takes all of them.
async fn first_wrong(session: &Session, raw: &str, cast: &str, lines: &[i64]) -> Result<Option<i64>> {
    let doing = "look for a value that is no key";
    let takes = async |lines: &[i64]| {
        let (Some(first), Some(last)) = (lines.first(), lines.last()) else { return Ok(true) };
        execute(session, "ROLLBACK TO SAVEPOINT keys", doing).await?;
        let sql = format!("SELECT count({cast}) FROM {raw} WHERE line BETWEEN {first} AND {last}");
        match session.client.query(&sql, &[]).await.map_err(|e| failure(&e)) {
            Ok(_) => Ok(true),
            Err(error) if is_rejection(&error) => Ok(false),
            Err(error) => Err(error),
        }
    };
    if takes(lines).await? {
        return Ok(None);
    }
    let mut wrong = lines;
    while wrong.len() > 1 {
        let (first, second) = wrong.split_at(wrong.len() / 2);
        wrong = if takes(first).await? { second } else { first };
    }
    Ok(wrong.first().copied())
}
