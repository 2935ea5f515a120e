//! SIGINT and SIGTERM at moments drawn over a command's whole time: it ends within five seconds, says so by its exit code
//! and one line, and leaves nothing open and nothing half done.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use pgstow::seal::hash::sha256;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::race::{Moments, assert_whole, copy_of, newest};
use crate::support::bucket::Bucket;
use crate::support::pg::{self, Cluster};
use crate::support::process::output_with;
use crate::support::program::{Going, Run, drain, expect_code, files, json, story};
use crate::support::session::{PATIENCE, Talk};
use crate::support::tally;

/// Longest time from the signal to the end.
const PROMPT: Duration = Duration::from_secs(5);
/// Moments for each signal.
const MOMENTS: u32 = 6;
/// Runs that are there to be pruned.
const OLD: u32 = 40;

/// A store with one run of a database, and a session that sees who is connected.
struct Scene {
    cluster: &'static Cluster,
    name: &'static str,
    bucket: Bucket,
    store: PathBuf,
    observer: Talk,
    /// Where the program puts its temporary files.
    temporary: TempDir,
}

impl Scene {
    /// The database has so many rows of about a kilobyte in each of two tables.
    fn new(name: &'static str, rows: u32) -> Self {
        let cluster = pg::shared(newest());
        cluster.create_database(name);
        cluster.psql(
            name,
            &format!(
                "CREATE TABLE t (id int PRIMARY KEY, t text);
                 INSERT INTO t SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, {rows}) i;
                 CREATE TABLE u AS SELECT * FROM t; CREATE INDEX ON u (t, id); CREATE TABLE v (id int REFERENCES t);
                 INSERT INTO v SELECT id FROM t; SELECT lo_from_bytea(0, 'x')"
            ),
        );
        let bucket = Bucket::start();
        let store = bucket.path("pre");
        let (observer, temporary) = (Talk::open(cluster, "postgres"), tempfile::tempdir().unwrap());
        let scene = Self { cluster, name, bucket, store, observer, temporary };
        expect_code(&mut scene.backup(), 0);
        scene
    }

    /// Two parts and more in each form.
    fn backup(&self) -> Command {
        let mut command = self.bucket.backup(self.cluster, self.name, "pre");
        command.args(["--compression", "none", "--s3-part-size-mib", "5"]);
        command
    }

    fn on_server(&self, words: &[&str]) -> Command {
        let mut command = self.bucket.command("pre", words);
        command.arg("--pg-bin-dir").arg(self.cluster.bin_dir());
        command
    }

    /// Waits until nobody is connected to that database: a server notices on its own that a client is gone.
    fn left(&mut self, database: &str) {
        self.observer.until(&format!("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = '{database}'"));
    }

    fn receipts(&self) -> usize {
        files(&self.store.join("receipts")).len()
    }

    /// Measures the command, then sends each signal at drawn moments; after each end `check` is told whether the command
    /// ended as if there had been no signal.
    fn try_signals(
        &mut self,
        seed: u64,
        mut before: impl FnMut(&mut Self),
        command: impl Fn(&Self) -> Command,
        mut check: impl FnMut(&mut Self, bool, &str),
    ) {
        // The first one takes longer than those that follow it.
        let mut whole = Duration::MAX;
        for _ in 0..3 {
            before(self);
            let begun = Instant::now();
            expect_code(&mut command(self), 0);
            whole = whole.min(begun.elapsed());
            check(self, true, "without a signal");
        }
        let (mut moments, mut interrupted) = (Moments(seed), 0);
        for signal in [Signal::INT, Signal::TERM] {
            for turn in 0..MOMENTS {
                before(self);
                // Drawn within each sixth of the time, so that no part of the work is left out.
                let after = whole.mul_f64((f64::from(turn) + moments.next()) / f64::from(MOMENTS));
                let what = format!("signal {} after {after:?} of {whole:?}", signal.as_raw());
                let ended = interrupt(command(self).env("TMPDIR", self.temporary.path()), after, signal);
                let finished = ended.judge(signal, &what);
                interrupted += u32::from(!finished);
                tally::injected("signal", 1);
                tally::ended(if finished { tally::Outcome::Survived } else { tally::Outcome::Failed }, "signal");
                assert_eq!(self.bucket.uploads("pre"), [""; 0], "{what}: uploads are open\n{}", ended.err);
                assert_eq!(files(self.temporary.path()), Vec::<String>::new(), "{what}\n{}", ended.err);
                check(self, finished, &format!("{what}: {:?}\n{}", ended.status, ended.err));
            }
        }
        assert!(interrupted >= MOMENTS / 2, "only {interrupted} were interrupted in {whole:?}");
    }

    fn end(self) {
        drop(self.observer);
        self.cluster.drop_database(self.name);
    }
}

/// How a command ended that was sent a signal.
struct Ended {
    status: ExitStatus,
    out: String,
    err: String,
    took: Duration,
}

