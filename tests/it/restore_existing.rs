//! Rows into tables of a living database: what refers to them is neither harmed nor taken for broken, and nothing waits for a
//! lock without an end.

use std::path::Path;

use crate::support::judge;
use crate::support::pg::{self, Cluster};
use crate::support::program::{Run, backup, expect_code, expect_failure, pgstow, restore};
use crate::support::session::Talk;

/// A database with these tables, its backup, and a copy that lives on.
fn living(cluster: &Cluster, name: &str, tables: &str, store: &Path) -> String {
    let copy = format!("{name}_copy");
    cluster.create_database(name);
    cluster.psql(name, tables);
    expect_code(&mut backup(cluster, name, store), 0);
    cluster.psql("postgres", &format!("CREATE DATABASE {copy} TEMPLATE {name}"));
    copy
}

#[test]
fn emptying_a_table_without_the_replica_role_changes_no_row_of_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    let copy = living(
        cluster,
        "acting",
        "CREATE ROLE acting LOGIN PASSWORD 'x'; CREATE SCHEMA app AUTHORIZATION acting; SET ROLE acting;
         CREATE TABLE app.parent (id int PRIMARY KEY, v text); CREATE TABLE app.parts (id int PRIMARY KEY) PARTITION BY LIST (id);
         CREATE TABLE app.part PARTITION OF app.parts DEFAULT;
         CREATE TABLE app.child (id int PRIMARY KEY, p int REFERENCES app.parent ON DELETE CASCADE);
         CREATE TABLE app.child2 (id int PRIMARY KEY, p int REFERENCES app.parent ON DELETE SET NULL);
         CREATE TABLE app.child3 (id int PRIMARY KEY, p int DEFAULT 1 REFERENCES app.parts ON DELETE SET DEFAULT) PARTITION BY LIST (id);
         CREATE TABLE app.child31 PARTITION OF app.child3 DEFAULT;
         CREATE TABLE app.alone (id int PRIMARY KEY); CREATE TABLE app.refers (id int REFERENCES app.alone);
         INSERT INTO app.parent SELECT g, 'v' FROM generate_series(1, 10) g; INSERT INTO app.parts SELECT generate_series(1, 10);
         INSERT INTO app.child SELECT g, g FROM generate_series(1, 10) g; INSERT INTO app.child2 SELECT * FROM app.child;
         INSERT INTO app.child3 SELECT * FROM app.child; INSERT INTO app.alone VALUES (1);",
        &store,
    );
    let url = cluster.url_as("acting", "x", &copy);
    let to = |tables: &[&str]| {
        let mut command = restore(cluster, &url, &store);
        command.args(["--data-only", "--truncate"]);
        tables.iter().for_each(|table| {
            command.args(["--table", table]);
        });
        command
    };
    let all = "SELECT pg_catalog.md5(string_agg(t::text, ',' ORDER BY t::text)) FROM (SELECT 'a' || id || coalesce(p, 0) FROM app.child
        UNION ALL SELECT 'b' || id || coalesce(p, 0) FROM app.child2 UNION ALL SELECT 'c' || id || coalesce(p, 0) FROM app.child3
        UNION ALL SELECT 'p' || id || v FROM app.parent UNION ALL SELECT 'q' || id FROM app.parts) t";
    cluster.psql(&copy, "UPDATE app.parent SET v = 'new'");
    let before = cluster.psql(&copy, all);
    for (tables, named) in [
        (&["app.parent"][..], &["app.child (ON DELETE CASCADE", "app.child2 (ON DELETE SET NULL"][..]),
        (&["app.parent", "app.child"], &["app.child2"]),
        (&["app.part"], &["app.child31 (ON DELETE SET DEFAULT"]),
    ] {
        let (error, hints) = expect_failure(&mut to(tables), 2);
        assert!(named.iter().all(|one| error.contains(one)), "{error}");
        assert!(hints.contains("--table app.child") && hints.contains("nothing was changed"), "{hints}");
        assert_eq!(cluster.psql(&copy, all), before);
    }
    // With those that refer to it all rows come back; a reference without an action harms nobody.
    expect_code(&mut to(&["app.parent", "app.child", "app.child2"]), 0);
    assert_eq!(cluster.psql(&copy, "SELECT count(*) FROM app.child JOIN app.parent p ON p.id = p WHERE v = 'v'"), "10");
    expect_code(&mut to(&["app.alone"]), 0);

    // Triggers and rules of the user that emptying would fire.
    cluster.psql(
        &copy,
        "SET ROLE acting; CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM app.child; RETURN NULL; END'",
    );
    for (make, table, undo) in [
        (
            "CREATE TRIGGER x AFTER DELETE ON app.alone EXECUTE FUNCTION app.f()",
            "app.alone",
            "DROP TRIGGER x ON app.alone",
        ),
        ("CREATE RULE x AS ON DELETE TO app.alone DO INSTEAD NOTHING", "app.alone", "DROP RULE x ON app.alone"),
        (
            "CREATE TRIGGER x AFTER TRUNCATE ON app.child2 EXECUTE FUNCTION app.f()",
            "app.child2",
            "DROP TRIGGER x ON app.child2",
        ),
    ] {
        cluster.psql(&copy, make);
        let (error, hints) = expect_failure(&mut to(&[table]), 2);
        assert!(error.contains(" x of it") && hints.contains("nothing was changed"), "{error}{hints}");
        assert_eq!(cluster.psql(&copy, "SELECT count(*) FROM app.child"), "10");
        // As a superuser they stay silent.
        let mut command = restore(cluster, &cluster.url(&copy), &store);
        expect_code(command.args(["--data-only", "--truncate", "--table", table]), 0);
        assert_eq!(cluster.psql(&copy, "SELECT count(*) FROM app.child"), "10");
        assert_eq!(cluster.psql(&copy, "SELECT count(*) FROM app.alone"), "1");
        cluster.psql(&copy, undo);
    }
}

