//! The wrong DELETE: rows of a run beside the live table, and back into it. PostgreSQL judges what came back, and that
//! nothing else changed.

use std::process::Command;

use serde_json::Value;

use crate::encryption::Key;
use crate::support::bucket::Bucket;
use crate::support::pg::{self, Cluster, quote};
use crate::support::process::succeed;
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

const SHOP: &str = r"
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
";
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

#[test]
pub(crate) fn one_row_of_a_large_table_costs_one_piece() {
    let (name, cluster) = ("rescue_pieces", pg::shared(15));
    cluster.create_database(name);
    cluster.psql(
        name,
        "CREATE TABLE large (t text, id bigint PRIMARY KEY, at timestamptz NOT NULL, random uuid, day date);
         INSERT INTO large SELECT repeat(md5(i::text), 22), i, '2026-01-01'::timestamptz + i * interval '1 second', md5(i::text)::uuid,
             CASE WHEN i = 5 THEN 'infinity' ELSE '2026-01-01'::date + i / 1000 END FROM generate_series(-20000, 110000) i",
    );
    let key = Key::make();
    let more = ["--compression", "none", "--encrypt", key.public.as_str(), "--max-object-size", "30MB"];
    let (_store, run) = run_of(cluster, name, &more);
    let index = run.folder.join(run.table("public", "large")["index"]["key"].as_str().unwrap());
    let opened = succeed(Command::new("age").arg("-d").arg("-i").arg(&key.file).arg(&index));
    let index: Value = serde_json::from_str(&opened).unwrap();
    let columns: Vec<&str> =
        index["columns"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["id", "at", "day"], "the uuid is no key");
    // What each piece says is what PostgreSQL says of these rows, in their order on disk.
    let (mut first, mut odd) = (0, 0);
    let pieces = index["pieces"].as_array().unwrap();
    for piece in pieces {
        let rows = piece["rows"].as_u64().unwrap();
        let sql = format!("SELECT json_build_array(min(id)::text, max(id)::text) || '|' || json_build_array(min(at)::text, max(at)::text)
            || '|' || CASE WHEN max(day) = 'infinity' THEN 'null' ELSE json_build_array(min(day)::text, max(day)::text)::text END
            FROM (SELECT * FROM large ORDER BY ctid OFFSET {first} LIMIT {rows}) x");
        let expected = cluster.psql(name, &format!("SET TimeZone = 'UTC'; {sql}"));
        let expected: Vec<Value> = expected.split('|').map(|text| serde_json::from_str(text).unwrap()).collect();
        assert_eq!(piece["ranges"], Value::from(expected));
        odd += usize::from(piece["ranges"][2].is_null());
        first += rows;
    }
    assert!(pieces.len() > 5 && odd == 1 && first == 130_001, "{} pieces", pieces.len());

    let with_key = |words: &[&str]| {
        let mut command = rescue(&run, cluster, name, "public.large", words);
        command.arg("--identity").arg(&key.file);
        command
    };
    let state = "SELECT count(*) || md5(string_agg(l::text, ',' ORDER BY id)) FROM large l";
    let before = cluster.psql(name, state);
    cluster.psql(name, "DELETE FROM large WHERE id IN (-77, 60000, 60001)");
    let all = pieces.len();
    for (condition, missing, read, extra) in [
        ("id = 60000", 1, 1, true),
        ("id = '-77' AND t LIKE '%'", 1, 1, true),
        ("id IN (-77, 60000)", 2, 2, true),
        ("id >= 109999", 0, 1, true),
        ("at = '2026-01-01 16:40:01'", 1, 1, false),
        ("day BETWEEN '2026-03-02' AND '2026-03-03'", 2, 2, false),
        ("id + 0 = 60000", 1, all, true),
        ("id = 60000 OR id = -77", 2, all, true),
        ("id = 7000000", 0, 1, true),
    ] {
        let found = report(&mut with_key(&["--where", condition]));
        assert_eq!(found["missing"]["count"], missing, "{condition}: {found}");
        assert_eq!(found["extra"].is_null(), !extra, "{condition}: {found}");
        let pieces = found["pieces"].as_str().map_or(all, |text| text.split(' ').next().unwrap().parse().unwrap());
        assert!(pieces == read || (read == 2 && pieces <= 3), "{condition}: {found}");
        let bytes = found["read_bytes"].as_u64().unwrap();
        assert!(pieces == all || bytes < (pieces as u64) * (20 << 20), "{condition}: {bytes}");
    }
    // The other pieces are not even looked at.
    let object = run.table("public", "large")["file"]["volumes"][0]["key"].as_str().unwrap();
    let mut bytes = std::fs::read(run.folder.join(object)).unwrap();
    bytes[20_000_000] ^= 1;
    std::fs::write(run.folder.join(object), bytes).unwrap();
    let mut peek = pgstow();
    peek.args(["peek", "public.large", "--where-key", "id=+60000", "--csv", "--limit", "1", "--store"]).arg(&run.store);
    let (rows, log) = expect_code(peek.arg("--identity").arg(&key.file), 0);
    assert!(rows.contains(",60000,2026-01-01 16:40:00+00,") && log.contains("pieces can hold"), "{rows}{log}");
    let done = report(&mut with_key(&["--where", "id > 50000 AND id < 70000", "--apply", "missing"]));
    assert_eq!(done["applied"]["inserted"]["public.large"], 2, "{done}");
    report(&mut with_key(&["--where", "id = 60001"]));
    expect_failure(&mut with_key(&[]), 1);
    cluster.psql(
        name,
        "INSERT INTO large SELECT repeat(md5(i::text), 22), i, '2026-01-01'::timestamptz + i * interval '1 second',
        md5(i::text)::uuid, '2026-01-01'::date + i / 1000 FROM generate_series(-77, -77) i",
    );
    assert_eq!(cluster.psql(name, state), before);
}
