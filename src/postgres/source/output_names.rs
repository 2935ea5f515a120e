//! Names that rows are printed with. Rows come from the snapshot, but the functions that print an enum's label or the name
//! behind an oid (`regclass`, `regproc`, ...) read the catalogue of the moment: after a rename, rows hold names that the
//! saved definitions do not have, or with two labels swapped, other values. So before a run is committed, the names of the
//! snapshot are compared with those of a new one.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::error::{Error, Result};
use crate::postgres::error::failure;
use crate::sql::letters::Letters;
use crate::sql::names::quote;

/// The labels of the snapshot; those added later cannot be in its rows.
const LABELS: &str = "
    SELECT e.oid, e.enumlabel::pg_catalog.text, n.nspname::pg_catalog.text || '.' || t.typname::pg_catalog.text
      FROM pg_catalog.pg_enum e JOIN pg_catalog.pg_type t ON t.oid = e.enumtypid
      JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace";

const SCHEMAS: &str = "
    SELECT oid, nspname::pg_catalog.text FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'";

/// The kinds of oids that are printed as names: type, and the query for the names.
const NAMED: [(&str, &str); 12] = [
    (
        "regclass",
        "SELECT oid, relname::pg_catalog.text || '/' || relnamespace FROM pg_catalog.pg_class
        WHERE relpersistence <> 't' AND relkind <> 't' AND relnamespace <> 99",
    ),
    ("regproc", "SELECT oid, proname::pg_catalog.text || '/' || pronamespace FROM pg_catalog.pg_proc"),
    ("regprocedure", "SELECT oid, proname::pg_catalog.text || '/' || pronamespace FROM pg_catalog.pg_proc"),
    (
        "regtype",
        "SELECT oid, typname::pg_catalog.text || '/' || typnamespace FROM pg_catalog.pg_type
        WHERE typrelid NOT IN (SELECT oid FROM pg_catalog.pg_class WHERE relpersistence = 't')",
    ),
    ("regnamespace", SCHEMAS),
    ("regrole", "SELECT oid, rolname::pg_catalog.text FROM pg_catalog.pg_roles"),
    ("aclitem", "SELECT oid, rolname::pg_catalog.text FROM pg_catalog.pg_roles"),
    ("regoper", "SELECT oid, oprname::pg_catalog.text || '/' || oprnamespace FROM pg_catalog.pg_operator"),
    ("regoperator", "SELECT oid, oprname::pg_catalog.text || '/' || oprnamespace FROM pg_catalog.pg_operator"),
    ("regconfig", "SELECT oid, cfgname::pg_catalog.text || '/' || cfgnamespace FROM pg_catalog.pg_ts_config"),
    ("regdictionary", "SELECT oid, dictname::pg_catalog.text || '/' || dictnamespace FROM pg_catalog.pg_ts_dict"),
    ("regcollation", "SELECT oid, collname::pg_catalog.text || '/' || collnamespace FROM pg_catalog.pg_collation"),
];

/// The columns of stored rows that are of such a type, and those of a type made from one (arrays, domains, composites,
/// ranges), which cannot be searched; nor can an aclitem. A name is printed with its schema, so `regnamespace` stands for all.
const COLUMNS: &str = "
    WITH RECURSIVE made(kind, oid, direct) AS (
        SELECT k.kind, pg_catalog.to_regtype('pg_catalog.' || k.kind)::pg_catalog.oid, k.kind <> 'aclitem' FROM unnest($1::pg_catalog.text[]) k(kind)
        UNION SELECT m.kind, t.oid, false FROM made m CROSS JOIN LATERAL (
            SELECT e.oid FROM pg_catalog.pg_type e WHERE e.typelem = m.oid
            UNION ALL SELECT d.oid FROM pg_catalog.pg_type d WHERE d.typbasetype = m.oid
            UNION ALL SELECT u.id FROM pg_catalog.pg_range r, unnest(ARRAY[r.rngtypid, r.rngmultitypid]) u(id) WHERE r.rngsubtype = m.oid
            UNION ALL SELECT c.reltype FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
             WHERE a.atttypid = m.oid AND a.attnum > 0 AND NOT a.attisdropped AND c.reltype <> 0 AND c.oid >= 16384) t)
    SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, a.attname::pg_catalog.text,
           pg_catalog.bool_and(m.direct), m.kind
      FROM made m JOIN pg_catalog.pg_attribute a ON a.atttypid = m.oid AND a.attnum > 0 AND NOT a.attisdropped
      JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind = 'r' AND c.relpersistence <> 't' AND c.oid >= 16384
       AND pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE')
       AND NOT (c.relrowsecurity AND pg_catalog.row_security_active(c.oid))
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     GROUP BY 1, 2, 3, 5";

/// A name that is not what it was.
struct Changed {
    oid: u32,
    before: String,
    /// `None` where the object is gone.
    after: Option<String>,
}

