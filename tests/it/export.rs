//! Rows of a run as Parquet: what DuckDB reads of the files is what PostgreSQL says of the tables, value by value.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::encryption::Key;
use crate::support::bucket::Bucket;
use crate::support::moto::tool;
use crate::support::pg::{self, Cluster, quote};
use crate::support::process::succeed_with;
use crate::support::program::{Run, awkward, backup, expect_code, expect_failure, files, json, pgstow};

/// What a backup sets, said by the judge in its own words.
const SETTINGS: &str = "-c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=3 -c TimeZone=UTC -c lc_monetary=C \
    -c search_path= -c max_parallel_workers_per_gather=0 -c synchronize_seqscans=off";

/// Values of every type that Parquet has one for, their ends included, and columns that fall back to text.
const EXACT: &str = r#"
    CREATE SCHEMA s; CREATE TYPE s.mood AS ENUM ('sad', 'b,"c'); CREATE DOMAIN s.price AS numeric(7,2) DEFAULT 0 CHECK (VALUE >= 0);
    CREATE DOMAIN s.over AS s.price; CREATE DOMAIN s.many AS integer[];
    CREATE TABLE s.exact (id smallint, i integer, n9 numeric(9,2), n18 numeric(18,6), n38 numeric(38,10), n39 numeric(39,1), minus numeric(3,-2),
        beyond numeric(3,5), free numeric, not_a_number numeric(5,1), d date, endless date, ts timestamp(3), tz timestamptz, tm time, late time, b bytea,
        u uuid, j json, jb jsonb, m s.mood, dom s.over, "a b" varchar(9), c char(3), ok boolean, f4 real, f8 double precision,
        ints integer[], many s.many, texts text[], dates date[], floats real[], moods s.mood[], prices s.over[], bytes bytea[], times timestamptz[],
        uuids uuid[], docs jsonb[], flags boolean[], odd integer[], deep text[], boxes box[]);
    INSERT INTO s.exact VALUES
        (-32768, -2147483648, -9999999.99, -999999999999.999999, -9999999999999999999999999999.9999999999, 1.5, 99900, -0.00999, 1.50, 1.5,
         '4713-01-01 BC', '2024-01-01', '4713-01-01 00:00 BC', '0001-12-31 23:59:59.999999+00 BC', '00:00', '23:59', '\x00ff', '00000000-0000-0000-0000-00000000000a',
         '{"b":1, "a": 1e400}', '{"a": [1, null]}', 'b,"c', 1.50, 'x', 'a', true, '-0', 'NaN', '{1,NULL,-3}', '{}', '{"",NULL,"NULL","a,b","\"\\"}',
         '{2024-02-29,1900-03-01}', '{NaN,0.1,NULL,-Infinity}', '{sad,NULL,"b,\"c"}', '{1.25,0}', '{"\\x00",""}', '{2024-03-31 01:30:00.5+02}',
         '{ffffffff-ffff-ffff-ffff-ffffffffffff}', '{"{\"a\": 1}"}', '{t,f,NULL}', '{1}', '{a}', '{(1,1),(0,0);(2,2),(1,1)}'),
        (32767, 2147483647, 9999999.99, 999999999999.999999, 9999999999999999999999999999.9999999999, -0.1, -100, 0.00001, 'NaN', 'NaN',
         '5874897-12-31', 'infinity', '294246-12-31 23:59:59.999', '294246-01-01 00:00+00', '23:59:59.999999', '24:00', '', 'ffffffff-ffff-ffff-ffff-ffffffffffff',
         'null', 'null', 'sad', 0, E'\t\n\\', '', false, 'Infinity', '-Infinity', '{}', '{5,NULL}', '{}', NULL, '{}', '{}', NULL, '{}', '{}', '{}', '{}', '{}',
         '[0:1]={1,2}', '{{a,b}}', '{}');
    INSERT INTO s.exact VALUES
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '1970-01-01', '1969-12-31', '1969-12-31 23:59:59.999', '2024-02-29 12:00:00.000001-07', '12:30:00.5', '00:00',
         '\x5c6e0a', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '"x"', '1.10', NULL, NULL, '', 'abc', NULL, 0.1, 5e-324);
    INSERT INTO s.exact VALUES (NULL);
    INSERT INTO s.exact (id, ints) SELECT i, ARRAY(SELECT generate_series(1, i % 40)) FROM generate_series(1, 6000) i;
    CREATE TABLE s.wide AS SELECT i AS id, repeat('x', i % 200) AS t FROM generate_series(1, 30000) i;
    DO $$ BEGIN FOR n IN 1..95 LOOP EXECUTE format('ALTER TABLE s.wide ADD %I integer', 'null ' || n); END LOOP; END $$;
    CREATE TABLE s.gone (id integer); CREATE MATERIALIZED VIEW s.seen AS SELECT 1 AS one;
    CREATE SCHEMA "export.json"; CREATE TABLE "export.json"."../x" (id integer); INSERT INTO "export.json"."../x" VALUES (1);
