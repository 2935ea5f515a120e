//! Settings of a database or a role that change how values and definitions are written or read change nothing of what
//! comes back.

use std::collections::BTreeSet;

use super::support::pg::{self, Cluster};
use super::support::program::{self, Run, expect_code, pgstow};

/// What is judged, by name.
const JUDGED: &str = include_str!("../../src/postgres/settings.rs");

#[test]
fn every_setting_of_every_version_is_judged() {
    for version in pg::versions() {
        let cluster = pg::shared(version);
        let names = cluster.psql(
            "postgres",
            "SELECT name FROM pg_settings WHERE context IN ('user', 'superuser') AND name !~ '\\.' ORDER BY name",
        );
        assert!(names.lines().count() > 150, "{names}");
        let unjudged: BTreeSet<&str> = names.lines().filter(|name| !JUDGED.contains(&format!("\"{name}\""))).collect();
        assert!(
            unjudged.is_empty(),
            "PostgreSQL {version} has settings that src/postgres/settings.rs does not judge: {unjudged:?}"
        );
    }
}

/// Values of every kind that a setting can change, in rows and in definitions.
const VALUES: &str = r#"
    CREATE SCHEMA s;
    CREATE DOMAIN s.price AS money CHECK (VALUE > '-900000.50'::numeric::money);
    CREATE TABLE s.v (id integer PRIMARY KEY, m money DEFAULT 12.34::numeric::money, ms money[], p s.price, t text[] DEFAULT '{NULL,"NULL",a}',
        x xml, b bytea DEFAULT '\x5c00ff'::bytea, i interval DEFAULT '-1 mons +2 days -03:04:05', d date, w timestamptz, f float8,
        e text DEFAULT E'back\\slash ''quoted''', c boolean CHECK (c IS NULL OR c), r daterange, j jsonb);
    INSERT INTO s.v SELECT n, (n * 1234.56)::numeric::money, ARRAY[(n * -1.25)::numeric::money, NULL], (n * 0.07)::numeric::money::s.price,
        ARRAY[NULL, 'NULL', 'x' || n], 'a<b/>c'::xml, decode(to_hex(n + 92000) || '5', 'hex'), make_interval(months => -n, days => n, secs => -n * 0.001),
        date '2024-02-03' + n, timestamptz '2024-03-31 01:30:00.123456+01' + n * interval '1 hour', n / 3.0::float8, 'a\b' || n, NULL,
        daterange(date '2024-05-06', date '2024-06-05' + n), jsonb_build_object('k', n)
      FROM generate_series(1, 300) n;
    CREATE TABLE s.parted (w timestamptz, n integer) PARTITION BY RANGE (w);
    CREATE TABLE s.parted_1 PARTITION OF s.parted FOR VALUES FROM ('2024-01-01 00:00+00') TO ('2024-07-01 00:00+00');
    INSERT INTO s.parted SELECT timestamptz '2024-01-01 00:00+00' + n * interval '1 hour', n FROM generate_series(0, 999) n;
    CREATE TABLE s.words (id integer, w integer[]); INSERT INTO s.words SELECT n, ARRAY[1, n] FROM generate_series(1, 3000) n;
    CREATE INDEX ON s.words USING gin (w);
    CREATE MATERIALIZED VIEW s.found AS SELECT count(*) FROM s.words WHERE w @> ARRAY[1];
    CREATE VIEW s.dear AS SELECT id, m > 50.5::numeric::money AS dear, '1000.5'::money AS limit_of FROM s.v;
"#;

