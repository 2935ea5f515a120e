//! `pgstow doctor` and the database: each thing that could stop a backup is made, found, and its cure cures.

use std::process::Command;

use serde_json::Value;

use crate::support::pg::{self, Cluster};
use crate::support::pgbouncer::PgBouncer;
use crate::support::process::succeed;
use crate::support::program::{At, Gate, Going, Run, backup, expect_code, expect_failure, gated, pgstow};
use crate::support::session::{Talk, until};

/// `pgstow doctor --json` of a database, without a store.
fn doctor(cluster: &Cluster, url: &str, arguments: &[&str]) -> Command {
    let mut command = pgstow();
    command.args(["doctor", "--json", "--skip-store", "--pg-bin-dir"]).arg(cluster.bin_dir()).env("DATABASE_URL", url);
    command.args(arguments);
    command
}

/// Runs it and returns its document.
#[track_caller]
fn examined(command: &mut Command, code: i32) -> Value {
    let (out, err) = expect_code(command, code);
    assert_eq!(err.contains("error: "), code == 1, "{err}");
    serde_json::from_str(&out).unwrap()
}

/// The finding of that name, as (level, text, cures).
#[track_caller]
pub(crate) fn finding(document: &Value, name: &str) -> (String, String, String) {
    let checks = document["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}: {document:#}"));
    let text = |field: &str| check[field].as_str().unwrap().to_owned();
    let cures: Vec<&str> = check["cures"].as_array().unwrap().iter().map(|cure| cure.as_str().unwrap()).collect();
    (text("level"), text("text"), cures.join("\n"))
}

#[test]
fn a_healthy_database_has_nothing_to_cure() {
    for version in pg::versions() {
        let (cluster, name) = (pg::shared(version), "doctor healthy");
        cluster.create_database(name);
        cluster.psql(name, "CREATE TABLE t (id int); ALTER DATABASE \"doctor healthy\" SET statement_timeout = '7s'");
        let document = examined(&mut doctor(cluster, &cluster.url(name), &[]), 0);
        assert_eq!(document["verdict"], "ok", "{document:#}");
        for check in [
            "connection",
            "tls",
            "pooler",
            "server",
            "pg_dump",
            "privileges",
            "locks",
            "lock-table",
            "connections",
            "primary",
        ] {
            assert_eq!(finding(&document, check).0, "ok", "{check}");
        }
        let timeouts = finding(&document, "timeouts").1;
        assert!(timeouts.contains("statement_timeout = 7000ms") && timeouts.contains("do not count"), "{timeouts}");
        assert_eq!(document["store"], Value::Null);
        let mut people = pgstow();
        people.args(["doctor", "--skip-store"]).env("DATABASE_URL", cluster.url(name));
        let (out, _) = expect_code(people.arg("--pg-bin-dir").arg(cluster.bin_dir()), 0);
        assert!(out.starts_with("database\n  ok ") && out.ends_with("\n0 errors, 0 warnings\n"), "{out}");
        cluster.drop_database(name);
    }
}

#[test]
fn what_cannot_be_reached_is_one_error_with_a_cure() {
    let cluster = pg::shared(pg::versions()[0]);
    let gone = pg::free_port();
    let document = examined(&mut doctor(cluster, &format!("postgres://u:p@127.0.0.1:{gone}/d"), &[]), 1);
    let (level, text, cure) = finding(&document, "connection");
    assert!(level == "error" && text.contains(&gone.to_string()) && cure.contains("nothing listens"), "{text} {cure}");
    let document = examined(&mut doctor(cluster, "postgres://u:p@no-such-host.invalid/d", &[]), 1);
    assert_eq!(finding(&document, "address").0, "error");
    let document = examined(&mut doctor(cluster, &cluster.url_as("postgres", "wrong", "postgres"), &[]), 1);
    let (_, text, _) = finding(&document, "connection");
    assert!(text.contains("28P01") && !text.contains("wrong"), "{text}");
    expect_failure(&mut doctor(cluster, "mysql://u@h/d", &[]), 2);
    let old = tempfile::tempdir().unwrap();
    let mut command = pgstow();
    command.args(["doctor", "--json", "--skip-store", "--pg-bin-dir"]).arg(old.path());
    let document = examined(command.env("DATABASE_URL", cluster.url("postgres")), 1);
    let (level, _, cure) = finding(&document, "pg_dump");
    assert!(level == "error" && cure.contains("--pg-bin-dir"), "{cure}");
}

