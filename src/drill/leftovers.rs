//! The leftovers of drills that were killed: scratch databases and roles on the server, files with definitions here. A
//! drill that begins reports them, and removes those that are provably a dead drill's: marked, the mark's lock free,
//! nobody else connected.

use crate::error::Result;
use crate::postgres::connect::session::Session;
use crate::postgres::target::scratch;
use crate::restore::private_file;

/// Finds leftovers, removes those that may be removed, and describes them.
///
/// # Errors
/// A server that cannot be asked. Leftovers that cannot be removed are reported only.
pub(crate) async fn clear(session: &Session) -> Result<Vec<String>> {
    let files = private_file::sweep();
    let mut found: Vec<String> =
        files.iter().map(|path| format!("file {} was left by a killed process: removed", path.display())).collect();
    for left in scratch::left_databases(session).await? {
        let name = &left.name;
        let said = match &left.mark {
            None => format!(
                "database {name:?} has the name of a drill's scratch database and no mark: drop it by hand if nobody needs it"
            ),
            Some(_) if left.strangers > 0 => {
                format!(
                    "database {name:?} was left by a killed drill, and somebody is connected to it: it was not dropped"
                )
            }
            Some(mark) => match scratch::drop_left_database(session, name, mark).await {
                Ok(()) => format!("database {name:?} was left by a killed drill: dropped"),
                Err(error) => format!("database {name:?} was left by a killed drill and could not be dropped: {error}"),
            },
        };
        found.push(said);
    }
    for left in scratch::left_roles(session).await? {
        let Some(mark) = &left.mark else { continue };
        match scratch::drop_roles(session, mark).await {
            // The first role of a drill takes the others along.
            Ok(roles) if roles.is_empty() => {}
            Ok(roles) => found.push(format!("roles left by a killed drill: {}: dropped", roles.join(", "))),
            Err(error) => {
                found
                    .push(format!("role {:?} was left by a killed drill and could not be dropped: {error}", left.name));
            }
        }
    }
    for said in &found {
        tracing::warn!("{said}");
    }
    Ok(found)
}
