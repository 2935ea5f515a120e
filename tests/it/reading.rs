//! Reading runs back: whatever byte of a run is damaged, `verify` names the object; `download` gives what was stored.
//!
//! [`damage_is_found`] takes any sound run in a directory store. Here runs are put together from a real `pg_dump`'s
//! archives and real COPY text, by code that shares nothing with the program but the fingerprint.
#![allow(clippy::case_sensitive_file_extension_comparisons, reason = "keys are lower case")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use pgstow::seal::digest::Fingerprint;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::pg::{self, Cluster};
use crate::support::process::succeed_with;
use crate::support::program;

const RUN: &str = "20261122T150405Z-1a2b3c";

/// A server of its own.
struct Server(Cluster);

impl Server {
    fn start() -> Self {
        Self(Cluster::start(pg::packaged()))
    }

    fn client(&self, tool: &str, arguments: &[&str]) -> Vec<u8> {
        succeed_with(self.0.command(tool).args(arguments).arg("-d").arg(self.0.url("postgres")), b"").stdout
    }

    fn sql(&self, sql: &str) -> Vec<u8> {
        self.client("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql])
    }
}

const TABLES: [(&str, &str); 5] = [
    ("twin_a", "s.twin_a (id, body)"),
    ("twin_b", "s.twin_b (id, body)"),
    ("empty", "s.empty (id)"),
    ("no_columns", "s.no_columns "),
    ("we\"ird; -- name", "s.\"we\"\"ird; -- name\" (\"from stdin;\")"),
];

const DATABASE: &str = r#"
CREATE SCHEMA s; CREATE SCHEMA nothing;
CREATE TABLE s.twin_a (id int, body text); CREATE TABLE s.twin_b (id int, body text);
INSERT INTO s.twin_a SELECT i, md5(i::text) FROM generate_series(10000, 11999) i;
INSERT INTO s.twin_b SELECT i, md5(i::text) FROM generate_series(20000, 20499) i;
CREATE TABLE s.empty (id int);
CREATE TABLE s.no_columns (); INSERT INTO s.no_columns SELECT FROM generate_series(1, 3);
CREATE TABLE s."we""ird; -- name" ("from stdin;" text);
INSERT INTO s."we""ird; -- name" VALUES (E'\\.'), (''), (NULL), (E'COPY x FROM stdin;\n\\.\n'), (repeat('x', 300000));
SELECT lo_from_bytea(4000000000, 'one'), lo_from_bytea(17, repeat('two', 30000)::bytea), lo_from_bytea(18, '');
"#;

/// Puts a run together in a directory store.
struct Builder {
    run: PathBuf,
    compression: &'static str,
    objects: Vec<Value>,
}

impl Builder {
    fn frame(&self, plain: &[u8]) -> Vec<u8> {
        match self.compression {
            "zstd" => zstd::encode_all(plain, 3).unwrap(),
            "gzip" => {
                let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
                member.write_all(plain).unwrap();
                member.finish().unwrap()
            }
            _ => plain.to_vec(),
        }
    }

    /// Stores an object of these frames.
    fn put(&mut self, stem: &str, frames: &[&[u8]]) -> Value {
        let suffix = match self.compression {
            "zstd" => ".zst",
            "gzip" => ".gz",
            _ => "",
        };
        let stored: Vec<u8> = frames.iter().flat_map(|frame| self.frame(frame)).collect();
        let raw: usize = frames.iter().map(|frame| frame.len()).sum();
        self.store(&format!("{stem}{suffix}"), &stored, raw)
    }

    fn store(&mut self, key: &str, stored: &[u8], raw: usize) -> Value {
        let path = self.run.join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, stored).unwrap();
        let object = json!({"key": key, "bytes": stored.len(), "sha256": sha256(stored), "raw_bytes": raw});
        self.objects.push(object.clone());
        object
    }

