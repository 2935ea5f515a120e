//! Statements of one line: run them, or take the first column of what they return.

use tokio_postgres::Client;

use crate::error::Result;
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;

/// Runs a query and returns the first column of its rows, which are text.
pub(crate) async fn strings(client: &Client, sql: &str, doing: &str) -> Result<Vec<String>> {
    let rows = client.query_typed(sql, &[]).await.map_err(|e| failure(&e).context(doing))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Runs statements without results.
pub(crate) async fn execute(session: &Session, sql: &str, doing: &str) -> Result<()> {
    session.client.batch_execute(sql).await.map_err(|e| failure(&e).context(doing))
}

/// Runs a statement whose parameters are numbers and columns of text.
pub(crate) async fn insert_arrays(
    session: &Session,
    sql: &str,
    numbers: &[i64],
    texts: &[&[String]],
    doing: &str,
) -> Result<()> {
    let mut parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = vec![&numbers];
    parameters.extend(texts.iter().map(|texts| texts as &(dyn tokio_postgres::types::ToSql + Sync)));
    session.client.execute(sql, &parameters).await.map_err(|e| failure(&e).context(doing)).map(drop)
}
