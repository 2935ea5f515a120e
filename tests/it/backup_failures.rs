//! How runs end that cannot succeed: one clear `error:` line, the right exit code, no manifest, `latest` where it was,
//! nothing half-written. And how they go on where they can.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::bucket::Bucket;
use crate::support::pg::{self, Cluster};
use crate::support::process::output_with;
use crate::support::program::{
    At, Gate, Going, Run, assert_untouched, backup, expect_code, expect_failure, files, gated, pgstow, story,
};
use crate::support::session::Talk;

fn newest() -> u32 {
    *pg::versions().last().unwrap()
}

/// A small database in the shared cluster.
fn small(name: &str) -> &'static Cluster {
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    cluster.psql(name, "CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    cluster
}

/// Rows that take a while: text that hardly compresses, some 90 MB of it in one table.
const MANY_ROWS: &str = "
CREATE TABLE a_first (id int); INSERT INTO a_first VALUES (1);
CREATE TABLE slow (id int, t text);
ALTER TABLE slow ALTER COLUMN t SET STORAGE EXTERNAL;
INSERT INTO slow SELECT i, (SELECT string_agg(md5((i * 64 + j)::text), '') FROM generate_series(1, 56) j)
FROM generate_series(1, 50000) i";

/// A question that is true while a session of the program reads rows.
const ROWS_FLOW: &str = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() \
    AND application_name LIKE 'pgstow%reader%' AND state = 'active' AND query LIKE 'COPY%slow%'";

/// A store with one run, to be left as it is.
struct Kept {
    store: TempDir,
    files: Vec<String>,
    latest: Vec<u8>,
}

impl Kept {
    fn new(cluster: &Cluster, database: &str) -> Self {
        let store = tempfile::tempdir().unwrap();
        expect_code(&mut backup(cluster, database, store.path()), 0);
        let (files, latest) = (files(store.path()), fs::read(store.path().join("latest.json")).unwrap());
        Self { store, files, latest }
    }

    #[track_caller]
    fn is_as_it_was(&self) {
        assert_untouched(self.store.path(), &self.files);
        assert_eq!(fs::read(self.store.path().join("latest.json")).unwrap(), self.latest);
    }
}

#[test]
fn a_database_that_cannot_be_reached_is_named_and_the_store_stays() {
    let name = "fail connect";
    let cluster = small(name);
    let kept = Kept::new(cluster, name);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let secret = "S3cr3t%2Fneedle";
    for (url, words) in [
        (cluster.url_as("postgres", "S3cr3t/needle", name), vec!["password", "postgres", "127.0.0.1"]),
        (cluster.url_as("nobody_here", "S3cr3t/needle", name), vec!["nobody_here"]),
        (cluster.url_as("postgres", pg::PASSWORD, "no such database"), vec!["no such database"]),
        (format!("postgresql://postgres:{secret}@nowhere.invalid/x"), vec!["nowhere.invalid"]),
        (format!("postgresql://postgres:{secret}@127.0.0.1:{closed}/x"), vec!["127.0.0.1", "refused"]),
        (format!("postgresql://postgres:{secret}@127.0.0.1:{}/x?sslmode=require", cluster.port()), vec!["TLS"]),
    ] {
        let mut command = backup(cluster, name, kept.store.path());
        let (error, all) = expect_failure(command.env("DATABASE_URL", &url), 1);
        crate::support::tally::bad_input("a database that cannot be reached");
        for word in words {
            assert!(error.to_lowercase().contains(&word.to_lowercase()), "{word:?} is not in {error}");
        }
        assert!(!all.contains("S3cr3t"), "{all}");
        kept.is_as_it_was();
    }
    let mut command = backup(cluster, name, kept.store.path());
    let (_, all) = expect_failure(command.env("DATABASE_URL", "postgresql://postgres:S3cr3t@127.0.0.1:no/x"), 2);
    assert!(!all.contains("S3cr3t"), "{all}");
    let (error, all) = expect_failure(
        command.env_remove("DATABASE_URL").env("HOME", "/nonexistent").args(["--lock-timeout", "soon"]),
        2,
    );
    assert!(error.contains("soon"), "{all}");
    cluster.drop_database(name);
}