    fn table(&mut self, server: &Server, name: &str, copy: &str) -> Value {
        let rows = server.sql(&format!("COPY {copy} TO STDOUT"));
        let mut all = Fingerprint::default();
        assert_eq!(all.lines(&rows), 0);
        let head = format!("-- {name:?}\nSET search_path = '';\n\nCOPY {copy} FROM stdin;\n");
        let end = if name.contains('"') { "a name".to_owned() } else { format!("s.{name}") };
        let tail = format!("\\.\n\nANALYZE;\n\n-- pgstow: end of {end}\n");
        let lines: Vec<&[u8]> = rows.split_inclusive(|byte| *byte == b'\n').collect();
        let pieces: Vec<Vec<u8>> = lines.chunks(100).map(<[&[u8]]>::concat).collect();
        let mut frames = vec![head.as_bytes()];
        frames.extend(pieces.iter().map(Vec::as_slice));
        frames.push(tail.as_bytes());
        let stem = pgstow::format::layout::table_sql("s", name);
        let file = self.put(&stem, &frames);
        let mut table = json!({"name": name, "kind": "table", "rows": all.rows, "digest": all.digest(),
            "order": all.order(), "raw_bytes": all.bytes, "file": file});
        if name == "twin_a" {
            let mut offset = self.frame(head.as_bytes()).len();
            let mut list = Vec::new();
            for piece in &pieces {
                let stored = self.frame(piece);
                let rows = piece.split(|byte| *byte == b'\n').count() - 1;
                list.push(json!({"offset": offset, "bytes": stored.len(), "rows": rows, "sha256": sha256(&stored)}));
                offset += stored.len();
            }
            let index = json!({"format": "pgstow/1", "schema": "s", "table": name,
                "copy": format!("COPY {copy} FROM stdin;"), "pieces": list});
            let text = serde_json::to_vec(&index).unwrap();
            table["index"] = self.store(&pgstow::format::layout::table_index("s", name), &text, text.len());
        }
        table
    }
}

/// A sound run in a new directory store.
fn run_of(server: &Server, compression: &'static str) -> tempfile::TempDir {
    let store = tempfile::tempdir().unwrap();
    let mut builder = Builder { run: store.path().join("runs").join(RUN), compression, objects: Vec::new() };
    let archive = |arguments: &[&str]| server.client("pg_dump", &[&["-Fc", "-Z0"], arguments].concat());
    let roles = builder.put("@roles.sql", &[b"-- roles\n", b"CREATE ROLE x;\n"]);
    let database = builder.put("@database.dump", &[&archive(&["-s", "-N", "nothing"])]);
    let large = archive(&["-n", "nothing", "-b"]);
    let large = builder.put("@large-objects.dump", &large.chunks(20_000).collect::<Vec<_>>());
    let mut sum = 0_u128;
    for (oid, content) in [(4_000_000_000_u32, b"one".to_vec()), (17, b"two".repeat(30_000)), (18, Vec::new())] {
        let text = [&oid.to_le_bytes()[..], &content].concat();
        sum = sum.wrapping_add(xxhash_rust::xxh3::xxh3_128(&text));
    }
    let dump = archive(&["-n", "s"]);
    let dump = builder.put("s.dump", &dump.chunks(9_000).collect::<Vec<_>>());
    let tables: Vec<Value> = TABLES.iter().map(|(name, copy)| builder.table(server, name, copy)).collect();
    let restore = builder.store("RESTORE.md", b"# restore\n", 10);
    let total = |field: &str| tables.iter().map(|table| table[field].as_u64().unwrap()).sum::<u64>();
    let stored: u64 = builder.objects.iter().map(|object| object["bytes"].as_u64().unwrap()).sum();
    let manifest = json!({
        "format": "pgstow/1", "run": RUN, "status": "complete", "started_at": "2026-11-22T15:04:05Z",
        "finished_at": "2026-11-22T15:04:07Z", "tool": {"name": "pgstow", "version": "0.1.0"},
        "source": {"host": "127.0.0.1", "port": server.0.port(), "database": "postgres", "identity": "1/2",
            "server_version": "15", "pg_dump_version": "15", "encoding": "UTF8", "snapshot": "1", "in_recovery": false,
            "role": "postgres", "superuser": true},
        "compression": if compression == "none" { "none".to_owned() } else { format!("{compression}:3") },
        "totals": {"schemas": 1, "tables": tables.len(), "rows": total("rows"), "raw_bytes": total("raw_bytes"),
            "stored_bytes": stored, "objects": builder.objects.len()},
        "roles": {"object": roles, "passwords": false}, "database": {"object": database},
        "large_objects": {"object": large, "count": 3, "bytes": 90_003, "digest": format!("xxh3-128-sum:{sum:032x}")},
        "restore_md": restore, "schemas": [{"name": "s", "owner": "postgres", "dump": dump, "tables": tables}],
        "skipped": [], "omitted": [], "from_the_future": 1,
    });
    write_manifest(store.path(), RUN, &manifest);
    store
}

