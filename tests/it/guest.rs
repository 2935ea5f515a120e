//! A backup as a guest of the database: who waits for it, when it leaves, how fast it reads, what it is called; and one
//! backup of a database into a store at a time.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::bucket::Bucket;
use crate::support::pg::{self, Cluster};
use crate::support::program::{At, Gate, Going, Run, backup, expect_code, expect_failure, files, gated, pgstow};
use crate::support::session::Talk;

fn newest() -> u32 {
    *pg::versions().last().unwrap()
}

/// A database whose rows take a while at 256 KiB a second: 4 MiB of text in one table, and small ones around it.
fn slow(name: &str) -> &'static Cluster {
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    cluster.psql(
        name,
        "CREATE TABLE a_first (id int); INSERT INTO a_first VALUES (1);
         CREATE SCHEMA shop; CREATE TABLE shop.orders (id int); INSERT INTO shop.orders VALUES (1);
         CREATE TABLE slow (id int, t text);
         INSERT INTO slow SELECT i, repeat(md5(i::text), 32) FROM generate_series(1, 4096) i",
    );
    cluster
}

/// True while a session of the program reads rows. The server may have sent the large table already, into buffers
/// that are emptied slowly.
const ROWS_FLOW: &str = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() \
    AND application_name LIKE 'pgstow reader %' AND query LIKE 'COPY%'";

const NOBODY_LEFT: &str = "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name ~ '^(pgstow|pg_dump)'";

const NO_LOCKS: &str = "SELECT count(*) = 0 FROM pg_locks WHERE relation = 'slow'::regclass";

/// `pgstow backup` into a prefix, in parts of 5 MiB.
fn backup_in_parts(bucket: &Bucket, cluster: &Cluster, database: &str, prefix: &str) -> std::process::Command {
    let mut command = bucket.backup(cluster, database, prefix);
    command.args(["--s3-part-size-mib", "5"]);
    command
}

#[track_caller]
fn holds_nothing_to_trust(bucket: &Bucket) {
    assert_eq!(bucket.uploads("pre"), [""; 0]);
    let files = bucket.files("");
    assert!(!files.iter().any(|file| file.ends_with(".json")), "{files:?}");
}

#[track_caller]
fn only_error(err: &str) -> &str {
    let errors: Vec<&str> = err.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && !err.contains("panicked"), "{err}");
    errors[0]
}

#[test]
fn a_migration_that_waits_is_told_and_after_max_block_the_backup_gives_way() {
    let name = "guest block";
    let cluster = slow(name);
    let bucket = Bucket::start();
    let (mut observer, mut migration, mut reader) =
        (Talk::open(cluster, name), Talk::open(cluster, name), Talk::open(cluster, name));
    let pid = migration.pid();
    let mut command = backup_in_parts(&bucket, cluster, name, "pre");
    let going = Going::start(command.args(["--rate-limit", "64KiB", "--max-block", "2s"]));
    observer.until(ROWS_FLOW);
    migration.send("ALTER TABLE slow\n  ADD COLUMN new_one int");
    observer.until("SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND relation = 'slow'::regclass");
    // The site: queued behind the migration.
    reader.send("SELECT count(*) FROM slow");
    let (out, err) = going.expect_code(1);
    assert_eq!(out, "");
    let error = only_error(&err);
    for word in ["gave way after 2", &format!("pid {pid} "), "slow", "ALTER TABLE slow ADD COLUMN new_one int"] {
        assert!(error.contains(word), "{word:?} is not in {error}");
    }
    let warnings: Vec<&str> = err.lines().filter(|line| line.contains("is blocked by this backup")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("WARN") && warnings[0].contains(&pid), "{err}");
    assert!(err.lines().any(|line| line.starts_with("hint: ") && line.contains("--max-block 2s")), "{err}");
    // The migration gets its lock, and the site goes on.
    migration.wait();
    assert_eq!(reader.wait(), "4096");
    holds_nothing_to_trust(&bucket);
    observer.until(NOBODY_LEFT);
    drop((observer, migration, reader));
    cluster.drop_database(name);
}

