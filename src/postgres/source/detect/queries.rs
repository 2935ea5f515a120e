//! The queries of the detection. Each is one round trip, whatever the size of the catalogue.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use crate::error::{Error, Result};
use crate::format::manifest::Extension;
use crate::postgres::error::failure;
use crate::postgres::query::sent;
use crate::postgres::source::detect::detection::{
    Detection, GapKind, Privileges, RelKind, Relation, SchemaInfo, ServerInfo, Unreadable,
};
use crate::sql::names::quote;

/// The covered schemas: all but PostgreSQL's own. The names of temporary schemas end in a number.
const COVERED: &str = r"n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    AND n.nspname !~ '^pg_(toast_)?temp_[0-9]+$'";

const SERVER: &str = "
SELECT current_setting('server_version_num')::int8, current_setting('server_version'), d.datname::text, d.oid,
    pg_encoding_to_char(d.encoding)::text, current_user::text, r.rolsuper, r.rolsuper OR r.rolbypassrls, pg_is_in_recovery(),
    'hash/' || md5(concat_ws('/', host(inet_server_addr()), inet_server_port(), d.datname)),
    current_setting('max_locks_per_transaction')::int8, current_setting('max_connections')::int8,
    current_setting('max_prepared_transactions')::int8,
    current_setting('superuser_reserved_connections')::int8 + coalesce(current_setting('reserved_connections', true)::int8, 0),
    r.rolconnlimit::int8,
    (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE coalesce(backend_type, 'client backend') = 'client backend'),
    current_setting('block_size')::int8, has_table_privilege('pg_catalog.pg_authid'::regclass::oid, 'SELECT'),
    has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')
FROM pg_catalog.pg_database d, pg_catalog.pg_roles r
WHERE d.datname = current_database() AND r.rolname = current_user";

/// The cluster's identifier, where the role may ask. A query of its own: a function that the role may not call is
/// refused when a query begins, whatever stands around the call.
async fn system_identifier(client: &Client, may: bool) -> Result<Option<String>> {
    if !may {
        return Ok(None);
    }
    let sql = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()";
    let row = client.query_typed_one(sql, &[]).await.map_err(|error| failure(&error))?;
    at(&row, 0).map(Some)
}

/// The server, the database and the role; of an earlier answer to the same session only the identity is taken.
pub(crate) async fn server(client: &Client, before: Option<&ServerInfo>) -> Result<ServerInfo> {
    let row = client.query_typed_one(SERVER, &[]).await.map_err(|error| failure(&error))?;
    let database_oid: u32 = at(&row, 3)?;
    let identity = match before {
        Some(before) => before.identity.clone(),
        None => match system_identifier(client, at(&row, 18)?).await? {
            Some(system) => format!("{system}/{database_oid}"),
            None => at(&row, 9)?,
        },
    };
    Ok(ServerInfo {
        version_num: u32::try_from(at::<i64>(&row, 0)?).unwrap_or(0),
        version: at(&row, 1)?,
        database: at(&row, 2)?,
        database_oid,
        encoding: at(&row, 4)?,
        role: at(&row, 5)?,
        superuser: at(&row, 6)?,
        bypass_rls: at(&row, 7)?,
        in_recovery: at(&row, 8)?,
        identity,
        max_locks_per_transaction: at(&row, 10)?,
        max_connections: at(&row, 11)?,
        max_prepared_transactions: at(&row, 12)?,
        reserved_connections: at(&row, 13)?,
        role_connection_limit: at(&row, 14)?,
        connections: at(&row, 15)?,
        block_size: at(&row, 16)?,
        reads_passwords: at(&row, 17)?,
    })
}

