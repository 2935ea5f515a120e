//! One database, backed up by roles that may do more and less, each logging in with a SCRAM password. What a role is
//! comes from the run's manifest, not from what the test meant to make.

use std::collections::BTreeSet;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::pg::{self, Cluster};
use crate::support::process::output_with;
use crate::support::program::{Run, backup, expect_code, expect_failure, files, pgstow, restore_as_told, story};
use crate::support::{judge, tally};

/// Everything that can be unreadable, once, and what depends on it.
const THINGS: &str = "
CREATE SCHEMA shop; CREATE SCHEMA closed;
CREATE TABLE shop.open (id serial PRIMARY KEY, t text); INSERT INTO shop.open (t) VALUES ('a'), ('b');
CREATE TABLE shop.secret (id int PRIMARY KEY, t text); INSERT INTO shop.secret VALUES (1, 's');
CREATE TABLE shop.policed (id int); INSERT INTO shop.policed VALUES (1), (2);
ALTER TABLE shop.policed ENABLE ROW LEVEL SECURITY;
CREATE POLICY half ON shop.policed USING (id = 1);
CREATE TABLE closed.inside (id int); INSERT INTO closed.inside VALUES (3);
CREATE TYPE closed.mood AS ENUM ('glad', 'sad');
CREATE FUNCTION closed.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
SELECT lo_from_bytea(4711, 'an object');
CREATE VIEW shop.view_of_secret AS SELECT id FROM shop.secret;
CREATE VIEW shop.view_of_view AS SELECT id + 1 AS more FROM shop.view_of_secret;
CREATE MATERIALIZED VIEW shop.kept_of_secret AS SELECT id FROM shop.secret;
CREATE TABLE shop.child (id int, secret int CONSTRAINT child_of_secret REFERENCES shop.secret);
CREATE TABLE shop.feels (id int, mood closed.mood);
CREATE TABLE shop.heir (more text) INHERITS (shop.secret);
CREATE TRIGGER touches BEFORE UPDATE ON shop.open FOR EACH ROW EXECUTE FUNCTION closed.touch();
CREATE FUNCTION shop.reads(shop.secret) RETURNS int LANGUAGE sql AS 'SELECT 1';
";

/// Grants that make everything but row-level security and large objects readable.
const GRANTS: &str =
    "GRANT USAGE ON SCHEMA shop, closed TO ROLE; GRANT SELECT ON ALL TABLES IN SCHEMA shop, closed TO ROLE;
    GRANT SELECT ON ALL SEQUENCES IN SCHEMA shop, closed TO ROLE";

/// A database with all of it, owned by `owner`.
fn things(cluster: &Cluster, name: &str, owner: &str) {
    cluster.create_database_with(name, &format!("ENCODING 'UTF8' OWNER {owner}"));
    cluster.psql(name, &format!("SET ROLE {owner}; {THINGS}"));
}

/// Makes a role, which some test before may have left behind.
fn role(cluster: &Cluster, name: &str, options: &str) {
    let sql = format!("CREATE ROLE {name} LOGIN PASSWORD 'pw ä' {options}");
    cluster.psql("postgres", &format!("SET password_encryption = 'scram-sha-256'; {sql}"));
    let kept =
        cluster.psql("postgres", &format!("SELECT left(rolpassword, 13) FROM pg_authid WHERE rolname = '{name}'"));
    assert_eq!(kept, "SCRAM-SHA-256");
}

fn url(cluster: &Cluster, role: &str, name: &str) -> String {
    if role == "postgres" { cluster.url(name) } else { cluster.url_as(role, "pw ä", name) }
}

/// A complete run as that role: its manifest must say who made it.
#[track_caller]
fn complete(cluster: &Cluster, name: &str, role: &str, superuser: bool) -> (TempDir, Run) {
    let store = tempfile::tempdir().unwrap();
    expect_code(backup(cluster, name, store.path()).env("DATABASE_URL", url(cluster, role, name)), 0);
    let run = Run::latest(store.path());
    of(&run, role, superuser);
    assert_eq!((&run.manifest["status"], &run.manifest["skipped"]), (&"complete".into(), &Value::Array(Vec::new())));
    assert!(run.manifest.get("dependents").is_none(), "{:#}", run.manifest);
    for (schema, table, rows) in
        [("shop", "open", 2), ("shop", "secret", 1), ("shop", "policed", 2), ("closed", "inside", 1)]
    {
        assert_eq!(run.table(schema, table)["rows"], rows, "{role}: {schema}.{table}");
    }
    assert_eq!(run.manifest["large_objects"]["count"], 1);
    expect_code(pgstow().arg("verify").arg("--store").arg(store.path()), 0);
    (store, run)
}

