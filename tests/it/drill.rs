//! `pgstow drill` on a server that others use: what it drops it has made, what it leaves when it is killed is found, and
//! properties of the saved database do not stand in its way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::pg::{self, Cluster};
use crate::support::program::{self, Going, backup, expect_code, expect_failure, json};
use crate::support::session::{Talk, until};

/// A cluster with a saved database.
struct Scene {
    cluster: Cluster,
    _folder: TempDir,
    store: PathBuf,
}

impl Scene {
    fn new(version: u32, sql: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let cluster = Cluster::start(version);
        cluster.create_database("app");
        cluster.psql("app", sql);
        expect_code(&mut backup(&cluster, "app", &store), 0);
        Self { cluster, _folder: folder, store }
    }

    fn drill(&self, more: &[&str]) -> Command {
        drill(&self.cluster, &self.store, more)
    }

    fn ask(&self, sql: &str) -> String {
        self.cluster.psql("postgres", sql)
    }

    fn databases(&self) -> String {
        self.ask("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE NOT datistemplate")
    }

    fn receipts(&self) -> Vec<Value> {
        let Ok(runs) = std::fs::read_dir(self.store.join("receipts")) else { return Vec::new() };
        let files = runs.flat_map(|run| std::fs::read_dir(run.unwrap().path()).unwrap());
        let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| json(path)).collect()
    }
}

fn drill(cluster: &Cluster, store: &Path, more: &[&str]) -> Command {
    let mut command = program::drill(cluster, store);
    command.args(more);
    command
}

/// A table whose rows cannot be loaded while somebody is connected to the server as `hold the drill`.
const HELD: &str = "
    CREATE FUNCTION waits(value integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
        WHILE EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE application_name = 'hold the drill') LOOP
            PERFORM pg_catalog.pg_sleep(0.05); PERFORM pg_catalog.pg_stat_clear_snapshot();
        END LOOP; RETURN true; END $$;
    CREATE TABLE held (id integer CHECK (id < 90 OR public.waits(id))); INSERT INTO held SELECT generate_series(1, 100)";

/// The session that holds all drills.
fn holder(cluster: &Cluster) -> Talk {
    let mut talk = Talk::open(cluster, "postgres");
    talk.run("SET application_name = 'hold the drill'");
    talk
}

/// Waits until a drill loads rows into this database.
fn loads(scene: &Scene, going: &mut Going, name: &str) {
    let loading =
        format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE 'COPY %held%'");
    until("the drill loads rows", || {
        assert!(going.runs(), "the drill ended before it was held");
        scene.ask(&loading) != "0"
    });
}

