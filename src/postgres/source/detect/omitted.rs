//! What no dump by this role can hold, or what lives outside of the database: each found by a query on it.

use tokio_postgres::Client;

use crate::error::Result;
use crate::format::manifest::Omitted;
use crate::postgres::error::failure;
use crate::postgres::source::detect::detection::Detection;
use crate::postgres::source::detect::queries::at;

/// What the catalogue tells, one row an entry: kind, name.
const FOUND: &str = "
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
SELECT 'vault root key', extname::text FROM pg_catalog.pg_extension WHERE extname IN ('supabase_vault', 'pgsodium')
ORDER BY 1, 2";

pub(crate) async fn omitted(client: &Client, detection: &Detection) -> Result<Vec<Omitted>> {
    let mut list = Vec::new();
    for row in client.query(FOUND, &[]).await.map_err(|error| failure(&error))? {
        let (kind, name): (String, String) = (at(&row, 0)?, at(&row, 1)?);
        let reason = match kind.as_str() {
            "subscription" if detection.server.superuser => continue,
            "subscription" => "only a superuser can dump subscriptions: create it again after a restore",
            "user mapping" => {
                "its options (the password) are shown to its own role and to superusers only: set them again"
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
    if !detection.server.reads_passwords {
        let reason =
            "the role cannot read pg_authid: roles are saved without passwords, set them again after a restore";
        push(&mut list, "role passwords", "pg_authid", reason.to_owned());
    }
    for relation in &detection.relations {
        let name = format!("{}.{}", relation.schema, relation.name);
        if relation.relkind == 'f' {
            push(&mut list, "foreign table rows", &name, "the rows are on the foreign server".to_owned());
        } else if relation.schema == "storage" && relation.name == "objects" && relation.relkind == 'r' {
            let reason = format!(
                "the database holds the index of the files only (about {} rows): save the files from Storage itself",
                relation.estimated_rows
            );
            push(&mut list, "storage files", &name, reason);
        }
    }
    let reason = "postgresql.conf, pg_hba.conf and pg_ident.conf are files of the server, not part of a database";
    push(&mut list, "server configuration", "postgresql.conf, pg_hba.conf", reason.to_owned());
    Ok(list)
}
