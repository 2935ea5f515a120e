//! Many runs: what `prune` keeps and what it never touches, pins, the pointer moved by hand, the probe, the comparison
//! and the page. A real backup of a small database is the pattern; more runs are copies of it under other names, their
//! manifests mended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use bytes::Bytes;
use pgstow::seal::hash::sha256;
use pgstow::store::Plan;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::support::bucket::Bucket;
use super::support::pg;
use super::support::process::succeed_with;
use super::support::program::{Going, backup, expect_code, expect_failure, files, json as read_json, pgstow};
use super::support::proxy::{Fault, Proxy};
use super::support::s3::S3Server;

const TABLES: &str = r#"
    CREATE SCHEMA billing;
    CREATE TABLE billing.invoices (id int PRIMARY KEY, note text);
    INSERT INTO billing.invoices SELECT i, md5(i::text) FROM generate_series(1, 500) i;
    CREATE TABLE public.same (id int); INSERT INTO public.same VALUES (1), (2);
    CREATE TABLE public.gone (id int); INSERT INTO public.gone VALUES (1);
    CREATE TABLE public."<b>&""' mean" (id int);
"#;
const CHANGES: &str = r"
    INSERT INTO billing.invoices VALUES (501, 'one more');
    DROP TABLE public.gone;
    CREATE TABLE public.fresh (id int); INSERT INTO public.fresh VALUES (1), (2), (3);
    CREATE SCHEMA analytics;
";

/// A store with two real runs, the second after [`CHANGES`]. Tests copy from it.
struct Pattern {
    store: PathBuf,
    first: String,
    second: String,
}

fn pattern() -> &'static Pattern {
    static MADE: OnceLock<Pattern> = OnceLock::new();
    MADE.get_or_init(|| {
        let cluster = pg::shared(15);
        cluster.create_database("retention");
        let store = Path::new(env!("CARGO_TARGET_TMPDIR")).join("retention-store");
        if store.exists() {
            fs::remove_dir_all(&store).unwrap();
        }
        let mut runs = Vec::new();
        for sql in [TABLES, CHANGES] {
            cluster.psql("retention", sql);
            expect_code(&mut backup(cluster, "retention", &store), 0);
            runs.push(read_json(&store.join("latest.json"))["run"].as_str().unwrap().to_owned());
        }
        cluster.drop_database("retention");
        let [first, second] = <[String; 2]>::try_from(runs).unwrap();
        Pattern { store, first, second }
    })
}

/// `20260301T120000Z-aaaaaa` of `20260301T120000`.
fn name(start: &str) -> String {
    format!("{start}Z-{}", "a".repeat(6))
}

/// RFC 3339 of the moment in a run's name.
fn moment(run: &str) -> String {
    let at = |from: usize, to: usize| &run[from..to];
    format!("{}-{}-{}T{}:{}:{}.000Z", at(0, 4), at(4, 6), at(6, 8), at(9, 11), at(11, 13), at(13, 15))
}

/// Copies the first run of the pattern into a store, as that run; its manifest says what `edit` makes it say.
fn copy_run(store: &Path, run: &str, edit: impl FnOnce(&mut Value)) {
    let from = pattern().store.join("runs").join(&pattern().first);
    let to = store.join("runs").join(run);
    for file in files(&from) {
        fs::create_dir_all(to.join(&file).parent().unwrap()).unwrap();
        fs::copy(from.join(&file), to.join(&file)).unwrap();
    }
    let mut manifest = read_json(&from.join("manifest.json"));
    manifest["run"] = json!(run);
    manifest["started_at"] = json!(moment(run));
    manifest["finished_at"] = json!(moment(run));
    edit(&mut manifest);
    fs::write(to.join("manifest.json"), manifest.to_string()).unwrap();
}

fn point(store: &Path, run: &str) {
    let key = format!("runs/{run}/manifest.json");
    let bytes = fs::read(store.join(&key)).unwrap();
    let manifest: Value = serde_json::from_slice(&bytes).unwrap();
    let latest = json!({
        "run": run, "manifest": key, "sha256": sha256(&bytes),
        "finished_at": manifest["finished_at"], "identity": manifest["source"]["identity"],
    });
    fs::write(store.join("latest.json"), latest.to_string()).unwrap();
}

fn on(store: &Path, words: &[&str]) -> Command {
    let mut command = pgstow();
    command.args(words).arg("--store").arg(store);
    command
}

fn json_of(command: &mut Command, code: i32) -> Value {
    let (out, err) = expect_code(command.arg("--json"), code);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"))
}

/// What is below `runs/`; empty folders, which an S3 server over a folder leaves, are nothing.
fn runs(store: &Path) -> BTreeSet<String> {
    let keys = files(&store.join("runs")).into_iter();
    keys.map(|key| key.split_once('/').map_or(key.clone(), |(run, _)| run.to_owned())).collect()
}

fn write(store: &Path, key: &str, text: &str) {
    fs::create_dir_all(store.join(key).parent().unwrap()).unwrap();
    fs::write(store.join(key), text).unwrap();
}