#[test]
fn a_drill_drops_no_database_that_it_has_not_made() {
    let scene = Scene::new(15, "CREATE TABLE t (id integer); INSERT INTO t SELECT generate_series(1, 1000)");
    let name = format!("precious_{}", "x".repeat(54));
    assert_eq!(name.len(), 63);
    scene.cluster.create_database(&name);
    scene.cluster.psql(&name, "CREATE TABLE kept (id integer); INSERT INTO kept VALUES (7)");
    let kept = || assert_eq!(scene.cluster.psql(&name, "SELECT id FROM kept"), "7");

    let (error, told) = expect_failure(&mut scene.drill(&["--scratch-name", &format!("{name}yyyyyyy")]), 2);
    assert!(error.contains("70 bytes") && told.contains("shorter"), "{told}");
    kept();
    // 63 bytes are a name, and so are characters of several bytes as long as they fit.
    expect_failure(&mut scene.drill(&["--scratch-name", &"é".repeat(32)]), 2);
    expect_code(&mut scene.drill(&["--scratch-name", &"é".repeat(31)]), 0);
    let (error, _) = expect_failure(&mut scene.drill(&["--scratch-name", &name]), 2);
    assert!(error.contains("exists"), "{error}");
    kept();

    // Two at once, and somebody's createdb: one of them makes the database, and the other leaves it alone.
    let creating = |count: u32| {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'CREATE DATABASE \"raced\"%'";
        until("the database is being made", || scene.ask(waits) == count.to_string());
    };
    let mut lock = Talk::open(&scene.cluster, "postgres");
    lock.run("BEGIN; LOCK TABLE pg_catalog.pg_database IN SHARE MODE");
    let one = Going::start(&mut scene.drill(&["--scratch-name", "raced"]));
    creating(1);
    let two = Going::start(&mut scene.drill(&["--scratch-name", "raced"]));
    creating(2);
    lock.run("ROLLBACK");
    let mut codes: Vec<i32> = [one, two].into_iter().map(Going::code).collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 2], "one proves the run, the other is refused");
    assert_eq!(scene.databases(), format!("app postgres {name}"));

    lock.run("BEGIN; LOCK TABLE pg_catalog.pg_database IN SHARE MODE");
    let mut createdb = scene.cluster.command("psql");
    createdb.args(["-X", "-c", "CREATE DATABASE \"raced\" TEMPLATE template0", "-d", &scene.cluster.url("postgres")]);
    let somebody = Going::start(&mut createdb);
    creating(1);
    let one = Going::start(&mut scene.drill(&["--scratch-name", "raced"]));
    creating(2);
    lock.run("ROLLBACK");
    if somebody.code() == 0 {
        let (_, told) = one.expect_code(2);
        assert!(told.contains("exists"), "{told}");
        assert_eq!(scene.cluster.psql("raced", "SELECT 1"), "1");
        scene.cluster.drop_database("raced");
    } else {
        one.expect_code(0);
    }
    assert_eq!(scene.databases(), format!("app postgres {name}"));
}

#[test]
fn what_a_killed_drill_left_is_removed_by_the_next_one_and_nothing_else_is() {
    let scene = Scene::new(
        15,
        &format!(
            "{HELD}; CREATE ROLE gone_role SUPERUSER LOGIN; CREATE ROLE gone_member IN ROLE gone_role; ALTER TABLE held OWNER TO gone_role"
        ),
    );
    scene.cluster.psql("app", "ALTER TABLE held OWNER TO postgres; DROP ROLE gone_member, gone_role");
    let roles = "SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE oid >= 16384";
    let before = scene.ask(roles);
    let mut talk = holder(&scene.cluster);
    let files = tempfile::tempdir().unwrap();
    let in_files = |more: &[&str]| {
        let mut command = scene.drill(more);
        command.env("TMPDIR", files.path());
        command
    };
    let mut killed = Going::start(&mut in_files(&["--roles", "--scratch-name", "killed"]));
    loads(&scene, &mut killed, "killed");
    assert!(scene.ask(roles).contains("gone_member gone_role"));
    let harmless = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'gone%' AND (rolsuper OR rolcanlogin)";
    assert_eq!(scene.ask(harmless), "0", "a drill makes a superuser");
    killed.signal("KILL");
    let dead = killed.pid();
    killed.end();
    // A file with definitions, as a program of PostgreSQL reads it; and one of somebody who lives.
    let of = |process: u32| files.path().join(format!("pgstow-{process}-0123456789abcdef.dump"));
    std::fs::write(of(dead), "secret").unwrap();
    std::fs::write(of(std::process::id()), "secret").unwrap();

    // Another one that runs, and a database of somebody's that only has such a name.
    scene.cluster.create_database("pgstow_drill_mine");
    let mut running = Going::start(&mut in_files(&["--roles", "--scratch-name", "running"]));
    loads(&scene, &mut running, "running");
    assert!(!of(dead).exists() && of(std::process::id()).exists());
    assert_eq!(scene.databases(), "app pgstow_drill_mine postgres running", "what was killed is not removed");
    talk.run("SET application_name = 'done'");
    let (out, told) = running.expect_code(0);
    assert!(out.contains("database \"killed\" was left by a killed drill: dropped"), "{out}\n{told}");
    assert!(out.contains(".dump was left by a killed process: removed"), "{out}");
    assert!(out.contains("\"pgstow_drill_mine\"") && out.contains("by hand"), "{out}");
    assert!(out.contains("gone_role; the drill makes them without that right"), "{out}");
    assert_eq!(scene.databases(), "app pgstow_drill_mine postgres");
    assert_eq!(scene.ask(roles), before, "roles of the drills are left");

    // A drill that runs is left alone, also while it has no session in its database.
    talk.run("SET application_name = 'hold the drill'");
    let mut running = Going::start(&mut scene.drill(&["--roles", "--scratch-name", "running"]));
    loads(&scene, &mut running, "running");
    running.signal("STOP");
    talk.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'running'");
    talk.run("SET application_name = 'done'");
    // Its roles are there: this one makes none.
    let (out, _) = expect_code(&mut scene.drill(&["--roles"]), 0);
    assert!(!out.contains("\"running\""), "{out}");
    assert!(scene.databases().contains("running"));
    running.signal("CONT");
    running.expect_code(1);
    assert_eq!(scene.databases(), "app pgstow_drill_mine postgres");
    assert_eq!(scene.ask(roles), before, "roles of the drills are left");
}

