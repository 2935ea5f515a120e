//! Definitions that UTF-8 cannot say: a database in another encoding may hold bytes that are no character there.

use std::fs;
use std::os::unix::ffi::OsStringExt as _;

use crate::support::pg::{self, Cluster};
use crate::support::process;
use crate::support::program::{Run, backup, expect_code, expect_failure, pgstow, restore_as_told};

/// Runs a script in which `¤` is the bytes that have no equivalent in UTF-8.
fn with_bytes(cluster: &Cluster, database: &str, (encoding, bytes): (&str, &str), script: &str) {
    let odd = format!("convert_from('{bytes}', '{encoding}')");
    let script = script.replace('\'', "''").replace('¤', "\u{1}");
    cluster.psql(database, &format!("DO $do$ BEGIN EXECUTE replace('{script}', chr(1), {odd}); END $do$"));
}

/// `pg_dump` in an encoding, by lines, without what differs each time.
fn dump(cluster: &Cluster, database: &str, encoding: &str, more: &[&str]) -> Vec<Vec<u8>> {
    let mut dump = cluster.command("pg_dump");
    let text =
        process::succeed_with(dump.args(["-E", encoding]).args(more).arg("-d").arg(cluster.url(database)), b"").stdout;
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.windows(8).any(|word| word == b"restrict"));
    lines.map(<[u8]>::to_vec).collect()
}

