//! What the environment may do: `.env` and whose it is, names nobody knows, values as secrets are mounted, words that are
//! no store, and what others on the machine can read.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::support::bucket::Bucket;
use super::support::pg;
use super::support::program::{backup, expect_code, expect_failure, files, json, pgstow};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn list_in(folder: &Path) -> Command {
    let mut command = pgstow();
    command.arg("list").current_dir(folder);
    command
}

#[test]
fn dotenv_is_read_from_the_working_directory_and_from_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let dotenv = folder.path().join(".env");
    let (store, below) = (folder.path().join("$store"), folder.path().join("below"));
    fs::create_dir_all(&store).unwrap();
    fs::create_dir_all(&below).unwrap();
    // Lines of other programs, and a value with a dollar.
    let text = format!("RAILS=a b c\nnot a line\n'x\nexport PGSTOW_STORE={} # here\n", store.display());
    fs::write(&dotenv, text).unwrap();
    set_mode(&dotenv, 0o644);
    let (out, err) = expect_code(&mut list_in(folder.path()), 0);
    assert!(out.contains("no backups in") && out.contains("$store"), "{out}{err}");

    // Not from a folder above.
    let (error, all) = expect_failure(&mut list_in(&below), 2);
    assert!(error.contains("no store is named") && all.contains("PGSTOW_STORE"), "{all}");
    // Not where others can write to it.
    for shared in [0o664, 0o646, 0o666] {
        set_mode(&dotenv, shared);
        let (error, all) = expect_failure(&mut list_in(folder.path()), 2);
        assert!(error.contains("no store is named"), "{all}");
    }
    set_mode(&dotenv, 0o600);
    let uid = |path: &Path| std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap());
    if uid(&dotenv) == 0 {
        std::os::unix::fs::chown(&dotenv, Some(65_534), None).unwrap();
        let (error, _) = expect_failure(&mut list_in(folder.path()), 2);
        assert!(error.contains("no store is named"), "{error}");
    }
}

#[test]
fn dotenv_names_no_program() {
    let cluster = pg::shared(15);
    cluster.create_database("dotenv");
    let folder = tempfile::tempdir().unwrap();
    let (planted, ran) = (folder.path().join("bin"), folder.path().join("ran"));
    fs::create_dir_all(&planted).unwrap();
    for program in ["pg_dump", "pg_dumpall", "pg_restore"] {
        let script = format!("#!/bin/sh\ntouch {}\nexit 1\n", ran.display());
        fs::write(planted.join(program), script).unwrap();
        set_mode(&planted.join(program), 0o755);
    }
    let text = format!("PGSTOW_PG_BIN_DIR={0}\nPATH={0}\nPGSTOW_STORE=./store\n", planted.display());
    fs::write(folder.path().join(".env"), text).unwrap();
    set_mode(&folder.path().join(".env"), 0o600);
    let path = std::env::join_paths(
        [cluster.bin_dir().to_owned()].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let mut command = pgstow();
    command.arg("backup").current_dir(folder.path()).env("DATABASE_URL", cluster.url("dotenv"));
    let (_, err) = expect_code(command.env_remove("PGSTOW_PG_BIN_DIR").env("PATH", path.unwrap()), 0);
    assert!(err.contains("PGSTOW_PG_BIN_DIR in .env is not taken"), "{err}");
    assert!(!ran.exists(), "a program that .env names was started");
    assert!(folder.path().join("store/latest.json").exists());
    cluster.drop_database("dotenv");
}

#[test]
fn misspelt_settings_and_stores_make_no_backup() {
    let folder = tempfile::tempdir().unwrap();
    let on = |words: &[&str]| {
        let mut command = pgstow();
        command.args(words).current_dir(folder.path());
        command
    };
    for (wrong, right) in
        [("PGSTOW_ENCYPT", "PGSTOW_ENCRYPT"), ("PGSTOW_STOR", "PGSTOW_STORE"), ("PGSTOW_QUITE_OTHER", "")]
    {
        let (error, all) = expect_failure(on(&["backup", "--store", "./x"]).env(wrong, "age1x"), 2);
        assert!(error.contains(wrong) && (right.is_empty() || all.contains(&format!("did you mean {right}"))), "{all}");
    }
    // What Kubernetes sets for a service of this name is no misspelling.
    fs::create_dir(folder.path().join("there")).unwrap();
    for name in ["PGSTOW_PORT", "PGSTOW_SERVICE_HOST", "PGSTOW_PORT_80_TCP_ADDR"] {
        expect_code(on(&["list", "--store", "there"]).env(name, "x"), 0);
    }
    // A variable that is set to nothing is not set.
    expect_code(on(&["list", "--store", "there"]).env("PGSTOW_JOBS", "").env("PGSTOW_LOG", ""), 0);
    expect_code(on(&["verify", "--store", "there"]).env("PGSTOW_JOBS", "").env("PGSTOW_IDENTITY", ""), 2);
    for wrong in ["s3:/bucket/x", "s3//bucket/x", "S3://bucket/x", "s3:bucket", "https://host/bucket", "gs://b/x", " "]
    {
        for word in ["backup", "list"] {
            let (error, all) = expect_failure(&mut on(&[word, "--store", wrong]), 2);
            assert!(error.contains("--store") && all.contains("s3://bucket/prefix"), "{wrong}: {all}");
        }
    }
    let mut bare = on(&["backup", "--store", "bucket/x"]);
    let (error, all) = expect_failure(bare.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), 2);
    assert!(error.contains("bucket/x") && all.contains("s3://bucket/x"), "{all}");
    for words in [&["list"][..], &["show"], &["status"], &["prune", "--keep-last", "1"], &["verify"]] {
        let (error, all) = expect_failure(on(words).args(["--store", "./missing"]), 2);
        assert!(error.contains("does not exist"), "{all}");
    }
    let (error, _) = expect_failure(&mut on(&["backup"]), 2);
    assert!(error.contains("no store is named"), "{error}");
    assert_eq!(files(folder.path()), [""; 0]);
}

