//! Many processes at one store: pointers that are moved at the same time, backups that are killed at any moment.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use pgstow::seal::hash::sha256;
use serde_json::Value;

use crate::support::bucket::Bucket;
use crate::support::pg::{self};
use crate::support::process::output_with;
use crate::support::program::{Run, expect_code, files, json, story};
use crate::support::session::Talk;

/// Backups that race, each with so many promotions.
const ROUNDS: u32 = 10;
const PROMOTIONS: u32 = 3;

pub(super) fn newest() -> u32 {
    *pg::versions().last().unwrap()
}

/// The run `number` minutes after the beginning of 2020, a copy of `from` in all but name and time.
pub(super) fn copy_of(from: &Run, number: u32) -> String {
    let (hour, minute) = (number / 60, number % 60);
    let name = format!("20200101T{hour:02}{minute:02}00Z-{number:06x}");
    let to = from.store.join("runs").join(&name);
    for file in files(&from.folder) {
        let path = to.join(&file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(from.folder.join(&file), path).unwrap();
    }
    let mut manifest = from.manifest.clone();
    manifest["run"] = Value::from(name.as_str());
    manifest["started_at"] = Value::from(format!("2020-01-01T{hour:02}:{minute:02}:00.000Z"));
    manifest["finished_at"] = Value::from(format!("2020-01-01T{hour:02}:{minute:02}:30.000Z"));
    fs::write(to.join("manifest.json"), serde_json::to_vec_pretty(&manifest).unwrap()).unwrap();
    name
}

fn start(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

/// A backup that ends while others promote runs of long ago, on a store that stores whatever the condition says. All
/// that the pointer ever was is looked at: it goes forward only, and every time to a run whose manifest is there.
#[test]
fn backups_that_race_with_promotions_move_latest_forward_only() {
    let name = "race pointer";
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    cluster.psql(name, "CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    let bucket = Bucket::start_without_conditions();
    expect_code(&mut bucket.backup(cluster, name, "pre"), 0);
    let store = bucket.path("pre");
    let real = Run::latest(&store);
    let old: Vec<String> = (0..ROUNDS * PROMOTIONS).map(|number| copy_of(&real, number)).collect();
    // From the beginning: as if there had never been a pointer.
    fs::remove_file(store.join("latest.json")).unwrap();
    let begun = bucket.server.pointers("pre").len();
    let mut first_ones = 0;
    for olds in old.chunks(PROMOTIONS as usize) {
        let backup = start(bucket.backup(cluster, name, "pre"));
        let promotions: Vec<Child> = olds.iter().map(|run| start(bucket.command("pre", &["promote", run]))).collect();
        for promotion in promotions.into_iter().map(end) {
            // Refused for being older (2), or overtaken (1).
            assert!(matches!(promotion.status.code(), Some(0..=2)), "{}", story(&promotion));
            first_ones += u32::from(promotion.status.success());
        }
        let backup = end(backup);
        assert!(backup.status.success(), "{}", story(&backup));
        let latest = Run::latest(&store).name;
        assert!(String::from_utf8_lossy(&backup.stdout).contains(&latest), "{latest}: {}", story(&backup));
        // The next round begins before all runs again.
        fs::remove_file(store.join("latest.json")).unwrap();
    }
    let history = bucket.server.pointers("pre");
    let moves: Vec<Value> = history.iter().skip(begun).map(|text| serde_json::from_str(text).unwrap()).collect();
    let (mut rounds, mut last) = (0, String::new());
    for pointer in &moves {
        let run = pointer["run"].as_str().unwrap();
        let bytes = fs::read(store.join("runs").join(run).join("manifest.json")).unwrap();
        assert_eq!(pointer["sha256"], sha256(&bytes), "{run}");
        let finished = pointer["finished_at"].as_str().unwrap();
        assert!(finished > last.as_str(), "{finished} came after {last}");
        let ends_round = !finished.starts_with("2020");
        rounds += u32::from(ends_round);
        last = if ends_round { String::new() } else { finished.to_owned() };
    }
    assert_eq!((rounds, last.as_str()), (ROUNDS, ""));
    assert!(first_ones > 0 && moves.len() > ROUNDS as usize, "no promotion ever came first: no race");
    assert_eq!(files(&store.join("claims")), Vec::<String>::new());
    cluster.drop_database(name);
}

/// A generator of the numerical recipes' kind: the same moments each time.
pub(super) struct Moments(pub(super) u64);

impl Moments {
    /// From 0 to 1.
    pub(super) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.0 >> 40).unwrap()) / f64::from(1_u32 << 24)
    }
}

