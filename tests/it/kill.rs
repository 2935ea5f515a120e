//! Runs that end at the same moment, in a store that ignores conditions. `latest` must name a whole run at all times, and
//! never an older one than before.

use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

use crate::support::pg;
use crate::support::program::{Going, Run, backup};
use crate::support::proxy::Proxy;
use crate::support::s3::S3Server;

/// Rounds of the race, and the runs that end together in each.
const ROUNDS: usize = 6;
const RACERS: usize = 4;

/// What `latest` of a prefix names: a run whose manifest is the one that was promised and whose objects are all there,
/// whole. Returns when it finished, and its name.
#[track_caller]
fn whole(store: &Path) -> (String, String) {
    let latest = crate::support::program::json(&store.join("latest.json"));
    let run = Run::latest(store);
    let manifest = fs::read(run.folder.join("manifest.json")).unwrap();
    let sha256 = pgstow::seal::hash::hex(&Sha256::digest(&manifest));
    assert_eq!(latest["sha256"], sha256.as_str(), "{}", store.display());
    let objects = run.objects();
    assert!(objects.len() >= 5, "{objects:?}");
    for (key, object) in objects {
        let stored = fs::metadata(run.folder.join(&key)).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert_eq!(object["bytes"], stored.len(), "{key}");
    }
    (latest["finished_at"].as_str().unwrap().to_owned(), run.name)
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
