//! Objects that no dump by this role can contain, or that live outside of the database: each found by a query.

use tokio_postgres::Client;

use crate::error::Result;
use crate::format::manifest::Omitted;
use crate::postgres::error::failure;
use crate::postgres::extensions;
use crate::postgres::source::detect::RelKind;
use crate::postgres::source::detect::detection::Detection;
use crate::postgres::source::detect::queries::at;

/// The rows of the catalogue, one an entry: kind, name. `edge`: the last transaction of initdb that described an object
/// with a fixed number; the views of the information schema come after all that a person could change.
const FOUND: &str = "
WITH edge AS MATERIALIZED (SELECT max(a.xmin::text::int8) AS x FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'information_schema'::regnamespace AND c.oid < 16384)
SELECT 'subscription', s.subname::text FROM pg_catalog.pg_subscription s
    JOIN pg_catalog.pg_database b ON b.oid = s.subdbid AND b.datname = current_database()
UNION ALL
SELECT 'user mapping', coalesce(u.usename::text, 'public') || ' on server ' || u.srvname::text
    FROM pg_catalog.pg_user_mappings u WHERE u.umoptions IS NULL AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = current_user AND r.rolsuper)
UNION ALL
SELECT 'tablespace', spcname::text || ' at ' || pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace
    WHERE spcname NOT IN ('pg_default', 'pg_global') AND (
        EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.reltablespace = pg_tablespace.oid)
        OR EXISTS (SELECT FROM pg_catalog.pg_database b WHERE b.datname = current_database() AND b.dattablespace = pg_tablespace.oid))
UNION ALL
SELECT 'invalid index', n.nspname::text || '.' || c.relname::text FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i' JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT i.indisvalid AND c.oid >= 16384
UNION ALL
SELECT 'replication slot', slot_name::text || ' (' || slot_type || ')' FROM pg_catalog.pg_replication_slots
    WHERE database = current_database() AND NOT temporary
UNION ALL
SELECT 'setting of all roles', 'ALTER ROLE ALL SET ' || split_part(c.setting, '=', 1) FROM pg_catalog.pg_db_role_setting s, unnest(s.setconfig) AS c(setting)
    WHERE s.setrole = 0 AND s.setdatabase = 0
UNION ALL
SELECT 'object among those of the system', pg_catalog.pg_describe_object(o.classid, o.oid, 0) FROM (
        SELECT 1255::oid, oid, pronamespace FROM pg_catalog.pg_proc
        UNION ALL SELECT 1259, oid, relnamespace FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
        UNION ALL SELECT 1247, t.oid, t.typnamespace FROM pg_catalog.pg_type t WHERE t.typrelid = 0 AND t.typelem = 0
            AND t.typtype IN ('b', 'd', 'e', 'r')
        UNION ALL SELECT 2617, oid, oprnamespace FROM pg_catalog.pg_operator
        UNION ALL SELECT 3456, oid, collnamespace FROM pg_catalog.pg_collation WHERE collnamespace <> 'pg_catalog'::regnamespace
            OR NOT (starts_with(coalesce(collcollate, ''), collname::text) OR collname LIKE '%-x-icu')
        UNION ALL SELECT 3602, oid, cfgnamespace FROM pg_catalog.pg_ts_config
        UNION ALL SELECT 3600, oid, dictnamespace FROM pg_catalog.pg_ts_dict
        UNION ALL SELECT 3601, oid, prsnamespace FROM pg_catalog.pg_ts_parser
        UNION ALL SELECT 3764, oid, tmplnamespace FROM pg_catalog.pg_ts_template
        UNION ALL SELECT 2607, oid, connamespace FROM pg_catalog.pg_conversion
        UNION ALL SELECT 2753, oid, opfnamespace FROM pg_catalog.pg_opfamily
        UNION ALL SELECT 2616, oid, opcnamespace FROM pg_catalog.pg_opclass
        UNION ALL SELECT 3381, oid, stxnamespace FROM pg_catalog.pg_statistic_ext
    ) o(classid, oid, namespace)
    WHERE o.oid >= 16384 AND o.namespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = o.classid AND d.objid = o.oid AND d.deptype = 'e')
