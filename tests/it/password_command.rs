//! Passwords that a command prints, asked for by each session and each program.

use std::fs;

use super::support::pg;
use super::support::program::{Run, expect_code, expect_failure, pgstow};

#[test]
fn each_session_and_each_program_gets_a_password_of_its_own() {
    let cluster = pg::shared(pg::packaged());
    cluster.create_database("tokens");
    cluster.psql(
        "tokens",
        "CREATE TABLE t AS SELECT generate_series(1, 1000) n; CREATE ROLE tokens SUPERUSER LOGIN PASSWORD 'TOKEN'",
    );
    let folder = tempfile::tempdir().unwrap();
    let calls = folder.path().join("calls");
    let line = format!("echo \"$PGUSER@$PGHOST:$PGPORT/$PGDATABASE\" >> {}; echo TOKEN", calls.display());
    let store = folder.path().join("store");
    let with = |command: &str| {
        let mut backup = pgstow();
        backup.args(["backup", "--jobs", "1", "--password-command", command, "--store"]).arg(&store);
        backup.env("PGSTOW_PG_BIN_DIR", cluster.bin_dir());
        backup.env("DATABASE_URL", format!("postgresql://tokens@127.0.0.1:{}/tokens", cluster.port()));
        backup
    };
    let (_, err) = expect_code(&mut with(&line), 0);
    let run = Run::latest(&store);
    assert_eq!(run.manifest["totals"]["rows"], 1000);
    let calls = fs::read_to_string(calls).unwrap();
    assert!(calls.lines().count() >= 4, "the leader, pg_dump, pg_dumpall and a reader: {calls}");
    assert!(calls.lines().all(|line| line == format!("tokens@127.0.0.1:{}/tokens", cluster.port())), "{calls}");
    assert!(!err.contains("TOKEN"), "{err}");

    let (error, all) = expect_failure(&mut with("echo HUNTER2 >&2; exit 3"), 1);
    assert!(error.contains("the password command ended with exit status: 3") && all.contains("PGHOST"), "{all}");
    let (error, _) = expect_failure(&mut with("true"), 1);
    assert!(error.contains("did not print one line"), "{error}");
    let (error, all) = expect_failure(&mut with("echo HUNTER2"), 1);
    assert!(error.contains("password authentication failed") && !all.contains("HUNTER2"), "{all}");
}
