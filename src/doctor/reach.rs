//! The way to the database: one server or several behind a name, and what a newer pg_dump would save at this distance.

use std::time::Duration;

use crate::doctor::findings::Report;
use crate::doctor::options::Database;
use crate::error::Result;
use crate::postgres::connect::one_server::NAME_ONE;
use crate::postgres::connect::session::Session;
use crate::postgres::source::detect::{Detection, RelKind};
use crate::postgres::source::health;

const AREA: &str = "database";
/// Sessions that are tried for whether they all reach one server: a balancer with two may give every other to one.
const TRIED: usize = 4;

/// The snapshot of one server is worth nothing on another one.
pub(crate) async fn one_server(session: &Session, asked: &Database, report: &mut Report) -> Result<()> {
    let Ok(own) = health::started(&session.client).await else {
        // The role may not ask; nothing that a backup needs.
        return Ok(());
    };
    let mut info = session.info().clone();
    if session.tls_version().is_none() {
        // One connection a session: with two, the second of which stays, every session may reach one server of two.
        info.set("sslmode", "disable");
    }
    let mut others = Vec::new();
    for _ in 1..TRIED {
        // Kept open: a balancer may give the next one to whoever has the fewest.
        match Session::connect(&info.to_any_server(), asked.connect_timeout, "doctor").await {
            Ok(other) if health::started(&other.client).await? == own => others.push(other),
            Ok(_elsewhere) => {
                let text = format!("{} leads to several servers in turn", session.info());
                report.error(AREA, "endpoint", text, [NAME_ONE.to_owned()]);
                return Ok(());
            }
            // Too few connections, which is looked at below.
            Err(_refused) => return Ok(()),
        }
    }
    report.ok(AREA, "endpoint", "all sessions reach the same server");
    Ok(())
}

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