UNION ALL
SELECT 'changed object of the system', pg_catalog.pg_describe_object(o.classid, o.oid, 0) FROM edge, (
        SELECT 3602::oid, mapcfg, xmin::text::int8 FROM pg_catalog.pg_ts_config_map
        UNION SELECT 3600, oid, xmin::text::int8 FROM pg_catalog.pg_ts_dict
        UNION SELECT 1255, oid, xmin::text::int8 FROM pg_catalog.pg_proc p WHERE proacl IS NOT DISTINCT FROM (
            SELECT initprivs FROM pg_catalog.pg_init_privs i WHERE i.classoid = 1255 AND i.objoid = p.oid AND i.objsubid = 0)
        UNION SELECT 2617, oid, xmin::text::int8 FROM pg_catalog.pg_operator
        UNION SELECT 2605, oid, xmin::text::int8 FROM pg_catalog.pg_cast
        UNION SELECT 2618, oid, xmin::text::int8 FROM pg_catalog.pg_rewrite
    ) o(classid, oid, x)
    WHERE o.oid < 16384 AND o.x > edge.x
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = o.classid AND d.objid = o.oid AND d.deptype = 'e')
UNION ALL
SELECT 'comment on an object of the system', pg_catalog.pg_describe_object(o.classoid, o.objoid, o.objsubid)
    FROM edge, pg_catalog.pg_description o
    WHERE o.objoid < 16384 AND o.classoid NOT IN (2615, 3079) AND o.xmin::text::int8 > edge.x
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = o.classoid AND d.objid = o.objoid AND d.deptype = 'e')
UNION ALL
SELECT 'partition that is being detached', n.nspname::text || '.' || c.relname::text || ' of ' || i.inhparent::regclass
    FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE i.inhdetachpending
UNION ALL
SELECT 'vault root key', extname::text FROM pg_catalog.pg_extension WHERE extname IN ('supabase_vault', 'pgsodium')
ORDER BY 1, 2";

/// What the catalogue has of it, by kind and name.
pub(crate) async fn found(client: &Client) -> Result<Vec<(String, String)>> {
    let rows = client.query_typed(FOUND, &[]).await.map_err(|error| failure(&error))?;
    rows.iter().map(|row| Ok((at(row, 0)?, at(row, 1)?))).collect()
}

/// The objects [`found`], and what the detection shows besides, each with the reason.
pub(crate) fn omitted(found: &[(String, String)], detection: &Detection) -> Vec<Omitted> {
    let mut list = Vec::new();
    for (kind, name) in found.iter().cloned() {
        let reason = match kind.as_str() {
            "subscription" if detection.server.superuser => continue,
            "subscription" => "only a superuser can dump subscriptions: create it again after a restore",
            "user mapping" => {
                "its options (the password) are shown to its own role and to superusers only: set them again"
            }
            "invalid index" => "pg_dump leaves an invalid index out: REINDEX it, or create it again after a restore",
            "replication slot" => "slots belong to the server: create it again after a restore",
            "setting of all roles" => {
                "pg_dumpall does not write settings of all roles, and the value may be a secret: keep it, and set it again after a restore"
            }
            "object among those of the system" => {
                "pg_dump never describes what is in pg_catalog or information_schema: move it to a schema of your own"
            }
            "changed object of the system" => {
                "it is not as PostgreSQL made it, and pg_dump never describes it: change it again after a restore, before rows that depend on it"
            }
            "comment on an object of the system" => "pg_dump does not write it: set it again after a restore",
            "partition that is being detached" => {
                "a dump attaches it again, with its rows: finish it by ALTER TABLE ... DETACH PARTITION ... FINALIZE"
            }
            "tablespace" => {
                "tablespaces belong to the server: create it there before a restore, or restore with --no-tablespaces"
            }
            _ => {
                "the root key is kept outside of the database; without it the saved secrets cannot be decrypted: keep a copy of it"
            }
        };
        list.push(Omitted { kind, name, reason: reason.to_owned() });
    }
    let push = |list: &mut Vec<Omitted>, kind: &str, name: &str, reason: String| {
        list.push(Omitted { kind: kind.to_owned(), name: name.to_owned(), reason });
    };
    for care in extensions::noted() {
        if detection.extensions.iter().any(|one| one.name == care.name) {
            push(&mut list, "extension that wants care", care.name, care.note.unwrap_or_default().to_owned());
        }
    }
    if !detection.server.reads_passwords {
        let reason =
            "the role cannot read pg_authid: roles are saved without passwords, set them again after a restore";
        push(&mut list, "role passwords", "pg_authid", reason.to_owned());
    }
    for relation in &detection.relations {
        let name = format!("{}.{}", relation.schema, relation.name);
        if relation.relkind == RelKind::ForeignTable {
            push(&mut list, "foreign table rows", &name, "the rows are on the foreign server".to_owned());
        } else if relation.schema == "storage" && relation.name == "objects" && relation.relkind == RelKind::Table {
            let reason = format!(
                "the database holds the index of the files only (about {} rows): save the files from Storage itself",
                relation.estimated_rows
            );
            push(&mut list, "storage files", &name, reason);
        }
    }
    let reason = "postgresql.conf, pg_hba.conf and pg_ident.conf are files of the server, not part of a database";
    push(&mut list, "server configuration", "postgresql.conf, pg_hba.conf", reason.to_owned());
    list
}
