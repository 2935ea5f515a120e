//! Encrypted runs: everything is sealed, the stock `age` opens it, the program opens it with the key and says what it
//! did not look into without.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::judge;
use crate::support::pg::{self, Cluster};
use crate::support::process::{succeed, succeed_with};
use crate::support::program::{
    self, Run, awkward, expect_code, expect_failure, files, json, pgstow, restore_as_told_with,
};

/// A key made by the stock `age-keygen`: its file, and its public half.
pub(super) struct Key {
    _folder: tempfile::TempDir,
    pub(super) file: PathBuf,
    pub(super) public: String,
}

impl Key {
    pub(super) fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.txt");
        succeed(Command::new("age-keygen").arg("-o").arg(&file));
        let public = succeed(Command::new("age-keygen").arg("-y").arg(&file)).trim().to_owned();
        Self { _folder: folder, file, public }
    }

    pub(super) fn secret(&self) -> String {
        let text = fs::read_to_string(&self.file).unwrap();
        text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap().to_owned()
    }

    /// What the stock tools read of a stored object.
    fn plain(&self, run: &Run, key: &str) -> Vec<u8> {
        let opened =
            succeed_with(Command::new("age").arg("-d").arg("-i").arg(&self.file).arg(run.folder.join(key)), b"");
        if key.contains(".zst") {
            succeed_with(Command::new("zstd").arg("-dc"), &opened.stdout).stdout
        } else {
            opened.stdout
        }
    }
}

fn reading(command: &str, store: &Path) -> Command {
    let mut reading = pgstow();
    reading.arg(command).arg("--store").arg(store);
    reading
}

fn verified(store: &Path, identity: Option<&Key>, code: i32) -> Value {
    let mut verify = reading("verify", store);
    if let Some(key) = identity {
        verify.arg("--identity").arg(&key.file);
    }
    serde_json::from_str(&expect_code(verify.arg("--json"), code).0).unwrap()
}

fn restore(cluster: &Cluster, database: &str, store: &Path, key: &Key) -> Command {
    let mut restore = reading("restore", store);
    restore.arg("--pg-bin-dir").arg(cluster.bin_dir()).arg("--to").arg(cluster.url(database));
    restore.arg("--identity").arg(&key.file);
    restore
}

#[test]
pub(crate) fn everything_is_sealed_and_stock_tools_restore_it_as_told() {
    let source = awkward(pg::versions()[0]);
    let (ours, other, stranger) = (Key::make(), Key::make(), Key::make());
    let folder = tempfile::tempdir().unwrap();
    let (store, list) = (folder.path().join("store"), folder.path().join("recipients"));
    fs::write(&list, format!("# who may read\n{}\n", other.public)).unwrap();
    let mut backup = program::backup(&source.cluster, "app", &store);
    let (_, log) =
        expect_code(backup.arg("--encrypt").arg(&list).env("PGSTOW_LOG", "trace").args(["--encrypt", &ours.public]), 0);
    assert!(![&ours, &other].iter().any(|key| log.contains(&key.secret())));
    let run = Run::latest(&store);
    let recipients = serde_json::json!([other.public, ours.public]);
    assert_eq!(run.manifest["encryption"], serde_json::json!({"scheme": "age", "recipients": recipients}));
    sealed(&run, &source.run, &ours);
    assert!(other.plain(&run, "@roles.sql.zst.age") == ours.plain(&run, "@roles.sql.zst.age"));

    without_the_key(&store, &run, &stranger);
    let verdict = verified(&store, Some(&ours), 0);
    assert_eq!((&verdict["checked"], &verdict["rows"]), (&Value::from("contents"), &run.manifest["totals"]["rows"]));

    let plain = folder.path().join("plain");
    // The right key may be one of several.
    let mut download = reading("download", &store);
    download
        .arg("--to")
        .arg(&plain)
        .env("PGSTOW_IDENTITY", format!("{},{}", stranger.file.display(), other.file.display()));
    expect_code(&mut download, 0);
    assert!(fs::read(plain.join("kinds.dump")).unwrap() == ours.plain(&run, "kinds.dump.zst.age"));
    assert!(!files(&plain).iter().any(|file| file.contains(".age") || file.contains(".zst")), "{:?}", files(&plain));

    let target = Cluster::start(source.cluster.version());
    target.create_database("app");
    restore_as_told_with(&run, &target, "app", Some(&ours.file));
    judge::assert_same_database((&source.cluster, "app"), (&target, "app"));
    target.create_database("again");
    expect_code(&mut restore(&target, "again", &store, &other), 0);
    judge::assert_same_database((&source.cluster, "app"), (&target, "again"));
    for file in ["RESTORE.md", "manifest.json"] {
        let text = fs::read_to_string(run.folder.join(file)).unwrap();
        assert!(
            text.contains(&ours.public) && ![&ours, &other].iter().any(|key| text.contains(&key.secret())),
            "{text}"
        );
    }
}