pub(crate) async fn schemas(client: &Client) -> Result<Vec<SchemaInfo>> {
    let sql = format!(
        "WITH policy AS (
            SELECT schema_name::text FROM information_schema.schemata
            WHERE schema_name NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
              AND schema_name NOT LIKE 'pg_temp%' AND schema_name NOT LIKE 'pg_toast_temp%')
        SELECT n.oid, n.nspname::text, pg_get_userbyid(n.nspowner)::text, e.extname::text,
            EXISTS (SELECT FROM policy WHERE schema_name = n.nspname::text),
            coalesce(has_schema_privilege(n.oid, 'USAGE'), false),
            n.nspname LIKE 'pg_temp%' OR n.nspname LIKE 'pg_toast_temp%'
        FROM pg_catalog.pg_namespace n
        LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_namespace'::regclass AND d.objid = n.oid
            AND d.deptype = 'e' AND d.refclassid = 'pg_catalog.pg_extension'::regclass
        LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
        WHERE {COVERED} ORDER BY n.nspname COLLATE \"C\""
    );
    let rows = client.query_typed(&sql, &[]).await.map_err(|error| failure(&error))?;
    rows.iter()
        .map(|row| {
            let (by_policy_query, wildcard) = (at(row, 4)?, at(row, 6)?);
            let note = match (by_policy_query, wildcard) {
                (true, _) => None,
                (false, true) => {
                    Some("dropped by the policy query's LIKE, where _ is a wildcard; covered all the same")
                }
                (false, false) => {
                    Some("hidden from information_schema: the role has no privilege on it; covered all the same")
                }
            };
            Ok(SchemaInfo {
                oid: at(row, 0)?,
                name: at(row, 1)?,
                owner: at(row, 2)?,
                extension: at(row, 3)?,
                by_policy_query,
                usable: at(row, 5)?,
                note: note.map(str::to_owned),
            })
        })
        .collect()
}

/// The relations and what the role may do with each.
///
/// The size functions lock the relation, and would wait behind an ALTER TABLE that holds or awaits its exclusive
/// lock. So relations with such a lock are sized by the planner's statistics, and should a lock come up in the very
/// moment, the query gives up after a second and all are.
///
/// In a transaction this happens behind a savepoint that is always rolled back: a failure does not end the
/// transaction, and locks on what the transaction did not lock itself are let go at once. The three statements are sent
/// together, before whatever is sent later.
pub(crate) async fn relations(client: &Client, in_transaction: bool) -> Result<Vec<Row>> {
    let (before, after) = if in_transaction {
        ("SAVEPOINT sizes; SET LOCAL lock_timeout = '1s'", "ROLLBACK TO SAVEPOINT sizes; RELEASE SAVEPOINT sizes")
    } else {
        ("SET lock_timeout = '1s'", "SET lock_timeout = 0")
    };
    let sql = relations_sql(true);
    let before = sent(client.batch_execute(before)).await;
    let asked = sent(client.query_typed(&sql, &[])).await;
    let after = sent(client.batch_execute(after)).await;
    before.await.map_err(|error| failure(&error))?;
    let mut rows = asked.await;
    after.await.map_err(|error| failure(&error))?;
    if rows.as_ref().is_err_and(|error| error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)) {
        rows = client.query_typed(&relations_sql(false), &[]).await;
    }
    rows.map_err(|error| failure(&error))
}

/// Reads the answer of [`relations`].
pub(crate) fn relations_of(rows: &[Row], server: &ServerInfo) -> Result<(Vec<Relation>, Vec<Privileges>)> {
    let mut relations = Vec::with_capacity(rows.len());
    let mut privileges = Vec::with_capacity(rows.len());
    for row in rows {
        let blocks: i64 = at(row, 12)?;
        relations.push(Relation {
            oid: at(row, 0)?,
            schema: at(row, 1)?,
            name: at(row, 2)?,
            relkind: RelKind::of(letter(row, 3)?).ok_or_else(|| Error::failed("a relation of an unknown kind"))?,
            persistence: letter(row, 4)?,
            access_method: at(row, 5)?,
            owner: at(row, 6)?,
            extension: at(row, 7)?,
            extension_config: at(row, 8)?,
            filter: at::<Option<String>>(row, 9)?.filter(|filter| !filter.trim().is_empty()),
            estimated_rows: at::<i64>(row, 10)?.max(0),
            bytes: at(row, 11)?,
            heap_blocks: blocks / server.block_size.max(1),
            partition: at(row, 13)?,
            unreadable: None,
        });
        privileges.push(Privileges { usage: at(row, 14)?, select: at(row, 15)?, row_security: at(row, 16)? });
    }
    Ok((relations, privileges))
}

