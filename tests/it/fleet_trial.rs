//! A fleet tried at full size: hundreds of databases on one real server, tasks as processes that are killed at random and
//! started again, and nights in which databases come and go. To be run alone, for minutes:
//! `cargo test --test it fleet_trial -- --ignored --nocapture`; the suite has the small sizes.
//!
//! The judges: the stores (complete runs of each database), a session of the server that counts, every few milliseconds,
//! the databases being read, and `pg_stat_activity` when all is over.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

use super::support::pg::{self, Cluster};
use super::support::process::succeed;
use super::support::program::{Going, expect_code, json, pgstow};

/// Databases that are made of a template with two small tables; most are gone before anybody waits for a disk.
struct Fleet {
    cluster: Cluster,
    folder: tempfile::TempDir,
}

impl Fleet {
    fn start(limit: u16, more: &str) -> Self {
        let cluster = Cluster::start_with(pg::packaged(), &[("max_connections", "200"), ("fsync", "off")]);
        cluster.create_database("model");
        let sql = "CREATE TABLE t AS SELECT n, repeat('x', 300) AS x FROM generate_series(1, 1000) n; \
                   CREATE TABLE u (id int PRIMARY KEY, at timestamptz DEFAULT now()); INSERT INTO u VALUES (1), (2)";
        cluster.psql("model", sql);
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "[defaults]\nstore = \"{}/{{database}}\"\njobs = 1\n{more}\n[[server]]\nname = \"s\"\nurl = {{ env = \"SERVER_URL\" }}\n\
             all-databases = true\nexclude = [\"postgres\", \"model\"]\nper-server = {limit}\n",
            folder.path().join("stores").display()
        );
        fs::write(folder.path().join("pgstow.toml"), text).unwrap();
        Self { cluster, folder }
    }

    fn create(&self, names: &[String]) {
        let sql: Vec<String> =
            names.iter().map(|name| format!("CREATE DATABASE \"{name}\" TEMPLATE model;\n")).collect();
        self.cluster.psql("postgres", &sql.concat());
    }

    fn store(&self, database: &str) -> PathBuf {
        self.folder.path().join("stores").join(database)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = pgstow();
        command
            .args(words)
            .current_dir(self.folder.path())
            .env("PGSTOW_CONFIG", self.folder.path().join("pgstow.toml"));
        command.env("SERVER_URL", self.cluster.url("postgres")).env("PGSTOW_PG_BIN_DIR", self.cluster.bin_dir());
        command
    }

    /// A task of a Kubernetes Indexed Job, as the leader of a process group.
    fn task(&self, index: usize, count: usize) -> Going {
        let mut command = self.command(&["run", "--task", "auto", "--at-once", "2"]);
        command.env("JOB_COMPLETION_INDEX", index.to_string()).env("JOB_COMPLETIONS", count.to_string());
        command.env("HOSTNAME", format!("nightly-1-{index}")).process_group(0);
        Going::start(&mut command)
    }
}