#[test]
fn references_are_checked_as_the_foreign_keys_themselves_do() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(pg::packaged());
    let copy = living(
        cluster,
        "referring",
        "CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; CREATE EXTENSION ltree SCHEMA ext;
         CREATE TABLE ci_p (k ext.citext PRIMARY KEY); CREATE TABLE ci_c (k ext.citext REFERENCES ci_p);
         INSERT INTO ci_p VALUES ('ABC'); INSERT INTO ci_c VALUES ('abc');
         CREATE TABLE lt_p (k ext.ltree PRIMARY KEY); CREATE TABLE lt_c (k ext.ltree REFERENCES lt_p);
         INSERT INTO lt_p VALUES ('a.b'); INSERT INTO lt_c VALUES ('a.b');
         CREATE TABLE co_p (a text COLLATE \"C\" PRIMARY KEY); CREATE TABLE co_c (a varchar(5) COLLATE \"POSIX\" REFERENCES co_p);
         INSERT INTO co_p VALUES ('x'); INSERT INTO co_c VALUES ('x');
         CREATE TABLE n (a numeric PRIMARY KEY); CREATE TABLE i (a int REFERENCES n); INSERT INTO n VALUES (1.0); INSERT INTO i VALUES (1);
         CREATE TYPE e AS ENUM ('a', 'b'); CREATE TABLE en_p (a e[] PRIMARY KEY); CREATE TABLE en_c (a e[] REFERENCES en_p);
         INSERT INTO en_p VALUES ('{a,b}'); INSERT INTO en_c VALUES ('{a,b}');
         CREATE TYPE pair AS (x int, y int); CREATE TABLE pa_p (a pair PRIMARY KEY); CREATE TABLE pa_c (a pair REFERENCES pa_p);
         INSERT INTO pa_p VALUES ((1, NULL)); INSERT INTO pa_c VALUES ((1, NULL));
         CREATE TABLE h_p (id int PRIMARY KEY); CREATE TABLE h_c (id int REFERENCES h_p); CREATE TABLE h_old () INHERITS (h_c);
         INSERT INTO h_p VALUES (1); INSERT INTO h_c VALUES (1); INSERT INTO h_old VALUES (99);
         CREATE TABLE f_p (a int, b int, PRIMARY KEY (a, b)); CREATE TABLE f_c (a int, b int, FOREIGN KEY (a, b) REFERENCES f_p MATCH FULL);
         INSERT INTO f_p VALUES (1, 1); INSERT INTO f_c VALUES (1, 1), (NULL, NULL);
         CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE p_arch () INHERITS (p); CREATE TABLE c (id int REFERENCES p);
         INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1), (2);
         CREATE TABLE d (id int REFERENCES p); SET session_replication_role = replica; INSERT INTO d VALUES (77)",
        &store,
    );
    let to = |words: &[&str]| {
        let mut command = restore(cluster, &cluster.url(&copy), &store);
        command.arg("--data-only").args(words);
        command
    };
    let chosen: Vec<&str> =
        "ci_p ci_c lt_p lt_c co_p co_c n i en_p en_c pa_p pa_c h_p h_c h_old f_p f_c p p_arch c".split(' ').collect();
    let names: Vec<String> = chosen.iter().map(|name| format!("public.{name}")).collect();
    let words: Vec<&str> =
        ["--truncate"].into_iter().chain(names.iter().flat_map(|name| ["--table", name.as_str()])).collect();
    // A row of `d` dangled before: nothing that this restore did.
    expect_code(&mut to(&words), 0);
    // Each key still finds what is missing.
    let (error, _) = {
        cluster.psql(&copy, "SET session_replication_role = replica; DELETE FROM ci_p; DELETE FROM lt_p; DELETE FROM co_p; DELETE FROM n;
            DELETE FROM en_p; DELETE FROM pa_p; DELETE FROM h_p; DELETE FROM f_p");
        let kept: Vec<&str> = words
            .iter()
            .filter(|word| word.ends_with("_c") || word.ends_with(".i"))
            .flat_map(|word| ["--table", word])
            .collect();
        expect_failure(&mut to(&[&["--truncate"][..], &kept].concat()), 1)
    };
    for table in ["ci_c", "lt_c", "co_c", "i", "en_c", "pa_c", "h_c", "f_c"] {
        assert!(error.contains(&format!("1 rows of public.{table} would refer")), "{table}: {error}");
    }
    // A row of an heir is not the one that is referred to.
    cluster.psql(&copy, "DELETE FROM c; DELETE FROM ONLY p WHERE id = 2; INSERT INTO p_arch VALUES (2)");
    let (error, hints) = expect_failure(&mut to(&["--truncate", "--table", "public.c"]), 1);
    assert!(error.contains("1 rows of public.c") && hints.contains("nothing was changed"), "{error}{hints}");
    assert_eq!(cluster.psql(&copy, "SELECT count(*) FROM c"), "0");
}

