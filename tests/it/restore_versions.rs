//! `pgstow restore` into servers that lack something: told before anything is changed, and settings that an older server
//! does not know are no reason to fail.

use super::support::pg::{self, Cluster};
use super::support::process::succeed_with;
use super::support::program::{self, Run, expect_code, expect_failure, pgstow};

/// `restore` with programs of the newer of both versions.
fn restore(from: &Cluster, to: &Cluster, store: &std::path::Path, more: &[&str]) -> std::process::Command {
    let newer = if from.version() > to.version() { from } else { to };
    let mut command = pgstow();
    command.args(["restore", "--to", &to.url("app"), "--pg-bin-dir"]).arg(newer.bin_dir());
    command.arg("--store").arg(store).args(more);
    command
}

#[test]
fn what_a_server_lacks_is_told_before_anything_is_changed() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let store = folder.path().join("store");
    // Extensions of the one that the other does not have.
    let source = Cluster::start(pg::packaged());
    let target = Cluster::start(pg::versions()[pg::versions().len() - 1]);
    source.create_database("app");
    let available = "SELECT string_agg(quote_ident(name), ' ') FROM pg_available_extensions WHERE name IN ('pgagent', 'pgtap', 'pg_cron')";
    let here = target.psql("postgres", available);
    let extension = ["pgagent", "pgtap"]
        .into_iter()
        .find(|name| !here.contains(name))
        .expect("the newest server, none of a package, lacks one");
    source.psql(
        "postgres",
        "SET allow_in_place_tablespaces = on; CREATE TABLESPACE \"fast disks\" LOCATION ''; CREATE ROLE \"Odd one\"",
    );
    source.psql(
        "app",
        &format!(
            "CREATE EXTENSION {extension}; CREATE SCHEMA s; CREATE TABLE s.t (id integer PRIMARY KEY) TABLESPACE \"fast disks\";
             GRANT SELECT ON s.t TO \"Odd one\""
        ),
    );
    expect_code(&mut program::backup(&source, "app", &store), 0);
    target.create_database("app");
    let objects = "SELECT count(*) FROM pg_namespace";
    let before = target.psql("app", objects);
    let lacking = [format!("extension {extension}"), "tablespace fast disks".into(), "role Odd one".into()];
    let (error, told) = expect_failure(&mut restore(&source, &target, &store, &[]), 1);
    assert!(lacking.iter().all(|thing| error.contains(thing)), "{error}");
    for hint in ["--roles", "install the extensions", "CREATE TABLESPACE", "nothing was changed"] {
        assert!(told.contains(hint), "{hint}: {told}");
    }
    let (error, _) = expect_failure(&mut restore(&source, &target, &store, &["--roles"]), 1);
    assert!(error.contains(&lacking[0]) && error.contains(&lacking[1]) && !error.contains(&lacking[2]), "{error}");
    assert_eq!(target.psql("app", objects), before);
    assert_eq!(target.psql("app", "SELECT count(*) FROM pg_roles WHERE rolname = 'Odd one'"), "0");
}

