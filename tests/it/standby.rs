//! Backups from a streaming standby: complete like those of the primary, and cancelled by replay with words that help.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::pg::{self, Cluster};
use crate::support::process::{output_with, succeed};
use crate::support::program::{Going, Run, assert_untouched, backup, expect_code, expect_failure, files, pgstow};
use crate::support::session::Talk;

const ROWS_FLOW: &str =
    "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'pgstow reader %' AND query LIKE 'COPY%'";

fn primary() -> Cluster {
    let primary = Cluster::start(*pg::versions().last().unwrap());
    primary.psql(
        "postgres",
        "CREATE TABLE a_first (id int PRIMARY KEY); INSERT INTO a_first VALUES (1), (2), (3);
         CREATE TABLE gone (id int); INSERT INTO gone SELECT generate_series(1, 5000);
         CREATE UNLOGGED TABLE scratch (id int); INSERT INTO scratch VALUES (1);
         CREATE SEQUENCE counter; SELECT setval('counter', 42);
         CREATE TABLE slow (id int, t text);
         INSERT INTO slow SELECT i, repeat(md5(i::text), 32) FROM generate_series(1, 16384) i",
    );
    primary
}

#[test]
fn a_standby_is_backed_up_and_what_replay_cancels_is_explained() {
    let primary = primary();
    // Replay waits for nobody: every conflict cancels at once.
    let standby = primary.standby(&[("max_standby_streaming_delay", "0"), ("hot_standby_feedback", "off")]);
    let store = tempfile::tempdir().unwrap();
    let (_, err) = expect_code(&mut backup(&standby, "postgres", store.path()), 0);
    let run = Run::latest(store.path());
    assert_eq!(run.manifest["status"], "complete", "{err}");
    let source = &run.manifest["source"];
    assert_eq!(source["in_recovery"], true);
    assert_eq!(source["wal_lsn"], standby.psql("postgres", "SELECT pg_last_wal_replay_lsn()").as_str());
    assert_eq!(run.table("public", "slow")["rows"], 16384);
    let skipped = run.manifest["skipped"].as_array().unwrap();
    let scratch: Vec<_> = skipped.iter().filter(|s| s["name"] == "scratch").collect();
    assert!(scratch.len() == 1 && scratch[0]["reason"].as_str().unwrap().contains("standby"), "{skipped:?}");
    expect_code(pgstow().arg("verify").arg("--store").arg(store.path()), 0);
    let before = files(store.path());

    // The primary and its standby are one database: the prefix is theirs together.
    expect_code(&mut backup(&primary, "postgres", tempfile::tempdir().unwrap().path()), 0);
    for (conflict, cure) in [
        ("DROP TABLE gone", "max_standby_streaming_delay"),
        ("DELETE FROM a_first WHERE id < 3; VACUUM a_first", "hot_standby_feedback = on"),
    ] {
        primary.caught_up(&standby);
        let mut observer = Talk::open(&standby, "postgres");
        let mut command = backup(&standby, "postgres", store.path());
        let going = Going::start(command.args(["--rate-limit", "64KiB"]));
        observer.until(ROWS_FLOW);
        for statement in conflict.split("; ") {
            primary.psql("postgres", statement);
        }
        let (out, err) = going.expect_code(1);
        let errors: Vec<&str> = err.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains("recovery"), "{conflict}: {err}");
        let hint = err.lines().find(|line| line.starts_with("hint: ") && line.contains(cure));
        assert!(hint.is_some_and(|hint| hint.contains("back up the primary")), "{conflict}: {err}");
        assert_eq!(out, "");
        assert_untouched(store.path(), &before);
    }
}