#[test]
fn periods_refer_to_rows_that_cover_them_together() {
    let Some(version) = pg::versions().into_iter().find(|version| *version >= 18) else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(version);
    let copy = living(
        cluster,
        "periods",
        "CREATE TABLE emp (id int4range, valid daterange, PRIMARY KEY (id, valid WITHOUT OVERLAPS));
         INSERT INTO emp VALUES ('[1,2)', '[2020-01-01,2021-01-01)'), ('[1,2)', '[2021-01-01,)');
         CREATE TABLE emp2 (id int, valid daterange, e int4range, FOREIGN KEY (e, PERIOD valid) REFERENCES emp (id, PERIOD valid));
         INSERT INTO emp2 VALUES (1, '[2020-06-01,2022-01-01)', '[1,2)')",
        &store,
    );
    let to = |words: &[&str]| {
        let mut command = restore(cluster, &cluster.url(&copy), &store);
        command.args(["--data-only", "--truncate"]).args(words);
        command
    };
    expect_code(&mut to(&[]), 0);
    cluster.psql(&copy, "DELETE FROM emp2; DELETE FROM emp WHERE valid @> '2020-07-01'::date");
    let (error, _) = expect_failure(&mut to(&["--table", "public.emp2"]), 1);
    assert!(error.contains("1 rows of public.emp2"), "{error}");
}

#[test]
fn a_lock_that_is_not_to_be_had_ends_a_restore_and_names_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    let copy = living(cluster, "lockers", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)", &store);
    cluster.psql(&copy, "DELETE FROM t WHERE id = 2");
    let mut holder = Talk::open(cluster, &copy);
    holder.run("BEGIN; SELECT count(*) FROM t");
    let to = |words: &[&str]| {
        let mut command = restore(cluster, &cluster.url(&copy), &store);
        command.args(["--data-only", "--lock-timeout", "300ms"]).args(words);
        command
    };
    let (error, hints) = expect_failure(&mut to(&["--truncate"]), 1);
    assert!(error.contains("empty the tables"), "{error}");
    assert!(hints.contains("public.t is locked by pid") || hints.contains(" t is locked by pid"), "{hints}");
    assert!(hints.contains("nothing was changed") && hints.contains("--lock-timeout"), "{hints}");
    // A row of the same key that another session has not committed yet is waited for as long.
    holder.run("INSERT INTO t VALUES (2)");
    cluster.psql(&copy, "DELETE FROM t");
    let (error, hints) = expect_failure(&mut to(&["--into-existing"]), 1);
    assert!(error.contains("public.t") && hints.contains("is locked by pid"), "{error}{hints}");
    let mut rescue = pgstow();
    rescue.args([
        "rescue",
        "--table",
        "public.t",
        "--to",
        &cluster.url(&copy),
        "--apply",
        "missing",
        "--lock-timeout",
        "300ms",
    ]);
    let (_, hints) = expect_failure(rescue.arg("--store").arg(&store), 1);
    assert!(hints.contains("nothing was changed"), "{hints}");
    holder.run("ROLLBACK");
    expect_code(&mut to(&["--truncate"]), 0);
    assert_eq!(cluster.psql(&copy, "SELECT count(*) FROM t"), "2");
}