#[test]
pub(crate) fn settings_an_older_server_does_not_know_are_left_out_and_told() {
    let servers = pg::servers();
    let (oldest, newest) = (servers[0], servers[servers.len() - 1]);
    assert!(newest >= 17 && oldest < 16, "servers that know these options and servers that do not, not {servers:?}");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let store = folder.path().join("store");
    let (source, target) = (Cluster::start(newest), Cluster::start(oldest));
    source.create_database("app");
    source.psql(
        "app",
        "CREATE ROLE worker; ALTER ROLE worker SET transaction_timeout = '5min'; ALTER ROLE worker SET work_mem = '9MB';
         ALTER ROLE worker IN DATABASE app SET transaction_timeout = '7min'; ALTER ROLE worker IN DATABASE app SET work_mem = '5MB';
         ALTER DATABASE app SET transaction_timeout = '10min'; ALTER DATABASE app SET \"app.answer\" = '42';
         CREATE ROLE boss; CREATE ROLE \"of WITH odd\" IN ROLE boss; GRANT boss TO worker WITH ADMIN OPTION; GRANT worker TO \"of WITH odd\" WITH INHERIT FALSE, SET FALSE;
         CREATE TABLE t (id integer PRIMARY KEY, b text); INSERT INTO t SELECT i, i::text FROM generate_series(1, 100) i;
         CREATE INDEX ON t (b); ALTER TABLE t OWNER TO worker; SELECT lo_from_bytea(77, 'x')",
    );
    expect_code(&mut program::backup(&source, "app", &store), 0);
    // A membership that lets nobody act is never given as one that does: it is listed.
    let (out, log) = expect_code(&mut restore(&source, &target, &store, &["--create", "--roles"]), 3);
    assert_eq!(log.matches("does not know transaction_timeout").count(), 3, "{log}");
    assert!(out.contains("SET FALSE"), "{out}{log}");
    assert_eq!(target.psql("app", "SELECT count(*) FROM pg_auth_members WHERE roleid = 'worker'::regrole"), "0");
    for question in [
        "SELECT roleid::regrole::text, member::regrole::text, admin_option FROM pg_auth_members
          WHERE roleid >= 16384 AND roleid <> 'worker'::regrole ORDER BY 1, 2",
        "SELECT count(*), sum(id), min(pg_get_userbyid(relowner)) FROM t, pg_class WHERE pg_class.oid = 't'::regclass",
        "SELECT indexdef FROM pg_indexes WHERE tablename = 't' ORDER BY 1",
        "SELECT current_setting('app.answer'), lo_get(77)",
    ] {
        assert_eq!(source.psql("app", question), target.psql("app", question), "{question}");
    }
    let settings = "SELECT string_agg(unnest, ',' ORDER BY unnest) FROM pg_db_role_setting, unnest(setconfig)";
    assert_eq!(target.psql("app", settings), "app.answer=42,work_mem=5MB,work_mem=9MB");
}

#[test]
fn a_subscription_saved_by_a_newer_pg_dump_comes_back_on_its_own_server() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let store = folder.path().join("store");
    let old = Cluster::start(pg::servers()[0]);
    let newest = Cluster::start(pg::versions()[pg::versions().len() - 1]);
    assert!(old.version() < 16 && newest.version() >= 16, "run_as_owner is an option since 16");
    old.create_database("app");
    let name = "odd, run_as_owner = true);";
    old.psql(
        "app",
        &format!(
            "CREATE TABLE t (id integer); CREATE SUBSCRIPTION \"{name}\" CONNECTION 'host=nowhere.invalid' PUBLICATION p
             WITH (connect = false, slot_name = NONE)"
        ),
    );
    let writes_it = |programs: &Cluster| {
        let text = succeed_with(programs.command("pg_dump").arg("-d").arg(old.url("app")), b"").stdout;
        String::from_utf8(text).expect("UTF-8").contains(", run_as_owner = true);\n")
    };
    assert!(writes_it(&newest), "nothing to be tried here");
    for (dumps, restores) in [(&newest, [&old, &newest]), (&old, [&old, &newest])] {
        let mut backup = pgstow();
        backup.args(["backup", "--database-url", &old.url("app"), "--pg-bin-dir"]).arg(dumps.bin_dir());
        expect_code(backup.arg("--store").arg(&store), 0);
        let run = Run::latest(&store);
        let told = run.manifest["omitted"].as_array().expect("a list");
        let is_told = told.iter().any(|one| one["kind"] == "subscription option" && one["name"] == name);
        assert_eq!(is_told, writes_it(dumps), "{told:?}");
        for target in restores {
            comes_back(&store, target, &newest, name);
        }
    }
}

/// Restores the newest run into a database of its own, and finds its subscription there.
#[track_caller]
fn comes_back(store: &std::path::Path, target: &Cluster, programs: &Cluster, name: &str) {
    let mut restore = pgstow();
    restore.args(["restore", "--create", "--to", &target.url("copy"), "--pg-bin-dir"]).arg(programs.bin_dir());
    expect_code(restore.arg("--store").arg(store), 0);
    let there = "SELECT string_agg(subname, ',') FROM pg_subscription s JOIN pg_database d ON d.oid = subdbid WHERE datname = 'copy'";
    assert_eq!(target.psql("copy", there), name);
    target.psql("copy", &format!("DROP SUBSCRIPTION \"{name}\""));
    target.drop_database("copy");
}
