//! `pgstow restore`: what comes back is what was saved, whole or in parts; damage and wrong targets are refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::support::judge;
use super::support::pg::{self, Cluster};
use super::support::process::{output_with, succeed_with};
use super::support::program::{self, Run};

/// The program on a store, with the client programs of that cluster.
fn pgstow(cluster: &Cluster, store: &Path, arguments: &[&str]) -> Command {
    let mut command = program::pgstow();
    command.current_dir(store.parent().unwrap()).env("PGSTOW_STORE", store).env("PGSTOW_PG_BIN_DIR", cluster.bin_dir());
    command.args(arguments);
    command
}

fn backup(cluster: &Cluster, database: &str, store: &Path) {
    let url = cluster.url(database);
    succeed_with(&mut pgstow(cluster, store, &["backup", "--database-url", &url]), b"");
}

fn restore(cluster: &Cluster, database: &str, store: &Path, more: &[&str]) -> Output {
    let url = cluster.url(database);
    output_with(pgstow(cluster, store, &["restore", "--to", &url]).args(more), b"")
}

#[track_caller]
fn restored(cluster: &Cluster, database: &str, store: &Path, more: &[&str]) -> String {
    let output = restore(cluster, database, store, more);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "restore {more:?} ended with {}\n{stderr}", output.status);
    stderr
}

#[track_caller]
fn refused(cluster: &Cluster, database: &str, store: &Path, more: &[&str], code: i32) -> String {
    let output = restore(cluster, database, store, more);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "restore {more:?}\n{stderr}");
    stderr
}

/// A cluster with the awkward database `app`.
fn awkward(version: u32) -> Cluster {
    let cluster = Cluster::start(version);
    cluster.create_database("app");
    cluster.psql_file("postgres", &pg::fixture("awkward_roles.sql"), &[]);
    cluster.psql_file("app", &pg::fixture("awkward.sql"), &[]);
    cluster.psql_file("app", &pg::fixture("volume.sql"), &[("rows", "1000"), ("tables", "20")]);
    cluster
}

const LARGE_OBJECTS: &str =
    "SELECT m.oid, md5(lo_get(m.oid)), pg_get_userbyid(lomowner), lomacl FROM pg_largeobject_metadata m ORDER BY 1";
const SETTINGS: &str = "SELECT setrole::regrole, setconfig FROM pg_db_role_setting WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1";
const DATABASE: &str =
    "SELECT datacl, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()";

fn same(cluster: &Cluster, one: &str, other: &str) {
    judge::assert_same_database((cluster, one), (cluster, other));
    for question in [LARGE_OBJECTS, SETTINGS, DATABASE] {
        assert_eq!(cluster.psql(one, question), cluster.psql(other, question), "{question}");
    }
}

#[test]
pub(crate) fn the_awkward_database_comes_back_in_every_version() {
    for version in pg::servers() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let cluster = awkward(version);
        backup(&cluster, "app", &store);

        cluster.create_database("copy \"x\"");
        restored(&cluster, "copy \"x\"", &store, &[]);
        same(&cluster, "app", "copy \"x\"");
        // As a restore that was stopped right before its end leaves it.
        mark(&cluster, "copy \"x\"", &store);
        restored(&cluster, "copy \"x\"", &store, &[]);
        same(&cluster, "app", "copy \"x\"");
        let told = refused(&cluster, "copy \"x\"", &store, &[], 2);
        assert!(told.contains("is not empty"), "{told}");
        let told = refused(&cluster, "app", &store, &["--into-existing"], 2);
        assert!(told.contains("the very database"), "{told}");

        restored(&cluster, "made", &store, &["--create", "--jobs", "1"]);
        same(&cluster, "app", "made");
        let properties = |name: &str| {
            cluster.psql(name, "SELECT encoding, datcollate, datctype, pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()")
        };
        assert_eq!(properties("app"), properties("made"));
    }
}