#[track_caller]
fn of(run: &Run, role: &str, superuser: bool) {
    let source = &run.manifest["source"];
    assert_eq!((&source["role"], &source["superuser"]), (&role.into(), &superuser.into()));
}

/// What a refused run tells: `kind name` of each gap, and the statements.
#[track_caller]
fn refused(cluster: &Cluster, name: &str, role: &str) -> BTreeSet<String> {
    let store = tempfile::tempdir().unwrap();
    let (error, all) =
        expect_failure(backup(cluster, name, store.path()).env("DATABASE_URL", url(cluster, role, name)), 1);
    assert!(error.contains(&format!("role {role} cannot read everything")), "{error}");
    assert_eq!(files(store.path()), Vec::<String>::new(), "not a byte may be written");
    // No name here needs its quotes.
    let hints = all.lines().filter_map(|line| line.strip_prefix("hint: ")).filter(|hint| hint.ends_with(';'));
    hints.map(|hint| hint.replace('"', "")).collect()
}

#[test]
fn superuser_owner_and_a_hosted_postgres_back_everything_up() {
    for version in pg::versions() {
        let (cluster, name) = (pg::shared(version), "roles complete");
        role(cluster, "roles_owner", "");
        things(cluster, name, "roles_owner");
        let (_store, run) = complete(cluster, name, "postgres", true);
        assert_eq!(run.manifest["roles"]["passwords"], true);
        tally::note("role", "superuser");

        let (_store, run) = complete(cluster, name, "roles_owner", false);
        assert_eq!(run.manifest["roles"]["passwords"], false);
        tally::note("role", "owner without superuser");

        // As on Supabase: much may be granted to it, nothing belongs to it, policies do not bind it.
        role(cluster, "hosted_postgres", "NOSUPERUSER BYPASSRLS CREATEROLE CREATEDB");
        cluster.psql(name, &GRANTS.replace("ROLE", "hosted_postgres"));
        cluster.psql(name, "GRANT SELECT ON LARGE OBJECT 4711 TO hosted_postgres");
        let denied = output_with(
            cluster.command("psql").args([
                "-X",
                "-c",
                "SELECT 1 FROM pg_authid",
                "-d",
                &url(cluster, "hosted_postgres", name),
            ]),
            b"",
        );
        assert!(!denied.status.success(), "it can read pg_authid");
        let (_store, run) = complete(cluster, name, "hosted_postgres", false);
        let roles = String::from_utf8(run.plain(run.manifest["roles"]["object"]["key"].as_str().unwrap())).unwrap();
        assert!(roles.contains("CREATE ROLE hosted_postgres") && !roles.contains("SCRAM-SHA-256"), "{roles}");
        assert_eq!(run.manifest["roles"]["passwords"], false);
        let omitted = run.manifest["omitted"].as_array().unwrap();
        assert!(omitted.iter().any(|o| o["kind"] == "role passwords"), "{omitted:?}");
        tally::note("role", "hosted postgres: BYPASSRLS, no superuser, no pg_authid");

        cluster.drop_database(name);
        cluster.psql("postgres", "DROP ROLE roles_owner; DROP ROLE hosted_postgres");
    }
}