#[test]
fn without_max_block_a_waiting_session_is_told_once_and_the_backup_ends_well() {
    let name = "guest warn";
    let cluster = slow(name);
    let store = tempfile::tempdir().unwrap();
    let (mut observer, mut migration) = (Talk::open(cluster, name), Talk::open(cluster, name));
    let going = Going::start(backup(cluster, name, store.path()).args(["--rate-limit", "1MiB"]));
    observer.until(ROWS_FLOW);
    migration.send("TRUNCATE slow");
    let (_, err) = going.expect_code(0);
    let warnings: Vec<&str> = err.lines().filter(|line| line.contains("is blocked by this backup")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("TRUNCATE slow"), "{err}");
    migration.wait();
    assert_eq!(Run::latest(store.path()).table("public", "slow")["rows"], 4096);
    expect_code(pgstow().arg("verify").arg("--store").arg(store.path()), 0);
    drop((observer, migration));
    cluster.drop_database(name);
}

#[test]
fn a_server_without_a_connection_to_spare_is_backed_up_without_a_watcher() {
    let cluster = Cluster::start_with(
        newest(),
        &[
            ("max_connections", "8"),
            ("max_wal_senders", "0"),
            ("wal_level", "replica"),
            ("superuser_reserved_connections", "2"),
        ],
    );
    cluster.psql("postgres", "CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    let store = tempfile::tempdir().unwrap();
    let (_, err) = expect_code(backup(&cluster, "postgres", store.path()).args(["--max-block", "1m"]), 0);
    let said = err.lines().find(|line| line.contains("nobody looks for sessions")).expect(&err);
    assert!(said.contains("WARN") && said.contains("--max-block has no effect"), "{said}");
    let (_, err) = expect_code(backup(&cluster, "postgres", store.path()).args(["--jobs", "1"]), 0);
    assert!(!err.contains("nobody looks"), "{err}");
}

#[test]
fn the_deadline_ends_the_run_and_says_how_far_it_got() {
    let name = "guest deadline";
    let cluster = slow(name);
    let bucket = Bucket::start();
    let started = Instant::now();
    let mut command = backup_in_parts(&bucket, cluster, name, "pre");
    let (error, all) = expect_failure(command.args(["--rate-limit", "2KiB", "--deadline", "4s"]), 1);
    assert!(started.elapsed() >= Duration::from_secs(4), "{all}");
    for word in ["deadline of 4s", "of 2 schemas", "of 3 tables", "rows", "nothing was promoted"] {
        assert!(error.contains(word), "{word:?} is not in {error}");
    }
    holds_nothing_to_trust(&bucket);
    // While it waits for a lock there is nothing to count yet.
    let mut holder = Talk::open(cluster, name);
    holder.run("BEGIN; LOCK TABLE slow IN ACCESS EXCLUSIVE MODE");
    let mut command = backup_in_parts(&bucket, cluster, name, "pre");
    let (error, _) = expect_failure(command.args(["--lock-timeout", "1h", "--deadline", "2s"]), 1);
    assert!(error.contains("locking tables"), "{error}");
    let mut observer = Talk::open(cluster, name);
    observer.until(NOBODY_LEFT);
    holder.run("ROLLBACK");
    observer.until(NO_LOCKS);
    drop((holder, observer));
    cluster.drop_database(name);
}

#[test]
fn a_rate_limit_holds_for_all_sessions_together_and_is_read_strictly() {
    let name = "guest rate";
    let cluster = slow(name);
    cluster.psql(name, "SELECT lo_from_bytea(0, convert_to(repeat('x', 1048576), 'UTF8'))");
    let store = tempfile::tempdir().unwrap();
    let started = Instant::now();
    expect_code(backup(cluster, name, store.path()).args(["--rate-limit", "2MiB/s"]), 0);
    let run = Run::latest(store.path());
    let raw = run.manifest["totals"]["raw_bytes"].as_u64().unwrap() + (1 << 20);
    assert!(raw > 5 << 20, "{raw}");
    // A quarter of a second may be read at once.
    let least = Duration::from_millis(raw * 1000 / (2 << 20) - 250);
    assert!(started.elapsed() >= least, "{:?}", started.elapsed());
    for wrong in ["50", "50M", "fast", "0MiB"] {
        let (error, _) = expect_failure(backup(cluster, name, store.path()).args(["--rate-limit", wrong]), 2);
        assert!(error.contains("--rate-limit"), "{error}");
    }
    cluster.drop_database(name);
}

#[test]
fn every_session_says_what_it_is() {
    let name = "guest names";
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    cluster.psql(name, "CREATE TABLE slow (id int, t text); INSERT INTO slow SELECT i, repeat('x', 1000) FROM generate_series(1, 300) i");
    let store = tempfile::tempdir().unwrap();
    let gate = Gate::new(cluster, At::Nowhere);
    let mut observer = Talk::open(cluster, name);
    observer.run("CREATE TEMP TABLE seen (who text)");
    let look = "INSERT INTO seen SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    // What the client programs call themselves comes from their environment.
    for program in ["pg_dump", "pg_dumpall"] {
        use std::os::unix::fs::PermissionsExt as _;
        let path = gate.bin_dir().join(program);
        fs::remove_file(&path).ok();
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *--version*) ;; *) echo \"$PGAPPNAME\" >> '{}/names';; esac\nexec '{}' \"$@\"\n",
            gate.bin_dir().display(),
            cluster.bin(program).display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = gated(cluster, name, store.path(), &gate);
    command.args(["--rate-limit", "100KiB"]);
    command.env("DATABASE_URL", format!("{}?application_name=theirs", cluster.url(name)));
    let going = Going::start(&mut command);
    for who in ["leader", "reader", "watcher"] {
        observer.until(&format!(
            "{look}; SELECT count(*) > 0 FROM seen WHERE who ~ '^pgstow {who} [0-9]{{8}}T[0-9]{{6}}Z-[0-9a-f]{{6}}$'"
        ));
    }
    going.expect_code(0);
    let strange = observer.run("SELECT string_agg(DISTINCT who, '; ') FROM seen WHERE who !~ '^pgstow( |$)'");
    assert_eq!(strange, "");
    let run = Run::latest(store.path()).name;
    assert_eq!(observer.run(&format!("SELECT count(*) > 0 FROM seen WHERE who = 'pgstow leader {run}'")), "t");
    let names = fs::read_to_string(gate.bin_dir().join("names")).unwrap();
    assert!(names.lines().any(|line| line == format!("pgstow pg_dump {run}")), "{names}");
    assert!(names.lines().any(|line| line == format!("pgstow pg_dumpall {run}")), "{names}");
    drop(observer);
    cluster.drop_database(name);
}