fn sha256(bytes: &[u8]) -> String {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let (high, low) = digest.split_at(16);
    let number = |half: &[u8]| u128::from_be_bytes(half.try_into().unwrap());
    format!("{:032x}{:032x}", number(high), number(low))
}

/// Writes a manifest and lets `latest.json` point to it.
fn write_manifest(store: &Path, run: &str, manifest: &Value) {
    let text = serde_json::to_vec(manifest).unwrap();
    let key = format!("runs/{run}/manifest.json");
    fs::write(store.join(&key), &text).unwrap();
    let latest = json!({"run": run, "manifest": key, "sha256": sha256(&text),
        "finished_at": manifest["finished_at"], "identity": manifest["source"]["identity"]});
    fs::write(store.join("latest.json"), serde_json::to_vec(&latest).unwrap()).unwrap();
}

fn pgstow(store: &Path, arguments: &[&str]) -> Output {
    let mut command = program::pgstow();
    command.args(["--log", "error", "--store", store.to_str().unwrap()]).args(arguments).output().unwrap()
}

/// Keys that `verify` calls damaged; its exit code must say the same.
fn damaged(store: &Path) -> Vec<String> {
    let output = pgstow(store, &["verify", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no report: {}", String::from_utf8_lossy(&output.stderr)));
    let keys: Vec<String> =
        report["damaged"].as_array().unwrap().iter().map(|one| one["key"].as_str().unwrap().to_owned()).collect();
    assert_eq!(output.status.code(), Some(if keys.is_empty() { 0 } else { 4 }), "{report}");
    assert_eq!(report["ok"], keys.is_empty());
    keys
}

/// Where an object's frames end (for objects that have none: quarters).
fn frames(stored: &[u8], key: &str) -> Vec<Vec<u8>> {
    if !key.ends_with(".zst") {
        return stored.chunks((stored.len() / 4).max(1)).map(<[u8]>::to_vec).collect();
    }
    let mut rest = stored;
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (frame, after) = rest.split_at(zstd::zstd_safe::find_frame_compressed_size(rest).unwrap());
        frames.push(frame.to_vec());
        rest = after;
    }
    frames
}

/// Lets the manifest tell size and SHA-256 of what is stored now.
fn mend(value: &mut Value, key: &str, stored: &[u8]) -> i64 {
    let mut grown = 0;
    match value {
        Value::Object(fields) => {
            if fields.get("key").is_some_and(|found| found == key) {
                grown = i64::try_from(stored.len()).unwrap() - fields["bytes"].as_i64().unwrap();
                fields["bytes"] = json!(stored.len());
                fields["sha256"] = json!(sha256(stored));
            }
            grown + fields.values_mut().map(|field| mend(field, key, stored)).sum::<i64>()
        }
        Value::Array(items) => items.iter_mut().map(|item| mend(item, key, stored)).sum(),
        _ => 0,
    }
}

fn objects(value: &Value, keys: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if fields.contains_key("sha256") && fields.contains_key("raw_bytes") {
                keys.push(fields["key"].as_str().unwrap().to_owned());
            }
            fields.values().for_each(|field| objects(field, keys));
        }
        Value::Array(items) => items.iter().for_each(|item| objects(item, keys)),
        _ => {}
    }
}

/// A sound run whose files are damaged one way after the other.
struct Patient<'a> {
    store: &'a Path,
    run: String,
    manifest: Value,
    tried: u32,
}

