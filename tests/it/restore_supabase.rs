//! `pgstow restore --profile supabase`: into a project whose role is no superuser and whose platform has made schemas,
//! tables and default privileges of its own.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

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
    GRANT SELECT ON auth.identities TO lh_app; GRANT SELECT ON auth.mfa_factors TO lh_app;
    CREATE TABLE public.hidden (id integer PRIMARY KEY, secret text); INSERT INTO public.hidden VALUES (1, 'x');
    REVOKE ALL ON public.hidden FROM anon, authenticated, service_role; GRANT SELECT (id) ON public.hidden TO lh_app;
    CREATE FUNCTION public.closed(a integer, OUT b integer) LANGUAGE sql AS 'SELECT a'; REVOKE ALL ON FUNCTION public.closed(integer) FROM PUBLIC, anon;
    CREATE TABLE public.theirs (id integer); ALTER TABLE public.theirs OWNER TO supabase_admin; INSERT INTO public.theirs VALUES (1);
    CREATE TABLE public.owned (id integer GENERATED ALWAYS AS IDENTITY, n integer); ALTER TABLE public.owned OWNER TO lh_owner;
    INSERT INTO public.owned (n) SELECT i FROM generate_series(1, 7) i;
    GRANT SELECT ON public.products TO lh_owner WITH GRANT OPTION; SET ROLE lh_owner; GRANT SELECT ON public.products TO lh_app; RESET ROLE;
    GRANT SELECT ON public.theirs TO supabase_read_only_user WITH GRANT OPTION; SET ROLE supabase_read_only_user;
    GRANT SELECT ON public.theirs TO dashboard_user; RESET ROLE;
    CREATE PUBLICATION events FOR TABLE analytics.events;
    INSERT INTO cron.job (schedule, command, database, username, active, jobname, nodename, nodeport)
    VALUES ('0 4 1 1 *', E'SELECT ''a\\\\b'';\\n', 'app', 'postgres', true, 'yearly', 'localhost', 5432),
           ('0 5 1 1 *', 'SELECT 5', 'app', 'postgres', true, NULL, 'localhost', 5432),
           ('0 6 1 1 *', 'SELECT 6', 'app', 'lh_app', true, 'of another', 'localhost', 5432);
    CREATE TABLE auth.ours (id integer); CREATE POLICY keyed ON realtime.messages USING (topic <> 'Bearer eyJhbGciOi')";

/// A saved project and a run of it.
struct Saved {
    cluster: Cluster,
    store: PathBuf,
}

