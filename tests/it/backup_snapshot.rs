//! One moment, whatever happens beside it: writers, TRUNCATE, CREATE and DROP between listing and lock, migrations
//! that wait behind our locks. The test holds the locks that make each order of events certain.

use std::collections::HashSet;

use tempfile::TempDir;

use crate::support::pg::{self, Cluster};
use crate::support::process::succeed_with;
use crate::support::program::{
    At, Gate, Going, Run, assert_untouched, backup, expect_code, expect_failure, files, gated, pgstow,
};
use crate::support::session::Talk;

/// A database of its own in the shared cluster of the newest version.
fn database(name: &str, sql: &str) -> &'static Cluster {
    let cluster = pg::shared(*pg::versions().last().unwrap());
    cluster.create_database(name);
    cluster.psql(name, sql);
    cluster
}

/// A question that is true once one of the program's own statements like `pattern` waits for a lock.
fn program_waits(database: &str, pattern: &str) -> String {
    format!(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = '{database}' AND application_name LIKE 'pgstow%' \
         AND wait_event_type = 'Lock' AND query LIKE '{pattern}'"
    )
}

/// Backs up while the table `a_locked` is locked by the test, which does `meanwhile` and commits once the leader waits.
fn backup_with(name: &str, tables: &str, meanwhile: &str) -> (TempDir, Run) {
    let cluster = database(name, tables);
    let store = tempfile::tempdir().unwrap();
    let mut holder = Talk::open(cluster, name);
    let mut observer = Talk::open(cluster, name);
    holder.run("BEGIN; LOCK TABLE a_locked IN ACCESS EXCLUSIVE MODE");
    let going = Going::start(backup(cluster, name, store.path()).args(["--lock-timeout", "60s"]));
    observer.until(&program_waits(name, "LOCK TABLE%"));
    holder.run(meanwhile);
    holder.run("COMMIT");
    going.expect_code(0);
    expect_code(pgstow().arg("verify").arg("--store").arg(store.path()), 0);
    let run = Run::latest(store.path());
    drop((holder, observer));
    cluster.drop_database(name);
    (store, run)
}

#[test]
pub(crate) fn a_truncate_between_listing_and_lock_is_seen_whole() {
    let (_store, run) = backup_with(
        "snap truncate",
        "CREATE TABLE a_locked (id int); INSERT INTO a_locked SELECT generate_series(1, 1000)",
        "TRUNCATE a_locked; INSERT INTO a_locked SELECT generate_series(1, 3)",
    );
    // A snapshot older than the lock would show the new, empty file: no row at all.
    assert_eq!(run.rows("public", "a_locked"), ["1", "2", "3"]);
}

#[test]
pub(crate) fn a_rewriting_alter_between_listing_and_lock_is_seen_whole() {
    let (_store, run) = backup_with(
        "snap alter",
        "CREATE TABLE a_locked (id int); INSERT INTO a_locked SELECT generate_series(1, 3)",
        "ALTER TABLE a_locked ALTER COLUMN id TYPE text USING 'n' || id, ADD COLUMN late int DEFAULT 7",
    );
    assert_eq!(run.rows("public", "a_locked"), ["n1\t7", "n2\t7", "n3\t7"]);
}

#[test]
fn tables_made_and_dropped_between_listing_and_lock_are_as_after_it() {
    let (_store, run) = backup_with(
        "snap create",
        "CREATE TABLE a_locked (id int); CREATE TABLE z_dropped (id int); CREATE TABLE z_renamed (id int)",
        "CREATE TABLE z_fresh (id int); INSERT INTO z_fresh VALUES (5), (6); DROP TABLE z_dropped; \
         ALTER TABLE z_renamed RENAME TO z_other; CREATE SCHEMA fresh; CREATE TABLE fresh.t AS SELECT 9 AS id",
    );
    assert_eq!(run.rows("public", "z_fresh"), ["5", "6"]);
    assert_eq!(run.rows("fresh", "t"), ["9"]);
    let names: Vec<&str> =
        run.schema("public")["tables"].as_array().unwrap().iter().filter_map(|t| t["name"].as_str()).collect();
    assert_eq!(names, ["a_locked", "z_fresh", "z_other"]);
}

#[test]
fn a_table_that_stays_locked_ends_the_run_and_names_who_holds_it() {
    let name = "snap locked";
    let cluster =
        database(name, "CREATE SCHEMA s; CREATE TABLE s.\"held \"\" one\" (id int); CREATE TABLE free (id int)");
    let store = tempfile::tempdir().unwrap();
    expect_code(&mut backup(cluster, name, store.path()), 0);
    let before = files(store.path());
    let latest = std::fs::read(store.path().join("latest.json")).unwrap();
    let mut holder = Talk::open(cluster, name);
    holder.run("SET application_name = 'the migration'; BEGIN");
    let pid = holder.pid();
    holder.run("ALTER TABLE s.\"held \"\" one\" ADD COLUMN x int");
    let (error, all) = expect_failure(backup(cluster, name, store.path()).args(["--lock-timeout", "300ms"]), 1);
    for word in ["held", &format!("pid {pid}"), "the migration", "ADD COLUMN x", "300ms"] {
        assert!(error.contains(word), "{word:?} is not in {error}");
    }
    assert!(all.contains("hint: "), "{all}");
    assert_untouched(store.path(), &before);
    assert_eq!(std::fs::read(store.path().join("latest.json")).unwrap(), latest);
    drop(holder);
    cluster.drop_database(name);
}

