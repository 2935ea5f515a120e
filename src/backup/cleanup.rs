//! The end of a run that failed or was stopped: nothing that it began is left in the database. A dropped connection
//! does not do that: a backend that waits for a lock, or scans a table without a row to send, keeps its locks until it
//! looks.

use std::sync::OnceLock;
use std::time::Duration;

use crate::error::Result;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::source::waiters;

/// Uploads that are left after this time are reported, and left to the server.
const MOST: Duration = Duration::from_secs(4);
/// pg_dump cancels its statement when it is asked to end: backends have this long to go by themselves.
const BY_THEMSELVES: Duration = Duration::from_millis(150);
const POLL: Duration = Duration::from_millis(50);

/// The database and the name of a run that has connected; nothing before that.
#[derive(Debug, Default)]
pub(crate) struct Cleanup(OnceLock<(ConnInfo, String)>);

impl Cleanup {
    /// Notes that the run has connected, and may have backends from now on.
    pub(crate) fn connected(&self, info: &ConnInfo, run: &str) {
        self.0.get_or_init(|| (info.clone(), run.to_owned()));
    }

    /// Ends every backend of the run, at most within a few seconds. All its sessions were dropped before.
    pub(crate) async fn end_backends(&self) {
        let Some((info, run)) = self.0.get() else { return };
        match tokio::time::timeout(MOST, end(info, run)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("sessions of the run may go on for some seconds: {error}"),
            Err(_elapsed) => {
                tracing::warn!("sessions of the run may go on for some seconds: the server does not answer");
            }
        }
    }
}

async fn end(info: &ConnInfo, run: &str) -> Result<()> {
    tokio::time::sleep(BY_THEMSELVES).await;
    // Where connections are few, one is free as soon as one of the run's own has ended.
    let session = loop {
        match Session::connect(info, MOST, "cleanup").await {
            Ok(session) => break session,
            // The other server has none of them.
            Err(error) if error.is_sqlstate("53300") || info.server().has_strayed() => {
                tracing::debug!("{error}");
                tokio::time::sleep(POLL).await;
            }
            Err(error) => return Err(error),
        }
    };
    waiters::terminate(&session.client, run).await?;
    while waiters::backends(&session.client, run).await? > 0 {
        tokio::time::sleep(POLL).await;
    }
    session.close().await;
    Ok(())
}