#[test]
fn roles_that_a_drill_makes_are_gone_afterwards_with_their_memberships_and_parameters() {
    for version in pg::servers() {
        let parameter = if version >= 15 { "GRANT SET ON PARAMETER work_mem TO made;" } else { "" };
        let scene = Scene::new(
            version,
            &format!(
                "CREATE ROLE made LOGIN PASSWORD 'x'; CREATE ROLE \"ma de\" SUPERUSER; GRANT made TO \"ma de\" WITH ADMIN OPTION; {parameter}
                 COMMENT ON ROLE made IS 'saved'; CREATE TABLE t (id integer); ALTER TABLE t OWNER TO made; GRANT SELECT ON t TO \"ma de\""
            ),
        );
        scene.cluster.psql("app", "DROP OWNED BY made, \"ma de\"; DROP ROLE made, \"ma de\"");
        let before = scene.ask("SELECT count(*) FROM pg_authid");
        let (error, _) = expect_failure(&mut scene.drill(&[]), 1);
        assert!(error.contains("role"), "{error}");
        let (out, _) = expect_code(&mut scene.drill(&["--roles"]), 0);
        assert!(out.contains("PROVEN") && out.contains("superusers of the run"), "{out}");
        assert_eq!(scene.ask("SELECT count(*) FROM pg_authid"), before);
    }
}

#[test]
fn properties_of_the_saved_database_do_not_stand_in_the_way_of_a_drill() {
    for version in pg::servers() {
        let scene = Scene::new(version, "CREATE TABLE t (id integer); INSERT INTO t VALUES (1)");
        // Of a database that is a template pg_dump saves the property.
        scene.ask("ALTER DATABASE app WITH IS_TEMPLATE true CONNECTION LIMIT 40; COMMENT ON DATABASE app IS 'not a mark'; ALTER DATABASE app SET default_transaction_read_only = on");
        expect_code(&mut backup(&scene.cluster, "app", &scene.store), 0);
        let (out, _) = expect_code(&mut scene.drill(&[]), 0);
        assert!(out.contains("PROVEN"), "{out}");
        scene.ask("ALTER DATABASE app WITH CONNECTION LIMIT 0");
        expect_code(&mut backup(&scene.cluster, "app", &scene.store), 0);
        expect_code(&mut scene.drill(&[]), 0);
        assert_eq!(
            scene.ask("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE oid >= 16384"),
            "app"
        );
        assert_eq!(scene.receipts().len(), 2);
    }
}