#[test]
fn one_backup_of_a_database_into_a_store_at_a_time() {
    let name = "guest one";
    let cluster = slow(name);
    let (bucket, other) = (Bucket::start(), Bucket::start());
    let folder = tempfile::tempdir().unwrap();
    let mut observer = Talk::open(cluster, name);
    for first in ["bucket", "folder"] {
        let store = folder.path().join("store");
        fs::create_dir_all(&store).unwrap();
        let link = folder.path().join(format!("link to {first}"));
        std::os::unix::fs::symlink(&store, &link).unwrap();
        let before = files(&store);
        let mut start = if first == "bucket" {
            backup_in_parts(&bucket, cluster, name, "pre")
        } else {
            backup(cluster, name, &store)
        };
        let going = Going::start(start.args(["--rate-limit", "64KiB"]));
        observer.until(ROWS_FLOW);
        let same = |place: &str| match first {
            "bucket" => backup_in_parts(&bucket, cluster, name, place),
            _ => backup(cluster, name, &link),
        };
        let (error, _) = expect_failure(&mut same("pre/"), 1);
        let asked = "SELECT 'run ' || substr(application_name, 15) || ', pid ' || pid || ', started ' ||
            to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM pg_stat_activity
            WHERE datname = current_database() AND application_name LIKE 'pgstow leader %' ORDER BY backend_start LIMIT 1";
        assert!(error.contains("another backup") && error.contains(&observer.run(asked)), "{error}");
        if first == "bucket" {
            // Another prefix, and a bucket of the same name elsewhere, are other stores.
            expect_code(&mut backup_in_parts(&bucket, cluster, name, "pre2"), 0);
            expect_code(&mut other.backup(cluster, name, "pre"), 0);
        }
        going.signal("KILL");
        drop(going);
        observer.until("SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())");
        if first == "folder" {
            assert_no_run_appeared(&store, &before);
        }
        expect_code(&mut same("pre"), 0);
    }
    drop(observer);
    cluster.drop_database(name);
}

/// What a killed run leaves is `prune`'s to clear; it must not look like a run.
fn assert_no_run_appeared(store: &Path, before: &[String]) {
    let kept: Vec<String> = files(store).into_iter().filter(|file| before.contains(file)).collect();
    assert_eq!(kept, before);
    assert!(!files(store).iter().any(|file| file.ends_with("manifest.json")));
}