/// Complete runs of a store, oldest first.
fn runs(store: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(store.join("runs")) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|run| run.join("manifest.json").exists())
        .map(|run| run.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// Counts in the server itself how many databases are read at the same time.
struct Watch {
    going: Going,
}

impl Watch {
    fn start(cluster: &Cluster) -> Self {
        cluster.psql(
            "postgres",
            "CREATE TABLE stop (); CREATE TABLE most (n int); INSERT INTO most VALUES (0);
             CREATE PROCEDURE watch() LANGUAGE plpgsql AS $$
             DECLARE now int; top int := 0; BEGIN
             WHILE NOT EXISTS (SELECT FROM pg_class WHERE relname = 'stopped') LOOP
               PERFORM pg_stat_clear_snapshot();
               SELECT count(DISTINCT datname) INTO now FROM pg_stat_activity WHERE application_name LIKE 'pgstow leader%';
               IF now > top THEN top := now; UPDATE most SET n = top; END IF;
               COMMIT;
               PERFORM pg_sleep(0.005);
             END LOOP; END $$",
        );
        let mut command = cluster.command("psql");
        command.args(["-X", "-d", &cluster.url("postgres"), "-c", "CALL watch()"]);
        Self { going: Going::start(&mut command) }
    }

    /// The most that were read at the same time.
    fn end(self, cluster: &Cluster) -> usize {
        cluster.psql("postgres", "CREATE TABLE stopped ()");
        self.going.expect_code(0);
        cluster.psql("postgres", "SELECT n FROM most").parse().unwrap()
    }
}

/// All databases by so many tasks; each kill takes a random task, which is started again. Returns the time it took.
fn night_of_kills(count: usize, tasks: usize, limit: u16, kills: usize, pause: Duration, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let fleet = Fleet::start(limit, "");
    let databases: Vec<String> = (0..count).map(|number| format!("customer_{number}")).collect();
    fleet.create(&databases);
    let watch = Watch::start(&fleet.cluster);
    let (begun, mut killed) = (Instant::now(), BTreeMap::new());
    let mut going: Vec<Going> = (0..tasks).map(|index| fleet.task(index, tasks)).collect();
    let mut next = Instant::now() + pause;
    while going.iter_mut().any(Going::runs) {
        assert!(begun.elapsed() < Duration::from_mins(40), "the tasks do not end; {killed:?}");
        std::thread::sleep(Duration::from_millis(20));
        if Instant::now() < next || killed.values().sum::<usize>() >= kills {
            continue;
        }
        next = Instant::now() + pause.mul_f64(random.random_range(0.3..1.7));
        let index = random.random_range(0..tasks);
        if !going[index].runs() {
            continue;
        }
        // The task alone, as an engine does that runs out of memory; the task with all its steps, as a node that is lost;
        // and politely.
        let how = ["KILL", "KILL all", "TERM"][random.random_range(0..3)];
        *killed.entry(how).or_insert(0) += 1;
        if how == "KILL all" {
            succeed(Command::new("kill").args(["-KILL", "--"]).arg(format!("-{}", going[index].pid())));
        } else {
            going[index].signal(how);
        }
        if how == "TERM" {
            while going[index].runs() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        drop(std::mem::replace(&mut going[index], fleet.task(index, tasks)));
    }
    let ends: Vec<_> = going.into_iter().map(Going::end).collect();
    for (index, end) in ends.iter().enumerate() {
        assert_eq!(end.code, Some(0), "task {index}\n{}\n{}", end.out, end.err);
    }
    let most = watch.end(&fleet.cluster);
    println!("{count} databases, {tasks} tasks, {killed:?}: {:?}, at most {most} at once", begun.elapsed());
    assert_eq!(killed.values().sum::<usize>(), kills, "the night was over too early for the kills");
    assert!((1..=usize::from(limit)).contains(&most), "{most} backups of one server at the same time");
    let counts: BTreeMap<&String, usize> =
        databases.iter().map(|name| (name, runs(&fleet.store(name)).len())).collect();
    let wrong: Vec<_> = counts.iter().filter(|(_, count)| **count != 1).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    for name in &databases {
        let latest = json(&fleet.store(name).join("latest.json"));
        assert_eq!(latest["run"], runs(&fleet.store(name))[0], "{name}");
    }
    // Nothing of ours is left on the server once the last sessions have ended.
    super::support::session::until("all sessions are gone", || {
        let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgstow%'";
        fleet.cluster.psql("postgres", left) == "0"
    });
    // The same again makes nothing.
    fleet.task(0, tasks).expect_code(0);
    assert!(databases.iter().all(|name| runs(&fleet.store(name)).len() == 1));
}

/// Nights in which databases are made, dropped and renamed; three tasks share each. Retention keeps three runs.
fn nights(count: usize, nights: usize, seed: u64) {
    const KEPT: usize = 3;
    let mut random = StdRng::seed_from_u64(seed);
    let fleet = Fleet::start(4, &format!("verify = true\nprune = {{ keep-last = {KEPT} }}"));
    let mut there: BTreeSet<String> = (0..count).map(|number| format!("db_{number}")).collect();
    fleet.create(&there.iter().cloned().collect::<Vec<_>>());
    let mut made: BTreeMap<String, usize> = BTreeMap::new();
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for night in 0..nights {
        if night > 0 {
            for number in 0..random.random_range(1..4) {
                let name = format!("new_{night}_{number}");
                fleet.create(std::slice::from_ref(&name));
                there.insert(name);
            }
            for _ in 0..random.random_range(1..4) {
                let gone = there.iter().nth(random.random_range(0..there.len())).unwrap().clone();
                fleet.cluster.drop_database(&gone);
                there.remove(&gone);
            }
            let old = there.iter().nth(random.random_range(0..there.len())).unwrap().clone();
            let new = format!("{old} renamed");
            fleet.cluster.psql("postgres", &format!("ALTER DATABASE \"{old}\" RENAME TO \"{new}\""));
            there.remove(&old);
            there.insert(new);
        }
        let round = format!("night-{night}");
        let tasks: Vec<Going> = (1..=3)
            .map(|task| {
                let task = format!("{task}/3");
                let words = ["run", "--json", "--at-once", "2", "--task", &task, "--round", &round];
                Going::start(&mut fleet.command(&words))
            })
            .collect();
        let mut seen = BTreeSet::new();
        for (task, going) in tasks.into_iter().enumerate() {
            let (out, err) = going.expect_code(0);
            let document: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"));
            for one in document["databases"].as_array().unwrap() {
                let name = one["name"].as_str().unwrap().strip_prefix("s/").unwrap().to_owned();
                assert_eq!(one["outcome"], "done", "{one}");
                assert_eq!(*shares.entry(name.clone()).or_insert(task), task, "{name} went to another task");
                assert!(seen.insert(name.clone()), "{name} was done twice");
                *made.entry(name).or_insert(0) += 1;
            }
        }
        assert_eq!(seen, there, "night {night}");
        for (name, made) in &made {
            let store = fleet.store(&name.replace(' ', "=20"));
            assert_eq!(runs(&store).len(), (*made).min(KEPT), "{name} after night {night}");
            assert_eq!(json(&store.join("latest.json"))["run"], *runs(&store).last().unwrap(), "{name}");
        }
    }
    // A database that is gone is no failure of status; its runs stay until somebody deletes them.
    let gone = made.keys().filter(|name| !there.contains(*name)).count();
    let (out, _) = expect_code(&mut fleet.command(&["status"]), 0);
    assert_eq!(out.lines().skip(1).filter(|line| line.contains(" ok ")).count(), there.len(), "{out}");
    println!("{nights} nights: {} databases at the end, {gone} went, all in their shares", there.len());
    assert!(gone > 0);
}

#[test]
#[ignore = "minutes, to be run alone: cargo test --test it fleet_trial -- --ignored --test-threads 1 --nocapture"]
fn two_hundred_databases_by_eight_tasks_that_are_killed_at_random() {
    let seed = std::env::var("PGSTOW_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    night_of_kills(200, 8, 6, 24, Duration::from_secs(2), seed);
}

#[test]
#[ignore = "minutes, to be run alone: cargo test --test it fleet_trial -- --ignored --test-threads 1 --nocapture"]
fn thirty_databases_that_come_and_go_for_ten_nights() {
    let seed = std::env::var("PGSTOW_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    nights(30, 10, seed);
}
