//! A restore that is stopped, throttled or run by a role of few rights: it ends cleanly, no table is left with some of
//! its rows, and the same command completes it later.

use std::path::Path;
use std::process::Command;

use tokio::runtime::Runtime;

use crate::support::judge;
use crate::support::pg::{self, Cluster};
use crate::support::program::{Going, backup, expect_code, expect_failure, pgstow, restore};
use crate::support::proxy::{Asked, Fault, Proxy};
use crate::support::s3::S3Server;
use crate::support::session::{Talk, until};

/// A table whose rows, and one whose index, cannot be made in a database where somebody holds the advisory lock 1 or 2.
const HELD: &str = "
    CREATE FUNCTION waits(key integer, value integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(key); RETURN value; END $$;
    CREATE TABLE held_rows (id integer PRIMARY KEY CHECK (id < 900 OR public.waits(1, id) > 0));
    INSERT INTO held_rows SELECT generate_series(1, 1000);
    CREATE TABLE held_index (id integer); INSERT INTO held_index SELECT generate_series(1, 1000);
    CREATE INDEX ON held_index (public.waits(2, id));
    CREATE TABLE refers (id integer REFERENCES held_rows, t text); INSERT INTO refers SELECT i, md5(i::text) FROM generate_series(1, 1000) i";

const OURS: &str = "FROM pg_stat_activity WHERE application_name = 'pgstow restore' AND datname = 'stopped_copy'";
const WAITING: &str = "FROM pg_locks l JOIN pg_database d ON d.oid = l.database
    WHERE d.datname = 'stopped_copy' AND l.locktype = 'advisory' AND NOT l.granted";

#[test]
pub(crate) fn a_restore_that_is_stopped_leaves_no_half_table_and_the_same_command_completes_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = Cluster::start(15);
    cluster.create_database("stopped");
    cluster.psql("stopped", HELD);
    expect_code(&mut backup(&cluster, "stopped", &store), 0);
    let ask = |sql: &str| cluster.psql("postgres", sql);
    for (lock, how, code) in [
        (1, "KILL", None),
        (2, "KILL", None),
        (1, "INT", Some(130)),
        (2, "TERM", Some(143)),
        (2, "connections", Some(1)),
    ] {
        cluster.drop_database("stopped_copy");
        cluster.create_database("stopped_copy");
        let mut holder = Talk::open(&cluster, "stopped_copy");
        holder.run(&format!("SELECT pg_advisory_lock({lock})"));
        let url = cluster.url("stopped_copy");
        let mut going = Going::start(&mut restore(&cluster, &url, &store));
        until("the restore waits", || {
            assert!(going.runs(), "the restore ended before it was stopped");
            ask(&format!("SELECT count(*) > 0 {WAITING}")) == "t"
        });
        if lock == 2 {
            let told = expect_failure(&mut restore(&cluster, &url, &store), 2).1;
            assert!(told.contains("another restore into") && told.contains("is running"), "{told}");
        }
        let first = ask(&format!("SELECT string_agg(l.pid::text, ',') {WAITING}"));
        match how {
            "connections" => drop(ask(&format!("SELECT pg_terminate_backend(pid) {OURS}"))),
            signal => going.signal(signal),
        }
        if let Some(code) = code {
            let (_, err) = going.expect_code(code);
            assert_eq!(err.matches("error:").count(), 1, "{how}: {err}");
            until("its sessions end", || ask(&format!("SELECT count(*) {OURS}")) == "0");
        } else {
            until("it is dead", || !going.runs());
            assert_eq!(ask(&format!("SELECT count(*) > 0 {OURS} AND pid IN ({first})")), "t", "nothing outlives it");
        }
        // A session that is still loading the table does not let anybody read it.
        if lock == 2 || code.is_some() {
            let rows = cluster.psql("stopped_copy", "SELECT count(*) FROM held_rows");
            assert!(rows == if lock == 1 { "0" } else { "1000" }, "{how} at {lock}: {rows} rows");
        }

        let mut again = Going::start(&mut restore(&cluster, &url, &store));
        until("it waits again, and what outlived the first one is gone", || {
            assert!(again.runs(), "the second restore ended early");
            ask(&format!("SELECT count(*) > 0 AND bool_and(l.pid NOT IN ({first})) {WAITING}")) == "t"
        });
        drop(holder);
        let (_, log) = again.expect_code(0);
        assert!(log.contains("unfinished restore"), "{how}: {log}");
        judge::assert_same_database((&cluster, "stopped"), (&cluster, "stopped_copy"));
    }
}