"#;

/// Compares files with what PostgreSQL printed. A value is a string here, a list of such, or nothing; a float its bytes.
const JUDGE: &str = r#"
import duckdb, json, struct, sys
db = duckdb.connect(); db.execute("SET TimeZone='UTC'"); db.execute("SET enable_progress_bar = false")
def shown(kind, x):
    if kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL"): return x
    if kind == "DATE": return f"CAST(datediff('day', DATE '1970-01-01', {x}) AS VARCHAR)"
    if kind == "TIME(MICROS)": return f"CAST(datediff('microsecond', TIME '00:00:00', {x}) AS VARCHAR)"
    if kind.startswith("TIMESTAMP"): return f"CAST(epoch_us({x}) AS VARCHAR)"
    if kind == "BYTE_ARRAY": return f"lower(hex({x}))"
    if kind.startswith("LIST<"): return f"list_transform({x}, lambda e: {shown(kind[5:-1], 'e')})"
    return f"CAST({x} AS VARCHAR)"
def plain(kind, value):
    if value is None: return None
    if kind.startswith("LIST<"): return [plain(kind[5:-1], one) for one in value]
    if kind in ("FLOAT", "DOUBLE"): return struct.pack(">f" if kind == "FLOAT" else ">d", value).hex()
    if kind.startswith("DECIMAL"): return format(value, "f")
    return value
compared = groups = 0
for table in json.load(sys.stdin):
    names = ['"' + c["name"].replace('"', '""') + '"' for c in table["columns"]]
    kinds = [c["parquet"] for c in table["columns"]]
    file = table["file"].replace("'", "''")
    at = 0
    cursor = db.execute(f"SELECT {', '.join(map(shown, kinds, names))} FROM read_parquet('{file}', file_row_number = true) ORDER BY file_row_number")
    while rows := cursor.fetchmany(2000):
        for row in rows:
            ours, theirs = [plain(kind, value) for kind, value in zip(kinds, row)], json.loads(table["expected"][at])
            if ours != theirs:
                wrong = [(c["name"], o, t) for c, o, t in zip(table["columns"], ours, theirs) if o != t]
                sys.exit(f"{file}, row {at + 1}: {str(wrong)[:2000]}")
            compared += len(row); at += 1
    if at != len(table["expected"]): sys.exit(f"{file}: {at} rows, not {len(table['expected'])}")
    groups = max(groups, db.execute(f"SELECT num_row_groups FROM parquet_file_metadata('{file}')").fetchone()[0])
print(json.dumps({"compared": compared, "groups": groups}))
"#;

fn export(run: &Run, to: &Path, words: &[&str]) -> Command {
    let mut command = pgstow();
    command.arg("export").args(words).arg("--parquet").arg(to).arg("--store").arg(&run.store);
    command
}

/// What PostgreSQL is asked for, so that it can be compared with a value of that type of Parquet.
fn asked(kind: &str, column: &str) -> String {
    match kind {
        "FLOAT" => format!("encode(float4send({column}), 'hex')"),
        "DOUBLE" => format!("encode(float8send({column}), 'hex')"),
        "DATE" => format!("({column} - date '1970-01-01')::text"),
        "TIME(MICROS)" => format!("(extract(epoch FROM {column}) * 1000000)::bigint::text"),
        "TIMESTAMP(MICROS)" | "TIMESTAMP(MICROS,UTC)" => {
            format!("(extract(epoch FROM {column}) * 1000000)::bigint::text")
        }
        "BYTE_ARRAY" => format!("encode({column}, 'hex')"),
        _ => match kind.strip_prefix("LIST<").and_then(|rest| rest.strip_suffix('>')) {
            Some(element) => format!(
                "CASE WHEN {column} IS NOT NULL THEN (SELECT coalesce(json_agg({} ORDER BY i), '[]') FROM generate_subscripts({column}, 1) i) END",
                asked(element, &format!("({column})[i]"))
            ),
            // A cast takes the blanks of character(n) away.
            None if kind == "STRING" => format!("CASE WHEN {column} IS DISTINCT FROM NULL THEN concat({column}) END"),
            None => format!("{column}::text"),
        },
    }
}

