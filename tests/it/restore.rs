//! `pgstow restore`: what comes back is what was saved, whole or in parts; damage and wrong targets are refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::support::judge;
use super::support::pg::{self, Cluster};
use super::support::process::{output_with, succeed_with};

/// The program, with nothing of the caller's environment that could change what it does.
fn pgstow(cluster: &Cluster, store: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgstow"));
    for (key, _) in std::env::vars_os() {
        let key = key.to_string_lossy().into_owned();
        if key.starts_with("PG") || key.starts_with("AWS_") || key == "DATABASE_URL" {
            command.env_remove(key);
        }
    }
    command.current_dir(store.parent().unwrap()).env("PGSTOW_STORE", store).env("PGSTOW_PG_BIN_DIR", cluster.bin_dir());
    command.args(arguments);
    command
}

fn backup(cluster: &Cluster, database: &str, store: &Path) {
    let url = cluster.url(database);
    succeed_with(&mut pgstow(cluster, store, &["backup", "--database-url", &url]), b"");
}

fn restore(cluster: &Cluster, database: &str, store: &Path, more: &[&str]) -> Output {
    let url = cluster.url(database);
    output_with(pgstow(cluster, store, &["restore", "--to", &url]).args(more), b"")
}

#[track_caller]
fn restored(cluster: &Cluster, database: &str, store: &Path, more: &[&str]) -> String {
    let output = restore(cluster, database, store, more);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "restore {more:?} ended with {}\n{stderr}", output.status);
    stderr
}

#[track_caller]
fn refused(cluster: &Cluster, database: &str, store: &Path, more: &[&str], code: i32) -> String {
    let output = restore(cluster, database, store, more);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "restore {more:?}\n{stderr}");
    stderr
}

/// A cluster with the awkward database `app`.
fn awkward(version: u32) -> Cluster {
    let cluster = Cluster::start(version);
    cluster.create_database("app");
    cluster.psql_file("postgres", &pg::fixture("awkward_roles.sql"), &[]);
    cluster.psql_file("app", &pg::fixture("awkward.sql"), &[]);
    cluster.psql_file("app", &pg::fixture("volume.sql"), &[("rows", "1000"), ("tables", "20")]);
    cluster
}

/// A subscription keeps its database from being dropped.
fn without_subscriptions(cluster: &Cluster, database: &str) {
    let names = cluster.psql(database, "SELECT quote_ident(subname) FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())");
    for name in names.lines() {
        cluster.psql(database, &format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"));
        cluster.psql(database, &format!("DROP SUBSCRIPTION {name}"));
    }
}

const LARGE_OBJECTS: &str = "SELECT m.oid, md5(lo_get(m.oid)), pg_get_userbyid(lomowner), lomacl FROM pg_largeobject_metadata m ORDER BY 1";
const SETTINGS: &str = "SELECT setrole::regrole, setconfig FROM pg_db_role_setting WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1";
const DATABASE: &str = "SELECT datacl, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()";

fn same(cluster: &Cluster, one: &str, other: &str) {
    judge::assert_same_database((cluster, one), (cluster, other));
    for question in [LARGE_OBJECTS, SETTINGS, DATABASE] {
        assert_eq!(cluster.psql(one, question), cluster.psql(other, question), "{question}");
    }
}

#[test]
fn the_awkward_database_comes_back_in_every_version() {
    for version in pg::versions() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let cluster = awkward(version);
        backup(&cluster, "app", &store);

        cluster.create_database("copy \"x\"");
        restored(&cluster, "copy \"x\"", &store, &[]);
        same(&cluster, "app", "copy \"x\"");
        let told = refused(&cluster, "copy \"x\"", &store, &[], 2);
        assert!(told.contains("is not empty"), "{told}");
        let told = refused(&cluster, "app", &store, &["--into-existing"], 2);
        assert!(told.contains("the very database"), "{told}");

        restored(&cluster, "made", &store, &["--create", "--jobs", "1"]);
        same(&cluster, "app", "made");
        let properties = |name: &str| cluster.psql(name, "SELECT encoding, datcollate, datctype, pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()");
        assert_eq!(properties("app"), properties("made"));
    }
}

/// The stored object with this key of the newest run.
fn object(store: &Path, key: &str) -> PathBuf {
    let run = fs::read_dir(store.join("runs")).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let path = run.join(key);
    assert!(path.is_file(), "{} is missing", path.display());
    path
}

#[test]
fn damage_fails_a_restore_with_its_key_and_the_same_command_completes_it_later() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = awkward(15);
    backup(&cluster, "app", &store);
    cluster.create_database("copy");
    for key in ["kinds/big.sql.zst", "kinds/values_of_all_kinds.sql.zst", "@large-objects.dump.zst", "@database.dump.zst"] {
        let path = object(&store, key);
        let sound = fs::read(&path).unwrap();
        let mut flipped = sound.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x10;
        for damaged in [&flipped[..], &sound[..sound.len() - 7]] {
            fs::write(&path, damaged).unwrap();
            let told = refused(&cluster, "copy", &store, &[], 1);
            assert!(told.contains(key), "{key}: {told}");
        }
        fs::write(&path, &flipped).unwrap();
        refused(&cluster, "copy", &store, &[], 1);
        let rows = cluster.psql("copy", "SELECT to_regclass('kinds.big') IS NULL");
        if rows == "f" && key.starts_with("kinds/") {
            let table = key.trim_end_matches(".sql.zst").replace('/', ".");
            assert_eq!(cluster.psql("copy", &format!("SELECT count(*) FROM {table}")), "0", "{key}: half a table");
        }
        fs::write(&path, &sound).unwrap();
    }
    let log = restored(&cluster, "copy", &store, &[]);
    assert!(log.contains("unfinished restore"), "{log}");
    same(&cluster, "app", "copy");
}
