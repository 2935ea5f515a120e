//! The mark of an unfinished restore: it fires no event trigger of anybody, the database has its comment again when it is
//! gone, no backup takes half a database for a whole one, and marks of older versions are understood.

use crate::support::judge;
use crate::support::pg::{self, Cluster};
use crate::support::program::{Run, backup, drill, expect_code, expect_failure, pgstow, restore};

/// An audit of every definition and a ban on drops, in functions that need a search path of their own.
const AUDIT: &str = "
    CREATE SCHEMA audit; CREATE TABLE audit.ddl_log (id serial PRIMARY KEY, tag text, who text DEFAULT current_user);
    CREATE TABLE log_here (tag text);
    CREATE TABLE t (id int PRIMARY KEY, x text); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 50) i;
    CREATE INDEX t_x ON t (x); CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM t;
    CREATE FUNCTION audit.log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO audit.ddl_log (tag) VALUES (tg_tag); INSERT INTO log_here VALUES (tg_tag); END $$;
    CREATE FUNCTION audit.no_drops() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN
        FOR r IN SELECT * FROM pg_event_trigger_dropped_objects() WHERE object_type IN ('table', 'schema') AND NOT is_temporary LOOP
            RAISE EXCEPTION 'nothing is dropped in production: %', r.object_identity; END LOOP; END $$;
    INSERT INTO audit.ddl_log (tag) VALUES ('seen'); GRANT SELECT ON t TO pg_monitor;
    COMMENT ON DATABASE {name} IS 'of the \\ ''audit''';
    CREATE EVENT TRIGGER a_log ON ddl_command_end EXECUTE FUNCTION audit.log_ddl();
    CREATE EVENT TRIGGER b_drop ON sql_drop EXECUTE FUNCTION audit.no_drops();
    CREATE EVENT TRIGGER c_start ON ddl_command_start EXECUTE FUNCTION audit.log_ddl();
    ALTER EVENT TRIGGER a_log ENABLE {state}; ALTER EVENT TRIGGER b_drop ENABLE {state}; ALTER EVENT TRIGGER c_start ENABLE {state}";

#[test]
fn event_triggers_of_the_user_see_nothing_of_a_restore_or_a_drill() {
    let cluster = pg::shared(15);
    for (name, state) in [("audit_always", "ALWAYS"), ("audit_replica", "REPLICA"), ("audit_origin", "")] {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        cluster.create_database(name);
        cluster.psql(name, &AUDIT.replace("{name}", name).replace("{state}", state));
        expect_code(&mut backup(cluster, name, &store), 0);
        let copy = format!("{name}_copy");
        expect_code(restore(cluster, &cluster.url(&copy), &store).arg("--create"), 0);
        judge::assert_same_database((cluster, name), (cluster, &copy));
        let comment =
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()";
        assert_eq!(cluster.psql(&copy, comment), "of the \\ 'audit'");
        // Stopped right before its end, by this version and by one that marked with a schema.
        let run = Run::latest(&store).name;
        let left = [
            format!("COMMENT ON DATABASE {copy} IS E'pgstow restore, unfinished: {run}\n[]\nold'"),
            format!(
                "BEGIN; ALTER EVENT TRIGGER a_log DISABLE; ALTER EVENT TRIGGER c_start DISABLE; CREATE SCHEMA pgstow_restore;
                 COMMENT ON SCHEMA pgstow_restore IS '{run}'; ALTER EVENT TRIGGER a_log ENABLE {state};
                 ALTER EVENT TRIGGER c_start ENABLE {state}; COMMIT"
            ),
            format!(
                "BEGIN; ALTER EVENT TRIGGER a_log DISABLE; ALTER EVENT TRIGGER c_start DISABLE; CREATE SCHEMA pgstow_restore;
                 COMMENT ON SCHEMA pgstow_restore IS '{run}, all but statistics'; ALTER EVENT TRIGGER a_log ENABLE {state};
                 ALTER EVENT TRIGGER c_start ENABLE {state}; COMMIT"
            ),
        ];
        for mark in left {
            cluster.psql(&copy, &mark);
            let (error, _) = expect_failure(&mut backup(cluster, &copy, &folder.path().join("other")), 1);
            assert!(error.contains("unfinished restore") && error.contains(&run), "{error}");
            expect_code(&mut restore(cluster, &cluster.url(&copy), &store), 0);
            judge::assert_same_database((cluster, name), (cluster, &copy));
            assert_eq!(cluster.psql(&copy, comment), "of the \\ 'audit'");
        }
        let (out, err) = expect_code(&mut drill(cluster, &store), 0);
        assert!(out.contains("PROVEN"), "{out}{err}");
    }
}