/// Lines of `doctor` about the prefix.
fn prefix_check(cluster: &Cluster, store: &Path) -> Option<String> {
    let mut doctor = pgstow();
    doctor.args(["doctor", "--json", "--pg-bin-dir"]).arg(cluster.bin_dir()).arg("--store").arg(store);
    let out = output_with(doctor.env("DATABASE_URL", cluster.url("postgres")), b"").stdout;
    let document: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let checks = document["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == "prefix").map(ToString::to_string)
}

#[test]
fn a_copy_that_was_promoted_does_not_take_the_prefix_of_its_original() {
    let production = Cluster::start(*pg::versions().last().unwrap());
    production.psql("postgres", "CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    let (standby, twin) = (production.standby(&[]), production.standby(&[]));
    let store = tempfile::tempdir().unwrap();
    let store = store.path();
    // One database, whoever of them makes the run.
    expect_code(&mut backup(&production, "postgres", store), 0);
    assert_eq!(Run::latest(store).manifest["source"]["timeline"], json!({ "id": 1, "history": [] }));
    production.caught_up(&standby);
    expect_code(&mut backup(&standby, "postgres", store), 0);
    assert_eq!(prefix_check(&standby, store), None);

    let left = standby.psql("postgres", "SELECT pg_last_wal_replay_lsn()");
    for copy in [&standby, &twin] {
        assert_eq!(copy.psql("postgres", "SELECT pg_promote()"), "t");
        copy.psql("postgres", "INSERT INTO t VALUES (2)");
    }
    // A role that may read neither the history nor the WAL's position knows the timeline all the same.
    standby.psql(
        "postgres",
        "CREATE ROLE reader LOGIN PASSWORD 'r' IN ROLE pg_read_all_data;
         REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn() FROM public; CHECKPOINT",
    );
    let before = files(store);
    let refused = |cluster: &Cluster, words: &[&str], role: Option<&str>| {
        let mut command = backup(cluster, "postgres", store);
        if let Some(role) = role {
            command.env("DATABASE_URL", cluster.url_as(role, "r", "postgres"));
        }
        let (error, all) = expect_failure(command.args(words), 2);
        assert!(all.contains("--adopt-prefix") && all.contains("a prefix of its own"), "{all}");
        assert_untouched(store, &before);
        error
    };
    let on = "that run is of timeline 1, this server is on timeline 2";
    assert!(refused(&standby, &[], None).contains(on));
    assert!(refused(&standby, &["--allow-unreadable"], Some("reader")).contains(on));
    assert!(prefix_check(&standby, store).unwrap().contains(on));
    // Production has lived on: no failover then.
    production.psql("postgres", "INSERT INTO t VALUES (3)");
    expect_code(&mut backup(&production, "postgres", store), 0);
    let before = files(store);
    let (error, all) = expect_failure(backup(&standby, "postgres", store).arg("--adopt-prefix=failover"), 2);
    let parted = format!("left timeline 1 at WAL position {left} for timeline 2, and that run was made on it later");
    assert!(error.contains(&parted), "{all}");
    assert_untouched(store, &before);

    // Who takes over goes on, without a word the second time; the other copy and the old primary do not.
    let other = tempfile::tempdir().unwrap();
    let run = Run::named(store, &before.iter().find_map(|file| file.strip_suffix("/manifest.json")).unwrap()[5..]);
    fs::create_dir_all(other.path().join("runs")).unwrap();
    succeed(Command::new("cp").arg("-a").arg(&run.folder).arg(other.path().join("runs")));
    expect_code(backup(&standby, "postgres", other.path()).env("PGSTOW_ADOPT_PREFIX", "failover"), 0);
    let (_, quiet) = expect_code(&mut backup(&standby, "postgres", other.path()), 0);
    assert!(!quiet.contains("adopted"), "{quiet}");
    assert_eq!(Run::latest(other.path()).manifest["source"]["timeline"]["history"][0]["left_at"], left.as_str());
    let on = "that run is of timeline 2, this server is on timeline 1";
    assert!(
        expect_failure(backup(&production, "postgres", other.path()).arg("--adopt-prefix=failover"), 2).0.contains(on)
    );
    expect_code(backup(&production, "postgres", other.path()).arg("--adopt-prefix"), 0);
    assert!(
        expect_failure(backup(&production, "postgres", other.path()).arg("--adopt-prefix=maybe"), 2)
            .1
            .contains("failover")
    );
}
