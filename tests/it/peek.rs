//! Rows of a run without a database: what `peek` prints is what PostgreSQL prints of the same table, type by type.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::bucket::Bucket;
use crate::support::pg::{self, quote};
use crate::support::process::{succeed, succeed_with};
use crate::support::program::{Awkward, Run, awkward, expect_code, expect_failure, pgstow};
use crate::support::proxy::{Fault, Proxy};

/// What a backup sets, said by the judge in its own words.
const SETTINGS: &str = "-c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=3 -c TimeZone=UTC -c lc_monetary=C \
    -c search_path= -c max_parallel_workers_per_gather=0 -c synchronize_seqscans=off";

/// What psql prints.
fn asked(source: &Awkward, sql: &str) -> Vec<u8> {
    let mut psql = source.cluster.command("psql");
    psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, "-d", &source.cluster.url("app")]);
    succeed_with(psql.env("PGOPTIONS", SETTINGS), b"").stdout
}

fn peek(run: &Run, words: &[&str]) -> Command {
    let mut command = pgstow();
    command.arg("peek").args(words).arg("--store").arg(&run.store);
    command
}

/// The tables of a run whose rows are all in it.
fn tables(run: &Run) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for schema in run.schemas() {
        for table in schema["tables"].as_array().unwrap() {
            if table["kind"] == "table" && table["extension"].is_null() {
                found.push((schema["name"].as_str().unwrap().to_owned(), table["name"].as_str().unwrap().to_owned()));
            }
        }
    }
    found
}

#[test]
pub(crate) fn every_row_and_every_type_is_what_postgresql_says() {
    let version = *pg::versions().last().unwrap();
    let source = awkward(version);
    let (mut rows, mut kinds) = (0, std::collections::BTreeSet::new());
    for (schema, table) in tables(&source.run) {
        // Many tables of one kind, made for their number.
        if schema == "many" {
            continue;
        }
        let name = format!("{}.{}", quote(&schema), quote(&table));
        let shown = succeed_with(&mut peek(&source.run, &[&name, "--limit", "0", "--csv"]), b"").stdout;
        let (text, literal) = (String::from_utf8_lossy(&shown).into_owned(), name.replace('\'', "''"));
        let columns = format!(
            "SELECT coalesce(string_agg(quote_ident(attname), ', ' ORDER BY attnum), '') FROM pg_attribute
            WHERE attrelid = '{literal}'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
        );
        let columns = String::from_utf8(asked(source, &columns)).unwrap().trim_end_matches('\n').to_owned();
        let copy = format!("COPY (SELECT {columns} FROM ONLY {name}) TO STDOUT (FORMAT csv, HEADER)");
        let expected = asked(source, &copy);
        assert!(shown == expected, "{name}: {text}\nexpected\n{}", String::from_utf8_lossy(&expected));
        rows += text.lines().count();

        let json = expect_code(&mut peek(&source.run, &[&name, "--json"]), 0).0;
        let document = parsed(&json);
        let types = format!(
            "SELECT coalesce(json_agg(json_build_object('name', attname, 'type', format_type(atttypid, atttypmod))
            ORDER BY attnum), '[]') FROM pg_attribute
            WHERE attrelid = '{literal}'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
        );
        assert_eq!(document["columns"], serde_json::from_slice::<Value>(&asked(source, &types)).unwrap(), "{name}");
        let all = document["columns"].as_array().unwrap().iter();
        kinds.extend(all.map(|column| column["type"].as_str().unwrap().to_owned()));
    }
    assert!(rows > 1000 && kinds.len() > 45, "{rows} rows, types {kinds:?}");
    values_have_their_types(source);
    rows_of_a_partitioned_table_are_those_of_its_partitions(source);
}

