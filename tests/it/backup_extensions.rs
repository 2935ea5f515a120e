//! What extensions own and pg_dump leaves out: rows, sequences. Of an extension nobody has heard of, of pg_cron and
//! pgAgent, and a database in the shape of a Supabase project.

use std::path::Path;
use std::process::Command;

use crate::support::pg::{self, Cluster};
use crate::support::program::{Run, backup, drill, expect_code, pgstow, restore, restore_as_told};
use crate::support::{judge, process};

/// A run of `app`, restored as RESTORE.md says into `app` of another server.
fn there_and_back(source: &Cluster) -> (tempfile::TempDir, Run, Cluster) {
    let store = tempfile::tempdir().unwrap();
    expect_code(&mut backup(source, "app", store.path()), 0);
    expect_code(pgstow().arg("verify").arg("--store").arg(store.path()), 0);
    let run = Run::latest(store.path());
    assert_eq!(run.manifest["status"], "complete");
    let target = Cluster::start(source.version());
    target.create_database("app");
    restore_as_told(&run, &target, "app");
    judge::assert_same_database((source, "app"), (&target, "app"));
    (store, run, target)
}

/// The same answer from both, and not an empty one.
#[track_caller]
fn same(source: &Cluster, target: &Cluster, question: &str) {
    let answer = source.psql("app", question);
    assert!(!answer.is_empty(), "{question}");
    assert_eq!(answer, target.psql("app", question), "{question}");
}

#[test]
fn an_extension_nobody_has_heard_of_keeps_its_rows_and_numbers() {
    for version in pg::versions() {
        let source = Cluster::start(version);
        source.install_extension(&pg::fixture("ext"));
        source.create_database("app");
        source.psql(
            "app",
            "CREATE EXTENSION pgstow_probe; SET search_path = pgstow_probe;
             INSERT INTO plain VALUES (3, E'a user''s\\t\\\\.'), (4, NULL); UPDATE plain SET t = 'changed' WHERE id = 1;
             INSERT INTO plain_empty VALUES (1, 'x'), (1, 'x'); INSERT INTO filtered VALUES (3, 'a user''s', false);
             UPDATE filtered SET t = 'changed' WHERE id = 2; SELECT setval('numbers', 42);
             INSERT INTO z_referred VALUES (-1), (1), (2); INSERT INTO a_refers VALUES (2, NULL), (1, 2);
             INSERT INTO decoded VALUES (3, 'a user''s'); UPDATE decoded SET t = 'changed' WHERE id = 1;
             CREATE SCHEMA app; CREATE TABLE app.checked (id integer PRIMARY KEY CHECK (pgstow_probe.known(id)));
             CREATE INDEX ON app.checked ((id + 1));
             INSERT INTO configured VALUES (1), (2); INSERT INTO app.checked VALUES (1), (2);
             INSERT INTO configured VALUES (-1)",
        );
        let (store, run, target) = there_and_back(&source);
        let tables = ["plain", "plain_empty", "filtered", "z_referred", "a_refers", "configured", "decoded"];
        for table in tables {
            same(&source, &target, &format!("SELECT t FROM pgstow_probe.{table} t ORDER BY t::text"));
            assert_eq!(run.table("pgstow_probe", table)["extension"], "pgstow_probe");
        }
        same(&source, &target, "SELECT last_value, is_called FROM pgstow_probe.numbers");
        // The user's own, and the built-in one that was changed; the other one comes from the extension.
        assert_eq!(run.table("pgstow_probe", "filtered")["rows"], 2);
        assert!(run.table("pgstow_probe", "filtered")["filter"].as_str().unwrap().contains("builtin"));
        // The schema's archive alone is enough, where there is nothing yet.
        target.create_database("alone");
        let archive = run.plain(run.schema("pgstow_probe")["dump"]["key"].as_str().unwrap());
        let mut restore = target.command("pg_restore");
        process::succeed_with(restore.args(["--exit-on-error", "-d"]).arg(target.url("alone")), &archive);
        let rows = "SELECT t FROM pgstow_probe.plain t ORDER BY t::text";
        assert_eq!(source.psql("app", rows), target.psql("alone", rows));
        // By several sessions too: what refers depends on what it refers to.
        target.create_database("parallel");
        let file = store.path().join("plain.dump");
        std::fs::write(&file, &archive).unwrap();
        let mut restore = target.command("pg_restore");
        restore.args(["--exit-on-error", "--jobs=4", "-d"]).arg(target.url("parallel")).arg(&file);
        process::succeed(&mut restore);
        let mut restore = pgstow();
        restore.args(["restore", "--create", "--to"]).arg(target.url("restored")).arg("--store").arg(store.path());
        expect_code(restore.env("PGSTOW_PG_BIN_DIR", target.bin_dir()), 0);
        judge::assert_same_database((&source, "app"), (&target, "restored"));
        for table in tables {
            let rows = format!("SELECT t FROM pgstow_probe.{table} t ORDER BY t::text");
            for restored in ["parallel", "restored"] {
                assert_eq!(source.psql("app", &rows), target.psql(restored, &rows), "{table} of {restored}");
            }
        }
    }
}