/// Every object but RESTORE.md is an age file, holds for the stock tools what it must, and shows nothing of it.
fn sealed(run: &Run, like: &Run, key: &Key) {
    let objects = run.objects();
    assert!(objects.len() > 200);
    let mut sums = String::new();
    for (name, object) in &objects {
        let path = run.folder.join(name);
        sums.push_str(&format!("{}  {}\n", object["sha256"].as_str().unwrap(), path.display()));
        if name == "RESTORE.md" {
            continue;
        }
        assert!(name.ends_with(".age"), "{name}");
        assert!(fs::read(&path).unwrap().starts_with(b"age-encryption.org/v1\n"), "{name}");
    }
    succeed_with(Command::new("sha256sum").args(["-c", "--quiet", "-"]), sums.as_bytes());
    for (name, object) in objects.iter().filter(|(name, _)| !name.starts_with("many/") && name != "RESTORE.md") {
        let plain = key.plain(run, name);
        assert_eq!(plain.len() as u64, object["raw_bytes"].as_u64().unwrap(), "{name}");
        if name.contains(".sql") && !name.starts_with('@') {
            assert!(plain == like.plain(name.strip_suffix(".age").unwrap()), "{name}");
        }
    }
    for schema in run.schemas() {
        for table in schema["tables"].as_array().unwrap() {
            let same = like.table(schema["name"].as_str().unwrap(), table["name"].as_str().unwrap());
            assert_eq!((&same["digest"], &same["rows"]), (&table["digest"], &table["rows"]));
        }
    }
}

/// What can be done without the key, and how it is said.
fn without_the_key(store: &Path, run: &Run, stranger: &Key) {
    let (said, _) = expect_code(&mut reading("verify", store), 0);
    assert!(said.contains("CONTENTS WERE NOT LOOKED INTO"), "{said}");
    let verdict = verified(store, None, 0);
    assert_eq!((&verdict["checked"], &verdict["ok"]), (&Value::from("hashes only"), &Value::from(true)));
    let (listed, _) = expect_code(&mut reading("list", store), 0);
    assert!(listed.contains("hashes only"), "{listed}");
    let (shown, _) = expect_code(&mut reading("show", store), 0);
    assert!(shown.contains("encrypted  age, to age1"), "{shown}");

    let to = tempfile::tempdir().unwrap();
    let (error, all) = expect_failure(reading("download", store).arg("--to").arg(to.path().join("a")), 2);
    assert!(error.contains("is encrypted") && all.contains("--identity") && all.contains("--raw"), "{all}");
    expect_code(reading("download", store).arg("--raw").arg("--to").arg(to.path().join("raw")), 0);
    for (name, _) in run.objects() {
        let fetched = fs::read(to.path().join("raw").join(&name)).unwrap();
        assert!(fetched == fs::read(run.folder.join(&name)).unwrap(), "{name}");
    }
    for command in ["verify", "download"] {
        let mut wrong = reading(command, store);
        let (error, all) = expect_failure(wrong.arg("--identity").arg(&stranger.file), 2);
        assert!(error.contains("is not encrypted to age1") && all.contains("hint:"), "{all}");
    }
    let mut restore = reading("restore", store);
    let (error, _) = expect_failure(restore.args(["--to", "postgresql://127.0.0.1:1/x"]), 2);
    assert!(error.contains("is encrypted"), "{error}");
    // A secret on the command line is not repeated.
    let (_, all) = expect_failure(reading("verify", store).arg("--identity").arg(stranger.secret()), 2);
    assert!(!all.contains(&stranger.secret()), "{all}");

    let victim = run.folder.join("kinds.dump.zst.age");
    let before = fs::read(&victim).unwrap();
    let mut flipped = before.clone();
    flipped[before.len() / 2] ^= 1;
    fs::write(&victim, flipped).unwrap();
    assert_eq!(verified(store, None, 4)["damaged"][0]["key"], "kinds.dump.zst.age");
    fs::remove_file(&victim).unwrap();
    assert_eq!(verified(store, None, 4)["damaged"][0]["key"], "kinds.dump.zst.age");
    fs::write(&victim, before).unwrap();
}

#[test]
fn what_is_no_public_key_stops_a_backup_before_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let key = Key::make();
    let cluster = pg::shared(pg::versions()[0]);
    for bad in
        [key.secret(), key.file.display().to_string(), "age1x".to_owned(), "/no/such/file".to_owned(), " ".to_owned()]
    {
        let (_, all) = expect_failure(program::backup(cluster, "postgres", &store).args(["--encrypt", &bad]), 2);
        assert!(all.contains("--encrypt") && !all.contains(&key.secret()), "{all}");
    }
    assert!(files(&store).is_empty());
}

