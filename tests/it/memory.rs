//! How much memory a backup takes where rows are large, watched from outside: the most that was ever resident
//! (`VmHWM`). The promise is 256 MiB and 2.5 times the largest row with 4 jobs, however many such rows there are.

use std::fs;
use std::time::Duration;

use crate::support::bucket::Bucket;
use crate::support::pg;
use crate::support::program::{Going, Run, backup, expect_code, pgstow};

const MIB: u64 = 1 << 20;

/// Runs to the end and returns the most memory that was resident, in MiB.
#[track_caller]
fn peak(command: &mut std::process::Command) -> u64 {
    let mut going = Going::start(command);
    let status = format!("/proc/{}/status", going.pid());
    let mut most = 0;
    while going.runs() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: Option<u64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
        most = most.max(kib.unwrap_or(0) / 1024);
        std::thread::sleep(Duration::from_millis(5));
    }
    going.expect_code(0);
    most
}

/// Rows that every reader met at once were in memory four to twelve times.
#[test]
fn giant_rows_are_in_memory_once_whatever_the_number_of_jobs() {
    let name = "memory giant";
    let cluster = pg::shared(*pg::versions().last().unwrap());
    cluster.create_database(name);
    let row = 32 * MIB;
    // Stored small, read large.
    cluster.psql(
        name,
        &format!(
            "SELECT format('CREATE TABLE t%s AS SELECT i, repeat(md5((i * %s)::text), {}) AS t FROM generate_series(1, 3) i', n, n)
               FROM generate_series(1, 4) n \\gexec",
            row / 32
        ),
    );
    let bucket = Bucket::start();
    for (compression, far) in [("none", false), ("zstd:1", false), ("none", true)] {
        let store = tempfile::tempdir().unwrap();
        let mut command = if far { bucket.backup(cluster, name, "pre") } else { backup(cluster, name, store.path()) };
        let most = peak(command.args(["--jobs", "4", "--compression", compression]));
        // A process of its own takes some 30 MiB; an S3 store has up to 32 MiB of parts under way, and two that are filled.
        let limit = if far { 256 } else { 100 + 5 * row / MIB / 2 };
        assert!(most > 40 && most < limit, "{most} MiB with {compression}, far: {far}");
        if !far {
            assert_eq!(Run::latest(store.path()).table("public", "t4")["rows"], 3);
            expect_code(pgstow().arg("verify").arg("--store").arg(store.path()), 0);
        }
    }
    cluster.drop_database(name);
}

/// A compressor of a high level takes as much as many rows.
#[test]
fn compressors_of_high_levels_are_within_the_promise() {
    let name = "memory levels";
    let cluster = pg::shared(*pg::versions().last().unwrap());
    cluster.create_database(name);
    cluster.psql(
        name,
        "SELECT format('CREATE TABLE t%s AS SELECT i, repeat(md5(i::text), 200) || repeat(''x'', 8388608) AS t
             FROM generate_series(1, 2) i', n) FROM generate_series(1, 6) n \\gexec",
    );
    for compression in ["zstd:19", "none"] {
        let store = tempfile::tempdir().unwrap();
        let most = peak(backup(cluster, name, store.path()).args(["--jobs", "4", "--compression", compression]));
        assert!(most < 256 + 20, "{most} MiB with {compression}");
        assert_eq!(Run::latest(store.path()).table("public", "t6")["rows"], 2);
    }
    cluster.drop_database(name);
}