/// Refuses a run whose rows may have been printed with names that are not those of its snapshot. `snapshot` is the
/// session that holds it, `now` another one.
pub(crate) async fn refuse_renamed(snapshot: &Client, now: &Client) -> Result<()> {
    let kinds: Vec<&str> = NAMED.iter().map(|(kind, _)| *kind).collect();
    let (labels, later, columns) = tokio::try_join!(
        ask(snapshot, LABELS),
        ask(now, "SELECT oid, enumlabel::pg_catalog.text, '' FROM pg_catalog.pg_enum"),
        async {
            let columns = snapshot.query_typed(COLUMNS, &[(&kinds, Type::TEXT_ARRAY)]).await;
            columns.map_err(|e| failure(&e).context("list columns that hold names"))
        }
    )?;
    let pairs = |rows: &[Row]| -> Vec<(u32, String)> {
        rows.iter().map(|row| (row.get(0), Letters::default().decode(row.get(1)))).collect()
    };
    let (later, before) = (pairs(&later), pairs(&labels));
    if let Some(label) = changed(&before, &later).into_iter().find(|label| label.after.is_some()) {
        let of = labels.iter().find(|row| row.get::<_, u32>(0) == label.oid).map_or_else(String::new, |row| row.get(2));
        return Err(renamed(&format!("label {:?} of type {of}", label.before), &label));
    }
    for (kind, names) in NAMED {
        let columns: Vec<&Row> = columns.iter().filter(|column| column.get::<_, String>(4) == kind).collect();
        if columns.is_empty() {
            continue;
        }
        // A schema's name is printed with all that is in it.
        for (names, is_schema) in [(names, false), (SCHEMAS, true)] {
            let names = format!("SELECT oid, name, '' FROM ({names}) q(oid, name)");
            let changed = changed(&pairs(&ask(snapshot, &names).await?), &pairs(&ask(now, &names).await?));
            if changed.is_empty() {
                continue;
            }
            for column in &columns {
                if let Some(one) = used(snapshot, column, &changed, is_schema && kind != "regnamespace").await? {
                    let (schema, table, name): (String, String, String) = (column.get(0), column.get(1), column.get(2));
                    return Err(renamed(&format!("{:?}, which {schema}.{table}.{name} refers to,", one.before), one));
                }
            }
        }
    }
    Ok(())
}

fn renamed(what: &str, change: &Changed) -> Error {
    let after = match &change.after {
        Some(after) => format!("renamed to {after:?}"),
        None => "dropped".to_owned(),
    };
    Error::failed(format!(
        "{what} was {after} while rows were read: rows and definitions of this run do not belong together"
    ))
    .hint("nothing was promoted; run the backup again")
}

/// The names of `before` that are others, or none, in `after`.
fn changed(before: &[(u32, String)], after: &[(u32, String)]) -> Vec<Changed> {
    let after: std::collections::HashMap<u32, &String> = after.iter().map(|(oid, name)| (*oid, name)).collect();
    let differs = before.iter().filter(|(oid, name)| after.get(oid).is_none_or(|now| *now != name));
    differs
        .map(|(oid, name)| Changed { oid: *oid, before: name.clone(), after: after.get(oid).map(|now| (*now).clone()) })
        .collect()
}

/// The first change that rows of the column may refer to. Only a column that holds the oids themselves can be searched.
async fn used<'c>(
    client: &Client,
    column: &Row,
    changed: &'c [Changed],
    indirect: bool,
) -> Result<Option<&'c Changed>> {
    let (schema, table, name): (String, String, String) = (column.get(0), column.get(1), column.get(2));
    let direct: bool = column.get(3);
    if !direct || indirect {
        return Ok(changed.first());
    }
    let oids: Vec<u32> = changed.iter().map(|change| change.oid).collect();
    let (table, name) = (format!("{}.{}", quote(&schema), quote(&table)), quote(&name));
    let sql =
        format!("SELECT {name}::pg_catalog.oid FROM ONLY {table} WHERE {name}::pg_catalog.oid = ANY ($1) LIMIT 1");
    let row = client.query_opt(&sql, &[&oids]).await;
    let row = row.map_err(|e| failure(&e).context(format!("search {table} for renamed objects")))?;
    let Some(row) = row else { return Ok(None) };
    let oid: u32 = row.get(0);
    Ok(changed.iter().find(|change| change.oid == oid))
}

/// Asks for oids, names and something more; names come as the bytes that they are, since some may have no equivalent in
/// UTF-8.
async fn ask(client: &Client, sql: &str) -> Result<Vec<Row>> {
    let sql = format!(
        "SELECT oid, pg_catalog.decode(pg_catalog.replace(name, E'\\\\', E'\\\\\\\\'), 'escape'), more FROM ({sql}) a(oid, name, more)"
    );
    client.query_typed(&sql, &[]).await.map_err(|e| failure(&e).context("compare names with those of the snapshot"))
}