/// What a person adds to tables of extensions, in one statement each.
const ADDED: &str = "
    CREATE SCHEMA shop; CREATE TABLE shop.log (at text); CREATE TABLE shop.known (id integer PRIMARY KEY);
    INSERT INTO shop.known VALUES (1), (2), (3);
    CREATE TYPE shop.mood AS ENUM ('glad', 'sad'); CREATE ROLE {role};
    CREATE FUNCTION shop.note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO shop.log VALUES (TG_OP); RETURN NEW; END$$;
    CREATE EXTENSION pgstow_probe SCHEMA pgstow_probe;
    SET search_path = pgstow_probe;
    ALTER TABLE filtered ADD COLUMN how shop.mood NOT NULL DEFAULT 'sad', ADD COLUMN n serial, ADD COLUMN double integer GENERATED ALWAYS AS (id * 2) STORED;
    INSERT INTO filtered (id, t, how) VALUES (7, 'the user''s', 'glad'); UPDATE filtered SET t = 'changed' WHERE id = 2;
    ALTER TABLE plain ADD COLUMN \"odd \"\"name\" text; UPDATE plain SET \"odd \"\"name\" = 'x';
    CREATE INDEX \"filtered by t\" ON filtered (t); CREATE UNIQUE INDEX ON filtered (lower(t)) WHERE id > 5;
    ALTER TABLE filtered ADD CONSTRAINT short CHECK (length(t) < 99), ADD CONSTRAINT known FOREIGN KEY (id) REFERENCES shop.known NOT VALID;
    ALTER TABLE plain_empty ADD PRIMARY KEY (id); INSERT INTO plain_empty VALUES (1, 'a'), (2, 'b');
    CREATE TRIGGER noted BEFORE INSERT ON filtered FOR EACH ROW EXECUTE FUNCTION shop.note();
    CREATE TRIGGER never BEFORE DELETE ON filtered FOR EACH ROW EXECUTE FUNCTION shop.note(); ALTER TABLE filtered DISABLE TRIGGER never;
    CREATE RULE quiet AS ON DELETE TO plain DO INSTEAD NOTHING;
    ALTER TABLE filtered ENABLE ROW LEVEL SECURITY; ALTER TABLE plain ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY mine ON filtered AS RESTRICTIVE FOR UPDATE TO {role}, CURRENT_USER USING (id > 1) WITH CHECK (id < 9);
    CREATE POLICY all_of_it ON plain USING (true);
    CREATE STATISTICS shop.together ON id, t FROM filtered;
    COMMENT ON TABLE filtered IS 'it''s ours'; COMMENT ON COLUMN filtered.t IS 'text'; COMMENT ON INDEX \"filtered by t\" IS 'fast';
    COMMENT ON TRIGGER noted ON filtered IS 'notes'; COMMENT ON POLICY mine ON filtered IS 'guards';
    ALTER TABLE filtered SET (fillfactor = 70, autovacuum_enabled = off); ALTER TABLE plain REPLICA IDENTITY FULL;
    CREATE PUBLICATION news FOR TABLE plain, shop.log;
    CREATE TABLE attached (id integer PRIMARY KEY, t text); GRANT SELECT ON attached TO {role}; GRANT INSERT ON attached TO PUBLIC;
    INSERT INTO attached VALUES (1, 'a'); ALTER TABLE attached ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON attached USING (id > 0);
    CREATE TRIGGER t AFTER INSERT ON attached FOR EACH ROW EXECUTE FUNCTION shop.note();
    ALTER EXTENSION pgstow_probe ADD TABLE attached; TRUNCATE shop.log";

