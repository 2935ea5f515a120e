//! A restore that meets what the server refuses: it goes on, keeps everything else, lists each refusal with its statement
//! and exits with 3. And what a restore must never do: open rights wider, set sequences back, leave half of the rows.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::support::judge;
use crate::support::pg::{self, Cluster};
use crate::support::pg_proxy::{Event, PgProxy};
use crate::support::program::{self, Run, backup, expect_code, expect_failure};

fn restore(cluster: &Cluster, database: &str, store: &Path) -> Command {
    program::restore(cluster, &cluster.url(database), store)
}

/// What a restore with `--json` could not restore: kind, name and statement.
fn findings(stdout: &str) -> Vec<(String, String, String)> {
    let report: Value = serde_json::from_str(stdout).unwrap();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let lost = report["findings"]["not_restored"].as_array().unwrap();
    assert!(lost.iter().all(|one| !text(one, "why").is_empty() && !text(one, "step").is_empty()), "{report:#}");
    lost.iter().map(|one| (text(one, "kind"), text(one, "name"), text(one, "statement"))).collect()
}

/// All of a database as pg_dump writes it, without the key that each of its scripts has of its own.
fn dumped(cluster: &Cluster, database: &str) -> Vec<String> {
    cluster.pg_dump(database, &[]).lines().filter(|line| !line.contains("restrict ")).map(str::to_owned).collect()
}

/// Objects that PostgreSQL does not take back as they are, among others that it does.
const BROKEN: &str = "
    CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent);
    INSERT INTO parent SELECT generate_series(1, 10); INSERT INTO child SELECT i, 1 + i % 10 FROM generate_series(1, 50) i;
    SET session_replication_role = replica; INSERT INTO child VALUES (1000, 999); RESET session_replication_role;
    CREATE TABLE zz (id int, t text); INSERT INTO zz SELECT i, 'z' FROM generate_series(1, 100) i;
    CREATE INDEX zz_i ON zz (id); CREATE VIEW v AS SELECT * FROM zz;
    CREATE FUNCTION trg() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER t AFTER INSERT ON zz FOR EACH ROW EXECUTE FUNCTION trg();
    ALTER TABLE zz ENABLE ROW LEVEL SECURITY; CREATE POLICY only_even ON zz USING (id % 2 = 0);
    CREATE FUNCTION tells(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN IF $1 = 7 AND current_database() <> 'broken' THEN RAISE EXCEPTION 'no : seven (P0001)' USING ERRCODE = 'P0001'; END IF; RETURN $1; END $$;
    CREATE INDEX \"an [index]: of \"\"zz\"\" (P0001)\" ON zz (public.tells(id));
    CREATE MATERIALIZED VIEW mv AS SELECT public.tells(id) FROM zz; CREATE INDEX mv_i ON mv (tells);
    CREATE MATERIALIZED VIEW fine AS SELECT count(*) FROM zz;
    CREATE TABLE old_rule (id int, n int); INSERT INTO old_rule SELECT i, -i FROM generate_series(1, 20) i;
    ALTER TABLE old_rule ADD CONSTRAINT positive CHECK (n > 0) NOT VALID; COMMENT ON CONSTRAINT positive ON old_rule IS 'since May';
    UPDATE pg_constraint SET convalidated = true WHERE conname = 'positive';
    CREATE TABLE allowed (id int); INSERT INTO allowed VALUES (1), (2);
    CREATE FUNCTION is_allowed(int) RETURNS boolean LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM public.allowed WHERE id = $1)';
    CREATE TABLE asks (id int CHECK (public.is_allowed(id)), pad text DEFAULT repeat('x', 1000)); INSERT INTO asks SELECT 1 + i % 2 FROM generate_series(1, 200) i;
    CREATE TABLE \"[tab]: le (P0001)\" (id int PRIMARY KEY, p int REFERENCES parent); INSERT INTO \"[tab]: le (P0001)\" VALUES (1, 1)";

