//! A manifest that forgets what its run saved: `verify`, `drill` and `restore` compare it with pg_dump's own table of
//! contents, whatever checksums and sums were mended.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::objects::sha256;
use crate::support::pg::{self, Cluster};
use crate::support::program::{Run, backup, expect_code, expect_failure, pgstow};

/// A store whose newest run was tampered with by somebody who mends sums and checksums.
struct Tampered {
    _folder: TempDir,
    store: PathBuf,
}

impl Tampered {
    fn new(original: &Path, tamper: impl FnOnce(&Path, &mut Value)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let mut copy = std::process::Command::new("cp");
        crate::support::process::succeed(copy.arg("-a").arg(original).arg(&store));
        let run = Run::latest(&store);
        let mut manifest = run.manifest.clone();
        tamper(&run.folder, &mut manifest);
        manifest["totals"] = totals(&manifest);
        let bytes = serde_json::to_vec_pretty(&manifest).unwrap();
        fs::write(run.folder.join("manifest.json"), &bytes).unwrap();
        let mut latest: Value = serde_json::from_slice(&fs::read(store.join("latest.json")).unwrap()).unwrap();
        latest["sha256"] = json!(sha256(&bytes));
        fs::write(store.join("latest.json"), serde_json::to_vec(&latest).unwrap()).unwrap();
        Self { _folder: folder, store }
    }

    /// All three find it, in these words, and nothing is changed.
    #[track_caller]
    fn is_found(&self, cluster: &Cluster, words: &str) {
        let program = |words: &[&str]| {
            let mut command = pgstow();
            command.args(words).arg("--store").arg(&self.store);
            command
        };
        let (out, _) = expect_code(&mut program(&["verify"]), 4);
        assert!(out.contains(words), "verify: {words}\n{out}");
        let (on, to) = (cluster.url("postgres"), cluster.url("forgotten copy"));
        let bin = cluster.bin_dir().to_str().unwrap();
        let (out, _) = expect_code(&mut program(&["drill", "--on", &on, "--pg-bin-dir", bin]), 4);
        assert!(out.contains(words), "drill: {words}\n{out}");
        let (error, _) = expect_failure(&mut program(&["restore", "--create", "--to", &to, "--pg-bin-dir", bin]), 1);
        assert!(error.contains(words), "restore: {words}\n{error}");
        let made = cluster.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'forgotten copy'");
        assert_eq!(made, "0", "restore refuses before the first change");
    }
}

fn totals(manifest: &Value) -> Value {
    let schemas = manifest["schemas"].as_array().unwrap();
    let tables: Vec<&Value> = schemas.iter().flat_map(|s| s["tables"].as_array().unwrap()).collect();
    let mut objects = vec![&manifest["roles"]["object"], &manifest["database"]["object"]];
    objects.extend([&manifest["large_objects"]["object"], &manifest["restore_md"]]);
    objects.extend(schemas.iter().map(|s| &s["dump"]));
    objects.extend(tables.iter().flat_map(|t| [&t["file"], &t["index"]]));
    objects.retain(|object| object.is_object());
    let sum = |values: &[&Value], key: &str| values.iter().map(|v| v[key].as_u64().unwrap()).sum::<u64>();
    json!({
        "schemas": schemas.len(), "tables": tables.len(), "rows": sum(&tables, "rows"),
        "raw_bytes": sum(&tables, "raw_bytes"), "stored_bytes": sum(&objects, "bytes"), "objects": objects.len(),
    })
}

/// The schema of this name in a manifest.
fn schema<'a>(manifest: &'a mut Value, name: &str) -> &'a mut Value {
    manifest["schemas"].as_array_mut().unwrap().iter_mut().find(|s| s["name"] == name).unwrap()
}

fn table<'a>(manifest: &'a mut Value, of: &str, name: &str) -> &'a mut Value {
    schema(manifest, of)["tables"].as_array_mut().unwrap().iter_mut().find(|t| t["name"] == name).unwrap()
}