/// Sizes and sums of everything the manifest names, read from the folder behind the server.
#[track_caller]
pub(super) fn assert_whole(store: &Path) -> String {
    // Read once: a server may still be ending what a killed client began.
    let pointer = json(&store.join("latest.json"));
    let run = Run::named(store, pointer["run"].as_str().unwrap());
    assert_eq!(pointer["sha256"], sha256(&fs::read(run.folder.join("manifest.json")).unwrap()));
    assert_eq!(run.manifest["status"], "complete");
    let objects = run.objects();
    assert!(objects.len() > 5);
    for (key, object) in objects {
        let bytes = fs::read(run.folder.join(&key)).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert_eq!(
            (object["bytes"].as_u64(), object["sha256"].as_str()),
            (Some(bytes.len() as u64), Some(sha256(&bytes).as_str())),
            "{key}"
        );
    }
    run.name
}

/// When the run of the pointer finished, and its name. Names alone have no order within a second.
fn pointed(store: &Path) -> (String, String) {
    let pointer = json(&store.join("latest.json"));
    let text = |key: &str| pointer[key].as_str().unwrap().to_owned();
    (text("finished_at"), text("run"))
}

#[test]
pub(crate) fn a_backup_killed_at_any_of_fifty_moments_leaves_latest_whole_and_prune_leaves_no_orphan() {
    let name = "race killed";
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    // Two parts of 5 MiB in each form.
    cluster.psql(
        name,
        "CREATE TABLE t (id int, t text); INSERT INTO t SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 8000) i;
         CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u SELECT generate_series(1, 100)",
    );
    let bucket = Bucket::start();
    let store = bucket.path("pre");
    let command = || {
        let mut command = bucket.backup(cluster, name, "pre");
        command.args(["--compression", "none", "--s3-part-size-mib", "5"]);
        command
    };
    let begun = Instant::now();
    expect_code(&mut command(), 0);
    // How long a backup takes. The first one takes longer than those that follow it.
    let mut whole = begun.elapsed();
    let mut observer = Talk::open(cluster, "postgres");
    let mut moments = Moments(20_261_122);
    assert_whole(&store);
    let mut sound = pointed(&store);
    let unfinished = |store: &Path| {
        let all = files(&store.join("runs"));
        let runs: std::collections::BTreeSet<&str> = all.iter().filter_map(|file| file.split('/').next()).collect();
        runs.into_iter().filter(|run| !all.contains(&format!("{run}/manifest.json"))).count()
    };
    // Fifty moments, and more only where too few of them were in the middle of a run.
    let (mut rounds, mut died, mut uploads) = (0, 0, 0);
    while rounds < 50 || (rounds < 200 && (died <= 20 || uploads == 0 || unfinished(&store) <= 5)) {
        let mut child = command().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Not waiting for anything: the moment is what is drawn.
        let share = moments.next() * 1.1;
        std::thread::sleep(whole.mul_f64(share));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            whole = whole.mul_f64(0.95);
        } else {
            whole = whole.mul_f64(if share > 1.0 { 1.05 } else { 1.0 });
            died += 1;
        }
        let latest = pointed(&store);
        assert!(latest >= sound, "round {rounds}: {latest:?} after {sound:?}");
        if latest != sound {
            assert_whole(&store);
            sound = latest;
        }
        if rounds % 5 == 4 {
            uploads += bucket.uploads("pre").len();
        }
        // The server notices on its own that nobody is there any more.
        observer.until(&format!("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = '{name}'"));
        rounds += 1;
    }
    let last = pointed(&store);
    assert!(last >= sound, "{last:?} after {sound:?}");
    assert!(
        died > 20 && unfinished(&store) > 5 && uploads > 0,
        "of {rounds}: {died} died, {} unfinished, {uploads} uploads",
        unfinished(&store)
    );
    expect_code(&mut bucket.command("pre", &["verify"]), 0);
    let mut prune = bucket.command("pre", &["prune", "--keep-last", "1000", "--incomplete-older-than", "0s"]);
    let pruned = output_with(&mut prune, b"");
    let told = String::from_utf8(pruned.stdout).unwrap();
    let failed: Vec<&str> = told.lines().filter(|line| line.starts_with("FAILED")).collect();
    assert!(pruned.status.success(), "{failed:?}");
    assert!(told.contains("never finished"), "{told}");
    assert_eq!((unfinished(&store), bucket.uploads("pre").len()), (0, 0), "{told}");
    assert_eq!(files(&store.join("claims")), Vec::<String>::new());
    assert_eq!(assert_whole(&store), last.1);
    expect_code(&mut bucket.command("pre", &["verify"]), 0);
    expect_code(&mut bucket.command("pre", &["status", "--max-age", "1h"]), 0);
    cluster.drop_database(name);
}