#[test]
fn an_alter_queued_between_the_leader_and_pg_dump_goes_first_and_the_run_starts_over() {
    let name = "snap queued before pg_dump";
    let cluster = database(name, "CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2)");
    let store = tempfile::tempdir().unwrap();
    let gate = Gate::new(cluster, At::Start);
    let mut observer = Talk::open(cluster, name);
    let mut migration = Talk::open(cluster, name);
    let going = Going::start(gated(cluster, name, store.path(), &gate).args(["--lock-timeout", "1s"]));
    gate.arrived();
    let pid = migration.pid();
    migration.send("ALTER TABLE t ADD COLUMN late int DEFAULT 3");
    observer.until(&format!("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid}"));
    gate.open();
    let (_, log) = going.expect_code(0);
    migration.wait();
    assert!(log.contains("starting over"), "{log}");
    assert_eq!(Run::latest(store.path()).rows("public", "t"), ["1\t3", "2\t3"]);
    drop((observer, migration));
    cluster.drop_database(name);
}

#[test]
fn a_migration_that_then_keeps_its_lock_ends_the_run_with_its_name() {
    let name = "snap queued and kept";
    let cluster = database(name, "CREATE TABLE kept (id int)");
    let store = tempfile::tempdir().unwrap();
    let gate = Gate::new(cluster, At::Start);
    let mut observer = Talk::open(cluster, name);
    let mut migration = Talk::open(cluster, name);
    migration.run("BEGIN");
    let pid = migration.pid();
    let going = Going::start(gated(cluster, name, store.path(), &gate).args(["--lock-timeout", "1s"]));
    gate.arrived();
    migration.send("ALTER TABLE kept ADD COLUMN never_committed int");
    observer.until(&format!("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid}"));
    gate.open();
    let (_, log) = going.expect_code(1);
    let error = log.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(error.contains(&format!("pid {pid}")) && error.contains("never_committed"), "{log}");
    assert_untouched(store.path(), &[]);
    drop((observer, migration));
    cluster.drop_database(name);
}

#[test]
fn an_alter_queued_before_the_first_copy_waits_and_the_leader_reads() {
    let name = "snap queued before copy";
    let cluster = database(
        name,
        "CREATE TABLE t (id int, pad text); INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 70000) i;
         CREATE TABLE small (id int); INSERT INTO small VALUES (1); CREATE TABLE other (id int); INSERT INTO other VALUES (2)",
    );
    let store = tempfile::tempdir().unwrap();
    let gate = Gate::new(cluster, At::End);
    let mut observer = Talk::open(cluster, name);
    let mut migrations = [Talk::open(cluster, name), Talk::open(cluster, name)];
    let going = Going::start(gated(cluster, name, store.path(), &gate).args(["--log", "debug"]));
    gate.arrived();
    for (migration, table) in migrations.iter_mut().zip(["t", "small"]) {
        let pid = migration.pid();
        migration.send(&format!("ALTER TABLE {table} ADD COLUMN late int DEFAULT 3"));
        observer.until(&format!("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid}"));
    }
    gate.open();
    let (_, log) = going.expect_code(0);
    migrations.iter_mut().for_each(|migration| drop(migration.wait()));
    assert!(log.contains("the leader's session reads it"), "{log}");
    let run = Run::latest(store.path());
    assert_eq!(run.table("public", "t")["rows"], 70000);
    assert_eq!(run.rows("public", "small"), ["1"]);
    assert_eq!(run.rows("public", "other"), ["2"]);
    assert_eq!(cluster.psql(name, "SELECT max(late) FROM t"), "3", "the migration got its turn");
    expect_code(pgstow().arg("verify").arg("--store").arg(store.path()), 0);
    drop((observer, migrations));
    cluster.drop_database(name);
}