/// Another run of the same command after everything but the statistics was done does only those.
#[test]
fn what_only_lacks_statistics_is_not_restored_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    for name in ["statistics", "statistics_copy"] {
        cluster.create_database(name);
    }
    cluster.psql(
        "statistics",
        "CREATE TABLE many (id integer PRIMARY KEY, n integer); INSERT INTO many SELECT i, i % 7 FROM generate_series(1, 20000) i;
         CREATE TABLE wide (id integer, t text); ALTER TABLE wide ALTER t SET STORAGE PLAIN;
         INSERT INTO wide SELECT i, repeat('x', 4000) FROM generate_series(1, 18000) i;
         CREATE TABLE own (n integer) WITH (autovacuum_enabled = off); INSERT INTO own SELECT generate_series(1, 20000)",
    );
    expect_code(&mut backup(cluster, "statistics", &store), 0);
    let url = cluster.url("statistics_copy");
    let (_, log) = expect_code(&mut restore(cluster, &url, &store), 0);
    assert!(log.contains("2 tables have rough statistics"), "{log}");
    // Rough ones for what autovacuum completes, full ones for what it never looks at.
    let statistics = "SELECT string_agg(tablename || ' ' || attname || ' ' || cardinality(histogram_bounds), ',' ORDER BY tablename)
                        FROM pg_stats WHERE schemaname = 'public' AND (attname, tablename) IN (('id', 'many'), ('n', 'own'), ('id', 'wide'))";
    // Autovacuum may have completed it by now.
    let now = cluster.psql("statistics_copy", statistics);
    let is_one = [("2", "11"), ("101", "11"), ("2", "101"), ("101", "101")]
        .iter()
        .any(|(many, wide)| now == format!("many id {many},own n 101,wide id {wide}"));
    assert!(is_one, "{now}");
    let rows = "SELECT xmin FROM own LIMIT 1";
    let before = cluster.psql("statistics_copy", rows);
    let run = pgstow().args(["list", "--json", "--store"]).arg(&store).output().unwrap();
    let run: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    let mark = format!("{}, all but statistics", run["latest"].as_str().unwrap());
    cluster.psql(
        "statistics_copy",
        &format!("CREATE SCHEMA pgstow_restore; COMMENT ON SCHEMA pgstow_restore IS '{mark}'"),
    );
    let (_, log) = expect_code(restore(cluster, &url, &store).arg("--full-analyze"), 0);
    assert!(log.contains("everything but the statistics was restored") && !log.contains("definitions"), "{log}");
    assert_eq!(cluster.psql("statistics_copy", rows), before, "the rows were loaded again");
    assert_eq!(cluster.psql("statistics_copy", statistics), "many id 101,own n 101,wide id 101");
    judge::assert_same_database((cluster, "statistics"), (cluster, "statistics_copy"));
}