/// Runs of every kind, and things that are none.
fn menagerie(store: &Path) {
    for day in 1..=20 {
        copy_run(store, &name(&format!("202603{day:02}T030000")), |_| {});
    }
    copy_run(store, &name("20260320T010000"), |_| {});
    copy_run(store, &name("20260315T230000"), |manifest| manifest["status"] = json!("partial"));
    copy_run(store, &name("20260321T030000"), |manifest| manifest["status"] = json!("partial"));
    copy_run(store, &name("20200101T000000"), |_| {});
    copy_run(store, &name("20200102T000000"), |_| {});
    write(store, &format!("runs/{}/manifest.json", name("20200102T000000")), "{ \"format\": \"pgstow/2\" }");
    copy_run(store, &name("20200103T000000"), |_| {});
    point(store, &name("20260310T030000"));
    for stale in ["20200104T000000", "20201399T000000"] {
        write(store, &format!("runs/{}/public.dump.zst", name(stale)), "half");
    }
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string();
    write(store, &format!("runs/{}/public.dump.zst", name(&now)), "half");
    for run in ["20260301T030000", "20260320T030000", "20190101T000000"] {
        write(store, &format!("receipts/{}/x.json", name(run)), "{}");
    }
    for foreign in
        ["README", "runs/README", "runs/other/manifest.json", "receipts/other/x.json", "pins/other", "claims/x"]
    {
        write(store, foreign, "foreign");
    }
    // Within a run that goes.
    for foreign in within() {
        write(store, &foreign, "foreign");
    }
    let (_, log) = expect_code(&mut on(store, &["pin", &name("20200103T000000"), "--reason", "the audit\u{1b}"]), 0);
    assert_eq!(log, "");
}

/// What others put into runs.
fn within() -> [String; 2] {
    [
        format!("runs/{}/public/hello world.txt", name("20260317T030000")),
        format!("runs/{}/notes.txt", name("20260317T030000")),
    ]
}

const RULES: [&str; 8] =
    ["--keep-last", "2", "--keep-daily", "3", "--keep-weekly", "2", "--incomplete-older-than", "24h"];

#[test]
pub(crate) fn prune_keeps_what_the_rules_say_and_touches_nothing_foreign() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("a");
    menagerie(&store);
    copy_run(&folder.path().join("a2"), &name("20200101T000000"), |_| {});
    let before = files(folder.path());

    let (error, all) = expect_failure(&mut on(&store, &["prune"]), 2);
    assert!(error.contains("rule") && all.contains("--keep-last"), "{all}");
    expect_failure(&mut on(&store, &["prune", "--keep-last", "0"]), 2);
    let dry = [&["prune", "--dry-run"][..], &RULES].concat();
    let (out, _) = expect_code(&mut on(&store, &dry), 0);
    assert!(out.contains("would delete 17 runs") && out.contains("nothing was deleted"), "{out}");
    assert!(out.contains("pinned: the audit\\u{1b}") && out.contains("its manifest cannot be read"), "{out}");
    assert_eq!(files(folder.path()), before, "a dry run deleted something");

    let pruned = json_of(&mut on(&store, &[&["prune"][..], &RULES].concat()), 0);
    let reasons = |run: &str| -> Vec<String> {
        let run = name(run);
        let found = pruned["runs"].as_array().unwrap().iter().find(|found| found["run"] == run).unwrap();
        // Of this one what others put there is left.
        let is_kept = store.join("runs").join(&run).exists() && run != name("20260317T030000");
        assert_eq!(found["action"], if is_kept { "keep" } else { "delete" }, "{found}");
        found["reasons"].as_array().unwrap().iter().map(|why| why.as_str().unwrap().to_owned()).collect()
    };
    // The partial run of the 21st counts among all, and takes no complete one's place.
    assert_eq!(reasons("20260321T030000"), ["daily", "last", "weekly"]);
    assert_eq!(reasons("20260320T030000"), ["daily", "last", "weekly", "last complete run"]);
    assert_eq!(reasons("20260320T010000"), ["last"]);
    assert_eq!(reasons("20260319T030000"), ["daily"]);
    assert_eq!(reasons("20260318T030000"), ["daily"]);
    assert_eq!(reasons("20260317T030000"), ["no rule keeps it"]);
    // The Sunday of the week before: the newest is the partial one, then the complete one.
    assert_eq!(reasons("20260315T230000"), ["weekly"]);
    assert_eq!(reasons("20260315T030000"), ["weekly"]);
    assert_eq!(reasons("20260310T030000"), ["latest"]);
    assert_eq!(reasons("20200104T000000"), ["never finished"]);
    assert_eq!(reasons("20200102T000000"), ["its manifest cannot be read"]);
    assert_eq!(reasons("20201399T000000"), ["its name is not a moment"]);

    let after = files(folder.path());
    let gone: Vec<&String> = before.iter().filter(|file| !after.contains(file)).collect();
    let deleted: BTreeSet<String> =
        gone.iter().filter_map(|file| Some(file.strip_prefix("a/runs/")?[..23].to_owned())).collect();
    assert_eq!(deleted.len(), 17, "{deleted:?}");
    let marred = BTreeSet::from([name("20260317T030000")]);
    assert_eq!(
        runs(&store).intersection(&deleted).cloned().collect::<BTreeSet<_>>(),
        marred,
        "a run was deleted in part"
    );
    assert_eq!(after.iter().filter(|file| file.contains("20260317T030000")).count(), 2, "what others put there");
    let others: Vec<&&String> = gone.iter().filter(|file| !file.starts_with("a/runs/")).collect();
    assert_eq!(
        others,
        [&&format!("a/receipts/{}/x.json", name("20260301T030000"))],
        "receipts of the 2019 run are young"
    );
    assert_eq!(after.iter().filter(|file| !before.contains(file)).count(), 0);
    expect_code(&mut on(&store, &["verify"]), 0);

    // Again: nothing is left to do. With no grace the fresh leavings go too.
    let again = json_of(&mut on(&store, &[&["prune"][..], &RULES].concat()), 0);
    assert_eq!((&again["deleted_runs"], &again["deleted_objects"]), (&json!(0), &json!(0)));
    let rest = json_of(&mut on(&store, &["prune", "--keep-last", "1", "--incomplete-older-than", "0s"]), 0);
    assert_eq!(rest["leftovers"], json!([format!("receipts/{}/x.json", name("20190101T000000"))]));
    let kept = ["20260321T030000", "20260320T030000", "20260310T030000", "20200103T000000", "20200102T000000"];
    let mut kept: BTreeSet<String> = kept.into_iter().map(name).collect();
    kept.extend([name("20201399T000000"), "README".to_owned(), "other".to_owned()]);
    kept.extend([name("20260317T030000")]);
    assert_eq!(runs(&store), kept);
}

