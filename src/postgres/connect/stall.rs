//! Waiting for a session's answer without waiting for ever. A server may be silent for a good reason for hours (a scan
//! without a hit, a slow disk), and TCP's keep-alive speaks for the next hop only: a balancer or a pooler may answer
//! it for a server that it lost. So a long silence is looked at from another connection: whoever the server thinks it
//! has answered already, or cannot reach, has lost its connection.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;

/// The state of the backend on the server: done with its statement, or waiting for us to read, or to send what we have
/// sent.
const LOOK: &str = "
    SELECT coalesce(state, '') = 'active' AND coalesce(wait_event, '') NOT IN ('ClientRead', 'ClientWrite')
    FROM pg_catalog.pg_stat_activity WHERE pid = $1";

/// Ends that backend, unless its number went to a session of somebody else.
const END: &str = "
    SELECT pg_catalog.pg_terminate_backend(pid)
    FROM pg_catalog.pg_stat_activity WHERE pid = $1 AND usename = current_user AND application_name LIKE 'pgstow%'";

/// The stall detector of one session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StallDetector<'r> {
    /// The connection for a check.
    pub(crate) info: &'r ConnInfo,
    /// Longest time to connect.
    pub(crate) connect_timeout: Duration,
    /// Silence after which to look.
    pub(crate) silence: Duration,
    /// The session.
    pub(crate) session: &'r Session,
}

impl StallDetector<'_> {
    /// Waits for an answer as long as the server is at work on it.
    ///
    /// # Errors
    /// The connection is lost although nobody has closed it; the session is closed from then on, and
    /// its backend is ended.
    pub(crate) async fn wait<T>(&self, answer: impl Future<Output = T>) -> Result<T> {
        let mut answer = std::pin::pin!(answer);
        loop {
            if let Ok(answer) = tokio::time::timeout(self.silence, &mut answer).await {
                return Ok(answer);
            }
            let at_work = tokio::select! {
                biased;
                // It came after all.
                answer = &mut answer => return Ok(answer),
                at_work = is_at_work(self.info, self.connect_timeout, self.session.pid()) => at_work,
            };
            if !at_work {
                self.session.abandon();
                let (info, timeout, pid) = (self.info.clone(), self.connect_timeout, self.session.pid());
                tokio::spawn(async move { tokio::time::timeout(timeout * 2, end(&info, timeout, pid)).await });
                let silence = humantime::format_duration(self.silence);
                return Err(Error::failed(format!(
                    "not a row came for {silence}, and the server is not at work on any"
                )));
            }
            tracing::debug!("backend {} is silent, but at work", self.session.pid());
        }
    }
}

/// Looks from another connection whether a backend is at work.
async fn is_at_work(info: &ConnInfo, connect_timeout: Duration, pid: i32) -> bool {
    let look = async {
        let session = Session::connect_again(info, connect_timeout, "watch").await?;
        let row = session.client.query_opt(LOOK, &[&pid]).await.map_err(|e| failure(&e))?;
        session.close().await;
        Ok::<_, Error>(row.is_some_and(|row| row.get(0)))
    };
    matches!(tokio::time::timeout(connect_timeout * 2, look).await, Ok(Ok(true)))
}

/// Ends the backend of a connection that was cut, with its locks: the server may not notice for hours.
async fn end(info: &ConnInfo, connect_timeout: Duration, pid: i32) -> Result<()> {
    let session = Session::connect_again(info, connect_timeout, "watch").await?;
    session.client.query(END, &[&pid]).await.map_err(|e| failure(&e))?;
    session.close().await;
    Ok(())
}

/// Watches over all answers of a session, as long as it lives: a connection that has died unnoticed is cut, and whoever
/// waits for an answer on it gets an error.
pub(crate) fn guard(session: &Session, connect_timeout: Duration, silence: Duration) {
    let (info, pid, cut) = (session.info().with_silence(None), session.pid(), session.cutter());
    let gate = Arc::downgrade(session.gate());
    let pause = (silence / 4).clamp(Duration::from_millis(50), Duration::from_secs(15));
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(pause).await;
            let Some(silent) = gate.upgrade().map(|gate| gate.silence()) else { return };
            if silent.is_none_or(|silent| silent < silence) || is_at_work(&info, connect_timeout, pid).await {
                continue;
            }
            // It may have come while the other connection was made.
            if gate.upgrade().is_some_and(|gate| gate.silence().is_some_and(|silent| silent >= silence)) {
                let silence = humantime::format_duration(silence);
                tracing::warn!(
                    "backend {pid} has not answered for {silence} and is not at work: its connection is cut"
                );
                cut();
                if let Ok(Err(error)) =
                    tokio::time::timeout(connect_timeout * 2, end(&info, connect_timeout, pid)).await
                {
                    tracing::debug!("end backend {pid}: {error}");
                }
                return;
            }
        }
    });
}