#[test]
pub(crate) fn a_restore_goes_on_past_what_the_server_refuses_and_its_statements_complete_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    cluster.create_database("broken");
    cluster.psql("broken", BROKEN);
    expect_code(&mut backup(cluster, "broken", &store), 0);

    let (stdout, stderr) = expect_code(restore(cluster, "broken_copy", &store).args(["--create", "--json"]), 3);
    let found = findings(&stdout);
    let mut names: Vec<(&str, &str)> = found.iter().map(|(kind, name, _)| (kind.as_str(), name.as_str())).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            ("check constraint", "positive on table public.old_rule"),
            ("fk constraint", "public.child child_p_fkey"),
            ("index", "public.an [index]: of \"zz\" (P0001)"),
            ("materialized view data", "public.mv"),
        ],
        "{stderr}"
    );
    let ask = |sql: &str| cluster.psql("broken_copy", sql);
    let rows = "SELECT (SELECT count(*) FROM child) || ' ' || (SELECT count(*) FROM zz) || ' ' || (SELECT count(*) FROM old_rule)
                 || ' ' || (SELECT count(*) FROM asks) || ' ' || (SELECT count(*) FROM fine)
                 || ' ' || (SELECT count(*) FROM \"[tab]: le (P0001)\")";
    assert_eq!(ask(rows), "51 100 20 200 1 1");
    assert_eq!(ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgstow_restore'"), "0");
    assert_eq!(
        ask(
            "SELECT conname || convalidated || obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE conname = 'positive'"
        ),
        "positivefalsesince May"
    );

    // The statements complete it, when what was in their way is gone.
    ask("DELETE FROM child WHERE id = 1000; UPDATE old_rule SET n = 1;
         CREATE OR REPLACE FUNCTION tells(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'");
    for (_, _, statement) in &found {
        ask(&format!("SET search_path = ''; {statement}"));
    }
    cluster.psql(
        "broken",
        "DELETE FROM child WHERE id = 1000; UPDATE old_rule SET n = 1;
         CREATE OR REPLACE FUNCTION tells(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'",
    );
    judge::assert_same_database((cluster, "broken"), (cluster, "broken_copy"));

    // Asked to, it stops at the first.
    let (error, _) = expect_failure(restore(cluster, "broken_other", &store).args(["--create", "--exit-on-error"]), 1);
    assert!(error.contains("violates check constraint"), "{error}");
}

/// Large tables that refer to one: a sound key, one that rows break (with a comment), one that was never validated, and one
/// to a partitioned table.
const LARGE_KEYS: &str = "
    CREATE TABLE hub (id int PRIMARY KEY, pad text DEFAULT repeat('x', 100)); INSERT INTO hub SELECT generate_series(1, 4000);
    CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10000); INSERT INTO parts SELECT generate_series(1, 4000);
    CREATE TABLE sound (id int CONSTRAINT \"the key\" REFERENCES hub DEFERRABLE, other int REFERENCES hub ON DELETE SET NULL, pad text DEFAULT repeat('x', 100));
    INSERT INTO sound SELECT i, i FROM generate_series(1, 4000) i;
    CREATE TABLE broken (id int CONSTRAINT breaks REFERENCES hub, pad text DEFAULT repeat('x', 100));
    INSERT INTO broken SELECT i FROM generate_series(1, 4000) i; COMMENT ON CONSTRAINT breaks ON broken IS 'since May';
    CREATE TABLE open (id int, pad text DEFAULT repeat('x', 100)); INSERT INTO open SELECT i FROM generate_series(1, 4001) i;
    ALTER TABLE open ADD CONSTRAINT never FOREIGN KEY (id) REFERENCES hub NOT VALID;
    CREATE TABLE to_parts (id int REFERENCES parts, pad text DEFAULT repeat('x', 100)); INSERT INTO to_parts SELECT i FROM generate_series(1, 4000) i;
    SET session_replication_role = replica; INSERT INTO broken VALUES (9999)";

#[test]
pub(crate) fn keys_of_large_tables_are_validated_side_by_side_and_a_broken_one_is_reported_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    let (from, to) = ("large keys", "large keys again");
    cluster.create_database(from);
    cluster.psql(from, LARGE_KEYS);
    expect_code(&mut backup(cluster, from, &store), 0);
    let asked: Arc<[AtomicUsize; 2]> = Arc::default();
    let counted = Arc::clone(&asked);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let proxy = runtime.block_on(PgProxy::start(cluster, move |_session, event| {
        if let Event::Asks(sql) = event {
            for (words, count) in ["VALIDATE CONSTRAINT", "REFERENCES"].iter().zip(counted.iter()) {
                count.fetch_add(usize::from(sql.contains(words)), Ordering::SeqCst);
            }
        }
        None
    }));
    let url = proxy.url(&cluster.url(to));
    let (stdout, _) = expect_code(program::restore(cluster, &url, &store).args(["--create", "--json"]), 3);
    let found = findings(&stdout);
    let names: Vec<(&str, &str)> = found.iter().map(|(kind, name, _)| (kind.as_str(), name.as_str())).collect();
    assert_eq!(names, [("fk constraint", "public.broken breaks"), ("comment", "public.CONSTRAINT breaks ON broken")]);
    assert_eq!(asked[0].load(Ordering::SeqCst), 3, "of three large tables' keys");
    let keys = "SELECT string_agg(conrelid::regclass || ' ' || conname || ' ' || convalidated || ' ' || pg_get_constraintdef(oid), E'\\n'
                    ORDER BY conrelid::regclass::text, conname, convalidated) FROM pg_constraint WHERE contype = 'f'";
    let without_broken =
        |text: String| text.lines().filter(|line| !line.contains("breaks")).collect::<Vec<_>>().join("\n");
    let restored = cluster.psql(to, keys);
    assert!(!restored.contains("breaks"), "{restored}");
    assert_eq!(restored, without_broken(cluster.psql(from, keys)));

    // The statements complete it.
    for name in [from, to] {
        cluster.psql(name, "DELETE FROM broken WHERE id = 9999");
    }
    for (_, _, statement) in &found {
        cluster.psql(to, &format!("SET search_path = ''; {statement}"));
    }
    judge::assert_same_database((cluster, from), (cluster, to));
    cluster.drop_database(from);
    cluster.drop_database(to);
}

#[test]
fn a_drill_of_a_run_that_does_not_come_back_whole_says_so_and_leaves_a_receipt() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    cluster.create_database("dangling");
    cluster.psql(
        "dangling",
        "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (p int REFERENCES parent);
         SET session_replication_role = replica; INSERT INTO child VALUES (9)",
    );
    expect_code(&mut backup(cluster, "dangling", &store), 0);
    let (stdout, _) = expect_code(program::drill(cluster, &store).arg("--json"), 4);
    let receipt: Value = serde_json::from_str(&stdout).unwrap();
    assert!(receipt["differences"].to_string().contains("child_p_fkey"), "{receipt:#}");
}

#[test]
fn rights_are_never_wider_than_they_were_whatever_the_target_gives_to_new_objects() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = Cluster::start(15);
    cluster.create_database("rights");
    cluster.psql(
        "rights",
        "CREATE ROLE web_anon; CREATE ROLE web_user; CREATE ROLE web_owner;
         CREATE TABLE secret (id serial PRIMARY KEY, x text); GRANT SELECT (id) ON secret TO web_user;
         INSERT INTO secret (x) SELECT 'top' FROM generate_series(1, 9) i;
         ALTER TABLE secret ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON secret USING (id > 5);
         CREATE TABLE owned (id int GENERATED ALWAYS AS IDENTITY); ALTER TABLE owned OWNER TO web_owner; GRANT SELECT ON owned TO web_user;
         CREATE SCHEMA s; CREATE TABLE s.t (id int); CREATE VIEW s.v AS SELECT * FROM s.t; CREATE MATERIALIZED VIEW s.m AS SELECT 1;
         CREATE FUNCTION s.f(out a int, b text DEFAULT 'x') LANGUAGE sql AS 'SELECT 1'; REVOKE ALL ON FUNCTION s.f(text) FROM PUBLIC;
         CREATE TYPE s.e AS ENUM ('a')",
    );
    expect_code(&mut backup(&cluster, "rights", &store), 0);
    let wide = "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO web_anon, PUBLIC; ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO web_anon;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO web_anon; ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO web_anon;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO web_anon";
    let acls = "SELECT string_agg(n || ' ' || coalesce(a::text, '-'), E'\\n' ORDER BY n) FROM (
          SELECT oid::regclass::text, (SELECT array_agg(x ORDER BY x::text) FROM unnest(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's'::\"char\" ELSE 'r' END, relowner))) x) FROM pg_class
             WHERE relnamespace::regnamespace::text IN ('public', 's') AND relkind IN ('r', 'v', 'm', 'S')
          UNION ALL SELECT oid::regprocedure::text, (SELECT array_agg(x ORDER BY x::text) FROM unnest(coalesce(proacl, acldefault('f', proowner))) x) FROM pg_proc WHERE pronamespace::regnamespace::text = 's'
          UNION ALL SELECT oid::regtype::text, (SELECT array_agg(x ORDER BY x::text) FROM unnest(coalesce(typacl, acldefault('T', typowner))) x) FROM pg_type WHERE typname = 'e'
          UNION ALL SELECT nspname, (SELECT array_agg(x ORDER BY x::text) FROM unnest(coalesce(nspacl, acldefault('n', nspowner))) x) FROM pg_namespace WHERE nspname = 's') x(n, a)";
    let saved = cluster.psql("rights", acls);
    assert!(saved.lines().count() > 8, "{saved}");
    cluster.create_database("wide");
    cluster.psql("wide", wide);
    expect_code(restore(&cluster, "wide", &store).arg("--into-existing"), 0);
    assert_eq!(cluster.psql("wide", acls), saved);

    // A single table, and a schema.
    cluster.create_database("part");
    cluster.psql("part", wide);
    expect_code(
        restore(&cluster, "part", &store).args([
            "--into-existing",
            "--table",
            "public.secret",
            "--table",
            "public.owned",
        ]),
        0,
    );
    expect_code(restore(&cluster, "part", &store).args(["--into-existing", "--schema", "s"]), 0);
    assert_eq!(cluster.psql("part", acls), saved);
}

#[test]
fn rows_come_into_existing_tables_all_or_not_at_all_and_no_sequence_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    cluster.create_database("whole");
    cluster.psql(
        "whole",
        "CREATE TABLE a (id serial PRIMARY KEY, t text); INSERT INTO a (t) SELECT 'a' FROM generate_series(1, 1000) i;
         CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b SELECT generate_series(1, 500);
         CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 5);
         CREATE TABLE child (p int REFERENCES parent); INSERT INTO child SELECT generate_series(1, 5);
         CREATE SEQUENCE down INCREMENT -1; SELECT setval('down', -10);
         CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM a",
    );
    expect_code(&mut backup(cluster, "whole", &store), 0);
    let to = || restore(cluster, "whole_copy", &store);
    let ask = |sql: &str| cluster.psql("whole_copy", sql);

    // Definitions first: a materialized view over empty tables is not filled, and is with the rows.
    expect_code(to().args(["--create", "--schema-only"]), 0);
    assert_eq!(ask("SELECT relispopulated FROM pg_class WHERE relname = 'm'"), "f");
    expect_code(to().arg("--data-only"), 0);
    assert_eq!(ask("SELECT (SELECT count FROM m) || ' ' || last_value FROM a_id_seq"), "1000 1000");

    // A conflict in one table leaves all as they were.
    ask("TRUNCATE a; DELETE FROM b WHERE id < 500; SELECT setval('a_id_seq', 1500); SELECT setval('down', -20)");
    let (error, hints) =
        expect_failure(to().args(["--data-only", "--into-existing", "--table", "public.a", "--table", "public.b"]), 1);
    assert!(error.contains("public.b") && hints.contains("nothing was changed"), "{error}\n{hints}");
    assert_eq!(ask("SELECT (SELECT count(*) FROM a) || ' ' || (SELECT count(*) FROM b)"), "0 1");

    // A sequence that went on stays where it is.
    expect_code(to().args(["--data-only", "--into-existing", "--table", "public.a"]), 0);
    assert_eq!(ask("SELECT last_value FROM a_id_seq"), "1500");
    expect_code(to().args(["--data-only", "--truncate", "--table", "public.a"]), 0);
    assert_eq!(ask("SELECT (SELECT count(*) FROM a) || ' ' || last_value FROM a_id_seq"), "1000 1000");
    assert_eq!(ask("SELECT last_value FROM down"), "-20");

    // References that would dangle undo it.
    ask("TRUNCATE parent, child");
    let (error, hints) = expect_failure(to().args(["--data-only", "--table", "public.child"]), 1);
    assert!(error.contains("5 rows of public.child") && hints.contains("nothing was changed"), "{error}\n{hints}");
    assert_eq!(ask("SELECT count(*) FROM child"), "0");

    // What was emptied is back when an object turns out to be damaged.
    let run = Run::latest(&store);
    let schemas = run.manifest["schemas"].as_array().unwrap();
    let tables = schemas.iter().flat_map(|schema| schema["tables"].as_array().unwrap());
    let key =
        tables.filter(|table| table["name"] == "b").map(|table| table["file"]["key"].as_str().unwrap()).next().unwrap();
    let file = run.folder.join(key);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    expect_failure(to().args(["--data-only", "--truncate", "--table", "public.a", "--table", "public.b"]), 1);
    assert_eq!(ask("SELECT (SELECT count(*) FROM a) || ' ' || (SELECT count(*) FROM b)"), "1000 1");

    // A trigger that fires for what a replica loads is seen.
    ask(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.t := NULL; RETURN NEW; END';
         CREATE TRIGGER r BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE a ENABLE REPLICA TRIGGER r",
    );
    let (error, _) = expect_failure(to().args(["--data-only", "--truncate", "--table", "public.a"]), 2);
    assert!(error.contains("ENABLE REPLICA"), "{error}");
}