#[test]
pub(crate) fn the_last_complete_run_outlives_every_rule() {
    let folder = tempfile::tempdir().unwrap();
    copy_run(folder.path(), &name("20260301T000000"), |_| {});
    for day in 2..=5 {
        copy_run(folder.path(), &name(&format!("202603{day:02}T000000")), |manifest| {
            manifest["status"] = json!("partial");
        });
    }
    let pruned = json_of(&mut on(folder.path(), &["prune", "--keep-last", "1"]), 0);
    assert_eq!(pruned["deleted_runs"], 3);
    assert_eq!(runs(folder.path()), BTreeSet::from([name("20260301T000000"), name("20260305T000000")]));
    // A pointer that makes no sense may name any of them.
    fs::write(folder.path().join("latest.json"), "{").unwrap();
    let (error, _) = expect_failure(&mut on(folder.path(), &["prune", "--keep-last", "1"]), 1);
    assert!(error.contains("latest.json"), "{error}");
    assert_eq!(runs(folder.path()).len(), 2);
}

/// A bucket with runs below the prefix `a`, a neighbour `a2`, and a proxy in front.
struct Guarded {
    bucket: Bucket,
    proxy: Proxy,
}

impl Guarded {
    fn new() -> Self {
        let bucket = Bucket::start();
        let proxy = bucket.runtime.block_on(Proxy::start(bucket.server.port, |_asked| None));
        Self { bucket, proxy }
    }

    fn on(&self, words: &[&str]) -> Command {
        let mut command = on(Path::new(&self.bucket.address("a")), words);
        command.envs(self.bucket.server.env()).env("AWS_ENDPOINT_URL_S3", &self.proxy.endpoint);
        command.args(["--s3-attempts", "2"]);
        command
    }

    /// An upload that nobody goes on with.
    fn abandon(&self, prefix: &str, key: &str) {
        let store = self.bucket.store(prefix);
        self.bucket.runtime.block_on(async {
            let mut writer = store.writer(key, Plan::default());
            writer.write(Bytes::from(vec![7; 11 << 20])).await.map_err(pgstow::error::Error::from).unwrap();
            // As a process that was killed: not even dropping it happens.
            std::mem::forget(writer);
        });
        super::support::session::until("the upload is open", || {
            self.bucket.uploads(prefix).iter().any(|open| open == key)
        });
    }
}

