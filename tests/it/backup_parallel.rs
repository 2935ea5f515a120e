//! Parallel in fact: while rows are read, COPYs of several sessions are active, of one large table and of many small
//! ones. Measured from outside, by what the server shows in `pg_stat_activity`.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::pg::{self, Cluster};
use crate::support::program::{Going, Run, backup};
use crate::support::session::Talk;

/// What `pg_stat_activity` showed at 10 Hz.
#[derive(Debug, Default)]
struct Samples {
    /// Active COPYs of each sample from the first with one to the last with one.
    copies: Vec<u32>,
    /// The same with those that the server is through with.
    under_way: Vec<u32>,
    seconds: f64,
}

fn percent_with_three(samples: &[u32]) -> f64 {
    100.0 * samples.iter().filter(|copies| **copies >= 3).count() as f64 / samples.len() as f64
}

/// COPYs at work, then sessions that have a COPY under way on either side: what is left of its rows may still be on
/// its way to the program when the server is through with it.
const ACTIVE: &str = "SELECT count(*) FILTER (WHERE state = 'active'), count(*) FROM pg_stat_activity \
    WHERE datname = current_database() AND state <> 'idle' AND query LIKE 'COPY%' AND application_name LIKE 'pgstow reader%'";

fn watch(cluster: &Cluster, database: &str, store: &Path) -> Samples {
    let mut observer = Talk::open(cluster, database);
    let mut going = Going::start(backup(cluster, database, store).args(["--jobs", "4"]));
    let start = Instant::now();
    let mut seen = Vec::new();
    while going.runs() {
        let next = Instant::now() + Duration::from_millis(100);
        let answer = observer.run(ACTIVE);
        let (active, under_way) = answer.split_once('|').unwrap();
        seen.push((active.parse::<u32>().unwrap(), under_way.parse::<u32>().unwrap()));
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    going.expect_code(0);
    let first = seen.iter().position(|(copies, _)| *copies > 0).expect("some COPY was seen");
    let last = seen.iter().rposition(|(copies, _)| *copies > 0).expect("some COPY was seen");
    let (copies, under_way) = seen.drain(first..=last).unzip();
    Samples { copies, under_way, seconds: start.elapsed().as_secs_f64() }
}

#[test]
#[ignore = "a measurement, to be run alone: cargo test --test it -- --ignored --test-threads 1 backup_parallel"]
fn three_copies_of_four_are_active_while_rows_are_read() {
    // A server of its own: no other test's work is in the numbers.
    let cluster = Cluster::start_with(*pg::versions().last().unwrap(), &[("max_locks_per_transaction", "512")]);
    cluster.create_database("large");
    cluster.psql(
        "large",
        "CREATE TABLE large (id bigint, a text, b text);
         INSERT INTO large SELECT i, repeat(md5(i::text), 12), repeat(md5((-i)::text), 12) FROM generate_series(1, 1500000) i",
    );
    cluster.create_database("many");
    cluster.psql(
        "many",
        "SELECT format('CREATE TABLE t%s AS SELECT j AS id, md5((j * %s)::text) || repeat(''x'', 70) AS t FROM generate_series(1, 1900) j', i, i) \
         FROM generate_series(1, 2000) i \\gexec",
    );
    let mut told = Vec::new();
    for (database, tables) in [("large", 1), ("many", 2000)] {
        let store = tempfile::tempdir().expect("a temporary folder can be made");
        let samples = watch(&cluster, database, store.path());
        let run = Run::latest(store.path());
        assert_eq!(run.manifest["totals"]["tables"], tables);
        let percent = percent_with_three(&samples.copies);
        println!(
            "{database}: {percent:.0} % of {} samples with 3 or more active COPYs ({:.0} % under way), {:.1} s, {} bytes of text: {:?}",
            samples.copies.len(),
            percent_with_three(&samples.under_way),
            samples.seconds,
            run.manifest["totals"]["raw_bytes"],
            samples.copies
        );
        assert!(samples.copies.len() >= 10, "too quick to be measured");
        told.push((database, percent));
    }
    assert!(told.iter().all(|(_, percent)| *percent >= 80.0), "{told:?}");
}