fn drill(cluster: &Cluster, on: &str, store: &Path, more: &[&str]) -> (i32, String) {
    let url = cluster.url(on);
    let output = output_with(pgstow(cluster, store, &["drill", "--on", &url]).args(more), b"");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let left = cluster.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname LIKE 'pgstow_drill%'");
    assert_eq!(left, "0", "the scratch database is still there\n{text}");
    (output.status.code().unwrap(), text)
}

#[test]
fn a_drill_proves_a_run_or_names_what_is_wrong_and_leaves_no_database() {
    for version in pg::servers() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let cluster = awkward(version);
        backup(&cluster, "app", &store);
        let (code, text) = drill(&cluster, "postgres", &store, &[]);
        assert!(code == 0 && text.contains("PROVEN"), "exit {code}\n{text}");
        let path = object(&store, "kinds/generated.sql.zst");
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let (code, text) = drill(&cluster, "postgres", &store, &[]);
        assert!(code == 4 && text.contains("kinds/generated.sql.zst"), "exit {code}\n{text}");
        let listed = succeed_with(&mut pgstow(&cluster, &store, &["list", "--json"]), b"").stdout;
        assert!(String::from_utf8_lossy(&listed).contains("\"drilled\""));
    }
}

/// As [`judge::assert_same_database`]; the partitions of `a.hashed`, loaded through their root, wherever a row now is.
#[track_caller]
fn same_rows(cluster: &Cluster, one: &str, other: &str) {
    let hashed = "SELECT size, count(*), count(DISTINCT n) FROM a.hashed GROUP BY size ORDER BY size";
    assert_eq!(cluster.psql(one, hashed), cluster.psql(other, hashed));
    let rest = |name| judge::dump_text(cluster, name, &["--exclude-table-data=a.hashed_*"]);
    judge::assert_same(&rest(one), &rest(other));
}

/// Marks a database as an unfinished restore of the newest run.
fn mark(cluster: &Cluster, database: &str, store: &Path) {
    let run = object(store, "manifest.json").parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
    cluster.psql(database, &format!("CREATE SCHEMA pgstow_restore; COMMENT ON SCHEMA pgstow_restore IS '{run}'"));
}

/// The stored object with this key of the newest run.
fn object(store: &Path, key: &str) -> PathBuf {
    let path = Run::latest(store).folder.join(key);
    assert!(path.is_file(), "{} is missing", path.display());
    path
}

#[test]
pub(crate) fn damage_fails_a_restore_with_its_key_and_the_same_command_completes_it_later() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = awkward(15);
    backup(&cluster, "app", &store);
    cluster.create_database("copy");
    for key in
        ["kinds/big.sql.zst", "kinds/values_of_all_kinds.sql.zst", "@large-objects.dump.zst", "@database.dump.zst"]
    {
        let path = object(&store, key);
        let sound = fs::read(&path).unwrap();
        let mut flipped = sound.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x10;
        for damaged in [&flipped[..], &sound[..sound.len() - 7]] {
            fs::write(&path, damaged).unwrap();
            let told = refused(&cluster, "copy", &store, &[], 1);
            assert!(told.contains(key), "{key}: {told}");
        }
        fs::write(&path, &flipped).unwrap();
        refused(&cluster, "copy", &store, &[], 1);
        let rows = cluster.psql("copy", "SELECT to_regclass('kinds.big') IS NULL");
        if rows == "f" && key.starts_with("kinds/") {
            let table = key.trim_end_matches(".sql.zst").replace('/', ".");
            assert_eq!(cluster.psql("copy", &format!("SELECT count(*) FROM {table}")), "0", "{key}: half a table");
        }
        fs::write(&path, &sound).unwrap();
    }
    let log = restored(&cluster, "copy", &store, &[]);
    assert!(log.contains("unfinished restore"), "{log}");
    same(&cluster, "app", "copy");
}

