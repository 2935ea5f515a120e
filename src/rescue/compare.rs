//! The three answers: rows that are missing, changed and extra, counted and fetched in the snapshot of the caller's
//! transaction.

use crate::archive::copy_text::Value;
use crate::error::Result;
use crate::postgres::error::is_rejection;
use crate::postgres::target::load::Loader;
use crate::postgres::target::staging::{self, Staging};
use crate::sql::names::quote;

/// Rows of one kind.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) count: u64,
    /// Names and types of the columns.
    pub(crate) columns: Vec<(String, String)>,
    /// The first of the rows.
    pub(crate) rows: Vec<Vec<Value>>,
}

/// Rows with another content.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub(crate) count: u64,
    /// Names and types of the key's columns.
    pub(crate) key: Vec<(String, String)>,
    /// The first of the rows.
    pub(crate) rows: Vec<Change>,
}

/// A row with another content.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) key: Vec<Value>,
    /// The columns that differ: name, type, the value in the run, the live one.
    pub(crate) columns: Vec<(String, String, Value, Value)>,
}

/// Missing, changed and extra rows, and how many rows of the run were chosen. Extra rows are not known where the condition
/// names a column that the live table no longer has.
///
/// # Errors
/// What the server refuses; the condition may fail on the live table only.
pub(crate) async fn all(
    loader: &Loader,
    staging: &Staging,
    condition: Option<&str>,
    limit: u64,
) -> Result<(Found, Changed, Option<Found>, u64)> {
    let name = &staging.live.name;
    let chosen = staging::count(loader, &staging.chosen(), &format!("count the rows of {name}")).await?;
    let kind = |name: &String| {
        let kind = staging.live.column(name).map_or("text", |column| column.kind.as_str());
        (name.clone(), kind.to_owned())
    };
    let run_key: Vec<String> = staging.key.iter().map(|name| Staging::run_column(name)).collect();
    let doing = format!("look for missing rows of {name}");
    let missing = Found {
        count: staging::count(loader, &staging.missing(), &doing).await?,
        columns: staging.columns.iter().map(kind).collect(),
        rows: {
            let columns: Vec<String> = staging.columns.iter().map(|name| Staging::run_column(name)).collect();
            staging::rows(loader, &columns, &staging.missing(), &run_key, limit, &doing).await?
        },
    };
    let changed = Changed { key: staging.key.iter().map(kind).collect(), ..changes(loader, staging, limit).await? };
    // Read with the search path of the role: the condition is a person's. Gone with the savepoint.
    loader.execute("SAVEPOINT extra; SET LOCAL search_path TO DEFAULT", "look for extra rows").await?;
    let extra = match extra(loader, staging, condition, limit).await {
        Ok(extra) => Some(extra),
        Err(error) if condition.is_some() && !staging.lost().is_empty() && is_rejection(&error) => {
            tracing::info!("{error}");
            None
        }
        Err(error) => return Err(error),
    };
    loader.execute("ROLLBACK TO SAVEPOINT extra", "look for extra rows").await?;
    Ok((missing, changed, extra, chosen))
}

async fn extra(loader: &Loader, staging: &Staging, condition: Option<&str>, limit: u64) -> Result<Found> {
    let doing = format!("look for extra rows of {}", staging.live.name);
    let rows = staging.extra(condition);
    let columns = &staging.live.columns;
    let names: Vec<String> = columns.iter().map(|column| quote(&column.name)).collect();
    let key: Vec<String> = staging.key.iter().map(|name| quote(name)).collect();
    Ok(Found {
        count: staging::count(loader, &rows, &doing).await?,
        columns: columns.iter().map(|column| (column.name.clone(), column.kind.clone())).collect(),
        rows: staging::rows(loader, &names, &rows, &key, limit, &doing).await?,
    })
}

async fn changes(loader: &Loader, staging: &Staging, limit: u64) -> Result<Changed> {
    let doing = format!("look for changed rows of {}", staging.live.name);
    let count = staging::count(loader, &staging.changed(), &doing).await?;
    let run_key: Vec<String> = staging.key.iter().map(|name| Staging::run_column(name)).collect();
    let compared = staging.compared();
    let mut columns = run_key.clone();
    for column in &compared {
        columns.extend([Staging::run_column(&column.name), Staging::live_column(&column.name)]);
    }
    let rows = staging::rows(loader, &columns, &staging.changed(), &run_key, limit, &doing).await?;
    let change = |mut row: Vec<Value>| {
        let values = row.split_off(run_key.len().min(row.len()));
        let (mut values, mut differing) = (values.into_iter(), Vec::new());
        for column in &compared {
            let (Some(run), Some(live)) = (values.next(), values.next()) else { break };
            if run != live {
                differing.push((column.name.clone(), column.kind.clone(), run, live));
            }
        }
        Change { key: row, columns: differing }
    };
    Ok(Changed { count, key: Vec::new(), rows: rows.into_iter().map(change).collect() })
}