#[test]
fn what_a_manifest_forgets_is_found_by_verify_drill_and_restore() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(pg::packaged());
    cluster.create_database("forgotten");
    cluster.psql(
        "forgotten",
        "CREATE SCHEMA gone; CREATE TABLE gone.t (id integer); INSERT INTO gone.t VALUES (1);
         CREATE SCHEMA bare; CREATE TABLE kept (id serial, t text); INSERT INTO kept (t) VALUES ('a'), ('b');
         CREATE TABLE parted (id integer) PARTITION BY RANGE (id); CREATE TABLE parted_1 PARTITION OF parted DEFAULT; INSERT INTO parted VALUES (1);
         CREATE UNLOGGED TABLE scratch (id integer); CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM kept; CREATE VIEW v AS SELECT 1;
         SELECT lo_from_bytea(0, 'abc')",
    );
    expect_code(&mut backup(cluster, "forgotten", &store), 0);
    let untouched = Tampered::new(&store, |_, _| {});
    expect_code(pgstow().args(["verify", "--store"]).arg(&untouched.store), 0);

    let of_schema = |name: &'static str| {
        move |run: &Path, manifest: &mut Value| {
            manifest["schemas"].as_array_mut().unwrap().retain(|s| s["name"] != name);
            fs::remove_file(run.join(format!("{name}.dump.zst"))).unwrap();
            drop(fs::remove_dir_all(run.join(name)));
        }
    };
    Tampered::new(&store, of_schema("gone")).is_found(cluster, "schema gone is in @database.dump");
    Tampered::new(&store, of_schema("bare")).is_found(cluster, "schema bare is in @database.dump");
    Tampered::new(&store, of_schema("public")).is_found(cluster, "table public.kept is in @database.dump");
    for (name, kind) in [("kept", "table"), ("parted_1", "table"), ("seen", "materialized view")] {
        let forget = |_: &Path, manifest: &mut Value| {
            schema(manifest, "public")["tables"].as_array_mut().unwrap().retain(|t| t["name"] != name);
        };
        Tampered::new(&store, forget).is_found(cluster, &format!("{kind} public.{name} is in @database.dump"));
    }
    for kind in ["foreign table", "partitioned table", "materialized view"] {
        let rename = |_: &Path, manifest: &mut Value| table(manifest, "public", "kept")["kind"] = json!(kind);
        Tampered::new(&store, rename).is_found(cluster, &format!("and a {kind} in the manifest"));
    }
    for (of, kind, name) in
        [("public", "table", "kept"), ("gone", "schema", "gone"), ("public", "sequence", "kept_id_seq")]
    {
        let skip = |_: &Path, manifest: &mut Value| {
            let gap = json!({"schema": of, "name": name, "kind": kind, "reason": "no reason"});
            manifest["skipped"].as_array_mut().unwrap().push(gap);
        };
        Tampered::new(&store, skip).is_found(cluster, &format!("{kind} {of}.{name} is skipped, in a run that says"));
    }
    let of_large_objects = |run: &Path, manifest: &mut Value| {
        manifest["large_objects"] = json!({"count": 0, "bytes": 0});
        fs::remove_file(run.join("@large-objects.dump.zst")).unwrap();
    };
    Tampered::new(&store, of_large_objects).is_found(cluster, "RESTORE.md restores large objects");

    // A part that is not concerned can be restored still.
    let tampered = Tampered::new(&store, of_schema("gone"));
    cluster.create_database("forgotten copy");
    let mut part = pgstow();
    part.args(["restore", "--schema", "public", "--to", &cluster.url("forgotten copy"), "--pg-bin-dir"]);
    let (_, told) = expect_code(part.arg(cluster.bin_dir()).arg("--store").arg(&tampered.store), 0);
    assert!(told.contains("schema gone is in @database.dump"), "{told}");
    assert_eq!(cluster.psql("forgotten copy", "SELECT count(*) FROM kept"), "2");
    cluster.drop_database("forgotten copy");
    cluster.drop_database("forgotten");
}

/// `zstd` of so many zeros.
fn bomb(bytes: u64) -> Vec<u8> {
    use std::io::Read as _;
    let mut stored = Vec::new();
    zstd::stream::copy_encode(std::io::repeat(0).take(bytes), &mut stored, 3).unwrap();
    stored
}

#[test]
fn what_would_fill_the_memory_is_refused() {
    const LARGE: u64 = 1_200_000_000;
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let cluster = pg::shared(pg::packaged());
    cluster.create_database("bombed");
    cluster.psql("bombed", "CREATE TABLE t (id integer); INSERT INTO t VALUES (1)");
    expect_code(&mut backup(cluster, "bombed", &store), 0);
    let (on, to) = (cluster.url("postgres"), cluster.url("bombed copy"));
    let bin = cluster.bin_dir().to_str().unwrap();
    let drill = ["drill", "--on", &on, "--pg-bin-dir", bin];
    let restore = ["restore", "--create", "--to", &to, "--pg-bin-dir", bin];
    let run = |store: &Path, words: &[&str], code: i32, said: &str| {
        // Debug builds hold a few hundred MiB of address space for their threads.
        let program = pgstow();
        let mut command = std::process::Command::new("prlimit");
        command.arg("--data=900000000").arg(program.get_program()).args(words).arg("--store").arg(store);
        for (key, value) in program.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        let (error, told) = expect_code(command.current_dir("/"), code);
        assert!(format!("{error}{told}").contains(said), "{words:?}: {said}\n{told}");
    };
    let stored = bomb(LARGE);
    for (part, key) in [("roles", "@roles.sql.zst"), ("database", "@database.dump.zst")] {
        for (said, words) in [(None, "decompresses to more than"), (Some(LARGE), "that are read at once")] {
            let tampered = Tampered::new(&store, |run, manifest| {
                fs::write(run.join(key), &stored).unwrap();
                let object = &mut manifest[part]["object"];
                (object["bytes"], object["sha256"]) = (json!(stored.len()), json!(sha256(&stored)));
                if let Some(said) = said {
                    object["raw_bytes"] = json!(said);
                }
            });
            run(&tampered.store, &drill, 4, words);
            run(&tampered.store, &restore, 1, words);
            if part == "database" {
                run(&tampered.store, &["verify"], 4, key);
            }
        }
    }
    for key in ["latest.json", "manifest.json"] {
        let tampered = Tampered::new(&store, |_, _| {});
        let path =
            if key == "latest.json" { tampered.store.join(key) } else { Run::latest(&tampered.store).folder.join(key) };
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(3_000_000_000).unwrap();
        run(&tampered.store, &drill, 4, "is larger than");
        run(&tampered.store, &restore, 1, "is larger than");
        run(&tampered.store, &["verify"], 4, "is larger than");
    }
    cluster.drop_database("bombed");
}
