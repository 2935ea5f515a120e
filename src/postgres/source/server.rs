//! A server as a whole: the databases that it has, and the places for backups of them. A place is an advisory lock of the
//! database that the session is in, so whoever shares a limit connects to the same one.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::query::strings;

/// Pause between two looks for a free place.
const PAUSE: Duration = Duration::from_millis(700);
/// Time between two log lines about a wait.
const SPEAK: Duration = Duration::from_mins(1);
/// Longest wait for a place; longer than any backup should take.
const PATIENCE: Duration = Duration::from_hours(12);

/// The databases that can be connected to, without templates, sorted by name.
///
/// # Errors
/// When the server cannot be reached or asked.
pub(crate) async fn databases(info: &ConnInfo, timeout: Duration) -> Result<Vec<String>> {
    let session = Session::connect(info, timeout, "databases").await?;
    let sql = "SELECT datname::pg_catalog.text FROM pg_catalog.pg_database
                WHERE datallowconn AND NOT datistemplate ORDER BY datname COLLATE \"C\"";
    let names = strings(&session.client, sql, "list the databases of the server").await;
    session.close().await;
    names
}

/// Connects, and leaves again.
///
/// # Errors
/// When the database cannot be reached.
pub(crate) async fn reach(info: &ConnInfo, timeout: Duration) -> Result<()> {
    Session::connect(info, timeout, "check").await?.close().await;
    Ok(())
}

/// Holds the connection to the server where a backup that `pgstow run` started takes its place, and the number of places.
pub(crate) const PLACE: &str = "PGSTOW_PLACE";
pub(crate) const PLACES: &str = "PGSTOW_PLACES";

/// A place for one backup of a server. It is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    session: Session,
}

impl Place {
    /// Waits until fewer than `limit` backups of this server are being made.
    ///
    /// # Errors
    /// When the server cannot be reached or asked, or no place got free for half a day.
    pub(crate) async fn take(info: &ConnInfo, timeout: Duration, limit: u16) -> Result<Self> {
        // Behind a pooler that shares its sessions a lock would belong to nobody, and stay.
        let session = Session::connect_unpooled(info, timeout, "place").await?;
        let (begun, mut spoken) = (Instant::now(), Instant::now());
        loop {
            for place in 0..limit {
                let sql = format!("SELECT pg_catalog.pg_try_advisory_lock({})::pg_catalog.text", key(place));
                let taken = strings(&session.client, &sql, "take a place of the server").await?;
                if taken.first().is_some_and(|answer| answer == "true") {
                    return Ok(Self { session });
                }
            }
            if begun.elapsed() > PATIENCE {
                return Err(Error::failed(format!("no place for a backup of {info} got free for half a day")));
            }
            if spoken.elapsed() > SPEAK {
                tracing::info!("waiting: {limit} backups of {info} are being made already");
                spoken = Instant::now();
            }
            // Random, so that those who wait do not ask in step.
            tokio::time::sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
        }
    }

    /// Gives the place back.
    pub(crate) async fn leave(self) {
        self.session.close().await;
    }
}

fn key(place: u16) -> i64 {
    xxhash_rust::xxh3::xxh3_64(format!("pgstow place\0{place}").as_bytes()).cast_signed()
}
