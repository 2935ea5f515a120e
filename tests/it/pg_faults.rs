//! A network and a server that fail between the program and PostgreSQL: what a reader loses is read again, byte for
//! byte the same; what cannot be had again ends the run in one clear error, with nothing promoted.

use std::collections::HashSet;
use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgstow::pipeline::segment::SEGMENT_BYTES;

use crate::support::fixture::{Ended, Fixture, Kept};
use crate::support::objects::Prints;
use crate::support::pg::{self, Cluster};
use crate::support::pg_proxy::{Event, Fault, PgProxy, Session};
use crate::support::program::Going;
use crate::support::session::Talk;
use crate::support::tally::{self, Outcome};

const READER: &str = "pgstow reader";
const LEADER: &str = "pgstow leader";
/// pg_dump and pg_dumpall.
const TOOL: &str = "pgstow pg_dump";

/// Whether a fault's moment has come.
type At = fn(&Session, Event<'_>) -> bool;

/// A database behind a proxy, a bucket, and what a run without faults makes of them.
struct Rig {
    fixture: Fixture,
    proxy: PgProxy,
    cluster: &'static Cluster,
    database: &'static str,
    compression: &'static str,
    calm: Prints,
    runs: u32,
}

impl Rig {
    fn new(database: &'static str, sql: &str) -> Self {
        let cluster = pg::shared(*pg::versions().last().unwrap());
        cluster.create_database(database);
        cluster.psql(database, sql);
        Self::over(cluster, database)
    }

    fn over(cluster: &'static Cluster, database: &'static str) -> Self {
        Self::with(cluster, database, "none")
    }

    fn with(cluster: &'static Cluster, database: &'static str, compression: &'static str) -> Self {
        let fixture = Fixture::new(cluster, database);
        let proxy = fixture.bucket.runtime.block_on(PgProxy::start(cluster, |_, _| None));
        let mut rig = Self { fixture, proxy, cluster, database, compression, calm: Prints::new(), runs: 0 };
        let ended = Going::start(&mut rig.backup("calm")).end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        rig.calm = rig.fixture.latest("calm").unwrap();
        rig
    }

    fn backup(&self, prefix: &str) -> Command {
        let mut command = self.fixture.backup(prefix);
        command.env("DATABASE_URL", self.proxy.url(&self.fixture.url())).env("PGSTOW_COMPRESSION", self.compression);
        command
    }

    /// A run that follows a calm one into a prefix of its own, through a proxy that does as told.
    #[track_caller]
    fn run(
        &mut self,
        what: &str,
        script: impl FnMut(&Session, Event<'_>) -> Option<Fault> + Send + 'static,
        more: &[&str],
    ) -> (Outcome, Ended, Vec<(Session, String, Fault)>) {
        self.runs += 1;
        let prefix = format!("p{}", self.runs);
        self.fixture.copy("calm", &prefix);
        let before: Kept = self.fixture.kept(&prefix);
        let earlier = self.proxy.faults();
        self.proxy.follow(script);
        let ended = Going::start(self.backup(&prefix).args(more)).end();
        self.proxy.follow(|_, _| None);
        let log = self.proxy.log().split_off(earlier);
        tally::injected(what, log.len());
        let outcome = self.fixture.judge(&prefix, &before, &self.calm, &ended);
        tally::ended(*outcome.as_ref().unwrap_or(&Outcome::Lost), what);
        let outcome = outcome.unwrap_or_else(|why| panic!("{what}: {why}\n{log:?}\n{ended:?}"));
        assert!(!log.is_empty(), "{what}: no fault hit\n{ended:?}");
        (outcome, ended, log)
    }

    #[track_caller]
    fn survives(
        &mut self,
        what: &str,
        script: impl FnMut(&Session, Event<'_>) -> Option<Fault> + Send + 'static,
        more: &[&str],
    ) -> usize {
        let (outcome, ended, log) = self.run(what, script, more);
        assert_eq!(outcome, Outcome::Survived, "{what}\n{log:?}\n{ended:?}");
        log.len()
    }

    #[track_caller]
    fn fails(
        &mut self,
        what: &str,
        script: impl FnMut(&Session, Event<'_>) -> Option<Fault> + Send + 'static,
        more: &[&str],
    ) -> Ended {
        let (outcome, ended, log) = self.run(what, script, more);
        assert_eq!((outcome, ended.code), (Outcome::Failed, Some(1)), "{what}\n{log:?}\n{ended:?}");
        ended
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.cluster.drop_database(self.database);
        }
    }
}

/// Faults at the first event of each COPY of `table` for which `at` is true: reset, closed, cut within a message.
fn each_copy_once(
    table: &'static str,
    at: impl Fn(Event<'_>) -> bool + Send + 'static,
) -> impl FnMut(&Session, Event<'_>) -> Option<Fault> + Send + 'static {
    let mut done = HashSet::new();
    move |session, event| {
        let (Event::Copies(sql) | Event::Rows(sql, _) | Event::Copied(sql)) = event else { return None };
        if session.application != READER || !sql.contains(table) || !at(event) || !done.insert(sql.to_owned()) {
            return None;
        }
        Some([Fault::Reset, Fault::Close, Fault::ResetAfter(700)][done.len() % 3])
    }
}

/// True once so many segments and a half of a COPY's rows have come.
fn in_segment(number: u64) -> impl Fn(Event<'_>) -> bool + Send + 'static {
    let from = number * SEGMENT_BYTES as u64 + SEGMENT_BYTES as u64 / 2;
    move |event| matches!(event, Event::Rows(_, bytes) if bytes >= from)
}

#[test]
fn a_reader_cut_in_every_segment_of_a_large_table_reads_it_again() {
    // A row a page: 22 chunks of 16 MiB on disk, each with 5 MB of text, which is two and a half segments.
    let (cluster, name) = (pg::shared(*pg::versions().last().unwrap()), "pg large");
    cluster.create_database(name);
    cluster.psql(
        name,
        "CREATE TABLE small (id int); INSERT INTO small VALUES (1);
         CREATE UNLOGGED TABLE large (id int, t text) WITH (fillfactor = 10, autovacuum_enabled = off);
         ALTER TABLE large ALTER COLUMN t SET STORAGE PLAIN;
         INSERT INTO large SELECT i, repeat(md5(i::text), 75) FROM generate_series(1, 45000) i",
    );
    let mut rig = Rig::with(cluster, name, "zstd");
    let copies = rig.survives(
        "reader: cut in each segment",
        each_copy_once("large", |event| matches!(event, Event::Copies(_))),
        &[],
    );
    assert!(copies >= 20, "only {copies} chunks");
    for segment in 0..2 {
        let cut = rig.survives("reader: cut in each segment", each_copy_once("large", in_segment(segment)), &[]);
        assert!(cut >= 20, "segment {segment}: {cut} cuts");
    }
    let last = rig.survives(
        "reader: cut in each segment",
        each_copy_once("large", |event| matches!(event, Event::Rows(_, bytes) if bytes > 4_400_000)),
        &[],
    );
    assert!(last >= 20, "last segment: {last} cuts");
    let ends = rig.survives(
        "reader: cut in each segment",
        each_copy_once("large", |event| matches!(event, Event::Copied(_))),
        &[],
    );
    assert_eq!(ends, copies);
}

#[test]
fn a_reader_cut_in_every_segment_of_a_filtered_configuration_table_reads_it_again() {
    let cluster = pg::shared(*pg::versions().last().unwrap());
    cluster.install_extension(&pg::fixture("ext"));
    let mut rig = Rig::new(
        "pg filtered",
        "CREATE EXTENSION pgstow_probe;
         INSERT INTO pgstow_probe.filtered SELECT i, repeat(md5(i::text), 40), i % 9 = 0 FROM generate_series(3, 7000) i",
    );
    // One COPY, cut once in each segment: what was read before is read again and compared.
    let (mut segment, mut closes) = (0, false);
    let cuts = rig.survives(
        "reader: cut within a filtered table",
        move |session, event| {
            let Event::Rows(sql, _) = event else { return None };
            if session.application != READER || !sql.contains("NOT builtin") || !in_segment(segment)(event) {
                return None;
            }
            (segment, closes) = (segment + 1, !closes);
            Some(if closes { Fault::Close } else { Fault::Reset })
        },
        &[],
    );
    assert!(cuts >= 4, "{cuts} cuts");
}

const SOME_ROWS: &str = "
CREATE TABLE a (id serial PRIMARY KEY, t text); INSERT INTO a (t) SELECT md5(i::text) FROM generate_series(1, 500) i;
CREATE UNLOGGED TABLE large (id int, t text) WITH (fillfactor = 10, autovacuum_enabled = off);
ALTER TABLE large ALTER COLUMN t SET STORAGE PLAIN;
INSERT INTO large SELECT i, repeat(md5(i::text), 75) FROM generate_series(1, 6200) i;
SELECT lo_from_bytea(0, convert_to(repeat('large object ', i * 1000), 'UTF8')) FROM generate_series(1, 5) i;
SELECT lo_from_bytea(0, convert_to(repeat('largest object ', 200000), 'UTF8'))";

fn asks(session: &Session, application: &str, event: Event<'_>, words: &str) -> bool {
    session.application.starts_with(application) && matches!(event, Event::Asks(sql) if sql.contains(words))
}

#[test]
fn a_leader_that_is_lost_ends_the_run_and_nothing_is_promoted() {
    let mut rig = Rig::new("pg leader", SOME_ROWS);
    for words in [
        "SET application_name",
        "information_schema",
        "pg_try_advisory_lock",
        "LOCK TABLE",
        "pg_export_snapshot",
        "pg_extension",
    ] {
        for fault in [Fault::Reset, Fault::Close, Fault::ResetAfter(20)] {
            let mut left = 1;
            let ended = rig.fails(
                "leader: lost",
                move |session, event| {
                    (asks(session, LEADER, event, words) && left > 0).then(|| {
                        left -= 1;
                        fault
                    })
                },
                &[],
            );
            assert!(!ended.err.contains(pg::PASSWORD), "{ended:?}");
        }
    }
    let once = |at: At| {
        let mut left = 1;
        move |session: &Session, event: Event<'_>| {
            (at(session, event) && left > 0).then(|| {
                left -= 1;
                Fault::ResetOf(LEADER)
            })
        }
    };
    // While others read.
    let moments: [At; 2] = [
        |session, event| asks(session, READER, event, "SET TRANSACTION SNAPSHOT"),
        |_, event| matches!(event, Event::Rows(sql, 3_000_000..) if sql.contains("large")),
    ];
    for at in moments {
        let ended = rig.fails("leader: lost", once(at), &[]);
        assert!(ended.err.contains("leader") || ended.err.contains("snapshot"), "{ended:?}");
    }
    // Before any row is read pg_dump may be the first to tell that the snapshot is gone: then all of it is begun anew,
    // under another snapshot.
    let at: At = |session, event| asks(session, TOOL, event, "SET TRANSACTION SNAPSHOT");
    let (outcome, ended, log) = rig.run("leader: lost", once(at), &[]);
    let begun_anew = ended.err.contains("starting over (attempt 1)");
    assert_eq!((outcome == Outcome::Survived, ended.code == Some(0)), (begun_anew, begun_anew), "{log:?} {ended:?}");
}

#[test]
fn children_that_are_lost_are_started_again_and_end_the_run_when_always_killed() {
    let mut rig = Rig::new("pg children", SOME_ROWS);
    // A child that is lost once is started again, whatever it was doing.
    for (words, fault) in [
        ("SET TRANSACTION SNAPSHOT", Fault::Reset),
        ("pg_catalog.pg_class", Fault::ResetAfter(3000)),
        ("LOCK TABLE", Fault::Close),
        ("pg_authid", Fault::Reset),
        ("pg_auth_members", Fault::ResetAfter(100)),
    ] {
        let mut left = 1;
        rig.survives(
            "pg_dump, pg_dumpall: lost",
            move |session, event| {
                (asks(session, TOOL, event, words) && left > 0).then(|| {
                    left -= 1;
                    fault
                })
            },
            &[],
        );
    }
    // One that is killed each time ends the run.
    for (tool, script) in [
        ("pg_dump", "\"$real\" \"$@\" | head -c 3000; kill -KILL $$"),
        ("pg_dump", "kill -KILL $$"),
        ("pg_dumpall", "\"$real\" \"$@\" | head -c 300; kill -KILL $$"),
        ("pg_dumpall", "\"$real\" \"$@\"; kill -TERM $$"),
    ] {
        let bin = tools_with(rig.cluster, tool, script);
        let ended = rig.fails_by_tools(bin.path());
        assert!(ended.err.contains(tool), "{ended:?}");
    }
}

/// The client programs of a cluster, one of them replaced by a script that knows the real one as `$real`. All are
/// scripts: a link would lead the program to where the real ones are.
fn tools_with(cluster: &Cluster, replaced: &str, script: &str) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    for tool in ["pg_dump", "pg_dumpall", "pg_restore"] {
        let does = if tool == replaced { script } else { "exec \"$real\" \"$@\"" };
        let real = cluster.bin(tool).display().to_string();
        let path = folder.path().join(tool);
        let version = "case \"$*\" in *--version*) exec \"$real\" --version;; esac";
        fs::write(&path, format!("#!/bin/sh\nreal='{real}'\n{version}\n{does}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// The same command, with the programs of this folder.
fn with_tools(command: &Command, bin_dir: &std::path::Path) -> Command {
    let mut other = Command::new(command.get_program());
    let mut is_folder = false;
    for argument in command.get_args() {
        other.arg(if is_folder { bin_dir.as_os_str() } else { argument });
        is_folder = argument == "--pg-bin-dir";
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other.current_dir("/");
    other
}

impl Rig {
    /// A run whose children are not what they should be.
    #[track_caller]
    fn fails_by_tools(&mut self, bin_dir: &std::path::Path) -> Ended {
        self.runs += 1;
        let prefix = format!("p{}", self.runs);
        self.fixture.copy("calm", &prefix);
        let before = self.fixture.kept(&prefix);
        let ended = Going::start(&mut with_tools(&self.backup(&prefix), bin_dir)).end();
        tally::injected("pg_dump, pg_dumpall: killed", 1);
        let outcome = self.fixture.judge(&prefix, &before, &self.calm, &ended);
        tally::ended(*outcome.as_ref().unwrap_or(&Outcome::Lost), "pg_dump, pg_dumpall: killed");
        assert_eq!(outcome, Ok(Outcome::Failed), "{ended:?}");
        ended
    }
}

#[test]
fn a_slow_network_changes_nothing() {
    let mut rig = Rig::new("pg latency", SOME_ROWS);
    let slow =
        |_: &Session, event: Event<'_>| (event == Event::Begins).then_some(Fault::Latency(Duration::from_millis(5)));
    assert!(rig.survives("latency", slow, &[]) >= 6);
}

#[test]
fn the_connection_that_reads_large_objects_is_made_again() {
    let mut rig = Rig::new("pg blobs", SOME_ROWS);
    let mut left = 2;
    let cuts = rig.survives(
        "reader: cut within large objects",
        move |session, event| {
            (asks(session, READER, event, "lo_get") && left > 0).then(|| {
                left -= 1;
                Fault::ResetAfter(100_000)
            })
        },
        &[],
    );
    assert_eq!(cuts, 2);
}

#[test]
fn readers_that_cannot_connect_again_end_the_run_in_time() {
    let mut rig = Rig::new("pg unreachable", SOME_ROWS);
    let begun = Instant::now();
    let mut gone = false;
    let ended = rig.fails(
        "reader: cannot connect",
        move |session, event| {
            gone |= matches!(event, Event::Rows(sql, 1_000_000..) if sql.contains("large"));
            (gone && session.application == READER).then_some(Fault::Reset)
        },
        &[],
    );
    assert!(ended.err.contains("reader") || ended.err.contains("reading"), "{ended:?}");
    assert!(begun.elapsed() < Duration::from_mins(1));
}

#[test]
fn a_server_that_restarts_in_the_middle_ends_the_run_and_the_next_one_works() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start(*pg::versions().last().unwrap())));
    cluster.create_database("app");
    cluster.psql("app", SOME_ROWS);
    let mut rig = Rig::over(cluster, "app");
    for mode in ["fast", "immediate"] {
        let mut left = 1;
        let ended = rig.fails(
            "server: restarted",
            move |_, event| {
                let now = matches!(event, Event::Rows(sql, 1_000_000..) if sql.contains("large")) && left > 0;
                now.then(|| {
                    left -= 1;
                    cluster.restart(mode);
                    // What was read last was read before the restart.
                    Fault::Latency(Duration::ZERO)
                })
            },
            &[],
        );
        assert!(
            ["lost", "terminat", "closed", "shut", "ended"].iter().any(|word| ended.err.contains(word)),
            "{ended:?}"
        );
        // UNLOGGED rows do not survive a crash.
        cluster.psql(
            "app",
            "TRUNCATE large; INSERT INTO large SELECT i, repeat(md5(i::text), 75) FROM generate_series(1, 6200) i",
        );
    }
    rig.survives(
        "latency",
        |_, event| (event == Event::Begins).then_some(Fault::Latency(Duration::from_millis(1))),
        &[],
    );
}

#[test]
fn a_reader_that_is_stalled_without_end_is_found_out() {
    let mut rig = Rig::new("pg stall", SOME_ROWS);
    let moments: [At; 3] = [
        |session, event| {
            session.application == READER && matches!(event, Event::Rows(sql, 1_000_000..) if sql.contains("large"))
        },
        |session, event| asks(session, READER, event, "SET TRANSACTION SNAPSHOT"),
        |session, event| session.application == READER && matches!(event, Event::Copied(_)),
    ];
    for at in moments {
        let mut left = 1;
        rig.survives(
            "reader: stalled",
            move |session, event| {
                (at(session, event) && left > 0).then(|| {
                    left -= 1;
                    Fault::Stall
                })
            },
            &["--stall-timeout", "1s"],
        );
    }
    // Silence alone is no stall: the server is at work.
    rig.cluster.install_extension(&pg::fixture("ext"));
    rig.cluster.psql(
        rig.database,
        "CREATE EXTENSION pgstow_probe; UPDATE pg_extension SET extcondition = ARRAY['WHERE pg_sleep(1) IS NOT NULL', ''] WHERE extname = 'pgstow_probe'",
    );
    let mut quiet = rig.backup("quiet");
    let ended = Going::start(quiet.args(["--stall-timeout", "100ms", "--log", "pgstow=debug"])).end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.contains("is silent, but at work") && !ended.err.contains("connecting again"), "{ended:?}");
}

#[test]
fn a_reader_lost_while_a_migration_waits_leaves_the_rest_to_the_leader() {
    let mut rig = Rig::new("pg migration", SOME_ROWS);
    let (cluster, name) = (rig.cluster, rig.database);
    let (mut migration, mut observer) = (Talk::open(cluster, name), Talk::open(cluster, name));
    let pid = migration.pid();
    let waits = format!("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid}");
    let talks = Arc::new(Mutex::new(migration));
    let (shared, mut left) = (Arc::clone(&talks), 1);
    rig.survives(
        "reader: closed",
        move |session, event| {
            // Beyond the first segment: that one was sent already, and is not to be sent again.
            let hit = session.application == READER && in_segment(1)(event) && left > 0;
            hit.then(|| {
                left -= 1;
                shared.lock().unwrap().send("ALTER TABLE large ADD COLUMN late int DEFAULT 3");
                observer.until(&waits);
                Fault::Close
            })
        },
        &[],
    );
    talks.lock().unwrap().wait();
    assert_eq!(cluster.psql(name, "SELECT max(late) FROM large"), "3", "the migration got its turn");
}