#[test]
fn definitions_without_an_equivalent_in_utf8_come_back_byte_for_byte() {
    let cluster = Cluster::start(*pg::versions().last().unwrap());
    let cases = [
        ("WIN1252", "\\x81", "größe"),
        ("ISO_8859_7", "\\xae", "πίνακας"),
        ("EUC_JP", "\\xa9a1", "表"),
        ("SQL_ASCII", "\\xff", "größe"),
    ];
    for (encoding, bytes, name) in cases {
        let database = format!("in {}", encoding.to_lowercase());
        let options = format!("ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'");
        cluster.create_database_with(&database, &options);
        let script = format!(
            "CREATE SCHEMA \"{name}\"; CREATE TYPE mood AS ENUM ('ok', 'x¤');
             CREATE TABLE \"{name}\".\"{name}\" (id int PRIMARY KEY, \"{name}\" text DEFAULT 'a¤{name}'
                CONSTRAINT odd CHECK (\"{name}\" <> 'b¤'), m mood DEFAULT 'x¤');
             COMMENT ON TABLE \"{name}\".\"{name}\" IS 'c¤{name}';
             CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT ''f¤''::text';
             CREATE VIEW v AS SELECT 'v¤' AS \"{name}\" FROM \"{name}\".\"{name}\";
             CREATE TABLE plain (id int DEFAULT 1); INSERT INTO plain VALUES (5), (6);
             ALTER TABLE \"{name}\".\"{name}\" ENABLE ROW LEVEL SECURITY;
             CREATE POLICY p ON \"{name}\".\"{name}\" USING (\"{name}\" = 'p¤');
             CREATE INDEX i ON \"{name}\".\"{name}\" (id) WHERE \"{name}\" = 'i¤';
             INSERT INTO \"{name}\".\"{name}\" VALUES (1, DEFAULT, DEFAULT), (2, 'd¤', 'ok'), (3, '{name}', 'ok')"
        );
        with_bytes(&cluster, &database, (encoding, bytes), &script);
        let store = tempfile::tempdir().unwrap();
        let at = |words: &[&str]| {
            let mut command = pgstow();
            command.args(words).arg("--store").arg(store.path()).env("PGSTOW_PG_BIN_DIR", cluster.bin_dir());
            command
        };
        let (_, err) = expect_code(&mut backup(&cluster, &database, store.path()), 0);
        assert!(encoding == "SQL_ASCII" || err.contains("definitions hold bytes") && err.contains(encoding), "{err}");
        let run = Run::latest(store.path());
        expect_code(&mut at(&["verify"]), 0);
        let again = |to: &str| {
            cluster.drop_database(to);
            cluster.create_database_with(to, &options);
            to.to_owned()
        };
        let saved = dump(&cluster, &database, encoding, &[]);
        restore_as_told(&run, &cluster, &again("as told"));
        expect_code(&mut at(&["restore", "--to", &cluster.url(&again("restored"))]), 0);
        for copy in ["as told", "restored"] {
            assert!(dump(&cluster, copy, encoding, &[]) == saved, "{copy} in {encoding} differs");
        }
        // The file of one table by psql, and the same by `restore --table`.
        let table = format!("{name}.{name}");
        let sql = run.plain(run.table(name, name)["file"]["key"].as_str().unwrap());
        let head = format!("SET client_encoding = '{encoding}';");
        assert!(sql.windows(head.len()).any(|line| line == head.as_bytes()), "{encoding}");
        let file = store.path().join("one.sql");
        fs::write(&file, sql).unwrap();
        let made = format!("CREATE SCHEMA \"{name}\"; CREATE TYPE mood AS ENUM ('ok', 'x¤')");
        with_bytes(&cluster, &again("from sql"), (encoding, bytes), &made);
        let mut psql = cluster.command("psql");
        process::succeed(psql.args(["-X", "-q", "-d"]).arg(cluster.url("from sql")).arg("-f").arg(&file));
        with_bytes(&cluster, &again("one table"), (encoding, bytes), &made);
        let one = ["restore", "--into-existing", "--table", &table, "--to", &cluster.url("one table")];
        expect_code(&mut at(&one), 0);
        // All in the one schema: a pattern with letters would be read in the encoding of the dump.
        let only = |of: &str| dump(&cluster, of, encoding, &["-N", "public"]);
        for copy in ["from sql", "one table"] {
            assert!(only(copy) == only(&database), "{copy} in {encoding} differs");
        }
        // Whole and by stock programs alone.
        let folder = tempfile::tempdir().unwrap();
        expect_code(&mut at(&["download", "--to", folder.path().join("copy").to_str().unwrap()]), 0);
        expect_code(&mut at(&["drill", "--on", &cluster.url("postgres")]), 0);
        let (out, _) = expect_code(&mut at(&["show"]), 0);
        assert!(out.contains(name), "{out}");
        let (out, _) = expect_code(&mut at(&["peek", "--limit", "0", &table]), 0);
        assert!(out.contains(name), "{out}");
        // A database in UTF-8 cannot hold it: everything else comes, and what cannot is listed with its statement.
        cluster.drop_database("in utf8");
        cluster.create_database("in utf8");
        let (out, _) = expect_code(&mut at(&["restore", "--to", &cluster.url("in utf8")]), 3);
        assert!(out.contains("f()") && out.contains("pgstow_bytes"), "{out}");
        assert_eq!(cluster.psql("in utf8", "SELECT count(*) FROM plain"), "2");
    }
}

/// What cannot be saved is refused with its place and the step.
#[test]
fn names_without_an_equivalent_in_utf8_are_refused_with_what_to_do() {
    let cluster = Cluster::start(*pg::versions().last().unwrap());
    for (database, script, word) in [
        ("odd table", "CREATE TABLE \"t¤\" (a int)", "list the relations"),
        ("odd column", "CREATE TABLE c (\"a¤\" int)", "a column of public.c"),
    ] {
        cluster.create_database_with(database, "ENCODING 'WIN1252' LC_COLLATE 'C' LC_CTYPE 'C'");
        with_bytes(&cluster, database, ("WIN1252", "\\x81"), script);
        let store = tempfile::tempdir().unwrap();
        let (error, hints) = expect_failure(&mut backup(&cluster, database, store.path()), 1);
        assert!(error.contains(word) && hints.contains("RENAME"), "{error}\n{hints}");
    }
}

/// Names are bytes to the server: what was given is sent, whatever it is in UTF-8.
#[test]
fn names_of_a_connection_are_sent_byte_for_byte() {
    let cluster = Cluster::start(*pg::versions().last().unwrap());
    cluster.create_database_with("latin", "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'");
    // Names that a session in LATIN1 made have its bytes, which are no UTF-8.
    cluster.psql("latin", "CREATE DATABASE \"größe\" TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'");
    cluster.psql("latin", "CREATE ROLE \"ä\" LOGIN SUPERUSER PASSWORD 'p'; CREATE DATABASE \"ü\" TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'");
    let named = |name: &str| format!("postgresql://%E4:p@127.0.0.1:{}/{name}", cluster.port());
    let psql = |name: &str, sql: &str| {
        let mut psql = cluster.command("psql");
        let output = process::succeed_with(psql.args(["-XAtq", "-f", "-", "-d"]).arg(named(name)), sql.as_bytes());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    psql("gr%F6%DFe", "CREATE TABLE t (\"ö\" text); INSERT INTO t VALUES ('ß')");
    let store = tempfile::tempdir().unwrap();
    let of = |words: &[&str]| {
        let mut command = pgstow();
        command.args(words).arg("--store").arg(store.path()).env("PGSTOW_PG_BIN_DIR", cluster.bin_dir());
        command
    };
    expect_code(of(&["backup", "--database-url", &named("gr%F6%DFe")]).env_remove("DATABASE_URL"), 0);
    assert_eq!(Run::latest(store.path()).table("public", "t")["rows"], 1);
    expect_code(&mut of(&["restore", "--to", &named("%FC")]), 0);
    assert_eq!(psql("%FC", "SELECT \"ö\" FROM t"), "ß");
    // The same as words, by an option and by the environment.
    let words = |name: &[u8]| {
        let text = format!("host=127.0.0.1 port={} password=p user=", cluster.port());
        std::ffi::OsString::from_vec([text.as_bytes(), b"\xe4 dbname='", name, b"'"].concat())
    };
    expect_code(of(&["backup"]).arg("--database-url").arg(words(b"gr\xf6\xdfe")), 0);
    expect_code(of(&["backup"]).env("DATABASE_URL", words(b"gr\xf6\xdfe")), 0);
    let (error, _) = expect_failure(of(&["backup"]).env("DATABASE_URL", words(b"\xf6")), 1);
    assert!(error.contains("3D000") || error.contains("does not exist"), "{error}");
}

/// PostgreSQL cuts the name of a multirange within a letter, and takes it back from nobody.
#[test]
fn a_name_that_is_no_utf8_costs_its_own_definition_and_nothing_else() {
    let cluster = Cluster::start(*pg::versions().last().unwrap());
    cluster.create_database("cut");
    let range = format!("a{}", "ж".repeat(30));
    cluster.psql(
        "cut",
        &format!("CREATE TABLE t (i int); INSERT INTO t VALUES (1); CREATE TYPE \"{range}\" AS RANGE (subtype = int4)"),
    );
    let cut = "SELECT count(*) FROM pg_type WHERE typname::bytea::text LIKE '%d05f%' AND typtype = 'm'";
    assert_eq!(cluster.psql("cut", cut), "1");
    let store = tempfile::tempdir().unwrap();
    let (_, err) = expect_code(&mut backup(&cluster, "cut", store.path()), 0);
    let at = err.find("DO $$").unwrap_or_else(|| panic!("{err}"));
    let statement = &err[at..at + err[at..].find("END$$").unwrap() + 5];
    let run = Run::latest(store.path());
    let omitted = run.manifest["omitted"].as_array().unwrap();
    assert!(omitted.iter().any(|one| one["kind"] == "type"), "{omitted:#?}");
    cluster.create_database("cut copy");
    let mut restore = pgstow();
    restore.args(["restore", "--to"]).arg(cluster.url("cut copy")).arg("--store").arg(store.path());
    let (out, _) = expect_code(restore.env("PGSTOW_PG_BIN_DIR", cluster.bin_dir()), 3);
    assert!(out.contains(&range), "{out}");
    assert_eq!(cluster.psql("cut copy", "SELECT i FROM t"), "1");
    // What it says mends it.
    cluster.psql("cut", statement);
    let again = tempfile::tempdir().unwrap();
    let (_, err) = expect_code(&mut backup(&cluster, "cut", again.path()), 0);
    assert!(!err.contains("not UTF-8"), "{err}");
}