#[test]
fn settings_stand_before_what_needs_them_and_statistics_never_fail_a_restore() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    cluster.create_database("needs");
    cluster.psql(
        "needs",
        "ALTER DATABASE needs SET app.rate = '3'; ALTER DATABASE needs SET default_transaction_read_only = on",
    );
    cluster.psql(
        "needs",
        "BEGIN READ WRITE; CREATE TABLE t (a int CHECK (a > current_setting('app.rate')::int)); INSERT INTO t VALUES (4);
         CREATE TABLE m (id int, v int) PARTITION BY RANGE (id);
         CREATE TABLE m1 PARTITION OF m FOR VALUES FROM (0) TO (100); CREATE TABLE m2 PARTITION OF m FOR VALUES FROM (100) TO (200);
         CREATE FUNCTION trg() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
         CREATE TRIGGER audit AFTER INSERT ON m FOR EACH ROW EXECUTE FUNCTION trg(); ALTER TABLE m1 DISABLE TRIGGER audit;
         INSERT INTO m SELECT i, i FROM generate_series(0, 199) i; COMMIT",
    );
    expect_code(&mut backup(cluster, "needs", &store), 0);
    expect_code(restore(cluster, "needs_copy", &store).arg("--create"), 0);
    assert_eq!(
        cluster.psql(
            "needs_copy",
            "SELECT a || current_setting('app.rate') || current_setting('default_transaction_read_only') FROM t"
        ),
        "43on"
    );
    judge::assert_same_database((cluster, "needs"), (cluster, "needs_copy"));
}

