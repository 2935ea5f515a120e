//! The extensions and types that a server can make, found by trying it in a transaction that is rolled back: an extension may be there as a package
//! and yet not be creatable (it wants to be preloaded, or another database), a collation may name a locale that is not.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::query::execute;
use crate::sql::names::quote;

/// Something to be tried.
#[derive(Debug, Clone)]
pub(crate) struct Try {
    /// The schema that it wants; made where it is not there.
    pub(crate) schema: String,
    /// The statement.
    pub(crate) sql: String,
}

/// Tries these statements one after the other, each on top of those that succeeded, and rolls everything back. Returns
/// the refusal of each, `None` for those that succeed. A statement that ends the session is refused too.
///
/// # Errors
/// A connection that cannot be made.
pub(crate) async fn all(info: &ConnInfo, timeout: Duration, tries: &[Try]) -> Result<Vec<Option<Error>>> {
    let mut answers: Vec<Option<Error>> = vec![None; tries.len()];
    if tries.is_empty() {
        return Ok(answers);
    }
    let mut session = begin(info, timeout).await?;
    let mut next = 0;
    while let Some(one) = tries.get(next) {
        let (answer, is_over) = attempt(&session, one).await;
        if let Some(slot) = answers.get_mut(next) {
            *slot = answer;
        }
        next += 1;
        if is_over {
            session = begin(info, timeout).await?;
            for (again, _) in tries.iter().zip(&answers).take(next).filter(|(_, answer)| answer.is_none()) {
                if let (Some(error), _) = attempt(&session, again).await {
                    return Err(error);
                }
            }
        }
    }
    execute(&session, "ROLLBACK", DOING).await?;
    session.close().await;
    Ok(answers)
}

const DOING: &str = "try what the server can make";

async fn begin(info: &ConnInfo, timeout: Duration) -> Result<Session> {
    let session = Session::connect(info, timeout, "restore").await?;
    execute(&session, "SET client_min_messages = error; BEGIN", DOING).await?;
    Ok(session)
}

/// Returns the refusal, and true where the session is over.
async fn attempt(session: &Session, one: &Try) -> (Option<Error>, bool) {
    let schema = if one.schema.is_empty() || one.schema.starts_with("pg_") {
        String::new()
    } else {
        format!("CREATE SCHEMA IF NOT EXISTS {};", quote(&one.schema))
    };
    let done = execute(session, &format!("SAVEPOINT try; {schema} {}", one.sql), DOING).await;
    let end = if done.is_ok() { "RELEASE try" } else { "ROLLBACK TO try" };
    let ended = execute(session, end, DOING).await;
    (done.err(), ended.is_err())
}

/// Those of these libraries that a session cannot load, each with the reason; none where the role may not try.
///
/// # Errors
/// A connection that cannot be made.
pub(crate) async fn libraries(info: &ConnInfo, timeout: Duration, names: &[String]) -> Result<Vec<(String, Error)>> {
    let mut missing = Vec::new();
    for name in names {
        // What a library does to a session stays in it.
        let session = Session::connect(info, timeout, "restore").await?;
        let sql = format!("LOAD {}", crate::sql::names::literal(name));
        match execute(&session, &sql, "load a library").await {
            Err(error) if error.is_sqlstate("42501") => {}
            Err(error) => missing.push((name.clone(), error)),
            Ok(()) => {}
        }
        session.close().await;
    }
    Ok(missing)
}
