//! A long way to the store: small objects of many schemas are under way together, as many as the round trip asks for and
//! the server takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::bucket::Bucket;
use crate::support::pg;
use crate::support::program::expect_code;
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
    expect_code(command.args(["--s3-endpoint", &proxy.endpoint]), 0);
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