#[test]
fn a_database_that_somebody_completed_by_hand_is_not_emptied_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    cluster.create_database("byhand");
    cluster.psql("byhand", "CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    expect_code(&mut backup(cluster, "byhand", &store), 0);
    let run = Run::latest(&store).name;
    let marked = format!(
        "CREATE SCHEMA pgstow_restore; COMMENT ON SCHEMA pgstow_restore IS '{run}'; CREATE TABLE t (id int); INSERT INTO t VALUES (1)"
    );
    for (more, word) in [("CREATE TABLE mine (x int)", "public.mine"), ("INSERT INTO t VALUES (2)", "public.t")] {
        cluster.drop_database("byhand_copy");
        cluster.create_database("byhand_copy");
        cluster.psql("byhand_copy", &marked);
        cluster.psql("byhand_copy", more);
        let before = cluster.pg_dump("byhand_copy", &[]);
        let (error, hints) = expect_failure(&mut restore(cluster, "byhand_copy", &store), 2);
        assert!(error.contains(word) && hints.contains("--start-over"), "{error}\n{hints}");
        judge::assert_same(&judge::comparable(&before), &judge::comparable(&cluster.pg_dump("byhand_copy", &[])));
        expect_code(restore(cluster, "byhand_copy", &store).arg("--start-over"), 0);
        judge::assert_same_database((cluster, "byhand"), (cluster, "byhand_copy"));
    }
}