impl Patient<'_> {
    fn path(&self, key: &str) -> PathBuf {
        self.store.join("runs").join(&self.run).join(key)
    }

    fn expect_index(&mut self, what: &str, key: &str, index: &Value) {
        let text = serde_json::to_vec(index).unwrap();
        let mut manifest = self.manifest.clone();
        for schema in manifest["schemas"].as_array_mut().unwrap() {
            for table in schema["tables"].as_array_mut().unwrap() {
                if table["index"]["key"] == key {
                    table["index"]["raw_bytes"] = json!(text.len());
                }
            }
        }
        let sound = std::mem::replace(&mut self.manifest, manifest);
        self.expect_named(what, &[(key, Some(text))], true);
        write_manifest(self.store, &self.run, &sound);
        self.manifest = sound;
    }

    /// Stores other bytes (`None`: removes the object), mends the manifest if asked to, and expects the object named.
    fn expect_named(&mut self, what: &str, changes: &[(&str, Option<Vec<u8>>)], mended: bool) {
        let before: Vec<Vec<u8>> = changes.iter().map(|(key, _)| fs::read(self.path(key)).unwrap()).collect();
        let mut manifest = self.manifest.clone();
        for (key, bytes) in changes {
            match bytes {
                Some(bytes) => fs::write(self.path(key), bytes).unwrap(),
                None => fs::remove_file(self.path(key)).unwrap(),
            }
            if let Some(bytes) = bytes.as_ref().filter(|_| mended) {
                let grown = mend(&mut manifest, key, bytes);
                let total = manifest["totals"]["stored_bytes"].as_i64().unwrap();
                manifest["totals"]["stored_bytes"] = json!(total + grown);
            }
        }
        write_manifest(self.store, &self.run, &manifest);
        let found = damaged(self.store);
        for (key, _) in changes {
            assert!(found.iter().any(|found| found == key), "{what} of {key} (mended: {mended}): found {found:?}");
        }
        crate::support::tally::bad_input(&format!("a run with damage: {what}"));
        for ((key, _), bytes) in changes.iter().zip(before) {
            fs::write(self.path(key), bytes).unwrap();
        }
        write_manifest(self.store, &self.run, &self.manifest);
        self.tried += 1;
    }
}

/// Damages a sound run in a directory store in every way, one at a time; `verify` must name the object each time.
/// Returns how many ways were tried. The run is sound again afterwards.
pub(crate) fn damage_is_found(store: &Path) -> u32 {
    let latest: Value = serde_json::from_slice(&fs::read(store.join("latest.json")).unwrap()).unwrap();
    let run = latest["run"].as_str().unwrap().to_owned();
    let path = store.join("runs").join(&run).join("manifest.json");
    let manifest: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let mut keys = Vec::new();
    objects(&manifest, &mut keys);
    assert!(keys.len() > 5, "{keys:?}");
    let mut patient = Patient { store, run, manifest, tried: 0 };
    write_manifest(store, &patient.run.clone(), &patient.manifest.clone());
    assert_eq!(damaged(store), Vec::<String>::new(), "the run must be sound to begin with");
    for key in &keys {
        bytes_of_one_object(&mut patient, key);
        frames_of_one_object(&mut patient, key);
        if key.ends_with(".index") {
            index_of_one_table(&mut patient, key);
        }
    }
    two_tables_swapped(&mut patient);
    assert_eq!(damaged(store), Vec::<String>::new(), "the run must be sound in the end");
    patient.tried
}

fn bytes_of_one_object(patient: &mut Patient<'_>, key: &str) {
    let stored = fs::read(patient.path(key)).unwrap();
    let last = stored.len() - 1;
    for at in [0, last / 3, last / 2, last] {
        let mut flipped = stored.clone();
        flipped[at] ^= 0x10;
        patient.expect_named(&format!("byte {at} flipped"), &[(key, Some(flipped))], false);
    }
    for size in [0, stored.len() / 2, last] {
        patient.expect_named(&format!("cut to {size}"), &[(key, Some(stored[..size].to_vec()))], false);
    }
    let longer = [&stored[..], b"x"].concat();
    patient.expect_named("a byte more", &[(key, Some(longer))], false);
    patient.expect_named("removal", &[(key, None)], false);
}

