//! Backups from a streaming standby: complete like those of the primary, and cancelled by replay with words that help.

use crate::support::pg::{self, Cluster};
use crate::support::program::{Going, Run, assert_untouched, backup, expect_code, files, pgstow};
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
