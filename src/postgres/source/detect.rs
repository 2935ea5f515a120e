//! The contents of a database and the part that this role can read: the policy's coverage, found in a handful of
//! queries.
//!
//! Nothing is filtered: every schema of `pg_namespace` but PostgreSQL's own is covered, whether or not the policy's
//! query (on `information_schema.schemata`, which hides schemas from roles without a privilege on them, and whose
//! `LIKE` takes `_` for a wildcard) shows it. Privileges are asked by oid, so a table dropped between two queries
//! yields NULL, never an error.

pub(crate) mod detection;
pub(crate) mod omitted;
pub(crate) mod queries;

use tokio_postgres::Client;

use crate::error::{Context as _, Error, Result};
pub(crate) use crate::postgres::source::detect::detection::{
    Detection, GapKind, RelKind, Relation, SchemaInfo, ServerInfo,
};
use crate::postgres::source::letters::ODD_NAME;

/// Reads a database's catalogue, outside a transaction. Memory: about 300 bytes a relation.
///
/// # Errors
/// Only when the connection or a catalogue fails; what cannot be read is part of the answer.
pub(crate) async fn detect(client: &Client) -> Result<Detection> {
    look(client, None).await
}

/// The same inside a transaction, as of its snapshot; leaves no lock behind that the transaction had not. `before` is an
/// earlier detection in the same session, of which the facts that cannot change are taken. All questions are sent when
/// this is polled first.
///
/// # Errors
/// As [`detect`].
pub(crate) async fn detect_in_transaction(client: &Client, before: &ServerInfo) -> Result<Detection> {
    look(client, Some(before)).await
}

/// The server, the database and the role alone.
///
/// # Errors
/// When the connection or a catalogue fails.
pub(crate) async fn server(client: &Client) -> Result<ServerInfo> {
    queries::server(client, None).await.context("read the server")
}

/// Says what to do about a name that the server cannot say in UTF-8.
fn odd_name(error: Error) -> Error {
    if error.is_sqlstate("22P05") { error.hint(ODD_NAME) } else { error }
}

/// Sends all questions at once; the server answers them in their order, in the time of one or two round trips.
async fn look(client: &Client, in_transaction_after: Option<&ServerInfo>) -> Result<Detection> {
    let (server, schemas, relations, extensions, large_objects, omitted) = tokio::join!(
        biased;
        queries::server(client, in_transaction_after),
        queries::schemas(client),
        queries::relations(client, in_transaction_after.is_some()),
        queries::extensions(client),
        queries::count_large_objects(client),
        omitted::found(client),
    );
    // Behind a statement that fails in a transaction all others fail too: the first one says why.
    let server = server.context("read the server")?;
    let schemas = schemas.map_err(odd_name).context("list the schemas")?;
    let (relations, privileges) = relations
        .and_then(|rows| queries::relations_of(&rows, &server))
        .map_err(odd_name)
        .context("list the relations")?;
    let extensions = extensions.context("list the extensions")?;
    let large_objects = large_objects.context("list the large objects")?;
    let omitted = omitted.context("find what a dump cannot contain")?;
    let mut detection = Detection {
        schemas,
        relations,
        large_objects,
        unreadable: Vec::new(),
        omitted: Vec::new(),
        extensions,
        server,
    };
    detection.note_unreadable(&privileges);
    queries::large_objects(client, &mut detection).await.context("list the large objects")?;
    detection.omitted = omitted::omitted(&omitted, &detection);
    Ok(detection)
}