#[test]
fn values_of_mounted_secrets_work_and_bad_ones_are_named() {
    let bucket = Bucket::start();
    let on = || bucket.command("pre", &["list"]);
    let value = |name: &str| {
        let command = on();
        let found = command.get_envs().find(|(key, _)| *key == name).unwrap().1.unwrap().to_owned();
        found.into_string().unwrap()
    };
    let mut command = on();
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        command.env(name, format!("{}\n", value(name)));
    }
    let (out, _) = expect_code(command.env("AWS_REGION", "us-east-1\r\n"), 0);
    assert!(out.contains("no backups"), "{out}");
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_SESSION_TOKEN"] {
        let (error, all) = expect_failure(on().env(name, "one\ntwo-n33dle"), 2);
        assert!(error.contains(name) && !all.contains("n33dle") && !all.contains("panic"), "{all}");
    }
}

#[test]
fn an_error_is_one_document_too() {
    let folder = tempfile::tempdir().unwrap();
    for (words, code) in [
        (&["show", "--json", "--store", "."][..], 2),
        (&["prune", "--json", "--store", "."], 2),
        (&["list", "--json", "--store", "./missing"], 2),
        (&["verify", "--json", "--jobs", "0"], 2),
        (&["status", "--json", "--store", "."], 1),
        (&["doctor", "--json", "--skip-database", "--store", "/proc/nothing"], 1),
    ] {
        let (out, err) = expect_code(pgstow().args(words).current_dir(folder.path()), code);
        let document: Value =
            serde_json::from_str(&out).unwrap_or_else(|error| panic!("{words:?}: {error}: {out}{err}"));
        if document.get("error").is_some() {
            assert_eq!(document["exit_code"], code, "{document}");
        }
    }
}

#[test]
fn stores_and_downloads_are_for_their_owner_only() {
    let cluster = pg::shared(15);
    cluster.create_database("private");
    cluster.psql("private", "CREATE TABLE t (x int); INSERT INTO t VALUES (1)");
    let folder = tempfile::tempdir().unwrap();
    let (store, to) = (folder.path().join("store"), folder.path().join("to/here"));
    expect_code(&mut backup(cluster, "private", &store), 0);
    let mut download = pgstow();
    expect_code(download.arg("download").arg("--to").arg(&to).arg("--store").arg(&store), 0);
    for top in [&store, &folder.path().join("to")] {
        let found = files(top);
        assert!(found.len() > 5, "{found:?}");
        assert_eq!(mode(top), 0o700, "{}", top.display());
        for file in found {
            let path = top.join(&file);
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            assert_eq!(mode(path.parent().unwrap()), 0o700, "{}", path.display());
        }
    }
    cluster.drop_database("private");
}

#[test]
fn no_name_of_a_schema_or_table_collides_or_is_too_long() {
    let cluster = pg::shared(15);
    cluster.create_database_with("collide", "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'");
    let long = "\u{e9}".repeat(63);
    let other = format!("{}\u{e8}", "\u{e9}".repeat(62));
    let names = ["manifest.json", "RESTORE.md", "x.dump.zst", "x", "x.dump", "Manifest.Json", &long, &other];
    for name in names {
        cluster.psql(
            "collide",
            &format!("CREATE SCHEMA \"{name}\"; CREATE TABLE \"{name}\".\"{name}\" AS SELECT '{name}'::text"),
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let (store, to) = (folder.path().join("store"), folder.path().join("to"));
    expect_code(&mut backup(cluster, "collide", &store), 0);
    let on = |words: &[&str]| {
        let mut command = pgstow();
        command.args(words).arg("--store").arg(&store);
        command
    };
    expect_code(&mut on(&["verify"]), 0);
    expect_code(on(&["download"]).arg("--to").arg(&to), 0);
    let run = json(&store.join("latest.json"))["run"].as_str().unwrap().to_owned();
    let manifest = json(&store.join(format!("runs/{run}/manifest.json")));
    let mut keys: Vec<&str> = Vec::new();
    for schema in manifest["schemas"].as_array().unwrap() {
        keys.push(schema["dump"]["key"].as_str().unwrap());
        for table in schema["tables"].as_array().unwrap() {
            let key = table["file"]["key"].as_str().unwrap();
            keys.push(key);
            assert!(key.split('/').all(|part| part.len() < 230), "{key}");
            let name = table["name"].as_str().unwrap();
            let text = fs::read_to_string(to.join(key.strip_suffix(".zst").unwrap())).unwrap();
            assert!(text.contains(&format!("\n{name}\n")), "{name} in {key}");
        }
    }
    keys.sort_unstable();
    let before = keys.len();
    keys.dedup();
    assert_eq!(keys.len(), before, "two objects with one key");
    assert!(before >= 2 * names.len());
    cluster.drop_database("collide");
}
