//! What a role cannot read, and what pg_dump never describes: nothing more than that is missing from a run, and each of it
//! is named.

use super::support::pg;
use super::support::process::output_with;
use super::support::program::{self, Run, expect_code, pgstow};

#[test]
fn a_schema_without_usage_costs_its_tables_only() {
    let cluster = pg::shared(pg::packaged());
    let (name, role) = ("left out of usage", "left_out_reader");
    cluster.create_database(name);
    cluster.psql("postgres", &format!("CREATE ROLE {role} LOGIN PASSWORD 'pw' BYPASSRLS"));
    cluster.psql(
        name,
        &format!(
            "CREATE SCHEMA priv; CREATE TYPE priv.mood AS ENUM ('glad', 'sad'); CREATE DOMAIN priv.few AS int CHECK (VALUE < 9);
             CREATE FUNCTION priv.up(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';
             CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; CREATE EXTENSION intarray SCHEMA ext;
             CREATE TABLE ok (c priv.mood, f priv.few, n int DEFAULT priv.up(1), e ext.citext); INSERT INTO ok VALUES ('glad', 1, 2, 'E');
             CREATE TABLE words (w int[]); CREATE INDEX ON words USING gin (w ext.gin__int_ops); INSERT INTO words VALUES ('{{1,2}}');
             CREATE VIEW seen AS SELECT priv.up(n) FROM ok;
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}; GRANT USAGE ON SCHEMA public TO {role}"
        ),
    );
    let store = tempfile::tempdir().expect("a temporary folder can be made");
    let url = cluster.url_as(role, "pw", name);
    expect_code(program::backup(cluster, name, store.path()).env("DATABASE_URL", &url), 0);
    let run = Run::latest(store.path());
    assert_eq!(run.manifest["status"], "complete");
    assert!(run.manifest.get("dependents").is_none(), "{:#}", run.manifest["dependents"]);
    let back = "left out of usage, back";
    let restore = |run: &Run, to: &str, code: i32| {
        let mut command = pgstow();
        command
            .args(["restore", &run.name, "--create", "--roles", "--to", &cluster.url(to), "--store"])
            .arg(&run.store);
        expect_code(&mut command, code)
    };
    let kept = "SELECT string_agg(o::text, ',') || (SELECT count(*) FROM words) FROM ok o";
    restore(&run, back, 0);
    assert_eq!(cluster.psql(back, kept), cluster.psql(name, kept));
    cluster.drop_database(back);

    // A table in such a schema, and an extension beside it.
    cluster.psql(
        name,
        "CREATE SCHEMA hid; CREATE TABLE hid.t (n int); CREATE EXTENSION hstore SCHEMA hid;
         CREATE TABLE mixed (e ext.citext, h hid.hstore); INSERT INTO mixed VALUES ('a', 'k=>v');
         CREATE VIEW lost AS SELECT n FROM hid.t; GRANT SELECT ON ALL TABLES IN SCHEMA public TO left_out_reader",
    );
    let mut backup = program::backup(cluster, name, store.path());
    let (out, _) = expect_code(backup.env("DATABASE_URL", &url).args(["--allow-unreadable", "--json"]), 3);
    let printed: serde_json::Value = serde_json::from_str(&out).expect("--json prints JSON");
    let run = Run::named(store.path(), printed["run"].as_str().expect("a name"));
    let named: Vec<&str> =
        run.manifest["dependents"].as_array().expect("a list").iter().filter_map(|d| d["name"].as_str()).collect();
    assert_eq!(named, ["public.lost"]);
    restore(&run, back, 3);
    assert_eq!(
        cluster.psql(back, "SELECT h OPERATOR(hid.->) 'k' FROM mixed").as_str(),
        "v",
        "the extension is where it was"
    );
    assert_eq!(cluster.psql(back, kept), cluster.psql(name, kept));
    let told = "left out of usage, as told";
    cluster.create_database(told);
    program::restore_as_told(&run, cluster, told);
    assert_eq!(cluster.psql(told, kept), cluster.psql(name, kept));
    for database in [name, back, told] {
        cluster.drop_database(database);
    }
    cluster.psql("postgres", &format!("DROP ROLE {role}"));
}