#[test]
fn extensions_and_missing_roles_come_back_on_another_server() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = Cluster::start(pg::packaged());
    cluster.install_extension(&pg::fixture("ext"));
    cluster.create_database("app");
    cluster.psql_file("postgres", &pg::fixture("awkward_roles.sql"), &[]);
    cluster.psql(
        "app",
        "CREATE EXTENSION pg_cron; CREATE EXTENSION pgagent; CREATE EXTENSION pgstow_probe;
         SELECT cron.schedule('nightly', '0 3 * * *', 'SELECT 1');
         INSERT INTO cron.job_run_details (jobid, runid, status) SELECT 1, i, 'failed' FROM generate_series(1, 500) i;
         INSERT INTO pgagent.pga_job (jobjclid, jobname) SELECT 1, 'job ' || i FROM generate_series(1, 5) i;
         INSERT INTO pgagent.pga_jobstep (jstjobid, jstname, jstkind, jstcode, jstconnstr)
              SELECT jobid, 'step', 's', 'SELECT 1', 'dbname=x' FROM pgagent.pga_job;
         CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 10);
         GRANT SELECT ON t TO lh_reader; ALTER TABLE t OWNER TO lh_owner",
    );
    backup(&cluster, "app", &store);

    let other = Cluster::start(pg::packaged());
    let told = refused(&other, "app", &store, &["--create"], 1);
    assert!(told.contains("role lh_owner, role lh_reader") && told.contains("--roles"), "{told}");
    assert_eq!(other.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'app'"), "0");
    restored(&other, "app", &store, &["--create", "--roles"]);
    judge::assert_same_database((&cluster, "app"), (&other, "app"));
    let sequences = "SELECT last_value FROM pgagent.pga_job_jobid_seq UNION ALL SELECT last_value FROM cron.jobid_seq";
    assert_eq!(cluster.psql("app", sequences), other.psql("app", sequences));
    let (code, text) = drill(&cluster, "postgres", &store, &[]);
    assert!(
        code == 3 && text.contains("not proven: extension pg_cron") && text.contains("cron.job"),
        "exit {code}\n{text}"
    );
    other.drop_database("app");
    let (code, text) = drill(&other, "postgres", &store, &["--scratch-name", "app"]);
    assert!(code == 0 && text.contains("cron.job: compared by count"), "exit {code}\n{text}");
    let (code, text) = drill(&cluster, "postgres", &store, &[]);
    assert!(
        code == 3 && text.contains("not proven: extension pg_cron") && text.contains("cron.job"),
        "exit {code}\n{text}"
    );
    other.drop_database("app");
    let (code, text) = drill(&other, "postgres", &store, &["--scratch-name", "app"]);
    assert!(code == 0 && text.contains("cron.job: compared by count"), "exit {code}\n{text}");
    let roles = "SELECT rolname, rolcanlogin, rolconnlimit, rolvaliduntil, rolconfig, pg_has_role('lh_app', 'lh_reader', 'USAGE') FROM pg_roles WHERE oid >= 16384 ORDER BY 1";
    assert_eq!(cluster.psql("postgres", roles), other.psql("postgres", roles));
    assert_eq!(
        other.psql("postgres", "SELECT count(*) FROM pg_authid WHERE oid >= 16384 AND rolpassword IS NOT NULL"),
        "0"
    );
}

