//! Schemas and owners under other names than in the run. stock `pg_dump` judges: what it writes of the renamed schema is what it
//! writes of the saved one, but for the name.

use std::process::Command;

use crate::support::pg::{self, Cluster};
use crate::support::process::succeed;
use crate::support::program::{Run, backup, expect_code, expect_failure, pgstow};

const SHOP: &str = r#"
    CREATE ROLE renames_a; CREATE ROLE renames_b; CREATE ROLE shop;
    CREATE SCHEMA crm; CREATE TABLE crm.customers (id integer PRIMARY KEY); INSERT INTO crm.customers SELECT generate_series(1, 50);
    CREATE SCHEMA shop; GRANT USAGE ON SCHEMA shop TO shop; COMMENT ON SCHEMA shop IS 'the shop';
    ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO renames_b;
    CREATE TYPE shop.mood AS ENUM ('sad', 'shop'); CREATE DOMAIN shop.price AS numeric(9,2) CHECK (VALUE >= 0);
    CREATE TYPE shop.pair AS (a shop.mood, b integer);
    CREATE FUNCTION shop.positive(integer) RETURNS boolean LANGUAGE sql IMMUTABLE SET search_path = shop, pg_temp AS 'SELECT $1 > 0';
    CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.t := upper(NEW.t); RETURN NEW; END $$;
    CREATE TABLE shop.orders (id serial PRIMARY KEY, n bigint GENERATED ALWAYS AS IDENTITY, customer integer REFERENCES crm.customers, t text UNIQUE,
        m shop.mood DEFAULT 'shop', p shop.price, moods shop.mood[], whole shop.pair, c integer CHECK (shop.positive(c)),
        d integer GENERATED ALWAYS AS (c * 2) STORED, parent integer REFERENCES shop.orders);
    CREATE INDEX "shop i" ON shop.orders (lower(t)) WHERE shop.positive(c);
    CREATE SEQUENCE shop.own START 7; CREATE TABLE shop."Odd ""t" (id integer DEFAULT nextval('shop.own'), k regclass DEFAULT 'shop.orders'::regclass);
    CREATE STATISTICS shop.both ON c, customer FROM shop.orders;
    CREATE TRIGGER touch BEFORE INSERT ON shop.orders FOR EACH ROW WHEN (NEW.c > 0) EXECUTE FUNCTION shop.touch();
    ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON shop."Odd ""t" TO shop USING (shop.positive(id));
    CREATE TABLE shop.parts (id integer, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE shop.parts_a PARTITION OF shop.parts FOR VALUES FROM ('2025-01-01') TO ('2027-01-01');
    INSERT INTO shop.parts SELECT i, '2025-06-01'::date + i FROM generate_series(1, 400) i;
    INSERT INTO shop.orders (customer, t, m, p, moods, whole, c, parent) SELECT 1 + i % 50, 'shop.' || i, 'sad', i, '{sad,shop}', ROW('sad'::shop.mood, i)::shop.pair, i, NULLIF(i - 1, 0)
        FROM generate_series(1, 500) i;
    INSERT INTO shop."Odd ""t" DEFAULT VALUES;
    CREATE VIEW shop.seen AS SELECT x.id, x.m, c.id AS customer FROM shop.orders x JOIN crm.customers c ON x.customer = c.id WHERE x.m <> 'shop';
    CREATE MATERIALIZED VIEW shop.counted AS SELECT m, count(*) AS n FROM shop.orders GROUP BY m WITH DATA;
    CREATE FUNCTION shop.one(shop.mood) RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM shop.orders s WHERE s.m = $1; END;
    ALTER TABLE shop.orders OWNER TO renames_a; GRANT SELECT ON shop.orders TO renames_b; ALTER VIEW shop.seen OWNER TO renames_b;
    SELECT lo_create(4711); ALTER LARGE OBJECT 4711 OWNER TO renames_a;
"#;

fn restore(run: &Run, cluster: &Cluster, database: &str, words: &[&str]) -> Command {
    let mut command = pgstow();
    command.args(["restore", "--pg-bin-dir"]).arg(cluster.bin_dir()).args(["--to", &cluster.url(database)]);
    command.args(words).arg("--store").arg(&run.store);
    command
}

/// The lines of what pg_dump writes of a schema, rows included, sorted: names decide the order of its objects.
fn dumped(cluster: &Cluster, database: &str, schema: &str) -> Vec<String> {
    let mut dump = cluster.command("pg_dump");
    dump.args(["--schema", schema, "-d", &cluster.url(database)]);
    let text = succeed(&mut dump);
    let shown = text.replace("\"shop_old\"", "shop").replace("shop_old", "shop");
    let mut lines: Vec<String> = shown.lines().filter(|line| !line.starts_with('\\')).map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
pub(crate) fn a_schema_of_the_run_stands_beside_the_living_one_under_another_name() {
    let (name, cluster) = ("renames", pg::shared(15));
    cluster.create_database(name);
    cluster.psql(name, SHOP);
    let psql = |sql: &str| cluster.psql(name, sql);
    let folder = tempfile::tempdir().unwrap();
    expect_code(&mut backup(cluster, name, folder.path()), 0);
    let run = Run::latest(folder.path());
    let living = dumped(cluster, name, "shop");
    assert!(living.len() > 1000, "{} lines", living.len());
    let words = ["--into-existing", "--allow-source", "--schema", "shop", "--rename-schema", "shop=shop_old"];
    expect_code(&mut restore(&run, cluster, name, &words), 0);
    assert_eq!(dumped(cluster, name, "shop_old"), living);
    assert_eq!(dumped(cluster, name, "shop"), living, "the living schema changed");
    // What PostgreSQL itself knows of the two: no dependency leads from one to the other.
    let between =
        "SELECT count(*) FROM pg_constraint WHERE connamespace::regnamespace::text = 'shop_old' AND confrelid IN
        (SELECT oid FROM pg_class WHERE relnamespace = 'shop'::regnamespace)";
    assert_eq!(psql(between), "0");
    assert_eq!(psql("SELECT k || ' ' || id FROM shop_old.\"Odd \"\"t\""), "shop.orders 7", "a value of a row is data");
    assert_eq!(psql("SELECT shop_old.one('sad') || ' ' || nextval('shop_old.orders_id_seq')"), "500 501");
    // Again: its objects are there.
    let (error, _) = expect_failure(&mut restore(&run, cluster, name, &words), 2);
    assert!(error.contains("shop_old"), "{error}");

    // A body names the schema: refused before anything is changed, or restored as it is and listed.
    psql("DROP SCHEMA shop_old CASCADE; UPDATE shop.\"Odd \"\"t\" SET k = NULL; CREATE FUNCTION shop.names_it() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count(*) FROM shop.orders); END $$;
        CREATE VIEW shop.alias AS SELECT shop.id FROM shop.orders shop");
    expect_code(&mut backup(cluster, name, folder.path()), 0);
    let run = Run::latest(folder.path());
    let (error, all) = expect_failure(&mut restore(&run, cluster, name, &words), 2);
    assert!(error.contains("function shop_old.names_it()") && error.contains("view shop_old.alias"), "{error}");
    assert!(all.contains("--best-effort") && all.contains("nothing was changed"), "{all}");
    assert_eq!(psql("SELECT count(*) FROM pg_namespace WHERE nspname = 'shop_old'"), "0");
    let (out, _) = expect_code(restore(&run, cluster, name, &words).arg("--best-effort"), 3);
    assert!(out.contains("names_it") && out.contains("may name schema shop"), "{out}");
    assert_eq!(psql("SELECT shop_old.names_it() || ' ' || (SELECT count(*) FROM shop_old.orders)"), "500 500");

    for (pair, words, why) in [
        ("shop=crm", &[][..], "is taken"),
        ("shap=x", &[], "did you mean \"shop\""),
        ("shop=x", &["--table", "shop.orders"], "--table"),
        ("shop=x", &["--schema", "crm"], "--schema does not name shop"),
    ] {
        let (_, all) =
            expect_failure(restore(&run, cluster, name, &["--into-existing", "--rename-schema", pair]).args(words), 2);
        assert!(all.contains(why), "{pair}: {all}");
    }
    owners(&run, cluster);
}

/// A whole run with another name and other owners, into a new database.
fn owners(run: &Run, cluster: &Cluster) {
    let words = ["--create", "--best-effort", "--rename-schema", "shop=shop_old", "--owner", "renames_a=renames_b"];
    expect_code(&mut restore(run, cluster, "renames_new", &words), 3);
    let owned = "SELECT string_agg(relname || ' ' || pg_get_userbyid(relowner), ', ' ORDER BY relname) FROM pg_class
        WHERE relnamespace = 'shop_old'::regnamespace AND relkind IN ('r', 'v') AND relowner <> 10";
    assert_eq!(cluster.psql("renames_new", owned), "orders renames_b, seen renames_b");
    assert_eq!(
        cluster.psql("renames_new", "SELECT pg_get_userbyid(lomowner) FROM pg_largeobject_metadata"),
        "renames_b"
    );
    assert_eq!(cluster.psql("renames_new", "SELECT count(*) FROM pg_namespace WHERE nspname = 'shop'"), "0");
    let (error, _) = expect_failure(&mut restore(run, cluster, "postgres", &["--owner", "nobody=renames_b"]), 2);
    assert!(error.contains("owns nothing"), "{error}");
}
