//! Facts of the system catalogues that pg_dump's table of contents does not contain: which relation an object belongs
//! to, and which schemas an extension reaches into. Asked in the leader's transaction, so it is of the same moment.

use std::collections::HashMap;

use tokio_postgres::Client;

use crate::archive::catalogue::{Belongs, ExtensionReach};
use crate::error::Result;
use crate::postgres::error::failure;
use crate::postgres::query::strings;

/// Objects below 16384 (`FirstNormalObjectId`) are initdb's own.
const BELONGS: &str = "
    SELECT 2606::oid, c.oid, c.conrelid FROM pg_catalog.pg_constraint c WHERE c.conrelid >= 16384
    UNION ALL SELECT 1259, i.indexrelid, i.indrelid FROM pg_catalog.pg_index i WHERE i.indrelid >= 16384
    UNION ALL SELECT 2620, t.oid, t.tgrelid FROM pg_catalog.pg_trigger t WHERE t.tgrelid >= 16384
    UNION ALL SELECT 2618, r.oid, r.ev_class FROM pg_catalog.pg_rewrite r WHERE r.ev_class >= 16384
    UNION ALL SELECT 3256, p.oid, p.polrelid FROM pg_catalog.pg_policy p WHERE p.polrelid >= 16384
    UNION ALL SELECT 2604, d.oid, d.adrelid FROM pg_catalog.pg_attrdef d WHERE d.adrelid >= 16384
    UNION ALL SELECT 3381, s.oid, s.stxrelid FROM pg_catalog.pg_statistic_ext s WHERE s.stxrelid >= 16384
    UNION ALL SELECT 1259, d.objid, d.refobjid
      FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
     WHERE d.classid = 1259 AND d.refclassid = 1259 AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')";

const REACH: &str = "
    SELECT e.oid, n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
    UNION
    SELECT d.refobjid, n.nspname FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_namespace n ON n.oid = d.objid
     WHERE d.classid = 2615 AND d.refclassid = 3079 AND d.deptype = 'e'
    UNION
    SELECT d.refobjid, n.nspname FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE d.classid = 1259 AND d.refclassid = 3079 AND d.deptype = 'e'";

/// Which relation each constraint, index, trigger, rule, policy, default, statistics object and owned sequence
/// belongs to. Memory: 24 bytes an object.
pub(crate) async fn belongs(client: &Client) -> Result<Belongs> {
    let rows = client.query_typed(BELONGS, &[]).await.map_err(|e| failure(&e).context("read the catalogue"))?;
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
}

/// Which schemas each extension owns, owns a relation in, or is installed into.
pub(crate) async fn reach(client: &Client) -> Result<Vec<ExtensionReach>> {
    let rows = client.query_typed(REACH, &[]).await.map_err(|e| failure(&e).context("read the extensions"))?;
    let mut by_oid: HashMap<u32, ExtensionReach> = HashMap::new();
    for row in &rows {
        let oid: u32 = row.get(0);
        let reach = by_oid.entry(oid).or_insert_with(|| ExtensionReach { oid, ..ExtensionReach::default() });
        reach.schemas.insert(row.get(1));
    }
    Ok(by_oid.into_values().collect())
}

/// True when extensions have event triggers with code that can wait for a lock.
pub(crate) async fn event_triggers_of_extensions(client: &Client) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger t
                 JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_event_trigger'::pg_catalog.regclass
                  AND d.objid = t.oid AND d.deptype = 'e'
                 JOIN pg_catalog.pg_proc p ON p.oid = t.evtfoid JOIN pg_catalog.pg_language l ON l.oid = p.prolang
                WHERE l.lanname NOT IN ('c', 'internal'))";
    let row = client.query_typed_one(sql, &[]).await.map_err(|e| failure(&e).context("find event triggers"))?;
    Ok(row.get(0))
}

/// The names of the server's other databases.
pub(crate) async fn other_databases(client: &Client) -> Result<Vec<String>> {
    let sql = "SELECT datname::pg_catalog.text FROM pg_catalog.pg_database
                WHERE datallowconn AND NOT datistemplate AND datname <> pg_catalog.current_database() ORDER BY 1";
    strings(client, sql, "list the databases").await
}