/// Large objects whose owner the restoring role cannot act as, or that a missing role was granted, come back like all
/// else: stock `pg_restore` goes on there too.
#[test]
pub(crate) fn large_objects_come_back_whoever_owned_them() {
    for version in [pg::packaged(), 18] {
        let cluster = pg::shared(version);
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let role = |word: &str| format!("blob_{word}_{version}");
        let (owner, reader, login, gone) = (role("owner"), role("reader"), role("login"), role("gone"));
        cluster.create_database("blobs");
        cluster.psql(
            "blobs",
            &format!(
                "CREATE ROLE {owner}; CREATE ROLE {reader}; CREATE ROLE {gone}; CREATE ROLE {login} LOGIN PASSWORD 'blob' CREATEDB IN ROLE {owner};
                 SELECT lo_from_bytea(i, convert_to('mine ' || i, 'UTF8')) FROM generate_series(100, 104) i;
                 SELECT lo_from_bytea(i, convert_to('shared ' || i, 'UTF8')) FROM generate_series(200, 204) i;
                 SELECT lo_from_bytea(300, 'of a role that is gone later');
                 DO $$ BEGIN FOR i IN 200..204 LOOP
                    EXECUTE format('ALTER LARGE OBJECT %s OWNER TO {owner}; GRANT SELECT ON LARGE OBJECT %1$s TO {reader} WITH GRANT OPTION', i);
                 END LOOP; END $$;
                 SET ROLE {reader}; GRANT SELECT ON LARGE OBJECT 200 TO PUBLIC; RESET ROLE;
                 GRANT UPDATE ON LARGE OBJECT 101 TO {gone}; COMMENT ON LARGE OBJECT 102 IS 'a note';
                 CREATE TABLE t (); GRANT SELECT ON t TO {reader}; GRANT INSERT ON t TO {gone}"
            ),
        );
        expect_code(&mut backup(cluster, "blobs", &store), 0);
        expect_code(restore(cluster, "blobs_copy", &store).args(["--create", "--jobs", "2"]), 0);
        judge::assert_same_database((cluster, "blobs"), (cluster, "blobs_copy"));

        let url = cluster.url_as(&login, "blob", "blobs_login");
        let (stdout, stderr) =
            expect_code(program::restore(cluster, &url, &store).args(["--create", "--best-effort", "--json"]), 3);
        let contents = "SELECT string_agg(l.oid || ' ' || convert_from(lo_get(l.oid), 'UTF8') || ' ' || rolname
                        || coalesce(obj_description(l.oid, 'pg_largeobject'), ''), ', ' ORDER BY l.oid)
                        FROM pg_largeobject_metadata l JOIN pg_roles r ON r.oid = l.lomowner WHERE l.oid IN (102, 200, 204)";
        assert_eq!(
            cluster.psql("blobs_login", contents),
            format!("102 mine 102 {login}a note, 200 shared 200 {owner}, 204 shared 204 {owner}"),
            "{stderr}"
        );
        // The grantor cannot be acted as: what he gave comes from the role that restores.
        let public =
            "SELECT count(*) FROM pg_largeobject_metadata m, aclexplode(lomacl) a WHERE m.oid = 200 AND grantee = 0";
        assert_eq!(cluster.psql("blobs_login", public), "1", "{stdout}");
        let unowned = findings(&stdout).into_iter().find(|(kind, _, _)| kind == "ownership by");
        assert_eq!(unowned.map(|(_, name, _)| name).as_deref(), Some("postgres"), "{stdout}");

        // On a server without one of the roles.
        cluster.psql("blobs", &format!("REVOKE ALL ON LARGE OBJECT 101 FROM {gone}; REVOKE ALL ON t FROM {gone}"));
        cluster.psql("blobs_copy", &format!("REVOKE ALL ON LARGE OBJECT 101 FROM {gone}; REVOKE ALL ON t FROM {gone}"));
        cluster.psql("postgres", "DROP DATABASE blobs_login");
        cluster.psql("postgres", &format!("DROP ROLE {gone}"));
        let (stdout, _) =
            expect_code(restore(cluster, "blobs_gone", &store).args(["--create", "--best-effort", "--json"]), 3);
        let found = findings(&stdout);
        let mut names: Vec<_> = found.iter().map(|(kind, name, _)| (kind.as_str(), name.as_str())).collect();
        names.sort_unstable();
        assert_eq!(names, [("privileges", "public.TABLE t"), ("privileges on large object", "101")], "{found:?}");
        // What was granted and taken away again leaves a list of rights of its own.
        let granted =
            format!("GRANT UPDATE ON LARGE OBJECT 101 TO {reader}; REVOKE ALL ON LARGE OBJECT 101 FROM {reader}");
        cluster.psql("blobs_gone", &granted);
        judge::assert_same_database((cluster, "blobs"), (cluster, "blobs_gone"));
    }
}

