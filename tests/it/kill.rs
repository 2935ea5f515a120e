//! What no program can prepare for: `kill -9` at any moment; and two runs that end at the same moment, in a store that
//! ignores conditions. `latest` must name a whole run at all times, and never an older one than before.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

use crate::support::pg::{self, Cluster};
use crate::support::program::{Going, Run, backup, expect_code};
use crate::support::proxy::{Fault, Proxy};
use crate::support::s3::S3Server;
use crate::support::session::Talk;

/// Kills in all, in how many prefixes at the same time.
const KILLS: usize = 40;
const PREFIXES: usize = 4;
/// Rounds of the race, and the runs that end together in each.
const ROUNDS: usize = 6;
const RACERS: usize = 4;

fn small(cluster: &Cluster, name: &str) {
    cluster.create_database(name);
    cluster.psql(
        name,
        "CREATE TABLE t (id int PRIMARY KEY, t text); INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 500) i;
         CREATE SCHEMA shop; CREATE TABLE shop.orders AS SELECT i AS id FROM generate_series(1, 100) i;
         CREATE TABLE empty (id int); SELECT lo_from_bytea(0, 'x')",
    );
}

/// What `latest` of a prefix names: a run whose manifest is the one that was promised and whose objects are all there,
/// whole. Returns when it finished, and its name.
#[track_caller]
fn whole(store: &Path) -> (String, String) {
    let latest = crate::support::program::json(&store.join("latest.json"));
    let run = Run::latest(store);
    let manifest = fs::read(run.folder.join("manifest.json")).unwrap();
    let sha256: String = Sha256::digest(&manifest).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(latest["sha256"], sha256.as_str(), "{}", store.display());
    let objects = run.objects();
    assert!(objects.len() >= 5, "{objects:?}");
    for (key, object) in objects {
        let stored = fs::metadata(run.folder.join(&key)).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert_eq!(object["bytes"], stored.len(), "{key}");
    }
    (latest["finished_at"].as_str().unwrap().to_owned(), run.name)
}

/// A server, what stands in front of it, and who is to be killed at which request.
struct Victim {
    cluster: &'static Cluster,
    database: &'static str,
    prefix: String,
    folder: PathBuf,
    bucket: String,
    env: Vec<(&'static str, String)>,
    proxy: Proxy,
    pid: Arc<AtomicU32>,
    at: Arc<AtomicUsize>,
    /// Whether the request that kills is carried out.
    carried_out: Arc<Mutex<bool>>,
}

impl Victim {
    fn new(runtime: &Runtime, server: &S3Server, root: &Path, cluster: &'static Cluster, number: usize) -> Self {
        let (pid, at, carried_out) =
            (Arc::new(AtomicU32::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(false)));
        let (victim, left, passes) = (Arc::clone(&pid), Arc::clone(&at), Arc::clone(&carried_out));
        let script = move |_asked: &crate::support::proxy::Asked| {
            // At 0 nobody is to be killed; the request that counts down to it kills.
            let before = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).unwrap_or(0);
            if before != 1 {
                return None;
            }
            kill(victim.load(Ordering::SeqCst));
            if *passes.lock().unwrap() { None } else { Some(Fault::Reset(0)) }
        };
        let proxy = runtime.block_on(Proxy::start(server.port, script));
        let mut env = server.env();
        env.retain(|(name, _)| *name != "AWS_ENDPOINT_URL_S3");
        env.push(("AWS_ENDPOINT_URL_S3", proxy.endpoint.clone()));
        let prefix = format!("pre{number}");
        let folder = root.join(&server.bucket).join(&prefix);
        let (database, bucket) = ("kill 9", server.bucket.clone());
        Self { cluster, database, prefix, folder, bucket, env, proxy, pid, at, carried_out }
    }

    fn backup(&self) -> Command {
        let mut command =
            backup(self.cluster, self.database, Path::new(&format!("s3://{}/{}", self.bucket, self.prefix)));
        command.envs(self.env.clone());
        command
    }