#[test]
fn a_trigger_on_logins_sees_no_login_of_a_restore_or_a_drill() {
    // PostgreSQL has had them since 17.
    let version = *pg::versions().iter().find(|version| **version >= 17).expect("infra/setup installs 17 and 18");
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = Cluster::start(version);
    cluster.create_database("logins");
    cluster.psql(
        "logins",
        "CREATE TABLE seen (who text); CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 500);
         CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.seen VALUES (session_user); END';
         CREATE EVENT TRIGGER logins ON login EXECUTE FUNCTION note(); ALTER EVENT TRIGGER logins ENABLE ALWAYS",
    );
    expect_code(&mut backup(&cluster, "logins", &store), 0);
    let table = &Run::latest(&store).table("public", "seen")["rows"].as_u64().unwrap();
    expect_code(restore(&cluster, &cluster.url("logins_copy"), &store).arg("--create"), 0);
    // The one that asks is seen itself, when it has begun.
    cluster.psql("postgres", "ALTER SYSTEM SET event_triggers = off; SELECT pg_reload_conf(); SELECT pg_sleep(0.3)");
    assert_eq!(cluster.psql("logins_copy", "SELECT count(*) FROM seen"), table.to_string());
    cluster.psql("postgres", "ALTER SYSTEM RESET event_triggers; SELECT pg_reload_conf(); SELECT pg_sleep(0.3)");
    let (out, err) = expect_code(&mut drill(&cluster, &store), 0);
    assert!(out.contains("PROVEN"), "{out}{err}");
}