/// Objects that a role of few rights may not make, or whose roles are not here, among others that it may.
const FORBIDDEN: &str = "
    CREATE TABLE t (id int PRIMARY KEY, t text); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 100) i; ALTER TABLE t OWNER TO gone;
    CREATE SCHEMA s AUTHORIZATION gone; GRANT USAGE ON SCHEMA s TO gone2; CREATE TABLE s.b (i int); INSERT INTO s.b VALUES (1);
    SELECT lo_from_bytea(777, 'abc'); ALTER LARGE OBJECT 777 OWNER TO gone; GRANT SELECT ON LARGE OBJECT 777 TO gone2;
    ALTER DEFAULT PRIVILEGES FOR ROLE gone GRANT SELECT ON TABLES TO gone2;
    CREATE FOREIGN DATA WRAPPER w; CREATE SERVER fs FOREIGN DATA WRAPPER w; CREATE USER MAPPING FOR gone SERVER fs;
    CREATE FOREIGN TABLE ft (i int) SERVER fs; GRANT USAGE ON FOREIGN SERVER fs TO gone2;
    CREATE PUBLICATION p FOR ALL TABLES; CREATE PUBLICATION p2 FOR TABLE t;
    CREATE SUBSCRIPTION sub CONNECTION 'host=nowhere' PUBLICATION x WITH (connect = false);
    CREATE STATISTICS st ON id, t FROM t; ALTER STATISTICS st OWNER TO gone;
    CREATE FUNCTION ev() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
    CREATE EVENT TRIGGER et ON ddl_command_start EXECUTE FUNCTION ev(); COMMENT ON EVENT TRIGGER et IS 'x';
    CREATE FUNCTION cf(text) RETURNS int LANGUAGE internal AS 'textlen' IMMUTABLE; CREATE INDEX by_cf ON t (cf(t));
    CREATE POLICY pol ON t TO gone2 USING (true); ALTER TABLE t ENABLE ROW LEVEL SECURITY;
    CREATE CAST (text AS point) WITH INOUT;
    CREATE ACCESS METHOD am2 TYPE TABLE HANDLER heap_tableam_handler; CREATE TABLE amt (i int) USING am2; INSERT INTO amt VALUES (5);
    CREATE OPERATOR === (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int);
    CREATE OPERATOR CLASS oc FOR TYPE int USING hash AS OPERATOR 1 ===, FUNCTION 1 hashint4(int);
    CREATE TEXT SEARCH TEMPLATE tt (LEXIZE = dsimple_lexize, INIT = dsimple_init);
    CREATE VIEW vv AS SELECT * FROM t; ALTER VIEW vv OWNER TO gone; CREATE SEQUENCE sq; SELECT setval('sq', 77);
    ALTER DATABASE forbidden SET log_min_duration_statement = 5; ALTER ROLE gone IN DATABASE forbidden SET work_mem = '9MB'";

#[test]
pub(crate) fn a_role_of_few_rights_gets_all_that_stock_tools_would_give_it_and_a_list_of_the_rest() {
    let version = *pg::versions().last().unwrap();
    let (source, target) = (Cluster::start_with(version, &[("wal_level", "logical")]), pg::shared(version));
    source.psql("postgres", "CREATE ROLE gone; CREATE ROLE gone2");
    source.create_database("forbidden");
    source.psql("forbidden", FORBIDDEN);
    let folder = tempfile::tempdir().unwrap();
    expect_code(&mut backup(&source, "forbidden", &folder.path().join("store")), 0);
    let dump = folder.path().join("dump");
    source.pg_dump("forbidden", &["-Fc", "-f", dump.to_str().unwrap()]);
    target.psql("postgres", "CREATE ROLE plainly LOGIN PASSWORD 'p'");
    for name in ["forbidden ours", "forbidden stock"] {
        target.create_database_with(name, "OWNER plainly");
    }
    let url = |name: &str| target.url_as("plainly", "p", name);
    let mut command = program::restore(target, &url("forbidden ours"), &folder.path().join("store"));
    let (stdout, stderr) = expect_code(command.args(["--best-effort", "--json"]), 3);
    let mut stock = target.command("pg_restore");
    stock.args(["--no-password", "-d", &url("forbidden stock")]).arg(&dump).output().unwrap();
    let definitions = |name: &str| {
        let text = judge::comparable(&target.pg_dump(name, &["--schema-only"]));
        let mut all: Vec<String> = judge::statements(&text);
        all.sort();
        all
    };
    let (ours, stocks) = (definitions("forbidden ours"), definitions("forbidden stock"));
    let lacks: Vec<&String> = stocks.iter().filter(|one| !ours.contains(one)).collect();
    assert!(lacks.is_empty() && !stocks.is_empty(), "stock tools restored {lacks:#?}\n{stderr}");
    let rows = "SELECT (SELECT count(*) FROM t), (SELECT sum(i) FROM s.b), (SELECT sum(i) FROM amt), (SELECT last_value FROM sq),
        convert_from(lo_get(777), 'UTF8')";
    assert_eq!(target.psql("forbidden ours", rows), "100|1|5|77|abc");
    let found = findings(&stdout);
    for (kind, name) in [
        ("event trigger", "et"),
        ("publication", "p"),
        ("subscription", "sub"),
        ("foreign data wrapper", "w"),
        ("server", "fs"),
        ("user mapping", "gone"),
        ("foreign table", "ft"),
        ("cast", "text AS point"),
        ("function", "cf(text)"),
        ("index", "by_cf"),
        ("policy", "pol"),
        ("access method", "am2"),
        ("access method of", "amt"),
        ("operator class", "oc"),
        ("text search template", "tt"),
        ("default acl", "TABLES"),
        ("privileges on large object", "777"),
        ("setting", "database"),
    ] {
        assert!(found.iter().any(|(k, n, _)| k == kind && n.contains(name)), "{kind} {name}: {found:#?}");
    }
    for name in ["forbidden ours", "forbidden stock"] {
        target.drop_database(name);
    }
    target.psql("postgres", "DROP ROLE plainly");
}

