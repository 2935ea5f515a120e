//! The wrong DELETE: rows of a run beside the live table, and back into it. PostgreSQL judges what came back, and that
//! nothing else changed.

use std::process::Command;

use serde_json::Value;

use crate::encryption::Key;
use crate::support::bucket::Bucket;
use crate::support::pg::{self, Cluster, quote};
use crate::support::program::{Run, awkward, backup, expect_code, expect_failure, pgstow};
use crate::support::session::until;

fn rescue(run: &Run, cluster: &Cluster, database: &str, table: &str, words: &[&str]) -> Command {
    let mut command = pgstow();
    command.args(["rescue", "--table", table, "--to", &cluster.url(database)]).args(words);
    command.arg("--store").arg(&run.store);
    command
}

#[track_caller]
fn report(command: &mut Command) -> Value {
    let out = expect_code(command.arg("--json"), 0).0;
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

fn counts(report: &Value) -> (u64, u64, u64) {
    let count = |kind: &str| report[kind]["count"].as_u64().unwrap_or_else(|| panic!("{report}"));
    (count("missing"), count("changed"), count("extra"))
}

/// A store with one run of that database.
fn run_of(cluster: &Cluster, database: &str, more: &[&str]) -> (tempfile::TempDir, Run) {
    let store = tempfile::tempdir().unwrap();
    expect_code(backup(cluster, database, store.path()).args(more), 0);
    let run = Run::latest(store.path());
    (store, run)
}

/// What a rescue leaves in a database when it leaves something.
fn leftovers(cluster: &Cluster, database: &str) -> String {
    cluster.psql(
        database,
        "SELECT string_agg(nspname || '.' || relname, ' ') FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE relname ~ 'pgstow' OR nspname ~ 'pgstow'",
    )
}

const SHOP: &str = r#"
    CREATE TABLE countries (code text PRIMARY KEY);
    CREATE TABLE customers (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, country text REFERENCES countries,
        name text NOT NULL, boss integer REFERENCES customers);
    CREATE TABLE orders (id serial PRIMARY KEY, customer integer NOT NULL REFERENCES customers ON DELETE CASCADE,
        cents integer, euros numeric GENERATED ALWAYS AS (cents / 100.0) STORED, touched text DEFAULT 'no', gone text);
    INSERT INTO countries VALUES ('at'), ('de');
    INSERT INTO customers (country, name, boss) SELECT 'de', 'c' || i, nullif(i - 1, 0) FROM generate_series(1, 20) i;
    INSERT INTO orders (customer, cents, gone) SELECT 1 + i % 20, i, 'g' || i FROM generate_series(1, 1000) i;
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.touched := 'yes'; RETURN NEW; END $$;
    CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch();
"#;
const STATE: &str = "SELECT md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o";
const FRIENDS: &str = "SELECT md5(string_agg(c::text, ',' ORDER BY id)) FROM customers c";

#[test]
pub(crate) fn rows_of_a_wrong_delete_come_back_with_what_they_refer_to_and_nothing_else_changes() {
    let (name, cluster) = ("rescue shop", pg::shared(15));
    cluster.create_database(name);
    cluster.psql(name, SHOP);
    let psql = |sql: &str| cluster.psql(name, sql);
    let (_store, run) = run_of(cluster, name, &[]);
    let before = (psql(STATE), psql(FRIENDS));
    let orders = |words: &[&str]| rescue(&run, cluster, name, "public.orders", words);
    assert_eq!(counts(&report(&mut orders(&[]))), (0, 0, 0));

    // The wrong DELETE, with all that hangs on it; a wrong UPDATE; new rows that stay.
    psql("DELETE FROM customers WHERE id > 18; UPDATE orders SET cents = 0 WHERE id IN (5, 6); DELETE FROM countries WHERE code = 'at';
        INSERT INTO orders (id, customer, cents) VALUES (5000, 1, 7)");
    let wrong = psql(STATE);
    let found = report(&mut orders(&["--limit", "3"]));
    assert_eq!(counts(&found), (100, 2, 1), "{found}");
    assert_eq!(found["missing"]["rows"].as_array().unwrap().len(), 3);
    assert_eq!(found["missing"]["rows"][0]["id"], 18);
    assert_eq!(found["extra"]["rows"][0]["id"], 5000);
    let change = &found["changed"]["rows"][0];
    assert_eq!(
        (&change["key"]["id"], &change["columns"]["cents"]["run"], &change["columns"]["cents"]["live"]),
        (&5.into(), &5.into(), &0.into())
    );
    assert!(change["columns"]["euros"].is_null() && found["applied"].is_null(), "{change}");
    assert_eq!(found["referenced"][0]["table"], "public.customers");
    assert_eq!(found["referenced"][0]["brought"], false);
    let chosen = report(&mut orders(&[
        "--where",
        "customer = 19 AND id IN (SELECT id FROM generate_series(1, 500) id) -- it's",
    ]));
    assert_eq!((counts(&chosen), &chosen["chosen"]), ((25, 0, 0), &25.into()), "{chosen}");
    for wrong in ["cents = 'x'", "true; DROP TABLE orders", "nothing = 1"] {
        let (error, _) = expect_failure(&mut orders(&["--where", wrong]), 2);
        assert!(error.contains("--where"), "{error}");
    }
    // Without what they refer to they cannot come; nothing is changed then, nor by a rehearsal.
    let (error, all) = expect_failure(&mut orders(&["--apply", "missing"]), 1);
    assert!(
        error.contains("23503") && all.contains("--with-referenced") && all.contains("nothing was changed"),
        "{all}"
    );
    let tried = report(&mut orders(&["--apply", "both", "--with-referenced", "--triggers", "off", "--dry-run"]));
    assert_eq!((&tried["applied"]["rolled_back"], &tried["applied"]["updated"]), (&true.into(), &2.into()));
    assert_eq!(psql(STATE), wrong);
    // A customer refers to the one before, in the same table.
    psql("SELECT setval('orders_id_seq', 7); SELECT setval('customers_id_seq', 3)");
    let done = report(&mut orders(&["--apply", "both", "--with-referenced", "--triggers", "off"]));
    assert_eq!(done["applied"]["inserted"], serde_json::json!({"public.customers": 2, "public.orders": 100}), "{done}");
    assert_eq!((&done["applied"]["updated"], &done["applied"]["triggers_off"]), (&2.into(), &1.into()));
    psql("DELETE FROM orders WHERE id = 5000");
    assert_eq!((psql(STATE), psql(FRIENDS)), before);
    assert_eq!(psql("SELECT last_value FROM orders_id_seq; SELECT last_value FROM customers_id_seq"), "1000\n20");
    assert_eq!(psql("SELECT tgenabled FROM pg_trigger WHERE tgname = 'touch'"), "O");
    psql("SELECT setval('orders_id_seq', 9999)");
    // A trigger that fires is said to have changed what came back.
    psql("UPDATE orders SET cents = 1 WHERE id = 9; DELETE FROM orders WHERE id = 10");
    let done = report(&mut orders(&["--apply", "both"]));
    assert_eq!(done["applied"]["still_different"], 2, "{done}");
    assert_eq!(psql("SELECT string_agg(id || touched, ' ' ORDER BY id) FROM orders WHERE id IN (9, 10)"), "9yes 10yes");
    assert_eq!(psql("SELECT last_value FROM orders_id_seq"), "9999");
    assert_eq!(leftovers(cluster, name), "");
    columns_that_came_and_went(cluster, name, &run);
}

/// The live table lost a column, and has one more; a label of a type is another one.
fn columns_that_came_and_went(cluster: &Cluster, name: &str, run: &Run) {
    let psql = |sql: &str| cluster.psql(name, sql);
    psql(
        "ALTER TABLE orders DROP COLUMN gone, ADD COLUMN fresh text NOT NULL DEFAULT 'new'; DELETE FROM orders WHERE id = 77",
    );
    let orders = |words: &[&str]| rescue(run, cluster, name, "public.orders", words);
    let found = report(&mut orders(&["--where", "gone = 'g77'", "--apply", "missing", "--triggers", "off"]));
    let notes = found["notes"].to_string();
    assert!(notes.contains("no longer has it: gone") && notes.contains("default: fresh"), "{notes}");
    assert_eq!(
        psql("SELECT cents || touched || fresh || euros FROM orders WHERE id = 77"),
        "77nonew0.77000000000000000000"
    );
    psql(
        "CREATE TYPE size AS ENUM ('small'); ALTER TABLE orders ALTER COLUMN touched DROP DEFAULT;
        ALTER TABLE orders ALTER COLUMN touched TYPE size USING 'small'",
    );
    let (error, all) = expect_failure(&mut orders(&["--apply", "missing"]), 1);
    assert!(error.contains("22P02") && all.contains("column touched") && all.contains("pgstow peek"), "{all}");
    psql("CREATE TABLE no_key (a integer); INSERT INTO no_key VALUES (1), (1), (2)");
    let (store, late) = run_of(cluster, name, &[]);
    let (_, all) = expect_failure(&mut rescue(&late, cluster, name, "public.no_key", &[]), 2);
    assert!(all.contains("--key"), "{all}");
    let (error, _) = expect_failure(&mut rescue(&late, cluster, name, "public.no_key", &["--key", "a"]), 2);
    assert!(error.contains("1 values stand more than once"), "{error}");
    psql("DROP TABLE no_key");
    let (_, all) = expect_failure(&mut rescue(&late, cluster, name, "public.no_key", &["--key", "a"]), 2);
    assert!(all.contains("restore --table"), "{all}");
    drop(store);
}

#[test]
pub(crate) fn every_type_comes_back_as_postgresql_wrote_it() {
    let version = *pg::versions().last().unwrap();
    let source = awkward(version);
    let (name, cluster) = ("rescue_types", pg::shared(version));
    cluster.psql_file("postgres", &pg::fixture("awkward_roles.sql"), &[]);
    cluster.create_database(name);
    let mut restore = pgstow();
    restore.args(["restore", "--to", &cluster.url(name), "--store"]).arg(&source.run.store);
    expect_code(restore.arg("--pg-bin-dir").arg(cluster.bin_dir()), 0);
    cluster.psql(name, "SELECT format('DROP PUBLICATION %I', pubname) FROM pg_publication \\gexec");
    let dump = |table: &str| {
        cluster.psql(name, &format!("SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) || count(*) FROM {table} t"))
    };
    let mut tried = 0;
    for (table, key) in [
        ("kinds.values_of_all_kinds", ""),
        ("kinds.big", ""),
        ("kinds.by_default", "id"),
        ("kinds.generated", "a"),
        ("kinds.dropped_middle", "a"),
        ("parts.by_range", "id,at"),
        ("parts.by_list", "kind,id"),
        ("parts.r_attached", "id"),
        ("kinds.unlogged", ""),
    ] {
        let before = dump(table);
        let schema_and_name: Vec<String> = table.split('.').map(quote).collect();
        cluster
            .psql(name, &format!("SET session_replication_role = replica; DELETE FROM {}", schema_and_name.join(".")));
        let mut words = vec!["--apply", "missing", "--triggers", "off"];
        if !key.is_empty() {
            words.extend(["--key", key]);
        }
        let out = pgstow_output(&mut rescue(&source.run, cluster, name, table, &words));
        // NULL in a key tells nothing apart.
        if table == "parts.by_list" {
            assert!(out.contains("rows hold NULL there"), "{out}");
            continue;
        }
        assert!(out.contains("Committed."), "{table}: {out}");
        assert_eq!(dump(table), before, "{table}");
        tried += 1;
        // Every value alike: nothing differs.
        let words: Vec<&str> = if key.is_empty() { Vec::new() } else { vec!["--key", key] };
        let again = report_raw(&mut rescue(&source.run, cluster, name, table, &words));
        assert!(
            again.contains("\"missing\": {\"count\": 0") && again.contains("\"changed\": {\"count\": 0"),
            "{again}"
        );
    }
    assert_eq!(tried, 8);
}

fn pgstow_output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The document as text: the fixture has numbers that no double holds.
fn report_raw(command: &mut Command) -> String {
    expect_code(command.arg("--json"), 0).0
}

#[test]
pub(crate) fn an_owner_without_superuser_rescues_and_nobody_else_sees_the_rows() {
    let (name, cluster) = ("rescue_owner", pg::shared(15));
    cluster.create_database(name);
    cluster.psql(
        name,
        "CREATE ROLE shop_owner LOGIN PASSWORD 'o'; CREATE ROLE nosy LOGIN PASSWORD 'n';
         CREATE SCHEMA shop AUTHORIZATION shop_owner; SET ROLE shop_owner;
         ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO nosy;
         CREATE TABLE shop.secrets (id integer PRIMARY KEY, t text);
         REVOKE ALL ON shop.secrets FROM nosy; ALTER TABLE shop.secrets ENABLE ROW LEVEL SECURITY;
         INSERT INTO shop.secrets SELECT i, 'secret ' || i FROM generate_series(1, 200000) i",
    );
    let (bucket, key) = (Bucket::start(), Key::make());
    expect_code(bucket.backup(cluster, name, "pre").args(["--encrypt", &key.public]), 0);
    let rescue = |words: &[&str]| {
        let mut command = bucket
            .command("pre", &["rescue", "--table", "shop.secrets", "--to", &cluster.url_as("shop_owner", "o", name)]);
        command.args(words).arg("--identity").arg(&key.file);
        command
    };
    let wrong = "DELETE FROM shop.secrets WHERE id % 2 = 0";
    cluster.psql(name, wrong);
    let state = "SELECT count(*) || md5(string_agg(t, ',' ORDER BY id)) FROM shop.secrets";
    let before = cluster.psql(name, state);
    // Killed while it works: the table is as it was, and nothing is left.
    for moment in ["CREATE TEMP", "COPY pg_temp", "INSERT INTO"] {
        cluster.psql(name, wrong);
        let mut child = rescue(&["--apply", "missing"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut ended = false;
        until("the rescue is at work", || {
            ended = child.try_wait().unwrap().is_some();
            let at = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgstow rescue' AND query LIKE '{moment}%'"
            );
            ended || cluster.psql(name, &at) != "0"
        });
        let nosy = "SELECT count(*) FROM pg_class c WHERE relname LIKE 'pgstow_rescue%'
            AND (has_table_privilege('nosy', c.oid, 'SELECT') AND has_schema_privilege('nosy', relnamespace, 'USAGE'))";
        assert_eq!(cluster.psql(name, nosy), "0");
        child.kill().unwrap();
        child.wait().unwrap();
        until("its session is gone", || {
            cluster.psql(name, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgstow rescue'") == "0"
        });
        assert_eq!(leftovers(cluster, name), "", "{moment}");
        if !ended {
            assert_eq!(cluster.psql(name, state), before, "{moment}");
        }
    }
    cluster.psql(name, wrong);
    let done = report(&mut rescue(&["--apply", "missing", "--limit", "0"]));
    assert_eq!(done["applied"]["inserted"]["shop.secrets"], 100_000, "{done}");
    assert_eq!(cluster.psql(name, "SELECT count(*) FROM shop.secrets WHERE t = 'secret ' || id"), "200000");
    assert_eq!(leftovers(cluster, name), "");
}