#[test]
fn a_store_that_throttles_slows_a_restore_down_and_one_that_never_answers_ends_it_cleanly() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
    let server = runtime.block_on(S3Server::start(folder.path()));
    let proxy = runtime.block_on(Proxy::start(server.port, |_asked| None));
    let cluster = pg::shared(15);
    for name in ["throttled", "throttled_copy"] {
        cluster.create_database(name);
    }
    cluster.psql(
        "throttled",
        "CREATE TABLE big (id integer PRIMARY KEY, t text); CREATE TABLE small (id integer REFERENCES big);
         INSERT INTO big SELECT i, (SELECT string_agg(md5((i * 64 + j)::text), '') FROM generate_series(1, 56) j)
           FROM generate_series(1, 8000) i; INSERT INTO small SELECT generate_series(1, 100)",
    );
    let store = Path::new("s3://backups/throttled");
    let behind = |mut command: Command| {
        command.envs(server.env()).env("AWS_ENDPOINT_URL_S3", &proxy.endpoint);
        command.args(["--s3-attempts", "4", "--s3-stall-timeout", "1s"]);
        command
    };
    expect_code(&mut behind(backup(cluster, "throttled", store)), 0);
    let again = || behind(restore(cluster, &cluster.url("throttled_copy"), store));
    let rows = |asked: &Asked| asked.method == "GET" && asked.target.contains(".sql.zst");

    // Nothing comes of the big table any more after its first bytes.
    proxy.follow(move |asked| match asked.time {
        1 if rows(asked) => Some(Fault::StallAnswer(1_000_000)),
        _ if rows(asked) => Some(Fault::Answer(503, "SlowDown")),
        _ => None,
    });
    let told = expect_failure(&mut again(), 1).1;
    assert!(told.contains("public/big.sql.zst"), "{told}");
    let loaded =
        cluster.psql("throttled_copy", "SELECT (SELECT count(*) FROM big), (SELECT count(*) FROM small) IN (0, 100)");
    assert_eq!(loaded, "0|t", "half a table");

    // Bursts of 503, an answer cut short, one that stalls in the middle.
    let faults = proxy.faults();
    let mut seen = 0;
    proxy.follow(move |asked| {
        if asked.method != "GET" || !asked.target.contains("/runs/") {
            return None;
        }
        seen += 1;
        match seen % 7 {
            0 => Some(Fault::CutAnswer(200_000)),
            1..=2 => Some(Fault::Answer(503, "SlowDown")),
            3 => Some(Fault::StallAnswer(300_000)),
            _ => None,
        }
    });
    let (_, log) = expect_code(&mut again(), 0);
    assert!(log.contains("unfinished restore"), "{log}");
    assert!(proxy.faults() > faults + 3, "{:?}", proxy.log());
    judge::assert_same_database((cluster, "throttled"), (cluster, "throttled_copy"));
}

#[test]
fn a_role_that_is_no_superuser_restores_what_it_may_and_is_told_the_rest_first() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = Cluster::start(15);
    cluster.psql(
        "postgres",
        "CREATE ROLE plain LOGIN PASSWORD 'plain'; CREATE ROLE team; CREATE ROLE stranger; GRANT team TO plain;
         CREATE DATABASE source; CREATE DATABASE copy OWNER plain; CREATE DATABASE other OWNER plain",
    );
    cluster.psql(
        "source",
        "CREATE EXTENSION pgcrypto; CREATE SCHEMA app AUTHORIZATION team; SET ROLE team; CREATE TYPE app.mood AS ENUM ('ok');
         CREATE TABLE app.t (id serial PRIMARY KEY, m app.mood, t text DEFAULT ' OWNER TO x'); INSERT INTO app.t (m) SELECT 'ok' FROM generate_series(1, 500);
         CREATE TABLE app.child (id integer REFERENCES app.t); INSERT INTO app.child SELECT generate_series(1, 9);
         CREATE FUNCTION app.f(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'; CREATE VIEW app.v AS SELECT * FROM app.t;
         CREATE MATERIALIZED VIEW app.m AS SELECT count(*) FROM app.t; ALTER TABLE app.t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON app.t USING (true);
         RESET ROLE; SELECT lo_from_bytea(0, 'large'); SELECT 1 FROM pg_largeobject_metadata",
    );
    cluster.psql("source", "SELECT lo_unlink(oid) FROM pg_largeobject_metadata");
    expect_code(&mut backup(&cluster, "source", &store), 0);
    let url = |database| cluster.url_as("plain", "plain", database);
    expect_code(&mut restore(&cluster, &url("copy"), &store), 0);
    // But for the schema `public`, which the database's owner has, all is the same.
    judge::assert_same(
        &judge::dump_text(&cluster, "source", &["-n", "app"]),
        &judge::dump_text(&cluster, "copy", &["-n", "app"]),
    );
    assert_eq!(cluster.psql("copy", "SELECT count(*) FROM app.t"), "500");

    cluster.psql(
        "source",
        "CREATE TABLE app.strange (id integer); ALTER TABLE app.strange OWNER TO stranger; INSERT INTO app.strange VALUES (1);
         CREATE FUNCTION app.e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER watch ON ddl_command_start EXECUTE FUNCTION app.e()",
    );
    expect_code(&mut backup(&cluster, "source", &store), 0);
    let told = expect_failure(&mut restore(&cluster, &url("other"), &store), 1).1;
    assert!(
        told.contains("role stranger") && told.contains("event trigger watch") && told.contains("--no-owner"),
        "{told}"
    );
    assert_eq!(
        cluster.psql("other", "SELECT count(*) FROM pg_namespace WHERE nspname IN ('app', 'pgstow_restore')"),
        "0"
    );
    let told = expect_failure(restore(&cluster, &url("other"), &store).arg("--no-owner"), 1).1;
    assert!(!told.contains("stranger") && told.contains("event trigger watch"), "{told}");
    cluster.psql("source", "DROP EVENT TRIGGER watch");
    expect_code(&mut backup(&cluster, "source", &store), 0);
    expect_code(restore(&cluster, &url("other"), &store).arg("--no-owner"), 0);
    let owners = "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'app'::regnamespace";
    assert_eq!(cluster.psql("other", owners), "plain");
    assert_eq!(cluster.psql("other", "SELECT count(*) FROM app.strange"), "1");
    // A single table comes by another way.
    cluster.psql("other", "DROP TABLE app.strange");
    let mut one = restore(&cluster, &url("other"), &store);
    expect_code(one.args(["--no-owner", "--into-existing", "--table", "app.strange"]), 0);
    assert_eq!(cluster.psql("other", owners), "plain");
}

