//! Objects cut into volumes, in a real S3 server that takes no large ones: written, read by every command and by the
//! stock tools, and damage in one volume named as that volume.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tokio::runtime::Runtime;

use crate::support::pg::{self, Cluster};
use crate::support::process::succeed;
use crate::support::program::{self, Run, expect_code, expect_failure, pgstow, restore_as_told_with};
use crate::support::proxy::{Fault, Proxy};
use crate::support::s3::S3Server;

const STORE: &str = "s3://backups/pre";
/// 14 MB of zstd, 75 MB of text.
const DATABASE: &str = "CREATE TABLE big (id integer PRIMARY KEY, t text);
    ALTER TABLE big ALTER t SET STORAGE PLAIN;
    INSERT INTO big SELECT i, (SELECT repeat(string_agg(md5((i * 64 + j)::text), ''), 3) FROM generate_series(1, 56) j)
    FROM generate_series(1, 14000) i; VACUUM ANALYZE big;
    CREATE TABLE small (id integer REFERENCES big); INSERT INTO small VALUES (1);
    SELECT lo_from_bytea(0, decode(string_agg(md5(i::text), ''), 'hex')) FROM generate_series(1, 100000) i";
const ROWS: &str = "SELECT (SELECT count(*) || ':' || sum(hashtextextended(id || t, 0)) FROM big), (SELECT count(*) FROM small), \
    (SELECT string_agg(md5(lo_get(oid)), '') FROM pg_largeobject_metadata)";

/// An S3 server behind a proxy that refuses the third part of an upload: no object above 10 MiB.
struct Limited {
    folder: tempfile::TempDir,
    proxy: Proxy,
    server: S3Server,
    _runtime: Runtime,
    cluster: &'static Cluster,
}

impl Limited {
    fn new(database: &str) -> Self {
        let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
        let server = runtime.block_on(S3Server::start(folder.path()));
        let too_large = Fault::Answer(413, "EntityTooLarge");
        let proxy = runtime.block_on(Proxy::start(server.port, move |asked| {
            (asked.sends_part() && asked.target.contains("partNumber=3&")).then_some(too_large)
        }));
        let cluster = pg::shared(15);
        cluster.create_database(database);
        cluster.psql(database, DATABASE);
        Self { folder, proxy, server, _runtime: runtime, cluster }
    }

    fn with_store(&self, mut command: Command) -> Command {
        command.envs(self.server.env()).env("AWS_ENDPOINT_URL_S3", &self.proxy.endpoint);
        command.args(["--s3-part-size-mib", "5"]);
        command
    }

    fn backup(&self, database: &str, more: &[&str]) -> Command {
        let mut backup = self.with_store(program::backup(self.cluster, database, Path::new(STORE)));
        backup.args(more);
        backup
    }

    fn reading(&self, words: &[&str]) -> Command {
        let mut command = pgstow();
        command.args(words).args(["--store", STORE]);
        self.with_store(command)
    }

    fn restore(&self, database: &str, more: &[&str]) -> Command {
        let url = self.cluster.url(database);
        let mut restore = self.reading(&["restore", "--to", &url]);
        restore.arg("--pg-bin-dir").arg(self.cluster.bin_dir()).args(more);
        restore
    }

    fn run(&self) -> Run {
        Run::latest(&self.folder.path().join("backups/pre"))
    }

    fn damaged(&self, more: &[&str], code: i32) -> Vec<String> {
        let mut verify = self.reading(&["verify", "--json"]);
        let verdict: Value = serde_json::from_str(&expect_code(verify.args(more), code).0).unwrap();
        verdict["damaged"].as_array().unwrap().iter().map(|one| one["key"].as_str().unwrap().to_owned()).collect()
    }
}

