//! A long way to the store: small objects of many schemas are under way together, as many as the round trip asks for and
//! the server takes. And a long way to the database: what is small is restored many at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::bucket::Bucket;
use crate::support::pg;
use crate::support::pg_proxy::{self, Event, PgProxy};
use crate::support::program::{self, expect_code};
use crate::support::proxy::{Fault, Proxy};

const SCHEMAS: usize = 20;
const TABLES: usize = 3;

fn newest() -> u32 {
    *pg::versions().last().unwrap()
}

fn database(name: &str) -> &'static pg::Cluster {
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    for schema in 0..SCHEMAS {
        let tables = (0..TABLES).map(|table| format!("CREATE TABLE s{schema}.t{table} AS SELECT {table} AS id;"));
        cluster.psql(name, &format!("CREATE SCHEMA s{schema}; {}", tables.collect::<String>()));
    }
    cluster
}

#[test]
fn small_objects_of_several_schemas_are_under_way_together() {
    let name = "distance together";
    let cluster = database(name);
    let bucket = Bucket::start();
    let proxy = bucket.runtime.block_on(Proxy::start(bucket.server.port, |_asked| None));
    proxy.moves_away(Duration::from_millis(200));
    let mut command = bucket.backup(cluster, name, "pre");
    let (stdout, _) = expect_code(command.args(["--s3-endpoint", &proxy.endpoint, "--json", "--timings"]), 0);
    let timings: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let sent = |kind: &str| -> u64 {
        let all = timings["timings"]["requests"].as_array().unwrap();
        all.iter().filter(|one| one["kind"] == kind).map(|one| one["requests"].as_u64().unwrap()).sum()
    };
    let log = proxy.log();
    let seen = |method: &str| log.iter().filter(|(asked, _)| asked.method == method).count() as u64;
    assert_eq!((sent("PUT object"), sent("HEAD object")), (seen("PUT"), seen("HEAD")), "{timings:#}");
    assert_eq!(sent("GET object") + sent("GET list") + sent("other"), seen("GET"), "{timings:#}");
    assert!(timings["timings"]["steps"].as_array().is_some_and(|steps| steps.len() == 3), "{timings:#}");
    // A schema has four objects: more than eight at once are of several, and more than a store nearby is sent.
    assert!(proxy.most_at_once("PUT") > 16, "{}", proxy.most_at_once("PUT"));
    let puts = proxy.log().into_iter().filter(|(asked, _)| asked.method == "PUT" && asked.target.contains("/s1"));
    assert!(puts.map(|(asked, _)| asked.time).all(|time| time == 1), "an object was sent twice");
    for (number, command) in ["verify", "download"].into_iter().enumerate() {
        let proxy = bucket.runtime.block_on(Proxy::start(bucket.server.port, |_asked| None));
        proxy.moves_away(Duration::from_millis(200));
        let folder = tempfile::tempdir().unwrap();
        let mut command = bucket.command("pre", &[command, "--jobs", "2", "--s3-endpoint", &proxy.endpoint]);
        if number == 1 {
            command.args(["--to", folder.path().to_str().unwrap()]);
        }
        expect_code(&mut command, 0);
        assert!(proxy.most_at_once("GET") > 16, "{}", proxy.most_at_once("GET"));
    }
    cluster.drop_database(name);
}

#[test]
fn a_server_that_asks_for_less_gets_less_and_the_run_is_whole() {
    let name = "distance throttled";
    let cluster = database(name);
    let bucket = Bucket::start();
    let (refused, most) = (Arc::new(AtomicUsize::new(0)), 12);
    let counted = Arc::clone(&refused);
    let proxy = bucket.runtime.block_on(Proxy::start(bucket.server.port, move |asked| {
        let is_first = asked.method == "PUT" && asked.target.contains("/s") && asked.time == 1;
        let again = is_first && counted.fetch_add(1, Ordering::SeqCst) < most;
        again.then_some(Fault::Answer(503, "SlowDown"))
    }));
    proxy.moves_away(Duration::from_millis(50));
    let mut command = bucket.backup(cluster, name, "pre");
    expect_code(command.args(["--s3-endpoint", &proxy.endpoint]), 0);
    assert!(refused.load(Ordering::SeqCst) >= most);
    expect_code(&mut bucket.command("pre", &["verify"]), 0);
    assert_eq!(proxy.faults(), most);
    cluster.drop_database(name);
}

/// Many small tables; of some of them another database refuses the index or the rows.
const MANY: &str = "
    CREATE FUNCTION is_home() RETURNS boolean LANGUAGE sql AS $$ SELECT current_database() = 'distance many' $$;
    CREATE FUNCTION at_home(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN IF NOT public.is_home() THEN RAISE EXCEPTION 'not at home'; END IF; RETURN $1; END $$;
    DO $do$ BEGIN FOR i IN 1..300 LOOP
        EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, no serial, b text)', i);
        EXECUTE format('INSERT INTO t%s SELECT g, g, repeat(%L, %s) FROM generate_series(1, 5) g', i, 'x', i);
    END LOOP; END $do$;
    CREATE INDEX away ON t70 (at_home(id)); CREATE INDEX also_away ON t270 (at_home(id));
    ALTER TABLE t150 ADD CONSTRAINT home CHECK (at_home(id) > 0); COMMENT ON TABLE t7 IS 'seven'; COMMENT ON TABLE t299 IS 'last'";