#[test]
fn drills_of_a_sample_prove_every_table_in_turn() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    cluster.create_database("sampled");
    cluster.psql(
        "sampled",
        "CREATE TABLE parent (id integer PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 50);
         CREATE TABLE child (id integer PRIMARY KEY REFERENCES parent); INSERT INTO child SELECT generate_series(1, 50);
         COMMENT ON CONSTRAINT child_id_fkey ON child IS 'x'; CREATE TABLE grandchild (id integer REFERENCES child); INSERT INTO grandchild VALUES (7);
         CREATE TYPE size AS ENUM ('a','b','c','d','e','f','g','h','i','j','k','l','m','n','o','p','q','r','s','t','u','v','w','x'); CREATE TABLE hashed (size size) PARTITION BY HASH (size);
         CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO hashed SELECT s FROM unnest(enum_range(NULL::size)) s, generate_series(1, 3);
         CREATE MATERIALIZED VIEW ratio AS SELECT 1 / count(*) AS r FROM parent; CREATE TABLE empty (id integer REFERENCES parent)",
    );
    expect_code(&mut backup(cluster, "sampled", &store), 0);
    let drill = |more: &[&str]| {
        let mut command = pgstow();
        command.args(["drill", "--pg-bin-dir"]).arg(cluster.bin_dir()).args(["--on", &cluster.url("postgres")]);
        command.arg("--store").arg(&store).args(more);
        command
    };
    // Four units, of which two at a time: the second drill has to go on where the first one ended.
    let mut proven = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let (out, _) = expect_code(&mut drill(&["--tables", "33%", "--json"]), 0);
        let receipt: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(receipt["sample"]["of"], 5, "{out}");
        let tables: Vec<String> = serde_json::from_value(receipt["sample"]["tables"].clone()).unwrap();
        assert_eq!(tables.contains(&"public.hashed_0".to_owned()), tables.contains(&"public.hashed_1".to_owned()));
        assert_eq!(receipt["tables"], tables.len());
        proven.extend(tables);
    }
    assert_eq!(proven.len(), 5, "{proven:?}");
    let receipts = std::fs::read_dir(store.join("receipts")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::read_dir(receipts).unwrap().count(), 2, "none replaced another");

    let (out, _) = expect_code(&mut drill(&["--tables", "public.child"]), 0);
    assert!(out.contains("PROVEN in a sample of 1 of 5 tables") && out.contains("proven: public.child"), "{out}");
    assert!(out.contains("not made: public.child child_id_fkey"), "{out}");
    let (out, _) = expect_code(&mut drill(&["--tables", "public.child", "--tables", "public.parent"]), 0);
    assert!(out.contains("2 of 5 tables") && !out.contains("not made"), "{out}");
    let listed = expect_code(pgstow().args(["list", "--store"]).arg(&store), 0).0;
    assert!(listed.contains("ago (2 of 5 tables)"), "{listed}");
    for wrong in ["0%", "101%", "x%", "nowhere.nothing"] {
        expect_failure(&mut drill(&["--tables", wrong]), 2);
    }

    let run = std::fs::read_dir(store.join("runs")).unwrap().next().unwrap().unwrap().path();
    let path = run.join("public/child.sql.zst");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (out, _) = expect_code(&mut drill(&["--tables", "public.child"]), 4);
    assert!(out.contains("public/child.sql.zst"), "{out}");
    expect_code(&mut drill(&["--tables", "public.parent"]), 0);
}

