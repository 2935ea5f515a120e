//! What the stock tools run from a run's texts: RESTORE.md's script and the tables' SQL files. Nothing that a role put
//! into a name or a setting becomes a statement of its own, nobody gets a right that the run does not give, and settings
//! of the database are in force where values are computed.

use std::fs;
use std::process::{Command, Output};

use super::support::judge;
use super::support::pg::{self, Cluster};
use super::support::process::output_with;
use super::support::program::{Run, backup, expect_code, restore_as_told, story};

/// The script of RESTORE.md, by bash, whatever its end.
fn script(run: &Run, cluster: &Cluster, database: &str) -> Output {
    let text = fs::read_to_string(run.folder.join("RESTORE.md")).unwrap();
    let block = text.split("```bash\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), block).unwrap();
    let mut bash = Command::new("bash");
    bash.arg(file.path()).env_clear().env("RUN", &run.folder).env("DB", cluster.url(database)).current_dir("/");
    output_with(bash.env("PATH", format!("{}:/usr/bin:/bin", cluster.bin_dir().display())), b"")
}

/// Roles whose settings, comments and names hold line ends, quotes, statements and commands of psql.
const ROLES: &str = r#"
    CREATE ROLE told_mallory LOGIN; CREATE ROLE told_boss; CREATE ROLE told_here; CREATE ROLE told_new;
    ALTER ROLE told_mallory SET search_path = E'hello\nALTER ROLE "told_mallory" SUPERUSER;\nbye';
    ALTER ROLE told_mallory IN DATABASE told_source SET search_path = E'x\';\n\\! touch DIR/planted\nALTER ROLE "told_mallory" SUPERUSER;\n--';
    COMMENT ON ROLE told_mallory IS E'a "\'\n\\! touch DIR/planted\n\\connect postgres\n$$ :x /* ;\nALTER ROLE told_mallory SUPERUSER;\n';
    CREATE ROLE "told ;""'
ALTER ROLE told_mallory SUPERUSER;
-- " NOLOGIN;
    ALTER ROLE "told ;""'
ALTER ROLE told_mallory SUPERUSER;
-- " SET work_mem = '7MB';
    GRANT told_boss TO told_mallory; GRANT told_new TO told_here;
    ALTER ROLE told_new SET "app.x" = E'one\nALTER ROLE "told_mallory" SUPERUSER;\n\'two';
"#;

#[test]
fn nothing_that_a_role_planted_becomes_a_statement_of_its_own() {
    let version = pg::packaged();
    let (source, target) = (Cluster::start(version), Cluster::start(version));
    let folder = tempfile::tempdir().unwrap();
    let (store, planted) = (folder.path().join("store"), folder.path().join("planted"));
    source.create_database("told_source");
    source.psql("postgres", &ROLES.replace("DIR", &folder.path().display().to_string()));
    source.psql(
        "told_source",
        r"CREATE TABLE t (a integer); INSERT INTO t VALUES (1); ALTER DATABASE told_source SET app.motto = E'a\nALTER ROLE told_mallory SUPERUSER;\n\'b';
           GRANT CONNECT ON DATABASE told_source TO told_boss WITH GRANT OPTION; SET ROLE told_boss; GRANT CONNECT ON DATABASE told_source TO told_new",
    );
    expect_code(&mut backup(&source, "told_source", &store), 0);
    let run = Run::latest(&store);
    let supers = |cluster: &Cluster| {
        cluster.psql("postgres", "SELECT rolname FROM pg_roles WHERE rolsuper AND rolname <> 'postgres'")
    };
    let settings = |cluster: &Cluster, database: &str| {
        let sql = format!(
            "SELECT setrole::regrole, setconfig FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = setdatabase
              WHERE datname = '{database}' OR setdatabase = 0 ORDER BY setrole::regrole::text, 2"
        );
        let granted = format!("SELECT datacl FROM pg_database WHERE datname = '{database}'");
        cluster.psql("postgres", &sql) + &cluster.psql("postgres", &granted)
    };

    // All roles are missing: all comes whole.
    target.create_database("told_source");
    restore_as_told(&run, &target, "told_source");
    assert_eq!(settings(&target, "told_source"), settings(&source, "told_source"));
    let comment = "SELECT md5(shobj_description(oid, 'pg_authid')) FROM pg_roles WHERE rolname = 'told_mallory'";
    assert_eq!(target.psql("postgres", comment), source.psql("postgres", comment));
    judge::assert_same_database((&source, "told_source"), (&target, "told_source"));
    target.drop_database("told_source");

    // Some exist, in other ways: they stay as they are, attributes, settings and memberships.
    target.psql(
        "postgres",
        "ALTER ROLE told_mallory RESET search_path; ALTER ROLE told_mallory NOLOGIN; COMMENT ON ROLE told_mallory IS 'own';
         REVOKE told_boss FROM told_mallory; DROP ROLE told_new",
    );
    target.create_database("told_again");
    restore_as_told(&run, &target, "told_again");
    let state = "SELECT rolcanlogin, rolsuper, rolconfig IS NULL, shobj_description(oid, 'pg_authid'), pg_has_role(oid, 'told_boss', 'MEMBER')
                   FROM pg_roles WHERE rolname = 'told_mallory'";
    assert_eq!(target.psql("postgres", state).trim(), "f|f|t|own|f");
    assert_eq!(target.psql("postgres", "SELECT pg_has_role('told_here', 'told_new', 'MEMBER')").trim(), "t");
    assert_eq!((supers(&target).as_str(), planted.exists()), ("", false));

    // What is refused of it is counted.
    target.create_database("told_refused");
    target.psql("postgres", "DROP ROLE told_here");
    let roles = run.folder.join("@roles.sql.zst");
    let plain = String::from_utf8(run.plain("@roles.sql.zst")).unwrap();
    fs::write(
        folder.path().join("plain"),
        plain.replace("ALTER ROLE told_here WITH", "ALTER ROLE told_here WITH NONSENSE"),
    )
    .unwrap();
    let mut zstd = Command::new("zstd");
    output_with(zstd.args(["-qf", "-o"]).arg(&roles).arg(folder.path().join("plain")), b"");
    let output = script(&run, &target, "told_refused");
    assert_eq!(output.status.code(), Some(3), "{}", story(&output));
    assert!(story(&output).contains("RESTORE.md: 1 steps had errors"), "{}", story(&output));
    assert_eq!(target.psql("told_refused", "SELECT a FROM t").trim(), "1");
}

/// Objects of every kind that has default privileges.
const RIGHTS: &str = "
    CREATE SCHEMA app AUTHORIZATION given_owner; SET ROLE given_owner;
    CREATE TABLE app.t (a serial, i integer GENERATED ALWAYS AS IDENTITY, b text); INSERT INTO app.t (b) VALUES ('x'); ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
    CREATE TABLE app.forced (a integer); INSERT INTO app.forced VALUES (1); ALTER TABLE app.forced ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE TABLE app.shared (a integer); GRANT SELECT ON app.shared TO given_anon;
    CREATE SEQUENCE app.s; CREATE VIEW app.v AS SELECT 1 AS a; CREATE MATERIALIZED VIEW app.m AS SELECT 1 AS a;
    CREATE FUNCTION app.f() RETURNS integer LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION app.secret() RETURNS integer LANGUAGE sql AS 'SELECT 1'; REVOKE ALL ON FUNCTION app.secret() FROM PUBLIC;
    CREATE TYPE app.y AS ENUM ('a'); CREATE TYPE app.hidden AS ENUM ('a'); REVOKE ALL ON TYPE app.hidden FROM PUBLIC;
    RESET ROLE; SELECT lo_from_bytea(55, 'secret');
    CREATE TABLE app.\"x$pgstow_acl$ '\"\"y\" (a integer);
    ALTER DEFAULT PRIVILEGES FOR ROLE given_owner IN SCHEMA app GRANT SELECT ON TABLES TO given_owner, postgres;";

/// The privileges of all of them; those that an object begins with are as good as none said.
fn held() -> String {
    let said = |acl: &str, kind: &str, owner: &str| {
        format!(
            "(SELECT string_agg(i::text, ',' ORDER BY i::text) FROM unnest(coalesce({acl}, acldefault({kind}, {owner}))) i)"
        )
    };
    format!(
        "SELECT oid::regclass::text, {} FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind NOT IN ('i', 'c')
         UNION ALL SELECT proname, {} FROM pg_proc WHERE pronamespace = 'app'::regnamespace
         UNION ALL SELECT typname, {} FROM pg_type WHERE typnamespace = 'app'::regnamespace AND typtype = 'e'
         UNION ALL SELECT nspname, {} FROM pg_namespace WHERE nspname = 'app'
         UNION ALL SELECT oid::text, array_to_string(coalesce(lomacl, '{{}}'), ',') FROM pg_largeobject_metadata ORDER BY 1, 2",
        said("relacl", "CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\"", "relowner"),
        said("proacl", "'f'", "proowner"),
        said("typacl", "'T'", "typowner"),
        said("nspacl", "'n'", "nspowner"),
    )
}

#[test]
fn default_privileges_of_the_target_give_nobody_what_the_run_does_not() {
    for version in [pg::packaged(), 18] {
        let cluster = Cluster::start(version);
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        cluster.psql("postgres", "CREATE ROLE given_owner; CREATE ROLE given_anon");
        cluster.create_database("given");
        cluster.psql("given", RIGHTS);
        expect_code(&mut backup(&cluster, "given", &store), 0);
        let run = Run::latest(&store);
        let kinds = ["TABLES", "SEQUENCES", "FUNCTIONS", "TYPES", "SCHEMAS", "LARGE OBJECTS"];
        let widen: Vec<String> = kinds.iter().take(if version >= 18 { 6 } else { 5 }).map(|kind| {
            format!("ALTER DEFAULT PRIVILEGES FOR ROLE postgres, given_owner GRANT ALL ON {kind} TO given_anon WITH GRANT OPTION;")
        }).collect();
        let widen = widen.concat()
            + "ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC; ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO given_anon";
        let defaults =
            "SELECT defaclrole::regrole, defaclobjtype, defaclnamespace::regnamespace, defaclacl FROM pg_default_acl
            WHERE defaclnamespace::regnamespace::text <> 'app' ORDER BY 1, 2, 3";

        cluster.create_database("given_told");
        cluster.psql("given_told", &widen);
        let before = cluster.psql("given_told", defaults);
        assert!(before.lines().count() > 10, "{before}");
        restore_as_told(&run, &cluster, "given_told");
        assert_eq!(cluster.psql("given_told", &held()), cluster.psql("given", &held()));
        assert_eq!(cluster.psql("given_told", defaults), before, "the database keeps its own default privileges");

        // The SQL files, of a table alone.
        cluster.create_database("given_sql");
        cluster.psql("given_sql", &format!("{widen}; CREATE SCHEMA app AUTHORIZATION given_owner"));
        let odd = "x$pgstow_acl$ '\"y";
        for table in ["t", "forced", "shared", odd] {
            let sql = run.sql("app", table);
            let rows = sql.find("\nCOPY ").unwrap();
            if ["t", "forced"].contains(&table) {
                assert!(sql[..rows].contains(" ENABLE ROW LEVEL SECURITY;"), "{sql}");
            }
            fs::write(folder.path().join("one.sql"), &sql).unwrap();
            let mut psql = cluster.command("psql");
            psql.args(["-X", "-q", "-d", &cluster.url("given_sql"), "-f"]).arg(folder.path().join("one.sql"));
            let output = output_with(&mut psql, b"");
            assert!(output.status.success(), "{}", story(&output));
        }
        let of_tables = "SELECT relname, (SELECT string_agg(i::text, ',' ORDER BY i::text) FROM unnest(coalesce(relacl,
                acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", relowner))) i), relrowsecurity, relforcerowsecurity FROM pg_class WHERE relnamespace = 'app'::regnamespace
            AND relkind IN ('r', 'S') AND relname <> 's' ORDER BY 1";
        assert_eq!(cluster.psql("given_sql", of_tables), cluster.psql("given", of_tables));
        assert_eq!(cluster.psql("given_sql", "SELECT count(*) FROM app.forced").trim(), "1");
    }
}

#[test]
fn settings_of_the_database_are_in_force_where_its_values_are_computed() {
    let cluster = pg::shared(pg::packaged());
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let (source, copy) = ("valued", "valued told");
    cluster.create_database(source);
    cluster.psql(
        "postgres",
        "ALTER DATABASE valued SET timezone = 'America/New_York'; ALTER DATABASE valued SET datestyle = 'German, DMY';
         ALTER DATABASE valued SET bytea_output = 'escape'; 
         ALTER DATABASE valued SET intervalstyle = 'iso_8601';
         ALTER DATABASE valued SET extra_float_digits = -5; ALTER DATABASE valued SET app.rate = '3'",
    );
    cluster.psql(
        source,
        "SET timezone = 'America/New_York';
         CREATE TABLE e (id integer CHECK (id > current_setting('app.rate')::integer), ts timestamptz CHECK (extract(hour from ts) BETWEEN 8 AND 18),
             d date CHECK (d::text ~ '^..[.]'), i interval, b bytea, f float8, CHECK (length(f::text) < 15));
         INSERT INTO e VALUES (5, '2026-01-05 17:30:00-05', '2026-01-05', '1 day 2 hours', 'abc', 1/3.0::float8),
             (6, '2026-01-06 08:05:00-05', '2026-01-06', '3 mons', '\\x00', 2/3.0::float8);
         CREATE DOMAIN hours AS timestamptz CHECK (extract(hour from value) BETWEEN 8 AND 18);
         CREATE TABLE h (a hours); INSERT INTO h VALUES ('2026-01-05 17:30:00-05');
         CREATE MATERIALIZED VIEW per_day AS SELECT id, ts::date AS day, to_char(ts, 'HH24') AS hour, d::text AS d, i::text AS i, b::text AS b, f::text AS f FROM e",
    );
    cluster.psql(
        "postgres",
        "ALTER DATABASE valued SET session_replication_role = 'replica'; ALTER DATABASE valued  SET lock_timeout = '1s';
         ALTER DATABASE valued SET default_transaction_read_only = on; ALTER DATABASE valued SET work_mem = '5MB'",
    );
    expect_code(&mut backup(cluster, source, &store), 0);
    cluster.create_database(copy);
    restore_as_told(&Run::latest(&store), cluster, copy);
    let values = "SELECT * FROM per_day ORDER BY id; SELECT * FROM e ORDER BY id; SELECT * FROM h; SELECT setconfig FROM pg_db_role_setting
        WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) AND setrole = 0";
    let wanted = cluster.psql(source, values);
    assert!(wanted.contains("|05.01.2026|P1DT2H|abc|") && wanted.contains("app.rate=3"), "{wanted}");
    assert_eq!(cluster.psql(copy, values), wanted);
    judge::assert_same_database((cluster, source), (cluster, copy));
    for name in [source, copy] {
        cluster.psql("postgres", &format!("DROP DATABASE IF EXISTS {}", pg::quote(name)));
    }
}
