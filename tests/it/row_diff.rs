//! `diff --rows`: the rows that two runs do not share. PostgreSQL says what they are.

use serde_json::Value;

use crate::support::pg;
use crate::support::program::{Run, backup, expect_code, expect_failure, pgstow};

#[test]
pub(crate) fn rows_that_differ_between_two_runs_are_those_that_postgresql_finds() {
    let (name, cluster) = ("row_diff", pg::shared(15));
    cluster.create_database(name);
    let psql = |sql: &str| cluster.psql(name, sql);
    psql(
        "CREATE TABLE t (a integer, \"b b\" text, v text, n numeric, PRIMARY KEY (\"b b\", a));
         INSERT INTO t SELECT i, CASE WHEN i % 7 = 0 THEN E'tab\\t\\\\n' ELSE 'x' END, repeat('v' || i, 20), i / 3.0 FROM generate_series(1, 20000) i;
         CREATE TABLE bag (v text); INSERT INTO bag VALUES ('one'), ('two'), ('two'), (NULL);
         CREATE TABLE p (id integer PRIMARY KEY, v text) PARTITION BY HASH (id);
         CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE p1 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO p SELECT i, 'p' FROM generate_series(1, 100) i;
         CREATE TABLE same (id integer PRIMARY KEY); INSERT INTO same SELECT generate_series(1, 10)",
    );
    let store = tempfile::tempdir().unwrap();
    expect_code(&mut backup(cluster, name, store.path()), 0);
    let a = Run::latest(store.path()).name;
    psql("CREATE TABLE old AS TABLE t; ALTER TABLE old SET SCHEMA public; DELETE FROM t WHERE a % 1000 = 1; UPDATE t SET v = 'new', n = NULL WHERE a % 500 = 2;
        INSERT INTO t SELECT i, 'y', 'z' FROM generate_series(1, 30) i; ALTER TABLE t DROP COLUMN n, ADD COLUMN fresh text DEFAULT 'f';
        DELETE FROM bag WHERE v IS NULL; INSERT INTO bag VALUES ('two'), ('three'); UPDATE p SET v = 'q' WHERE id = 50; DELETE FROM p WHERE id = 7");
    expect_code(&mut backup(cluster, name, store.path()), 0);
    let b = Run::latest(store.path()).name;
    let diff = |table: &str, more: &[&str]| {
        let mut command = pgstow();
        command.args(["diff", &a, &b, "--rows", table]).args(more).arg("--store").arg(store.path());
        command
    };
    let documents = |table: &str, more: &[&str]| -> (Vec<Value>, Value) {
        let (out, _) = expect_code(diff(table, more).arg("--json"), 0);
        let mut all: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let counts = all.pop().unwrap();
        (all, counts)
    };
    let expected = psql(
        "SELECT count(*) FILTER (WHERE old.a IS NULL) || ' ' || count(*) FILTER (WHERE t.a IS NULL) || ' ' || count(*) FILTER (WHERE t.v IS DISTINCT FROM old.v AND t.a IS NOT NULL AND old.a IS NOT NULL)
           FROM t FULL JOIN old ON t.a = old.a AND t.\"b b\" = old.\"b b\"",
    );
    // Little room is several turns, and the same answer.
    for more in [vec![], vec!["--memory", "2500"], vec!["--key", "a,b b"]] {
        let (rows, counts) = documents("public.t", &more);
        let said = format!("{} {} {}", counts["added"], counts["removed"], counts["changed"]);
        assert_eq!(said, expected, "{more:?}: {counts}");
        assert!(
            counts["not_compared"].to_string().contains("fresh") && counts["same"].as_u64() > Some(19_000),
            "{counts}"
        );
        assert_eq!(rows.len(), 30 + 20 + 40);
        let mut changed: Vec<u64> =
            rows.iter().filter(|row| row["change"] == "changed").map(|row| row["b"]["a"].as_u64().unwrap()).collect();
        changed.sort_unstable();
        assert_eq!(changed[..3], [2, 502, 1002]);
        assert!(rows.iter().any(|row| row["a"]["b b"] == "tab\t\\n"), "{rows:?}");
    }
    let (_, counts) = documents("public.bag", &[]);
    assert_eq!(
        (&counts["added"], &counts["removed"], &counts["changed"], &counts["same"]),
        (&2.into(), &1.into(), &0.into(), &3.into())
    );
    let (text, _) = expect_code(&mut diff("public.p", &[]), 0);
    assert!(
        text.contains("~ id=50: v=p -> v=q")
            && text.contains("- id=7 v=p")
            && text.contains("0 added, 1 removed, 1 changed, 98 the same"),
        "{text}"
    );
    let (text, _) = expect_code(&mut diff("public.same", &[]), 0);
    assert!(text.contains("0 added, 0 removed, 0 changed, 10 the same"), "{text}");
    let (_, all) = expect_failure(&mut diff("public.t", &["--memory", "1"]), 2);
    assert!(all.contains("--memory"), "{all}");
    expect_failure(&mut diff("public.t", &["--key", "nothing"]), 2);
    expect_failure(&mut diff("public.nothing", &[]), 2);
}
