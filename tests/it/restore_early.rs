//! What can be known before the first change is told before it: extensions that cannot be created, collations, libraries and
//! locales that the target lacks, objects that are there already. And the functions that an extension wants called around
//! a restore.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::judge;
use crate::support::pg::{self, Cluster};
use crate::support::process::output_with;
use crate::support::program::{
    self, Going, Run, backup, drill, expect_code, expect_failure, pgstow, restore_as_told, story,
};
use crate::support::session::until;

fn restore(cluster: &Cluster, database: &str, store: &Path) -> Command {
    program::restore(cluster, &cluster.url(database), store)
}

/// What a restore with `--json` says of one kind and name: why and step.
fn finding(out: &str, kind: &str, name: &str) -> (String, String) {
    let report: Value = serde_json::from_str(out).unwrap();
    let all = report["findings"]["not_restored"].as_array().unwrap();
    let one = all.iter().find(|one| one["kind"] == kind && one["name"] == name);
    let one = one.unwrap_or_else(|| panic!("{kind} {name}: {report:#}"));
    (one["why"].as_str().unwrap().to_owned(), one["step"].as_str().unwrap().to_owned())
}

/// The folder of the server's files that are no programs.
fn share(cluster: &Cluster) -> PathBuf {
    let output = output_with(Command::new(cluster.bin_dir().join("pg_config")).arg("--sharedir"), b"");
    if output.status.success() {
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    } else {
        cluster.bin_dir().join("../share")
    }
}

/// Extensions made of SQL that are gone from the server when the test ends.
struct Installed(Vec<PathBuf>);

impl Installed {
    fn new(cluster: &Cluster, files: &[(&str, &str)]) -> Self {
        let share = share(cluster);
        let folder = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for (name, text) in files {
            let path = share.join("extension").join(name);
            assert!(!path.exists() || name.starts_with("pgstow_"), "{} is a real one", path.display());
            fs::write(folder.path().join(name), text).unwrap();
            paths.push(path);
        }
        cluster.install_extension(folder.path());
        Self(paths)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        for path in &self.0 {
            fs::remove_file(path).ok();
        }
    }
}

/// An extension that can only be created in the database that the server names, as pg_cron.
const LATE: &str = "
    DO $$ BEGIN IF current_database() <> shobj_description((SELECT oid FROM pg_database WHERE datname = 'postgres'), 'pg_database') THEN
        RAISE EXCEPTION 'can only create extension in database %', shobj_description((SELECT oid FROM pg_database WHERE datname = 'postgres'), 'pg_database'); END IF; END $$;
    CREATE SCHEMA late; CREATE TABLE late.job (id int PRIMARY KEY, t text); CREATE FUNCTION late.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
    SELECT pg_catalog.pg_extension_config_dump('late.job', '')";

