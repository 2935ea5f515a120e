//! A run as a guest of the database it reads: it notices who waits because of it, and leaves in time.
//!
//! Two limits end a run cleanly (exit code 1, uploads aborted, no manifest): `--max-block`, how long another session
//! may wait for a table because of our locks, and `--deadline`, how long the run may take at all. Both hold until the
//! rows are stored; what is left then (a manifest and a pointer) takes a moment and no lock, and is not cut in two.
//! With `--max-block none` waiting sessions are reported and nothing else happens.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::backup::counters::Counters;
use crate::backup::options::Limits;
use crate::error::{Error, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::source::detect::ServerInfo;
use crate::postgres::source::waiters::{Waiter, Watcher};

/// Longest wait for an answer of the watcher's session; then it is made anew.
const ANSWER: Duration = Duration::from_secs(5);
/// Time between two checks. A session that waits for less than that is not reported.
const POLL: Duration = Duration::from_secs(1);
/// Connections of a run besides its readers and the watcher: leader, pg_dump or pg_dumpall, large objects.
const BESIDES: i64 = 3;

/// The limits that end a run before its time.
#[derive(Debug)]
pub(crate) struct Guest {
    limits: Limits,
    counters: Arc<Counters>,
    overstayed: watch::Sender<Option<Error>>,
}

/// Since when each session has waited for which table.
type Since = HashMap<(i32, String), Instant>;

/// Checks until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    _task: Option<AbortOnDropHandle<()>>,
}

impl Guest {
    /// A guest that keeps to these limits.
    pub(crate) fn new(limits: Limits, counters: &Arc<Counters>) -> Self {
        Self { limits, counters: Arc::clone(counters), overstayed: watch::channel(None).0 }
    }

    /// Waits for the first limit that is reached and returns the error to end with.
    pub(crate) async fn overstays(&self) -> Error {
        let mut overstayed = self.overstayed.subscribe();
        let blocked = async {
            match overstayed.wait_for(Option::is_some).await {
                Ok(error) => error.clone().unwrap_or_else(|| Error::failed("the watcher is gone")),
                Err(_never_closed) => std::future::pending().await,
            }
        };
        let late = async {
            match self.limits.deadline {
                Some(deadline) => tokio::time::sleep_until((self.limits.begun + deadline).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            error = blocked => error,
            () = late => self.late(),
        }
    }

    fn late(&self) -> Error {
        let deadline = humantime::format_duration(self.limits.deadline.unwrap_or_default());
        Error::failed(format!(
            "the deadline of {deadline} is reached: {}; nothing was promoted",
            self.counters.reached()
        ))
        .hint(
            "give it more time (--deadline), more sessions (--jobs), or run it where no time limit cuts it; \
             the run before is as it was",
        )
    }

    /// Begins to look for sessions that wait because of the run, where the server has a connection to spare for it.
    pub(crate) fn watch(self: &Arc<Self>, info: &ConnInfo, server: &ServerInfo, look: Look) -> Watch {
        if let Some(few) = too_few(server, look.jobs) {
            tracing::warn!("{few}: nobody looks for sessions that wait for the backup's locks{}", self.without());
            return Watch { _task: None };
        }
        let (guest, info) = (Arc::clone(self), info.clone());
        let task = tokio::spawn(async move {
            let mut since = Since::new();
            let mut blind: Option<Instant> = None;
            loop {
                let error = match Watcher::connect(&info, look.connect_timeout, &look.run).await {
                    Ok(watcher) => match guest.look(&watcher, &mut since, &mut blind).await {
                        Ok(()) => return,
                        Err(error) => error,
                    },
                    Err(error) => error,
                };
                // Said once for each time that it is blind.
                if blind.is_none() {
                    blind = Some(Instant::now());
                    tracing::warn!(
                        "cannot see whether sessions wait for the backup's locks{}; trying again: {error}",
                        guest.without()
                    );
                }
                tokio::time::sleep(POLL).await;
            }
        });
        Watch { _task: Some(AbortOnDropHandle::new(task)) }
    }

    fn without(&self) -> &'static str {
        if self.limits.max_block.is_some() { "; --max-block has no effect" } else { "" }
    }

    /// Checks again and again; ends with an error, or when another session was blocked for too long.
    async fn look(&self, watcher: &Watcher, since: &mut Since, blind: &mut Option<Instant>) -> Result<()> {
        let pause = self.limits.max_block.map_or(POLL, |most| (most / 4).clamp(Duration::from_millis(50), POLL));
        let mut ticks = tokio::time::interval(pause);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Sessions that were blocked before a blind time were blocked in it.
            let waiters = tokio::time::timeout(ANSWER, watcher.waiters())
                .await
                .map_err(|_elapsed| Error::failed("the server does not answer on the watcher's connection"))??;
            if blind.take().is_some() {
                tracing::info!("sessions that wait for the backup's locks are seen again");
            }
            let now = Instant::now();
            let key = |waiter: &Waiter| (waiter.pid, waiter.table.clone());
            since.retain(|known, _| waiters.iter().any(|waiter| key(waiter) == *known));
            for waiter in &waiters {
                let first = *since.entry(key(waiter)).or_insert_with(|| {
                    tracing::warn!("another session is blocked by this backup: {}", described(waiter));
                    now
                });
                let waited = now.duration_since(first);
                if let Some(most) = self.limits.max_block.filter(|most| waited >= *most) {
                    self.overstayed.send_replace(Some(blocked(waiter, waited, most)));
                    return Ok(());
                }
            }
        }
    }
}

/// The run that a watch belongs to.
#[derive(Debug)]
pub(crate) struct Look {
    /// The end of the application names of the run's sessions.
    pub(crate) run: String,
    /// Longest time to connect.
    pub(crate) connect_timeout: Duration,
    /// Sessions that read.
    pub(crate) jobs: u16,
}

fn described(waiter: &Waiter) -> String {
    let Waiter { pid, table, who, statement, behind } = waiter;
    let queue = match behind {
        0 => String::new(),
        1 => "; 1 more session waits behind it".to_owned(),
        n => format!("; {n} more sessions wait behind it"),
    };
    format!("pid {pid} ({who}) waits for {table}: {statement}{queue}")
}

fn blocked(waiter: &Waiter, waited: Duration, most: Duration) -> Error {
    let (waited, most) = (Duration::from_millis(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX)), most);
    Error::failed(format!("the backup gave way after {}: {}", humantime::format_duration(waited), described(waiter)))
        .hint(format!(
            "that is --max-block {}: run the backup when no migration is running, or allow more",
            humantime::format_duration(most)
        ))
}

/// The reason why a connection cannot be spared, where that can be known.
fn too_few(server: &ServerInfo, jobs: u16) -> Option<String> {
    // The leader's own connection is among those that were counted.
    let needed = i64::from(jobs) + BESIDES;
    let free = server.max_connections - server.reserved_connections - server.connections;
    if free < needed {
        return Some(format!("the server has {} connections to spare, the backup wants {needed} more", free.max(0)));
    }
    let limit = server.role_connection_limit;
    (limit >= 0 && limit < needed + 1)
        .then(|| format!("role {} may have {limit} connections, the backup wants {}", server.role, needed + 1))
}