#[test]
fn many_small_tables_are_restored_in_few_requests_and_what_is_refused_is_known_by_name() {
    let (name, far) = ("distance many", "distance far");
    let cluster = pg::shared(newest());
    cluster.create_database(name);
    cluster.psql(name, MANY);
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    expect_code(&mut program::backup(cluster, name, &store), 0);

    let asked: Arc<[AtomicUsize; 5]> = Arc::default();
    let kinds = ["CREATE TABLE", "TRUNCATE", "PRIMARY KEY", "setval", "ANALYZE"];
    let (counted, sessions) = (Arc::clone(&asked), Arc::new(AtomicUsize::new(0)));
    let loading = Arc::clone(&sessions);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let proxy = runtime.block_on(PgProxy::start(cluster, move |_session, event| {
        if let Event::Asks(sql) = event {
            for (kind, count) in kinds.iter().zip(counted.iter()) {
                count.fetch_add(usize::from(sql.contains(kind)), Ordering::SeqCst);
            }
            loading.fetch_add(usize::from(sql.starts_with("SET synchronous_commit")), Ordering::SeqCst);
        }
        (event == Event::Begins).then_some(pg_proxy::Fault::Latency(Duration::from_millis(8)))
    }));
    let url = proxy.url(&cluster.url(far));
    let (stdout, _) = expect_code(program::restore(cluster, &url, &store).args(["--create", "--json"]), 3);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let lost = report["findings"]["not_restored"].as_array().unwrap();
    let mut names: Vec<&str> = lost.iter().map(|one| one["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["public.also_away", "public.away", "public.t150"], "{report:#}");
    let asked: Vec<usize> = asked.iter().map(|count| count.load(Ordering::SeqCst)).collect();
    assert!(asked.iter().all(|count| (1..60).contains(count)), "{kinds:?} {asked:?}");
    assert!(sessions.load(Ordering::SeqCst) > 6, "no further sessions came");

    let rows = (1..=300).filter(|table| *table != 150).map(|table| format!("SELECT {table}, id, no, b FROM t{table}"));
    let rows = rows.collect::<Vec<_>>().join(" UNION ALL ");
    let rows = format!("SELECT count(*) || md5(string_agg(x::text, ' ' ORDER BY x::text)) FROM ({rows}) x");
    assert_eq!(cluster.psql(far, &rows), cluster.psql(name, &rows));
    let things = "SELECT count(*) || ' ' || (SELECT count(*) FROM pg_constraint WHERE contype = 'p' AND conname ~ '^t')
                       || ' ' || (SELECT string_agg(description, ' ' ORDER BY description DESC) FROM pg_description WHERE objoid >= 16384)
                       || ' ' || (SELECT count(*) FROM pg_sequences)
                    FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND reltuples = 5";
    assert_eq!(cluster.psql(far, things), "299 300 seven last 300");
    assert_eq!(cluster.psql(far, "SELECT count(*) FROM t150"), "0");
    cluster.drop_database(name);
    cluster.drop_database(far);
}

#[test]
fn a_backup_begins_in_few_round_trips_to_its_database() {
    let name = "distance few";
    let cluster = database(name);
    let folder = tempfile::tempdir().unwrap();
    // Requests of the leader by the time at which they came.
    let asked: Arc<Mutex<Vec<(Instant, String)>>> = Arc::default();
    let noted = Arc::clone(&asked);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (one_way, mut pg_dump) = (Duration::from_millis(40), false);
    let proxy = runtime.block_on(PgProxy::start(cluster, move |session, event| {
        pg_dump |= session.application == "pgstow pg_dump";
        match event {
            Event::Begins => (session.application == "pgstow leader").then_some(pg_proxy::Fault::Latency(one_way)),
            Event::Asks(sql) => {
                if session.application == "pgstow leader" && !pg_dump {
                    noted.lock().unwrap().push((Instant::now(), sql.to_owned()));
                }
                None
            }
            _ => None,
        }
    }));
    let mut command = program::backup(cluster, name, &folder.path().join("store"));
    expect_code(command.args(["--database-url", &proxy.url(&cluster.url(name))]), 0);
    let asked = asked.lock().unwrap();
    // What is sent without waiting for an answer comes together; an answer takes a round trip.
    let waits = asked.windows(2).filter(|pair| pair[1].0 - pair[0].0 > one_way).count();
    assert!(asked.iter().any(|(_, sql)| sql.contains("pg_export_snapshot")), "{asked:#?}");
    assert!((4..24).contains(&waits), "{waits} round trips before pg_dump: {asked:#?}");
    cluster.drop_database(name);
}
