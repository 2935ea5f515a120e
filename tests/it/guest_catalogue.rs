//! A backup as a guest while pg_dump reads the catalogue: no wait without a bound, no backend left behind however the run
//! ends, and another attempt whenever others changed what pg_dump was about to describe.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::pg::{self, Cluster};
use crate::support::program::{Going, Run, backup, expect_code, expect_failure, pgstow};
use crate::support::session::{Talk, until};

fn newest() -> u32 {
    *pg::versions().last().unwrap()
}

const PG_DUMP_WAITS: &str = "SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE NOT l.granted AND a.application_name LIKE 'pgstow pg_dump %' AND a.datname = current_database()";

const BACKENDS: &str = "SELECT coalesce(string_agg(application_name, ', '), '') FROM pg_stat_activity
    WHERE datname = current_database() AND application_name ~ '^(pgstow|pg_dump)'";

/// A table with a view, which a session has replaced without an end to its transaction.
fn scene(name: &str) -> (&'static Cluster, Talk, Talk) {
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    cluster.psql(name, "CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE VIEW v AS SELECT 2 AS two");
    let (observer, mut holder) = (Talk::open(cluster, name), Talk::open(cluster, name));
    holder.run("BEGIN; CREATE OR REPLACE VIEW v AS SELECT 2 AS two, 1 AS one");
    (cluster, observer, holder)
}

#[test]
fn a_view_that_stays_locked_ends_the_run_with_the_name_of_its_holder() {
    let name = "catalogue wait";
    let (cluster, mut observer, mut holder) = scene(name);
    let pid = holder.pid();
    let store = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let (error, all) = expect_failure(backup(cluster, name, store.path()).args(["--lock-timeout", "1s"]), 1);
    assert!(started.elapsed() > Duration::from_secs(3), "{all}");
    for word in ["3 attempts", "public.v", &format!("pid {pid} "), "idle in transaction"] {
        assert!(error.contains(word), "{word:?} is not in {error}");
    }
    assert_eq!(observer.run(BACKENDS), "");
    // Let go in time, the backup succeeds.
    let going = Going::start(backup(cluster, name, store.path()).args(["--lock-timeout", "2s"]));
    observer.until(PG_DUMP_WAITS);
    holder.run("COMMIT");
    going.expect_code(0);
    let sql = Run::latest(store.path()).plain("@database.dump.zst");
    // The view of the snapshot, or of the one after it where the run started over.
    assert!(String::from_utf8_lossy(&sql).contains("2 AS two"));
    drop((observer, holder));
    cluster.drop_database(name);
}

#[test]
fn however_a_run_ends_nothing_of_it_is_left_in_the_database() {
    for (way, arguments, code) in [
        ("max-block", &["--max-block", "2s"][..], Some(1)),
        ("deadline", &["--deadline", "3s"][..], Some(1)),
        ("TERM", &[][..], Some(143)),
        ("INT", &[][..], Some(130)),
        ("KILL", &[][..], None),
    ] {
        let name = format!("catalogue end {way}");
        let (cluster, mut observer, mut holder) = scene(&name);
        let (mut migration, mut reader) = (Talk::open(cluster, &name), Talk::open(cluster, &name));
        let store = tempfile::tempdir().unwrap();
        let going = Going::start(backup(cluster, &name, store.path()).args(["--lock-timeout", "1h"]).args(arguments));
        observer.until(PG_DUMP_WAITS);
        if way != "TERM" && way != "INT" {
            migration.send("ALTER TABLE t ADD COLUMN b int");
            observer.until("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 't'::regclass");
            reader.send("SELECT count(*) FROM t");
        }
        if let (None, _) | (_, []) = (code, arguments) {
            going.signal(way);
        }
        match code {
            Some(code) => drop(going.expect_code(code)),
            None => drop(going.end()),
        }
        let ended = Instant::now();
        until("no backend of the run is left", || observer.run(BACKENDS).is_empty());
        assert!(ended.elapsed() < Duration::from_secs(3), "{way}: {:?}", ended.elapsed());
        if way != "TERM" && way != "INT" {
            migration.wait();
            assert_eq!(reader.wait(), "1", "{way}");
        }
        holder.run("ROLLBACK");
        drop((observer, holder, migration, reader));
        cluster.drop_database(&name);
    }
}

#[test]
fn a_migration_that_drops_a_view_and_then_wants_a_table_is_given_way() {
    let name = "catalogue deadlock";
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    cluster.psql(name, "CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE VIEW v AS SELECT id FROM t");
    let (mut observer, mut migration) = (Talk::open(cluster, name), Talk::open(cluster, name));
    let store = tempfile::tempdir().unwrap();
    migration.run("BEGIN; DROP VIEW v");
    let going = Going::start(backup(cluster, name, store.path()).args(["--lock-timeout", "2s"]));
    observer.until(PG_DUMP_WAITS);
    migration.send("ALTER TABLE t ADD COLUMN added int; COMMIT");
    migration.wait();
    going.expect_code(0);
    let run = Run::latest(store.path());
    assert!(String::from_utf8_lossy(&run.plain("@database.dump.zst")).contains("added"));
    assert_eq!(run.table("public", "t")["rows"], 1);
    drop((observer, migration));
    cluster.drop_database(name);
}

#[test]
fn objects_that_come_and_go_all_the_time_do_not_keep_a_backup_from_succeeding() {
    let name = "catalogue churn";
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    cluster.psql(
        name,
        "CREATE TABLE t (id int PRIMARY KEY, t text); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 100) i;
         DO $$ BEGIN FOR i IN 1..300 LOOP
           EXECUTE format('CREATE VIEW standing_%s AS SELECT id, t, %s AS n FROM t', i, i); END LOOP; END $$",
    );
    let stop = Arc::new(AtomicBool::new(false));
    let churning = {
        let (stop, mut churn) = (Arc::clone(&stop), Talk::open(cluster, name));
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                churn.run(
                    "CREATE VIEW gone_v AS SELECT * FROM t; COMMENT ON VIEW gone_v IS 'gone';
                     CREATE FUNCTION gone_f(a int) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE SEQUENCE gone_s;
                     CREATE TYPE gone_t AS ENUM ('a'); CREATE MATERIALIZED VIEW gone_m AS SELECT * FROM t;
                     SELECT pg_sleep(0.3);
                     DROP VIEW gone_v; DROP FUNCTION gone_f; DROP SEQUENCE gone_s; DROP TYPE gone_t;
                     DROP MATERIALIZED VIEW gone_m",
                );
            }
        })
    };
    for _ in 0..3 {
        let store = tempfile::tempdir().unwrap();
        let ended = backup(cluster, name, store.path()).output().unwrap();
        if !ended.status.success() {
            stop.store(true, Ordering::SeqCst);
        }
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let run = Run::latest(store.path());
        assert_eq!(run.manifest["status"], "complete");
        expect_code(pgstow().arg("verify").arg("--store").arg(store.path()), 0);
        let target = "catalogue churn restored";
        cluster.create_database(target);
        let mut restore = pgstow();
        restore.args(["restore", "--pg-bin-dir"]).arg(cluster.bin_dir()).arg("--store").arg(store.path());
        expect_code(restore.arg("--to").arg(cluster.url(target)), 0);
        assert_eq!(cluster.psql(target, "SELECT count(*) FROM pg_views WHERE viewname LIKE 'standing%'"), "300");
        cluster.drop_database(target);
    }
    stop.store(true, Ordering::SeqCst);
    churning.join().unwrap();
    cluster.drop_database(name);
}