/// Where triggers cannot be turned off, foreign keys are checked as rows come: also those of partitioned tables.
#[test]
fn rows_come_in_the_order_of_foreign_keys_to_and_from_partitioned_tables() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    cluster.psql("postgres", "CREATE ROLE keyed LOGIN PASSWORD 'p'");
    for name in ["keyed", "keyed copy"] {
        cluster.create_database_with(name, "OWNER keyed");
    }
    cluster.psql(
        "keyed",
        "SET ROLE keyed; CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE x_low PARTITION OF root FOR VALUES FROM (0) TO (50) PARTITION BY RANGE (id);
         CREATE TABLE x_lowest PARTITION OF x_low FOR VALUES FROM (0) TO (50); CREATE TABLE w_high PARTITION OF root FOR VALUES FROM (50) TO (100);
         CREATE TABLE a_plain (id int REFERENCES root); CREATE TABLE b_root (id int REFERENCES root) PARTITION BY LIST (id);
         CREATE TABLE b_leaf PARTITION OF b_root DEFAULT; CREATE TABLE c_leaf (id int REFERENCES w_high);
         INSERT INTO root VALUES (1), (60); INSERT INTO a_plain VALUES (1), (60); INSERT INTO b_root VALUES (1), (60); INSERT INTO c_leaf VALUES (60)",
    );
    expect_code(&mut backup(cluster, "keyed", &store), 0);
    let to = || program::restore(cluster, &cluster.url_as("keyed", "p", "keyed copy"), &store);
    expect_code(to().arg("--schema-only"), 0);
    let (_, err) = expect_code(to().arg("--data-only"), 0);
    assert!(err.contains("session_replication_role"), "{err}");
    judge::assert_same_database((cluster, "keyed"), (cluster, "keyed copy"));
    for name in ["keyed", "keyed copy"] {
        cluster.drop_database(name);
    }
    cluster.psql("postgres", "DROP ROLE keyed");
}

#[test]
fn a_table_stands_with_its_rows_where_only_a_clause_of_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (store, newer) = (folder.path().join("store"), folder.path().join("newer"));
    let (from, to) = (pg::shared(15), pg::shared(18));
    from.create_database("clauses");
    from.psql(
        "clauses",
        "CREATE TABLE t (a int, b text COMPRESSION lz4, c text); ALTER TABLE t ALTER c SET STORAGE EXTERNAL, ALTER b SET STATISTICS 77;
         INSERT INTO t VALUES (1, repeat('x', 5000), 'c'); CREATE INDEX iu ON t (a); CREATE VIEW v AS SELECT * FROM t;
         CREATE TABLE u (a int, tt t); INSERT INTO u SELECT 1, t FROM t; GRANT SELECT (a) ON t TO PUBLIC;
         CREATE FUNCTION ff() RETURNS t LANGUAGE sql BEGIN ATOMIC SELECT * FROM t; END",
    );
    expect_code(&mut backup(from, "clauses", &store), 0);
    let dump = |cluster: &Cluster, database: &str| {
        let inserts = cluster.pg_dump(database, &["--data-only", "--inserts"]);
        inserts.lines().filter(|line| line.starts_with("INSERT")).map(str::to_owned).collect::<Vec<_>>()
    };
    let (stdout, _) = expect_code(restore(to, "clauses_copy", &store).args(["--create", "--json"]), 3);
    let lz4 = "ALTER TABLE ONLY public.t ALTER COLUMN b SET COMPRESSION lz4";
    let expected = ("statement of table".to_owned(), "public.t".to_owned(), lz4.to_owned());
    assert_eq!(findings(&stdout), [expected]);
    assert!(!stdout.contains("as a role that may"), "no role may: {stdout}");
    assert_eq!(dump(to, "clauses_copy"), dump(from, "clauses"));
    let made = "SELECT (SELECT attstattarget || attstorage::text FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'b'),
        (SELECT attstorage FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'c'), to_regclass('iu'), (SELECT count(*) FROM v),
        to_regprocedure('ff()'), (SELECT attacl FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'a')";
    assert_eq!(to.psql("clauses_copy", made), from.psql("clauses", made));

    // A parameter that an older server does not know, among one that it does.
    to.create_database("clauses_18");
    to.psql(
        "clauses_18",
        "CREATE TABLE w (a int) WITH (fillfactor = 70, vacuum_max_eager_freeze_failure_rate = 0.1, autovacuum_enabled = off);
         INSERT INTO w VALUES (1); ALTER TABLE w ADD CHECK (a > 0)",
    );
    expect_code(&mut backup(to, "clauses_18", &newer), 0);
    let mut back = program::restore(to, &from.url("clauses_15"), &newer);
    let (stdout, _) = expect_code(back.args(["--create", "--json"]), 3);
    let rate = r#"ALTER TABLE "public"."w" SET (vacuum_max_eager_freeze_failure_rate='0.1')"#;
    assert_eq!(findings(&stdout), [("statement of table".to_owned(), "public.w".to_owned(), rate.to_owned())]);
    let read = "SELECT array(SELECT unnest(reloptions) o ORDER BY o), (SELECT count(*) FROM w) FROM pg_class WHERE relname = 'w'";
    assert_eq!(from.psql("clauses_15", read), "{autovacuum_enabled=off,fillfactor=70}|1");
}