#[test]
pub(crate) fn a_large_table_is_loaded_by_several_sessions_and_a_damaged_piece_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    cluster.create_database("restore_large");
    cluster.create_database("restore_large_copy");
    cluster.psql(
        "restore_large",
        "CREATE TABLE large (id integer PRIMARY KEY, t text);
         INSERT INTO large SELECT i, encode(sha512(i::text::bytea) || sha512((-i)::text::bytea), 'base64') FROM generate_series(1, 600000) i;
         CREATE TABLE refers (id integer REFERENCES large); INSERT INTO refers SELECT generate_series(1, 1000);
         CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM large; VACUUM ANALYZE large",
    );
    backup(cluster, "restore_large", &store);
    let path = object(&store, "public/large.sql.zst");
    object(&store, "public/large.index");
    let sound = fs::read(&path).unwrap();
    let mut flipped = sound.clone();
    let at = flipped.len() - 3_000_000;
    flipped[at] ^= 1;
    fs::write(&path, &flipped).unwrap();
    let told = refused(cluster, "restore_large_copy", &store, &[], 1);
    assert!(told.contains("public/large.sql.zst"), "{told}");
    assert_eq!(cluster.psql("restore_large_copy", "SELECT count(*) FROM large"), "0");
    fs::write(&path, &sound).unwrap();
    restored(cluster, "restore_large_copy", &store, &[]);
    // Several sessions: the order of rows is another one.
    let rows = "SELECT count(*), sum(hashtextextended(id || t, 0)) FROM large";
    assert_eq!(cluster.psql("restore_large", rows), cluster.psql("restore_large_copy", rows));
    let rest = |name| judge::dump_text(cluster, name, &["--exclude-table-data=large"]);
    judge::assert_same(&rest("restore_large"), &rest("restore_large_copy"));
    interrupted(cluster, &store);
    assert!(
        !cluster
            .psql("restore_large_copy", "SELECT 1 FROM pg_namespace WHERE nspname = 'pgstow_restore'")
            .contains('1')
    );
}

/// Ctrl-C, or a lost server, while rows are being loaded: nothing is left of the table, and the same command
/// completes it.
fn interrupted(cluster: &Cluster, store: &Path) {
    let copy = "restore_large_copy";
    cluster.drop_database(copy);
    cluster.create_database(copy);
    for (end, code) in [("signal", 130), ("connections", 1)] {
        let child = stopped_while_loading(cluster, store, copy);
        let send = |signal: &str| {
            assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        };
        if end == "signal" {
            send("-INT");
        } else {
            assert_ne!(
                cluster.psql("postgres", &format!("SELECT count(pg_terminate_backend(pid)) {}", loading(copy))),
                "0"
            );
        }
        send("-CONT");
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{end}: {stderr}");
        assert_eq!(stderr.matches("error:").count(), 1, "{end}: {stderr}");
        assert_eq!(cluster.psql(copy, "SELECT count(*) FROM large"), "0", "{end}");
    }
    let log = restored(cluster, copy, store, &[]);
    assert!(log.contains("unfinished restore"), "{log}");
    assert_eq!(cluster.psql(copy, "SELECT count(*) FROM large"), "600000");
}

/// The sessions that load rows of the table `large`.
fn loading(database: &str) -> String {
    format!(
        "FROM pg_stat_activity WHERE datname = '{database}' AND application_name LIKE 'pgstow%'
         AND state = 'active' AND query LIKE 'COPY %large%'"
    )
}

/// A restore that was stopped (SIGSTOP) with a COPY of `large` under way, so that what a test then does to it cannot
/// come too late: a stopped process sends no more rows.
fn stopped_while_loading(cluster: &Cluster, store: &Path, copy: &str) -> std::process::Child {
    let seen = format!("SELECT count(*) {}", loading(copy));
    let waiting = format!("SELECT bool_and(wait_event IS NOT DISTINCT FROM 'ClientRead') {}", loading(copy));
    for _attempt in 0..20 {
        let to = cluster.url(copy);
        let mut child = pgstow(cluster, store, &["restore", "--to", &to]).stderr(Stdio::piped()).spawn().unwrap();
        let send = |signal: &str, child: &std::process::Child| {
            assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        };
        while child.try_wait().unwrap().is_none() {
            if cluster.psql("postgres", &seen) == "0" {
                continue;
            }
            send("-STOP", &child);
            // What was sent before may have been the last rows: the server goes on until it has no more.
            loop {
                match cluster.psql("postgres", &waiting).as_str() {
                    "" => break,
                    "t" => return child,
                    _ => {}
                }
            }
            send("-CONT", &child);
        }
        assert!(child.wait().unwrap().success(), "a restore failed before it was stopped");
        cluster.drop_database(copy);
        cluster.create_database(copy);
    }
    panic!("no restore was seen loading");
}