/// Settings that each change one of them, or stop a load.
const HOSTILE: [(&str, &str); 21] = [
    ("array_nulls", "off"),
    ("xmloption", "document"),
    ("bytea_output", "escape"),
    ("standard_conforming_strings", "off"),
    ("quote_all_identifiers", "on"),
    ("DateStyle", "SQL, DMY"),
    ("IntervalStyle", "sql_standard"),
    ("TimeZone", "Asia/Kathmandu"),
    ("extra_float_digits", "-5"),
    ("transform_null_equals", "on"),
    ("backslash_quote", "off"),
    ("gin_fuzzy_search_limit", "3"),
    ("enable_tidscan", "off"),
    ("enable_seqscan", "off"),
    ("xmlbinary", "hex"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("default_transaction_read_only", "on"),
    ("idle_in_transaction_session_timeout", "200ms"),
    ("lock_timeout", "1ms"),
    ("search_path", "nowhere"),
];

fn make_hostile(cluster: &Cluster, database: &str, money: &str) {
    let all = HOSTILE.iter().copied().chain([("lc_monetary", money)]);
    let each: Vec<String> = all
        .map(|(name, value)| format!("ALTER DATABASE {database} SET {name} = '{value}';"))
        .chain([format!("ALTER ROLE postgres IN DATABASE {database} SET statement_timeout = '3s'")])
        .collect();
    cluster.psql("postgres", &each.join(" "));
}

/// A checksum of each table, and the definitions' values, read with neutral settings.
fn values(cluster: &Cluster, database: &str) -> String {
    let neutral = "SET statement_timeout = 0; SET lc_monetary = 'C'; SET DateStyle = ISO; SET IntervalStyle = postgres; SET TimeZone = 'UTC'; SET bytea_output = hex;
        SET extra_float_digits = 3; SET standard_conforming_strings = on; SET quote_all_identifiers = off; SET search_path = pg_catalog;
        SET enable_seqscan = on; SET gin_fuzzy_search_limit = 0;";
    let read = |query: &str| cluster.psql(database, &format!("{neutral} {query}"));
    let rows = read(
        "SELECT 'v', count(*), md5(string_agg(v::text, ' ' ORDER BY id)) FROM s.v v
         UNION ALL SELECT 'parted', count(*), md5(string_agg(p::text, ' ' ORDER BY n)) FROM s.parted p
         UNION ALL SELECT 'found', sum(count), '' FROM s.found
         UNION ALL SELECT 'dear', count(*) FILTER (WHERE dear), max(limit_of)::text FROM s.dear",
    );
    let defaults = read(
        "SELECT adnum, pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 's.v'::regclass
         UNION ALL SELECT 0, pg_get_constraintdef(oid) FROM pg_constraint WHERE conname IN ('v_c_check', 'price_check') ORDER BY 1, 2",
    );
    format!("{rows}\n{defaults}")
}

#[test]
fn hostile_settings_of_database_and_role_change_no_value() {
    let cluster = Cluster::start_with_locales(pg::packaged(), &["es_AR", "ja_JP"]);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let store = folder.path().join("store");
    cluster.create_database("app");
    cluster.psql("app", VALUES);
    let before = values(&cluster, "app");
    assert!(before.contains("v|300|") && before.contains("found|3000|"), "{before}");
    make_hostile(&cluster, "app", "es_AR.utf8");
    assert!(cluster.psql("app", "SELECT m FROM s.v WHERE id = 1").contains("1.234,56"), "the locale is in force");

    expect_code(&mut program::backup(&cluster, "app", &store), 0);
    let run = Run::latest(&store);
    assert!(run.sql("s", "v").contains("SET standard_conforming_strings = 'on'"));
    assert!(run.rows("s", "v")[0].contains("$1,234.56"), "{}", run.rows("s", "v")[0]);

    // Into databases that are as hostile, in another locale.
    for name in ["back", "told", "single"] {
        cluster.create_database(name);
        make_hostile(&cluster, name, "ja_JP.utf8");
    }
    expect_code(pgstow().args(["restore", "--to", &cluster.url("back"), "--store"]).arg(&store), 0);
    assert_eq!(values(&cluster, "back"), before);
    program::restore_as_told(&run, &cluster, "told");
    assert_eq!(values(&cluster, "told"), before);

    let sql = folder.path().join("v.sql");
    std::fs::write(&sql, run.sql("s", "v")).expect("a temporary file can be written");
    cluster.psql("single", "SET default_transaction_read_only = off; SET lc_monetary = 'C'; CREATE SCHEMA s; CREATE DOMAIN s.price AS money");
    cluster.psql_file("single", &sql, &[]);
    let sum = "SET lc_monetary = 'C'; SELECT sum(m), sum(ms[1]), sum(p), count(*) FILTER (WHERE t[1] IS NULL) FROM s.v";
    assert_eq!(cluster.psql("single", sum), cluster.psql("app", sum));
    let drilled = expect_code(pgstow().args(["drill", "--on", &cluster.url("postgres"), "--store"]).arg(&store), 0);
    assert!(drilled.0.contains("PROVEN") || drilled.1.contains("PROVEN"), "{drilled:?}");
}