#[test]
pub(crate) fn prune_of_a_bucket_survives_refusals_and_clears_orphans() {
    let guarded = Guarded::new();
    let bucket = &guarded.bucket;
    let (a, a2) = (bucket.path("a"), bucket.path("a2"));
    let [old, older, oldest] = ["20260303T000000", "20260302T000000", "20260301T000000"].map(name);
    for run in [&name("20260304T000000"), &old, &older, &oldest] {
        copy_run(&a, run, |_| {});
        copy_run(&a2, run, |_| {});
    }
    let stale = name("20260101T000000");
    write(&a, &format!("runs/{stale}/x.dump.zst"), "half");
    let orphan = format!("runs/{stale}/y.dump.zst");
    guarded.abandon("a", &orphan);
    guarded.abandon("a", "runs/other/y.dump.zst");
    guarded.abandon("a2", &orphan);
    let untouched = files(&a2);

    // A run with a young upload is still being written. One object cannot be deleted, nor one manifest.
    let (stuck, kept) = (format!("{older}/@roles.sql.zst"), format!("{oldest}/manifest.json"));
    let (first, second) = (stuck.clone(), kept.clone());
    guarded.proxy.follow(move |asked| {
        let target = asked.target.replace("%40", "@");
        let hit = asked.method == "DELETE" && (target.contains(&first) || target.contains(&second));
        // As a store that cannot delete many objects at once.
        let many = asked.method == "POST" && target.contains("?delete");
        let refused = many.then_some(Fault::Answer(501, "NotImplemented"));
        hit.then_some(Fault::Answer(403, "AccessDenied")).or(refused)
    });
    let command = &mut guarded.on(&["prune", "--keep-last", "1", "--json"]);
    let (out, err) = expect_code(command, 1);
    let pruned: Value = serde_json::from_str(&out).unwrap();
    let failures = pruned["failures"].as_array().unwrap();
    assert!(failures.len() == 2 && failures[0].as_str().unwrap().contains(&stuck), "{failures:?}");
    assert!(failures[1].as_str().unwrap().contains(&kept), "{failures:?}");
    assert!(err.contains("error: 2 things could not be deleted"), "{err}");
    assert_eq!(files(&a.join("runs").join(&older)), ["@roles.sql.zst"]);
    assert!(!runs(&a).contains(&old));
    assert_eq!(
        files(&a.join("runs").join(&oldest)),
        files(&a2.join("runs").join(&oldest)),
        "without its manifest gone"
    );
    assert!(runs(&a).contains(&stale) && bucket.uploads("a").len() == 2);
    let mut first = BTreeMap::new();
    for (asked, _) in guarded.proxy.log().into_iter().filter(|(asked, _)| asked.method == "DELETE") {
        let run = asked.target.split('/').find(|part| part.contains("Z-aaaaaa")).unwrap().to_owned();
        first.entry(run).or_insert(asked.target);
    }
    assert_eq!(first.len(), 3);
    assert!(first.values().all(|target| target.contains("/manifest.json")), "{first:?}");

    // The run that lost its manifest is none any more, and the next prune takes the rest.
    guarded.proxy.follow(|_asked| None);
    let listed = json_of(&mut guarded.on(&["list"]), 0);
    let status =
        |run: &str| listed["runs"].as_array().unwrap().iter().find(|row| row["run"] == run).unwrap()["status"].clone();
    assert_eq!((status(&older), status(&oldest)), (json!("incomplete"), json!("complete")));
    let pruned = json_of(&mut guarded.on(&["prune", "--keep-last", "1", "--incomplete-older-than", "0s"]), 0);
    assert_eq!((&pruned["deleted_runs"], &pruned["uploads"]), (&json!(3), &json!([orphan])));
    assert_eq!(runs(&a), BTreeSet::from([name("20260304T000000")]));
    assert_eq!(bucket.uploads("a"), ["runs/other/y.dump.zst"]);
    assert_eq!((files(&a2), bucket.uploads("a2")), (untouched, vec![orphan.clone()]));
    let many = |proxy: &Proxy| {
        let log = proxy.log();
        log.iter().filter(|(asked, fault)| asked.target.contains("?delete") && fault.is_none()).count()
    };
    assert_eq!(many(&guarded.proxy), 1, "one request for all objects of the run that was whole");

    // A server that does not know how many uploads to list, and one that lists none: prune goes on.
    let young = format!("runs/{}/z.dump.zst", name("20260105T000000"));
    guarded.abandon("a", &young);
    let prune = ["prune", "--keep-last", "1", "--incomplete-older-than", "0s"];
    guarded.proxy.follow(|asked| asked.target.contains("max-uploads").then_some(Fault::Answer(501, "NotImplemented")));
    let pruned = json_of(&mut guarded.on(&prune), 0);
    assert_eq!((&pruned["uploads"], &pruned["failures"]), (&json!([young]), &json!([])));
    guarded.proxy.follow(|asked| {
        let lists = asked.method == "GET" && asked.target.contains("?uploads");
        lists.then_some(Fault::Answer(501, "NotImplemented"))
    });
    let pruned = json_of(&mut guarded.on(&prune), 0);
    assert!(pruned["notes"][0].as_str().unwrap().contains("cannot list unfinished uploads"), "{pruned}");
}

/// Ceph RGW 16.2 does that to every etag; the pointer moves all the same.
#[test]
fn latest_moves_where_a_met_condition_is_refused() {
    let guarded = Guarded::new();
    let a = guarded.bucket.path("a");
    let [first, second] = ["20260301T000000", "20260302T000000"].map(name);
    copy_run(&a, &first, |_| {});
    copy_run(&a, &second, |_| {});
    expect_code(&mut guarded.on(&["promote", &first]), 0);
    guarded.proxy.follow(|asked| {
        let refused = asked.method == "PUT" && asked.headers.contains("if-match:");
        refused.then_some(Fault::Answer(412, "PreconditionFailed"))
    });
    expect_code(&mut guarded.on(&["promote", &second]), 0);
    assert_eq!(read_json(&a.join("latest.json"))["run"], json!(second));
    let (error, _) = expect_failure(&mut guarded.on(&["promote", &first]), 2);
    assert!(error.contains("older"), "{error}");
    assert!(!a.join("claims").exists() || files(&a.join("claims")).is_empty(), "a turn was not ended");
}

