//! Objects that a partial run contains and cannot bring back: those that depend on something that was left out, and
//! what depends on those in turn. Asked in the leader's transaction.

use std::collections::HashSet;

use libpgdump::Entry;
use tokio_postgres::Client;

use crate::archive::catalogue::{Belongs, PG_CLASS, by_object};
use crate::error::Result;
use crate::format::manifest::Skipped;
use crate::postgres::error::failure;
use crate::postgres::source::detect::{Detection, GapKind, RelKind};

/// Tables that pg_dump leaves out, and everything that it may leave out of a schema; what `CREATE EXTENSION` makes is
/// none of it. pg_dump needs USAGE on a schema for its tables and sequences only: what it describes all the same
/// (types, functions, the schema itself) is taken away again by the archive's own entries.
const LEFT_OUT: &str = "
    SELECT x.classid, x.objid FROM (
        SELECT 1259::oid, o FROM unnest($1::oid[]) o
        UNION SELECT 1259, c.oid FROM pg_catalog.pg_class c WHERE c.relnamespace = ANY($2::oid[])
        UNION SELECT 1247, t.oid FROM pg_catalog.pg_type t WHERE t.typnamespace = ANY($2::oid[]) AND t.typrelid = 0 AND t.typelem = 0
        UNION SELECT 1255, p.oid FROM pg_catalog.pg_proc p WHERE p.pronamespace = ANY($2::oid[])) x(classid, objid)
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
        WHERE d.classid = x.classid AND d.objid = x.objid AND d.objsubid = 0 AND d.deptype = 'e')";

/// Direct dependents of those objects. A table's row type and the arrays of a type count as the object itself; a
/// view depends through its rule. `n` are ordinary dependencies, `a` also those of partitions and foreign keys.
const DEPENDENTS: &str = "
    WITH gone AS (
        SELECT g.classid, g.objid FROM unnest($1::oid[], $2::oid[]) AS g(classid, objid)
    ), named AS (
        SELECT classid, objid, classid AS was, objid AS self FROM gone
        UNION SELECT 1247, t.oid, g.classid, g.objid FROM gone g JOIN pg_catalog.pg_type t ON g.classid = 1259 AND t.typrelid = g.objid
        UNION SELECT 1247, a.oid, g.classid, g.objid FROM gone g JOIN pg_catalog.pg_type a
            ON g.classid = 1247 AND a.typelem = g.objid
        UNION SELECT 1247, a.oid, g.classid, g.objid FROM gone g JOIN pg_catalog.pg_type t ON g.classid = 1259 AND t.typrelid = g.objid
            JOIN pg_catalog.pg_type a ON a.typelem = t.oid
    )
    SELECT DISTINCT x.classid, x.objid, i.type, coalesce(i.schema, ''), i.identity, d.refclassid,
        (pg_catalog.pg_identify_object(n.was, n.self, 0)).identity
    FROM named n
    JOIN pg_catalog.pg_depend d ON d.refclassid = n.classid AND d.refobjid = n.objid AND d.deptype IN ('n', 'a')
    LEFT JOIN pg_catalog.pg_rewrite r ON d.classid = 2618 AND r.oid = d.objid
    LEFT JOIN pg_catalog.pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')
    CROSS JOIN LATERAL (SELECT CASE WHEN v.oid IS NULL THEN d.classid ELSE 1259 END, coalesce(v.oid, d.objid)) x(classid, objid)
    CROSS JOIN LATERAL pg_catalog.pg_identify_object(x.classid, x.objid, 0) i
    WHERE x.objid >= 16384 AND i.identity IS NOT NULL
    ORDER BY 5";

/// Names what depends on what the run leaves out, each with the error that restoring it will give; empty where nothing
/// is left out. Memory: the objects found.
pub(crate) async fn dependents(
    client: &Client,
    detection: &Detection,
    belongs: &Belongs,
    entries: &[Entry],
) -> Result<Vec<Skipped>> {
    let gaps = || detection.unreadable.iter().filter(|gap| gap.kind == GapKind::Schema);
    let closed = detection.schemas.iter().filter(|schema| gaps().any(|gap| gap.name == schema.name));
    let closed: Vec<u32> = closed.map(|schema| schema.oid).collect();
    let tables = detection.relations.iter().filter(|r| r.relkind != RelKind::Sequence && r.unreadable.is_some());
    let tables: Vec<u32> = tables.map(|r| r.oid).collect();
    if closed.is_empty() && tables.is_empty() {
        return Ok(Vec::new());
    }
    let rows = client.query(LEFT_OUT, &[&tables, &closed]).await;
    let rows = rows.map_err(|e| failure(&e).context("list what is left out"))?;
    let own = by_object(entries);
    let left_out = rows.iter().map(|row| (row.get(0), row.get(1)));
    let mut frontier: Vec<(u32, u32)> = left_out.filter(|object| !own.contains_key(object)).collect();
    let mut known: HashSet<(u32, u32)> = frontier.iter().copied().collect();
    let mut found = Vec::new();
    while !frontier.is_empty() {
        let (classes, objects): (Vec<u32>, Vec<u32>) = frontier.drain(..).unzip();
        let rows = client.query(DEPENDENTS, &[&classes, &objects]).await;
        let rows = rows.map_err(|e| failure(&e).context("find what depends on what is left out"))?;
        for row in &rows {
            let object: (u32, u32) = (row.get(0), row.get(1));
            // The parts of a table share its fate.
            let gone_with = belongs.get(&object).is_some_and(|table| known.contains(&(PG_CLASS, *table)));
            if gone_with || !known.insert(object) {
                continue;
            }
            let (kind, schema, name): (String, String, String) = (row.get(2), row.get(3), row.get(4));
            let (of, needs): (u32, String) = (row.get(5), row.get(6));
            let missing = match of {
                PG_CLASS => format!("relation \"{needs}\""),
                // CREATE FUNCTION words it in its own way.
                1247 if object.0 == 1255 => format!("type {needs}"),
                1247 => format!("type \"{needs}\""),
                _ => format!("function {needs}"),
            };
            let reason =
                format!("it needs {needs}, which is not there; its restore will say: {missing} does not exist");
            let entries = own.get(&object).cloned().unwrap_or_default();
            found.push(Skipped { schema, name, kind, reason, entries });
            frontier.push(object);
        }
    }
    Ok(found)
}
