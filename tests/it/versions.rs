//! Buckets that keep versions: what a prune frees and what it only hides, the way back to a hidden run, locks.

use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::support::moto::Moto;
use crate::support::pg::{self, Cluster};
use crate::support::program::{expect_code, expect_failure, pgstow};

/// Backs the database up; the run's name.
fn run(moto: &Moto, cluster: &Cluster, bucket: &str, more: &[&str]) -> String {
    let mut command = moto.command(bucket, &["backup", "--json"]);
    command.arg("--pg-bin-dir").arg(cluster.bin_dir()).args(more).env("DATABASE_URL", cluster.url("versions"));
    let manifest: Value = serde_json::from_str(&expect_code(&mut command, 0).0).unwrap();
    manifest["run"].as_str().unwrap().to_owned()
}

fn json(moto: &Moto, bucket: &str, words: &[&str]) -> Value {
    let out = expect_code(moto.command(bucket, words).arg("--json"), 0).0;
    serde_json::from_str(&out).unwrap()
}

/// Bytes of all versions below a run.
fn bytes(moto: &Moto, bucket: &str, run: &str) -> u64 {
    let list = format!("page = s3.list_object_versions(Bucket='{bucket}', Prefix='p/runs/{run}/')\n");
    moto.python(&(list + "print(sum(v['Size'] for v in page.get('Versions', [])))")).parse().unwrap()
}

#[test]
fn what_a_bucket_with_versions_keeps_is_told_deleted_when_asked_and_can_be_read_back() {
    let moto = Moto::start();
    moto.python(
        "s3.create_bucket(Bucket='versioned')\n\
         s3.put_bucket_versioning(Bucket='versioned', VersioningConfiguration={'Status': 'Enabled'})\n\
         s3.create_bucket(Bucket='locked', ObjectLockEnabledForBucket=True)",
    );
    let cluster = pg::shared(pg::packaged());
    cluster.create_database("versions");
    cluster.psql("versions", "CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i");
    let first = run(&moto, cluster, "versioned", &[]);
    cluster.psql("versions", "DELETE FROM t WHERE i > 50");
    let second = run(&moto, cluster, "versioned", &[]);
    let doctor = json(&moto, "versioned", &["doctor", "--skip-database"]);
    let check = doctor["checks"].as_array().unwrap().iter().find(|check| check["name"] == "versioning").unwrap();
    assert!(check["text"].as_str().unwrap().contains("prune --versions"), "{check}");
    assert!(doctor["policies"]["full"].to_string().contains("s3:DeleteObjectVersion"));
    for policy in ["full", "write_only"] {
        let text = doctor["policies"][policy].to_string();
        assert!(!text.contains("IfExists") && !text.contains("s3:if-none-match"), "unknown to MinIO: {text}");
        assert!(text.contains(r#""Null":{"s3:prefix":"true"}"#), "{text}");
    }

    // Hidden, not freed.
    sleep(Duration::from_millis(1100));
    let before = jiff::Timestamp::now().to_string();
    sleep(Duration::from_millis(1100));
    let size = bytes(&moto, "versioned", &first);
    assert!(size > 1000);
    let pruned = json(&moto, "versioned", &["prune", "--keep-last", "1"]);
    assert_eq!((&pruned["deleted_runs"], &pruned["freed_bytes"]), (&1.into(), &0.into()), "{pruned}");
    assert_eq!((pruned["deleted_bytes"].as_u64().unwrap(), bytes(&moto, "versioned", &first)), (size, size));
    assert!(pruned["notes"].to_string().contains("lifecycle rule"), "{pruned}");
    expect_failure(&mut moto.command("versioned", &["show", &first]), 2);

    // Read as it was: the hidden run, and one that somebody put other objects before.
    moto.python(&format!("s3.put_object(Bucket='versioned', Key='p/runs/{second}/manifest.json', Body=b'x')"));
    expect_failure(&mut moto.command("versioned", &["verify", &second]), 4);
    let listed = json(&moto, "versioned", &["list", "--at", &before]);
    let names: Vec<&str> = listed["runs"].as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap()).collect();
    assert_eq!(names, [second.as_str(), first.as_str()]);
    for run in [&first, &second] {
        expect_code(&mut moto.command("versioned", &["verify", run, "--at", &before]), 0);
    }
    cluster.create_database("versions_back");
    let mut restore = moto.command("versioned", &["restore", &first, "--at", &before]);
    expect_code(restore.arg("--pg-bin-dir").arg(cluster.bin_dir()).args(["--to", &cluster.url("versions_back")]), 0);
    assert_eq!(cluster.psql("versions_back", "SELECT count(*) FROM t"), "100");
    cluster.drop_database("versions_back");
    for words in [&["prune", "--keep-last", "1"][..], &["promote", &first], &["backup"], &["pin", &first]] {
        let (error, _) = expect_failure(moto.command("versioned", words).args(["--at", &before]), 2);
        assert!(error.contains("--at"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut list = pgstow();
    let (error, _) = expect_failure(list.args(["list", "--at", "2026-01-01", "--store"]).arg(folder.path()), 2);
    assert!(error.contains("--at") && error.contains("directory"), "{error}");
    moto.python(&format!(
        "for v in s3.list_object_versions(Bucket='versioned', Prefix='p/runs/{second}/manifest.json')['Versions']:\n  \
         if v['Size'] == 1: s3.delete_object(Bucket='versioned', Key=v['Key'], VersionId=v['VersionId'])"
    ));

    // Deleted with its versions, and nothing else.
    let third = run(&moto, cluster, "versioned", &[]);
    let kept = bytes(&moto, "versioned", &first);
    let planned = json(&moto, "versioned", &["prune", "--keep-last", "1", "--versions", "--dry-run"]);
    assert_eq!(planned["runs"][1]["action"], "delete");
    let size = bytes(&moto, "versioned", &second);
    let pruned = json(&moto, "versioned", &["prune", "--keep-last", "1", "--versions"]);
    assert_eq!((&pruned["freed_bytes"], &pruned["deleted_bytes"]), (&size.into(), &size.into()), "{pruned}");
    assert_eq!((bytes(&moto, "versioned", &second), bytes(&moto, "versioned", &first)), (0, kept));
    expect_code(&mut moto.command("versioned", &["verify", &third]), 0);

    // A locked run is neither deleted nor said to be.
    let lock = ["--s3-object-lock-mode", "COMPLIANCE", "--s3-object-lock-retain", "10m"];
    let old = run(&moto, cluster, "locked", &lock);
    run(&moto, cluster, "locked", &lock);
    let pruned = json(&moto, "locked", &["prune", "--keep-last", "1", "--versions"]);
    assert_eq!((&pruned["deleted_runs"], &pruned["failures"]), (&0.into(), &serde_json::json!([])), "{pruned}");
    assert!(pruned["runs"][1]["reasons"].to_string().contains("Object Lock"), "{pruned}");
    expect_code(&mut moto.command("locked", &["show", &old]), 0);
    let (text, _) = expect_code(&mut moto.command("locked", &["prune", "--keep-last", "1"]), 0);
    assert!(text.contains("still take room as old versions"), "{text}");
    cluster.drop_database("versions");
}