#[test]
pub(crate) fn a_pinned_run_says_so_and_is_let_go_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path();
    let [old, new] = ["20260301T000000", "20260302T000000"].map(name);
    copy_run(store, &old, |_| {});
    copy_run(store, &new, |_| {});
    expect_failure(&mut on(store, &["pin", "2025"]), 2);
    let pinned = json_of(&mut on(store, &["pin", "20260301", "--reason", "before the migration"]), 0);
    assert_eq!((&pinned["run"], &pinned["reason"]), (&json!(old), &json!("before the migration")));
    let (out, _) = expect_code(&mut on(store, &["list"]), 0);
    assert!(out.contains(&format!("{old}: pinned: before the migration")), "{out}");
    // Pinned again without a reason: the one it has stays; another replaces it.
    let again = json_of(&mut on(store, &["pin", "20260301"]), 0);
    assert_eq!(again["reason"], "before the migration");
    assert_eq!(json_of(&mut on(store, &["pin", "20260301", "--reason", "audit"]), 0)["reason"], "audit");
    expect_code(&mut on(store, &["pin", "20260301", "--reason", "before the migration"]), 0);
    assert_eq!(json_of(&mut on(store, &["list"]), 0)["runs"][1]["pin"]["reason"], "before the migration");
    expect_code(&mut on(store, &["prune", "--keep-last", "1"]), 0);
    assert_eq!(runs(store).len(), 2);
    // A pin of other make counts as one.
    write(store, &format!("pins/{old}"), "not json");
    expect_code(&mut on(store, &["prune", "--keep-last", "1"]), 0);
    assert_eq!(runs(store).len(), 2);
    let (out, _) = expect_code(&mut on(store, &["unpin", &old]), 0);
    assert!(out.contains("is no longer pinned"), "{out}");
    let (out, _) = expect_code(&mut on(store, &["unpin", &old]), 0);
    assert!(out.contains("was not pinned"), "{out}");
    expect_code(&mut on(store, &["prune", "--keep-last", "1"]), 0);
    assert_eq!(runs(store), BTreeSet::from([new]));
}

#[test]
pub(crate) fn latest_is_promoted_only_to_what_could_be_restored() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path();
    let [old, mid, new, bad] = ["20260301T000000", "20260302T000000", "20260303T000000", "20260304T000000"].map(name);
    copy_run(store, &old, |_| {});
    copy_run(store, &mid, |manifest| manifest["status"] = json!("partial"));
    copy_run(store, &new, |_| {});
    copy_run(store, &bad, |_| {});
    fs::remove_file(store.join(format!("runs/{bad}/@roles.sql.zst"))).unwrap();
    let latest = || read_json(&store.join("latest.json"))["run"].as_str().unwrap().to_owned();
    expect_code(&mut on(store, &["promote", &new]), 0);
    assert_eq!(latest(), new);
    expect_code(&mut on(store, &["verify"]), 0);

    let (error, all) = expect_failure(&mut on(store, &["promote", &old]), 2);
    assert!(error.contains("older") && all.contains("--backwards"), "{all}");
    let (error, all) = expect_failure(&mut on(store, &["promote", &mid, "--backwards"]), 2);
    assert!(error.contains("partial") && all.contains("--allow-partial-latest"), "{all}");
    let (error, _) = expect_failure(&mut on(store, &["promote", &bad]), 1);
    assert!(error.contains("@roles.sql.zst is missing"), "{error}");
    write(store, &format!("runs/{bad}/manifest.json"), "{");
    expect_failure(&mut on(store, &["promote", &bad]), 4);
    fs::remove_file(store.join(format!("runs/{bad}/manifest.json"))).unwrap();
    expect_failure(&mut on(store, &["promote", &bad]), 2);
    assert_eq!(latest(), new);

    let (out, _) = expect_code(&mut on(store, &["promote", &old, "--backwards"]), 0);
    assert!(out.contains(&old) && out.contains(&format!("it was {new}")), "{out}");
    assert_eq!(latest(), old);
    let moved = json_of(&mut on(store, &["promote", &mid, "--allow-partial-latest"]), 0);
    assert_eq!((&moved["before"], latest()), (&json!(old), mid));
    let (out, _) = expect_code(&mut on(store, &["promote", &new]), 0);
    assert!(out.contains("now"), "{out}");
    let (out, _) = expect_code(&mut on(store, &["promote", &new]), 0);
    assert!(out.contains("already"), "{out}");
    // A pointer that makes no sense is replaced.
    fs::write(store.join("latest.json"), "{").unwrap();
    expect_code(&mut on(store, &["promote", &new]), 0);
    assert_eq!(latest(), new);
    assert!(!store.join("claims").exists(), "a turn was not ended");
}

#[test]
fn a_pointer_that_makes_no_sense_hides_no_run_and_is_mended_by_promote() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path();
    let [old, new] = ["20260301T000000", "20260302T000000"].map(name);
    copy_run(store, &old, |_| {});
    copy_run(store, &new, |_| {});
    let named = json!({ "run": "x", "manifest": "m", "sha256": "s", "finished_at": "f", "identity": "i" });
    let mut timeless = named.clone();
    timeless["run"] = json!(new);
    for bad in ["{", r#"{"run": 5}"#, &named.to_string(), &timeless.to_string(), "null", ""] {
        fs::write(store.join("latest.json"), bad).unwrap();
        let (out, _) = expect_code(&mut on(store, &["list"]), 0);
        assert!(out.contains(&old) && out.contains(&new) && out.contains("latest.json of "), "{bad}: {out}");
        assert!(out.contains("`pgstow promote RUN`"), "{bad}: {out}");
        let listed = json_of(&mut on(store, &["list"]), 0);
        assert_eq!((listed["runs"].as_array().unwrap().len(), &listed["latest"]), (2, &Value::Null), "{bad}");
        assert!(listed["latest_problem"].as_str().unwrap().contains("latest.json"), "{bad}: {listed}");
        expect_code(&mut on(store, &["show", &new]), 0);
        expect_code(&mut on(store, &["verify", &new]), 0);
        expect_code(&mut on(store, &["diff", &old, &new]), 0);
        for words in [&["show"][..], &["verify"], &["diff", &old, "latest"]] {
            let (error, all) = expect_failure(&mut on(store, words), 4);
            assert!(error.contains("latest.json") && all.contains("`pgstow promote RUN`"), "{bad}: {all}");
        }
        let (error, all) = expect_failure(&mut on(store, &["prune", "--keep-last", "1"]), 1);
        assert!(error.contains("nothing was deleted") && all.contains("`pgstow promote RUN`"), "{bad}: {all}");
        expect_code(&mut on(store, &["promote", &new]), 0);
        expect_code(&mut on(store, &["show"]), 0);
        assert_eq!(read_json(&store.join("latest.json"))["run"], json!(new));
        assert_eq!(json_of(&mut on(store, &["prune", "--keep-last", "2"]), 0)["deleted_runs"], 0);
    }
}

