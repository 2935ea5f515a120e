//! Locks, snapshot and catalogue: the beginning of a run, tried again when others were in the way.

use std::time::Instant;

use libpgdump::format::ArchiveMetadata;

use crate::backup::preflight::leave_out;
use crate::backup::run::Run;
use crate::error::{Error, Result};
use crate::postgres::programs::pg_dump;
use crate::postgres::programs::pg_dump::Failure;
use crate::postgres::settings;
use crate::postgres::source::leader;
use crate::postgres::source::leader::{ATTEMPTS, Candidate, Leader};

/// Locks, snapshot and catalogue; starts over when pg_dump cannot get its locks.
pub(crate) async fn lead(run: &Run, candidate: Candidate) -> Result<(Leader, ArchiveMetadata)> {
    let mut next = Some(candidate);
    let mut refused = String::new();
    for attempt in 1..=ATTEMPTS {
        let candidate = match next.take() {
            Some(candidate) => candidate,
            None => Candidate::connect(&run.options.info, run.options.connect_timeout, &run.name).await?,
        };
        candidate.lock_store(&run.target.store.identity()).await?;
        let leader = candidate.lead(run.options.limits.lock_timeout).await?;
        let asked = Instant::now();
        let request = pg_dump::Request {
            snapshot: &leader.snapshot,
            lock_timeout: run.options.limits.lock_timeout,
            encoding: if leader.detection.server.encoding == "SQL_ASCII" { "SQL_ASCII" } else { "UTF8" },
            run: &run.name,
            options: settings::differing(&leader.session.client).await?,
            leave_out: leave_out(&leader.detection),
        };
        match pg_dump::table_of_contents(&run.tools, &run.options.info, &request).await {
            Ok((meta, warnings)) => {
                for warning in warnings {
                    tracing::warn!("pg_dump: {warning}");
                }
                let (entries, seconds) = (meta.entries.len(), asked.elapsed().as_secs_f64());
                tracing::info!("catalogue read: {entries} entries in {seconds:.2} s by pg_dump {}", run.tools.version);
                return Ok((leader, meta));
            }
            Err(Failure::Failed(error)) => return Err(error),
            Err(Failure::Lock(words)) => {
                tracing::info!(
                    "pg_dump could not get its locks ({words}); letting go and starting over (attempt {attempt} of {ATTEMPTS})"
                );
                refused = leader::holders(&leader.session.client, &leader.detection).await?;
                leader.release().await;
            }
        }
    }
    Err(Error::failed(format!("pg_dump could not get its locks in {ATTEMPTS} attempts: {refused}"))
        .hint("end the waiting statement, or run the backup when no migration is running"))
}
