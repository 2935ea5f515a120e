//! `rescue --as`: a table of a run under another name beside the live one. PostgreSQL judges both.

use std::process::Command;

use crate::support::pg::{self, Cluster};
use crate::support::program::{Run, backup, expect_code, expect_failure, pgstow};
use crate::support::session::{Talk, until};

const SHOP: &str = r#"
    CREATE TABLE users (id integer PRIMARY KEY); INSERT INTO users SELECT generate_series(1, 9);
    CREATE FUNCTION positive(integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 0';
    CREATE ROLE beside_nosy; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO beside_nosy;
    CREATE SCHEMA "Odd s";
    CREATE TABLE "Odd s"."Or""ders" (id serial PRIMARY KEY, n bigint GENERATED ALWAYS AS IDENTITY (INCREMENT BY 5), "user" integer REFERENCES users,
        t text UNIQUE DEFAULT 'public.x', c integer CONSTRAINT "c ()" CHECK (public.positive(c)), d numeric GENERATED ALWAYS AS (c * 2) STORED,
        EXCLUDE USING btree (t WITH =));
    CREATE INDEX "by c" ON "Odd s"."Or""ders" (c) WHERE t <> ')'; CREATE INDEX ON "Odd s"."Or""ders" (lower(t));
    ALTER TABLE "Odd s"."Or""ders" ENABLE ROW LEVEL SECURITY; ALTER TABLE "Odd s"."Or""ders" ALTER c SET STATISTICS 7;
    CREATE TRIGGER never BEFORE INSERT ON "Odd s"."Or""ders" FOR EACH ROW WHEN (false) EXECUTE FUNCTION suppress_redundant_updates_trigger();
    INSERT INTO "Odd s"."Or""ders" ("user", t, c) SELECT 1 + i % 9, 't' || i, i FROM generate_series(1, 500) i;
    CREATE TABLE parts (id integer, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE parts_b PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    INSERT INTO parts SELECT i, '2025-06-01'::date + i FROM generate_series(1, 400) i;
    CREATE TABLE heir () INHERITS (users); INSERT INTO heir VALUES (77);
"#;

fn rescue(run: &Run, cluster: &Cluster, database: &str, table: &str, name: &str) -> Command {
    let mut command = pgstow();
    command.args(["rescue", "--table", table, "--as", name, "--to", &cluster.url(database), "--store"]).arg(&run.store);
    command
}

#[test]
pub(crate) fn a_table_comes_back_under_another_name_with_all_that_is_its_own() {
    let (name, cluster) = ("rescue_beside", pg::shared(15));
    cluster.create_database(name);
    cluster.psql(name, SHOP);
    let psql = |sql: &str| cluster.psql(name, sql);
    let folder = tempfile::tempdir().unwrap();
    expect_code(&mut backup(cluster, name, folder.path()), 0);
    let run = Run::latest(folder.path());
    let relations = "SELECT string_agg(oid::regclass || relkind::text, ' ' ORDER BY oid) FROM pg_class WHERE oid > 16384 AND relkind IN ('r', 'i', 'S', 'p')";
    let before = psql(relations);
    let rows = |table: &str| {
        psql(&format!("SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) || count(*) FROM {table} t"))
    };
    let saved = rows("\"Odd s\".\"Or\"\"ders\"");
    psql("DELETE FROM \"Odd s\".\"Or\"\"ders\" WHERE c > 3; DROP TABLE parts");
    let mut command = rescue(&run, cluster, name, "\"Odd s\".\"Or\"\"ders\"", "\"Odd s\".\"before ()\"");
    let (out, _) = expect_code(&mut command, 0);
    assert!(out.contains("500 rows") && out.contains("foreign keys") && out.contains("triggers"), "{out}");
    assert_eq!(rows("\"Odd s\".\"before ()\""), saved);
    // Its own indexes, constraints, sequences; the sequences stand where they stood, and belong to it.
    let kinds = |table: &str| {
        psql(&format!("SELECT (SELECT string_agg(concat(contype, convalidated), '' ORDER BY contype) FROM pg_constraint WHERE contype <> 'f' AND conrelid = {table}::regclass)
            || (SELECT count(*) FROM pg_index WHERE indrelid = {table}::regclass AND indisvalid)
            || (SELECT string_agg(concat(attname, coalesce(attstattarget, -1), attidentity, attgenerated, attnotnull), ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = {table}::regclass AND attnum > 0)"))
    };
    assert_eq!(kinds("'\"Odd s\".\"before ()\"'"), kinds("'\"Odd s\".\"Or\"\"ders\"'"));
    let next = "INSERT INTO \"Odd s\".\"before ()\" (t, c) VALUES ('new', 1) RETURNING id || ' ' || n";
    assert_eq!(psql(next), "501 2501");
    assert_eq!(psql("SELECT nextval(pg_get_serial_sequence('\"Odd s\".\"Or\"\"ders\"', 'id'))"), "501");
    psql("DELETE FROM \"Odd s\".\"before ()\" WHERE t = 'new'");
    let seen = "SELECT relrowsecurity::text || has_table_privilege('beside_nosy', oid, 'SELECT') || (SELECT count(*) FROM pg_trigger WHERE tgrelid = c.oid) FROM pg_class c WHERE relname = 'before ()'";
    assert_eq!(psql(seen), "truefalse0");
    // A name that is taken, a schema that is not there, a condition that fails: nothing is changed.
    let now = psql(relations);
    for (target, more) in [
        ("Odd s.before ()", vec![]),
        ("\"Odd s\".\"by c\"", vec![]),
        ("nowhere.x", vec![]),
        ("x", vec![]),
        ("public.x", vec!["--where", "nothing = 1"]),
        ("public.x", vec!["--apply", "missing"]),
    ] {
        let (_, all) = expect_failure(rescue(&run, cluster, name, "\"Odd s\".\"Or\"\"ders\"", target).args(&more), 2);
        assert!(all.contains("nothing was changed") || more.contains(&"--apply") || target == "x", "{all}");
    }
    let (_, all) = expect_failure(&mut rescue(&run, cluster, name, "public.heir", "public.heir_before"), 2);
    assert!(all.contains("INHERITS"), "{all}");
    assert_eq!(psql(relations), now);
    // A partitioned table that is gone comes into one table; a condition and a forget list choose its rows.
    let list = folder.path().join("list");
    std::fs::write(&list, r#"{"table":"public.parts","key":{"id":300}}"#).unwrap();
    let mut parts = rescue(&run, cluster, name, "public.parts", "public.parts_before");
    let (out, _) = expect_code(parts.args(["--where", "id > 100", "--json", "--forget"]).arg(&list), 0);
    assert!(out.contains("\"rows\": 299"), "{out}");
    assert_eq!(
        psql("SELECT count(*) || ' ' || min(id) || ' ' || bool_and(id <> 300) FROM parts_before"),
        "299 101 true"
    );
    assert_eq!(psql("SELECT relkind FROM pg_class WHERE oid = 'parts_before'::regclass"), "r");
    psql("DROP TABLE parts_before, \"Odd s\".\"before ()\"");
    assert_ne!(before, "");
    // Killed when everything but the commit is done: nothing is left.
    for signal in ["KILL", "TERM"] {
        let mut held = Talk::open(cluster, name);
        held.run("BEGIN; LOCK TABLE pg_catalog.pg_statistic IN ACCESS EXCLUSIVE MODE;");
        let mut command = rescue(&run, cluster, name, "\"Odd s\".\"Or\"\"ders\"", "public.killed");
        let mut child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'pg_statistic'::regclass";
        until("it waits", || cluster.psql("postgres", waits) != "0" || child.try_wait().unwrap().is_some());
        let _sent = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status().unwrap();
        child.wait().unwrap();
        drop(held);
        until("its session is gone", || {
            psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgstow rescue'") == "0"
        });
        assert_eq!(psql("SELECT to_regclass('public.killed') IS NULL"), "t", "{signal}");
    }
}