/// A JSON document. One number of the fixture is beyond a double, which is all that the parser here holds.
fn parsed(text: &str) -> Value {
    let text = text.replace(&format!("1{}", "0".repeat(400)), "1");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Numbers, booleans and documents are what `to_json` makes of them; everything else is text.
fn values_have_their_types(source: &Awkward) {
    let name = "kinds.values_of_all_kinds";
    let ours = parsed(&expect_code(&mut peek(&source.run, &[name, "--limit", "0", "--json"]), 0).0);
    let text = asked(source, &format!("SELECT json_agg(row_to_json(whole_row)) FROM ONLY {name} whole_row"));
    let theirs = parsed(&String::from_utf8(text).unwrap());
    let (ours, theirs) = (ours["rows"].as_array().unwrap(), theirs.as_array().unwrap());
    assert!(ours.len() == theirs.len() && ours.len() > 15);
    let mut compared = 0;
    for (one, other) in ours.iter().zip(theirs) {
        for column in ["id", "t", "v", "n", "f4", "f8", "i2", "i8", "b", "u", "j", "mny", "tsv", "jp", "Ünï 😀"] {
            assert_eq!(one[column], other[column], "{column} of {}", one["id"]);
            compared += usize::from(!one[column].is_null());
        }
    }
    assert!(compared > 60, "{compared}");
}

fn rows_of_a_partitioned_table_are_those_of_its_partitions(source: &Awkward) {
    let shown = succeed(&mut peek(&source.run, &["parts.by_range", "--limit", "0", "--csv"]));
    let (head, rows) = shown.split_once('\n').unwrap();
    let expected = format!("COPY (SELECT {head} FROM parts.by_range) TO STDOUT (FORMAT csv)");
    let expected = String::from_utf8(asked(source, &expected)).unwrap();
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert!(sorted(rows).len() > 5);
    assert_eq!(sorted(rows), sorted(&expected));
}

#[test]
pub(crate) fn rows_are_chosen_by_value_and_the_object_is_read_no_further_than_they_are() {
    let (name, cluster) = ("peek", pg::shared(15));
    cluster.create_database(name);
    cluster.psql(
        name,
        "CREATE TABLE big (id integer PRIMARY KEY, u uuid, b boolean, t text);
         INSERT INTO big SELECT i, md5(i::text)::uuid, i % 2 = 0, repeat(md5(i::text), 30) FROM generate_series(1, 40000) i;
         CREATE TABLE empty (id integer); CREATE VIEW v AS SELECT 1",
    );
    let bucket = Bucket::start();
    expect_code(bucket.backup(cluster, name, "pre").args(["--compression", "none"]), 0);
    let run = Run::latest(&bucket.path("pre"));
    let uuid = cluster.psql(name, "SELECT upper(u::text) FROM big WHERE id = 7");
    for (words, ids) in [
        (&["--where-key", "id=007"][..], "7"),
        (&["--where-key", &format!("u={uuid}")], "7"),
        (&["--where-key", "b=true", "--limit", "2"], "2,4"),
        (&["--where-key", "b=f", "--where-key", "id=2"], ""),
    ] {
        let arguments = [&["public.big", "--json"], words].concat();
        let document: Value = serde_json::from_str(&expect_code(&mut peek(&run, &arguments), 0).0).unwrap();
        let rows = document["rows"].as_array().unwrap();
        let found: Vec<String> = rows.iter().map(|row| row["id"].to_string()).collect();
        assert_eq!(found.join(","), ids, "{words:?}");
        assert_eq!((&document["table_rows"], &document["shown"]), (&40000.into(), &rows.len().into()));
    }
    let table = expect_code(&mut peek(&run, &["public.big", "--limit", "1"]), 0).0;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].contains("id  u") && lines[1].contains("integer  uuid"), "{table}");
    assert!(lines[2].contains("c4ca4238-a0b9-2382-0dcc-509a6f75849b") && lines[2].ends_with('…'), "{table}");
    assert_eq!(lines.last().unwrap(), &format!("1 of 40,000 rows of public.big in run {}", run.name));

    // 40 MB: that nothing comes after six of them is never noticed by who wants ten rows.
    let proxy = bucket.runtime.block_on(Proxy::start(bucket.server.port, |asked| {
        (asked.method == "GET" && asked.target.contains("big.sql")).then_some(Fault::StallAnswer(6_000_000))
    }));
    let mut first = bucket.command("pre", &["peek", "public.big", "--limit", "10", "--csv", "--s3-attempts", "1"]);
    let shown = succeed(first.env("AWS_ENDPOINT_URL_S3", &proxy.endpoint));
    assert_eq!(shown.lines().count(), 11, "{shown}");
    // What is read to its end is compared with the manifest.
    let path = run.folder.join("public/big.sql");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() - 100_000;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let all = expect_code(&mut peek(&run, &["public.big", "--limit", "0", "--csv"]), 4).1;
    assert!(all.contains("public/big.sql"), "{all}");

    let empty = expect_code(&mut peek(&run, &["public.empty", "--csv"]), 0).0;
    assert_eq!(empty, "id\n");
    let (error, all) = expect_failure(&mut peek(&run, &["public.big", "--where-key", "ids=1"]), 2);
    assert!(error.contains("no column \"ids\"") && all.contains("did you mean \"id\""), "{all}");
    let (error, _) = expect_failure(&mut peek(&run, &["latest", "public.v"]), 2);
    assert!(error.contains("no table \"public.v\""), "{error}");
    assert!(!Path::new("/tmp/pwned").exists());
}