#[test]
pub(crate) fn a_prefix_that_belongs_to_another_database_is_refused() {
    let (name, other) = ("fail prefix", "fail prefix other");
    let cluster = small(name);
    small(other);
    let kept = Kept::new(cluster, name);
    let (error, all) = expect_failure(&mut backup(cluster, other, kept.store.path()), 2);
    assert!(error.contains("another database") && all.contains("--adopt-prefix"), "{all}");
    kept.is_as_it_was();
    expect_code(backup(cluster, other, kept.store.path()).arg("--adopt-prefix"), 0);
    assert_eq!(Run::latest(kept.store.path()).manifest["source"]["database"], other);
    cluster.drop_database(name);
    cluster.drop_database(other);
}

#[test]
fn a_pg_dump_that_is_missing_or_too_old_is_named_with_the_version_that_is_needed() {
    let name = "fail tools";
    let cluster = small(name);
    let kept = Kept::new(cluster, name);
    let empty = tempfile::tempdir().unwrap();
    let run = |folder: &Path| {
        let mut command = pgstow();
        command.args(["backup", "--pg-bin-dir"]).arg(folder).env("DATABASE_URL", cluster.url(name));
        expect_failure(command.arg("--store").arg(kept.store.path()), 1)
    };
    let (error, all) = run(empty.path());
    assert!(error.contains("pg_dump") && all.contains(&newest().to_string()) && all.contains("hint: "), "{all}");
    kept.is_as_it_was();
    let old = tempfile::tempdir().unwrap();
    for tool in ["pg_dump", "pg_dumpall", "pg_restore"] {
        use std::os::unix::fs::PermissionsExt as _;
        let path = old.path().join(tool);
        fs::write(&path, format!("#!/bin/sh\necho '{tool} (PostgreSQL) 14.9'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let (error, all) = run(old.path());
    assert!(error.contains("14") && error.contains(&newest().to_string()) && all.contains("hint: "), "{all}");
    kept.is_as_it_was();
    cluster.drop_database(name);
}

#[test]
fn a_pg_dump_that_fails_is_quoted() {
    let name = "fail pg_dump";
    let cluster = small(name);
    let kept = Kept::new(cluster, name);
    let gate = Gate::new(cluster, At::Nowhere);
    let version = String::from_utf8(output_with(cluster.command("pg_dump").arg("--version"), b"").stdout).unwrap();
    for (script, words) in [
        ("echo 'pg_dump: error: the disk ate my homework' >&2; exit 1", "the disk ate my homework"),
        ("printf PGDMP; exit 0", "table of contents"),
        ("kill -9 $$", "table of contents"),
    ] {
        let text =
            format!("#!/bin/sh\ncase \"$*\" in *--version*) echo '{}'; exit 0;; esac\n{script}\n", version.trim());
        fs::write(gate.bin_dir().join("pg_dump"), text).unwrap();
        let (error, _) = expect_failure(&mut gated(cluster, name, kept.store.path(), &gate), 1);
        assert!(error.contains(words), "{error}");
        kept.is_as_it_was();
        crate::support::tally::bad_input("what pg_dump prints");
    }
    cluster.drop_database(name);
}

#[test]
fn a_full_disk_under_a_directory_store_is_said_and_the_old_run_stays() {
    let name = "fail disk";
    let cluster = small(name);
    cluster.psql(name, "CREATE TABLE big AS SELECT md5(i::text) AS t FROM generate_series(1, 120000) i");
    let mount = tempfile::tempdir().unwrap();
    // The mount lives in a namespace of its own and goes with it.
    let script = r#"
        set -eu
        mount -t tmpfs -o size=1m pgstow "$1"
        mkdir "$1/store"; shift_to=$1; shift
        code=0; "$@" --store "$shift_to/store" || code=$?
        echo "code $code"; cd "$shift_to/store"; find . -type f
    "#;
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", script, "sh"]).arg(mount.path()).arg(env!("CARGO_BIN_EXE_pgstow"));
    command.args(["backup", "--pg-bin-dir"]).arg(cluster.bin_dir()).env("DATABASE_URL", cluster.url(name));
    let output = output_with(&mut command, b"");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(out.starts_with("code 1\n"), "{}", story(&output));
    let errors: Vec<&str> = err.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && errors[0].to_lowercase().contains("no space left"), "{err}");
    assert!(!out.contains("manifest.json") && !out.contains("latest.json") && !out.contains("tmp"), "{out}");
    cluster.drop_database(name);
}

#[test]
fn a_store_folder_that_cannot_be_made_is_named() {
    let name = "fail folder";
    let cluster = small(name);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    fs::write(&file, "x").unwrap();
    let (error, _) = expect_failure(&mut backup(cluster, name, &file.join("store")), 1);
    assert!(error.contains("a file"), "{error}");
    assert_eq!(files(folder.path()), ["a file"]);
    cluster.drop_database(name);
}

/// `pgstow backup` into the prefix `pre`, in parts of 5 MiB.
fn backup_in_parts(bucket: &Bucket, cluster: &Cluster, database: &str) -> Command {
    let mut command = bucket.backup(cluster, database, "pre");
    command.args(["--s3-part-size-mib", "5"]);
    command
}

#[test]
fn a_missing_bucket_and_denied_credentials_are_told_apart() {
    let name = "fail bucket";
    let cluster = small(name);
    let bucket = Bucket::start();
    let mut missing = backup(cluster, name, Path::new("s3://no-such-bucket/pre"));
    let (error, all) = expect_failure(missing.envs(bucket.server.env()), 1);
    assert!(error.contains("no-such-bucket"), "{all}");
    let (error, all) =
        expect_failure(backup_in_parts(&bucket, cluster, name).env("AWS_SECRET_ACCESS_KEY", "wrong-n33dle"), 1);
    assert!(!all.contains("wrong-n33dle") && all.contains("hint: "), "{all}");
    assert!(
        error.to_lowercase().contains("denied") || error.contains("Signature") || error.contains("credentials"),
        "{error}"
    );
    let (error, all) =
        expect_failure(backup_in_parts(&bucket, cluster, name).env("AWS_ACCESS_KEY_ID", "UNKNOWNKEY"), 1);
    assert!(error.contains("backups"), "{all}");
    assert_eq!(bucket.files("pre"), Vec::<String>::new());
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = backup_in_parts(&bucket, cluster, name);
    command.env("AWS_ENDPOINT_URL_S3", format!("http://127.0.0.1:{closed}")).args(["--s3-attempts", "2"]);
    let (error, _) = expect_failure(&mut command, 1);
    assert!(error.contains("refused"), "{error}");
    cluster.drop_database(name);
}

#[test]
fn a_database_killed_in_the_middle_leaves_no_manifest_and_no_open_upload() {
    let mut cluster = Cluster::start(newest());
    cluster.psql("postgres", MANY_ROWS);
    let bucket = Bucket::start();
    let mut observer = Talk::open(&cluster, "postgres");
    let mut going = Going::start(backup_in_parts(&bucket, &cluster, "postgres").args(["--compression", "gzip:9"]));
    observer.until(ROWS_FLOW);
    crate::support::session::until("an open upload", || !bucket.uploads("pre").is_empty());
    assert!(going.runs(), "too quick to be killed in the middle");
    cluster.stop();
    let (_, err) = going.expect_code(1);
    assert_eq!(err.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{err}");
    assert!(err.contains("lost") || err.contains("terminat") || err.contains("closed"), "{err}");
    assert_eq!(bucket.uploads("pre"), [""; 0]);
    assert!(!bucket.files("pre").iter().any(|file| file.ends_with(".json")), "{:?}", bucket.files("pre"));
}

/// Readers that go away, a leader that goes away, signals: on one database, since it takes a while to make.
#[test]
fn sessions_that_end_and_signals_in_the_middle() {
    let name = "fail middle";
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    cluster.psql(name, MANY_ROWS);
    let calm = Kept::new(cluster, name);
    a_reader_s_backend_ends(cluster, name, &calm);
    the_leader_s_backend_ends(cluster, name, &calm);
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        a_signal_into_a_directory(cluster, name, &calm, signal, code);
        a_signal_into_a_bucket(cluster, name, signal, code);
    }
    cluster.drop_database(name);
}

fn a_reader_s_backend_ends(cluster: &Cluster, name: &str, calm: &Kept) {
    let mut observer = Talk::open(cluster, name);
    let store = tempfile::tempdir().unwrap();
    let mut going = Going::start(backup(cluster, name, store.path()).args(["--compression", "gzip:9"]));
    observer.until(ROWS_FLOW);
    for _ in 0..3 {
        observer.until(ROWS_FLOW);
        let ended = "SELECT count(pg_terminate_backend(pid)) > 0 FROM (SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
            AND application_name LIKE 'pgstow%reader%' AND state = 'active' AND query LIKE 'COPY%slow%' LIMIT 1) s";
        assert_eq!(observer.run(ended), "t");
    }
    assert!(going.runs());
    let (_, err) = going.expect_code(0);
    assert!(err.contains("connecting again"), "{err}");
    let (undisturbed, run) = (Run::latest(calm.store.path()), Run::latest(store.path()));
    assert_eq!(undisturbed.sql("public", "slow").len(), run.sql("public", "slow").len());
    assert!(undisturbed.sql("public", "slow") == run.sql("public", "slow"), "the bytes differ");
    assert_eq!(undisturbed.table("public", "slow")["order"], run.table("public", "slow")["order"]);
    expect_code(pgstow().arg("verify").arg("--store").arg(store.path()), 0);
}

fn the_leader_s_backend_ends(cluster: &Cluster, name: &str, kept: &Kept) {
    let mut observer = Talk::open(cluster, name);
    let going = Going::start(backup(cluster, name, kept.store.path()).args(["--compression", "gzip:9"]));
    observer.until(ROWS_FLOW);
    let ended = "SELECT count(pg_terminate_backend(pid)) = 1 FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name LIKE 'pgstow%leader%'";
    assert_eq!(observer.run(ended), "t");
    let (_, err) = going.expect_code(1);
    let error = err.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(error.contains("leader"), "{error}");
    kept.is_as_it_was();
}

fn a_signal_into_a_directory(cluster: &Cluster, name: &str, kept: &Kept, signal: &str, code: i32) {
    let mut observer = Talk::open(cluster, name);
    let going = Going::start(backup(cluster, name, kept.store.path()).args(["--compression", "gzip:9"]));
    observer.until(ROWS_FLOW);
    going.signal(signal);
    let (out, err) = going.expect_code(code);
    assert_eq!((out.as_str(), err.lines().filter(|line| line.starts_with("error: ")).count()), ("", 1), "{err}");
    kept.is_as_it_was();
    observer.until("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name ~ '^(pgstow|pg_dump)'");
}

fn a_signal_into_a_bucket(cluster: &Cluster, name: &str, signal: &str, code: i32) {
    let bucket = Bucket::start();
    let going = Going::start(backup_in_parts(&bucket, cluster, name).args(["--compression", "gzip:9"]));
    crate::support::session::until("an open upload", || !bucket.uploads("pre").is_empty());
    going.signal(signal);
    let (_, err) = going.expect_code(code);
    assert_eq!(err.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{err}");
    assert_eq!(bucket.uploads("pre"), [""; 0]);
    assert!(!bucket.files("pre").iter().any(|file| file.ends_with(".json")), "{:?}", bucket.files("pre"));
}

#[test]
fn a_signal_while_the_leader_waits_for_a_lock_ends_at_once() {
    let name = "fail waiting";
    let cluster = small(name);
    let kept = Kept::new(cluster, name);
    let (mut holder, mut observer) = (Talk::open(cluster, name), Talk::open(cluster, name));
    holder.run("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE");
    let going = Going::start(backup(cluster, name, kept.store.path()).args(["--lock-timeout", "1h"]));
    observer.until("SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%'");
    going.signal("INT");
    going.expect_code(130);
    kept.is_as_it_was();
    drop((holder, observer));
    cluster.drop_database(name);
}

#[test]
pub(crate) fn a_password_is_never_shown() {
    let name = "fail secrets";
    let cluster = small(name);
    let needle = "n33dle/of a:Secret%";
    cluster.psql(name, &format!("CREATE ROLE secretive SUPERUSER LOGIN PASSWORD '{needle}'"));
    let gate = Gate::new(cluster, At::Nowhere);
    let bucket = Bucket::start();
    for format in ["text", "json"] {
        let mut command = gated(cluster, name, Path::new(&format!("s3://{}/{format}", bucket.server.bucket)), &gate);
        command.envs(bucket.server.env()).env("DATABASE_URL", cluster.url_as("secretive", needle, name));
        let (out, err) = expect_code(command.args(["--log", "trace", "--log-format", format]), 0);
        assert!(err.len() > 2000, "trace says more: {err}");
        let words = gate.words();
        assert!(words.contains("--format=custom") && words.contains("backup"), "{words}");
        let mut texts = vec![("stdout", out), ("stderr", err), ("arguments", words)];
        for file in bucket.files("") {
            let bytes = crate::support::program::plain_or_raw(&bucket.path("").join(&file));
            texts.push(("stored", String::from_utf8_lossy(&bytes).into_owned()));
        }
        assert!(texts.len() > 6);
        for (what, text) in texts {
            for secret in ["n33dle", &bucket.server.secret_key] {
                assert!(!text.contains(secret), "{what} shows {secret}: {text}");
            }
        }
    }
    cluster.psql(name, "DROP ROLE secretive");
    cluster.drop_database(name);
}