/// Everything about the relations of a schema that a statement can say, as the server itself describes it.
const DESCRIBED: &str = "
    WITH t AS (SELECT c.*, c.oid::regclass::text AS name FROM pg_class c WHERE relnamespace = 'pgstow_probe'::regnamespace AND relkind = 'r')
    SELECT string_agg(x, E'\n' ORDER BY x) FROM (
        SELECT concat_ws(' ', name, relrowsecurity, relforcerowsecurity, relreplident, reloptions, obj_description(oid), relacl) FROM t
        UNION ALL SELECT concat_ws(' ', name, a.attname, format_type(atttypid, atttypmod), attnotnull, attgenerated, pg_get_expr(adbin, adrelid),
            col_description(t.oid, attnum)) FROM t JOIN pg_attribute a ON attrelid = t.oid AND attnum > 0 LEFT JOIN pg_attrdef ON adrelid = t.oid AND adnum = attnum
        UNION ALL SELECT concat_ws(' ', name, conname, pg_get_constraintdef(k.oid), convalidated) FROM t JOIN pg_constraint k ON conrelid = t.oid
        UNION ALL SELECT concat_ws(' ', pg_get_indexdef(indexrelid), obj_description(indexrelid)) FROM t JOIN pg_index ON indrelid = t.oid
        UNION ALL SELECT concat_ws(' ', pg_get_triggerdef(g.oid), tgenabled, obj_description(g.oid)) FROM t JOIN pg_trigger g ON tgrelid = t.oid AND NOT tgisinternal
        UNION ALL SELECT pg_get_ruledef(r.oid) FROM t JOIN pg_rewrite r ON ev_class = t.oid
        UNION ALL SELECT concat_ws(' ', name, polname, polpermissive, polcmd, ARRAY(SELECT r::regrole::text FROM unnest(polroles) r ORDER BY 1), pg_get_expr(polqual, polrelid),
            pg_get_expr(polwithcheck, polrelid), obj_description(p.oid)) FROM t JOIN pg_policy p ON polrelid = t.oid
        UNION ALL SELECT pg_get_statisticsobjdef(s.oid) FROM t JOIN pg_statistic_ext s ON stxrelid = t.oid
        UNION ALL SELECT concat_ws(' ', p.pubname, name) FROM t JOIN pg_publication_rel ON prrelid = t.oid JOIN pg_publication p ON p.oid = prpubid) all_of(x)";