#[test]
fn a_default_that_an_inheritance_child_does_not_have_is_in_its_file() {
    let cluster = pg::shared(pg::packaged());
    let (name, other) = ("left out default", "left out default, one");
    cluster.create_database(name);
    cluster.psql(
        name,
        "CREATE SCHEMA s; CREATE TABLE s.parent (id int, n int DEFAULT 7); CREATE TABLE s.\"child x\" () INHERITS (s.parent);
         CREATE TABLE s.child (x int) INHERITS (s.parent); ALTER TABLE s.child ALTER COLUMN n SET DEFAULT NULL;
         ALTER TABLE s.\"child x\" ALTER COLUMN n SET DEFAULT NULL; INSERT INTO s.child (id) VALUES (1)",
    );
    let store = tempfile::tempdir().expect("a temporary folder can be made");
    expect_code(&mut program::backup(cluster, name, store.path()), 0);
    let run = Run::latest(store.path());
    for table in ["child", "child x"] {
        let sql = run.sql("s", table);
        assert_eq!(sql.matches("SET DEFAULT NULL").count(), 1, "{table}: {sql}");
    }
    let restore = |words: &[&str]| {
        let mut command = pgstow();
        command.args(["restore", "--to", &cluster.url(other), "--store"]).arg(store.path()).args(words);
        expect_code(&mut command, 0)
    };
    cluster.create_database(other);
    cluster.psql(other, "CREATE SCHEMA s; CREATE TABLE s.parent (id int, n int DEFAULT 7)");
    restore(&["--into-existing", "--table", "s.child"]);
    let default = "INSERT INTO s.child (id) VALUES (2); SELECT n IS NULL FROM s.child WHERE id = 2";
    assert_eq!(cluster.psql(other, default), "t");
    cluster.drop_database(other);
    cluster.drop_database(name);
}

#[test]
fn what_pg_dump_never_describes_is_named() {
    let cluster = pg::Cluster::start_with(pg::packaged(), &[("wal_level", "logical")]);
    cluster.create_database("app");
    cluster.psql(
        "app",
        "CREATE TABLE t (n int); INSERT INTO t VALUES (1), (1);
         ALTER ROLE ALL SET work_mem = '5MB'; SELECT pg_create_logical_replication_slot('kept', 'test_decoding')",
    );
    // A unique index that could not be built stays, invalid.
    let mut psql = cluster.command("psql");
    psql.args(["-X", "-d", &cluster.url("app"), "-c", "CREATE UNIQUE INDEX CONCURRENTLY broken ON t (n)"]);
    assert!(!output_with(&mut psql, b"").status.success());
    cluster.psql(
        "app",
        "SET allow_system_table_mods = on; CREATE FUNCTION pg_catalog.mine() RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE TABLE information_schema.yours (n int);
         CREATE TEXT SEARCH CONFIGURATION pg_catalog.my_config (COPY = pg_catalog.simple);
         CREATE TEXT SEARCH DICTIONARY pg_catalog.my_dict (TEMPLATE = pg_catalog.simple, accept = false);
         CREATE CONVERSION pg_catalog.my_conversion FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
         CREATE OPERATOR FAMILY pg_catalog.my_family USING btree; CREATE STATISTICS pg_catalog.my_statistics ON n, (n + 1) FROM t;
         CREATE COLLATION pg_catalog.my_collation (LOCALE = 'C');
         ALTER TEXT SEARCH CONFIGURATION pg_catalog.english ALTER MAPPING FOR asciiword WITH simple;
         ALTER TEXT SEARCH DICTIONARY pg_catalog.german_stem (StopWords = german); ALTER FUNCTION pg_catalog.quote_ident(text) COST 7;
         COMMENT ON FUNCTION pg_catalog.now() IS 'ours'; REVOKE EXECUTE ON FUNCTION pg_catalog.pg_sleep(float8) FROM PUBLIC;
         CREATE TABLE parted (n int) PARTITION BY LIST (n); CREATE TABLE going PARTITION OF parted FOR VALUES IN (1);
         UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = 'going'::regclass;
         CREATE EXTENSION citext; CREATE OPERATOR ### (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
         ALTER EXTENSION citext ADD OPERATOR ### (int, int)",
    );
    let store = tempfile::tempdir().expect("a temporary folder can be made");
    expect_code(&mut program::backup(&cluster, "app", store.path()), 0);
    let run = Run::latest(store.path());
    let omitted: Vec<String> = run.manifest["omitted"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|o| format!("{} {}", o["kind"].as_str().unwrap_or_default(), o["name"].as_str().unwrap_or_default()))
        .collect();
    for wanted in [
        "invalid index public.broken",
        "replication slot kept (logical)",
        "setting of all roles ALTER ROLE ALL SET work_mem",
        "object among those of the system function mine()",
        "object among those of the system table information_schema.yours",
        "object among those of the system text search configuration my_config",
        "object among those of the system text search dictionary my_dict",
        "object among those of the system conversion my_conversion",
        "object among those of the system operator family my_family for access method btree",
        "object among those of the system statistics object my_statistics",
        "object among those of the system collation my_collation",
        "changed object of the system text search configuration english",
        "changed object of the system text search dictionary german_stem",
        "changed object of the system function quote_ident(text)",
        "comment on an object of the system function now()",
        "partition that is being detached public.going of public.parted",
        "object given to an extension operator public.###(integer,integer)",
    ] {
        assert!(omitted.iter().any(|found| found == wanted), "{wanted}: {omitted:#?}");
    }
    // Nothing else of the system is taken for somebody's.
    for (kind, count) in [("object among", 8), ("changed object", 3), ("comment on", 1), ("object given", 1)] {
        assert_eq!(omitted.iter().filter(|found| found.starts_with(kind)).count(), count, "{omitted:#?}");
    }
}
