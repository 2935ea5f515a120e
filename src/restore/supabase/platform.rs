//! The part of the database that the Supabase platform makes and keeps for itself: its schemas, its roles, its
//! bookkeeping. Names from the public repositories of its services; a schema that is not listed is judged by what the
//! role may do in it.

/// Schemas that the platform, or an extension it installs, makes.
const SCHEMAS: &[&str] = &[
    "_analytics",
    "_realtime",
    "_supavisor",
    "auth",
    "cron",
    "dbdev",
    "etl",
    "extensions",
    "graphql",
    "graphql_public",
    "net",
    "pgbouncer",
    "pgsodium",
    "pgsodium_masks",
    "pgtle",
    "realtime",
    "repack",
    "storage",
    "supabase_functions",
    "supabase_migrations",
    "supabase_subscription_mgmt",
    "tiger",
    "tiger_data",
    "topology",
    "vault",
];

/// The migration history that the command-line program of Supabase keeps: the project's own, made when first used.
pub(crate) const HISTORY: &str = "supabase_migrations";

/// True when the platform makes a schema of this name.
pub(crate) fn makes_schema(name: &str) -> bool {
    SCHEMAS.contains(&name)
}

/// Roles that the platform makes and forbids to touch.
pub(crate) fn reserves_role(name: &str) -> bool {
    const ROLES: &[&str] = &[
        "anon",
        "authenticated",
        "authenticator",
        "dashboard_user",
        "pgbouncer",
        "pgtle_admin",
        "postgres",
        "service_role",
    ];
    ROLES.contains(&name) || ["supabase_", "pgsodium_", "cli_login_", "pg_"].iter().any(|word| name.starts_with(word))
}

/// The treatment of the rows of a table that the platform has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rows {
    /// They are loaded.
    Load,
    /// They are left alone, for this reason: they say nothing in another project.
    Leave(&'static str),
    /// They cannot be loaded: why, and what a person must do.
    Cannot(&'static str, &'static str),
    /// Jobs of `pg_cron`: scheduled through its functions.
    Jobs,
}

/// The treatment of the rows of this table of a managed schema.
pub(crate) fn rows(schema: &str, table: &str) -> Rows {
    match (schema, table) {
        ("vault", "secrets") => Rows::Cannot(
            "its rows are ciphertext under the root key of the saved project, which is not in the database: in another \
             project they decrypt to nothing",
            "read the values in the old project (vault.decrypted_secrets) and run vault.create_secret(value, name) here; or \
             copy the root key first (Management API: GET and PUT /v1/projects/REF/pgsodium), then insert the rows of \
             `pgstow download --table vault.secrets` by hand",
        ),
        ("pgsodium", "key") => Rows::Cannot(
            "its keys are derived from, or encrypted under, the root key of the saved project, which is not in the database",
            "copy the root key (Management API: GET and PUT /v1/projects/REF/pgsodium) before anything encrypts here, then \
             insert the rows of `pgstow download --table pgsodium.key` by hand",
        ),
        ("cron", "job") => Rows::Jobs,
        ("cron", "job_run_details") => Rows::Leave("the history of runs, under the numbers of the old project's jobs"),
        ("net", _) => Rows::Leave("requests that were under way and their answers"),
        ("realtime", "subscription") => Rows::Leave("connections of clients that were open at the time"),
        (_, "schema_migrations" | "migrations") if makes_schema(schema) && schema != HISTORY => {
            Rows::Leave("the platform's own record of how far it has brought this project's schema")
        }
        _ => Rows::Load,
    }
}

/// True when rows of this table are passing: the platform makes and drops its partitions by itself.
pub(crate) fn passes_by(schema: &str, table: &str) -> bool {
    schema == "realtime" && table.starts_with("messages_")
}

/// True when the platform itself makes triggers with functions of this schema: such a trigger is not the user's.
pub(crate) fn makes_triggers(schema: &str) -> bool {
    makes_schema(schema) && !["extensions", "net", "supabase_functions", HISTORY].contains(&schema)
}

/// True for a setting of the database that is about the old project only.
pub(crate) fn own_setting(statement: &str) -> bool {
    statement.contains("app.settings.jwt_")
}
