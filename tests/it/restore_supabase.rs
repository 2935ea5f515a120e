//! `pgstow restore --profile supabase`: into a project whose role is no superuser and whose platform has made schemas,
//! tables and default privileges of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::judge;
use super::support::pg::{self, Cluster, PASSWORD};
use super::support::process::succeed_with;
use super::support::program::{self, expect_code, pgstow};

/// Schemas that the platform has made in a new project.
const PLATFORM: [&str; 9] = [
    "auth",
    "storage",
    "realtime",
    "vault",
    "extensions",
    "graphql",
    "graphql_public",
    "pgbouncer",
    "supabase_functions",
];

/// What the user of the saved project has beyond the sample: things that a project takes, and things that it does not.
const MORE: &str = "
    CREATE EXTENSION pg_buffercache SCHEMA extensions;
    CREATE TABLE auth.one_time_tokens (id uuid PRIMARY KEY, user_id uuid NOT NULL REFERENCES auth.users, kind text NOT NULL);
    ALTER TABLE auth.one_time_tokens OWNER TO supabase_auth_admin;
    INSERT INTO auth.one_time_tokens SELECT id, id, 'confirmation' FROM auth.users LIMIT 20;
    CREATE TABLE auth.flow_state (id uuid PRIMARY KEY, code text); ALTER TABLE auth.flow_state OWNER TO supabase_auth_admin;
    INSERT INTO auth.flow_state VALUES (gen_random_uuid(), 'x');
    CREATE FUNCTION auth.hook(event jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT event';
    CREATE FUNCTION public.audit() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
    CREATE EVENT TRIGGER guard ON ddl_command_end EXECUTE FUNCTION public.audit();
    CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER touched BEFORE UPDATE ON storage.objects FOR EACH ROW EXECUTE FUNCTION public.touch();
    COMMENT ON TRIGGER touched ON storage.objects IS 'ours';
    GRANT SELECT ON auth.identities TO lh_app;
    CREATE TABLE public.hidden (id integer PRIMARY KEY, secret text); INSERT INTO public.hidden VALUES (1, 'x');
    REVOKE ALL ON public.hidden FROM anon, authenticated, service_role; GRANT SELECT (id) ON public.hidden TO lh_app;
    CREATE FUNCTION public.closed(a integer, OUT b integer) LANGUAGE sql AS 'SELECT a'; REVOKE ALL ON FUNCTION public.closed(integer) FROM PUBLIC, anon;
    CREATE TABLE public.theirs (id integer); ALTER TABLE public.theirs OWNER TO supabase_admin; INSERT INTO public.theirs VALUES (1);
    CREATE TABLE public.owned (id integer GENERATED ALWAYS AS IDENTITY, n integer); ALTER TABLE public.owned OWNER TO lh_owner;
    INSERT INTO public.owned (n) SELECT i FROM generate_series(1, 7) i;
    CREATE PUBLICATION events FOR TABLE analytics.events;
    INSERT INTO cron.job (schedule, command, database, username, active, jobname, nodename, nodeport)
    VALUES ('0 4 1 1 *', E'SELECT ''a\\\\b'';\\n', 'app', 'postgres', true, 'yearly', 'localhost', 5432),
           ('0 5 1 1 *', 'SELECT 5', 'app', 'postgres', true, NULL, 'localhost', 5432),
           ('0 6 1 1 *', 'SELECT 6', 'app', 'lh_app', true, 'of another', 'localhost', 5432)";

/// A saved project and a run of it.
struct Saved {
    cluster: Cluster,
    store: PathBuf,
    _folder: tempfile::TempDir,
}

fn saved() -> Saved {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = Cluster::start(15);
    cluster.create_database("app");
    cluster.psql_file("app", &pg::fixture("supabase.sql"), &[("users", "200")]);
    cluster.psql("app", MORE);
    expect_code(&mut program::backup(&cluster, "app", &store), 0);
    Saved { cluster, store, _folder: folder }
}

/// Runs SQL as the platform's superuser.
#[track_caller]
fn admin(project: &Cluster, sql: &str) -> String {
    let url = project.url_as("supabase_admin", PASSWORD, "app");
    let mut psql = project.command("psql");
    psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-", "-d", &url]);
    String::from_utf8(succeed_with(&mut psql, sql.as_bytes()).stdout).unwrap().trim_end().to_owned()
}

/// A new project, as the platform makes it: `postgres` is no superuser, the platform's schemas are there with tables of
/// another version than the saved one's.
fn new_project(of: &Saved, replica: bool) -> Cluster {
    let project = Cluster::start(15);
    let admin_url = project.url_as("boss", PASSWORD, "postgres");
    let literal = PASSWORD.replace('\'', "''");
    project.psql("postgres", &format!("CREATE ROLE boss SUPERUSER LOGIN PASSWORD '{literal}'"));
    let as_boss = format!(
        "ALTER ROLE postgres RENAME TO supabase_admin;
         CREATE ROLE postgres LOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS PASSWORD '{literal}';
         CREATE DATABASE app TEMPLATE template0 OWNER postgres;
         CREATE ROLE anon; CREATE ROLE authenticated; CREATE ROLE service_role BYPASSRLS; CREATE ROLE authenticator LOGIN NOINHERIT;
         CREATE ROLE dashboard_user; CREATE ROLE pgbouncer LOGIN; CREATE ROLE supabase_auth_admin LOGIN NOINHERIT CREATEROLE;
         CREATE ROLE supabase_storage_admin LOGIN NOINHERIT; CREATE ROLE supabase_realtime_admin NOINHERIT;
         CREATE ROLE supabase_functions_admin; CREATE ROLE supabase_read_only_user LOGIN BYPASSRLS;
         GRANT anon, authenticated, service_role TO authenticator, postgres; GRANT pg_read_all_data TO postgres;
         GRANT supabase_storage_admin TO postgres"
    );
    let mut psql = project.command("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-", "-d", &admin_url]);
    succeed_with(&mut psql, as_boss.as_bytes());
    admin(&project, "DROP ROLE boss");
    let mut arguments = vec!["--schema-only"];
    arguments.extend(PLATFORM.iter().flat_map(|schema| ["-n", *schema]));
    let dump = of.cluster.pg_dump("app", &arguments);
    let of_user = [
        "CREATE POLICY ",
        "CREATE TRIGGER on_auth",
        "CREATE TRIGGER touched",
        "COMMENT ON TRIGGER",
        "CREATE FUNCTION auth.hook",
    ];
    let made: Vec<String> = judge::statements(&dump)
        .into_iter()
        .filter(|s| !of_user.iter().any(|words| s.starts_with(words)))
        .filter(|s| !s.contains("FUNCTION auth.hook") && !s.contains("lh_app"))
        .map(|s| s.replace("OWNER TO postgres", "OWNER TO supabase_admin"))
        .collect();
    admin(&project, &format!("SET check_function_bodies = off;\n{}", made.join("\n")));
    admin(
        &project,
        "ALTER SCHEMA extensions OWNER TO postgres;
         CREATE EXTENSION pgcrypto SCHEMA extensions; CREATE EXTENSION \"uuid-ossp\" SCHEMA extensions;
         CREATE EXTENSION pg_stat_statements SCHEMA extensions; CREATE EXTENSION pg_cron WITH SCHEMA pg_catalog;
         GRANT USAGE ON SCHEMA cron TO postgres; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA cron TO postgres;
         ALTER TABLE auth.users ADD COLUMN fresh text DEFAULT 'new'; ALTER TABLE auth.sessions DROP COLUMN user_agent;
         ALTER TABLE storage.objects DROP COLUMN user_metadata; ALTER TABLE storage.buckets DROP COLUMN public;
         ALTER TABLE storage.buckets ADD COLUMN public boolean GENERATED ALWAYS AS (id = 'avatars') STORED;
         DROP TABLE auth.flow_state; DROP TABLE realtime.messages_2025_03_01; DROP TABLE realtime.messages_2025_03_02;
         INSERT INTO auth.schema_migrations VALUES ('2099'); INSERT INTO storage.migrations VALUES (1, 'theirs', 'x');
         INSERT INTO realtime.schema_migrations VALUES (1); SELECT setval('auth.refresh_tokens_id_seq', 3);
         GRANT USAGE ON SCHEMA auth, storage, realtime, vault, supabase_functions TO postgres;
         GRANT ALL ON ALL TABLES IN SCHEMA auth, storage, realtime, supabase_functions TO postgres;
         GRANT ALL ON ALL SEQUENCES IN SCHEMA auth, storage, realtime, supabase_functions TO postgres;
         GRANT SELECT ON vault.secrets TO postgres;
         REVOKE ALL ON auth.schema_migrations, storage.migrations, realtime.schema_migrations, auth.one_time_tokens FROM postgres;
         GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role;
         ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated, service_role;
         ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public GRANT ALL ON SEQUENCES TO anon, authenticated, service_role, dashboard_user;
         ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role;
         ALTER DEFAULT PRIVILEGES FOR ROLE postgres REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
         ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT ALL ON TABLES TO anon;
         ALTER DEFAULT PRIVILEGES FOR ROLE supabase_admin IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated, service_role;
         CREATE EVENT TRIGGER pgrst_ddl_watch ON ddl_command_end EXECUTE FUNCTION extensions.pgrst_ddl_watch();
         CREATE PUBLICATION supabase_realtime; ALTER PUBLICATION supabase_realtime OWNER TO postgres",
    );
    if replica {
        admin(&project, "GRANT SET ON PARAMETER session_replication_role TO postgres");
    }
    project
}

