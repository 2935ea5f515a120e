//! Mistakes that people make, and what they are told: the thing that is wrong, and what to write instead.

use std::fs;

use crate::support::pg::{self, Cluster};
use crate::support::program::{Run, backup, expect_code, expect_failure, pgstow};

#[test]
fn values_that_make_no_sense_are_refused_with_what_to_write_instead() {
    let folder = tempfile::tempdir().unwrap();
    let public = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    for (words, wanted) in [
        (&["backup", "--max-block", "0"][..], "time unit needed"),
        (&["backup", "--deadline", "5"], "time unit needed"),
        (&["list", "--log", "nonsense"], "use error, warn, info, debug or trace"),
        (&["list", "--log", "info,nonsense"], "use error, warn, info, debug or trace"),
        (&["prune", "--keep-daily", "7d"], "write 7; --keep-within takes 7d"),
        (&["prune", "--keep-last", "0"], "leave the rule out"),
        (&["verify", "--identity", public], "that is a public key"),
        (&["list", "--at", "yesterday"], "2026-11-22T18:00:00Z"),
    ] {
        let mut command = pgstow();
        let (_, err) = expect_code(command.args(words).arg("--store").arg(folder.path()), 2);
        assert!(err.contains(wanted), "{words:?}: {err}");
    }
    let mut parts = pgstow();
    parts.args(["list", "--log", "warn,pgstow::store=debug", "--store"]).arg(folder.path());
    expect_code(parts.env("PGSTOW_S3_ATTEMPTS", ""), 0);
}

#[test]
fn an_operation_is_named_once() {
    // A folder where a document should be: the store says what it was reading, and so does its caller.
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("runs/20261122T150405Z-1a2b3c");
    fs::create_dir_all(run.join("manifest.json/x")).unwrap();
    let mut show = pgstow();
    let (error, _) = expect_failure(show.args(["show", "20261122T150405Z-1a2b3c", "--store"]).arg(folder.path()), 1);
    assert_eq!(error.matches("read runs/20261122T150405Z-1a2b3c/manifest.json").count(), 1, "{error}");
}

#[test]
fn what_a_role_cannot_read_is_named_once_with_one_grant_for_all() {
    let cluster: &Cluster = pg::shared(pg::packaged());
    cluster.create_database("messages");
    cluster.psql(
        "messages",
        "CREATE ROLE teller LOGIN PASSWORD 'r'; CREATE SCHEMA hid; CREATE TABLE hid.t (i int);
         CREATE MATERIALIZED VIEW hid.m AS SELECT 1 AS x; SELECT lo_create(500001);
         DO $$ BEGIN FOR i IN 1..15 LOOP EXECUTE format('CREATE TABLE t%s (i int)', i); END LOOP; END $$;
         ALTER TABLE t1 ENABLE ROW LEVEL SECURITY",
    );
    let store = tempfile::tempdir().unwrap();
    let url = cluster.url_as("teller", "r", "messages");
    let (error, all) = expect_failure(backup(cluster, "messages", store.path()).env("DATABASE_URL", &url), 1);
    let hints: Vec<&str> = all.lines().filter_map(|line| line.strip_prefix("hint: ")).collect();
    let grants: Vec<&&str> = hints.iter().filter(|hint| hint.starts_with("GRANT ")).collect();
    assert_eq!(
        grants,
        [&"GRANT pg_read_all_data TO \"teller\";", &"GRANT SELECT ON LARGE OBJECT 500001 TO \"teller\";"],
        "{all}"
    );
    assert!(error.contains("schema hid: no USAGE") && error.contains("large object 500001:"), "{error}");
    let mut doctor = pgstow();
    doctor.args(["doctor", "--skip-store", "--pg-bin-dir"]).arg(cluster.bin_dir()).env("DATABASE_URL", &url);
    let (out, _) = expect_code(&mut doctor, 1);
    let cures = out.lines().filter(|line| line.contains("-> GRANT ")).count();
    assert!(cures == 2 && out.contains("-> GRANT pg_read_all_data TO \"teller\";"), "{out}");
    // The advice is enough, as far as it can be given by GRANT.
    cluster.psql("messages", "GRANT pg_read_all_data TO teller; GRANT SELECT ON LARGE OBJECT 500001 TO teller");
    let (_, all) = expect_failure(backup(cluster, "messages", store.path()).env("DATABASE_URL", &url), 1);
    assert!(all.contains("hint: ALTER ROLE \"teller\" BYPASSRLS;") && !all.contains("hint: GRANT"), "{all}");
    cluster.psql("messages", "REVOKE pg_read_all_data FROM teller; REVOKE SELECT ON LARGE OBJECT 500001 FROM teller");

    let mut partial = backup(cluster, "messages", store.path());
    partial.args(["--allow-unreadable", "--allow-partial-latest"]).env("DATABASE_URL", &url);
    let (out, _) = expect_code(&mut partial, 3);
    for strange in ["hid.hid", ".500001", "begins with pg_"] {
        assert!(!out.contains(strange), "{strange}: {out}");
    }
    let run = Run::latest(store.path());
    let skipped = run.manifest["skipped"].as_array().unwrap();
    let view = skipped.iter().find(|gap| gap["name"] == "m").unwrap();
    assert_eq!(view["reason"], "no USAGE on the schema", "{view}");
    let notes = fs::read_to_string(run.folder.join("RESTORE.md")).unwrap();
    assert!(!notes.contains("`hid.hid`") && !notes.contains("`.500001`"), "{notes}");
    cluster.drop_database("messages");
    cluster.psql("postgres", "DROP ROLE teller");
}

#[test]
fn programs_that_are_too_old_for_a_run_are_said_to_be() {
    let (old, new) = (pg::versions()[0], *pg::versions().last().unwrap());
    assert!(old < new, "two versions with clients are needed");
    let cluster = pg::shared(new);
    cluster.create_database("too_new");
    let store = tempfile::tempdir().unwrap();
    expect_code(&mut backup(cluster, "too_new", store.path()), 0);
    let mut restore = pgstow();
    restore.args(["restore", "--create", "--to", &cluster.url("too_new_back"), "--pg-bin-dir"]);
    restore.arg(pg::shared(old).bin_dir()).arg("--store").arg(store.path());
    let (error, all) = expect_failure(&mut restore, 1);
    assert!(error.contains(&format!("the run was made by pg_dump of PostgreSQL {new}")), "{all}");
    assert!(!error.contains("the server is"), "{error}");
    cluster.drop_database("too_new");
}
