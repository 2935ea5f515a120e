//! A run in a second store: what arrives, what goes on after it broke off, and what is not copied.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::signing::Key;
use super::support::bucket::Bucket;
use super::support::judge::assert_same_database;
use super::support::pg;
use super::support::process::succeed;
use super::support::program::{Run, backup, expect_code, expect_failure, files, pgstow};

fn copy(from: &Path, to: &Path) -> Command {
    let mut command = pgstow();
    command.arg("copy").arg("--store").arg(from).arg("--to").arg(to);
    command
}

#[test]
pub(crate) fn a_copy_is_the_run_itself_and_goes_on_where_it_broke_off() {
    let cluster = pg::shared(pg::packaged());
    cluster.create_database("copied");
    cluster.psql(
        "copied",
        "CREATE TABLE t AS SELECT n, repeat(md5(n::text), 20) x FROM generate_series(1, 8000) n; SELECT lo_from_bytea(0, 'blob')",
    );
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let mut command = backup(cluster, "copied", &first);
    expect_code(command.args(["--compression", "none", "--max-object-size", "1MB"]), 0);
    let run = Run::latest(&first);

    let damaged = run.folder.join("public/t.sql.002");
    let whole = fs::read(&damaged).unwrap();
    let mut wrong = whole.clone();
    wrong[1000] ^= 1;
    fs::write(&damaged, &wrong).unwrap();
    let (error, all) = expect_failure(copy(&first, &second).args(["--jobs", "1"]), 4);
    assert!(error.contains("public/t.sql.002") && all.contains("pgstow verify"), "{all}");
    let there = second.join("runs").join(&run.name);
    assert!(!there.join("manifest.json").exists() && !second.join("latest.json").exists());
    assert!(!there.join("public/t.sql.002").exists());
    fs::write(&damaged, &whole).unwrap();

    // One object that is there has the right size and another byte: it is written again.
    let some = files(&there)
        .into_iter()
        .find(|name| name.contains("t.sql.001") || name.contains(".dump"))
        .expect("a part was copied");
    let mut bytes = fs::read(there.join(&some)).unwrap();
    bytes[10] ^= 1;
    fs::write(there.join(&some), &bytes).unwrap();
    let (out, _) = expect_code(&mut copy(&first, &second), 0);
    assert!(out.contains("there already") && out.contains("its latest is this run"), "{out}");
    assert_eq!(files(&run.folder), files(&there));
    for name in files(&run.folder) {
        assert!(fs::read(run.folder.join(&name)).unwrap() == fs::read(there.join(&name)).unwrap(), "{name}");
    }
    expect_code(pgstow().args(["verify", "--store"]).arg(&second), 0);
    expect_code(
        pgstow()
            .args(["restore", "--create", "--store"])
            .arg(&second)
            .args(["--to", &cluster.url("copied_back")])
            .arg("--pg-bin-dir")
            .arg(cluster.bin_dir()),
        0,
    );
    assert_same_database((cluster, "copied"), (cluster, "copied_back"));

    // Nothing is written twice; an older run does not move latest; another database is refused.
    let (out, _) = expect_code(copy(&first, &second).arg("--json"), 0);
    let again: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(again["kept"], again["objects"].as_u64().unwrap() - 1, "{again}");
    expect_code(&mut backup(cluster, "copied", &first), 0);
    expect_code(&mut copy(&first, &second), 0);
    assert_eq!(Run::latest(&second).name, Run::latest(&first).name);
    let (out, _) = expect_code(copy(&first, &second).arg(&run.name), 0);
    assert!(out.contains("its latest is not this run"), "{out}");
    cluster.create_database("copied_other");
    let other = folder.path().join("other");
    expect_code(&mut backup(cluster, "copied_other", &other), 0);
    let (error, _) = expect_failure(&mut copy(&other, &second), 2);
    assert!(error.contains("another database"), "{error}");
    expect_failure(&mut copy(&first, &first), 2);
}

