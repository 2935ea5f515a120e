//! Connections that freeze: nothing moves on them any more and nothing is closed, as behind a balancer that answers
//! keep-alives for a server it lost. Nothing is awaited on them without a bound. And what else a server's settings, or an
//! endpoint with several servers behind it, put in the way of a backup.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::support::judge;
use crate::support::pg::{self, Cluster};
use crate::support::pg_proxy::{Event, Fault, PgProxy, Session};
use crate::support::program::{Going, Run, backup, expect_code, expect_failure, pgstow, restore};
use crate::support::session::Talk;

fn newest() -> u32 {
    *pg::versions().last().unwrap()
}

/// A run through a proxy that freezes a connection when the moment has come.
fn through(
    runtime: &tokio::runtime::Runtime,
    cluster: &Cluster,
    database: &str,
    moment: fn(&Session, Event<'_>) -> bool,
) -> (PgProxy, tempfile::TempDir, std::process::Command) {
    let freeze = move |session: &Session, event: Event<'_>| moment(session, event).then_some(Fault::Stall);
    let proxy = runtime.block_on(PgProxy::start(cluster, freeze));
    let store = tempfile::tempdir().unwrap();
    let mut command = backup(cluster, database, store.path());
    command.env("DATABASE_URL", proxy.url(&cluster.url(database))).args(["--stall-timeout", "2s"]);
    (proxy, store, command)
}

fn asks(event: Event<'_>, words: &str) -> bool {
    matches!(event, Event::Asks(sql) if sql.contains(words))
}

#[test]
pub(crate) fn a_frozen_connection_of_the_leader_ends_the_run_and_its_locks_go() {
    let name = "frozen leader";
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    cluster.psql(name, "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let moments: [fn(&Session, Event<'_>) -> bool; 3] = [
        |session, event| session.application == "pgstow leader" && asks(event, "pg_export_snapshot"),
        |session, event| session.application == "pgstow leader" && asks(event, "datconnlimit::pg_catalog.int8 FROM"),
        |session, event| session.application == "pgstow check" && asks(event, "NOT EXISTS"),
    ];
    for (at, moment) in moments.into_iter().enumerate() {
        let (proxy, store, mut command) = through(&runtime, cluster, name, moment);
        let begun = Instant::now();
        let (error, _) = expect_failure(&mut command, 1);
        assert!(proxy.faults() > 0 && begun.elapsed() < Duration::from_secs(45), "{at}: {error}");
        assert!(!store.path().join("latest.json").exists());
        let mut observer = Talk::open(cluster, name);
        observer.until("SELECT count(*) = 0 FROM pg_locks WHERE relation = 't'::regclass");
    }
    // At the end nothing is owed any more: the run is whole, and its locks go all the same.
    let (proxy, store, mut command) = through(&runtime, cluster, name, |session, event| {
        session.application == "pgstow leader" && matches!(event, Event::Asks(sql) if sql == "ROLLBACK")
    });
    expect_code(&mut command, 0);
    assert_eq!((proxy.faults(), Run::latest(store.path()).table("public", "t")["rows"].as_u64()), (1, Some(1000)));
    let mut observer = Talk::open(cluster, name);
    observer.until("SELECT count(*) = 0 FROM pg_locks WHERE relation = 't'::regclass");
    drop(observer);
    cluster.drop_database(name);
}

#[test]
pub(crate) fn frozen_programs_and_readers_are_started_again_and_nothing_of_them_stays() {
    let name = "frozen children";
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    cluster.psql(name, "CREATE TABLE t AS SELECT i, repeat('x', 500) AS x FROM generate_series(1, 1000) i");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let moments: [fn(&Session, Event<'_>) -> bool; 3] = [
        |session, event| {
            (session.application.as_str(), session.time) == ("pgstow pg_dump", 1) && asks(event, "pg_proc")
        },
        |session, event| {
            (session.application.as_str(), session.time) == ("pgstow pg_dumpall", 1) && asks(event, "rolname")
        },
        |session, event| session.time == 1 && matches!(event, Event::Rows(copy, 100_000..) if copy.contains("\"t\"")),
    ];
    for (at, moment) in moments.into_iter().enumerate() {
        let (proxy, store, mut command) = through(&runtime, cluster, name, moment);
        let begun = Instant::now();
        expect_code(&mut command, 0);
        assert!(proxy.faults() > 0 && begun.elapsed() < Duration::from_secs(20), "{at}: {:?}", begun.elapsed());
        assert_eq!(Run::latest(store.path()).table("public", "t")["rows"].as_u64(), Some(1000));
        let mut observer = Talk::open(cluster, name);
        observer.until(
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() \
                AND application_name LIKE 'pgstow%'",
        );
    }
    cluster.drop_database(name);
}

#[test]
pub(crate) fn a_restore_ends_at_a_frozen_connection_and_the_same_command_completes_it() {
    let name = "frozen restore";
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    cluster.psql(
        name,
        "CREATE TABLE t (i int PRIMARY KEY, x text); CREATE INDEX by_x ON t (md5(x));
         INSERT INTO t SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 30000) i;
         CREATE VIEW v AS SELECT * FROM t",
    );
    let store = tempfile::tempdir().unwrap();
    expect_code(&mut backup(cluster, name, store.path()), 0);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let moments: [fn(&Session, Event<'_>) -> bool; 6] = [
        |_, event| asks(event, "pg_try_advisory"),
        |_, event| asks(event, "CREATE VIEW"),
        |_, event| asks(event, "COPY "),
        |_, event| matches!(event, Event::Loads(500_000..)),
        |_, event| event == Event::Loaded,
        |_, event| asks(event, "CREATE INDEX"),
    ];
    for (at, moment) in moments.into_iter().enumerate() {
        let into = format!("frozen copy {at}");
        cluster.create_database(&into);
        let freeze = move |session: &Session, event: Event<'_>| moment(session, event).then_some(Fault::Stall);
        let proxy = runtime.block_on(PgProxy::start(cluster, freeze));
        let url = cluster.url(&into);
        let begun = Instant::now();
        let mut command = restore(cluster, &proxy.url(&url), store.path());
        let (error, _) = expect_failure(command.args(["--stall-timeout", "1s"]), 1);
        assert!(proxy.faults() > 0 && begun.elapsed() < Duration::from_secs(20), "{at}: {error}");
        // The proxy still holds all connections of the first one open.
        expect_code(&mut restore(cluster, &url, store.path()), 0);
        judge::assert_same_database((cluster, name), (cluster, &into));
        drop(proxy);
        cluster.drop_database(&into);
    }
    cluster.drop_database(name);
}

#[test]
fn a_watcher_that_has_gone_blind_is_made_anew_and_keeps_max_block() {
    let name = "frozen watcher";
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    cluster.psql(name, "CREATE TABLE slow AS SELECT repeat(md5(i::text), 32) AS t FROM generate_series(1, 4096) i");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (proxy, _store, mut command) = through(&runtime, cluster, name, |session, event| {
        session.application == "pgstow watcher" && session.time == 1 && asks(event, "waiting AS MATERIALIZED")
    });
    let mut observer = Talk::open(cluster, name);
    let going = Going::start(command.args(["--rate-limit", "64KiB", "--max-block", "2s"]));
    observer.until(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() \
            AND application_name LIKE 'pgstow reader %' AND query LIKE 'COPY%'",
    );
    let mut migration = Talk::open(cluster, name);
    migration.send("ALTER TABLE slow ADD COLUMN n int");
    let begun = Instant::now();
    let (_, err) = going.expect_code(1);
    assert!(err.contains("gave way after") && err.contains("cannot see whether sessions wait"), "{err}");
    assert!(begun.elapsed() < Duration::from_secs(20) && proxy.faults() == 1, "{err}");
    migration.wait();
    drop((observer, migration));
    cluster.drop_database(name);
}

#[test]
fn time_limits_of_the_role_end_no_backup_and_a_prepared_transaction_is_named() {
    let cluster = Cluster::start_with(newest(), &[("max_prepared_transactions", "4")]);
    cluster.create_database("app");
    cluster.psql(
        "app",
        "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i;
         ALTER ROLE postgres SET statement_timeout = '1s'; ALTER ROLE postgres SET transaction_timeout = '1s';
         ALTER ROLE postgres SET lock_timeout = '1s'; ALTER ROLE postgres SET idle_in_transaction_session_timeout = '1s'",
    );
    let store = tempfile::tempdir().unwrap();
    let mut observer = Talk::open(&cluster, "app");
    observer.run("SET statement_timeout = 0; SET transaction_timeout = 0; SET idle_in_transaction_session_timeout = 0");
    observer.run("BEGIN; LOCK TABLE pg_auth_members IN ACCESS EXCLUSIVE MODE");
    let going = Going::start(&mut backup(&cluster, "app", store.path()));
    observer.until(
        "SELECT count(*) > 0 FROM (SELECT pg_stat_clear_snapshot()) c, pg_stat_activity \
          WHERE application_name LIKE 'pgstow pg_dumpall %' AND wait_event_type = 'Lock' \
            AND clock_timestamp() - query_start > '1500ms'",
    );
    observer.run("ROLLBACK");
    going.expect_code(0);
    cluster.psql("app", "ALTER ROLE postgres RESET ALL");
    let mut holder = Talk::open(&cluster, "app");
    holder.run("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; PREPARE TRANSACTION 'forgotten by the broker'");
    let (error, _) = expect_failure(backup(&cluster, "app", store.path()).args(["--lock-timeout", "1s"]), 1);
    assert!(error.contains("prepared transaction forgotten by the broker"), "{error}");
    let mut doctor = pgstow();
    doctor.args(["doctor", "--pg-bin-dir"]).arg(cluster.bin_dir()).env("DATABASE_URL", cluster.url("app"));
    let output = crate::support::process::output_with(doctor.arg("--store").arg(store.path()), b"");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("forgotten by the broker"), "{told}");
    holder.run("ROLLBACK PREPARED 'forgotten by the broker'");
}

/// An endpoint that gives every other connection to another server.
fn round_robin(servers: [u16; 2]) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (client, server) in listener.incoming().zip(servers.into_iter().cycle()) {
            let (client, server) = (client.unwrap(), TcpStream::connect((Ipv4Addr::LOCALHOST, server)).unwrap());
            for (mut from, mut to) in
                [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server.try_clone().unwrap(), client)]
            {
                std::thread::spawn(move || {
                    let _ended = std::io::copy(&mut from, &mut to);
                    let _closed = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    port
}

#[test]
fn an_endpoint_with_several_servers_is_said_by_doctor_and_by_the_error() {
    let (one, other) = (Cluster::start(newest()), Cluster::start(newest()));
    for cluster in [&one, &other] {
        cluster.create_database("app");
        cluster.psql("app", "CREATE TABLE t AS SELECT i FROM generate_series(1, 10) i");
    }
    let port = round_robin([one.port(), other.port()]);
    let url = one.url("app").replace(&format!(":{}/", one.port()), &format!(":{port}/"));
    let store = tempfile::tempdir().unwrap();
    let (error, hints) = expect_failure(backup(&one, "app", store.path()).env("DATABASE_URL", &url), 1);
    assert!(hints.contains("name one server"), "{error}: {hints}");
    let mut doctor = pgstow();
    doctor
        .args(["doctor", "--pg-bin-dir"])
        .arg(one.bin_dir())
        .env("DATABASE_URL", &url)
        .arg("--store")
        .arg(store.path());
    let output = crate::support::process::output_with(&mut doctor, b"");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("several servers"), "{told}");
    // A restore through it changes one of the two servers at most, and says why it ends; a drill leaves nothing behind.
    expect_code(&mut backup(&one, "app", store.path()), 0);
    for cluster in [&one, &other] {
        cluster.create_database("copy");
    }
    // One connection a session, so that every other session reaches the other server.
    let url = format!("{url}?sslmode=disable");
    let copy = url.replace("/app", "/copy");
    let (error, hints) = expect_failure(&mut restore(&one, &copy, store.path()), 1);
    assert!(hints.contains("name one server"), "{error}: {hints}");
    let made = [&one, &other].map(|cluster| cluster.psql("copy", "SELECT count(*) FROM pg_class WHERE relname = 't'"));
    assert!(made.contains(&"0".to_owned()), "{made:?}");
    let mut command = pgstow();
    command.args(["drill", "--pg-bin-dir"]).arg(one.bin_dir()).args(["--on", &url]).arg("--store").arg(store.path());
    let (error, hints) = expect_failure(&mut command, 1);
    assert!(hints.contains("name one server"), "{error}: {hints}");
    for cluster in [&one, &other] {
        assert_eq!(cluster.psql("app", "SELECT count(*) FROM pg_database WHERE datname LIKE 'pgstow%'"), "0");
    }
}
