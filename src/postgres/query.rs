//! Statements of one line: run them, or take the first column of what they return; and requests put on the wire one behind
//! the other, so that many of them cost one round trip.

use std::error::Error as StdError;
use std::task::Poll;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio_postgres::Client;
use tokio_postgres::types::{FromSql, Type};

use crate::error::Result;
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;
use crate::sql::letters::sendable;

/// A text as the server sends it. Names of roles, databases and tablespaces have the bytes of the database in which they
/// were given, which may be no UTF-8: what is not becomes U+FFFD, as no name of a run has it.
pub(crate) struct Lossy(pub(crate) String);

impl FromSql<'_> for Lossy {
    fn from_sql(_type: &Type, raw: &[u8]) -> std::result::Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(String::from_utf8_lossy(raw).into_owned()))
    }

    fn accepts(kind: &Type) -> bool {
        <&str as FromSql>::accepts(kind)
    }
}

/// A request that was sent, or its answer.
pub(crate) type Answer<'c, T> = BoxFuture<'c, Result<T, tokio_postgres::Error>>;

/// Puts a request on the wire without waiting for its answer: the driver sends it when its future is polled first.
/// Several are sent one by one: a set of futures may leave some of them for later, and what is sent later than the
/// COPYs behind it would be waited for for ever. The answers come in the order of the requests.
pub(crate) async fn sent<'c, T: Send + 'c>(
    request: impl Future<Output = Result<T, tokio_postgres::Error>> + Send + 'c,
) -> Answer<'c, T> {
    let mut request = request.boxed();
    match futures::poll!(&mut request) {
        Poll::Ready(answer) => std::future::ready(answer).boxed(),
        Poll::Pending => request,
    }
}

/// Runs a query and returns the first column of its rows, which are text.
pub(crate) async fn strings(client: &Client, sql: &str, doing: &str) -> Result<Vec<String>> {
    let rows = client.query_typed(sql, &[]).await.map_err(|e| failure(&e).context(doing))?;
    let texts = rows.iter().map(|row| row.try_get::<_, Lossy>(0).map(|text| text.0));
    texts.collect::<std::result::Result<_, _>>().map_err(|e| failure(&e).context(doing))
}

/// Runs statements without results.
pub(crate) async fn execute(session: &Session, sql: &str, doing: &str) -> Result<()> {
    let sql = sendable(sql, session.encoding());
    session.client.batch_execute(&sql).await.map_err(|e| failure(&e).context(doing))
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