#[test]
fn a_second_run_of_the_same_database_into_the_same_store_is_refused() {
    let name = "snap twice";
    let cluster = database(name, "CREATE TABLE t (id int)");
    let (store, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let gate = Gate::new(cluster, At::Start);
    let going = Going::start(&mut gated(cluster, name, store.path(), &gate));
    gate.arrived();
    let (error, _) = expect_failure(&mut backup(cluster, name, store.path()), 1);
    assert!(
        error.contains("another backup of this database into this store is running (run ") && error.contains(", pid "),
        "{error}"
    );
    expect_code(&mut backup(cluster, name, elsewhere.path()), 0);
    gate.open();
    going.expect_code(0);
    cluster.drop_database(name);
}

/// Money moves between two tables, parents get children: each transaction leaves the sums as they were.
const BUSY: &str = "
CREATE TABLE left_side (id int PRIMARY KEY, amount bigint NOT NULL, pad text);
CREATE TABLE right_side (id int PRIMARY KEY, amount bigint NOT NULL, pad text);
INSERT INTO left_side SELECT i, 1000, repeat('l', 400) FROM generate_series(1, 60000) i;
INSERT INTO right_side SELECT i, 1000, repeat('r', 400) FROM generate_series(1, 60000) i;
CREATE TABLE parent (id bigserial PRIMARY KEY, n int NOT NULL);
CREATE TABLE child (id bigserial PRIMARY KEY, parent bigint NOT NULL REFERENCES parent, n int NOT NULL);
CREATE TABLE stop (id int);
";

const WRITE: &str = "
DO $$
DECLARE
    moved int; who int; fresh bigint; i int := 0;
BEGIN
    LOOP
        moved := random() * 10; who := 1 + (random() * 59999)::int; i := i + 1;
        UPDATE left_side SET amount = amount - moved WHERE id = who;
        UPDATE right_side SET amount = amount + moved WHERE id = 60001 - who;
        COMMIT;
        INSERT INTO parent (n) VALUES (3) RETURNING id INTO fresh;
        INSERT INTO child (parent, n) SELECT fresh, g FROM generate_series(1, 3) g;
        IF i % 3 = 0 THEN DELETE FROM child WHERE parent = fresh; DELETE FROM parent WHERE id = fresh; END IF;
        COMMIT;
        EXIT WHEN EXISTS (SELECT FROM stop);
    END LOOP;
END
$$";

#[test]
pub(crate) fn what_busy_writers_leave_is_of_one_moment() {
    let name = "snap busy";
    let cluster = database(name, BUSY);
    let store = tempfile::tempdir().unwrap();
    let mut observer = Talk::open(cluster, name);
    let mut writers: Vec<Talk> = (0..3).map(|_| Talk::open(cluster, name)).collect();
    writers.iter_mut().for_each(|writer| writer.send(WRITE));
    observer.until("SELECT count(*) > 50 FROM parent");
    let mut last = None;
    for _ in 0..3 {
        let before: u64 = observer.run("SELECT max(id) FROM parent").parse().unwrap();
        expect_code(&mut backup(cluster, name, store.path()), 0);
        let after: u64 = observer.run("SELECT max(id) FROM parent").parse().unwrap();
        assert!(after > before + 10, "the writers slept: {before} to {after}");
        let run = Run::latest(store.path());
        of_one_moment(&run);
        last = Some(run);
    }
    observer.run("INSERT INTO stop VALUES (1)");
    writers.iter_mut().for_each(|writer| drop(writer.wait()));
    restores_with_its_keys(cluster, &last.unwrap());
    drop((observer, writers));
    cluster.drop_database(name);
}

fn field(row: &str, at: usize) -> i64 {
    row.split('\t').nth(at).unwrap().parse().unwrap()
}

fn of_one_moment(run: &Run) {
    let sum = |table: &str| run.rows("public", table).iter().map(|row| field(row, 1)).sum::<i64>();
    let (left, right) = (sum("left_side"), sum("right_side"));
    assert_eq!(left + right, 120_000_000);
    assert_ne!(left, right, "nothing was moved");
    let parents: HashSet<i64> = run.rows("public", "parent").iter().map(|row| field(row, 0)).collect();
    let children = run.rows("public", "child");
    assert!(children.len() > 100 && children.len() == 3 * parents.len(), "{} {}", children.len(), parents.len());
    assert!(children.iter().all(|row| parents.contains(&field(row, 1))));
    // Sequences are read after the snapshot: never behind the rows.
    let sql = run.sql("public", "parent");
    let set = sql.lines().find(|line| line.contains("setval('public.parent_id_seq'")).unwrap();
    let value: i64 = set.split(", ").nth(1).unwrap().parse().unwrap();
    assert!(value >= *parents.iter().max().unwrap(), "{set}");
}

/// pg_restore makes the foreign keys, which checks every row.
fn restores_with_its_keys(cluster: &Cluster, run: &Run) {
    let copy = "snap busy copy";
    cluster.create_database(copy);
    let archive = run.plain(run.schema("public")["dump"]["key"].as_str().unwrap());
    succeed_with(cluster.command("pg_restore").args(["--exit-on-error", "-d", &cluster.url(copy)]), &archive);
    assert_eq!(
        cluster.psql(copy, "SELECT sum(amount) FROM (TABLE left_side UNION ALL TABLE right_side) s"),
        "120000000"
    );
    cluster.drop_database(copy);
}