#[test]
fn the_future_counts_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path();
    let [old, mid, new, ahead] = ["20260301T000000", "20260302T000000", "20260303T000000", "29990101T000000"].map(name);
    for run in [&old, &mid, &new, &ahead] {
        copy_run(store, run, |_| {});
    }
    point(store, &ahead);
    let (out, _) = expect_code(&mut on(store, &["status"]), 1);
    assert!(out.contains("a clock is wrong"), "{out}");
    // A pointer in the future holds nothing back.
    expect_code(&mut on(store, &["promote", &new]), 0);
    assert_eq!(read_json(&store.join("latest.json"))["run"], json!(new));
    let (error, _) = expect_failure(&mut on(store, &["promote", &ahead]), 2);
    assert!(error.contains("future"), "{error}");
    // Nor does a receipt that says "sound" in the future hide the damage that was found since.
    for (at, ok) in [("29990101T000000.000Z", true), ("20260304T000000.000Z", false)] {
        let receipt = json!({ "kind": "verify", "run": new, "at": "2026-03-04T00:00:00Z", "ok": ok });
        write(store, &format!("receipts/{new}/{at}-verify.json"), &receipt.to_string());
    }
    let (out, _) = expect_code(&mut on(store, &["status", "--max-age", "100000h"]), 1);
    assert!(out.contains("found it damaged"), "{out}");
    fs::remove_dir_all(store.join("receipts")).unwrap();

    for (rule, value, kept) in [
        ("--keep-within", "36h", vec![&mid, &new, &ahead]),
        ("--keep-last", "1", vec![&new, &ahead]),
        ("--keep-daily", "2", vec![&mid, &new, &ahead]),
        ("--keep-monthly", "1", vec![&new, &ahead]),
    ] {
        for run in [&old, &mid, &new, &ahead] {
            copy_run(store, run, |_| {});
        }
        let pruned = json_of(&mut on(store, &["prune", rule, value]), 0);
        assert_eq!(runs(store), kept.into_iter().cloned().collect(), "{rule}: {pruned}");
        let why = &pruned["runs"][0]["reasons"][0];
        assert!(why.as_str().unwrap().contains("future"), "{pruned}");
        assert!(pruned["runs"][1]["reasons"].as_array().unwrap().contains(&json!("last complete run")), "{pruned}");
    }
}

#[test]
fn a_run_that_is_known_to_be_damaged_takes_no_sound_ones_place() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path();
    let [sound, bad, torn] = ["20260301T000000", "20260302T000000", "20260303T000000"].map(name);
    for run in [&sound, &bad, &torn] {
        copy_run(store, run, |_| {});
    }
    point(store, &bad);
    let object = store.join(format!("runs/{bad}/billing/invoices.sql.zst"));
    let bytes = fs::read(&object).unwrap();
    let mut broken = bytes.clone();
    *broken.last_mut().unwrap() ^= 1;
    fs::write(&object, &broken).unwrap();
    expect_code(&mut on(store, &["verify", &bad]), 4);
    fs::remove_file(store.join(format!("runs/{torn}/@roles.sql.zst"))).unwrap();

    let found = json_of(&mut on(store, &["status", "--max-age", "10000d"]), 1);
    assert!(found["reason"].as_str().unwrap().contains("found it damaged"), "{found}");
    let listed = json_of(&mut on(store, &["list"]), 0);
    assert!(listed["runs"][1]["damage"].as_str().unwrap().contains("verify"), "{listed}");
    let (_, err) = expect_code(&mut on(store, &["show"]), 0);
    assert!(err.contains("damaged") && err.contains("pgstow list"), "{err}");
    let pruned = json_of(&mut on(store, &["prune", "--keep-last", "1"]), 0);
    assert!(runs(store).contains(&sound), "{pruned}");
    assert!(pruned["runs"][2]["reasons"].as_array().unwrap().contains(&json!("last complete run")), "{pruned}");

    point(store, &sound);
    let (error, all) = expect_failure(&mut on(store, &["promote", &bad]), 1);
    assert!(error.contains("damaged") && all.contains(&format!("pgstow verify {bad}")), "{all}");
    // Repaired, and verified again: sound.
    fs::write(&object, &bytes).unwrap();
    expect_code(&mut on(store, &["verify", &bad]), 0);
    expect_code(&mut on(store, &["promote", &bad]), 0);
    // A receipt of another manifest says nothing of this one.
    copy_run(store, &bad, |manifest| manifest["tool"]["version"] = json!("other"));
    fs::write(&object, &broken).unwrap();
    point(store, &bad);
    expect_code(&mut on(store, &["verify", &bad]), 4);
    fs::write(&object, &bytes).unwrap();
    copy_run(store, &bad, |_| {});
    point(store, &bad);
    expect_code(&mut on(store, &["status", "--max-age", "10000d"]), 0);
}