#[test]
fn parts_come_back_and_what_they_need_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    for name in ["restore_parts", "restore_parts_copy"] {
        cluster.create_database(name);
    }
    cluster.psql(
        "restore_parts",
        "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TYPE a.mood AS ENUM ('ok');
         CREATE TABLE a.parent (id serial PRIMARY KEY, m a.mood); INSERT INTO a.parent (m) SELECT 'ok' FROM generate_series(1, 9);
         CREATE TABLE b.child (id integer PRIMARY KEY REFERENCES a.parent, m a.mood DEFAULT 'ok'); INSERT INTO b.child SELECT generate_series(1, 9);
         CREATE INDEX ON b.child (m); CREATE TABLE b.alone (t text); INSERT INTO b.alone VALUES ('x;'), (NULL);
         CREATE TABLE b.empty (id integer REFERENCES b.child); CREATE TYPE a.size AS ENUM ('s', 'm', 'l', 'xl', 'xxl');
         CREATE TABLE a.hashed (size a.size, n integer, PRIMARY KEY (size, n)) PARTITION BY HASH (size);
         CREATE TABLE a.hashed_0 PARTITION OF a.hashed FOR VALUES WITH (MODULUS 3, REMAINDER 0);
         CREATE TABLE a.hashed_1 PARTITION OF a.hashed FOR VALUES WITH (MODULUS 3, REMAINDER 1);
         CREATE TABLE a.hashed_2 PARTITION OF a.hashed FOR VALUES WITH (MODULUS 3, REMAINDER 2);
         INSERT INTO a.hashed SELECT s, n FROM unnest(enum_range(NULL::a.size)) s, generate_series(1, 200) n;
         CREATE TABLE a.counted (id integer GENERATED ALWAYS AS IDENTITY, n integer); CREATE SEQUENCE a.owned OWNED BY a.counted.n;
         INSERT INTO a.counted (n) SELECT nextval('a.owned') FROM generate_series(1, 50)",
    );
    backup(cluster, "restore_parts", &store);
    let copy = "restore_parts_copy";
    let told = refused(cluster, copy, &store, &["--schema", "b"], 1);
    assert!(told.contains("table a.parent") && told.contains("type a.mood"), "{told}");
    let told = refused(cluster, copy, &store, &["--table", "b.child"], 1);
    assert!(told.contains("schema b") && told.contains("table a.parent"), "{told}");
    restored(cluster, copy, &store, &["--schema", "a"]);
    cluster.psql(copy, "CREATE SCHEMA b");
    let told = refused(cluster, copy, &store, &["--table", "b.child"], 2);
    assert!(told.contains("--into-existing"), "{told}");
    let tables = ["--table", "b.child", "--table", "b.alone", "--table", "b.empty"];
    restored(cluster, copy, &store, &[&tables[..], &["--into-existing"]].concat());
    same_rows(cluster, "restore_parts", copy);

    // Rows alone, into what is there.
    cluster.psql(
        copy,
        "UPDATE b.child SET m = NULL; DELETE FROM b.alone; SELECT setval('a.parent_id_seq', 1); INSERT INTO b.empty VALUES (1);
         CREATE TABLE b.other (id integer REFERENCES b.child)",
    );
    let told = refused(cluster, copy, &store, &["--data-only"], 2);
    assert!(told.contains("a.counted is not empty"), "{told}");
    restored(cluster, copy, &store, &["--data-only", "--truncate"]);
    cluster.psql(copy, "DROP TABLE b.other");
    same_rows(cluster, "restore_parts", copy);
    // Nothing refers to these: they are truncated.
    cluster.psql(copy, "SELECT setval('a.counted_id_seq', 1), setval('a.owned', 1)");
    let leaves = ["a.hashed_0", "a.hashed_1", "a.hashed_2", "a.counted"];
    let tables: Vec<&str> = leaves.iter().flat_map(|leaf| ["--table", *leaf]).collect();
    restored(cluster, copy, &store, &[&["--data-only", "--truncate"][..], &tables[..]].concat());
    same_rows(cluster, "restore_parts", copy);
    // Rows of some partitions may belong into the others.
    let told = refused(cluster, copy, &store, &[&["--data-only", "--truncate"][..], &tables[..4]].concat(), 2);
    // Which of the two is named depends on where the hashes of this database's labels fall.
    assert!(told.contains("cannot be replaced without") && told.contains("--table a.hashed_2"), "{told}");
    same_rows(cluster, "restore_parts", copy);

    cluster.psql(copy, "DELETE FROM b.child; DELETE FROM a.parent; SELECT setval('a.parent_id_seq', 1)");
    restored(cluster, copy, &store, &["--data-only", "--table", "a.parent", "--table", "b.child"]);
    same_rows(cluster, "restore_parts", copy);

    cluster.drop_database(copy);
    cluster.create_database(copy);
    restored(cluster, copy, &store, &["--schema-only"]);
    let schema = |name| judge::dump_text(cluster, name, &["--schema-only"]);
    judge::assert_same(&schema("restore_parts"), &schema(copy));
    assert_eq!(cluster.psql(copy, "SELECT count(*) FROM b.child"), "0");

    // Only the command that began a restore of the whole run starts it over.
    mark(cluster, copy, &store);
    for other in [&["--schema", "b", "--into-existing"][..], &["--into-existing"], &["--data-only"], &["--schema-only"]]
    {
        let told = refused(cluster, copy, &store, other, 2);
        assert!(told.contains("unfinished restore"), "{told}");
    }
    assert_eq!(cluster.psql(copy, "SELECT to_regclass('b.child') IS NOT NULL"), "t");
}