#[test]
fn an_extension_that_cannot_be_created_here_is_left_out_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = Cluster::start(15);
    let _files = Installed::new(
        &cluster,
        &[
            ("pgstow_late.control", "default_version = '1.0'\nrelocatable = false\nschema = pg_catalog\n"),
            ("pgstow_late--1.0.sql", LATE),
        ],
    );
    cluster.psql("postgres", "CREATE ROLE late_role; COMMENT ON DATABASE postgres IS 'late_source'");
    cluster.create_database("late_source");
    cluster.psql(
        "late_source",
        "CREATE EXTENSION pgstow_late; INSERT INTO late.job VALUES (1, 'x'); GRANT USAGE ON SCHEMA late TO late_role; GRANT SELECT ON late.job TO late_role;
         GRANT EXECUTE ON FUNCTION late.f() TO late_role; REVOKE EXECUTE ON FUNCTION late.f() FROM PUBLIC;
         CREATE VIEW public.jobs AS SELECT * FROM late.job; CREATE TABLE public.kept (id int PRIMARY KEY); INSERT INTO public.kept VALUES (1), (2);
         CREATE TABLE public.of_type (j late.job); INSERT INTO public.of_type VALUES (ROW(1, 'x'))",
    );
    expect_code(&mut backup(&cluster, "late_source", &store), 0);
    let run = Run::latest(&store);
    assert!(
        run.manifest["extensions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["name"] == "pgstow_late" && one["version"] == "1.0")
    );

    let (out, err) = expect_code(restore(&cluster, "late_copy", &store).args(["--create", "--json"]), 3);
    let (why, _) = finding(&out, "extension", "pgstow_late");
    assert!(
        why.contains("can only create extension in database late_source") && why.contains("late.job"),
        "{why}\n{err}"
    );
    assert!(why.contains("view public.jobs") && why.contains("table public.of_type"), "{why}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["findings"]["not_restored"].as_array().unwrap().len(), 1, "{report:#}");
    assert_eq!(cluster.psql("late_copy", "SELECT count(*) FROM kept"), "2");

    let (out, err) = expect_code(&mut drill(&cluster, &store), 3);
    assert!(out.contains("pgstow_late") && out.contains("late.job"), "{out}{err}");

    // RESTORE.md does the same.
    cluster.create_database("late_script");
    let script = fs::read_to_string(run.folder.join("RESTORE.md")).unwrap();
    let script = script.split("```bash\n").nth(1).unwrap().split("```").next().unwrap();
    fs::write(folder.path().join("script"), script).unwrap();
    let mut bash = Command::new("bash");
    bash.arg(folder.path().join("script"))
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", cluster.bin_dir().display()));
    let output = output_with(bash.env("RUN", &run.folder).env("DB", cluster.url("late_script")).current_dir("/"), b"");
    assert_eq!(output.status.code(), Some(3), "{}", story(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("extension pgstow_late is left out") && !said.contains("pg_restore: error"), "{said}");
    judge::assert_same(&judge::dump_text(&cluster, "late_copy", &[]), &judge::dump_text(&cluster, "late_script", &[]));

    // In the database that it wants all comes back.
    cluster.psql("postgres", "COMMENT ON DATABASE postgres IS 'late_other'");
    expect_code(restore(&cluster, "late_other", &store).arg("--create"), 0);
    judge::assert_same_database((&cluster, "late_source"), (&cluster, "late_other"));
    cluster.psql("postgres", "COMMENT ON DATABASE postgres IS 'late_told'");
    cluster.create_database("late_told");
    restore_as_told(&run, &cluster, "late_told");
    judge::assert_same_database((&cluster, "late_source"), (&cluster, "late_told"));
}

/// An extension whose tables take rows between two calls only, as TimescaleDB.
const HOOKED: &str = "
    CREATE FUNCTION timescaledb_pre_restore() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET timescaledb.restoring = ''on''', current_database());
        PERFORM set_config('timescaledb.restoring', 'on', false); RETURN true; END $$;
    CREATE FUNCTION timescaledb_post_restore() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        IF current_setting('timescaledb.restoring', true) IS DISTINCT FROM 'on' THEN RAISE EXCEPTION 'not restoring'; END IF;
        EXECUTE format('ALTER DATABASE %I RESET timescaledb.restoring', current_database());
        PERFORM set_config('timescaledb.restoring', 'off', false); RETURN true; END $$;
    CREATE FUNCTION restoring() RETURNS boolean LANGUAGE sql AS $$ SELECT coalesce(current_setting('timescaledb.restoring', true) = 'on', false) $$";

#[test]
fn the_functions_that_an_extension_wants_around_a_restore_are_called() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = Cluster::start(15);
    let control = "default_version = '1.0'\nrelocatable = false\n";
    let files = Installed::new(
        &cluster,
        &[("timescaledb.control", control), ("timescaledb--1.0.sql", HOOKED), ("timescaledb--1.1.sql", HOOKED)],
    );
    cluster.create_database("hooked");
    cluster.psql(
        "hooked",
        "CREATE SCHEMA ts; CREATE EXTENSION timescaledb SCHEMA ts; SELECT set_config('timescaledb.restoring', 'on', false);
         CREATE TABLE hyper (id int PRIMARY KEY CHECK (ts.restoring())); INSERT INTO hyper SELECT generate_series(1, 9)",
    );
    let (out, _) = expect_code(&mut backup(&cluster, "hooked", &store), 0);
    assert!(out.contains("timescaledb_pre_restore()"), "{out}");
    let mut doctor = pgstow();
    doctor
        .args(["doctor", "--skip-store", "--pg-bin-dir"])
        .arg(cluster.bin_dir())
        .env("DATABASE_URL", cluster.url("hooked"));
    let (out, _) = expect_code(&mut doctor, 0);
    assert!(out.contains("timescaledb_pre_restore()"), "{out}");
    let over = |database: &str| {
        judge::assert_same_database((&cluster, "hooked"), (&cluster, database));
        assert_eq!(cluster.psql(database, "SELECT ts.restoring()"), "f");
    };
    // The same version comes back, whatever the server's own is by now.
    fs::write(&files.0[0], control.replace("1.0", "1.1")).unwrap();
    expect_code(restore(&cluster, "hooked_copy", &store).arg("--create"), 0);
    over("hooked_copy");
    assert_eq!(cluster.psql("hooked_copy", "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'"), "1.0");
    let (out, err) = expect_code(&mut drill(&cluster, &store), 0);
    assert!(out.contains("PROVEN"), "{out}{err}");
    cluster.create_database("hooked_told");
    restore_as_told(&Run::latest(&store), &cluster, "hooked_told");
    over("hooked_told");
    // Where that version is not to be had nothing is begun.
    fs::remove_file(&files.0[1]).unwrap();
    let (error, _) = expect_failure(restore(&cluster, "hooked_late", &store).arg("--create"), 1);
    assert!(error.contains("extension timescaledb in version 1.0 (it has 1.1)"), "{error}");
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'hooked_late'"), "0");
}

#[test]
fn what_the_server_lacks_is_told_at_once_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = Cluster::start(15);
    let library = |name: &str| {
        let output = output_with(Command::new(cluster.bin_dir().join("pg_config")).arg("--pkglibdir"), b"");
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).join(name)
    };
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let preloaded = folder.path().join("preloaded.so");
    fs::copy(library("auto_explain.so"), &preloaded).unwrap();
    fs::set_permissions(&preloaded, fs::Permissions::from_mode(0o755)).unwrap();
    let stop = share(&cluster).join("tsearch_data/pgstow_gone.stop");
    fs::write(&stop, "the\n").unwrap();
    fs::set_permissions(&stop, fs::Permissions::from_mode(0o644)).unwrap();
    cluster.psql("postgres", "CREATE DATABASE lacking TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en' LOCALE 'C'; CREATE ROLE lacked");
    let settings = format!("ALTER DATABASE lacking SET session_preload_libraries = '{}'", preloaded.display());
    cluster.psql(
        "lacking",
        &format!(
            "CREATE COLLATION pg_catalog.pgstow_gone FROM \"C\"; CREATE COLLATION own (provider = icu, locale = 'de');
             CREATE TABLE t (a text COLLATE pg_catalog.pgstow_gone, b text COLLATE own DEFAULT ' COLLATE pg_catalog.\"none\"'); INSERT INTO t VALUES ('x', 'y');
             CREATE TEXT SEARCH DICTIONARY stops (TEMPLATE = simple, STOPWORDS = pgstow_gone); CREATE TEXT SEARCH DICTIONARY plain (TEMPLATE = simple);
             CREATE TABLE fine (a int); INSERT INTO fine VALUES (1); ALTER TABLE fine OWNER TO lacked; {settings}"
        ),
    );
    expect_code(&mut backup(&cluster, "lacking", &store), 0);
    fs::remove_file(&preloaded).unwrap();
    fs::remove_file(&stop).unwrap();
    cluster.psql("postgres", "CREATE ROLE other; REASSIGN OWNED BY lacked TO other");
    cluster.psql("postgres", "ALTER DATABASE lacking RESET session_preload_libraries");
    cluster.psql("lacking", "REASSIGN OWNED BY lacked TO other; DROP ROLE lacked");

    let (error, told) = expect_failure(restore(&cluster, "lacking_copy", &store).arg("--create"), 1);
    for word in ["collation pg_catalog.pgstow_gone", "preloaded.so", "role lacked", "dictionary public.stops"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    assert!(told.contains("install library") && told.contains("locale-gen") && told.contains("--roles"), "{told}");
    assert!(told.contains("tsearch_data") && !error.contains("public.plain"), "{error}\n{told}");
    assert!(!error.contains("collation pg_catalog.none") && !error.contains("collation public.own"), "{error}");
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'lacking_copy'"), "0");
    let (out, _) =
        expect_code(restore(&cluster, "lacking_copy", &store).args(["--create", "--best-effort", "--json"]), 3);
    assert!(finding(&out, "table", "public.t").0.contains("pgstow_gone"), "{out}");
    assert!(finding(&out, "setting", "of the database").0.contains("library"), "{out}");
    assert!(finding(&out, "text search dictionary", "public.stops").0.contains("pgstow_gone"), "{out}");
    assert_eq!(cluster.psql("lacking_copy", "SELECT a FROM fine"), "1");

    // A server that knows no such locales at all.
    if pg::versions().contains(&14) {
        let old = Cluster::start(14);
        let mut command = restore(&old, "lacking_old", &store);
        command.args(["--create", "--no-owner", "--pg-bin-dir"]).arg(cluster.bin_dir());
        let mut command = pgstow();
        command
            .args(["restore", "--create", "--no-owner", "--pg-bin-dir"])
            .arg(cluster.bin_dir())
            .args(["--to", &old.url("lacking_old")]);
        let (error, told) = expect_failure(command.arg("--store").arg(&store), 1);
        assert!(error.contains("a database with locales of icu") && told.contains("locale C"), "{error}\n{told}");
        let (out, _) = expect_code(command.args(["--best-effort", "--json"]), 3);
        assert!(finding(&out, "locale", "of the database").0.contains("locale C"), "{out}");
        assert_eq!(old.psql("lacking_old", "SELECT a FROM fine"), "1");
    }
}

#[test]
fn a_part_names_what_it_needs_and_what_is_there_already() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    cluster.psql("postgres", "CREATE ROLE part_reader; CREATE ROLE part_policy; CREATE DATABASE part_source; CREATE DATABASE part_copy; CREATE DATABASE part_full");
    cluster.psql(
        "part_source",
        "CREATE SCHEMA lib; CREATE SCHEMA app; CREATE COLLATION lib.c (provider = icu, locale = 'de'); CREATE TEXT SEARCH CONFIGURATION lib.cfg (COPY = simple);
         CREATE FUNCTION lib.eq(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 = $2'; CREATE OPERATOR lib.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = lib.eq);
         CREATE OPERATOR CLASS lib.ops FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(int, int);
         CREATE TABLE app.a (t text COLLATE lib.c, n int CHECK (n OPERATOR(lib.===) n), v tsvector GENERATED ALWAYS AS (to_tsvector('lib.cfg', 'x')) STORED);
         CREATE INDEX ON app.a (n lib.ops); INSERT INTO app.a (t, n) VALUES ('x', 1); GRANT SELECT ON app.a TO part_reader;
         ALTER TABLE app.a ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON app.a TO part_policy USING (true);
         CREATE TABLE app.b (id int PRIMARY KEY); CREATE FUNCTION app.f(int, text) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE VIEW app.z AS SELECT 1 AS one",
    );
    expect_code(&mut backup(cluster, "part_source", &store), 0);
    let run = Run::latest(&store);
    let needs: Vec<&str> =
        run.schema("app")["needs"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    assert!(needs.contains(&"role \"part_reader\"") && needs.contains(&"role \"part_policy\""), "{needs:?}");
    let (error, _) = expect_failure(restore(cluster, "part_copy", &store).args(["--schema", "app"]), 1);
    for word in ["collation lib.c", "text search configuration lib.cfg", "operator lib.===", "operator class lib.ops"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    assert_eq!(cluster.psql("part_copy", "SELECT count(*) FROM pg_namespace WHERE nspname = 'app'"), "0");

    // What is there already is named before anything is made, and the same command works when it is gone.
    expect_code(restore(cluster, "part_full", &store).args(["--schema", "lib"]), 0);
    cluster.psql("part_full", "CREATE SCHEMA app; CREATE TABLE app.z (mine int); CREATE FUNCTION app.f(int, text) RETURNS int LANGUAGE sql AS 'SELECT 2'; CREATE FUNCTION app.f(int) RETURNS int LANGUAGE sql AS 'SELECT 2'");
    let before = cluster.pg_dump("part_full", &[]);
    let app = || {
        let mut command = restore(cluster, "part_full", &store);
        command.args(["--schema", "app", "--into-existing"]);
        command
    };
    let (error, told) = expect_failure(&mut app(), 2);
    assert!(
        error.contains("view app.z") && error.contains("function app.f(integer, text)") && !error.contains("app.b"),
        "{error}"
    );
    assert!(told.contains("nothing was changed"), "{told}");
    judge::assert_same(&judge::comparable(&before), &judge::comparable(&cluster.pg_dump("part_full", &[])));
    cluster.psql("part_full", "DROP TABLE app.z; DROP FUNCTION app.f(int, text); DROP FUNCTION app.f(int)");
    expect_code(&mut app(), 0);
    judge::assert_same_database((cluster, "part_source"), (cluster, "part_full"));
    cluster.psql("part_full", "DROP SCHEMA app CASCADE; CREATE SCHEMA app; CREATE TABLE app.b (mine int)");
    let (out, _) = expect_code(app().args(["--best-effort", "--json"]), 3);
    assert!(finding(&out, "table", "app.b").0.contains("already exists"), "{out}");
    assert_eq!(cluster.psql("part_full", "SELECT count(*) FROM app.a"), "1");
}

#[test]
fn a_run_that_is_removed_while_it_is_restored_is_named_with_the_state_it_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    cluster.create_database("removed");
    cluster.psql(
        "removed",
        "CREATE FUNCTION slow(int) RETURNS boolean LANGUAGE sql AS $$ SELECT current_database() = 'removed' OR pg_sleep(0.1) IS NOT NULL $$;
         CREATE TABLE a (id int CHECK (slow(id)), pad text DEFAULT repeat('x', 100)); INSERT INTO a SELECT generate_series(1, 60);
         CREATE TABLE b (id int); INSERT INTO b VALUES (1)",
    );
    expect_code(&mut backup(cluster, "removed", &store), 0);
    let run = Run::latest(&store);
    let going = Going::start(restore(cluster, "removed_copy", &store).args(["--create", "--jobs", "1"]));
    let loads = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'removed_copy' AND query LIKE 'COPY %'";
    until("rows are being loaded", || cluster.psql("postgres", loads) != "0");
    fs::remove_dir_all(&run.folder).unwrap();
    let (_, told) = going.expect_code(1);
    assert!(told.contains(&format!("run {} was removed from the store", run.name)), "{told}");
    assert!(told.contains("pgstow pin") && told.contains("--start-over"), "{told}");
    // Another run takes its place when it is said so.
    cluster.psql("removed", "ALTER TABLE a DROP CONSTRAINT a_id_check");
    expect_code(&mut backup(cluster, "removed", &folder.path().join("other")), 0);
    expect_failure(&mut restore(cluster, "removed_copy", &folder.path().join("other")), 2);
    expect_code(restore(cluster, "removed_copy", &folder.path().join("other")).arg("--start-over"), 0);
    judge::assert_same_database((cluster, "removed"), (cluster, "removed_copy"));
}