#[test]
fn a_database_that_is_not_the_drills_any_more_stays_and_the_verdict_is_kept() {
    let scene = Scene::new(15, HELD);
    let mut talk = holder(&scene.cluster);
    let mut going = Going::start(&mut scene.drill(&["--scratch-name", "taken"]));
    loads(&scene, &mut going, "taken");
    talk.run("COMMENT ON DATABASE taken IS 'mine now'; SET application_name = 'done'");
    let (out, told) = going.expect_code(1);
    assert!(out.contains("PROVEN") && told.contains("mark of this drill"), "{out}\n{told}");
    assert!(scene.databases().contains("taken"));
    assert_eq!(scene.receipts().len(), 1);
}

#[test]
fn the_owner_of_public_is_proven_also_where_something_is_left_out() {
    for version in pg::servers() {
        let scene = Scene::new(
            version,
            "CREATE ROLE public_owner; ALTER SCHEMA public OWNER TO public_owner; COMMENT ON SCHEMA public IS 'ours'; GRANT CREATE ON SCHEMA public TO PUBLIC;
             CREATE SUBSCRIPTION left_out CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)",
        );
        let (out, told) = expect_code(&mut scene.drill(&[]), 0);
        assert!(out.contains("PROVEN") && !told.contains("are not compared"), "{out}\n{told}");
    }
}

#[test]
fn objects_that_postgresql_refuses_are_differences_with_a_receipt() {
    for version in pg::servers() {
        let scene = Scene::new(
            version,
            "CREATE TABLE parent (id integer PRIMARY KEY); CREATE TABLE child (id integer REFERENCES parent); INSERT INTO parent VALUES (1);
             SET session_replication_role = replica; INSERT INTO child VALUES (1), (2); SET session_replication_role = origin;
             CREATE FUNCTION raises() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RAISE 'not here (P0001): [x]'; END $$;
             CREATE MATERIALIZED VIEW kept AS SELECT raises() WITH NO DATA;
             CREATE TABLE other (id integer PRIMARY KEY); INSERT INTO other SELECT generate_series(1, 10)",
        );
        let (out, _) = expect_code(&mut scene.drill(&[]), 4);
        assert!(out.contains("NOT what was saved") && out.contains("child_id_fkey"), "{out}");
        assert!(!out.contains("public.other") && !out.contains("other_pkey"), "{out}");
        let receipts = scene.receipts();
        assert!(receipts.len() == 1 && receipts[0]["ok"] == false, "{receipts:?}");
        assert_eq!(receipts[0]["rows"], 13, "all rows came back, those of the violated key too");
        assert_eq!(scene.databases(), "app postgres");
    }
}

#[test]
fn settings_of_the_database_make_no_definition_another_one() {
    for settings in [
        "SET bytea_output = escape",
        "SET quote_all_identifiers = on",
        "SET standard_conforming_strings = off",
        "SET TimeZone = 'Asia/Kathmandu'",
        "SET DateStyle = 'German'",
        "SET IntervalStyle = 'sql_standard'",
        "SET extra_float_digits = -5",
        "SET search_path = 'odd, public'",
    ] {
        let scene = Scene::new(
            15,
            &format!(
                "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {}', current_database()); END $$;
                 CREATE TABLE public.orders (id int PRIMARY KEY, state varchar(10) CHECK (state IN ('new', 'paid')), b bytea DEFAULT '\\x5c00'::bytea,
                     at timestamptz DEFAULT '2024-02-03 04:05:06+07', f float8 DEFAULT 0.1234567890123456, i interval DEFAULT '1 day 2 hours');
                 INSERT INTO public.orders VALUES (1, 'new'), (2, 'paid');
                 CREATE TABLE public.events (at timestamptz NOT NULL, n int) PARTITION BY RANGE (at);
                 CREATE TABLE public.events_2024 PARTITION OF public.events FOR VALUES FROM ('2024-01-01 00:00+00') TO ('2025-01-01 00:00+00');
                 INSERT INTO public.events VALUES ('2024-05-05 05:05+00', 1)",
                settings.replace('\'', "''")
            ),
        );
        let (out, _) = expect_code(&mut scene.drill(&[]), 0);
        assert!(out.contains("PROVEN") && !out.contains("difference: "), "{settings}\n{out}");
    }
}