#[test]
fn pg_read_all_data_needs_bypassrls_where_there_are_policies_and_grants_for_large_objects() {
    for version in pg::versions() {
        let (cluster, name) = (pg::shared(version), "roles read all");
        things(cluster, name, "postgres");
        role(cluster, "roles_reader", "IN ROLE pg_read_all_data");
        let cures = refused(cluster, name, "roles_reader");
        let wanted = ["ALTER ROLE roles_reader BYPASSRLS;", "GRANT SELECT ON LARGE OBJECT 4711 TO roles_reader;"];
        assert_eq!(cures, wanted.iter().map(|cure| (*cure).to_owned()).collect());
        cluster.psql(name, wanted[0]);
        // One cure is not the other one, and this setting is another cure.
        assert_eq!(refused(cluster, name, "roles_reader").len(), 1);
        cluster.psql("postgres", &format!("ALTER DATABASE \"{name}\" SET lo_compat_privileges = on"));
        complete(cluster, name, "roles_reader", false);
        cluster.psql("postgres", &format!("ALTER DATABASE \"{name}\" RESET lo_compat_privileges"));
        cluster.psql(name, wanted[1]);
        complete(cluster, name, "roles_reader", false);
        tally::note("role", "pg_read_all_data");
        cluster.drop_database(name);
        cluster.psql("postgres", "DROP ROLE roles_reader");
    }
}

#[test]
fn a_role_with_almost_nothing_stops_before_the_first_byte_and_its_cure_is_exact() {
    for version in pg::versions() {
        let (cluster, name) = (pg::shared(version), "roles nothing");
        things(cluster, name, "postgres");
        role(cluster, "knows_nothing", "");
        let before = refused(cluster, name, "knows_nothing");
        for cure in [
            "GRANT USAGE ON SCHEMA closed TO knows_nothing;",
            "GRANT USAGE ON SCHEMA shop TO knows_nothing;",
            "GRANT SELECT ON TABLE closed.inside TO knows_nothing;",
            "GRANT SELECT ON TABLE shop.secret TO knows_nothing;",
            "GRANT SELECT ON SEQUENCE shop.open_id_seq TO knows_nothing;",
            "GRANT SELECT ON LARGE OBJECT 4711 TO knows_nothing;",
        ] {
            assert!(before.contains(cure), "{cure} is not in {before:?}");
        }
        // All of it left out: what remains is a run all the same.
        let store = tempfile::tempdir().unwrap();
        let mut command = backup(cluster, name, store.path());
        command.env("DATABASE_URL", url(cluster, "knows_nothing", name)).args(["--allow-unreadable", "--json"]);
        let (out, _) = expect_code(&mut command, 3);
        let printed: Value = serde_json::from_str(&out).unwrap();
        let run = Run::named(store.path(), printed["run"].as_str().unwrap());
        of(&run, "knows_nothing", false);
        assert_eq!(run.manifest["status"], "partial");
        expect_code(pgstow().args(["verify", &run.name, "--store"]).arg(store.path()), 0);
        // The statements, and nothing but them, make the run complete; one may bring another one to light.
        let mut rounds = 0;
        let mut cures = before;
        loop {
            cures.iter().for_each(|cure| drop(cluster.psql(name, cure)));
            let mut command = backup(cluster, name, store.path());
            let output = output_with(command.env("DATABASE_URL", url(cluster, "knows_nothing", name)), b"");
            if output.status.success() {
                break;
            }
            rounds += 1;
            assert!(rounds < 4 && output.status.code() == Some(1), "{}", story(&output));
            cures = refused(cluster, name, "knows_nothing");
        }
        complete(cluster, name, "knows_nothing", false);
        tally::note("role", "almost nothing, cured by what it is told");
        cluster.drop_database(name);
        cluster.psql("postgres", "DROP ROLE knows_nothing");
    }
}

/// A partial run without what `revoke` takes away from a role that could read everything.
#[track_caller]
fn without(cluster: &Cluster, name: &str, revoke: &str, cure: &str) -> (TempDir, Run) {
    things(cluster, name, "postgres");
    role(cluster, "roles_partly", "BYPASSRLS");
    cluster.psql(name, &GRANTS.replace("ROLE", "roles_partly"));
    cluster.psql(name, "GRANT SELECT ON LARGE OBJECT 4711 TO roles_partly");
    cluster.psql(name, revoke);
    assert_eq!(refused(cluster, name, "roles_partly"), BTreeSet::from([cure.to_owned()]));
    let store = tempfile::tempdir().unwrap();
    let mut command = backup(cluster, name, store.path());
    command.env("DATABASE_URL", url(cluster, "roles_partly", name)).args(["--allow-unreadable", "--json"]);
    let (out, _) = expect_code(&mut command, 3);
    assert!(!store.path().join("latest.json").exists());
    let printed: Value = serde_json::from_str(&out).unwrap();
    let run = Run::named(store.path(), printed["run"].as_str().unwrap());
    of(&run, "roles_partly", false);
    assert_eq!(run.manifest["status"], "partial");
    expect_code(pgstow().args(["verify", &run.name, "--store"]).arg(store.path()), 0);
    // The cure cures.
    cluster.psql(name, cure);
    complete(cluster, name, "roles_partly", false);
    cluster.drop_database(name);
    cluster.psql("postgres", "DROP ROLE roles_partly");
    (store, run)
}

