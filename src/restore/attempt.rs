//! A statement that the server may refuse while its transaction goes on.

use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::restore::entry::is_refusal;

/// Runs a statement in a savepoint of the open transaction; returns the server's refusal, after which that goes on.
///
/// # Errors
/// A connection that broke.
pub(crate) async fn attempt(session: &Session, statement: &str, doing: &str) -> Result<Option<Error>> {
    let sql = format!("SAVEPOINT pgstow; {statement}; RELEASE SAVEPOINT pgstow");
    match target::execute(session, &sql, doing).await {
        Err(error) if is_refusal(&error) => {
            let back = "ROLLBACK TO SAVEPOINT pgstow; RELEASE SAVEPOINT pgstow";
            target::execute(session, back, doing).await.map(|()| Some(error))
        }
        other => other.map(|()| None),
    }
}