/// Restores into the project with `--json`; returns what it reports.
#[track_caller]
fn restore(saved: &Saved, project: &Cluster, more: &[&str], code: i32) -> Value {
    let (out, err) = expect_code(&mut command(&saved.store, project, more), code);
    assert!(!err.contains("panicked"), "{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}\n{out}\n{err}"))
}

fn command(store: &Path, project: &Cluster, more: &[&str]) -> std::process::Command {
    let mut command = pgstow();
    command.args(["restore", "--json", "--profile", "supabase", "--to", &project.url("app"), "--pg-bin-dir"]);
    command.arg(project.bin_dir()).arg("--store").arg(store).args(more);
    command
}

/// `kind name` of what is listed.
fn listed(report: &Value, list: &str) -> Vec<String> {
    let findings = report["findings"][list].as_array().unwrap();
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    let mut listed: Vec<String> = findings.iter().map(|f| format!("{} {}", text(f, "kind"), text(f, "name"))).collect();
    for finding in findings {
        assert!(!text(finding, "why").is_empty(), "{finding}");
        assert!(list != "not_restored" || !text(finding, "step").is_empty(), "{finding}");
    }
    listed.sort();
    listed
}

#[test]
fn a_project_comes_back_in_a_new_one() {
    let saved = saved();
    let project = new_project(&saved, true);
    let report = restore(&saved, &project, &["--roles"], 3);
    println!("{report:#}");
}