/// What people add to an extension's own tables is in no object that pg_dump describes: it comes back all the same, by
/// the program, by RESTORE.md and by `pg_restore` of the schema alone, once, and a drill proves it.
#[test]
fn what_is_added_to_tables_of_extensions_comes_back() {
    for version in pg::versions() {
        let source = Cluster::start(version);
        source.install_extension(&pg::fixture("ext"));
        source.create_database("app");
        source.psql("app", &format!("CREATE SCHEMA pgstow_probe; {}", ADDED.replace("{role}", "reader")));
        let described = source.psql("app", DESCRIBED);
        for word in
            ["filtered by t", "noted", "mine", "together", "known", "short", "fillfactor", "odd", "attached", "news"]
        {
            assert!(described.contains(word), "{word} is not in {described}");
        }
        let (store, run, target) = there_and_back(&source);
        judge::assert_same(&described, &target.psql("app", DESCRIBED));
        let mut restore = pgstow();
        restore.args(["restore", "--create", "--to"]).arg(target.url("restored")).arg("--store").arg(store.path());
        expect_code(restore.env("PGSTOW_PG_BIN_DIR", target.bin_dir()), 0);
        judge::assert_same(&described, &target.psql("restored", DESCRIBED));
        for table in ["filtered", "plain", "plain_empty", "attached"] {
            let rows = format!("SELECT t FROM pgstow_probe.{table} t ORDER BY t::text");
            for database in ["app", "restored"] {
                judge::assert_same(&source.psql("app", &rows), &target.psql(database, &rows));
            }
        }
        // A column that rewrote the table hid which rows the extension had made: all are saved.
        assert_eq!(run.table("pgstow_probe", "filtered")["rows"], 3);
        assert_eq!(target.psql("restored", "SELECT count(*) FROM shop.log"), "0");
        let mut drill = pgstow();
        drill.args(["drill", "--on"]).arg(target.url("postgres")).arg("--store").arg(store.path());
        expect_code(drill.env("PGSTOW_PG_BIN_DIR", target.bin_dir()), 0);
    }
}

/// The version whose server has these extensions.
#[track_caller]
fn version_with(extension: &str) -> u32 {
    let has = |version: &u32| {
        let share = process::succeed(Command::new(pg::bin_dir(*version).join("pg_config")).arg("--sharedir"));
        Path::new(share.trim()).join(format!("extension/{extension}.control")).exists()
    };
    pg::versions().into_iter().find(has).unwrap_or_else(|| panic!("no server here has {extension}"))
}

#[test]
fn jobs_of_pg_cron_and_pgagent_come_back() {
    let source = Cluster::start(version_with("pg_cron"));
    source.create_database("app");
    source.psql(
        "app",
        "CREATE EXTENSION pg_cron; CREATE EXTENSION pgagent;
         SELECT cron.schedule('nightly', '0 3 1 1 *', 'SELECT ''it''''s'''), cron.schedule('hourly', '7 0 1 1 *', 'VACUUM');
         INSERT INTO cron.job_run_details (jobid, runid, command, status) VALUES (1, 7, 'SELECT 1', 'succeeded');
         SELECT setval('cron.runid_seq', 7);
         INSERT INTO pgagent.pga_job (jobjclid, jobname) SELECT min(jclid), 'a job' FROM pgagent.pga_jobclass;
         INSERT INTO pgagent.pga_jobclass (jclname) VALUES ('ours');
         INSERT INTO pgagent.pga_jobstep (jstjobid, jstname, jstkind, jstcode, jstdbname)
         SELECT max(jobid), 'a step', 's', 'SELECT 1', 'app' FROM pgagent.pga_job;
         SELECT setval('pgagent.pga_job_jobid_seq', 23)",
    );
    let (_store, run, target) = there_and_back(&source);
    assert_eq!(run.table("cron", "job")["rows"], 2);
    for table in ["cron.job", "cron.job_run_details", "pgagent.pga_job", "pgagent.pga_jobclass", "pgagent.pga_jobstep"]
    {
        same(&source, &target, &format!("SELECT t FROM {table} t ORDER BY t::text"));
    }
    for sequence in [
        "cron.jobid_seq",
        "cron.runid_seq",
        "pgagent.pga_job_jobid_seq",
        "pgagent.pga_jobclass_jclid_seq",
        "pgagent.pga_jobstep_jstid_seq",
    ] {
        same(&source, &target, &format!("SELECT last_value, is_called FROM {sequence}"));
    }
}

