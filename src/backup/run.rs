//! One run while it is made: its name, what it was asked for, and what every step of it needs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backup::counters::Counters;
use crate::backup::options::Options;
use crate::error::Result;
use crate::format::manifest::{LargeObjects, Object, Roles, Schema, Skipped};
use crate::objects::write::Target;
use crate::pipeline::rate::Rate;
use crate::postgres::connect::session::Session;
use crate::postgres::connect::stall;
use crate::postgres::programs::tools::PgTools;
use crate::postgres::source::leader::Leader;
use crate::postgres::source::rows::{Readers, Stumbles};
use crate::postgres::source::timeline::Place;

/// Longest wait for a connection to be free.
const FREE: Duration = Duration::from_secs(5);

/// Everything a run is made with.
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) started: jiff::Timestamp,
    pub(crate) options: Options,
    pub(crate) tools: PgTools,
    /// Further words for `PGOPTIONS` of the programs.
    pub(crate) child_options: Option<&'static str>,
    /// The destination of its objects.
    pub(crate) target: Target,
    pub(crate) counters: Arc<Counters>,
    /// The limit on how fast rows are read, which all its sessions share.
    pub(crate) rate: Rate,
    /// The place of the server in its cluster's history when the run began.
    pub(crate) place: Place,
}

/// The stored objects from which the manifest is written.
pub(crate) struct Gathered {
    pub(crate) schemas: Vec<Schema>,
    /// Rows that cannot be read.
    pub(crate) damaged: Vec<Skipped>,
    pub(crate) roles: Roles,
    pub(crate) database: Object,
    pub(crate) large_objects: LargeObjects,
}

/// `20261122T150405Z-1a2b3c`: sorts by start, also within a second. Of the 24 bits behind the second the first 10 are its
/// 1024ths, the others are random, so that two runs of one moment differ.
pub(crate) fn run_name(started: jiff::Timestamp) -> String {
    let second = started.strftime("%Y%m%dT%H%M%SZ");
    // Before 1970 the fraction is negative; there are no such runs.
    let fraction = u64::try_from(started.subsec_nanosecond()).unwrap_or(0) * 1024 / 1_000_000_000;
    format!("{second}-{:06x}", fraction << 14 | u64::from(rand::random::<u16>() >> 2))
}

impl Run {
    /// Opens a session for a short question. Where connections are few, waits for one of the run's own to end.
    pub(crate) async fn short_session(&self, purpose: &str) -> Result<Session> {
        let begun = Instant::now();
        let name = format!("{purpose} {}", self.name);
        loop {
            match Session::connect(&self.options.info, self.options.connect_timeout, &name).await {
                Ok(session) => {
                    stall::guard(&session, self.options.connect_timeout, self.options.limits.stall_timeout);
                    return Ok(session);
                }
                Err(error) if error.is_sqlstate("53300") && begun.elapsed() < FREE => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The state that the readers of this run share.
    pub(crate) fn readers(&self, leader: &Leader) -> Readers {
        Readers {
            info: self.options.info.clone(),
            connect_timeout: self.options.connect_timeout,
            snapshot: leader.snapshot.clone(),
            lock_timeout: self.options.limits.lock_timeout,
            stall_timeout: self.options.limits.stall_timeout,
            rate: self.rate.clone(),
            encoding: None,
            stumbles: Stumbles::default(),
            run: self.name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::layout;

    #[test]
    fn run_names_have_the_form_of_the_layout() {
        let name = run_name(jiff::Timestamp::UNIX_EPOCH);
        assert!(layout::is_run(&name), "{name}");
        assert!(name.starts_with("19700101T000000Z-00"), "{name}");
        let last = run_name("1970-01-01T00:00:00.999999999Z".parse().unwrap());
        assert!(layout::is_run(&last) && last.starts_with("19700101T000000Z-ff"), "{last}");
    }

    #[test]
    fn runs_of_one_second_sort_by_their_start() {
        let names: Vec<String> =
            (0..500).map(|ms| run_name(jiff::Timestamp::from_millisecond(2 * ms).unwrap())).collect();
        assert!(names.is_sorted(), "{names:?}");
    }
}