#[test]
pub(crate) fn a_night_copies_into_another_server_and_one_that_is_away_fails_that_step_alone() {
    let cluster = pg::shared(pg::packaged());
    cluster.create_database("copied_night");
    cluster.psql("copied_night", "CREATE TABLE t AS SELECT generate_series(1, 100) n");
    let (folder, bucket) = (tempfile::tempdir().unwrap(), Bucket::start());
    let settings: std::collections::BTreeMap<&str, String> = bucket.server.env().into_iter().collect();
    let endpoint = settings["AWS_ENDPOINT_URL_S3"].clone();
    let text = |endpoint: &str| {
        format!(
            "[defaults]\nstore = \"{}/{{name}}\"\nverify = true\n[defaults.copy]\nto = \"{}\"\nto-s3-endpoint = \"{endpoint}\"\nto-s3-region = \"us-east-1\"\n\
             [defaults.env]\nPGSTOW_TO_ACCESS_KEY_ID = {{ env = \"SECOND_ID\" }}\nPGSTOW_TO_SECRET_ACCESS_KEY = {{ env = \"SECOND_KEY\" }}\n\
             [[database]]\nname = \"night\"\nurl = {{ env = \"NIGHT\" }}\n",
            folder.path().join("first").display(),
            bucket.address("second"),
        )
    };
    let night = |endpoint: &str, code: i32| {
        fs::write(folder.path().join("pgstow.toml"), text(endpoint)).unwrap();
        let mut command = pgstow();
        command.args(["run"]).current_dir(folder.path()).env("NIGHT", cluster.url("copied_night"));
        command.env("SECOND_ID", &settings["AWS_ACCESS_KEY_ID"]).env("SECOND_KEY", &settings["AWS_SECRET_ACCESS_KEY"]);
        command.env("PGSTOW_PG_BIN_DIR", cluster.bin_dir()).env("PGSTOW_S3_ATTEMPTS", "1");
        expect_code(&mut command, code).0
    };
    let out = night(&endpoint, 0);
    assert!(out.contains("COPY"), "{out}");
    let run = Run::latest(&folder.path().join("first/night"));
    assert_eq!(Run::latest(&bucket.path("second")).name, run.name);
    let out = night("http://127.0.0.1:9", 1);
    assert!(out.contains("night, copy: the second store"), "{out}");
    assert!(out.lines().any(|line| line.starts_with("night ") && line.matches("ok").count() == 2), "{out}");
}

#[test]
fn a_signed_run_is_signed_in_the_second_place_too() {
    let cluster = pg::shared(pg::packaged());
    cluster.create_database("copied_signed");
    cluster.psql("copied_signed", "CREATE TABLE t AS SELECT generate_series(1, 100) n");
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let (ours, other) = (Key::make(), Key::make());
    expect_code(backup(cluster, "copied_signed", &first).arg("--sign-key").arg(ours.file()), 0);
    let run = Run::latest(&first);

    // Only what is signed by a trusted key is copied.
    let (error, _) = expect_failure(copy(&first, &second).args(["--trust", &other.public]), 4);
    assert!(error.contains("which is not trusted") && !second.join("latest.json").exists(), "{error}");
    expect_code(copy(&first, &second).args(["--trust", &ours.public]), 0);
    let there = second.join("runs").join(&run.name);
    let signature = |folder: &Path| fs::read(folder.join("manifest.json.minisig")).unwrap();
    assert_eq!(signature(&run.folder), signature(&there));
    succeed(Command::new("minisign").args(["-V", "-P", &ours.public, "-m"]).arg(there.join("manifest.json")));
    let reading = |verb: &str, key: &Key| {
        let mut command = pgstow();
        command.args([verb, "--trust", &key.public, "--store"]).arg(&second);
        command.env("PGSTOW_PG_BIN_DIR", cluster.bin_dir()).env("PGSTOW_DRILL_ON", cluster.url("postgres"));
        command
    };
    expect_code(&mut reading("verify", &ours), 0);
    expect_code(&mut reading("drill", &ours), 0);
    let (error, _) = expect_failure(&mut reading("verify", &other), 4);
    assert!(error.contains("which is not trusted"), "{error}");

    // What is not signed does not get in beside it.
    fs::remove_file(run.folder.join("manifest.json.minisig")).unwrap();
    let third = folder.path().join("third");
    let (error, _) = expect_failure(copy(&first, &third).args(["--trust", &ours.public]), 4);
    assert!(error.contains("is not signed") && !third.join("latest.json").exists(), "{error}");
}
