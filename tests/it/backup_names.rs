//! What a backup depends on besides rows: names that change while it reads, functions that the role may not call, few
//! connections, and large objects that need larger parts than planned.

use crate::support::bucket::Bucket;
use crate::support::pg::{self, Cluster};
use crate::support::program::{Going, Run, backup, expect_code, expect_failure};
use crate::support::session::Talk;

fn newest() -> u32 {
    *pg::versions().last().unwrap()
}

const ROWS_FLOW: &str = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() \
    AND application_name LIKE 'pgstow reader %' AND query LIKE 'COPY%'";

/// A database with an enum, a column of `regproc` and 4 MiB of rows.
fn scene(name: &str) -> &'static Cluster {
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    cluster.psql(
        name,
        "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TABLE unused (id int);
         CREATE SCHEMA side; CREATE FUNCTION side.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE TABLE z (m mood, r regproc); INSERT INTO z VALUES ('good', 'side.f');
         CREATE TABLE a (id int, t text);
         INSERT INTO a SELECT i, repeat(md5(i::text), 32) FROM generate_series(1, 4096) i",
    );
    cluster
}

#[test]
fn a_name_that_rows_are_printed_with_and_that_changed_stops_the_run() {
    let name = "names changed";
    for (change, words) in [
        (
            "ALTER TYPE mood RENAME VALUE 'good' TO 'x'; ALTER TYPE mood RENAME VALUE 'bad' TO 'good';
             ALTER TYPE mood RENAME VALUE 'x' TO 'bad'",
            Some(["public.mood", "while rows were read"]),
        ),
        ("ALTER SCHEMA side RENAME TO elsewhere", Some(["public.z.r", "elsewhere"])),
        // Nobody refers to these.
        ("CREATE TABLE new_one (id int); CREATE TYPE mood_2 AS ENUM ('a'); ALTER TYPE mood ADD VALUE 'soso'", None),
    ] {
        let cluster = scene(name);
        let store = tempfile::tempdir().unwrap();
        let mut observer = Talk::open(cluster, name);
        let going = Going::start(backup(cluster, name, store.path()).args(["--rate-limit", "512KiB", "--jobs", "1"]));
        observer.until(ROWS_FLOW);
        observer.run(change);
        match words {
            Some(words) => {
                let (_, err) = going.expect_code(1);
                let error = err.lines().find(|line| line.starts_with("error: ")).expect(&err);
                assert!(words.iter().all(|word| error.contains(word)), "{error}");
                assert!(!store.path().join("latest.json").exists());
                expect_code(&mut backup(cluster, name, store.path()), 0);
            }
            None => drop(going.expect_code(0)),
        }
        drop(observer);
        cluster.drop_database(name);
    }
}

#[test]
fn functions_that_a_role_may_not_call_are_done_without() {
    let cluster = Cluster::start(newest());
    cluster.create_database("app");
    cluster.psql(
        "app",
        "CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE ROLE reader LOGIN PASSWORD 'reader';
         GRANT pg_read_all_data TO reader;
         REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;
         REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn() FROM PUBLIC",
    );
    let store = tempfile::tempdir().unwrap();
    let mut command = backup(&cluster, "app", store.path());
    expect_code(command.env("DATABASE_URL", cluster.url_as("reader", "reader", "app")), 0);
    let source = &Run::latest(store.path()).manifest["source"];
    assert!(source["identity"].as_str().unwrap().starts_with("hash/"), "{source}");
    assert!(source["wal_lsn"].is_null(), "{source}");
}

#[test]
fn few_connections_serve_a_backup_with_large_objects() {
    let cluster = Cluster::start(newest());
    cluster.create_database("app");
    cluster.psql(
        "app",
        "CREATE ROLE reader LOGIN PASSWORD 'reader'; GRANT pg_read_all_data TO reader;
         CREATE TABLE a AS SELECT i FROM generate_series(1, 1000) i; CREATE TABLE b AS SELECT * FROM a;
         SELECT lo_from_bytea(5000, 'x'); GRANT SELECT ON LARGE OBJECT 5000 TO reader",
    );
    for (limit, of) in [(2, "ROLE reader"), (3, "ROLE reader"), (5, "ROLE reader"), (3, "DATABASE app")] {
        cluster.psql("app", &format!("ALTER {of} CONNECTION LIMIT {limit}"));
        let store = tempfile::tempdir().unwrap();
        let mut command = backup(&cluster, "app", store.path());
        command.env("DATABASE_URL", cluster.url_as("reader", "reader", "app"));
        expect_code(command.args(["--jobs", "4"]), 0);
        let run = Run::latest(store.path());
        assert_eq!(run.manifest["large_objects"]["count"], 1, "{of} {limit}");
        assert_eq!(run.table("public", "b")["rows"], 1000);
        cluster.psql("postgres", &format!("ALTER {of} CONNECTION LIMIT -1"));
    }
}

#[test]
fn large_objects_that_need_larger_parts_than_planned_are_written_again() {
    let name = "names parts";
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    cluster.psql(
        name,
        "SELECT lo_from_bytea(0, decode(string_agg(md5(o::text || i::text), ''), 'hex'))
           FROM generate_series(1, 16) o, generate_series(1, 131072) i GROUP BY o",
    );
    let bucket = Bucket::start();
    let mut command = bucket.backup(cluster, name, "pre");
    expect_code(command.args(["--s3-max-parts", "5", "--s3-part-size-mib", "5", "--compression", "none"]), 0);
    expect_code(&mut bucket.command("pre", &["verify"]), 0);
    cluster.drop_database(name);
}

#[test]
fn a_lock_timeout_of_nothing_does_not_wait_and_a_long_one_is_taken() {
    let name = "names timeouts";
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    cluster.psql(name, "CREATE TABLE t (id int)");
    let store = tempfile::tempdir().unwrap();
    let mut holder = Talk::open(cluster, name);
    holder.run("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE");
    for nothing in ["0s", "1us"] {
        let (error, _) = expect_failure(backup(cluster, name, store.path()).args(["--lock-timeout", nothing]), 1);
        assert!(error.contains("is locked by pid"), "{error}");
    }
    holder.run("COMMIT");
    expect_code(backup(cluster, name, store.path()).args(["--lock-timeout", "30d"]), 0);
    drop(holder);
    cluster.drop_database(name);
}