/// The one for all tests; they only read it.
fn saved() -> &'static Saved {
    static SAVED: LazyLock<Saved> = LazyLock::new(|| {
        // Removed by the next run: statics are never dropped.
        let store = Path::new(env!("CARGO_TARGET_TMPDIR")).join("supabase-store");
        if store.exists() {
            std::fs::remove_dir_all(&store).unwrap();
        }
        let cluster = Cluster::start(pg::packaged());
        cluster.create_database("app");
        cluster.psql_file("app", &pg::fixture("supabase.sql"), &[("users", "200")]);
        cluster.psql("app", MORE);
        expect_code(&mut program::backup(&cluster, "app", &store), 0);
        Saved { cluster, store }
    });
    &SAVED
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
fn new_project(of: &Saved, version: u32, replica: bool) -> Cluster {
    let project = Cluster::start(version);
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
        "CREATE TABLE auth.ours",
    ];
    let made: Vec<String> = judge::statements(&dump)
        .into_iter()
        .filter(|s| !of_user.iter().any(|words| s.starts_with(words)))
        .filter(|s| !s.contains("FUNCTION auth.hook") && !s.contains("auth.ours") && !s.contains("lh_app"))
        .map(|s| s.replace("OWNER TO postgres", "OWNER TO supabase_admin"))
        .collect();
    admin(&project, &format!("SET check_function_bodies = off;\n{}", made.join("\n")));
    admin(
        &project,
        "ALTER SCHEMA extensions OWNER TO postgres;
         ALTER TABLE auth.users ADD COLUMN fresh text DEFAULT 'new'; ALTER TABLE auth.sessions DROP COLUMN user_agent;
         ALTER TABLE storage.objects DROP COLUMN user_metadata; ALTER TABLE storage.buckets DROP COLUMN public;
         ALTER TABLE storage.buckets ADD COLUMN public boolean GENERATED ALWAYS AS (id = 'avatars') STORED;
         DROP TABLE auth.flow_state; DROP TABLE realtime.messages_2025_03_01; DROP TABLE realtime.messages_2025_03_02;
         INSERT INTO auth.schema_migrations VALUES ('2099'); INSERT INTO storage.migrations VALUES (1, 'theirs', 'x');
         INSERT INTO realtime.schema_migrations VALUES (1); SELECT setval('auth.refresh_tokens_id_seq', 3);
         GRANT USAGE ON SCHEMA auth, storage, realtime, vault, supabase_functions TO postgres;
         GRANT ALL ON ALL TABLES IN SCHEMA auth, storage, realtime, supabase_functions TO postgres;
         GRANT ALL ON ALL SEQUENCES IN SCHEMA auth, storage, realtime, supabase_functions TO postgres;
         GRANT SELECT ON vault.secrets TO postgres; GRANT SELECT ON auth.identities TO postgres WITH GRANT OPTION;
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
    if version == pg::packaged() {
        admin(
            &project,
            "CREATE EXTENSION pgcrypto SCHEMA extensions; CREATE EXTENSION \"uuid-ossp\" SCHEMA extensions;
             CREATE EXTENSION pg_stat_statements SCHEMA extensions; CREATE EXTENSION pg_cron WITH SCHEMA pg_catalog; GRANT USAGE ON SCHEMA cron TO postgres;
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA cron TO postgres",
        );
    }
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

/// Schemas of the application.
const APPLICATION: [&str; 4] = ["public", "lh_billing", "analytics", "supabase_migrations"];

/// The text of the application's schemas, but for the table whose owner the project forbids.
fn application(cluster: &Cluster, role: &str) -> String {
    let url = cluster.url_as(role, PASSWORD, "app");
    let mut dump = cluster.command("pg_dump");
    dump.args(["-d", &url, "-T", "public.theirs"]).args(APPLICATION.iter().flat_map(|schema| ["-n", *schema]));
    let text = judge::comparable(&String::from_utf8(succeed_with(&mut dump, b"").stdout).unwrap());
    assert!(text.contains("CREATE POLICY") && text.contains("FOREIGN KEY") && text.contains("COPY public.orders"));
    text
}

/// Asks both the saved project and the new one, as superusers.
#[track_caller]
fn same(saved: &Saved, project: &Cluster, question: &str) {
    let answer = saved.cluster.psql("app", question);
    assert!(!answer.is_empty(), "{question} says nothing");
    assert_eq!(answer, admin(project, question), "{question}");
}

/// All rows of a table of the platform, or these columns of them, in an order of their own.
fn rows(table: &str, columns: &str) -> String {
    format!("SELECT count(*), md5(string_agg(r, ',' ORDER BY r)) FROM (SELECT ROW({columns})::text r FROM {table} t) x")
}

/// What a whole restore brings back, whatever the way.
#[track_caller]
fn assert_restored(saved: &Saved, project: &Cluster) {
    judge::assert_same(&application(&saved.cluster, "postgres"), &application(project, "supabase_admin"));
    for table in [
        "auth.identities",
        "auth.refresh_tokens",
        "auth.mfa_factors",
        "auth.audit_log_entries",
        "realtime.messages_2025_03_03",
    ] {
        same(saved, project, &rows(table, "t.*"));
    }
    same(saved, project, &rows("auth.sessions", "id, user_id, created_at, aal, not_after, ip"));
    same(saved, project, &rows("storage.buckets", "id, name, created_at, public, file_size_limit, allowed_mime_types"));
    same(
        saved,
        project,
        &rows("storage.objects", "id, bucket_id, name, owner, created_at, updated_at, metadata, path_tokens, version"),
    );
    same(saved, project, "SELECT id FROM public.theirs");
    same(
        saved,
        project,
        "SELECT string_agg(tgname, ',' ORDER BY tgname), obj_description(max(oid) FILTER (WHERE tgname = 'touched'), 'pg_trigger') FROM pg_trigger WHERE tgrelid IN ('auth.users'::regclass, 'storage.objects'::regclass) AND NOT tgisinternal",
    );
    same(
        saved,
        project,
        "SELECT polname, polcmd, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid) FROM pg_policy WHERE polrelid = 'storage.objects'::regclass ORDER BY 1",
    );
    same(saved, project, "SELECT * FROM pg_publication_tables WHERE tablename <> 'x' ORDER BY 1, 2, 3");
    same(saved, project, "SELECT pubname, pubowner::regrole, pubviaroot, pubtruncate FROM pg_publication ORDER BY 1");
    same(
        saved,
        project,
        "SELECT schedule, command, active, database, jobname FROM cron.job WHERE username = 'postgres' ORDER BY 1",
    );
    same(saved, project, "SELECT last_value, is_called FROM auth.refresh_tokens_id_seq");
    same(
        saved,
        project,
        "SELECT m.oid, md5(lo_get(m.oid)), lomowner::regrole, lomacl, obj_description(m.oid, 'pg_largeobject') FROM pg_largeobject_metadata m ORDER BY 1",
    );
    same(
        saved,
        project,
        "SELECT has_table_privilege('dashboard_user', 'public.theirs', 'SELECT'), has_table_privilege('lh_app', 'auth.identities', 'SELECT'), has_table_privilege('anon', 'public.hidden', 'SELECT'), has_function_privilege('anon', 'public.closed(integer)', 'EXECUTE')",
    );
    same(saved, project, "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'app'");
    same(saved, project, "SELECT extname FROM pg_extension WHERE extname NOT IN ('pg_buffercache') ORDER BY 1");
    same(
        saved,
        project,
        "SELECT rolname, rolcanlogin, rolconnlimit, rolconfig, pg_has_role('lh_app', 'lh_owner', 'USAGE') FROM pg_roles WHERE rolname LIKE 'lh_%' ORDER BY 1",
    );
    // The platform's own: as the platform left it.
    assert_eq!(admin(project, "SELECT version FROM auth.schema_migrations"), "2099");
    assert_eq!(admin(project, "SELECT name FROM storage.migrations"), "theirs");
    assert_eq!(admin(project, "SELECT count(*) FROM vault.secrets"), "0");
    assert_eq!(admin(project, "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgstow_restore'"), "0");
}

/// What no restore into such a project can bring back.
const NEVER: [&str; 13] = [
    "column auth.sessions.user_agent",
    "cron job of another",
    "event trigger guard",
    "extension pg_buffercache",
    "function auth.hook(jsonb)",
    "ownership by supabase_admin",
    "policy realtime.messages Members read topics",
    "policy realtime.messages keyed",
    "privileges auth.TABLE mfa_factors",
    "rows of auth.flow_state",
    "rows of auth.one_time_tokens",
    "rows of vault.secrets",
    "table auth.ours",
];

#[test]
fn a_project_comes_back_in_a_new_one_and_what_does_not_is_listed() {
    let saved = saved();
    let project = new_project(saved, pg::packaged(), true);
    let mut plain = pgstow();
    plain.args(["restore", "--to", &project.url("app"), "--pg-bin-dir"]).arg(project.bin_dir());
    let (_, told) = expect_code(plain.arg("--store").arg(&saved.store), 2);
    assert!(told.contains("is not empty") && told.contains("--profile supabase"), "{told}");
    let (_, told) = expect_code(&mut command(&saved.store, &project, &[]), 1);
    assert!(told.contains("role lh_app, role lh_owner") && told.contains("nothing was changed"), "{told}");
    assert_eq!(admin(&project, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"), "0");

    // Stopped by damage in the middle of the application's rows, when the platform's are loaded.
    let folder = tempfile::tempdir().unwrap();
    succeed_with(std::process::Command::new("cp").arg("-a").arg(&saved.store).arg(folder.path().join("store")), b"");
    let run = program::Run::latest(&folder.path().join("store"));
    let damaged = run.folder.join("public/orders.sql.zst");
    let mut flipped = std::fs::read(&damaged).unwrap();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    std::fs::write(&damaged, flipped).unwrap();
    let (_, told) = expect_code(&mut command(&run.store, &project, &["--roles"]), 1);
    assert!(told.contains("public/orders.sql.zst"), "{told}");
    assert_eq!(admin(&project, "SELECT count(*) FROM auth.users"), "200");
    assert_eq!(admin(&project, "SELECT count(*) FROM public.orders"), "0");
    let mut ordinary = pgstow();
    ordinary.args(["restore", "--to", &project.url("app"), "--into-existing"]).arg("--store").arg(&saved.store);
    let (_, told) = expect_code(ordinary.arg("--pg-bin-dir").arg(project.bin_dir()), 2);
    assert!(told.contains("unfinished restore"), "{told}");

    // The same command completes it.
    let report = restore(saved, &project, &["--roles"], 3);
    assert_restored(saved, &project);
    same(
        saved,
        &project,
        &rows("auth.users", "instance_id, id, email, encrypted_password, raw_user_meta_data, confirmed_at, phone"),
    );
    assert_eq!(admin(&project, "SELECT DISTINCT fresh FROM auth.users"), "new");
    assert_eq!(listed(&report, "not_restored"), NEVER);
    let left = listed(&report, "left_alone");
    for wanted in [
        "column storage.objects.user_metadata",
        "rows of auth.schema_migrations",
        "rows of cron.job_run_details",
        "rows of realtime.messages_2025_03_01",
        "rows of storage.migrations",
        "setting app.settings.jwt_*",
    ] {
        assert!(left.iter().any(|line| line == wanted), "{wanted} in {left:#?}");
    }
    let notes = report["findings"]["notes"].to_string();
    assert!(notes.contains("not in the run: storage files"), "{notes}");
    assert!(notes.contains("public.TABLE theirs: granted by supabase_read_only_user in the run"), "{notes}");
    assert!(notes.contains("auth.users: 200 rows were there; 0 of the run's 200 were added"), "{notes}");

    // A project that is full is refused; the platform's schemas alone can be restored again, and change nothing.
    let (_, told) = expect_code(&mut command(&saved.store, &project, &["--roles"]), 2);
    assert!(told.contains("are not empty") && told.contains("--into-existing"), "{told}");
    let report = restore(saved, &project, &["--schema", "storage", "--schema", "realtime"], 3);
    assert_eq!(
        listed(&report, "not_restored"),
        ["policy realtime.messages Members read topics", "policy realtime.messages keyed"]
    );
    assert!(!report.to_string().contains("eyJhbGciOi") && report.to_string().contains("may hold a secret"));
    let report = restore(saved, &project, &["--schema", "storage"], 0);
    assert_eq!(report["rows"], 0);
    assert_restored(saved, &project);
    // Stopped right before its end: all is made again, once.
    let kept: Vec<String> =
        PLATFORM.iter().chain(&["public", "cron"]).map(|name| format!("('schema', '{name}')")).collect();
    project.psql(
        "app",
        &format!(
            "CREATE SCHEMA pgstow_restore; COMMENT ON SCHEMA pgstow_restore IS '{} --profile supabase';
             CREATE TABLE pgstow_restore.kept (kind text, name text); INSERT INTO pgstow_restore.kept VALUES {}",
            run.name,
            kept.join(", ")
        ),
    );
    let report = restore(saved, &project, &["--roles"], 3);
    assert_eq!(listed(&report, "not_restored"), NEVER);
    assert_restored(saved, &project);
    for odd in [&["--create"][..], &["--data-only"], &["--table", "public.orders"]] {
        let (_, told) = expect_code(&mut command(&saved.store, &project, odd), 2);
        assert!(told.contains("cannot be combined"), "{told}");
    }
    single_rows_come_back(saved, &project);
}

/// `rescue` as `postgres`, which is no superuser there: items went with the orders that they refer to.
fn single_rows_come_back(saved: &Saved, project: &Cluster) {
    let answers = ["orders", "order_items"].map(|table| rows(&format!("public.{table}"), "t.*"));
    admin(
        project,
        "DELETE FROM public.orders WHERE id <= 3;
         UPDATE public.orders SET note = 'wrong' WHERE id = 10;
         INSERT INTO public.orders (id, user_id, placed_at) SELECT 100000, id, now() FROM public.profiles LIMIT 1",
    );
    let rescue = |table: &str, words: &[&str]| -> Value {
        let mut command = pgstow();
        command.args(["rescue", "--table", table, "--to", &project.url("app"), "--json"]).args(words);
        let (out, _) = expect_code(command.arg("--store").arg(&saved.store), 0);
        serde_json::from_str(&out).unwrap()
    };
    let count = |report: &Value, kind: &str| report[kind]["count"].as_u64().unwrap();
    let report = rescue("public.orders", &[]);
    assert_eq!((count(&report, "missing"), count(&report, "changed"), count(&report, "extra")), (3, 1, 1), "{report}");
    rescue("public.order_items", &["--apply", "missing", "--with-referenced"]);
    rescue("public.orders", &["--apply", "changed"]);
    let report = rescue("public.orders", &[]);
    assert_eq!((count(&report, "missing"), count(&report, "changed"), count(&report, "extra")), (0, 0, 1));
    admin(project, "DELETE FROM public.orders WHERE id = 100000");
    for question in &answers {
        same(saved, project, question);
    }
}

#[test]
fn where_triggers_cannot_be_turned_off_tables_are_loaded_in_order() {
    let saved = saved();
    let project = new_project(saved, pg::packaged(), false);
    admin(
        &project,
        "CREATE FUNCTION storage.stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.version := ''stamped''; RETURN NEW; END';
         CREATE TRIGGER stamp BEFORE INSERT ON storage.objects FOR EACH ROW WHEN (NEW.name LIKE '%file 7 %') EXECUTE FUNCTION storage.stamp()",
    );
    let report = restore(saved, &project, &["--roles"], 3);
    let mut wanted: Vec<&str> = NEVER.to_vec();
    // Compared as they were read back; here through the temporary table, whose rows are compared too.
    wanted.push("rows of storage.objects");
    wanted.sort_unstable();
    assert_eq!(listed(&report, "not_restored"), wanted);
    let notes = report["findings"]["notes"].to_string();
    assert!(notes.contains("session_replication_role"), "{notes}");
    let stamped = admin(&project, "SELECT id FROM storage.objects WHERE version = 'stamped'");
    let version = saved.cluster.psql("app", &format!("SELECT version FROM storage.objects WHERE id = '{stamped}'"));
    admin(
        &project,
        &format!(
            "DROP FUNCTION storage.stamp() CASCADE; ALTER TABLE storage.objects DISABLE TRIGGER USER;
             UPDATE storage.objects SET version = '{version}' WHERE id = '{stamped}'; ALTER TABLE storage.objects ENABLE TRIGGER USER"
        ),
    );
    assert_restored(saved, &project);
    same(
        saved,
        &project,
        &rows("auth.users", "instance_id, id, email, encrypted_password, raw_user_meta_data, confirmed_at, phone"),
    );
}

#[test]
fn rows_that_are_there_are_kept_or_replaced_and_dangling_ones_are_told() {
    let saved = saved();
    let project = new_project(saved, pg::packaged(), true);
    let ids = saved.cluster.psql("app", "SELECT string_agg(quote_literal(id), ',' ORDER BY email) FROM auth.users WHERE email IN ('user1@example.com', 'user2@example.com')");
    let [first, _second] = ids.split(',').collect::<Vec<_>>()[..] else { panic!("{ids}") };
    // The first user is there and was changed; another has the second one's address.
    admin(
        &project,
        &format!(
            "INSERT INTO auth.users (id, email, is_sso_user) VALUES ({first}, 'changed@example.com', false),
                ('00000000-0000-0000-0000-000000000001', 'user2@example.com', false);
             ALTER TABLE auth.mfa_factors DROP CONSTRAINT mfa_factors_pkey; INSERT INTO auth.mfa_factors VALUES
                ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000001', 'x', 'totp', 'verified', now(), now(), 'x')"
        ),
    );
    admin(&project, "CREATE ROLE lh_owner; CREATE ROLE lh_app");
    let report = restore(saved, &project, &["--schema", "auth"], 3);
    let lost = listed(&report, "not_restored");
    for wanted in
        ["rows of auth.users", "rows of auth.mfa_factors", "references of auth.identities (identities_user_id_fkey)"]
    {
        assert!(lost.iter().any(|line| line == wanted), "{wanted} in {lost:#?}");
    }
    let text = report["findings"]["not_restored"].to_string();
    assert!(
        text.contains("2 of 200 rows: other rows with the same keys")
            && text.contains("1 rows of auth.identities refer to rows"),
        "{text}"
    );
    assert_eq!(admin(&project, "SELECT count(*) FROM auth.users"), "200");
    assert_eq!(admin(&project, "SELECT count(*) FROM auth.mfa_factors"), "1");

    let report = restore(saved, &project, &["--schema", "auth", "--truncate"], 3);
    let lost = listed(&report, "not_restored");
    assert!(!lost.iter().any(|line| line.starts_with("references") || line == "rows of auth.users"), "{lost:#?}");
    same(
        saved,
        &project,
        &rows("auth.users", "instance_id, id, email, encrypted_password, raw_user_meta_data, confirmed_at, phone"),
    );
    same(saved, &project, &rows("auth.mfa_factors", "t.*"));
    assert_eq!(admin(&project, "SELECT version FROM auth.schema_migrations"), "2099");
    let mut text = pgstow();
    text.args(["restore", "--profile=supabase", "--schema=auth", "--to", &project.url("app"), "--pg-bin-dir"]);
    let (out, _) = expect_code(text.arg(project.bin_dir()).arg("--store").arg(&saved.store), 3);
    assert!(
        out.contains("not restored: rows of vault") || out.contains("not restored: rows of auth.flow_state"),
        "{out}"
    );
    assert!(out.contains("    do: ") && out.contains("  left alone: "), "{out}");
}

#[test]
fn a_refusal_that_quotes_its_own_code_is_one_finding() {
    let saved = saved();
    let project = new_project(saved, pg::packaged(), true);
    admin(
        &project,
        "CREATE FUNCTION extensions.ban() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE c record; BEGIN
            FOR c IN SELECT * FROM pg_event_trigger_ddl_commands() LOOP
              IF c.object_identity IN ('public.products_name_trgm_idx', 'public.hidden') THEN
                RAISE EXCEPTION 'not here: [%] (P0001)', c.object_identity USING ERRCODE = 'P0001'; END IF; END LOOP; END $$;
         CREATE EVENT TRIGGER ban ON ddl_command_end EXECUTE FUNCTION extensions.ban()",
    );
    let report = restore(saved, &project, &["--roles"], 3);
    let lost = listed(&report, "not_restored");
    for wanted in ["index public.products_name_trgm_idx", "table public.hidden"] {
        assert_eq!(lost.iter().filter(|line| *line == wanted).count(), 1, "{wanted} in {lost:#?}");
    }
    assert!(NEVER.iter().all(|wanted| lost.iter().any(|line| line == wanted)), "{lost:#?}");
    assert_eq!(
        admin(&project, "SELECT count(*) FROM public.products"),
        saved.cluster.psql("app", "SELECT count(*) FROM public.products")
    );
}

#[test]
fn a_newer_project_without_the_extensions_takes_all_that_does_not_need_them() {
    let saved = saved();
    let newest = *pg::versions().last().unwrap();
    assert!(newest >= 16, "a server where a member may not be able to act as the role is needed");
    let project = new_project(saved, newest, true);
    // The application made things of its own already, and one of them collides.
    admin(
        &project,
        "CREATE TABLE public.products (id integer PRIMARY KEY, name text); INSERT INTO public.products VALUES (1, 'theirs');
         ALTER TABLE public.products OWNER TO postgres; CREATE TABLE public.other (id integer); INSERT INTO public.other VALUES (1)",
    );
    let (_, told) = expect_code(&mut command(&saved.store, &project, &["--roles"]), 2);
    assert!(told.contains("public.products") || told.contains("table products"), "{told}");
    let report = restore(saved, &project, &["--roles", "--into-existing"], 3);
    let lost = listed(&report, "not_restored");
    for wanted in [
        "cron job nightly",
        "cron job number 4",
        "cron job of another",
        "cron job yearly",
        "extension citext",
        "extension pg_cron",
        "fk constraint public.orders orders_user_id_fkey",
        "index public.products_name_trgm_idx",
        "policy public.profiles Users can update own profile.",
        "rows of public.profiles",
        "table public.products",
        "table public.profiles",
        "column public.products.price",
        "rows of vault.secrets",
    ] {
        assert!(lost.iter().any(|line| line == wanted), "{wanted} in {lost:#?}");
    }
    let text = report["findings"]["not_restored"].to_string();
    assert!(text.contains("enable pg_cron, then: SELECT cron.schedule('yearly', '0 4 1 1 *', "), "{text}");
    assert!(text.contains("drop or rename what is there"), "{text}");
    assert!(text.contains("needs table public.profiles, which is not there"), "{text}");
    for table in [
        "public.orders",
        "public.messages",
        "public.owned",
        "lh_billing.accounts",
        "lh_billing.invoices",
        "analytics.revenue",
    ] {
        same(saved, &project, &rows(table, "t.*"));
    }
    same(saved, &project, &rows("auth.identities", "t.*"));
    assert_eq!(admin(&project, "SELECT name FROM public.products WHERE id = 1"), "theirs");
    assert_eq!(admin(&project, "SELECT count(*) FROM public.products"), "500");
    assert_eq!(admin(&project, "SELECT count(*) FROM public.other"), "1");
    for question in [
        "SELECT relname, relowner::regrole, relacl, relrowsecurity, relforcerowsecurity FROM pg_class WHERE relnamespace = 'lh_billing'::regnamespace AND relkind IN ('r', 'S') ORDER BY 1",
        "SELECT relowner::regrole FROM pg_class WHERE oid = 'public.owned'::regclass",
        "SELECT nspowner::regrole, nspacl FROM pg_namespace WHERE nspname = 'lh_billing'",
        "SELECT rolname, rolcanlogin, rolconnlimit, rolconfig, pg_has_role('lh_app', 'lh_owner', 'USAGE') FROM pg_roles WHERE rolname LIKE 'lh_%' ORDER BY 1",
    ] {
        if newest < 17 || !question.contains("relacl") {
            same(saved, &project, question);
        }
    }
}

#[test]
fn a_person_who_was_forgotten_does_not_come_back_into_a_project() {
    let saved = saved();
    let project = new_project(saved, pg::packaged(), true);
    let id = saved.cluster.psql("app", "SELECT user_id FROM auth.one_time_tokens ORDER BY 1 LIMIT 1");
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("forget.jsonl");
    std::fs::write(&list, format!("{{\"table\":\"auth.users\",\"key\":{{\"id\":\"{id}\"}}}}\n")).unwrap();
    let report = restore(saved, &project, &["--roles", "--forget", list.to_str().unwrap()], 3);
    assert_eq!(listed(&report, "not_restored").iter().filter(|line| line.starts_with("erasure")).count(), 0);
    let users = &report["forgotten"]["tables"].as_array().unwrap().iter().find(|one| one["table"] == "auth.users");
    assert_eq!(users.unwrap()["listed"], 1, "{report}");
    for (table, column) in [("auth.users", "id"), ("auth.identities", "user_id"), ("auth.one_time_tokens", "user_id")] {
        let left = format!("SELECT count(*) FROM {table} WHERE {column} = '{id}'");
        assert_eq!(
            (admin(&project, &left), saved.cluster.psql("app", &left) != "0"),
            ("0".to_owned(), true),
            "{table}"
        );
    }
    let all = "SELECT count(*) FROM auth.users";
    assert_eq!(admin(&project, all), saved.cluster.psql("app", "SELECT count(*) - 1 FROM auth.users"));
}