/// The volumes of an object: as many as the limit asks for, together the object.
fn volumes(run: &Run, object: &Value, limit: u64) -> Vec<PathBuf> {
    let volumes = object["volumes"].as_array().expect("it is split");
    let paths: Vec<PathBuf> = volumes.iter().map(|v| run.folder.join(v["key"].as_str().unwrap())).collect();
    let whole = object["key"].as_str().unwrap().strip_suffix(".001").unwrap().to_owned();
    let mut left = object["bytes"].as_u64().unwrap();
    assert_eq!(volumes.len() as u64, left.div_ceil(limit));
    for (at, (volume, path)) in volumes.iter().zip(&paths).enumerate() {
        assert_eq!(volume["key"], format!("{whole}.{:03}", at + 1));
        assert_eq!(volume["bytes"], left.min(limit));
        assert_eq!(fs::metadata(path).unwrap().len(), left.min(limit));
        left = left.saturating_sub(limit);
    }
    let cat = format!("cat '{}'/'{whole}'.0* | sha256sum", run.folder.display());
    assert_eq!(succeed(Command::new("sh").args(["-c", &cat]))[..64], object["sha256"].as_str().unwrap()[..]);
    paths
}

#[test]
pub(crate) fn a_store_with_a_limit_is_told_of_and_takes_volumes_that_every_command_reads() {
    let (name, copy) = ("volumes", "volumes_copy");
    let s3 = Limited::new(name);
    s3.cluster.create_database(copy);
    let (error, all) = expect_failure(&mut s3.backup(name, &["--compression", "none"]), 1);
    assert!(error.contains("EntityTooLarge") && all.contains("hint:") && all.contains("--max-object-size"), "{all}");

    expect_code(&mut s3.backup(name, &["--compression", "none", "--max-object-size", "10MB"]), 0);
    let run = s3.run();
    let table = run.table("public", "big");
    let paths = volumes(&run, &table["file"], 10_000_000);
    assert!(paths.len() > 6 && table["index"]["key"] == "public/big.index", "{table}");
    volumes(&run, &run.schema("public")["dump"], 10_000_000);
    assert_eq!(run.table("public", "small")["file"]["key"], "public/small.sql");
    assert_eq!(s3.damaged(&[], 0), Vec::<String>::new());
    // Pieces of 16 MiB begin and end inside of volumes.
    expect_code(&mut s3.restore(copy, &[]), 0);
    assert_eq!(s3.cluster.psql(name, ROWS), s3.cluster.psql(copy, ROWS));
    s3.cluster.drop_database(copy);
    s3.cluster.create_database(copy);

    let key = |number: usize| format!("public/big.sql.{number:03}");
    let sound: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let mut flipped = sound[2].clone();
    flipped[5_000_000] ^= 1;
    fs::write(&paths[2], flipped).unwrap();
    let (error, _) = expect_failure(&mut s3.restore(copy, &[]), 1);
    assert!(error.contains(&key(3)) && error.contains("piece"), "{error}");
    assert_eq!(s3.cluster.psql(copy, "SELECT count(*) FROM big"), "0");
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("to").display().to_string();
    let (error, _) = expect_failure(&mut s3.reading(&["download", "--to", &to]), 4);
    assert!(error.contains(&key(3)) && !error.contains(&key(2)), "{error}");
    // Another two changed places.
    fs::write(&paths[4], &sound[5]).unwrap();
    fs::write(&paths[5], &sound[4]).unwrap();
    assert_eq!(s3.damaged(&[], 4), [key(3), key(5), key(6)]);
    for at in [2, 4, 5] {
        fs::write(&paths[at], &sound[at]).unwrap();
    }
    fs::remove_file(&paths[3]).unwrap();
    assert_eq!(s3.damaged(&[], 4), [key(4)]);
    let (error, _) = expect_failure(&mut s3.restore(copy, &[]), 1);
    assert!(error.contains(&format!("{}: missing", key(4))), "{error}");
    fs::write(&paths[3], &sound[3]).unwrap();
    expect_code(&mut s3.reading(&["download", "--to", &to]), 0);
    assert!(fs::read(folder.path().join("to/public/big.sql")).unwrap().starts_with(&sound[0]));
    assert!(!program::files(&folder.path().join("to")).iter().any(|file| file.contains(".00")));

    s3.cluster.drop_database(copy);
    s3.cluster.create_database(copy);
    // Pieces of what is encrypted begin and end inside of age's chunks too.
    let (file, public) = key_pair(folder.path());
    expect_code(&mut s3.backup(name, &["--compression", "none", "--max-object-size", "10MB", "--encrypt", &public]), 0);
    let run = s3.run();
    let table = run.table("public", "big");
    assert!(volumes(&run, &table["file"], 10_000_000).len() > 6 && table["index"]["key"] == "public/big.index.age");
    assert_eq!(s3.damaged(&["--identity", &file], 0), Vec::<String>::new());
    expect_code(&mut s3.restore(copy, &["--identity", &file]), 0);
    assert_eq!(s3.cluster.psql(name, ROWS), s3.cluster.psql(copy, ROWS));
    s3.cluster.drop_database(copy);
}