#[test]
pub(crate) fn the_probe_answers_by_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path();
    let probe = |words: &[&str], code: i32| {
        let (out, err) = expect_code(&mut on(store, &[&["status"][..], words].concat()), code);
        assert!(out.lines().count() == 1 && err.is_empty(), "{out}{err}");
        out
    };
    assert!(probe(&[], 1).contains("no backups"));
    let run = name(&jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string());
    copy_run(store, &run, |_| {});
    assert!(probe(&[], 1).contains("latest.json"));
    point(store, &run);
    let out = probe(&[], 0);
    assert!(out.starts_with("ok: ") && out.contains(&run), "{out}");
    let found = json_of(&mut on(store, &["status", "--max-age", "1h"]), 0);
    assert_eq!((&found["ok"], &found["run"]), (&json!(true), &json!(run)));
    let found = json_of(&mut on(store, &["status", "--max-age", "0s"]), 1);
    assert!(found["ok"] == false && found["reason"].as_str().unwrap().contains("old"), "{found}");

    let object = store.join(format!("runs/{run}/billing/invoices.sql.zst"));
    let sound = fs::read(&object).unwrap();
    fs::write(&object, &sound[1..]).unwrap();
    assert!(probe(&[], 1).contains("billing/invoices.sql.zst is "));
    fs::remove_file(&object).unwrap();
    assert!(probe(&[], 1).contains("billing/invoices.sql.zst is missing"));
    fs::write(&object, &sound).unwrap();
    probe(&[], 0);

    copy_run(store, &run, |manifest| manifest["status"] = json!("partial"));
    assert!(probe(&[], 1).contains("SHA-256"), "the manifest is another one now");
    point(store, &run);
    assert!(probe(&[], 1).contains("partial"));
    copy_run(store, &run, |manifest| manifest["finished_at"] = json!("2999-01-01T00:00:00Z"));
    point(store, &run);
    assert!(probe(&[], 1).contains("clock"));
    copy_run(store, &name("20200101T000000"), |_| {});
    point(store, &name("20200101T000000"));
    assert!(probe(&["--max-age", "26h"], 1).contains("1day 2h are allowed"));
}

#[test]
pub(crate) fn two_runs_are_compared_by_their_manifests() {
    let Pattern { store, first, second } = pattern();
    let found = json_of(&mut on(store, &["diff", first, second]), 0);
    assert_eq!(found["schemas"], json!({"added": ["analytics"], "removed": []}));
    let changes: BTreeMap<String, (String, i64)> = found["tables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|table| {
            let name = format!("{}.{}", table["schema"].as_str().unwrap(), table["table"].as_str().unwrap());
            (name, (table["change"].as_str().unwrap().to_owned(), table["rows"].as_i64().unwrap()))
        })
        .collect();
    let wanted = [("billing.invoices", "changed", 1), ("public.fresh", "added", 3), ("public.gone", "removed", -1)];
    assert_eq!(changes, wanted.map(|(name, what, rows)| (name.to_owned(), (what.to_owned(), rows))).into());
    assert_eq!((&found["equal_tables"], &found["same_database"]), (&json!(2), &json!(true)));
    let (out, _) = expect_code(&mut on(store, &["diff", first, second]), 0);
    for wanted in
        ["schema added: analytics", "billing.invoices", "+1", "public.gone", "removed", "2 tables are the same"]
    {
        assert!(out.contains(wanted), "{wanted}: {out}");
    }
    let (out, _) = expect_code(&mut on(store, &["diff", second, "latest"]), 0);
    assert!(out.contains("all 4 tables are the same"), "{out}");
    expect_failure(&mut on(store, &["diff", first, "2001"]), 2);
}