/// Compares every file of an export; values compared, and the most row groups of a file.
fn judged(cluster: &Cluster, database: &str, folder: &Path, but: &[&str]) -> (u64, u64, Value) {
    let index = json(&folder.join("export.json"));
    let tables = index["tables"].as_array().unwrap().iter();
    let mut tables: Vec<Value> = tables.filter(|one| !one["file"].is_null()).cloned().collect();
    tables.retain(|one| !but.contains(&one["schema"].as_str().unwrap()));
    let mut script = String::new();
    for table in &tables {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let columns = table["columns"].as_array().unwrap().iter();
        let columns: Vec<String> =
            columns.map(|column| asked(&text(&column["parquet"]), &quote(&text(&column["name"])))).collect();
        // A function takes a hundred arguments.
        let parts: Vec<String> =
            columns.chunks(90).map(|part| format!("jsonb_build_array({})", part.join(", "))).collect();
        let name = format!("{}.{}", quote(&text(&table["schema"])), quote(&text(&table["table"])));
        script += &format!("\\echo @\nSELECT {} FROM ONLY {name};\n", parts.join(" || "));
    }
    let mut psql = cluster.command("psql");
    psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &cluster.url(database), "-f", "-"]);
    let said = succeed_with(psql.env("PGOPTIONS", SETTINGS), script.as_bytes()).stdout;
    let said = String::from_utf8(said).unwrap();
    let answers: Vec<&str> = said.split("@\n").skip(1).collect();
    assert_eq!(answers.len(), tables.len());
    for (table, answer) in tables.iter_mut().zip(answers) {
        table["expected"] = answer.lines().collect::<Vec<_>>().into();
        table["file"] = folder.join(table["file"].as_str().unwrap()).to_str().into();
    }
    let judge = succeed_with(
        Command::new(tool("python3")).args(["-c", JUDGE]),
        serde_json::to_string(&tables).unwrap().as_bytes(),
    );
    let result: Value = serde_json::from_slice(&judge.stdout).unwrap();
    (result["compared"].as_u64().unwrap(), result["groups"].as_u64().unwrap(), index)
}

fn types(index: &Value, table: &str) -> String {
    let table = index["tables"].as_array().unwrap().iter().find(|one| one["table"] == table).unwrap();
    let columns = table["columns"].as_array().unwrap().iter();
    let shown = columns.map(|column| {
        let instead = column["instead_of"].as_str().map(|kind| format!(" not {kind}")).unwrap_or_default();
        format!("{} {}{instead}", column["name"].as_str().unwrap(), column["parquet"].as_str().unwrap())
    });
    shown.collect::<Vec<_>>().join("; ")
}

#[test]
pub(crate) fn every_value_is_what_postgresql_says() {
    let source = awkward(*pg::versions().last().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/parquet");
    let (said, _) = expect_code(&mut export(&source.run, &out, &["--json"]), 0);
    // Many tables of one kind, made for their number; rows of an extension's table have no types in the run.
    let (compared, _, index) = judged(&source.cluster, "app", &out, &["many"]);
    assert!(compared > 5000, "{compared} values");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["tables"], index["tables"]);
    let all = types(&index, "values_of_all_kinds");
    for kind in
        ["d STRING not DATE", "tm STRING not TIME(MICROS)", "i8 INT(64)", "u UUID", "by BYTE_ARRAY", "dom INT(32)"]
    {
        assert!(all.contains(kind), "{all}");
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&out), mode(&out.join("kinds"))), (0o700, 0o700));
    assert_eq!((mode(&out.join("export.json")), mode(&out.join("kinds/big.parquet"))), (0o600, 0o600));

    let cluster = &source.cluster;
    cluster.create_database("exact");
    cluster.psql("exact", EXACT);
    expect_code(&mut backup(cluster, "exact", &folder.path().join("store")), 0);
    let run = Run::latest(&folder.path().join("store"));
    let out = folder.path().join("exact");
    let (said, _) = expect_code(&mut export(&run, &out, &[]), 0);
    let (compared, groups, index) = judged(cluster, "exact", &out, &[]);
    assert!(compared > 3_000_000 && groups > 1, "{compared} values, {groups} row groups");
    assert!(
        said.contains("s.exact: not_a_number is STRING, not DECIMAL(5,1), which cannot hold the value of row 2"),
        "{said}"
    );
    assert!(said.contains("s.seen: a materialized view"), "{said}");
    assert_eq!(
        types(&index, "exact"),
        "id INT(16); i INT(32); n9 DECIMAL(9,2); n18 DECIMAL(18,6); n38 DECIMAL(38,10); n39 STRING; minus DECIMAL(5,0); beyond DECIMAL(5,5); \
         free STRING; not_a_number STRING not DECIMAL(5,1); d DATE; endless STRING not DATE; ts TIMESTAMP(MICROS); tz TIMESTAMP(MICROS,UTC); \
         tm TIME(MICROS); late STRING not TIME(MICROS); b BYTE_ARRAY; u UUID; j JSON; jb JSON; m STRING; dom DECIMAL(7,2); a b STRING; c STRING; \
         ok BOOLEAN; f4 FLOAT; f8 DOUBLE; ints LIST<INT(32)>; many LIST<INT(32)>; texts LIST<STRING>; dates LIST<DATE>; floats LIST<FLOAT>; \
         moods LIST<STRING>; prices LIST<DECIMAL(7,2)>; bytes LIST<BYTE_ARRAY>; times LIST<TIMESTAMP(MICROS,UTC)>; uuids LIST<UUID>; docs LIST<JSON>; \
         flags LIST<BOOLEAN>; odd STRING not LIST<INT(32)>; deep STRING not LIST<STRING>; boxes STRING"
    );
    places_and_parts(&run, &out, folder.path());
}

