//! The place of a server in the history of its cluster: timeline, the timelines before it, WAL position.
//!
//! A physical copy has the system identifier of its original. What tells the two apart once the copy is promoted is the
//! timeline, as a promotion always begins a new one. Nothing of this is needed by pg_dump, so every question is optional:
//! the role's rights are asked for first, since a function that it may not call ends a transaction.

use tokio_postgres::Client;

use crate::error::Result;
use crate::format::manifest::{Ancestor, Timeline};
use crate::postgres::error::failure;

/// The place of a server in its cluster's history, as far as the role may know.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    pub(crate) timeline: Option<Timeline>,
    /// Position of the last WAL that was written, or replayed.
    pub(crate) wal_lsn: Option<String>,
    pub(crate) in_recovery: bool,
}

const RIGHTS: &str = "SELECT pg_catalog.pg_is_in_recovery(),
    pg_catalog.has_function_privilege('pg_catalog.pg_control_checkpoint()', 'EXECUTE'),
    pg_catalog.has_function_privilege('pg_catalog.pg_control_recovery()', 'EXECUTE'),
    pg_catalog.has_function_privilege('pg_catalog.pg_current_wal_lsn()', 'EXECUTE')
        AND pg_catalog.has_function_privilege('pg_catalog.pg_walfile_name(pg_lsn)', 'EXECUTE'),
    pg_catalog.has_function_privilege('pg_catalog.pg_last_wal_replay_lsn()', 'EXECUTE'),
    pg_catalog.has_function_privilege('pg_catalog.pg_read_file(text, bigint, bigint, boolean)', 'EXECUTE')";

/// Asks for the place of a server. What the role may not know is `None`.
///
/// # Errors
/// When the connection fails.
pub(crate) async fn place(client: &Client) -> Result<Place> {
    let row = client.query_typed_one(RIGHTS, &[]).await.map_err(|error| failure(&error))?;
    let may = |at: usize| row.get::<_, bool>(at);
    let in_recovery = may(0);
    let mut sources = Vec::new();
    if may(1) {
        sources.push("(SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())");
    }
    if in_recovery && may(2) {
        // The last checkpoint may be of before the upstream's promotion.
        sources.push("(SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery())");
        sources.push("(SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver)");
    }
    let mut wal_lsn = None;
    let mut id = None;
    if !in_recovery && may(3) {
        // The checkpoint of a promotion comes later than the promotion; the WAL that is written now knows at once.
        let sql = "SELECT p::pg_catalog.text, pg_catalog.left(pg_catalog.pg_walfile_name(p), 8)
                     FROM pg_catalog.pg_current_wal_lsn() p";
        if let Some(row) = optional(client, sql).await {
            wal_lsn = row.try_get(0).ok();
            id = row.try_get::<_, String>(1).ok().and_then(|hex| u32::from_str_radix(&hex, 16).ok());
        }
    } else if in_recovery && may(4) {
        let row = optional(client, "SELECT pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text").await;
        wal_lsn = row.and_then(|row| row.try_get(0).ok());
    }
    if id.is_none() && !sources.is_empty() {
        let row = optional(client, &format!("SELECT greatest({})::pg_catalog.int8", sources.join(", "))).await;
        id = row.and_then(|row| row.try_get::<_, Option<i64>>(0).ok().flatten()).and_then(|id| u32::try_from(id).ok());
    }
    let Some(id) = id else { return Ok(Place { timeline: None, wal_lsn, in_recovery }) };
    let history = if id == 1 {
        Some(Vec::new())
    } else if may(5) {
        let sql = format!("SELECT pg_catalog.pg_read_file('pg_wal/{id:08X}.history', 0, 1048576, true)");
        let text = optional(client, &sql).await.and_then(|row| row.try_get::<_, Option<String>>(0).ok().flatten());
        text.map(|text| history(&text))
    } else {
        None
    };
    Ok(Place { timeline: Some(Timeline { id, history }), wal_lsn, in_recovery })
}

/// One row of a question that may fail; then nothing is known.
async fn optional(client: &Client, sql: &str) -> Option<tokio_postgres::Row> {
    client
        .query_typed_one(sql, &[])
        .await
        .inspect_err(|error| tracing::debug!("the server's place in its history is not known: {error}"))
        .ok()
}

/// Reads a timeline's history file: number, WAL position and reason, a line for each timeline before it.
fn history(text: &str) -> Vec<Ancestor> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let timeline = words.next()?.parse().ok()?;
        Some(Ancestor { timeline, left_at: words.next()?.to_owned() })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_file_names_each_timeline_before() {
        let text = "1\t0/3000148\tno recovery target specified\n\n2\t1/A0\tbefore 2026-01-01 00:00:00+00\n# words\n";
        let found: Vec<(u32, String)> = history(text).into_iter().map(|one| (one.timeline, one.left_at)).collect();
        assert_eq!(found, [(1, "0/3000148".to_owned()), (2, "1/A0".to_owned())]);
    }
}