/// Frames dropped, doubled and swapped, with sizes and hashes in the manifest made to match.
fn frames_of_one_object(patient: &mut Patient<'_>, key: &str) {
    let stored = fs::read(patient.path(key)).unwrap();
    let parts = frames(&stored, key);
    let plain_text = key.starts_with("@roles") || key.ends_with(".md");
    for at in [0, parts.len() / 2, parts.len() - 1] {
        let mut fewer = parts.clone();
        fewer.remove(at);
        patient.expect_named(&format!("frame {at} dropped"), &[(key, Some(fewer.concat()))], true);
        let mut more = parts.clone();
        more.insert(at, parts[at].clone());
        patient.expect_named(&format!("frame {at} doubled"), &[(key, Some(more.concat()))], true);
    }
    patient.expect_named("garbage at the end", &[(key, Some([&stored[..], b"garbage"].concat()))], true);
    if plain_text {
        return; // Nothing but its hash tells the order of its lines.
    }
    let mut pairs: Vec<(usize, usize)> = (1..parts.len()).map(|at| (at - 1, at)).step_by(3).collect();
    let equal = (0..parts.len()).flat_map(|a| (a + 1..parts.len()).map(move |b| (a, b)));
    pairs.extend(equal.filter(|(a, b)| parts[*a].len() == parts[*b].len()).take(4));
    for (a, b) in pairs {
        let mut swapped = parts.clone();
        swapped.swap(a, b);
        if swapped.concat() != stored {
            patient.expect_named(&format!("frames {a} and {b} swapped"), &[(key, Some(swapped.concat()))], true);
        }
    }
}

/// Changes a list of pieces, in the middle of which `usize` points.
type Change = fn(&mut Value, usize);

/// An index that tells other pieces than the file has, its own hash made to match.
fn index_of_one_table(patient: &mut Patient<'_>, key: &str) {
    let sound: Value = serde_json::from_slice(&fs::read(patient.path(key)).unwrap()).unwrap();
    let count = sound["pieces"].as_array().unwrap().len();
    assert!(count > 2);
    let middle = count / 2;
    let number = |value: &Value| value.as_u64().unwrap();
    let changes: [(&str, Change); 6] = [
        ("a piece less", |pieces, at| drop(pieces.as_array_mut().unwrap().remove(at))),
        ("a row moved", |pieces, at| {
            pieces[at]["rows"] = json!(pieces[at]["rows"].as_u64().unwrap() + 1);
            pieces[at - 1]["rows"] = json!(pieces[at - 1]["rows"].as_u64().unwrap() - 1);
        }),
        ("another hash", |pieces, at| pieces[at]["sha256"] = json!("0".repeat(64))),
        ("two pieces swapped", |pieces, at| pieces.as_array_mut().unwrap().swap(at, at - 1)),
        ("a byte moved", |pieces, at| {
            pieces[at]["offset"] = json!(pieces[at]["offset"].as_u64().unwrap() + 1);
            pieces[at]["bytes"] = json!(pieces[at]["bytes"].as_u64().unwrap() - 1);
            pieces[at - 1]["bytes"] = json!(pieces[at - 1]["bytes"].as_u64().unwrap() + 1);
        }),
        ("no piece", |pieces, _| pieces.as_array_mut().unwrap().clear()),
    ];
    assert!(number(&sound["pieces"][middle]["rows"]) > 0);
    for (what, change) in changes {
        let mut index = sound.clone();
        change(&mut index["pieces"], middle);
        patient.expect_index(what, key, &index);
    }
    for field in ["copy", "table", "schema"] {
        let mut index = sound.clone();
        index[field] = json!("another");
        patient.expect_index(field, key, &index);
    }
}

fn two_tables_swapped(patient: &mut Patient<'_>) {
    let mut files = Vec::new();
    for schema in patient.manifest["schemas"].as_array().unwrap() {
        for table in schema["tables"].as_array().unwrap() {
            files.push(table["file"]["key"].as_str().unwrap().to_owned());
        }
    }
    for pair in files.windows(2) {
        let [a, b] = [&pair[0], &pair[1]].map(|key| fs::read(patient.path(key)).unwrap());
        let changes = [(pair[0].as_str(), Some(b)), (pair[1].as_str(), Some(a))];
        patient.expect_named("files swapped", &changes, false);
        patient.expect_named("files swapped", &changes, true);
    }
}

#[test]
pub(crate) fn whatever_is_damaged_verify_names_it() {
    let server = Server::start();
    server.sql(DATABASE);
    for compression in ["zstd", "gzip", "none"] {
        let store = run_of(&server, compression);
        let tried = damage_is_found(store.path());
        assert!(tried > 150, "{compression}: only {tried} ways were tried");
    }
}

