//! The forget list: what had to be erased since a run was made does not come back, nor what hangs on it. The judge is
//! PostgreSQL: the same rows are erased by hand in a database that was restored without the list.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::bucket::Bucket;
use crate::support::pg::{self, Cluster};
use crate::support::process::succeed;
use crate::support::program::{Run, backup, expect_code, expect_failure, pgstow, restore};
use crate::support::session::{Talk, until};

/// People, and what hangs on them by every kind of foreign key.
const PEOPLE: &str = r#"
    CREATE TABLE users (id uuid PRIMARY KEY, email varchar(40) UNIQUE, name text);
    INSERT INTO users SELECT md5(i::text)::uuid, 'u' || i || '@x', 'n' || i FROM generate_series(1, 50) i;
    CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'nobody erases'; END $$;
    CREATE TRIGGER never BEFORE DELETE OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION never();
    CREATE TABLE profiles (owner uuid PRIMARY KEY REFERENCES users ON DELETE RESTRICT, t text);
    INSERT INTO profiles SELECT id, 'p' FROM users;
    CREATE TABLE posts (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, author uuid REFERENCES users DEFERRABLE INITIALLY DEFERRED);
    INSERT INTO posts (author) SELECT nullif(md5((1 + i % 60)::text), md5('60'))::uuid FROM generate_series(0, 299) i
        WHERE i % 60 < 50 OR i % 60 = 59;
    CREATE TABLE comments (id integer PRIMARY KEY, post bigint REFERENCES posts ON DELETE CASCADE, parent integer REFERENCES comments);
    INSERT INTO comments SELECT i, 1 + i % 200, CASE WHEN i > 7 THEN i - 7 END FROM generate_series(1, 400) i;
    ALTER TABLE comments ENABLE ROW LEVEL SECURITY;
    CREATE SCHEMA "Odd s";
    CREATE TABLE "Odd s"."Or""dèr" ("Kéy" text COLLATE "C", n smallint, email varchar REFERENCES users (email) ON DELETE SET DEFAULT,
        PRIMARY KEY ("Kéy", n));
    INSERT INTO "Odd s"."Or""dèr" SELECT 'k''' || i % 5, i, 'u' || 1 + i % 50 || '@x' FROM generate_series(1, 100) i;
    CREATE TABLE "Odd s".lines (id integer PRIMARY KEY, k text, n smallint, FOREIGN KEY (k, n) REFERENCES "Odd s"."Or""dèr" MATCH FULL);
    INSERT INTO "Odd s".lines SELECT row_number() OVER (), "Kéy", n FROM "Odd s"."Or""dèr", generate_series(1, 2);
    CREATE TABLE audit (id integer PRIMARY KEY, reviewer uuid REFERENCES users ON DELETE SET NULL,
        cause uuid NOT NULL REFERENCES users ON DELETE SET NULL);
    INSERT INTO audit SELECT i, md5((1 + i % 50)::text)::uuid, md5((1 + i % 49)::text)::uuid FROM generate_series(1, 200) i;
    CREATE TABLE events (id integer, at timestamptz, who uuid REFERENCES users ON DELETE CASCADE, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE events_old PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE events_new PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY HASH (id);
    CREATE TABLE events_a PARTITION OF events_new FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE events_b PARTITION OF events_new FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    INSERT INTO events SELECT i, '2025-06-01 00:00+00'::timestamptz + i * interval '1 day', md5((1 + i % 50)::text)::uuid FROM generate_series(1, 400) i;
    CREATE TABLE details (id integer PRIMARY KEY, event integer, at timestamptz, FOREIGN KEY (event, at) REFERENCES events);
    INSERT INTO details SELECT id, id, at FROM events;
    CREATE TABLE people (id integer PRIMARY KEY, name text);
    CREATE TABLE staff (boss integer, PRIMARY KEY (id)) INHERITS (people);
    CREATE TABLE badges (id integer PRIMARY KEY, staff integer REFERENCES staff);
    INSERT INTO people SELECT i, 'p' FROM generate_series(1, 10) i; INSERT INTO staff SELECT i, 's', 1 FROM generate_series(8, 20) i;
    INSERT INTO badges SELECT i, i FROM generate_series(8, 20) i;
    CREATE TABLE prices (n numeric(10,2) PRIMARY KEY); INSERT INTO prices VALUES (5), (6), (7);
    CREATE TABLE codes (c char(3) PRIMARY KEY, v varchar(3)); INSERT INTO codes VALUES ('ab', 'abc'), ('abc', 'abd'), ('x', 'y');
    CREATE DOMAIN email AS varchar(12); CREATE TYPE mood AS ENUM ('sad', 'glad');
    CREATE TABLE moods (e email, m mood, PRIMARY KEY (e, m)); INSERT INTO moods VALUES ('a@x', 'sad'), ('a@x', 'glad');
    CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM users;
"#;

/// The list, and what it says, done by hand. `%` stands for the beginning of each statement.
const LIST: &str = r#"{"table":"public.users","key":{"id":"C4CA4238-A0B9-2382-0DCC-509A6F75849B"}}
{"table":"public.users","key":{"id":"c81e728d9d4c2f636f067f89cc14862c"},"why":"asked for"}
{"table":"public.users","key":{"id":"c81e728d9d4c2f636f067f89cc14862c"}}

{"table":"public.users","key":{"id":"00000000-0000-0000-0000-000000000000"}}
"#;
const BY_HAND: &str = r#"
    SET session_replication_role = replica;
    CREATE TEMP TABLE gone AS SELECT id, email FROM users WHERE id IN (md5('1')::uuid, md5('2')::uuid);
    DELETE FROM profiles WHERE owner IN (SELECT id FROM gone);
    CREATE TEMP TABLE gone_posts AS SELECT id FROM posts WHERE author IN (SELECT id FROM gone);
    WITH RECURSIVE c(id) AS (SELECT id FROM comments WHERE post IN (SELECT id FROM gone_posts) OR id = 300
        UNION SELECT o.id FROM comments o JOIN c ON o.parent = c.id) DELETE FROM comments WHERE id IN (SELECT id FROM c);
    DELETE FROM posts WHERE id IN (SELECT id FROM gone_posts);
    CREATE TEMP TABLE gone_orders AS SELECT "Kéy" AS k, n FROM "Odd s"."Or""dèr" WHERE email IN (SELECT email FROM gone) OR ("Kéy" = 'k''3' AND n = 8);
    DELETE FROM "Odd s".lines WHERE (k, n) IN (SELECT k, n FROM gone_orders);
    DELETE FROM "Odd s"."Or""dèr" WHERE ("Kéy", n) IN (SELECT k, n FROM gone_orders);
    DELETE FROM audit WHERE cause IN (SELECT id FROM gone);
    UPDATE audit SET reviewer = NULL WHERE reviewer IN (SELECT id FROM gone);
    DELETE FROM details WHERE event IN (SELECT id FROM events WHERE who IN (SELECT id FROM gone) OR id IN (333, 12));
    DELETE FROM events WHERE who IN (SELECT id FROM gone) OR id IN (333, 12);
    DELETE FROM people WHERE id IN (9, 2); DELETE FROM badges WHERE staff = 9;
    DELETE FROM prices WHERE n = 5; DELETE FROM codes WHERE c = 'ab'; DELETE FROM moods WHERE m = 'glad';
    DELETE FROM users WHERE id IN (SELECT id FROM gone); REFRESH MATERIALIZED VIEW counted;
"#;
/// The lines beside [`LIST`] that [`BY_HAND`] knows, and some that match nothing: a value that would have to be cut.
const MORE: &str = r#"{"table":"\"Odd s\".\"Or\"\"dèr\"","key":{"n":8,"Kéy":"k'3"}}
{"table":"public.comments","key":{"id":300}}
{"table":"public.events_new","key":{"id":"333"}}
{"table":"public.events_old","key":{"id":333}}
{"table":"public.events","key":{"at":"2025-06-13T02:00:00+02:00","id":12}}
{"table":"public.people","key":{"id":"9"}}
{"table":"public.people","key":{"id":"2"}}
{"table":"public.prices","key":{"n":"5.0"}}
{"table":"public.prices","key":{"n":"6.001"}}
{"table":"public.codes","key":{"c":"ab"}}
{"table":"public.codes","key":{"v":"abcd"}}
{"table":"public.moods","key":{"e":"a@x","m":"glad"}}
{"table":"public.moods","key":{"e":"a@x and more","m":"sad"}}
"#;

/// A table whose rows cannot be loaded while somebody is connected to the server as `hold the rows`.
const HELD: &str = "
    CREATE FUNCTION waits(value integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
        WHILE EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE application_name = 'hold the rows') LOOP
            PERFORM pg_catalog.pg_sleep(0.05); PERFORM pg_catalog.pg_stat_clear_snapshot();
        END LOOP; RETURN true; END $$;
    CREATE TABLE held (id integer CHECK (id < 9 OR public.waits(id))); INSERT INTO held SELECT generate_series(1, 10)";

fn list(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("forget.jsonl");
    std::fs::write(&path, text).unwrap();
    path
}

/// A digest of the rows of every table.
fn state(cluster: &Cluster, database: &str) -> BTreeMap<String, String> {
    let tables = cluster.psql(
        database,
        "SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
          WHERE relkind IN ('r', 'm') AND nspname IN ('public', 'Odd s') ORDER BY 1",
    );
    let one = |table: &str| {
        let sql = format!(
            "SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, ',' ORDER BY t::text COLLATE \"C\")), '') FROM ONLY {table} t"
        );
        (table.to_owned(), cluster.psql(database, &sql))
    };
    tables.lines().map(one).collect()
}

fn json(out: &str) -> Value {
    serde_json::from_str(out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

fn of_table<'a>(forgotten: &'a Value, table: &str) -> &'a Value {
    let tables = forgotten["tables"].as_array().unwrap();
    tables.iter().find(|one| one["table"] == table).unwrap_or_else(|| panic!("{table}: {forgotten}"))
}

#[test]
pub(crate) fn what_was_erased_and_all_that_hangs_on_it_does_not_come_back() {
    for version in [pg::versions()[0], *pg::versions().last().unwrap()] {
        let (name, cluster) = ("forget_people", pg::shared(version));
        cluster.create_database(name);
        cluster.psql(name, PEOPLE);
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        expect_code(&mut backup(cluster, name, &store), 0);
        let list = list(folder.path(), &format!("{LIST}{MORE}"));

        // The judge: restored without the list, and erased by hand.
        let expected = "forget_by_hand";
        cluster.create_database(expected);
        expect_code(&mut restore(cluster, &cluster.url(expected), &store), 0);
        cluster.psql(expected, BY_HAND);
        let right = state(cluster, expected);

        let new = "forget_new";
        cluster.create_database(new);
        let mut command = restore(cluster, &cluster.url(new), &store);
        let (out, _) = expect_code(command.arg("--forget").arg(&list).arg("--json"), 0);
        assert_eq!(state(cluster, new), right, "{version}");
        let report = json(&out);
        let forgotten = &report["forgotten"];
        assert_eq!((&forgotten["lines"], &forgotten["duplicates"]), (&17.into(), &1.into()), "{forgotten}");
        assert_eq!(forgotten["unmatched_lines"], serde_json::json!([5, 9, 14, 16, 18]), "{forgotten}");
        let users = of_table(forgotten, "public.users");
        assert_eq!((&users["listed"], &users["by_reference"]), (&2.into(), &0.into()));
        let audit = of_table(forgotten, "public.audit");
        assert!(audit["set_null"].as_u64() > Some(0) && audit["by_reference"].as_u64() > Some(0), "{audit}");
        assert!(!out.contains("509A6F") && !out.contains("k'3"), "{out}");
        // Every constraint was made, the trigger is back, nothing of the restore is left.
        assert_eq!(
            cluster.psql(new, "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND NOT convalidated"),
            "0"
        );
        let keys = "SELECT count(*) FROM pg_constraint WHERE contype IN ('f', 'p', 'u')";
        assert_eq!(cluster.psql(new, keys), cluster.psql(name, keys));
        assert_eq!(cluster.psql(new, "SELECT tgenabled FROM pg_trigger WHERE tgname = 'never'"), "O");

        // Into tables that exist, with their triggers and foreign keys, in one transaction.
        let mut again = restore(cluster, &cluster.url(new), &store);
        again.args(["--data-only", "--truncate"]).arg("--forget").arg(&list);
        let (text, _) = expect_code(&mut again, 0);
        assert!(text.contains("erased in public.users: 2 listed"), "{text}");
        cluster.psql(new, "REFRESH MATERIALIZED VIEW counted");
        assert_eq!(state(cluster, new), right, "{version}");
        for database in [name, expected, new] {
            cluster.drop_database(database);
        }
    }
}

#[test]
pub(crate) fn an_owner_forgets_from_a_bucket_and_a_drill_proves_before_it_erases() {
    let (name, cluster) = ("forget_owner", pg::shared(15));
    cluster.psql("postgres", "CREATE ROLE forget_owner LOGIN CREATEDB PASSWORD 'o'");
    cluster.create_database_with(name, "OWNER forget_owner");
    cluster.psql(name, &format!("SET ROLE forget_owner; ALTER SCHEMA public OWNER TO forget_owner; {PEOPLE}"));
    let bucket = Bucket::start();
    expect_code(&mut bucket.backup(cluster, name, "pre"), 0);
    std::fs::create_dir_all(bucket.path("lists")).unwrap();
    std::fs::write(bucket.path("lists").join("gone.jsonl"), format!("{LIST}{MORE}")).unwrap();
    std::fs::write(bucket.path("pre").join("gone.jsonl"), format!("{LIST}{MORE}")).unwrap();
    let from_bucket = format!("{}/gone.jsonl", bucket.address("lists"));
    let mut states = Vec::new();
    for (new, from) in [("forget_owner_a", "store:gone.jsonl"), ("forget_owner_b", from_bucket.as_str())] {
        cluster.create_database_with(new, "OWNER forget_owner");
        cluster.psql(new, "ALTER SCHEMA public OWNER TO forget_owner");
        let url = cluster.url_as("forget_owner", "o", new);
        let mut command = bucket.command("pre", &["restore", "--to", &url, "--forget", from]);
        expect_code(command.arg("--pg-bin-dir").arg(cluster.bin_dir()), 0);
        assert_eq!(cluster.psql(new, "SELECT count(*) FROM users"), "48");
        // Into what exists: triggers are kept out of it by the owner.
        let words = ["restore", "--to", &url, "--forget", from, "--data-only"];
        cluster.psql(new, "TRUNCATE users, people, prices, codes, moods CASCADE; ALTER TABLE details DROP CONSTRAINT details_event_at_fkey");
        expect_code(bucket.command("pre", &words).arg("--pg-bin-dir").arg(cluster.bin_dir()), 0);
        assert_eq!(cluster.psql(new, "SELECT tgenabled FROM pg_trigger WHERE tgname = 'never'"), "O");
        states.push(state(cluster, new));
    }
    assert_eq!(states[0], states[1]);
    let mut command =
        bucket.command("pre", &["drill", "--on", &cluster.url("postgres"), "--forget", "store:gone.jsonl", "--json"]);
    let (out, _) = expect_code(command.arg("--pg-bin-dir").arg(cluster.bin_dir()), 0);
    let receipt = json(&out);
    assert_eq!((&receipt["ok"], &receipt["differences"]), (&true.into(), &serde_json::json!([])), "{out}");
    assert_eq!(of_table(&receipt["forgotten"], "public.users")["listed"], 2, "{out}");
}

#[test]
pub(crate) fn a_list_that_cannot_be_applied_as_a_whole_is_never_passed_over() {
    let (name, cluster) = ("forget_wrong", pg::shared(15));
    cluster.create_database(name);
    cluster.psql(name, PEOPLE);
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    expect_code(&mut backup(cluster, name, &store), 0);
    let new = "forget_wrong_new";
    let url = cluster.url(new);
    let forget = |text: &str, more: &[&str]| {
        let mut command = restore(cluster, &url, &store);
        command.arg("--forget").arg(list(folder.path(), text)).args(more);
        command
    };
    let good = r#"{"table":"public.users","key":{"id":"c81e728d9d4c2f636f067f89cc14862c"}}"#;
    // Refused before anything is changed: the database is not even made.
    for (line, words) in [
        ("{\"table\":\"public.users\"}", "line 2"),
        (r#"{"table":"public.users","key":{"id":"secret"}}"#, "line 2"),
        (r#"{"table":"public.comments","key":{"id":"1"}}{}"#, "line 2"),
    ] {
        let (error, all) = expect_failure(&mut forget(&format!("{good}\n{line}\n"), &["--create"]), 2);
        assert!(error.contains(words) && all.contains("nothing was changed") && !all.contains("secret"), "{all}");
        assert_eq!(cluster.psql("postgres", &format!("SELECT count(*) FROM pg_database WHERE datname = '{new}'")), "0");
    }
    expect_failure(&mut forget(good, &["--create", "--schema-only"]), 2);
    let mut absent = restore(cluster, &url, &store);
    expect_failure(absent.args(["--forget", "/nowhere/list"]), 2);
    // Told, exit 3; what can be erased is.
    cluster.create_database(new);
    let unknown = format!(
        "{good}\n{}\n{}\n",
        r#"{"table":"public.usres","key":{"id":1}}"#, r#"{"table":"public.posts","key":{"idd":1}}"#
    );
    let (out, _) = expect_code(&mut forget(&unknown, &[]), 3);
    assert!(out.contains("line 2") && out.contains("\"public.usres\"") && out.contains("\"idd\""), "{out}");
    assert_eq!(cluster.psql(new, "SELECT count(*) FROM users"), "49");
    cluster.drop_database(new);
    // A part of the run: what hangs on a row that is not brought is found by its key, or not known.
    cluster.create_database(new);
    cluster.psql(new, "CREATE TABLE users (id uuid PRIMARY KEY); CREATE TABLE posts (id bigint PRIMARY KEY)");
    let (out, _) = expect_code(&mut forget(good, &["--table", "public.profiles", "--into-existing"]), 3);
    assert!(out.contains("erased in public.profiles: 0 listed, 1 that refer"), "{out}");
    let (out, _) = expect_code(&mut forget(good, &["--table", "public.comments", "--into-existing"]), 3);
    assert!(out.contains("cannot be known"), "{out}");
    cluster.drop_database(new);
    // An enumeration is made by the restore: its value turns out to be none when all rows are there.
    cluster.create_database(new);
    let (error, all) = expect_failure(&mut forget(r#"{"table":"public.moods","key":{"m":"angry"}}"#, &[]), 1);
    assert!(error.contains("line 1") && all.contains("--start-over") && !all.contains("angry"), "{all}");
    let (_, all) = expect_failure(&mut forget(good, &[]), 2);
    assert!(all.contains("--start-over"), "{all}");
    expect_code(&mut forget(good, &["--start-over"]), 0);
    assert_eq!(cluster.psql(new, "SELECT count(*) FROM users"), "49");
}

#[test]
pub(crate) fn a_restore_that_is_killed_as_it_erases_starts_over_and_erases() {
    let (name, cluster) = ("forget_killed", pg::shared(15));
    cluster.create_database(name);
    cluster.psql(name, &format!("{PEOPLE}{HELD}"));
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    expect_code(&mut backup(cluster, name, &store), 0);
    let list = list(folder.path(), LIST);
    let new = "forget_killed_new";
    for signal in ["KILL", "TERM"] {
        cluster.create_database(new);
        let mut gate = Talk::open(cluster, "postgres");
        gate.run("SET application_name = 'hold the rows';");
        let mut command = restore(cluster, &cluster.url(new), &store);
        command.arg("--forget").arg(&list);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        // Held right before it erases.
        let mut holder = Talk::open(cluster, new);
        until("the rows are there", || {
            let there = cluster.psql(new, "SELECT to_regclass('public.users') IS NOT NULL");
            there == "t" && cluster.psql(new, "SELECT count(*) FROM users") == "50"
        });
        holder.run("BEGIN; LOCK TABLE users IN ROW EXCLUSIVE MODE;");
        drop(gate);
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^LOCK TABLE' AND wait_event_type = 'Lock'";
        until("it waits", || cluster.psql(new, waits) != "0");
        succeed(std::process::Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()));
        child.wait().unwrap();
        drop(holder);
        assert_eq!(cluster.psql(new, "SELECT count(*) FROM users"), "50", "{signal}");
        // Without the list it is another restore.
        expect_failure(&mut restore(cluster, &cluster.url(new), &store), 2);
        let mut again = restore(cluster, &cluster.url(new), &store);
        expect_code(again.arg("--forget").arg(&list), 0);
        assert_eq!(cluster.psql(new, "SELECT count(*) FROM users"), "48", "{signal}");
        cluster.drop_database(new);
    }
}

#[test]
pub(crate) fn a_rescue_does_not_bring_back_what_was_erased() {
    let (name, cluster) = ("forget_rescue", pg::shared(15));
    cluster.create_database(name);
    cluster.psql(name, PEOPLE);
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    expect_code(&mut backup(cluster, name, &store), 0);
    let run = Run::latest(&store);
    cluster.psql(name, BY_HAND);
    let right = state(cluster, name);
    let list = list(folder.path(), &format!("{LIST}{MORE}"));
    let rescue = |table: &str, more: &[&str]| {
        let mut command = pgstow();
        command.args(["rescue", "--table", table, "--to", &cluster.url(name), "--json"]).args(more);
        command.arg("--forget").arg(&list).arg("--store").arg(&run.store);
        json(&expect_code(&mut command, 0).0)
    };
    // Without the list they would come back; with it nothing is missing, nothing changed.
    for table in [
        "public.users",
        "public.profiles",
        "public.posts",
        "public.comments",
        "public.audit",
        "public.events",
        "public.events_a",
        "public.details",
        "public.prices",
        "public.moods",
        "public.badges",
        "\"Odd s\".lines",
    ] {
        let found = rescue(table, &[]);
        assert_eq!(
            (&found["missing"]["count"], &found["changed"]["count"]),
            (&0.into(), &0.into()),
            "{table}: {found}"
        );
    }
    let (found, _) = expect_code(
        pgstow().args(["rescue", "--table", "public.comments", "--to", &cluster.url(name), "--store"]).arg(&run.store),
        0,
    );
    assert!(!found.contains("missing             0"), "{found}");
    // A wrong DELETE since: everything but the erased rows is back, with what it refers to.
    cluster.psql(name, "SET session_replication_role = replica; DELETE FROM comments; DELETE FROM posts WHERE id > 50; DELETE FROM users WHERE name ~ '5'");
    let done = rescue("public.comments", &["--apply", "missing", "--with-referenced", "--triggers", "off"]);
    assert!(done["applied"]["inserted"]["public.comments"] == 84, "{done}");
    let now = state(cluster, name);
    assert_eq!(now["public.comments"], right["public.comments"]);
    assert_eq!(cluster.psql(name, "SELECT count(*) FROM users WHERE id IN (md5('1')::uuid, md5('2')::uuid)"), "0");
    assert_eq!(of_table(&done["forgotten"], "public.posts")["by_reference"], 10, "{done}");
    std::fs::write(&list, r#"{"table":"public.nobody","key":{"id":1}}"#).unwrap();
    let mut unknown = std::process::Command::new("sh");
    unknown.args(["-c", "exec \"$@\" < \"$LIST\"", "sh"]).arg(pgstow().get_program()).env("LIST", &list);
    unknown.args(["rescue", "--table", "public.users", "--to", &cluster.url(name), "--forget", "-", "--store"]);
    let (_, all) = expect_failure(unknown.arg(&run.store), 2);
    assert!(all.contains("public.nobody") && all.contains("nothing was changed"), "{all}");
}