#[test]
fn the_mark_gives_the_database_its_comment_back_and_half_a_database_is_not_backed_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    cluster.psql(
        "postgres",
        "CREATE ROLE mark_owner LOGIN PASSWORD 'x'; CREATE ROLE mark_guest LOGIN PASSWORD 'x'; CREATE DATABASE mark_source",
    );
    cluster.psql(
        "mark_source",
        "CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY); INSERT INTO app.t SELECT generate_series(1, 5)",
    );
    expect_code(&mut backup(cluster, "mark_source", &store), 0);
    cluster.psql(
        "postgres",
        "CREATE DATABASE mark_own OWNER mark_owner; COMMENT ON DATABASE mark_own IS E'mine\n[\"x\"]'",
    );
    cluster.psql("postgres", "CREATE DATABASE mark_guests; GRANT CREATE ON DATABASE mark_guests TO mark_guest");
    let comment = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()";
    let rows = "SELECT count(*) FROM app.t";
    for (role, database, wanted) in [("mark_owner", "mark_own", "mine\n[\"x\"]"), ("mark_guest", "mark_guests", "")] {
        let url = cluster.url_as(role, "x", database);
        let missing = Run::latest(&store).folder.join("app/t.sql.zst");
        let kept = std::fs::read(&missing).unwrap();
        let mut damaged = kept.clone();
        damaged[20] ^= 1;
        std::fs::write(&missing, damaged).unwrap();
        expect_failure(restore(cluster, &url, &store).arg("--no-owner"), 1);
        std::fs::write(&missing, kept).unwrap();
        // Half of it is there: neither a backup nor a restore of something else takes it for whole.
        let (_, told) = expect_failure(&mut backup(cluster, database, &folder.path().join("half")), 1);
        assert!(told.contains("unfinished restore") && told.contains("take the mark away"), "{told}");
        let mut doctor = pgstow();
        doctor.args(["doctor", "--pg-bin-dir"]).arg(cluster.bin_dir()).env("DATABASE_URL", cluster.url(database));
        doctor.arg("--store").arg(folder.path().join("half"));
        let (out, _) = expect_code(&mut doctor, 1);
        assert!(out.contains("unfinished restore"), "{out}");
        let mut other = restore(cluster, &url, &store);
        let (error, told) = expect_failure(other.args(["--no-owner", "--schema-only"]), 2);
        assert!(error.contains("unfinished restore") && told.contains("--start-over"), "{told}");
        expect_code(restore(cluster, &url, &store).arg("--no-owner"), 0);
        assert_eq!(cluster.psql(database, rows), "5");
        assert_eq!(cluster.psql(database, comment), wanted);
        assert_eq!(cluster.psql(database, "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgstow_restore'"), "0");
        expect_code(&mut backup(cluster, database, &folder.path().join("whole").join(database)), 0);
    }
    // The run of the mark is gone from the store: what it left can be removed for another one.
    cluster.psql(
        "mark_own",
        "COMMENT ON DATABASE mark_own IS E'pgstow restore, unfinished: 20200101T000000Z-000000\n[]\nmine'",
    );
    let url = cluster.url_as("mark_owner", "x", "mark_own");
    let (_, told) = expect_failure(restore(cluster, &url, &store).arg("--no-owner"), 2);
    assert!(told.contains("COMMENT ON DATABASE \"mark_own\" IS 'mine'") && told.contains("--start-over"), "{told}");
    expect_code(restore(cluster, &url, &store).args(["--no-owner", "--start-over"]), 0);
    assert_eq!(cluster.psql("mark_own", rows), "5");
    assert_eq!(cluster.psql("mark_own", comment), "mine");
}

#[test]
fn the_same_command_again_gives_the_new_database_to_its_owner_or_lists_that_it_could_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    cluster.psql("postgres", "CREATE ROLE mark_saved; CREATE ROLE mark_maker LOGIN CREATEDB PASSWORD 'x'");
    cluster.create_database_with("mark_owned", "OWNER mark_saved");
    cluster.psql(
        "mark_owned",
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 5);
         REVOKE ALL ON DATABASE mark_owned FROM PUBLIC; GRANT CONNECT ON DATABASE mark_owned TO mark_maker WITH GRANT OPTION",
    );
    expect_code(&mut backup(cluster, "mark_owned", &store), 0);
    let run = Run::latest(&store).name;
    let owner = "SELECT datdba::regrole FROM pg_database WHERE datname = current_database()";
    for (maker, code, is_owned_by) in [("postgres", 0, "mark_saved"), ("mark_maker", 3, "mark_maker")] {
        let copy = format!("mark_owned_{maker}");
        let url = if maker == "postgres" { cluster.url(&copy) } else { cluster.url_as(maker, "x", &copy) };
        for again in [false, true] {
            if again {
                // As whoever ends the first one in the midst leaves it.
                cluster.psql(
                    &copy,
                    &format!(
                        "ALTER DATABASE {copy} OWNER TO {maker};
                         COMMENT ON DATABASE {copy} IS E'pgstow restore, unfinished: {run}\n[]'"
                    ),
                );
            }
            let (out, err) = expect_code(restore(cluster, &url, &store).args(["--create", "--best-effort"]), code);
            assert_eq!(cluster.psql(&copy, owner), is_owned_by, "{out}{err}");
            assert_eq!(
                err.contains(&format!("database {copy}")) || out.contains(&format!("database {copy}")),
                code == 3,
                "{out}{err}"
            );
        }
        if code == 0 {
            judge::assert_same_database((cluster, "mark_owned"), (cluster, &copy));
        }
    }
}
