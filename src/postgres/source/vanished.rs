//! Objects that others dropped while pg_dump read the catalogue. pg_dump lists objects as of the snapshot, but asks the
//! server's functions for their definitions, which know only what is there now: it fails, or prints a definition with
//! holes. What is true is found out afterwards, by a listing of a later moment.

use std::collections::HashSet;

use libpgdump::Entry;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::archive::catalogue::{PG_CLASS, oid};
use crate::error::Result;
use crate::postgres::error::failure;
use crate::sql::names::TableName;

/// A view, materialized view, sequence or foreign table of the snapshot: no lock keeps it from being dropped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Unlocked {
    pub(crate) oid: u32,
    pub(crate) name: TableName,
}

/// The relations of the snapshot that the leader does not lock; asked in its transaction.
pub(crate) async fn unlocked(client: &Client) -> Result<Vec<Unlocked>> {
    let sql = "SELECT c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE c.relkind IN ('v', 'm', 'S', 'f') AND c.oid >= 16384 AND n.nspname !~ '^pg_(toast_)?temp_'";
    let rows = client.query_typed(sql, &[]).await.map_err(|e| failure(&e).context("list views and sequences"))?;
    Ok(rows
        .iter()
        .map(|row| Unlocked { oid: row.get(0), name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)) })
        .collect())
}

/// Those of these objects, by class and oid, that are no longer there. Asked outside the leader's transaction.
pub(crate) async fn gone(client: &Client, objects: &HashSet<(u32, u32)>) -> Result<HashSet<(u32, u32)>> {
    let known = objects.iter().filter(|(class, _)| CLASSES.iter().any(|(known, _)| known == class));
    let (classes, oids): (Vec<u32>, Vec<u32>) = known.copied().unzip();
    let tests = CLASSES.map(|(class, name)| {
        format!("WHEN {class} THEN NOT EXISTS (SELECT FROM pg_catalog.{name} t WHERE t.oid = x.o)")
    });
    let sql = format!(
        "SELECT x.c, x.o FROM unnest($1::pg_catalog.oid[], $2::pg_catalog.oid[]) x(c, o)
          WHERE CASE x.c {} ELSE false END",
        tests.join(" ")
    );
    if oids.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = client.query_typed(&sql, &[(&classes, Type::OID_ARRAY), (&oids, Type::OID_ARRAY)]).await;
    let rows = rows.map_err(|e| failure(&e).context("find objects that were dropped"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Catalogues that every role may read, with objects that no lock of the leader keeps from being dropped.
const CLASSES: [(u32, &str); 19] = [
    (1247, "pg_type"),
    (1255, "pg_proc"),
    (PG_CLASS, "pg_class"),
    (1417, "pg_foreign_server"),
    (2328, "pg_foreign_data_wrapper"),
    (2601, "pg_am"),
    (2605, "pg_cast"),
    (2607, "pg_conversion"),
    (2612, "pg_language"),
    (2615, "pg_namespace"),
    (2616, "pg_opclass"),
    (2617, "pg_operator"),
    (2753, "pg_opfamily"),
    (3079, "pg_extension"),
    (3456, "pg_collation"),
    (3466, "pg_event_trigger"),
    (3600, "pg_ts_dict"),
    (3602, "pg_ts_config"),
    (6104, "pg_publication"),
];

/// The objects that the entries of a table of contents describe, by class and oid.
pub(crate) fn described(entries: &[Entry]) -> HashSet<(u32, u32)> {
    entries.iter().filter_map(object).collect()
}

/// The object of an entry; `None` for entries that carry none.
pub(crate) fn object(entry: &Entry) -> Option<(u32, u32)> {
    let class: u32 = entry.table_oid.parse().ok().filter(|class| *class != 0)?;
    Some((class, oid(entry)))
}