#[test]
pub(crate) fn the_page_needs_nothing_else_and_escapes_everything() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let empty = folder.path().join("empty.html");
    expect_failure(&mut on(&store, &["report", "--out", empty.to_str().unwrap()]), 2);
    fs::create_dir(&store).unwrap();
    expect_code(&mut on(&store, &["report", "--out", empty.to_str().unwrap()]), 0);
    assert!(fs::read_to_string(&empty).unwrap().contains("There is no backup yet"));

    for day in 1..=3 {
        copy_run(&store, &name(&format!("202603{day:02}T030000")), |manifest| {
            manifest["omitted"] = json!([{"kind": "<kind>", "name": "<script>alert(1)</script>", "reason": "a & b"}]);
        });
    }
    point(&store, &name("20260303T030000"));
    expect_code(&mut on(&store, &["verify", "20260302"]), 0);
    expect_code(&mut on(&store, &["pin", "20260301", "--reason", "<i>keep</i>"]), 0);
    let file = folder.path().join("page.html");
    let told = json_of(&mut on(&store, &["report", "--out", file.to_str().unwrap()]), 0);
    let page = fs::read_to_string(&file).unwrap();
    assert_eq!((&told["runs"], told["bytes"].as_u64().unwrap()), (&json!(3), page.len() as u64));
    for wanted in [
        "<title>Backups of retention</title>",
        "&lt;b&gt;&amp;&quot;&#39; mean",
        "&lt;i&gt;keep&lt;/i&gt;",
        "billing",
        "<svg",
    ] {
        assert!(page.contains(wanted), "{wanted}");
    }
    for run in runs(&store) {
        assert!(page.contains(&run), "{run}");
    }
    // Ages belong to the moment when the page is read: moments, and one script that the page's own policy names.
    assert_eq!((page.matches("<script").count(), page.matches("script-src 'sha256-").count()), (1, 1));
    let script = page.split("<script>").nth(1).unwrap().split("</script>").next().unwrap();
    let sum = pgstow::seal::hash::sha256(script.as_bytes());
    let named = page.split("'sha256-").nth(1).unwrap().split('\'').next().unwrap();
    let decode = succeed_with(Command::new("base64").arg("-d"), named.as_bytes()).stdout;
    let hex: Vec<String> = decode.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex.concat(), sum);
    assert!(
        page.contains("<time data-age datetime=\"") && !page.contains(" ago</") && !page.contains("d old"),
        "{page}"
    );
    assert!(page.contains("class=\"verdict warn\"") && page.contains("nobody has read it back yet"), "not verified");
    expect_code(&mut on(&store, &["verify"]), 0);
    let (verified, _) = expect_code(&mut on(&store, &["report", "--out", "-"]), 0);
    assert!(verified.contains("class=\"verdict good\"") && verified.contains("hidden> It is more than 2 days old"));
    for foreign in ["<script src", "<i>", "<b>", "src=", "href=", "url(", "@import", "http://", "https://"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    let (out, _) = expect_code(&mut on(&store, &["report", "--out", "-"]), 0);
    assert!(out.starts_with("<!DOCTYPE html>") && out.trim_end().ends_with("</html>"));
    assert!(page.contains("Changes since the run before") && page.contains("0 tables changed, 0 are new, 0 vanished"));
    assert!(page.contains("<figure class=\"panel treemap\">") && !page.contains("<h2>Evidence</h2>"));
    let restore =
        format!("pgstow restore {} --store '{}'", name("20260303T030000"), store.display()).replace('\'', "&#39;");
    assert!(page.contains(&restore), "{restore}");

    // For auditors, and beside the runs, where prune lets it be.
    let words = ["report", "--evidence", "--upload", "--out", file.to_str().unwrap()];
    let told = json_of(&mut on(&store, &words), 0);
    assert_eq!(told["uploaded"], format!("{}/report.html", store.display()));
    let evidence = fs::read_to_string(&file).unwrap();
    assert_eq!(fs::read_to_string(store.join("report.html")).unwrap(), evidence);
    for run in runs(&store) {
        let manifest = fs::read(store.join("runs").join(&run).join("manifest.json")).unwrap();
        assert!(evidence.contains(&pgstow::seal::hash::sha256(&manifest)), "{run}");
    }
    assert!(evidence.contains("2 of 3 runs, 0 of them found different"), "two runs were verified");
    expect_code(&mut on(&store, &["prune", "--keep-last", "1"]), 0);
    assert!(store.join("report.html").exists() && runs(&store).len() == 2);
    expect_failure(&mut on(&store, &["report", "--out", "-", "--json"]), 2);
    expect_failure(&mut on(&store, &["report", "--out", "/nowhere/page.html"]), 1);
}

/// Races of two processes for the pointer, in so many prefixes at a time.
const RACES: u32 = 100;
const LANES: u32 = 4;

#[test]
pub(crate) fn two_processes_racing_for_latest_never_move_it_backwards() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
    let server = runtime.block_on(S3Server::start_without_conditions(folder.path()));
    pattern();
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let (server, folder) = (&server, folder.path());
            scope.spawn(move || race(server, folder, &format!("race{lane}"), RACES / LANES));
        }
    });
}

fn race(server: &S3Server, folder: &Path, prefix: &str, races: u32) {
    let store = folder.join("backups").join(prefix);
    let second = |at: u32| name(&format!("20260301T00{:02}{:02}", at / 60, at % 60));
    let names: Vec<String> = (0..=2 * races).map(second).collect();
    copy_run(&store, &names[0], |_| {});
    let promote = |run: &str| {
        let mut command = on(Path::new(&format!("s3://backups/{prefix}")), &["promote", run]);
        Going::start(command.envs(server.env()))
    };
    promote(&names[0]).expect_code(0);
    for pair in names[1..].chunks(2) {
        for run in pair {
            copy_run(&store, run, |_| {});
        }
        let (older, newer) = (promote(&pair[0]), promote(&pair[1]));
        let (older, newer) = (older.code(), newer.code());
        // The older one may find the newer one there already: refused (2), or overtaken (1).
        assert!(newer == 0 && [0, 1, 2].contains(&older), "{older} {newer}");
        assert_eq!(&read_json(&store.join("latest.json"))["run"], pair[1].as_str());
        // Only what the next race needs stays: this server lists by walking through its folder.
        for run in runs(&store).into_iter().filter(|run| *run != pair[1]) {
            fs::remove_dir_all(store.join("runs").join(run)).unwrap();
        }
    }
    let moves: Vec<String> = server
        .pointers(prefix)
        .iter()
        .map(|pointer| serde_json::from_str::<Value>(pointer).unwrap()["run"].as_str().unwrap().to_owned())
        .collect();
    assert!(moves.len() > races as usize && moves.is_sorted(), "{moves:?}");
    assert_eq!(files(&store.join("claims")), Vec::<String>::new());
}
