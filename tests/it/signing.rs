//! Signed runs: the stock `minisign` checks the signature, and every command that uses a run refuses one that is not
//! signed by a trusted key.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::pg::{self, Cluster};
use crate::support::process::succeed;
use crate::support::program::{self, Run, expect_code, expect_failure, pgstow};

/// A key pair made by the stock `minisign`.
pub(crate) struct Key {
    folder: tempfile::TempDir,
    pub(crate) public: String,
}

impl Key {
    pub(crate) fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (secret, public) = (folder.path().join("key"), folder.path().join("key.pub"));
        succeed(Command::new("minisign").arg("-G").arg("-W").arg("-s").arg(&secret).arg("-p").arg(&public));
        let text = fs::read_to_string(&public).unwrap();
        let public = text.lines().nth(1).unwrap().to_owned();
        Self { folder, public }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("key")
    }
}

fn reading(command: &str, store: &Path, trust: &Key) -> Command {
    let mut reading = pgstow();
    reading.arg(command).arg("--store").arg(store).arg("--trust").arg(&trust.public);
    reading
}

/// One run of each command that uses a run, with what it may change.
fn commands(store: &Path, cluster: &Cluster, to: &Path, trust: &Key) -> Vec<(&'static str, Command)> {
    let mut download = reading("download", store, trust);
    download.arg("--to").arg(to.join("download"));
    let mut restore = reading("restore", store, trust);
    restore.arg("--to").arg(cluster.url("target")).arg("--pg-bin-dir").arg(cluster.bin_dir());
    let mut drill = reading("drill", store, trust);
    drill.arg("--on").arg(cluster.url("postgres")).arg("--pg-bin-dir").arg(cluster.bin_dir());
    let mut promote = reading("promote", store, trust);
    promote.arg("latest");
    vec![
        ("verify", reading("verify", store, trust)),
        ("download", download),
        ("restore", restore),
        ("drill", drill),
        ("promote", promote),
    ]
}

#[test]
fn only_runs_signed_by_a_trusted_key_are_used_and_stock_minisign_agrees() {
    let cluster = Cluster::start(pg::versions()[0]);
    cluster.create_database("app");
    cluster.create_database("target");
    cluster.psql("app", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)");
    let (ours, other) = (Key::make(), Key::make());
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");

    // Not signed at all.
    expect_code(&mut program::backup(&cluster, "app", &store), 0);
    for (name, mut command) in commands(&store, &cluster, folder.path(), &ours) {
        let (_, log) = expect_failure(&mut command, if name == "restore" { 1 } else { 4 });
        assert!(log.contains("is not signed"), "{name}: {log}");
    }

    // Signed with the key's file; then with its text, from the environment alone.
    let mut signed = program::backup(&cluster, "app", &store);
    let (_, log) = expect_code(signed.arg("--sign-key").arg(ours.file()).env("PGSTOW_LOG", "trace"), 0);
    let secret = fs::read_to_string(ours.file()).unwrap();
    assert!(!log.contains(secret.lines().nth(1).unwrap()));
    let mut typed = program::backup(&cluster, "app", &store);
    expect_failure(typed.arg("--sign-key").arg(&secret), 2);
    expect_code(program::backup(&cluster, "app", &store).env("PGSTOW_SIGN_KEY", &secret), 0);

    let run = Run::latest(&store);
    let manifest = run.folder.join("manifest.json");
    succeed(Command::new("minisign").args(["-V", "-P", &ours.public, "-m"]).arg(&manifest));
    for (name, mut command) in commands(&store, &cluster, folder.path(), &other) {
        let (_, log) = expect_failure(&mut command, if name == "restore" { 1 } else { 4 });
        assert!(log.contains("which is not trusted"), "{name}: {log}");
    }
    assert_eq!(cluster.psql("target", "SELECT count(*) FROM pg_class WHERE relname = 't'").trim(), "0");
    for (_, mut command) in commands(&store, &cluster, folder.path(), &ours) {
        expect_code(&mut command, 0);
    }
    assert_eq!(cluster.psql("target", "SELECT count(*) FROM t").trim(), "100");

    // What doctor says of it.
    let doctor = |words: &[&str]| {
        let mut command = pgstow();
        command.args(["doctor", "--skip-database", "--store"]).arg(&store).args(words);
        expect_code(&mut command, 0).0
    };
    let key = ours.file();
    let key = key.to_str().unwrap();
    assert!(
        doctor(&[]).contains("the next run is not signed") && doctor(&[]).contains("without --trust nobody checks")
    );
    let trusted = doctor(&["--sign-key", key, "--trust", &ours.public]);
    assert!(trusted.contains("which is trusted") && trusted.contains(&ours.public), "{trusted}");
    let strange = doctor(&["--sign-key", key, "--trust", &other.public]);
    assert!(strange.contains("which --trust does not name") && strange.contains("which is not trusted"), "{strange}");

    // A manifest that was changed, with everything else mended to fit: only the signature tells.
    let text = fs::read_to_string(&manifest).unwrap().replace("\"superuser\": true", "\"superuser\": false");
    fs::write(&manifest, &text).unwrap();
    let pointer = store.join("latest.json");
    let old = serde_json::from_slice::<serde_json::Value>(&fs::read(&pointer).unwrap()).unwrap();
    let mended = fs::read_to_string(&pointer)
        .unwrap()
        .replace(old["sha256"].as_str().unwrap(), &pgstow::seal::hash::sha256(text.as_bytes()));
    fs::write(&pointer, mended).unwrap();
    expect_code(pgstow().args(["verify", "--store"]).arg(&store), 0);
    for (name, mut command) in commands(&store, &cluster, &folder.path().join("again"), &ours) {
        let (_, log) = expect_failure(&mut command, if name == "restore" { 1 } else { 4 });
        assert!(log.contains("does not fit its manifest"), "{name}: {log}");
    }
}
