//! The policy's own checks, verbatim, after `pgstow download`; and that a real run's damage is found.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::judge;
use crate::support::pg::{self, Cluster};
use crate::support::process::{succeed, succeed_with};
use crate::support::program::{Run, awkward, backup, expect_code, expect_failure, files, pgstow};

/// The three checks as the policy has them.
const CHECKS: &str = r#"
source "$DETECT_SH"
detect_schemas "$DB_URL"
echo =====
ls -la backups/latest/
echo =====
find backups/latest -name "*.sql" -o -name "*.dump"
"#;

#[test]
pub(crate) fn the_checks_of_the_policy_hold_verbatim_after_a_download() {
    for version in pg::versions() {
        let source = awkward(version);
        let folder = tempfile::tempdir().unwrap();
        let mut download = pgstow();
        expect_code(download.arg("download").arg("--store").arg(&source.run.store).current_dir(folder.path()), 0);
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", CHECKS])
            .env("DETECT_SH", Path::new(env!("CARGO_MANIFEST_DIR")).join("infra/detect.sh"))
            .env("PGSTOW", env!("CARGO_BIN_EXE_pgstow"))
            .env("DB_URL", source.cluster.url("app"))
            .current_dir(folder.path());
        let out = succeed(&mut bash);
        let [detected, listed, found] = out.split("=====\n").collect::<Vec<_>>().try_into().unwrap();
        for schema in source.run.schemas() {
            let name = schema["name"].as_str().unwrap();
            assert!(detected.contains(&format!("{name}\n")), "{name:?} was not detected:\n{detected}");
            let dump = pgstow::format::layout::schema_dump(name);
            assert!(listed.lines().any(|line| line.ends_with(&format!(" {dump}"))), "{dump} is not in\n{listed}");
            assert!(found.lines().any(|line| line == format!("backups/latest/{dump}")), "{dump} is not in\n{found}");
            for table in schema["tables"].as_array().unwrap() {
                let file = pgstow::format::layout::table_sql(name, table["name"].as_str().unwrap());
                assert!(
                    found.lines().any(|line| line == format!("backups/latest/{file}")),
                    "{file} is not in\n{found}"
                );
            }
        }
        // What was fetched is what was stored, without its compression.
        let latest = folder.path().join("backups/latest");
        for (key, object) in source.run.objects() {
            let plain = key.strip_suffix(".zst").unwrap_or(&key);
            let fetched = fs::read(latest.join(plain)).unwrap_or_else(|error| panic!("{plain}: {error}"));
            assert_eq!(fetched.len() as u64, object["raw_bytes"].as_u64().unwrap(), "{plain}");
            assert!(fetched == source.run.plain(&key), "{plain}");
        }
        // Every relation with a definition of its own has its file.
        let count = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'p', 'f', 'm') \
            AND nspname <> 'information_schema' AND nspname !~ '^pg_(catalog|toast|temp_|toast_temp_)'";
        let tables = found.lines().filter(|line| line.ends_with(".sql") && line.matches('/').count() == 3).count();
        assert_eq!(source.cluster.psql("app", count), tables.to_string());
    }
}

#[test]
fn parts_of_a_run_can_be_fetched_and_a_second_fetch_changes_nothing() {
    let source = awkward(pg::versions()[0]);
    let folder = tempfile::tempdir().unwrap();
    let fetch = |to: &str, arguments: &[&str]| {
        let mut download = pgstow();
        download.arg("download").args(arguments).args(["--to", to, "--store"]).arg(&source.run.store);
        expect_code(download.current_dir(folder.path()), 0);
        files(&folder.path().join(to))
    };
    let odd = "Odd \"schema\"/with.dots";
    let one = fetch("one", &["--schema", odd]);
    assert!(
        one.contains(&pgstow::format::layout::schema_dump(odd)) && !one.iter().any(|file| file.starts_with("kinds")),
        "{one:?}"
    );
    let table = fetch("table", &["--table", "kinds.big"]);
    assert!(
        table.contains(&"kinds/big.sql".to_owned()) && !table.contains(&"kinds/indexed.sql".to_owned()),
        "{table:?}"
    );
    let raw = fetch("raw", &["--raw", "--schema", "kinds"]);
    assert!(raw.contains(&"kinds.dump.zst".to_owned()), "{raw:?}");
    let tables: Vec<&String> = one.iter().filter(|file| file.ends_with(".sql")).collect();
    assert_eq!(tables.len(), 32);
    let stamp = |file: &str| fs::metadata(folder.path().join("one").join(file)).unwrap().modified().unwrap();
    let before: Vec<_> = tables.iter().map(|file| stamp(file)).collect();
    assert_eq!(fetch("one", &["--schema", odd]), one);
    assert!(tables.iter().map(|file| stamp(file)).eq(before), "what is there and sound is not fetched again");
    let mut inside = pgstow();
    inside.args(["download", "--store"]).arg(&source.run.store).arg("--to").arg(source.run.store.join("here"));
    expect_failure(&mut inside, 2);
    let mut none = pgstow();
    none.args(["download", "--table", "kinds.no_such_table", "--to", "none", "--store"]).arg(&source.run.store);
    let output = crate::support::process::output_with(none.current_dir(folder.path()), b"");
    assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
}

