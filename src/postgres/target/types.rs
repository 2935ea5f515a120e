//! Types of the target by the words of a definition.

use crate::error::Result;
use crate::postgres::connect::session::Session;
use crate::postgres::error::{failure, is_rejection};

/// The type, without length or precision, that a definition names, where PostgreSQL itself has it; `None` for a type that
/// somebody made, or that is not there.
///
/// # Errors
/// A connection that broke.
pub(crate) async fn built_in(session: &Session, kind: &str) -> Result<Option<String>> {
    let sql = "SELECT pg_catalog.format_type(t.oid, -1) FROM pg_catalog.pg_type t
                WHERE t.oid = pg_catalog.to_regtype($1) AND t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace
                  AND t.typtype = 'b'";
    match session.client.query_opt(sql, &[&kind]).await.map_err(|e| failure(&e).context("look at a type")) {
        Ok(row) => Ok(row.map(|row| row.get(0))),
        Err(error) if is_rejection(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