#[test]
fn a_project_in_the_shape_of_supabase_comes_back() {
    let source = Cluster::start(version_with("pg_cron"));
    source.create_database("app");
    source.psql_file("app", &pg::fixture("supabase.sql"), &[("users", "500")]);
    let (_store, run, target) = there_and_back(&source);
    assert!(run.schemas().len() > 8 && run.table("auth", "users")["rows"] == 500);
    same(&source, &target, "SELECT count(*), md5(string_agg(u::text, ',' ORDER BY id)) FROM auth.users u");
}

/// pg_dump knows nothing of a table that was made a member of an extension, nor of who needs it.
#[test]
fn what_needs_a_table_that_was_given_to_an_extension_comes_back_by_every_way() {
    let cluster = pg::shared(pg::packaged());
    cluster.create_database("attached");
    cluster.psql(
        "attached",
        "CREATE SCHEMA own; CREATE EXTENSION hstore;
         CREATE TYPE own.mood AS ENUM ('sad', 'glad');
         CREATE FUNCTION own.zero() RETURNS int LANGUAGE sql AS 'SELECT 0';
         CREATE TABLE own.att (id int PRIMARY KEY, t text, m own.mood DEFAULT 'sad', z int DEFAULT own.zero());
         INSERT INTO own.att VALUES (1, 'one'), (2, 'two');
         CREATE VIEW own.a_view AS SELECT id, t FROM own.att; CREATE VIEW own.above AS SELECT t FROM own.a_view;
         CREATE MATERIALIZED VIEW own.a_mv AS SELECT count(*) FROM own.att;
         CREATE FUNCTION own.a_body() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM own.att; END;
         CREATE FUNCTION own.a_row(own.att) RETURNS text LANGUAGE sql AS 'SELECT ($1).t';
         CREATE TYPE own.a_pair AS (one own.att, many own.att[]);
         CREATE TABLE own.keeps (p own.a_pair, n bigint DEFAULT own.a_body()); INSERT INTO own.keeps VALUES (NULL, 1);
         COMMENT ON VIEW own.a_view IS 'of both'; GRANT SELECT ON own.a_view TO PUBLIC;
         ALTER TABLE own.att ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON own.att USING (id > 0);
         GRANT SELECT ON own.att TO PUBLIC;
         CREATE TABLE own.refers (id int REFERENCES own.att); INSERT INTO own.refers VALUES (1);
         ALTER EXTENSION hstore ADD TABLE own.att",
    );
    let store = tempfile::tempdir().unwrap();
    expect_code(&mut backup(cluster, "attached", store.path()), 0);
    cluster.create_database("attached as told");
    restore_as_told(&Run::latest(store.path()), cluster, "attached as told");
    let url = cluster.url("attached copy");
    expect_code(restore(cluster, &url, store.path()).arg("--create"), 0);
    expect_code(&mut drill(cluster, store.path()), 0);
    let state = "SELECT c.relrowsecurity, c.relacl, (SELECT count(*) FROM own.att), (SELECT count(*) FROM own.above),
            (SELECT count FROM own.a_mv), (SELECT string_agg(polname, ',') FROM pg_policy WHERE polrelid = c.oid),
            (SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid WHERE d.objid = c.oid AND d.deptype = 'e')
        FROM pg_class c WHERE c.oid = 'own.att'::regclass";
    for copy in ["attached as told", "attached copy"] {
        judge::assert_same_database((cluster, "attached"), (cluster, copy));
        assert_eq!(cluster.psql(copy, state), cluster.psql("attached", state), "{copy}");
        cluster.drop_database(copy);
    }
    cluster.drop_database("attached");
}