#[test]
fn list_and_show_tell_of_the_runs() {
    let cluster = pg::shared(pg::versions()[0]);
    let name = "policy list";
    cluster.create_database(name);
    cluster.psql(name, "CREATE SCHEMA s; CREATE TABLE s.t (id int); INSERT INTO s.t VALUES (1), (2); CREATE TABLE s.ref AS SELECT 1 AS id");
    let store = tempfile::tempdir().unwrap();
    let ask = |arguments: &[&str]| expect_code(pgstow().args(arguments).arg("--store").arg(store.path()), 0).0;
    expect_code(&mut backup(cluster, name, store.path()), 0);
    let first = Run::latest(store.path()).name;
    expect_code(&mut backup(cluster, name, store.path()), 0);
    let second = Run::latest(store.path());
    let listed = ask(&["list"]);
    assert!(listed.contains(&first) && listed.contains(&second.name), "{listed}");
    let shown: serde_json::Value = serde_json::from_str(&ask(&["show", "--json"])).unwrap();
    assert_eq!(shown["run"], second.name.as_str());
    assert!(ask(&["show", &first]).contains(&first));
    let schema = ask(&["show", "--schema", "s"]);
    assert!(schema.contains('t') && schema.contains("ref"), "{schema}");
    ask(&["verify", &first]);
    cluster.drop_database(name);
}

#[test]
pub(crate) fn whatever_is_damaged_in_a_real_run_is_found() {
    let cluster = pg::shared(pg::versions()[0]);
    let name = "policy damage";
    cluster.create_database(name);
    cluster.psql(
        name,
        "CREATE SCHEMA s; CREATE TABLE s.few (id int, t text); INSERT INTO s.few SELECT i, md5(i::text) FROM generate_series(1, 500) i;
         CREATE TABLE s.twin (id int, t text); INSERT INTO s.twin SELECT i, md5(i::text) FROM generate_series(501, 1000) i;
         CREATE TABLE s.empty (id int); CREATE TABLE s.no_columns (); INSERT INTO s.no_columns SELECT FROM generate_series(1, 3);
         CREATE TABLE s.large (id int, t text); INSERT INTO s.large SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 18000) i;
         SELECT lo_from_bytea(5, 'five'), lo_from_bytea(6, repeat('six', 30000)::bytea)",
    );
    let store = tempfile::tempdir().unwrap();
    expect_code(&mut backup(cluster, name, store.path()), 0);
    let tried = crate::reading::damage_is_found(store.path());
    assert!(tried > 80, "{tried}");
    cluster.drop_database(name);
}

/// A database and a run of it in a directory.
struct Source {
    cluster: &'static Cluster,
    database: String,
    run: Run,
    _store: Option<tempfile::TempDir>,
}

impl Source {
    /// The awkward database.
    fn whole() -> Self {
        let awkward = awkward(pg::versions()[0]);
        Self { cluster: &awkward.cluster, database: "app".to_owned(), run: awkward.run.clone(), _store: None }
    }

    /// The awkward database without its tables of 63-byte names.
    fn without_long_names() -> Self {
        let (cluster, database) = (&awkward(pg::versions()[0]).cluster, "policy short names".to_owned());
        let script = cluster.pg_dump("app", &["-T", "*.ééé*"]);
        cluster.create_database(&database);
        let mut psql = cluster.command("psql");
        succeed_with(
            psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d"]).arg(cluster.url(&database)),
            script.as_bytes(),
        );
        let store = tempfile::tempdir().unwrap();
        expect_code(&mut backup(cluster, &database, store.path()), 0);
        Self { cluster, database, run: Run::latest(store.path()), _store: Some(store) }
    }
}

