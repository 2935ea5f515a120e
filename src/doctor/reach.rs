//! The way to the database: one server or several behind a name.

use crate::doctor::findings::Report;
use crate::doctor::options::Database;
use crate::error::Result;
use crate::postgres::connect::one_server::NAME_ONE;
use crate::postgres::connect::session::Session;
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