fn relations_sql(live: bool) -> String {
    let block = "current_setting('block_size')::int8";
    let estimate = format!("(c.relpages::int8 + coalesce(t.relpages, 0)::int8) * {block}");
    let (bytes, heap) = if live {
        (
            format!("CASE WHEN l.relation IS NULL THEN pg_catalog.pg_table_size(c.oid) ELSE {estimate} END"),
            format!(
                "CASE WHEN l.relation IS NULL THEN pg_catalog.pg_relation_size(c.oid) ELSE c.relpages::int8 * {block} END"
            ),
        )
    } else {
        (estimate, format!("c.relpages::int8 * {block}"))
    };
    format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, a.amname::text,
            pg_get_userbyid(c.relowner)::text, e.extname::text, x.tableoid IS NOT NULL, x.condition,
            c.reltuples::int8,
            coalesce(CASE WHEN c.relkind IN ('r', 'm') THEN {bytes} END, 0),
            coalesce(CASE WHEN c.relkind IN ('r', 'm') THEN {heap} END, 0),
            c.relispartition,
            coalesce(has_schema_privilege(n.oid, 'USAGE'), true),
            coalesce(CASE c.relkind WHEN 'S' THEN has_sequence_privilege(c.oid, 'SELECT')
                ELSE has_table_privilege(c.oid, 'SELECT') END, true),
            c.relkind = 'r' AND c.relrowsecurity AND row_security_active(c.oid)
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid AND c.reltoastrelid <> 0
        LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam
        LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
            AND d.objsubid = 0 AND d.deptype = 'e' AND d.refclassid = 'pg_catalog.pg_extension'::regclass
        LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
        LEFT JOIN (SELECT DISTINCT ON (u.tableoid) u.tableoid, u.condition
            FROM pg_catalog.pg_extension, unnest(extconfig, extcondition) AS u(tableoid, condition)) x ON x.tableoid = c.oid
        LEFT JOIN (SELECT DISTINCT relation FROM pg_catalog.pg_locks
            WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock'
              AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())) l
            ON l.relation = c.oid
        WHERE c.relkind IN ('r', 'p', 'f', 'm', 'S') AND {COVERED}
        ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\""
    )
}

/// The number of large objects.
pub(crate) async fn count_large_objects(client: &Client) -> Result<i64> {
    let one = client.query_typed_one("SELECT count(*) FROM pg_catalog.pg_largeobject_metadata", &[]).await;
    at(&one.map_err(|error| failure(&error))?, 0)
}

/// Lists the large objects that the role cannot read, where there are any. From PostgreSQL 18 the server says so itself;
/// before, a large object is for its owner, for whom it was granted to, and for superusers, unless
/// `lo_compat_privileges` opens all of them.
pub(crate) async fn large_objects(client: &Client, detection: &mut Detection) -> Result<()> {
    let readable = if detection.server.version_num >= 180_000 {
        "has_largeobject_privilege(m.oid, 'SELECT')"
    } else {
        "current_setting('lo_compat_privileges')::bool OR pg_has_role(m.lomowner, 'USAGE') OR EXISTS (
            SELECT FROM aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT'
            AND CASE a.grantee WHEN 0 THEN true ELSE pg_has_role(a.grantee, 'USAGE') END)"
    };
    if detection.server.superuser || detection.large_objects == 0 {
        return Ok(());
    }
    let sql = format!(
        "SELECT m.oid, pg_get_userbyid(m.lomowner)::text FROM pg_catalog.pg_largeobject_metadata m
        WHERE NOT coalesce({readable}, true) ORDER BY 1"
    );
    for row in client.query_typed(&sql, &[]).await.map_err(|error| failure(&error))? {
        let (oid, owner): (u32, String) = (at(&row, 0)?, at(&row, 1)?);
        detection.unreadable.push(Unreadable {
            schema: String::new(),
            name: oid.to_string(),
            kind: GapKind::LargeObject,
            reason: format!("no SELECT on the large object of {owner}"),
            cure: format!("GRANT SELECT ON LARGE OBJECT {oid} TO {};", quote(&detection.server.role)),
        });
    }
    Ok(())
}

/// A column by position, the driver's error made ours.
pub(crate) fn at<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, index: usize) -> Result<T> {
    row.try_get(index).map_err(|error| {
        let utf8 = std::error::Error::source(&error).is_some_and(<dyn std::error::Error>::is::<std::str::Utf8Error>);
        if utf8 {
            return Error::failed(
                "a name in the catalogue is not valid UTF-8 (a SQL_ASCII database holds bytes of any kind)",
            )
            .hint("rename the object, or the schema, to a name in ASCII or UTF-8");
        }
        failure(&error)
    })
}

fn letter(row: &Row, index: usize) -> Result<char> {
    at::<String>(row, index)?.chars().next().ok_or_else(|| Error::failed("an empty kind in pg_class"))
}

/// The extensions with their versions, by name.
pub(crate) async fn extensions(client: &Client) -> Result<Vec<Extension>> {
    let sql = "SELECT extname::text, extversion FROM pg_catalog.pg_extension ORDER BY extname COLLATE \"C\"";
    let rows = client.query_typed(sql, &[]).await.map_err(|error| failure(&error))?;
    rows.iter().map(|row| Ok(Extension { name: at(row, 0)?, version: at(row, 1)? })).collect()
}