/// What a run into S3 and out of it must be, compared with a run into a directory; `arguments` address the store.
fn there_and_back(source: &Source, environment: &[(&str, String)], store: &str, arguments: &[&str]) {
    let command = |words: &[&str]| {
        let mut command = pgstow();
        command.args(words).args(["--store", store]).args(arguments).envs(environment.iter().map(|(k, v)| (k, v)));
        command
    };
    let mut backup = command(&[
        "backup",
        "--json",
        "--s3-part-size-mib",
        "5",
        "--pg-bin-dir",
        source.cluster.bin_dir().to_str().unwrap(),
    ]);
    let (out, _) = expect_code(backup.env("DATABASE_URL", source.cluster.url(&source.database)), 0);
    let manifest: serde_json::Value = serde_json::from_str(&out).unwrap();
    for field in ["tables", "rows", "raw_bytes", "schemas"] {
        assert_eq!(manifest["totals"][field], source.run.manifest["totals"][field], "{field}");
    }
    expect_code(&mut command(&["verify"]), 0);
    assert!(expect_code(&mut command(&["list"]), 0).0.contains(manifest["run"].as_str().unwrap()));
    let folder = tempfile::tempdir().unwrap();
    expect_code(command(&["download"]).current_dir(folder.path()), 0);
    let latest = folder.path().join("backups/latest");
    for (key, _) in source.run.objects().iter().filter(|(key, _)| key.ends_with(".sql.zst") && !key.starts_with('@')) {
        let plain = key.strip_suffix(".zst").unwrap();
        // The sequences' values and the roles are read beside the snapshot; nobody writes here.
        assert!(fs::read(latest.join(plain)).unwrap() == source.run.plain(key), "{plain}");
    }
    let cluster = source.cluster;
    let archive = fs::read(latest.join("kinds.dump")).unwrap();
    let ours = succeed_with(cluster.command("pg_restore").args(["-f", "-"]), &archive).stdout;
    let theirs =
        succeed_with(cluster.command("pg_restore").args(["-f", "-"]), &source.run.plain("kinds.dump.zst")).stdout;
    judge::assert_same(
        &judge::comparable(&String::from_utf8(theirs).unwrap()),
        &judge::comparable(&String::from_utf8(ours).unwrap()),
    );
}

#[test]
pub(crate) fn a_run_into_a_real_s3_server_and_out_of_it_path_style_and_virtual_host() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(crate::support::s3::S3Server::start(folder.path()));
    let mut environment = server.env();
    // This server makes one file name of a whole key, which may have 255 bytes: the longest names stay at home.
    let source = Source::without_long_names();
    there_and_back(&source, &environment, &format!("s3://{}/path/style", server.bucket), &[]);
    for (name, value) in &mut environment {
        if *name == "AWS_ENDPOINT_URL_S3" {
            value.clone_from(&server.virtual_host_endpoint);
        }
    }
    there_and_back(&source, &environment, &format!("s3://{}/virtual", server.bucket), &["--s3-path-style=false"]);
    let stored = files(&folder.path().join(&server.bucket));
    assert!(
        stored.iter().any(|f| f.starts_with("path/style/runs/")) && stored.iter().any(|f| f == "virtual/latest.json"),
        "{stored:?}"
    );
}

#[test]
#[ignore = "needs PGSTOW_TEST_S3_ENDPOINT, PGSTOW_TEST_S3_BUCKET and AWS credentials of a real server"]
pub(crate) fn a_run_into_the_s3_server_of_the_environment_and_out_of_it() {
    let bucket = std::env::var("PGSTOW_TEST_S3_BUCKET").expect("PGSTOW_TEST_S3_BUCKET names a bucket");
    let mut environment: Vec<(&str, String)> = vec![(
        "AWS_ENDPOINT_URL_S3",
        std::env::var("PGSTOW_TEST_S3_ENDPOINT").expect("PGSTOW_TEST_S3_ENDPOINT is a URL"),
    )];
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"] {
        environment.extend(std::env::var(name).ok().map(|value| (name, value)));
    }
    let prefix = format!("policy-{}", std::process::id());
    there_and_back(&Source::whole(), &environment, &format!("s3://{bucket}/{prefix}"), &[]);
    // Garage names a version in each answer and keeps none; another server may keep them.
    let mut doctor = crate::support::program::pgstow();
    doctor.args(["doctor", "--json", "--skip-database", "--store", &format!("s3://{bucket}/{prefix}")]);
    let out = crate::support::process::succeed(doctor.envs(environment.iter().map(|(name, value)| (name, value))));
    let document: serde_json::Value = serde_json::from_str(&out).expect("doctor prints JSON");
    let abilities = document["store"]["abilities"].as_array().expect("doctor lists abilities");
    let versioning = abilities.iter().find(|one| one["name"] == "versioning").expect("versioning was tried");
    let wanted = std::env::var("PGSTOW_TEST_S3_VERSIONS").map_or("no", |_kept| "yes");
    assert_eq!(versioning["seen"], wanted, "{versioning}");
}
