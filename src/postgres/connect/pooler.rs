//! Poolers that give each transaction another backend: recognised by what they do, before anything is set.
//!
//! A session of ours sets a search path, a time zone and more, once, after connecting. Behind such a pooler the next
//! transaction may run elsewhere, without these settings, and the next client of that backend would get them: a
//! foreign application that suddenly has an empty search path. So two sessions are opened that set nothing, and
//! asked for their backend: a backend that changes under an open session, or that serves two of them, is shared.

use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;

use crate::error::{Error, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;

/// Longest wait for the second session's backend to end, so that it does not count against a limit any more.
const GONE: Duration = Duration::from_secs(1);

/// The reason why there is no session.
#[derive(Debug)]
pub(crate) enum Refused {
    /// A pooler that shares backends, with what to connect to instead.
    Pooler(Error),
    /// Anything else.
    Other(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Pooler(error) | Refused::Other(error) => error,
        }
    }
}

/// Refuses what is known to be such a pooler by host and port, without connecting.
///
/// # Errors
/// The pooler.
pub(crate) fn refuse_by_name(info: &ConnInfo) -> Result<(), Refused> {
    let supabase = info.host().ends_with(".pooler.supabase.com") || info.host().ends_with(".supabase.co");
    if supabase && info.port() == 6543 { Err(refusal(info, "port 6543 is the transaction pooler")) } else { Ok(()) }
}

/// Refuses a session whose backend is shared between transactions. `timeout` bounds the second session.
///
/// # Errors
/// The pooler; a connection that failed meanwhile.
///
/// Returns the backend of the second session, which may still be there: see [`wait_for_end`].
pub(crate) async fn refuse(session: &Session, timeout: Duration) -> Result<Option<i32>, Refused> {
    let info = session.info();
    // The second session logs in meanwhile, and gets a backend only with its first transaction.
    let (backends, opened) =
        tokio::join!(twice(session), tokio::time::timeout(timeout, Session::open(info, timeout, "")));
    let (first, again) = backends?;
    if again != first {
        return Err(refusal(info, "each transaction runs in another backend"));
    }
    let second = match opened {
        Ok(Ok(other)) => tokio::time::timeout(timeout, in_transaction(other)).await,
        Ok(Err(error)) => Ok(Err(error)),
        Err(elapsed) => Err(elapsed),
    };
    let other = match second {
        Ok(Ok(other)) => other,
        // PgBouncer reports every refusal as a violation of the protocol: one of a transaction only is statement mode.
        Ok(Err(error)) if error.is_sqlstate("08P01") && takes_statements(info, timeout).await => {
            return Err(refusal(info, "it is in statement mode"));
        }
        // No place for a second session (a limit, a full pool): what needs one will say so.
        Ok(Err(error)) => {
            tracing::debug!(%error, "find a pooler with a second session");
            return Ok(None);
        }
        Err(_elapsed) => {
            tracing::debug!("find a pooler: no second session in time");
            return Ok(None);
        }
    };
    let (other, pid) = other;
    let shared = pid == first || backend(session, "").await? != first;
    other.close().await;
    if shared {
        return Err(refusal(info, "two sessions were given the same backend in turn"));
    }
    Ok(Some(pid))
}

/// The backends of two transactions, one after the other.
async fn twice(session: &Session) -> Result<(i32, i32)> {
    Ok((backend(session, "").await?, backend(session, "").await?))
}

/// A session and its backend, kept by an open transaction.
async fn in_transaction(session: Session) -> Result<(Session, i32)> {
    let pid = backend(&session, "BEGIN; ").await?;
    Ok((session, pid))
}

/// True when a new session runs a statement outside of a transaction.
async fn takes_statements(info: &ConnInfo, timeout: Duration) -> bool {
    let probe = async {
        let session = Session::open(info, timeout, "").await?;
        let found = backend(&session, "").await;
        session.close().await;
        found
    };
    matches!(tokio::time::timeout(timeout, probe).await, Ok(Ok(_)))
}

async fn backend(session: &Session, before: &str) -> Result<i32> {
    let sql = format!("{before}SELECT pg_catalog.pg_backend_pid()");
    let messages = session.client.simple_query(&sql).await.map_err(|error| failure(&error))?;
    let pid = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    pid.ok_or_else(|| Error::failed("the server's answer is not PostgreSQL's"))
}

/// Waits until a backend has ended, so that it counts against no limit any more. Behind a session pooler it stays: the
/// pooler cleans it for the next client, which is seen too.
pub(crate) async fn wait_for_end(session: &Session, pid: i32) {
    let gone = async {
        let sql = format!(
            "SELECT 1 FROM pg_catalog.pg_stat_activity WHERE pid OPERATOR(pg_catalog.=) {pid} \
            AND query OPERATOR(pg_catalog.!~~*) 'DISCARD%'"
        );
        while let Ok(messages) = session.client.simple_query(&sql).await {
            if !messages.iter().any(|message| matches!(message, SimpleQueryMessage::Row(_))) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(GONE, gone).await.is_err() {
        tracing::debug!("backend {pid} outlives its session");
    }
}

fn refusal(info: &ConnInfo, sign: &str) -> Refused {
    let refused = Error::failed(format!(
        "connect to {info}: a pooler in transaction mode stands in the way ({sign}); a backup needs sessions that keep their backend"
    ));
    Refused::Pooler(if info.host().ends_with(".pooler.supabase.com") {
        refused.hint("use port 5432 of the same host: the session pooler")
    } else if info.host().ends_with(".supabase.co") {
        refused.hint("use port 5432 of the same host (the direct connection), or the session pooler: aws-N-REGION.pooler.supabase.com, port 5432, user postgres.PROJECT")
    } else {
        refused.hint("connect to the server itself, or through a pool in session mode (PgBouncer: pool_mode = session)")
    })
}