    /// Starts a run that is killed at that request, or after that time; returns whether it was, at last.
    fn kill_one(&self, moment: Moment) -> bool {
        let (request, after) = match moment {
            Moment::Request(number, passes) => {
                *self.carried_out.lock().unwrap() = passes;
                (number, None)
            }
            Moment::After(time) => (0, Some(time)),
        };
        let mut command = self.backup();
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        self.pid.store(child.id(), Ordering::SeqCst);
        self.at.store(request, Ordering::SeqCst);
        if let Some(time) = after {
            // Not to wait for something: the moment itself is what is tried.
            std::thread::sleep(time);
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        self.at.store(0, Ordering::SeqCst);
        assert!(status.code().is_none_or(|code| code == 0), "{moment:?}: ended with {status}");
        status.code().is_none()
    }
}

#[derive(Debug, Clone, Copy)]
enum Moment {
    /// At the request with that number, carried out or not.
    Request(usize, bool),
    /// After that time.
    After(Duration),
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a run has begun");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
}

#[test]
fn after_kill_9_at_any_moment_latest_names_a_whole_run_and_the_next_run_is_not_hindered() {
    let cluster = pg::shared(*pg::versions().last().unwrap());
    small(cluster, "kill 9");
    let root = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(S3Server::start(root.path()));
    let killed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..PREFIXES {
            let victim = Victim::new(&runtime, &server, root.path(), cluster, number);
            let killed = &killed;
            scope.spawn(move || killed.fetch_add(kill_again_and_again(&victim, number as u64), Ordering::SeqCst));
        }
    });
    let killed = killed.into_inner();
    println!("{killed} of {KILLS} runs were killed before their end");
    assert!(killed >= KILLS * 3 / 4, "{killed}");
    cluster.drop_database("kill 9");
}

fn kill_again_and_again(victim: &Victim, seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let from = std::time::Instant::now();
    expect_code(&mut victim.backup(), 0);
    let (took, requests) = (from.elapsed(), victim.proxy.log().len());
    assert!(requests > 10, "{requests}");
    let mut last = whole(&victim.folder);
    let mut killed = 0;
    for turn in 0..KILLS / PREFIXES {
        let moment = match turn % 5 {
            0 => Moment::After(took.mul_f64(random.random_range(0.0..0.9))),
            1 | 2 => Moment::Request(random.random_range(1..=requests), random.random()),
            // The manifest and the pointer are the last ones.
            _ => Moment::Request(requests - random.random_range(0..8), random.random()),
        };
        killed += usize::from(victim.kill_one(moment));
        let now = whole(&victim.folder);
        assert!(now >= last, "{moment:?}: {last:?} became {now:?}");
        last = now;
    }
    // Nobody is in the way any more: the lock of the last killed run goes with its connection.
    let mut observer = Talk::open(victim.cluster, victim.database);
    let ended = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'pgstow leader %' AND datname = current_database() AND backend_start < '";
    let now = observer.run("SELECT clock_timestamp()");
    observer.until(&format!("{ended}{now}'"));
    expect_code(&mut victim.backup(), 0);
    let now = whole(&victim.folder);
    assert!(now > last, "{last:?} became {now:?}");
    killed
}

#[test]
fn runs_that_end_together_never_move_latest_backwards_where_the_store_ignores_conditions() {
    let cluster = pg::shared(*pg::versions().last().unwrap());
    let name = "kill race";
    cluster.create_database(name);
    cluster.psql(name, "CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    let root = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(S3Server::start_without_conditions(root.path()));
    let store = root.path().join(&server.bucket).join("pre");
    // One prefix by several names: what the advisory lock takes for several stores, as a primary and its standby are.
    let names: Vec<Proxy> = (0..RACERS).map(|_| runtime.block_on(Proxy::start(server.port, |_asked| None))).collect();
    let racer = |proxy: &Proxy| {
        let mut command = backup(cluster, name, Path::new(&format!("s3://{}/pre", server.bucket)));
        command.envs(server.env()).env("AWS_ENDPOINT_URL_S3", &proxy.endpoint).args(["--jobs", "1"]);
        command
    };
    let mut last = (String::new(), String::new());
    for round in 0..ROUNDS {
        let going: Vec<Going> = names.iter().map(|proxy| Going::start(&mut racer(proxy))).collect();
        for one in going {
            one.expect_code(0);
        }
        let now = whole(&store);
        assert_eq!(now, newest_manifest(&store), "round {round}: latest is not the run that finished last");
        assert!(now > last, "round {round}: {last:?} became {now:?}");
        last = now;
    }
    let moves: Vec<(String, String)> = server.pointers("pre").iter().map(|held| pointer(held)).collect();
    assert!(moves.len() >= ROUNDS && moves.is_sorted(), "{moves:?}");
    for (_, run) in &moves {
        assert!(store.join("runs").join(run).join("manifest.json").exists(), "{run}");
    }
    cluster.drop_database(name);
}

/// When the run of a pointer finished, and its name.
fn pointer(held: &str) -> (String, String) {
    let latest: serde_json::Value = serde_json::from_str(held).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    (text(&latest["finished_at"]), text(&latest["run"]))
}

/// When the run that finished last finished, and its name.
fn newest_manifest(store: &Path) -> (String, String) {
    let runs = fs::read_dir(store.join("runs")).unwrap().map(|entry| entry.unwrap().path().join("manifest.json"));
    let manifests = runs.filter(|path| path.exists()).map(|path| crate::support::program::json(&path));
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    manifests.map(|manifest| (text(&manifest["finished_at"]), text(&manifest["run"]))).max().unwrap()
}
