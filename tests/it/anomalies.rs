//! What is odd about a run beside the one before, and what is held because of it.

use serde_json::Value;

use super::support::pg;
use super::support::program::{Run, backup, expect_code, pgstow};

#[test]
pub(crate) fn what_vanished_or_shrank_is_said_and_held_until_somebody_promotes() {
    let cluster = pg::shared(pg::packaged());
    cluster.create_database("odd");
    cluster.psql(
        "odd",
        "CREATE SCHEMA gone; CREATE TABLE gone.t AS SELECT 1 n; CREATE TABLE dropped AS SELECT generate_series(1, 7) n;
         CREATE TABLE shrinks AS SELECT generate_series(1, 5000) n; CREATE TABLE grows AS SELECT generate_series(1, 2000) n;
         CREATE TABLE small AS SELECT generate_series(1, 500) n;",
    );
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path();
    let saved = |words: &[&str]| -> Value {
        let (out, err) = expect_code(backup(cluster, "odd", store).args(words).arg("--json"), 0);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"))
    };
    let odd = |document: &Value| -> Vec<String> {
        let all = document["anomalies"].as_array().cloned().unwrap_or_default();
        let place =
            |one: &Value| format!("{}.{}", one["schema"].as_str().unwrap_or("-"), one["table"].as_str().unwrap_or("-"));
        all.iter().map(|one| format!("{} {}", one["kind"].as_str().unwrap(), place(one))).collect()
    };
    let prune = |dry: bool| {
        let mut command = pgstow();
        command.args(["prune", "--keep-last", "1", "--json", "--store"]).arg(store);
        if dry {
            command.arg("--dry-run");
        }
        serde_json::from_str::<Value>(&expect_code(&mut command, 0).0).unwrap()
    };
    assert!(odd(&saved(&[])).is_empty());
    let calm = saved(&["--note", "calm"]);
    assert!(odd(&calm).is_empty(), "{calm}");
    assert_eq!(prune(true)["deleted_runs"], 1);

    cluster.psql(
        "odd",
        "DROP SCHEMA gone CASCADE; DROP TABLE dropped; DELETE FROM shrinks WHERE n > 2000; TRUNCATE small;
         INSERT INTO grows SELECT generate_series(1, 9000);",
    );
    // The sum of all rows rose; each limit counts by itself.
    let held = saved(&["--max-shrink", "50%", "--max-growth", "200%", "--hold-on-anomaly"]);
    let expected = [
        "schema-vanished gone.-",
        "table-vanished public.dropped",
        "rows-rose public.grows",
        "rows-fell public.shrinks",
    ];
    let mut found = odd(&held);
    found.sort();
    let mut wanted = expected.map(str::to_owned);
    wanted.sort();
    assert_eq!(found, wanted, "{held}");
    assert_eq!((&held["held"], &held["latest"], &held["status"]), (&true.into(), &false.into(), &"complete".into()));
    assert_eq!(Run::latest(store).name, calm["run"].as_str().unwrap());
    let (text, _) = expect_code(backup(cluster, "odd", store).arg("--hold-on-anomaly"), 0);
    assert!(text.contains("Anomalies") && text.contains("table public.shrinks: rows fell from 5000 to 2000"), "{text}");

    // Nothing is deleted while it is held.
    let pruned = prune(false);
    assert_eq!(pruned["deleted_runs"], 0, "{pruned}");
    assert!(pruned["notes"][0].as_str().unwrap().contains("held"), "{pruned}");
    let newest = prune(true)["runs"][0]["run"].as_str().unwrap().to_owned();
    expect_code(pgstow().args(["promote", &newest, "--store"]).arg(store), 0);
    assert_eq!(prune(false)["deleted_runs"], 3);
    assert!(odd(&saved(&["--hold-on-anomaly"])).is_empty());
    let listed = expect_code(pgstow().args(["list", "--store"]).arg(store), 0).0;
    assert!(listed.lines().count() > 2, "{listed}");
}