#[test]
fn what_the_role_cannot_read_is_an_error_until_its_cure() {
    let (cluster, name) = (pg::shared(pg::versions()[0]), "doctor grants");
    cluster.create_database(name);
    cluster.psql(name, "CREATE ROLE doctored LOGIN PASSWORD 'pw' CONNECTION LIMIT 5 VALID UNTIL '2000-01-01'; CREATE SCHEMA s; CREATE TABLE s.t (id serial)");
    let url = cluster.url_as("doctored", "pw", name);
    let document = examined(&mut doctor(cluster, &url, &[]), 1);
    assert!(finding(&document, "connection").1.contains("28P01"), "an expired password is refused");
    cluster.psql(
        name,
        "DO $$ BEGIN EXECUTE format('ALTER ROLE doctored VALID UNTIL %L', now() + interval '2 days 6 hours') ; END $$",
    );
    // One cure may uncover the next gap.
    let mut rounds = 0;
    loop {
        let output = doctor(cluster, &url, &[]).output().unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let (level, text, cures) = finding(&document, "privileges");
        if level == "ok" {
            break;
        }
        assert!(output.status.code() == Some(1) && text.contains("doctored cannot read") && rounds < 4, "{text}");
        cluster.psql(name, &cures);
        rounds += 1;
    }
    assert!(rounds > 0);
    let document = examined(&mut doctor(cluster, &url, &["--jobs", "6"]), 0);
    assert_eq!(finding(&document, "privileges").0, "ok");
    let (level, text, _) = finding(&document, "role");
    assert!(level == "warning" && text.contains("2 days"), "{text}");
    let (level, text, cure) = finding(&document, "connections");
    assert!(level == "warning" && text.contains("5 left of the role") && cure.contains("--jobs 2"), "{text} {cure}");
    cluster.drop_database(name);
    cluster.psql("postgres", "DROP ROLE doctored");
}

#[test]
fn locks_of_others_are_named_with_who_holds_them() {
    let (cluster, name) = (pg::shared(pg::versions()[0]), "doctor locks");
    cluster.create_database(name);
    cluster.psql(name, "CREATE TABLE t (id int); CREATE TABLE u (id int)");
    let (mut holder, mut reader, mut waiter, mut watcher) =
        (Talk::open(cluster, name), Talk::open(cluster, name), Talk::open(cluster, name), Talk::open(cluster, name));
    let (held, waiting) = (holder.pid(), waiter.pid());
    holder.run("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE");
    reader.run("BEGIN; SELECT * FROM u");
    waiter.send("TRUNCATE u");
    watcher.until(&format!("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = {waiting} AND NOT granted)"));
    let document = examined(&mut doctor(cluster, &cluster.url(name), &[]), 0);
    let (level, text, cure) = finding(&document, "locks");
    assert_eq!(level, "warning");
    assert!(text.contains(&format!("public.t is locked by pid {held} ")), "{text}");
    assert!(
        text.contains(&format!("public.u is waited for by pid {waiting} ")) && text.contains("TRUNCATE u"),
        "{text}"
    );
    assert!(cure.contains("waits 30s for each lock (--lock-timeout)"), "{cure}");
    holder.run("ROLLBACK");
    reader.run("ROLLBACK");
    waiter.wait();
    cluster.drop_database(name);
}

#[test]
fn a_server_with_little_room_is_told_what_to_set() {
    let small = [
        ("max_locks_per_transaction", "10"),
        ("max_connections", "10"),
        ("max_wal_senders", "0"),
        ("wal_level", "replica"),
        ("superuser_reserved_connections", "2"),
        ("max_replication_slots", "0"),
    ];
    let cluster = Cluster::start_with(pg::versions()[0], &small);
    cluster.create_database("app");
    cluster.psql("app", "SELECT format('CREATE TABLE t%s (id int)', i) FROM generate_series(1, 51) i \\gexec");
    let url = cluster.url("app");
    let document = examined(&mut doctor(&cluster, &url, &[]), 1);
    let (level, text, cure) = finding(&document, "lock-table");
    assert!(level == "error" && text.contains("102 locks for 51 tables"), "{text}");
    assert!(cure.contains("max_locks_per_transaction = 64"), "{cure}");
    cluster.psql("app", "SELECT format('DROP TABLE t%s', i) FROM generate_series(1, 30) i \\gexec");
    let _idle: Vec<Talk> = (0..5).map(|_| Talk::open(&cluster, "app")).collect();
    let document = examined(&mut doctor(&cluster, &url, &[]), 0);
    assert_eq!(finding(&document, "lock-table").0, "ok");
    let (level, text, _) = finding(&document, "connections");
    assert!(level == "warning" && text.contains("5 left of the server (max_connections), 7 wanted"), "{text}");
}