#[test]
fn indexes_of_many_partitions_are_valid_whatever_the_number_of_sessions() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    for name in ["restore_attached", "restore_attached_copy"] {
        cluster.create_database(name);
    }
    cluster.psql(
        "restore_attached",
        "CREATE TABLE p (id integer PRIMARY KEY, n integer) PARTITION BY RANGE (id); CREATE INDEX ON p (n);
         DO $$ BEGIN FOR i IN 0..59 LOOP
            EXECUTE format('CREATE TABLE p_%s PARTITION OF p FOR VALUES FROM (%s) TO (%s)', i, i * 10, i * 10 + 10);
         END LOOP; END $$;
         INSERT INTO p SELECT i, i FROM generate_series(0, 599) i;
         CREATE TABLE refers (id integer REFERENCES p); INSERT INTO refers VALUES (1), (599)",
    );
    backup(cluster, "restore_attached", &store);
    restored(cluster, "restore_attached_copy", &store, &["--jobs", "16"]);
    judge::assert_same_database((cluster, "restore_attached"), (cluster, "restore_attached_copy"));
    let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
    assert_eq!(cluster.psql("restore_attached_copy", invalid), "0");
}

#[test]
fn backups_restore_into_newer_servers() {
    let versions = pg::servers();
    for (older, newer) in versions.iter().zip(versions.iter().skip(1)) {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let cluster = awkward(*older);
        backup(&cluster, "app", &store);
        let other = Cluster::start(*newer);
        restored(&other, "app", &store, &["--create", "--roles"]);
        assert_eq!(cluster.psql("app", LARGE_OBJECTS), other.psql("app", LARGE_OBJECTS));
        // Newer tools read both databases, so that their texts differ by nothing but what the servers know.
        let rows = |of: &Cluster| {
            let mut dump = other.command("pg_dump");
            let text = succeed_with(dump.args(["--data-only", "-d", &of.url("app")]), b"").stdout;
            judge::comparable(&String::from_utf8(text).unwrap())
        };
        judge::assert_same(&rows(&cluster), &rows(&other));
    }
}