/// What is left of an earlier export, parts of a run, places that are refused, damage.
fn places_and_parts(run: &Run, out: &Path, folder: &Path) {
    let parquet =
        |folder: &Path| files(folder).into_iter().filter(|name| name.ends_with(".parquet")).collect::<Vec<_>>();
    assert_eq!(parquet(out), ["export=2Ejson/=2E.=2Fx.parquet", "s/exact.parquet", "s/gone.parquet", "s/wide.parquet"]);
    fs::write(out.join("s/own.parquet"), "not of the export").unwrap();
    expect_code(&mut export(run, out, &["--table", "s.gone"]), 0);
    assert_eq!(parquet(out), ["s/gone.parquet", "s/own.parquet"], "files of the earlier export stay");
    let (error, _) = expect_failure(&mut export(run, out, &["--table", "s.seen"]), 2);
    assert!(error.contains("materialized view"), "{error}");
    let (error, _) = expect_failure(&mut export(run, &run.store.join("x"), &[]), 2);
    assert!(error.contains("is inside a store"), "{error}");

    // SQL_ASCII and encrypted, into a bucket.
    let (cluster, bucket, key) = (pg::shared(15), Bucket::start(), Key::make());
    cluster.psql("postgres", "CREATE DATABASE export_ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0");
    cluster.psql("export_ascii", r"CREATE TABLE t AS SELECT E'\xff\x09' AS raw, 'x' AS t; CREATE TABLE none ()");
    expect_code(bucket.backup(cluster, "export_ascii", "ascii").args(["--encrypt", &key.public]), 0);
    let place = bucket.address("out/here");
    let words = ["export", "--schema", "public", "--parquet", &place];
    let (error, _) = expect_failure(&mut bucket.command("ascii", &words), 2);
    assert!(error.contains("is encrypted"), "{error}");
    expect_code(bucket.command("ascii", &words).arg("--identity").arg(&key.file), 0);
    assert_eq!(bucket.files("out/here"), ["export.json", "public/t.parquet"]);
    let index = json(&bucket.path("out/here/export.json"));
    assert_eq!(types(&index, "t"), "raw BYTE_ARRAY not STRING; t STRING");
    let read = format!(
        "import duckdb; print(duckdb.sql(\"SELECT hex(raw), t FROM '{}'\").fetchall())",
        bucket.path("out/here/public/t.parquet").display()
    );
    let read = succeed_with(Command::new(tool("python3")).args(["-c", &read]), b"").stdout;
    assert_eq!(String::from_utf8(read).unwrap().trim(), "[('FF09', 'x')]");
    for place in [bucket.address("ascii"), bucket.address("ascii/runs/x")] {
        let mut inside = bucket.command("ascii", &["export", "--parquet", &place]);
        let (error, _) = expect_failure(inside.arg("--identity").arg(&key.file), 2);
        assert!(error.contains("holds backups"), "{error}");
    }

    // One damaged object: its table has no file, the others have, the list is not there.
    let object = run.folder.join(run.table("s", "exact")["file"]["key"].as_str().unwrap());
    let mut bytes = fs::read(&object).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&object, bytes).unwrap();
    let out = folder.join("damaged");
    let (_, all) = expect_code(&mut export(run, &out, &["--schema", "s"]), 4);
    assert!(all.contains("s/exact.sql") && all.contains("all other tables were exported"), "{all}");
    assert_eq!(files(&out), ["s/gone.parquet", "s/wide.parquet"]);
}