#[test]
pub(crate) fn a_transaction_pooler_is_refused_before_anything_is_set_and_a_session_pooler_serves() {
    let (cluster, name) = (pg::shared(pg::versions()[0]), "doctor pooled");
    cluster.create_database(name);
    cluster.psql(name, "CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    let store = tempfile::tempdir().unwrap();
    for mode in ["transaction", "statement"] {
        let pooler = PgBouncer::start(cluster, mode);
        let url = pooler.url(cluster, name);
        let document = examined(&mut doctor(cluster, &url, &[]), 1);
        let (level, text, cure) = finding(&document, "pooler");
        assert!(level == "error" && text.contains("a pooler in transaction mode"), "{text}");
        assert!(cure.contains("pool_mode = session"), "{cure}");
        for mut command in [backup(cluster, name, store.path()), pgstow()] {
            if command.get_args().next().is_none() {
                command.arg("detect");
            }
            let (error, all) = expect_failure(command.env("DATABASE_URL", &url), 1);
            assert!(error.contains("pooler") && all.contains("hint: connect to the server itself"), "{all}");
        }
        // The backends that served those sessions are as the next client expects them.
        let mut psql = cluster.command("psql");
        let path = succeed(psql.args(["-X", "-A", "-t", "-c", "SHOW search_path", "-d"]).arg(&url));
        assert_eq!(path.trim(), "\"$user\", public");
    }
    let pooler = PgBouncer::start(cluster, "session");
    let url = pooler.url(cluster, name);
    let document = examined(&mut doctor(cluster, &url, &[]), 0);
    assert_eq!(finding(&document, "pooler").0, "ok");
    expect_code(backup(cluster, name, store.path()).env("DATABASE_URL", &url), 0);
    assert_eq!(Run::latest(store.path()).rows("public", "t"), ["1"]);
    drop(pooler);
    cluster.drop_database(name);
}

#[test]
fn the_port_of_supabase_s_transaction_pooler_is_refused_by_name() {
    let cluster = pg::shared(pg::versions()[0]);
    // Nothing is asked of that host: its address is this machine's.
    for (host, port) in [
        ("aws-0-eu-central-1.pooler.supabase.com", "5432"),
        ("db.abcdefghijklmnopqrst.supabase.co", "the direct connection"),
    ] {
        let url = format!("host={host} hostaddr=127.0.0.1 port=6543 user=postgres.ref dbname=postgres");
        let document = examined(&mut doctor(cluster, &url, &[]), 1);
        let (level, text, cure) = finding(&document, "pooler");
        assert!(level == "error" && text.contains("6543") && cure.contains(port), "{text} {cure}");
    }
}

#[test]
fn what_is_encrypted_and_what_is_not_is_told() {
    let version = pg::packaged();
    let folder = pg::new_base(version);
    let (certificate, key) = (folder.join("server.crt"), folder.join("server.key"));
    succeed(
        Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=db.example.com",
                "-addext",
                "subjectAltName=DNS:db.example.com",
                "-keyout",
            ])
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    );
    pg::give_to_server(&[&certificate, &key]);
    let settings =
        [("ssl", "on"), ("ssl_cert_file", certificate.to_str().unwrap()), ("ssl_key_file", key.to_str().unwrap())];
    let cluster = Cluster::start_with(version, &settings);
    let url = |mode: &str| {
        let password = pg::PASSWORD.replace('\'', "\\'");
        let root = certificate.display();
        format!(
            "host=db.example.com hostaddr=127.0.0.1 port={} user=postgres password='{password}' dbname=postgres sslmode={mode} sslrootcert={root}",
            cluster.port()
        )
    };
    let document = examined(&mut doctor(&cluster, &url("verify-full"), &[]), 0);
    let (level, text, _) = finding(&document, "tls");
    assert!(level == "ok" && text.starts_with("TLSv1.3, TLS_") && text.contains("verify-full"), "{text}");
    let document = examined(&mut doctor(&cluster, &url("disable"), &[]), 0);
    let (level, text, cure) = finding(&document, "tls");
    assert!(level == "warning" && text.contains("not encrypted") && cure.contains("verify-full"), "{text}");
    drop(cluster);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