/// Members that are no tables: what a person changed in them, and what was given to the extension.
#[test]
fn members_of_extensions_come_back_as_they_were_changed_and_given() {
    let cluster = pg::shared(pg::packaged());
    cluster.create_database("members");
    cluster.psql("postgres", "CREATE ROLE members_reader");
    cluster.psql(
        "members",
        "CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION dict_int;
         ALTER TEXT SEARCH DICTIONARY intdict (maxlen = 3, rejectlong = 'true');
         CREATE TEXT SEARCH CONFIGURATION numbers (COPY = simple);
         ALTER TEXT SEARCH CONFIGURATION numbers ALTER MAPPING FOR uint WITH intdict;
         CREATE TABLE words (t text, v tsvector GENERATED ALWAYS AS (to_tsvector('public.numbers', t)) STORED);
         INSERT INTO words VALUES ('123456 77');
         ALTER FUNCTION hstore_to_json(hstore) COST 77; ALTER FUNCTION citext_eq(citext, citext) SECURITY DEFINER;
         CREATE TYPE mood AS ENUM ('a', 'b'); ALTER EXTENSION citext ADD TYPE mood;
         CREATE TYPE pair AS (a int, t text); ALTER EXTENSION citext ADD TYPE pair;
         CREATE DOMAIN positive AS int CHECK (VALUE > 0); ALTER EXTENSION citext ADD DOMAIN positive;
         CREATE SCHEMA mine; ALTER EXTENSION citext ADD SCHEMA mine;
         CREATE FUNCTION mine.price(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT n * 2';
         REVOKE ALL ON FUNCTION mine.price(int) FROM PUBLIC; GRANT EXECUTE ON FUNCTION mine.price(int) TO members_reader;
         ALTER EXTENSION citext ADD FUNCTION mine.price(int);
         CREATE VIEW one WITH (security_barrier) AS SELECT 1 AS one; GRANT SELECT ON one TO members_reader;
         ALTER EXTENSION citext ADD VIEW one;
         CREATE TABLE users_of (x mood, y positive, p pair, z int DEFAULT mine.price(3),
             g int GENERATED ALWAYS AS (mine.price(4)) STORED); INSERT INTO users_of VALUES ('a', 1, '(1,x)');
         CREATE TABLE mine.t (a int PRIMARY KEY CHECK (mine.price(a) > 0)); INSERT INTO mine.t VALUES (1);
         CREATE VIEW two AS SELECT * FROM one; CREATE INDEX ON users_of (mine.price(z));
         CREATE MATERIALIZED VIEW three AS SELECT one, mine.price(one) FROM one",
    );
    let store = tempfile::tempdir().unwrap();
    expect_code(&mut backup(cluster, "members", store.path()), 0);
    expect_code(pgstow().arg("verify").arg("--store").arg(store.path()), 0);
    cluster.create_database("members as told");
    restore_as_told(&Run::latest(store.path()), cluster, "members as told");
    expect_code(restore(cluster, &cluster.url("members copy"), store.path()).arg("--create"), 0);
    let (out, err) = expect_code(&mut drill(cluster, store.path()), 0);
    assert!(out.contains("PROVEN"), "{out}{err}");
    let state = "SELECT (SELECT string_agg(pg_describe_object(classid, objid, 0), ',' ORDER BY pg_describe_object(classid, objid, 0))
              FROM pg_depend WHERE refclassid = 3079 AND deptype = 'e'),
            (SELECT string_agg(concat(proname, proacl, procost, prosecdef), ',' ORDER BY proname) FROM pg_proc
              WHERE proname IN ('price', 'hstore_to_json') OR oid = 'citext_eq(citext,citext)'::regprocedure),
            (SELECT dictinitoption FROM pg_ts_dict WHERE dictname = 'intdict'), (SELECT v FROM words),
            (SELECT concat(relacl, reloptions) FROM pg_class WHERE relname = 'one'), (SELECT u FROM users_of u), (SELECT t FROM three t)";
    for copy in ["members as told", "members copy"] {
        judge::assert_same_database((cluster, "members"), (cluster, copy));
        assert_eq!(cluster.psql(copy, state), cluster.psql("members", state), "{copy}");
        cluster.drop_database(copy);
    }
    cluster.drop_database("members");
}