#[test]
fn the_same_command_again_removes_nothing_that_people_made_since() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(pg::packaged());
    cluster.create_database("since");
    cluster.psql(
        "since",
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'old' FROM generate_series(1, 1000) g;
         CREATE SEQUENCE sq; CREATE TYPE mood AS ENUM ('a'); CREATE FUNCTION over(a int, b text) RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE TABLE parts (id serial) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF parts DEFAULT; INSERT INTO parts VALUES (1);
         CREATE TYPE span AS RANGE (subtype = float8); SELECT lo_from_bytea(4241, 'saved');
         CREATE FUNCTION boom() RETURNS int LANGUAGE plpgsql AS
            'BEGIN IF current_database() = ''since'' THEN RETURN 1; END IF; RAISE EXCEPTION ''boom''; END';
         CREATE MATERIALIZED VIEW mv AS SELECT boom()",
    );
    expect_code(&mut backup(cluster, "since", &store), 0);
    let target = "since_copy";
    // An extension that was there before, with its objects in public, is kept.
    cluster.create_database(target);
    cluster.psql(target, "CREATE EXTENSION hstore");
    let again = || {
        let mut command = restore(cluster, &cluster.url(target), &store);
        command.arg("--exit-on-error");
        command
    };
    let (error, _) = expect_failure(&mut again(), 1);
    assert!(error.contains("boom"), "{error}");
    // The same command again starts over as long as nobody did anything, and so does it with the extension.
    let (error, _) = expect_failure(&mut again(), 1);
    assert!(error.contains("boom"), "{error}");
    cluster.psql(target, "VACUUM ANALYZE; GRANT ALL ON SCHEMA public TO pg_monitor");
    let (error, _) = expect_failure(&mut again(), 1);
    assert!(error.contains("boom"), "{error}");
    assert_eq!(cluster.psql(target, "SELECT count(*) FROM pg_extension WHERE extname = 'hstore'"), "1");
    for (work, undo) in [
        ("UPDATE t SET v = 'NEW' WHERE id = 7", ""),
        ("DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (2000, 'mine')", ""),
        ("INSERT INTO part VALUES (2); DELETE FROM part WHERE id = 1", ""),
        ("CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 42'", "DROP FUNCTION mine()"),
        ("CREATE OR REPLACE FUNCTION over(a int, b text) RETURNS int LANGUAGE sql AS 'SELECT 2'", ""),
        ("CREATE FUNCTION over(a int) RETURNS int LANGUAGE sql AS 'SELECT 2'", "DROP FUNCTION over(int)"),
        ("CREATE SCHEMA myschema", "DROP SCHEMA myschema"),
        ("CREATE SEQUENCE my_seq", "DROP SEQUENCE my_seq"),
        ("CREATE DOMAIN dom AS int", "DROP DOMAIN dom"),
        ("SELECT lo_from_bytea(4242, 'important')", "SELECT lo_unlink(4242)"),
        ("CREATE PUBLICATION mypub", "DROP PUBLICATION mypub"),
        ("CREATE INDEX mine ON t (v)", ""),
        ("GRANT SELECT ON t TO pg_monitor", ""),
    ] {
        cluster.psql(target, work);
        let before = judge::comparable(&cluster.pg_dump(target, &[]));
        let (error, hints) = expect_failure(&mut again(), 2);
        assert!(error.contains("unfinished restore") && hints.contains("--start-over"), "{work}: {error}{hints}");
        judge::assert_same(&before, &judge::comparable(&cluster.pg_dump(target, &[])));
        // A killed restore leaves no note of its end: names speak all the same.
        if !undo.is_empty() && !undo.contains("over(") {
            let run = Run::latest(&store).name;
            cluster.psql(target, &format!("COMMENT ON DATABASE {target} IS 'pgstow restore, unfinished: {run}'"));
            expect_failure(&mut again(), 2);
            cluster.psql(target, undo);
        }
        let (error, _) = expect_failure(again().arg("--start-over"), 1);
        assert!(error.contains("boom"), "{error}");
    }
    // Without the object that stops it the restore comes to its end.
    expect_code(&mut restore(cluster, &cluster.url(target), &store), 3);
    assert_eq!(cluster.psql(target, "SELECT count(*) FROM t WHERE v = 'old'"), "1000");
}