#[test]
fn columns_that_a_parent_got_later_are_proven_in_the_order_they_were_saved_in() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    cluster.create_database("later columns");
    cluster.psql(
        "later columns",
        "CREATE TABLE parent (a integer); CREATE TABLE child (\"b, c\" text) INHERITS (parent);
         CREATE TABLE plain (a integer, b integer); INSERT INTO plain VALUES (1, 2);
         ALTER TABLE parent ADD COLUMN d integer DEFAULT 7; INSERT INTO child VALUES (1, 'x', 3), (2, 'y', 4)",
    );
    expect_code(&mut backup(cluster, "later columns", &store), 0);
    let drill = || {
        let mut command = pgstow();
        command.args(["drill", "--pg-bin-dir"]).arg(cluster.bin_dir()).args(["--on", &cluster.url("postgres")]);
        command.arg("--store").arg(&store);
        command
    };
    let (out, _) = expect_code(&mut drill(), 0);
    assert!(out.contains("PROVEN") && out.contains("public.child: its columns are in another order"), "{out}");
    assert!(!out.contains("public.plain"), "{out}");
    cluster.drop_database("later columns");
}

#[test]
fn a_drill_tells_other_words_of_a_definition_from_another_definition() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(pg::packaged());
    cluster.create_database("reworded");
    // PostgreSQL prints these in other words once they were restored.
    cluster.psql(
        "reworded",
        "CREATE TABLE t (id integer, s varchar(10) CHECK (s IN ('a', 'b'))); CREATE INDEX ON t (id) WHERE s IN ('x', 'y');
         CREATE VIEW v AS SELECT * FROM t WHERE s IN ('c', 'd'); INSERT INTO t SELECT i, 'a' FROM generate_series(1, 300000) i",
    );
    expect_code(&mut backup(cluster, "reworded", &store), 0);
    let drill = || {
        let mut command = pgstow();
        command.args(["drill", "--pg-bin-dir"]).arg(cluster.bin_dir()).args(["--on", &cluster.url("postgres")]);
        command.args(["--scratch-name", "reworded scratch", "--store"]).arg(&store);
        command
    };
    let (out, _) = expect_code(&mut drill(), 0);
    assert!(out.contains("PROVEN") && out.contains("prints some in other words"), "{out}");
    assert!(out.contains("  saved as: ") && !out.contains("difference: "), "{out}");

    // Somebody makes a table in the scratch database: pg_restore alone would not have made it.
    let going = Going::start(&mut drill());
    let url = cluster.url("reworded scratch");
    until("the table is there", || {
        let mut psql = cluster.command("psql");
        psql.args(["-X", "-q", "-c", "CREATE TABLE intruder AS SELECT FROM t WHERE false", "-d", &url]);
        psql.stderr(std::process::Stdio::null()).status().unwrap().success()
    });
    let (out, _) = going.expect_code(4);
    assert!(out.contains("definition restored, not saved: CREATE TABLE public.intruder"), "{out}");
    assert!(!out.contains("varying"), "other words are no difference:\n{out}");
    let left = cluster.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'reworded scratch'");
    assert_eq!(left, "0");
    cluster.drop_database("reworded");
}

