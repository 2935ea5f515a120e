//! The advantage of a newer pg_dump than the one that a backup uses. `doctor` and `backup` say the same.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::postgres::connect::session::Session;
use crate::postgres::programs::tools::PgTools;
use crate::postgres::source::detect::{Detection, RelKind};

/// The first version of pg_dump that asks for many tables at once, and the first that groups large objects.
const ASKS_AT_ONCE: u32 = 16;
const GROUPS_OBJECTS: u32 = 17;
/// Seconds, and large objects, from which on a newer pg_dump is worth a word.
const WORTH: f64 = 2.0;
const MANY_OBJECTS: i64 = 100_000;

/// The advantage of a newer pg_dump with this database at this distance.
pub(crate) fn newer(detection: &Detection, major: u32, round_trip: Duration) -> Option<String> {
    let tables = detection.relations.iter().filter(|r| r.relkind != RelKind::Sequence).count();
    let saved = round_trip.as_secs_f64() * f64::from(u32::try_from(tables).unwrap_or(u32::MAX));
    if major < ASKS_AT_ONCE && saved >= WORTH {
        return Some(format!(
            "pg_dump {major} asks once for each of {tables} tables: one of {ASKS_AT_ONCE} or newer saves about {saved:.0} s"
        ));
    }
    let objects = detection.large_objects;
    (major < GROUPS_OBJECTS && objects >= MANY_OBJECTS).then(|| {
        format!(
            "pg_dump {major} keeps each of {objects} large objects in memory: one of {GROUPS_OBJECTS} or newer does not"
        )
    })
}

/// Times that the distance is measured; the shortest counts.
const MEASURED: usize = 3;

/// Says in one line what a newer pg_dump that is installed would do better.
pub(crate) async fn say(session: &Session, detection: &Detection, tools: &PgTools, bin_dir: Option<&Path>) {
    let mut round_trip = Duration::MAX;
    for _ in 0..MEASURED {
        let begun = Instant::now();
        if session.client.simple_query("SELECT 1").await.is_err() {
            return;
        }
        round_trip = round_trip.min(begun.elapsed());
    }
    let Some(better) = newer(detection, tools.major, round_trip) else { return };
    if let Some(other) = PgTools::newest(bin_dir).filter(|other| other.major >= needed(tools.major)) {
        let folder = other.pg_dump();
        let folder = folder.parent().map_or_else(String::new, |folder| folder.display().to_string());
        tracing::warn!("{better}; pg_dump {} is installed: --pg-bin-dir {folder}", other.version);
    }
}

/// The version that does better than this one.
const fn needed(major: u32) -> u32 {
    if major < ASKS_AT_ONCE { ASKS_AT_ONCE } else { GROUPS_OBJECTS }
}
