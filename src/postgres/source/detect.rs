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

use crate::error::{Context as _, Result};
pub(crate) use crate::postgres::source::detect::detection::{
    Detection, GapKind, RelKind, Relation, SchemaInfo, ServerInfo,
};

/// Reads a database's catalogue, outside a transaction. Memory: about 300 bytes a relation.
///
/// # Errors
/// Only when the connection or a catalogue fails; what cannot be read is part of the answer.
pub(crate) async fn detect(client: &Client) -> Result<Detection> {
    look(client, false).await
}

/// The same inside a transaction, as of its snapshot; leaves no lock behind that the transaction had not.
///
/// # Errors
/// As [`detect`].
pub(crate) async fn detect_in_transaction(client: &Client) -> Result<Detection> {
    look(client, true).await
}

/// The server, the database and the role alone.
///
/// # Errors
/// When the connection or a catalogue fails.
pub(crate) async fn server(client: &Client) -> Result<ServerInfo> {
    queries::server(client).await.context("read the server")
}

async fn look(client: &Client, in_transaction: bool) -> Result<Detection> {
    let server = queries::server(client).await.context("read the server")?;
    let schemas = queries::schemas(client).await.context("list the schemas")?;
    let (relations, privileges) =
        queries::relations(client, &server, in_transaction).await.context("list the relations")?;
    let extensions = queries::extensions(client).await.context("list the extensions")?;
    let (unreadable, omitted) = (Vec::new(), Vec::new());
    let mut detection = Detection { schemas, relations, large_objects: 0, unreadable, omitted, extensions, server };
    detection.note_unreadable(&privileges);
    queries::large_objects(client, &mut detection).await.context("list the large objects")?;
    detection.omitted = omitted::omitted(client, &detection).await.context("find what a dump cannot contain")?;
    Ok(detection)
}
