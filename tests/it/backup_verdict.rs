//! The exit code of a backup that is whole and yet not what anybody should rely on: one of nothing, and one that
//! `latest` does not name.

use std::fs;

use serde_json::Value;

use crate::support::pg;
use crate::support::program::{Run, backup, expect_code, json};

#[test]
fn a_run_of_nothing_is_said_and_does_not_take_latest_away_from_one_of_something() {
    let name = "verdict empty";
    let cluster = pg::shared(*pg::versions().last().unwrap());
    cluster.create_database(name);
    let store = tempfile::tempdir().unwrap();
    // A schema and an extension alone hold nothing; the first run of a new project is told of it all the same.
    cluster.psql(name, "CREATE SCHEMA app; COMMENT ON SCHEMA app IS 'to come'");
    let (out, _) = expect_code(&mut backup(cluster, name, store.path()), 0);
    assert!(out.contains("NOTHING WAS SAVED") && out.contains("--allow-empty") && out.contains("postgres"), "{out}");
    expect_code(&mut backup(cluster, name, store.path()), 0);
    let (out, _) = expect_code(backup(cluster, name, store.path()).arg("--allow-empty"), 0);
    assert!(!out.contains("NOTHING"), "{out}");
    cluster.psql(name, "CREATE FUNCTION app.one() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    expect_code(&mut backup(cluster, name, store.path()), 0);
    cluster.psql(name, "CREATE TABLE app.t (id int); DROP FUNCTION app.one()");
    expect_code(&mut backup(cluster, name, store.path()), 0);
    let full = Run::latest(store.path()).name;
    cluster.psql(name, "DROP TABLE app.t");
    let (out, _) = expect_code(backup(cluster, name, store.path()).arg("--json"), 3);
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&document["latest"], &document["status"]), (&Value::Bool(false), &Value::from("complete")), "{out}");
    assert!(document["warnings"][0].as_str().unwrap().contains("NOTHING WAS SAVED"), "{out}");
    assert!(document["warnings"][1].as_str().unwrap().contains(&full), "{out}");
    assert_eq!(Run::latest(store.path()).name, full);
    expect_code(backup(cluster, name, store.path()).env("PGSTOW_ALLOW_EMPTY", "true"), 0);
    assert_ne!(Run::latest(store.path()).name, full);
    cluster.drop_database(name);
}

#[test]
fn a_run_of_nothing_in_a_database_that_nobody_named_ends_with_3() {
    let name = "verdict_nameless";
    let cluster = pg::shared(*pg::versions().last().unwrap());
    cluster.create_database(name);
    cluster.psql("postgres", &format!("CREATE ROLE {name} LOGIN SUPERUSER PASSWORD 'w'"));
    let store = tempfile::tempdir().unwrap();
    let url = cluster.url_as(name, "w", "");
    let mut nameless = backup(cluster, name, store.path());
    let (out, _) = expect_code(nameless.env("DATABASE_URL", url.trim_end_matches('/')), 3);
    assert!(out.contains(&format!("NOTHING WAS SAVED: database {name}")), "{out}");
    expect_code(nameless.env("PGDATABASE", name), 0);
    expect_code(nameless.env_remove("PGDATABASE").arg("--allow-empty"), 0);
    cluster.psql("postgres", &format!("DROP DATABASE {name}; DROP ROLE {name}"));
}

#[test]
fn a_backup_that_latest_does_not_name_ends_with_3_and_says_so() {
    let name = "verdict latest";
    let cluster = pg::shared(*pg::versions().last().unwrap());
    cluster.create_database(name);
    cluster.psql(name, "CREATE TABLE t (id int)");
    let store = tempfile::tempdir().unwrap();
    expect_code(&mut backup(cluster, name, store.path()), 0);
    // Another machine's clock is a little ahead: its run is newer, and not so new that it counts for nothing.
    let path = store.path().join("latest.json");
    let mut pointer = json(&path);
    let ahead = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(45);
    pointer["finished_at"] = Value::from(ahead.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string());
    fs::write(&path, serde_json::to_vec(&pointer).unwrap()).unwrap();
    let first = pointer["run"].as_str().unwrap();
    let (out, _) = expect_code(&mut backup(cluster, name, store.path()), 3);
    assert!(out.contains("LATEST DID NOT MOVE") && out.contains(first) && out.contains("pgstow promote"), "{out}");
    let (out, _) = expect_code(backup(cluster, name, store.path()).arg("--json"), 3);
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["latest"], false);
    assert!(document["warnings"][0].as_str().unwrap().contains(first), "{out}");
    cluster.drop_database(name);
}