#[test]
pub(crate) fn what_would_change_rows_as_they_are_loaded_is_refused_before_anything_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    cluster.create_database("always");
    cluster.psql(
        "always",
        "CREATE TABLE log (w text); CREATE TABLE t (a integer); INSERT INTO t VALUES (1), (2);
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.log VALUES ('fired'); RETURN new; END $$;
         CREATE TRIGGER \"tr g\" AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE t ENABLE ALWAYS TRIGGER \"tr g\"",
    );
    expect_code(&mut backup(cluster, "always", &store), 0);
    let to = |database: &str| restore(cluster, &cluster.url(database), &store);
    expect_code(to("always_copy").arg("--create"), 0);
    for words in [&["--data-only", "--truncate"][..], &["--data-only", "--into-existing", "--table", "public.t"]] {
        let (error, told) = expect_failure(to("always_copy").args(words), 2);
        assert!(error.contains("trigger \"tr g\" of public.t is ENABLE ALWAYS"), "{error}");
        assert!(told.contains("DISABLE TRIGGER \"tr g\"") && told.contains("nothing was changed"), "{told}");
    }
    let rows = "SELECT (SELECT count(*) FROM t) || ' ' || (SELECT count(*) FROM log)";
    assert_eq!(cluster.psql("always_copy", rows), "2 0");
    cluster.psql("always_copy", "ALTER TABLE t DISABLE TRIGGER \"tr g\"");
    expect_code(to("always_copy").args(["--data-only", "--truncate"]), 0);
    assert_eq!(cluster.psql("always_copy", rows), "2 0");

    // Large objects keep their numbers.
    cluster.psql("always", "DROP TRIGGER \"tr g\" ON t; SELECT lo_from_bytea(7, 'abc')");
    expect_code(&mut backup(cluster, "always", &store), 0);
    cluster.psql("always_copy", "INSERT INTO t VALUES (3); SELECT lo_from_bytea(7, 'old')");
    let (error, _) = expect_failure(to("always_copy").args(["--data-only", "--truncate"]), 2);
    assert!(error.contains("large objects"), "{error}");
    assert_eq!(cluster.psql("always_copy", rows), "3 0");
    expect_code(to("always_copy").args(["--data-only", "--truncate", "--schema", "public"]), 0);
    assert_eq!(cluster.psql("always_copy", rows), "2 0");

    // A variable that is not set must not lead to another database.
    for (command, option) in [("restore", "--to"), ("drill", "--on")] {
        let mut line = pgstow();
        line.args([command, option, ""]).arg("--store").arg(&store);
        let (error, _) = expect_failure(line.env("DATABASE_URL", cluster.url("always_copy")), 2);
        assert!(error.contains("empty"), "{error}");
    }

    // A finished run whose manifest is gone is damage, not a wrong name.
    let pointer: serde_json::Value =
        serde_json::from_slice(&std::fs::read(store.join("latest.json")).unwrap()).unwrap();
    let run = pointer["run"].as_str().unwrap();
    std::fs::remove_file(store.join("runs").join(run).join("manifest.json")).unwrap();
    let (error, _) = expect_failure(pgstow().args(["verify", "--store"]).arg(&store), 4);
    assert!(error.contains("manifest is gone"), "{error}");
}

#[test]
fn tables_come_after_those_they_inherit_from_or_are_partitions_of() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(15);
    cluster.create_database("families");
    cluster.psql(
        "families",
        "CREATE TABLE z (id integer, b text) PARTITION BY RANGE (id);
         CREATE TABLE a PARTITION OF z FOR VALUES FROM (0) TO (100); CREATE INDEX ON z (b); ALTER TABLE z ADD PRIMARY KEY (id);
         ALTER TABLE a ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON a USING (true); CREATE INDEX own ON a (id, b); INSERT INTO z SELECT g, g FROM generate_series(1, 10) g;
         CREATE TABLE parent (n integer); CREATE TABLE kid (m integer) INHERITS (parent); INSERT INTO kid VALUES (1, 2)",
    );
    expect_code(&mut backup(cluster, "families", &store), 0);
    let mut command = restore(cluster, &cluster.url("families_copy"), &store);
    let tables = ["public.a", "public.kid", "public.z", "public.parent"].map(|table| ["--table", table]).concat();
    let (_, log) = expect_code(command.arg("--create").args(tables), 0);
    assert!(log.contains("public.z is partitioned"), "{log}");
    judge::assert_same(
        &judge::dump_text(cluster, "families", &["-n", "public"]),
        &judge::dump_text(cluster, "families_copy", &["-n", "public"]),
    );
    // A partition that was lost, below a parent that has its indexes.
    cluster.psql("families_copy", "DROP TABLE a");
    let mut command = restore(cluster, &cluster.url("families_copy"), &store);
    expect_code(command.args(["--into-existing", "--table", "public.a"]), 0);
    judge::assert_same(
        &judge::dump_text(cluster, "families", &["-n", "public"]),
        &judge::dump_text(cluster, "families_copy", &["-n", "public"]),
    );
}