#[test]
fn large_objects_are_no_more_open_than_they_were_whatever_the_target_gives_to_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = Cluster::start(18);
    cluster.create_database("blobs");
    cluster.psql(
        "blobs",
        "CREATE ROLE lo_anon; CREATE ROLE lo_user; CREATE ROLE lo_owner; SELECT lo_from_bytea(55, 'secret'), lo_from_bytea(56, 'shared'),
         lo_from_bytea(57, 'of another'), lo_from_bytea(58, 'the same as 55'); GRANT SELECT ON LARGE OBJECT 56 TO lo_user;
         ALTER LARGE OBJECT 57 OWNER TO lo_owner; COMMENT ON LARGE OBJECT 58 IS 'said';
         ALTER DEFAULT PRIVILEGES GRANT SELECT ON LARGE OBJECTS TO lo_user",
    );
    let read = "SELECT oid, lomowner::regrole, array(SELECT x::text FROM unnest(coalesce(lomacl, acldefault('L', lomowner))) x ORDER BY 1),
        lo_get(oid), obj_description(oid, 'pg_largeobject') FROM pg_largeobject_metadata ORDER BY oid;
        SELECT defaclobjtype, defaclacl FROM pg_default_acl ORDER BY 1";
    let saved = cluster.psql("blobs", read);
    expect_code(&mut backup(&cluster, "blobs", &store), 0);
    cluster.create_database("open");
    cluster.psql("open", "ALTER DEFAULT PRIVILEGES GRANT ALL ON LARGE OBJECTS TO lo_anon, PUBLIC");
    // Each object with its privileges is committed by itself.
    expect_code(restore(&cluster, "open", &store).arg("--into-existing"), 0);
    let objects = |text: &str| text.lines().filter(|line| !line.starts_with('L')).collect::<Vec<_>>().join("\n");
    assert_eq!(objects(&cluster.psql("open", read)), objects(&saved));
    // The default privileges of the run come after its objects.
    expect_code(restore(&cluster, "closed", &store).arg("--create"), 0);
    assert_eq!(cluster.psql("closed", read), saved);
    assert_eq!(dumped(&cluster, "closed"), dumped(&cluster, "blobs"));
}

#[test]
fn the_owner_of_public_comes_back_or_is_listed_where_no_superuser_restores() {
    let folder = tempfile::tempdir().unwrap();
    let (store, other) = (folder.path().join("store"), folder.path().join("other"));
    let cluster = Cluster::start(15);
    for database in ["ow", "ow_super"] {
        cluster.create_database(database);
    }
    cluster.psql("postgres", "CREATE ROLE ow_app LOGIN CREATEDB PASSWORD 'x'; ALTER DATABASE ow OWNER TO ow_app");
    cluster.psql("ow", "ALTER SCHEMA public OWNER TO ow_app; SET ROLE ow_app; CREATE TABLE t (a int)");
    expect_code(&mut backup(&cluster, "ow", &store), 0);
    let owner = "SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'public'";
    let as_app =
        |database: &str, store: &Path| program::restore(&cluster, &cluster.url_as("ow_app", "x", database), store);
    expect_code(as_app("ow_1", &store).arg("--create"), 0);
    assert_eq!(cluster.psql("ow_1", owner), "ow_app");
    assert_eq!(dumped(&cluster, "ow_1"), dumped(&cluster, "ow"));

    // Another role's, which it cannot act as.
    cluster.psql("ow_super", "ALTER SCHEMA public OWNER TO postgres; CREATE PUBLICATION pp; CREATE TABLE of_super ()");
    expect_code(&mut backup(&cluster, "ow_super", &other), 0);
    let (_, stderr) = expect_failure(as_app("ow_2", &other).arg("--create"), 1);
    assert!(!stderr.contains("GRANT \"postgres\"") && stderr.contains("superuser"), "{stderr}");
    let (stdout, _) = expect_code(as_app("ow_3", &other).args(["--create", "--best-effort", "--json"]), 3);
    assert!(findings(&stdout).iter().all(|one| one.0 == "ownership by" && one.1 == "postgres"), "{stdout}");
    assert!(stdout.contains("schema public"), "{stdout}");
}