#[test]
fn a_run_is_listed_shown_and_downloaded() {
    let server = Server::start();
    server.sql(DATABASE);
    let store = run_of(&server, "zstd");
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("deep/latest");
    let to_text = to.to_str().unwrap();
    let ok = |arguments: &[&str]| {
        let output = pgstow(store.path(), arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let code = |arguments: &[&str]| {
        let output = pgstow(store.path(), arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    ok(&["verify"]);
    let list: Value = serde_json::from_str(&ok(&["list", "--json"])).unwrap();
    assert_eq!(list["runs"][0]["run"], RUN);
    assert_eq!(list["runs"][0]["latest"], true);
    assert_eq!(list["runs"][0]["verified"]["ok"], true);
    assert!(ok(&["list"]).contains(RUN));
    assert!(ok(&["show", "2026"]).contains("twin_a"));
    let shown: Value = serde_json::from_str(&ok(&["show", "--json"])).unwrap();
    assert_eq!(shown["from_the_future"], 1);

    ok(&["download", "--to", to_text]);
    let file = to.join("s/twin_a.sql");
    let content = fs::read(&file).unwrap();
    assert_eq!(content.split(|byte| *byte == b'\n').count() - 1, 2000 + 9);
    let listed = server.0.command("pg_restore").arg("-l").arg(to.join("s.dump")).output().unwrap();
    assert!(listed.status.success());
    fs::write(&file, content.to_ascii_uppercase()).unwrap();
    fs::remove_file(to.join("s.dump")).unwrap();
    let again: Value = serde_json::from_str(&ok(&["download", "--to", to_text, "--json"])).unwrap();
    assert_eq!(fs::read(&file).unwrap(), content);
    assert_eq!(again["files"].as_u64().unwrap() - again["kept"].as_u64().unwrap(), 2);

    let raw = folder.path().join("raw");
    ok(&["download", "--raw", "--table", "s.\"we\"\"ird; -- name\"", "--to", raw.to_str().unwrap()]);
    assert_eq!(fs::read_dir(raw.join("s")).unwrap().count(), 1);
    let inside = store.path().join("runs/x");
    let (status, error) = code(&["download", "--to", inside.to_str().unwrap()]);
    assert!(status == 2 && error.contains("inside a store"), "{error}");
    let (status, error) = code(&["download", "--schema", "S", "--to", to_text]);
    assert!(status == 2 && error.contains("did you mean \"s\"?"), "{error}");
    let (status, error) = code(&["show", "2025"]);
    assert!(status == 2 && error.contains("hint:"), "{error}");
    // A folder of yesterday's run becomes one of today's: what is the same stays, what is gone goes.
    let state = to.join(".pgstow-download.json");
    let mut yesterday: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    yesterday["run"] = json!("20261121T150405Z-ffffff");
    yesterday["files"]["s/gone.sql"] = json!({"sha256": "", "bytes": 1, "stored_sha256": ""});
    fs::write(&state, yesterday.to_string()).unwrap();
    fs::write(to.join("s/gone.sql"), "x").unwrap();
    let today: Value = serde_json::from_str(&ok(&["download", "--to", to_text, "--json"])).unwrap();
    assert_eq!(today["files"], today["kept"]);
    assert!(!to.join("s/gone.sql").exists() && to.join("manifest.json").exists());
    let foreign = folder.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("precious"), "x").unwrap();
    let (status, error) = code(&["download", "--to", foreign.to_str().unwrap()]);
    assert!(status == 2 && error.contains("not empty"), "{error}");
}

#[test]
fn a_manifest_follows_the_schema_that_pgstow_prints() {
    let output = pgstow(Path::new("/nowhere"), &["schema"]);
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["$defs"]["Latest"].is_object() && schema["$defs"]["Index"].is_object());
    let server = Server::start();
    server.sql(DATABASE);
    let store = run_of(&server, "none");
    let path = store.path().join("runs").join(RUN).join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert!(jsonschema::is_valid(&schema, &manifest));
    manifest["totals"]["rows"] = json!("many");
    assert!(!jsonschema::is_valid(&schema, &manifest));
    assert!(String::from_utf8(pgstow(Path::new("/"), &["completions", "bash"]).stdout).unwrap().contains("download"));
}