/// A key of the stock `age-keygen`: its file and its public half.
fn key_pair(folder: &Path) -> (String, String) {
    let file = folder.join("key.txt");
    succeed(Command::new("age-keygen").arg("-o").arg(&file));
    let public = succeed(Command::new("age-keygen").arg("-y").arg(&file)).trim().to_owned();
    (file.display().to_string(), public)
}

#[test]
pub(crate) fn volumes_of_compressed_and_encrypted_objects_restore_with_stock_tools_as_told() {
    let (name, copy) = ("volumes_sealed", "volumes_sealed_copy");
    let s3 = Limited::new(name);
    let folder = tempfile::tempdir().unwrap();
    let (file, public) = key_pair(folder.path());
    expect_code(&mut s3.backup(name, &["--encrypt", &public, "--max-object-size", "1.5MB"]), 0);
    let run = s3.run();
    let table = &run.table("public", "big")["file"];
    assert!(table["key"].as_str().unwrap().ends_with("big.sql.zst.age.001"), "{table}");
    let paths = volumes(&run, table, 1_500_000);
    volumes(&run, &run.manifest["large_objects"]["object"], 1_500_000);
    let identity = ["--identity", file.as_str()];
    assert_eq!((s3.damaged(&[], 0), s3.damaged(&identity, 0)), (Vec::new(), Vec::new()));

    let raw = folder.path().join("raw").display().to_string();
    expect_code(&mut s3.reading(&["download", "--raw", "--to", &raw]), 0);
    let fetched = Run { folder: PathBuf::from(&raw), ..run.clone() };
    s3.cluster.create_database(copy);
    restore_as_told_with(&fetched, s3.cluster, copy, Some(Path::new(&file)));
    assert_eq!(s3.cluster.psql(name, ROWS), s3.cluster.psql(copy, ROWS));
    s3.cluster.drop_database(copy);
    s3.cluster.create_database(copy);
    expect_code(&mut s3.restore(copy, &identity), 0);
    assert_eq!(s3.cluster.psql(name, ROWS), s3.cluster.psql(copy, ROWS));
    s3.cluster.drop_database(copy);
    s3.cluster.create_database(copy);

    let sound = fs::read(&paths[4]).unwrap();
    let mut flipped = sound.clone();
    flipped[70_000] ^= 1;
    fs::write(&paths[4], &flipped).unwrap();
    for more in [&[][..], &identity] {
        assert_eq!(s3.damaged(more, 4), ["public/big.sql.zst.age.005"]);
    }
    let (error, _) = expect_failure(&mut s3.restore(copy, &identity), 1);
    assert!(error.contains("public/big.sql.zst.age.005"), "{error}");
    fs::write(&paths[4], &sound).unwrap();
    s3.cluster.drop_database(copy);
}