/// Starts it, sends the signal after that time unless it has ended, and waits for its end.
fn interrupt(command: &mut Command, after: Duration, signal: Signal) -> Ended {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (out, err) = (drain(child.stdout.take().unwrap()), drain(child.stderr.take().unwrap()));
    // Not waiting for anything: the moment is what is drawn.
    std::thread::sleep(after);
    let sent = Instant::now();
    if child.try_wait().unwrap().is_none() {
        kill_process(Pid::from_child(&child), signal).unwrap();
    }
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if sent.elapsed() > PATIENCE {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let took = sent.elapsed();
    Ended { status, out: out.join().unwrap(), err: err.join().unwrap(), took }
}

impl Ended {
    /// Whether it ended as if there had been no signal; else it must have said by code and one line that there was.
    #[track_caller]
    fn judge(&self, signal: Signal, what: &str) -> bool {
        let story = format!("{what}: {} after {:?}\n{}\n{}", self.status, self.took, self.err, self.out);
        assert!(self.took < PROMPT, "{story}");
        assert!(!self.err.contains("panicked"), "{story}");
        let errors: Vec<&str> = self.err.lines().filter(|line| line.starts_with("error: ")).collect();
        if self.status.success() {
            assert_eq!(errors, Vec::<&str>::new(), "{story}");
            return true;
        }
        if self.status.signal() == Some(signal.as_raw()) {
            // Before the program had begun to work: nothing was said, nothing can have been done.
            assert_eq!((self.err.as_str(), self.out.as_str()), ("", ""), "{story}");
            return false;
        }
        let words = if signal == Signal::INT { "interrupted" } else { "terminated by SIGTERM" };
        assert_eq!(self.status.code(), Some(128 + signal.as_raw()), "{story}");
        assert!(matches!(errors.as_slice(), [one] if one.contains(words)), "{story}");
        false
    }
}

fn latest(store: &Path) -> String {
    json(&store.join("latest.json"))["run"].as_str().unwrap().to_owned()
}

/// Runs that have a manifest.
fn finished(store: &Path) -> BTreeSet<String> {
    let all = files(&store.join("runs"));
    all.iter().filter_map(|file| file.strip_suffix("/manifest.json").map(str::to_owned)).collect()
}

#[test]
pub(crate) fn a_backup_that_is_told_to_stop_aborts_its_uploads_and_promotes_nothing() {
    let mut scene = Scene::new("signals backup", 8000);
    let (mut sound, mut runs) = (latest(&scene.store), finished(&scene.store));
    scene.try_signals(
        20_261_101,
        |scene| scene.left("signals backup"),
        Scene::backup,
        |scene, done, what| {
            let (now, there) = (latest(&scene.store), finished(&scene.store));
            assert_eq!(now != sound, done, "{what}: {sound} became {now}");
            assert_eq!(there.len(), runs.len() + usize::from(done), "{what}");
            if done {
                assert_eq!(assert_whole(&scene.store), now, "{what}");
            }
            (sound, runs) = (now, there);
        },
    );
    assert_eq!(files(&scene.store.join("claims")), Vec::<String>::new());
    expect_code(&mut scene.bucket.command("pre", &["verify"]), 0);
    scene.end();
}

#[test]
pub(crate) fn a_verification_that_is_told_to_stop_has_no_verdict_and_changes_nothing() {
    let mut scene = Scene::new("signals verify", 8000);
    let (store, before) = (scene.store.clone(), files(&scene.store.join("runs")));
    let mut receipts = scene.receipts();
    scene.try_signals(
        20_261_102,
        |_| {},
        |scene| scene.bucket.command("pre", &["verify"]),
        |scene, done, what| {
            assert_eq!(files(&store.join("runs")), before, "{what}");
            assert!(done || scene.receipts() == receipts, "{what}");
            receipts = scene.receipts();
        },
    );
    assert_whole(&store);
    scene.end();
}

#[test]
pub(crate) fn a_restore_that_is_told_to_stop_lets_go_of_the_target_which_takes_the_next() {
    let mut scene = Scene::new("signals restore", 4000);
    let target = "signals target";
    let url = scene.cluster.url(target);
    let fresh = |scene: &mut Scene| {
        // Not forced: nobody of the restore is there any more.
        scene.left(target);
        scene.observer.run(&format!("DROP DATABASE IF EXISTS {}", pg::quote(target)));
        scene.observer.run(&format!("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'", pg::quote(target)));
    };
    let command = |scene: &Scene| scene.on_server(&["restore", "--to", &url]);
    let counted =
        "SELECT (SELECT count(*) FROM t) || ' ' || (SELECT count(*) FROM u) || ' ' || (SELECT count(*) FROM v)";
    let mut turn = 0;
    scene.try_signals(20_261_103, fresh, command, |scene, done, what| {
        if done {
            assert_eq!(scene.cluster.psql(target, counted), "4000 4000 4000", "{what}");
        }
        turn += 1;
        if !done && turn % 4 == 0 {
            // The same again: it removes by itself what the unfinished one has left. One that had only to say so is
            // told that the target is not empty.
            let again = output_with(&mut command(scene), b"");
            assert!(matches!(again.status.code(), Some(0 | 2)), "{what}\n{}", story(&again));
            assert_eq!(scene.cluster.psql(target, counted), "4000 4000 4000", "{what}");
        }
    });
    scene.cluster.drop_database(target);
    scene.end();
}

#[test]
pub(crate) fn a_drill_that_is_told_to_stop_leaves_no_database_and_no_receipt() {
    let mut scene = Scene::new("signals drill", 4000);
    let scratch = "signals scratch";
    let url = scene.cluster.url("postgres");
    let mut receipts = scene.receipts();
    scene.try_signals(
        20_261_104,
        |_| {},
        |scene| scene.on_server(&["drill", "--on", &url, "--scratch-name", scratch]),
        |scene, done, what| {
            let left = scene.observer.run(&format!("SELECT count(*) FROM pg_database WHERE datname = '{scratch}'"));
            assert_eq!(left, "0", "{what}: the scratch database is left");
            assert_eq!(scene.receipts(), receipts + usize::from(done), "{what}");
            receipts = scene.receipts();
        },
    );
    // While the server creates it: held there, the server would go on without the drill.
    for signal in ["INT", "TERM"] {
        let mut holder = Talk::open(scene.cluster, "postgres");
        holder.run("BEGIN; LOCK TABLE pg_catalog.pg_database IN SHARE MODE");
        let going = Going::start(&mut scene.on_server(&["drill", "--on", &url, "--scratch-name", scratch]));
        let creates = format!("wait_event_type = 'Lock' AND query LIKE 'CREATE DATABASE \"{scratch}\"%'");
        scene
            .observer
            .until(&format!("SELECT count(*) = 1 FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND {creates}"));
        going.signal(signal);
        holder.run("ROLLBACK");
        going.expect_code(if signal == "INT" { 130 } else { 143 });
        let gone =
            format!("SELECT count(*) = 0 FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE \"{scratch}\"%'");
        scene.observer.until(&gone.replace(" WHERE ", " WHERE pid <> pg_backend_pid() AND "));
        let left = scene.observer.run(&format!("SELECT count(*) FROM pg_database WHERE datname = '{scratch}'"));
        assert_eq!(left, "0", "the scratch database came after the drill had ended");
    }
    scene.end();
}

#[test]
pub(crate) fn a_prune_that_is_told_to_stop_leaves_every_listed_run_whole() {
    let mut scene = Scene::new("signals prune", 100);
    let (real, store) = (Run::latest(&scene.store), scene.store.clone());
    let mut partly = 0;
    scene.try_signals(
        20_261_105,
        |_| {
            for number in 0..OLD {
                copy_of(&real, number);
            }
        },
        |scene| scene.bucket.command("pre", &["prune", "--keep-last", "1", "--incomplete-older-than", "0s"]),
        |_, done, what| {
            let listed = finished(&store).into_iter().filter(|run| still_whole(&store, run, what)).count();
            assert!(!done || listed == 1, "{what}: {listed}");
            assert_eq!(assert_whole(&store), real.name, "{what}");
            partly += usize::from(listed > 1 && listed <= OLD as usize);
        },
    );
    assert!(partly > 0, "no prune was interrupted in its middle");
    let listed = finished(&store);
    for run in listed.iter().take(2) {
        expect_code(&mut scene.bucket.command("pre", &["verify", run]), 0);
    }
    let prune = ["prune", "--keep-last", "1", "--incomplete-older-than", "0s"];
    expect_code(&mut scene.bucket.command("pre", &prune), 0);
    let rest: Vec<String> = files(&store.join("runs"));
    assert!(rest.iter().all(|file| file.starts_with(&real.name)), "{rest:?}");
    scene.end();
}

/// False for a run whose manifest has gone meanwhile: the server ends the deletion that the signal came into. All that a
/// manifest names must be there.
#[track_caller]
fn still_whole(store: &Path, run: &str, what: &str) -> bool {
    let folder = store.join("runs").join(run);
    let Ok(text) = fs::read(folder.join("manifest.json")) else { return false };
    let manifest: Value = serde_json::from_slice(&text).unwrap();
    let run = Run { store: store.to_owned(), folder: folder.clone(), name: run.to_owned(), manifest };
    let objects = run.objects();
    assert!(objects.len() > 5, "{what}");
    for (key, object) in objects {
        let bytes = fs::read(folder.join(&key)).unwrap_or_else(|error| panic!("{what}: {key}: {error}"));
        assert_eq!(object["sha256"], sha256(&bytes), "{what}: {key}");
    }
    true
}