pub(crate) fn a_standby_is_told_what_ends_long_reads() {
    let cluster = Cluster::start_standby(pg::versions()[0]);
    let document = examined(&mut doctor(&cluster, &cluster.url("postgres"), &[]), 0);
    let (level, text, cure) = finding(&document, "primary");
    assert!(level == "warning" && text.contains("this is a standby") && text.contains("replay waits 30 s"), "{text}");
    assert!(cure.contains("hot_standby_feedback"), "{cure}");
}

#[test]
pub(crate) fn another_backup_that_runs_and_a_prefix_of_another_database_are_seen() {
    let (cluster, name) = (pg::shared(pg::versions()[0]), "doctor running");
    for database in [name, "doctor other"] {
        cluster.create_database(database);
        cluster.psql(database, "CREATE TABLE t (id int)");
    }
    let store = tempfile::tempdir().unwrap();
    let look = |database: &str, code: i32| {
        let mut command = pgstow();
        command.args(["doctor", "--json", "--pg-bin-dir"]).arg(cluster.bin_dir()).arg("--store").arg(store.path());
        examined(command.env("DATABASE_URL", cluster.url(database)), code)
    };
    let gate = Gate::new(cluster, At::Start);
    let going = Going::start(&mut gated(cluster, name, store.path(), &gate));
    until("pg_dump stands at the gate", || gate.bin_dir().join("arrived").exists());
    let (level, text, _) = finding(&look(name, 0), "running");
    assert!(level == "warning" && text.contains("another backup") && text.contains("pid "), "{text}");
    assert_eq!(finding(&look("doctor other", 0), "running").0, "ok");
    gate.open();
    going.expect_code(0);
    let (level, text, cure) = finding(&look("doctor other", 1), "prefix");
    assert!(level == "error" && text.contains("another database") && cure.contains("--adopt-prefix"), "{text}");
    assert_eq!(look(name, 0)["verdict"], "ok");
    cluster.drop_database(name);
    cluster.drop_database("doctor other");
}

/// A newer pg_dump that is installed is named by the backup that does not use it, in the words of `doctor`.
#[test]
fn a_backup_names_a_newer_pg_dump_that_would_do_better() {
    let versions = pg::versions();
    let (old, new) = (versions[0], *versions.last().unwrap());
    if old >= 17 || new < 17 {
        return;
    }
    let cluster = Cluster::start(old);
    cluster.create_database("blobs");
    cluster.psql("blobs", "SELECT count(lo_create(0)) FROM generate_series(1, 100000)");
    let better = format!("pg_dump {old} keeps each of 100000 large objects in memory: one of 17 or newer does not");
    let document = examined(&mut doctor(&cluster, &cluster.url("blobs"), &[]), 0);
    assert!(finding(&document, "pg_dump").1.contains(&better), "{document:#}");
    let store = tempfile::tempdir().unwrap();
    let folders = [pg::bin_dir(new), pg::bin_dir(old)];
    let ended = |pg_bin_dir: Option<&std::path::Path>| {
        let mut command = pgstow();
        command.args(["backup", "--deadline", "3s"]).arg("--store").arg(store.path());
        command
            .args(pg_bin_dir.into_iter().flat_map(|folder| [std::ffi::OsStr::new("--pg-bin-dir"), folder.as_os_str()]));
        command.env("DATABASE_URL", cluster.url("blobs")).env("PATH", std::env::join_paths(&folders).unwrap());
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    let err = ended(None);
    assert!(err.contains(&better) && err.contains("is installed: --pg-bin-dir"), "{err}");
    // Where one folder was named, no other is a choice.
    let err = ended(Some(&pg::bin_dir(old)));
    assert!(!err.contains("is installed"), "{err}");
}
