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

/// Rows, and what is computed of them with the settings of the database: views, checks, domains, stored columns, indexes.
const COMPUTED: &str = r#"
    CREATE TABLE e (id int, ts timestamptz, d date, i interval, b bytea, f float8, m money, a text);
    INSERT INTO e VALUES (1, '2026-01-05 23:30:00-05', '2026-02-01', '1 day 2 hours', 'abc', 0.1::float8 + 0.2, 1234.5::numeric::money, 'x "y"'),
        (2, '2026-01-06 08:05:00-05', '2026-01-06', '-3 mons -2 days', '\x00', 1e30, (-1)::numeric::money, 'z');
    CREATE MATERIALIZED VIEW per_day AS SELECT ts::date AS day, count(*) FROM e GROUP BY 1;
    CREATE MATERIALIZED VIEW txt AS SELECT id, ts::text ts, d::text d, i::text i, b::text b, f::text f, m::text m, to_char(ts, 'HH24') h,
        quote_ident(a) q, ('{' || a || ',NULL}')::text[] arr FROM e WHERE id = 2;
    CREATE TABLE hours (id int, ts timestamptz CHECK (extract(hour FROM ts) BETWEEN 8 AND 18));
    INSERT INTO hours VALUES (1, '2026-01-05 17:30:00-05'), (2, '2026-01-06 08:05:00-05');
    CREATE DOMAIN office AS timestamptz CHECK (extract(hour FROM VALUE) BETWEEN 8 AND 18);
    CREATE TABLE dom (a office); INSERT INTO dom VALUES ('2026-01-05 17:30:00-05');
    CREATE TABLE rated (id int CHECK (id > current_setting('app.rate')::int)); INSERT INTO rated VALUES (5);
    CREATE FUNCTION day_of(timestamptz) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1::date::text';
    CREATE TABLE stored (ts timestamptz, day text GENERATED ALWAYS AS (day_of(ts)) STORED);
    INSERT INTO stored VALUES ('2026-01-05 23:30:00-05'); CREATE UNIQUE INDEX ON stored (day_of(ts));
    CREATE TABLE parted (w timestamptz NOT NULL DEFAULT '2026-01-05 23:30:00-05') PARTITION BY RANGE (w);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01 00:00-05') TO ('2026-02-01 00:00-05');
    INSERT INTO parted VALUES ('2026-01-01 00:00-05'), ('2026-01-31 23:59:59-05')
"#;

#[test]
fn what_users_wrote_is_computed_with_the_settings_of_their_database() {
    let cluster = Cluster::start_with_locales(pg::packaged(), &["es_AR"]);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let store = folder.path().join("store");
    cluster.create_database("own");
    let settings = [
        ("timezone", "America/New_York"),
        ("datestyle", "SQL, DMY"),
        ("bytea_output", "escape"),
        ("intervalstyle", "iso_8601"),
        ("extra_float_digits", "-3"),
        ("lc_monetary", "es_AR.utf8"),
        ("quote_all_identifiers", "on"),
        ("array_nulls", "off"),
        ("app.rate", "3"),
    ];
    for (name, value) in settings {
        cluster.psql("postgres", &format!("ALTER DATABASE own SET {name} = '{value}'"));
    }
    // The time zone of the tests' psql is UTC.
    let in_zone =
        |database: &str, sql: &str| cluster.psql(database, &format!("SET TimeZone = 'America/New_York'; {sql}"));
    in_zone("own", COMPUTED);
    let values = |database: &str| {
        let tables = ["per_day", "txt", "hours", "dom", "rated", "stored", "parted", "e"];
        let each = tables.map(|table| in_zone(database, &format!("SELECT t FROM {table} t ORDER BY t::text")));
        each.join("\n")
            + &cluster.psql(database, "SELECT conname, convalidated FROM pg_constraint ORDER BY conname COLLATE \"C\"")
    };
    let saved = values("own");
    assert!(saved.contains("(05/01/2026,1)") && saved.contains("P-3M-2D") && saved.contains(",08,"), "{saved}");
    expect_code(&mut program::backup(&cluster, "own", &store), 0);
    let definitions = |database: &str| {
        let text = cluster.pg_dump(database, &[]);
        text.lines().filter(|line| !line.contains("restrict ")).map(|line| line.to_owned() + "\n").collect::<String>()
    };
    let dumped = definitions("own");

    expect_code(program::restore(&cluster, &cluster.url("own_copy"), &store).arg("--create"), 0);
    assert_eq!(values("own_copy"), saved);
    assert_eq!(definitions("own_copy"), dumped);
    let drilled = expect_code(&mut program::drill(&cluster, &store), 0);
    assert!(drilled.0.contains("PROVEN") || drilled.1.contains("PROVEN"), "{drilled:?}");

    // A table by itself, and rows by themselves, into a database with those settings.
    cluster.psql("own_copy", "DROP TABLE hours; TRUNCATE e, stored");
    let mut single = program::restore(&cluster, &cluster.url("own_copy"), &store);
    expect_code(single.args(["--into-existing", "--table", "public.hours"]), 0);
    expect_code(program::restore(&cluster, &cluster.url("own_copy"), &store).args(["--data-only", "--truncate"]), 0);
    assert_eq!(values("own_copy"), saved);
}