/// Says the manifest's size and SHA-256 of an object anew, so that only what is in it can tell.
fn mended(run: &Run, name: &str, stored: &[u8]) -> Vec<u8> {
    fn mend(value: &mut Value, name: &str, bytes: usize, sha256: &str) -> i64 {
        let mut grown = 0;
        match value {
            Value::Object(fields) => {
                if fields.get("key").is_some_and(|key| key == name) {
                    grown = i64::try_from(bytes).unwrap() - fields["bytes"].as_i64().unwrap();
                    fields["bytes"] = bytes.into();
                    fields["sha256"] = sha256.into();
                }
                grown + fields.values_mut().map(|field| mend(field, name, bytes, sha256)).sum::<i64>()
            }
            Value::Array(items) => items.iter_mut().map(|item| mend(item, name, bytes, sha256)).sum(),
            _ => 0,
        }
    }
    let sum = succeed_with(Command::new("sha256sum").arg("-"), stored).stdout;
    let sum = String::from_utf8(sum).unwrap()[..64].to_owned();
    let mut manifest = run.manifest.clone();
    let grown = mend(&mut manifest, name, stored.len(), &sum);
    manifest["totals"]["stored_bytes"] = (manifest["totals"]["stored_bytes"].as_i64().unwrap() + grown).into();
    serde_json::to_vec(&manifest).unwrap()
}

#[test]
pub(crate) fn damage_inside_a_large_encrypted_table_is_named_and_its_pieces_are_read_side_by_side() {
    let cluster = pg::shared(15);
    let (name, copy) = ("encrypted_large", "encrypted_large_copy");
    cluster.create_database(name);
    cluster.psql(
        name,
        "CREATE TABLE large (id integer PRIMARY KEY, t text);
         INSERT INTO large SELECT i, repeat(md5(i::text), 40) FROM generate_series(1, 60000) i; VACUUM ANALYZE large",
    );
    cluster.create_database(copy);
    let key = Key::make();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut backup = program::backup(cluster, name, &store);
    expect_code(backup.args(["--compression", "none"]).env("PGSTOW_ENCRYPT", format!(" {},\n", key.public)), 0);
    let run = Run::latest(&store);
    let index: Value = serde_json::from_slice(&key.plain(&run, "public/large.index.age")).unwrap();
    assert!(index["pieces"].as_array().unwrap().len() > 3, "{index}");
    assert_eq!(verified(&store, Some(&key), 0)["checked"], "contents");

    let path = run.folder.join("public/large.sql.age");
    let sound = fs::read(&path).unwrap();
    let manifest = fs::read(run.folder.join("manifest.json")).unwrap();
    let mut flipped = sound.clone();
    flipped[sound.len() - 20_000_000] ^= 1;
    fs::write(&path, &flipped).unwrap();
    let (error, _) = expect_failure(&mut restore(cluster, copy, &store, &key), 1);
    assert!(error.contains("public/large.sql.age: piece"), "{error}");
    assert_eq!(cluster.psql(copy, "SELECT count(*) FROM large"), "0");
    assert_eq!(verified(&store, Some(&key), 4)["damaged"][0]["key"], "public/large.sql.age");
    for damaged in [&flipped[..], &sound[..sound.len() / 65_552 * 65_552], &[&sound[..], b"x"].concat()] {
        fs::write(&path, damaged).unwrap();
        fs::write(run.folder.join("manifest.json"), mended(&run, "public/large.sql.age", damaged)).unwrap();
        let latest = json(&store.join("latest.json"));
        let verdict: Value = {
            let mut verify = reading("verify", &store);
            verify.arg(latest["run"].as_str().unwrap()).arg("--identity").arg(&key.file).arg("--json");
            serde_json::from_str(&expect_code(&mut verify, 4).0).unwrap()
        };
        let keys: Vec<&str> =
            verdict["damaged"].as_array().unwrap().iter().map(|d| d["key"].as_str().unwrap()).collect();
        assert!(keys.contains(&"public/large.sql.age"), "{verdict}");
    }
    fs::write(&path, &sound).unwrap();
    fs::write(run.folder.join("manifest.json"), manifest).unwrap();
    expect_code(&mut restore(cluster, copy, &store, &key), 0);
    let rows = "SELECT count(*), sum(hashtextextended(id || t, 0)) FROM large";
    assert_eq!(cluster.psql(name, rows), cluster.psql(copy, rows));
    let mut drill = reading("drill", &store);
    drill.arg("--pg-bin-dir").arg(cluster.bin_dir()).arg("--on").arg(cluster.url("postgres"));
    let (said, _) = expect_code(drill.arg("--identity").arg(&key.file), 0);
    assert!(said.contains("PROVEN"), "{said}");
}