fn named(list: &Value) -> BTreeSet<String> {
    let all = list.as_array().into_iter().flatten();
    all.map(|gap| format!("{} {}", gap["kind"].as_str().unwrap(), gap["name"].as_str().unwrap())).collect()
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Restores what a partial run holds, by the stock tool, and compares its errors with those that were told.
#[track_caller]
fn errors_are_as_told(cluster: &Cluster, run: &Run) {
    let copy = "roles partial copy";
    cluster.create_database(copy);
    let archive = run.plain(run.manifest["database"]["object"]["key"].as_str().unwrap());
    let mut restore = cluster.command("pg_restore");
    let output = output_with(restore.args(["--no-owner", "--no-acl", "-d"]).arg(cluster.url(copy)), &archive);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let errors: BTreeSet<String> =
        said.lines().filter_map(|line| line.split_once("ERROR:  ")).map(|(_, error)| error.to_owned()).collect();
    let told: BTreeSet<String> = run.manifest["dependents"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|d| d["reason"].as_str().unwrap().split_once("its restore will say: ").unwrap().1.to_owned())
        .collect();
    // What is not there cannot be filled or altered either.
    let after: BTreeSet<String> = run.manifest["dependents"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|d| format!("relation \"{}\" does not exist", d["name"].as_str().unwrap()))
        .collect();
    assert!(told.is_subset(&errors), "told: {told:?}\n{said}");
    assert!(errors.iter().all(|error| told.contains(error) || after.contains(error)), "told: {told:?}\n{said}");
    cluster.drop_database(copy);

    // pgstow leaves out exactly these, says so, and restores the rest. So does a drill.
    let store = run.folder.parent().unwrap().parent().unwrap();
    let ran = |words: &[&str]| {
        let mut command = pgstow();
        command.args(words).arg(&run.name).arg("--pg-bin-dir").arg(cluster.bin_dir()).arg("--store").arg(store);
        command
    };
    let code = if told.is_empty() { 0 } else { 3 };
    let (out, _) = expect_code(&mut ran(&["restore", "--create", "--roles", "--to", &cluster.url(copy)]), code);
    assert_eq!(out.contains("not restored"), code == 3, "{out}");
    for dependent in run.manifest["dependents"].as_array().into_iter().flatten() {
        assert!(!dependent["entries"].as_array().unwrap().is_empty(), "{dependent}");
    }
    assert_eq!(cluster.psql(copy, "SELECT to_regclass('shop.child') IS NOT NULL"), "t");
    cluster.drop_database(copy);
    // A part that lacks nothing.
    let part = ["restore", "--create", "--roles", "--schema", "public", "--to", &cluster.url(copy)];
    let (out, _) = expect_code(&mut ran(&part), 0);
    assert!(!out.contains("not restored"), "{out}");
    cluster.drop_database(copy);
    let (out, _) = expect_code(&mut ran(&["drill", "--roles", "--on", &cluster.url("postgres")]), code);
    assert_eq!(out.contains("depends on objects that this run does not contain"), code == 3, "{out}");
    cluster.psql("postgres", "DROP ROLE roles_partly");
    comes_back_as_told(cluster, run);
}

/// The script of a partial run's RESTORE.md and `pgstow restore` make the same database.
#[track_caller]
fn comes_back_as_told(cluster: &Cluster, run: &Run) {
    let (ours, told) = ("roles partial copy", "roles partial as told");
    let mut restore = pgstow();
    restore.args(["restore", &run.name, "--create", "--roles", "--to", &cluster.url(ours), "--pg-bin-dir"]);
    restore.arg(cluster.bin_dir()).arg("--store").arg(&run.store);
    let lacks = run.manifest.get("dependents").is_some();
    expect_code(&mut restore, if lacks { 3 } else { 0 });
    cluster.create_database(told);
    restore_as_told(run, cluster, told);
    judge::assert_same_database((cluster, ours), (cluster, told));
    cluster.drop_database(told);
    cluster.drop_database(ours);
    cluster.psql("postgres", "DROP ROLE roles_partly");
}

#[test]
fn what_a_role_cannot_read_is_left_out_alone_and_what_depends_on_it_is_told() {
    for version in pg::versions() {
        let (cluster, name) = (pg::shared(version), "roles partial");
        let (_store, run) = without(
            cluster,
            name,
            "REVOKE SELECT ON shop.secret FROM roles_partly",
            "GRANT SELECT ON TABLE shop.secret TO roles_partly;",
        );
        assert_eq!(named(&run.manifest["skipped"]), set(&["table secret"]));
        assert_eq!(
            named(&run.manifest["dependents"]),
            set(&[
                "view shop.view_of_secret",
                "view shop.view_of_view",
                "materialized view shop.kept_of_secret",
                "table constraint child_of_secret on shop.child",
                "function shop.reads(shop.secret)",
                "table shop.heir",
            ])
        );
        errors_are_as_told(cluster, &run);
        let told = std::fs::read_to_string(run.folder.join("RESTORE.md")).unwrap();
        assert!(told.contains("view_of_view") && told.contains("does not exist"), "{told}");
        tally::note("unreadable", "table");

        // A sequence costs its value only: neither its definition nor its table.
        let (_store, run) = without(
            cluster,
            name,
            "REVOKE SELECT ON SEQUENCE shop.open_id_seq FROM roles_partly",
            "GRANT SELECT ON SEQUENCE shop.open_id_seq TO roles_partly;",
        );
        assert_eq!(named(&run.manifest["skipped"]), set(&["sequence open_id_seq"]));
        assert_eq!(run.rows("shop", "open"), ["1\ta", "2\tb"]);
        assert!(run.manifest.get("dependents").is_none());
        errors_are_as_told(cluster, &run);
        let archive = run.plain(run.manifest["database"]["object"]["key"].as_str().unwrap());
        let listed = output_with(cluster.command("pg_restore").arg("-l"), &archive);
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(
            listed.contains("SEQUENCE shop open_id_seq") && !listed.contains("SEQUENCE SET shop open_id_seq"),
            "{listed}"
        );
        tally::note("unreadable", "sequence");

        let (_store, run) = without(
            cluster,
            name,
            "REVOKE USAGE ON SCHEMA closed FROM roles_partly",
            "GRANT USAGE ON SCHEMA closed TO roles_partly;",
        );
        assert!(named(&run.manifest["skipped"]).contains("schema closed"), "{:#}", run.manifest["skipped"]);
        // Types and functions are readable without USAGE: what uses them comes back.
        assert!(run.manifest.get("dependents").is_none(), "{:#}", run.manifest["dependents"]);
        comes_back_as_told(cluster, &run);
        tally::note("unreadable", "schema");

        let (_store, run) = without(
            cluster,
            name,
            "REVOKE SELECT ON LARGE OBJECT 4711 FROM roles_partly",
            "GRANT SELECT ON LARGE OBJECT 4711 TO roles_partly;",
        );
        assert_eq!(named(&run.manifest["skipped"]), set(&["large object 4711"]));
        comes_back_as_told(cluster, &run);
        tally::note("unreadable", "large object");

        let (_store, run) =
            without(cluster, name, "ALTER ROLE roles_partly NOBYPASSRLS", "ALTER ROLE roles_partly BYPASSRLS;");
        assert_eq!(named(&run.manifest["skipped"]), set(&["table policed"]));
        assert!(run.schema("shop")["tables"].as_array().unwrap().iter().all(|t| t["name"] != "policed"));
        comes_back_as_told(cluster, &run);
        tally::note("unreadable", "row-level security");
    }
}
