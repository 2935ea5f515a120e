//! What `pgstow detect` tells each role, and what `pgstow backup` does about what a role cannot read: nothing is lost
//! quietly. Roles log in by SCRAM passwords; some know next to nothing.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::pg::{self, Cluster};
use crate::support::program::{Run, awkward, backup, expect_code, expect_failure, files, pgstow, restore_as_told};
use crate::support::{judge, process};

/// The roles of these tests and what they may do, in one database.
const PRIVATE: &str = r#"
CREATE SCHEMA open; CREATE SCHEMA hidden; CREATE SCHEMA pgatemp_data; CREATE SCHEMA "Odd ""x"";--/."; CREATE SCHEMA empty;
CREATE TABLE open.t (id serial PRIMARY KEY, t text); INSERT INTO open.t (t) VALUES ('a'), ('b');
CREATE TABLE open.secret (id int); INSERT INTO open.secret VALUES (7);
CREATE TABLE open.policed (id int); INSERT INTO open.policed VALUES (1), (2);
ALTER TABLE open.policed ENABLE ROW LEVEL SECURITY;
CREATE POLICY half ON open.policed USING (id = 1);
CREATE TABLE open.by_columns (a int, b int); INSERT INTO open.by_columns VALUES (1, 2);
CREATE SEQUENCE open.counter; SELECT nextval('open.counter');
CREATE TABLE hidden.deep (id int); INSERT INTO hidden.deep VALUES (3);
CREATE TABLE pgatemp_data.kept (id int); INSERT INTO pgatemp_data.kept VALUES (4);
CREATE TABLE "Odd ""x"";--/."."line
break" (id int); INSERT INTO "Odd ""x"";--/."."line
break" VALUES (5);
SELECT lo_from_bytea(4711, 'someone else''s');
"#;

/// Makes the database and a role that may read some of it.
fn private(cluster: &Cluster, name: &str, role: &str) {
    cluster.create_database(name);
    cluster.psql(name, PRIVATE);
    cluster.psql(
        name,
        &format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'pw';
             GRANT USAGE ON SCHEMA open, pgatemp_data, \"Odd \"\"x\"\";--/.\" TO {role};
             GRANT SELECT ON open.t, open.policed, pgatemp_data.kept TO {role};
             GRANT SELECT (a) ON open.by_columns TO {role}"
        ),
    );
}

fn drop_private(cluster: &Cluster, name: &str, role: &str) {
    cluster.drop_database(name);
    cluster.psql("postgres", &format!("DROP ROLE {role}"));
}

fn detect(url: &str, arguments: &[&str]) -> String {
    expect_code(pgstow().arg("detect").args(arguments).env("DATABASE_URL", url), 0).0
}

fn detect_json(url: &str) -> Value {
    serde_json::from_str(&detect(url, &["--json"])).unwrap()
}

/// `kind schema.name` of everything unreadable, sorted.
fn unreadable(detection: &Value) -> Vec<String> {
    let told = detection["unreadable"].as_array().unwrap().iter();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all: Vec<String> =
        told.map(|u| format!("{} {}.{}", word(&u["kind"]), word(&u["schema"]), word(&u["name"]))).collect();
    all.sort();
    all
}

#[test]
pub(crate) fn a_superuser_sees_everything_and_misses_nothing() {
    for version in pg::versions() {
        let source = awkward(version);
        let url = source.cluster.url("app");
        let detection = detect_json(&url);
        assert_eq!(unreadable(&detection), Vec::<String>::new());
        // The policy's own query, and what its wildcard misses.
        let policy = "SELECT count(*) FROM information_schema.schemata WHERE schema_name NOT IN ('pg_catalog', 'information_schema', 'pg_toast') \
            AND schema_name NOT LIKE 'pg_temp%' AND schema_name NOT LIKE 'pg_toast_temp%'";
        let count: usize = source.cluster.psql("app", policy).parse().unwrap();
        let schemas = detection["schemas"].as_array().unwrap();
        assert_eq!(schemas.len(), count + 1, "{schemas:#?}");
        let missed: Vec<&Value> = schemas.iter().filter(|s| s["by_policy_query"] == false).collect();
        assert!(
            missed.len() == 1 && missed[0]["name"] == "pgatemp_data" && missed[0]["note"].is_string(),
            "{missed:?}"
        );
        let relations = detection["relations"].as_array().unwrap();
        let covered = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'p', 'f', 'm', 'S') \
            AND nspname <> 'information_schema' AND nspname !~ '^pg_(catalog|toast|temp_|toast_temp_)'";
        assert_eq!(relations.len().to_string(), source.cluster.psql("app", covered));
        let text = detect(&url, &[]);
        assert!(
            text.contains("(superuser)") && text.contains("pgatemp_data") && !text.contains("unreadable by"),
            "{text}"
        );
        assert!(!text.contains("touch /tmp/pwned\n"), "a name began a line of its own: {text}");
        let names: Vec<&str> = schemas.iter().filter_map(|s| s["name"].as_str()).collect();
        assert_eq!(detect(&url, &["--schemas"]), names.join("\n") + "\n");
        assert_eq!(serde_json::from_str::<Vec<String>>(&detect(&url, &["--schemas", "--json"])).unwrap(), names);
    }
}

#[test]
fn a_pipe_that_closes_early_is_no_failure() {
    let source = awkward(pg::versions()[0]);
    let script = format!(
        "set -o pipefail; '{}' detect | head -1; '{0}' detect --json | head -c 10",
        env!("CARGO_BIN_EXE_pgstow")
    );
    let mut bash = Command::new("bash");
    let out =
        process::succeed(bash.args(["-c", &script]).env("DATABASE_URL", source.cluster.url("app")).current_dir("/"));
    assert!(out.starts_with("PostgreSQL "), "{out}");
}

#[test]
fn detect_schemas_of_the_policy_prints_the_schemas() {
    let source = awkward(pg::versions()[0]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("infra/detect.sh");
    let mut bash = Command::new("bash");
    bash.args(["-euc", "source \"$1\"; detect_schemas \"$2\"", "bash"]).arg(script).arg(source.cluster.url("app"));
    let out =
        process::succeed(bash.env("PGSTOW", env!("CARGO_BIN_EXE_pgstow")).current_dir("/").stderr(Stdio::inherit()));
    for schema in [
        "auth",
        "storage",
        "realtime",
        "vault",
        "extensions",
        "graphql",
        "graphql_public",
        "pgbouncer",
        "public",
        "lh_billing",
        "analytics",
        "pgatemp_data",
    ] {
        assert!(out.lines().any(|line| line == schema), "{schema} is missing:\n{out}");
    }
}

#[test]
pub(crate) fn a_role_that_reads_little_is_told_what_and_the_cure_cures() {
    for version in pg::versions() {
        let (cluster, name, role) = (pg::shared(version), "detect little", "reads_little");
        private(cluster, name, role);
        let url = cluster.url_as(role, "pw", name);
        let detection = detect_json(&url);
        let told = unreadable(&detection);
        for word in [
            "schema ",
            "table open.secret",
            "table open.policed",
            "table open.by_columns",
            "sequence open.counter",
            "sequence open.t_id_seq",
            "large object ",
            "hidden",
            "line\nbreak",
        ] {
            assert!(told.iter().any(|line| line.contains(word)), "{word:?} is not in {told:?}");
        }
        assert!(!told.iter().any(|line| line.ends_with("open.t") || line.contains("kept")), "{told:?}");
        let store = tempfile::tempdir().unwrap();
        let mut command = backup(cluster, name, store.path());
        let (error, all) = expect_failure(command.env("DATABASE_URL", &url), 1);
        assert!(error.contains("cannot read everything") && error.contains("open.secret"), "{error}");
        assert_eq!(files(store.path()), Vec::<String>::new(), "not a byte may be written");
        partial(cluster, &url, name);
        cure(cluster, name, role, &all);
        expect_code(command.env("DATABASE_URL", &url), 0);
        let run = Run::latest(store.path());
        assert_eq!(run.manifest["status"], "complete");
        assert_eq!(run.rows("open", "policed"), ["1", "2"]);
        assert_eq!(run.rows("hidden", "deep"), ["3"]);
        assert_eq!(run.rows("Odd \"x\";--/.", "line\nbreak"), ["5"]);
        assert_eq!(run.manifest["large_objects"]["count"], 1);
        expect_code(pgstow().arg("verify").arg("--store").arg(store.path()), 0);
        if run.manifest["roles"]["passwords"] == false {
            let omitted = run.manifest["omitted"].as_array().unwrap();
            assert!(omitted.iter().any(|o| o["kind"] == "role passwords"), "{omitted:?}");
        }
        drop_private(cluster, name, role);
    }
}

/// Executes the statements of the `hint:` lines, until nothing is unreadable: one cure may uncover the next gap.
fn cure(cluster: &Cluster, name: &str, role: &str, first: &str) {
    let url = cluster.url_as(role, "pw", name);
    assert!(first.contains("hint: GRANT "), "{first}");
    for _round in 0..4 {
        let detection = detect_json(&url);
        let cures: Vec<&str> =
            detection["unreadable"].as_array().unwrap().iter().filter_map(|u| u["cure"].as_str()).collect();
        if cures.is_empty() {
            return;
        }
        for cure in cures {
            assert!(!cure.is_empty(), "{detection:#}");
            cluster.psql(name, cure);
        }
    }
    panic!("the cures do not cure: {:?}", unreadable(&detect_json(&url)));
}

/// `--allow-unreadable`: exit 3, everything else saved, each gap named.
fn partial(cluster: &Cluster, url: &str, name: &str) {
    let store = tempfile::tempdir().unwrap();
    let mut command = backup(cluster, name, store.path());
    let (out, _) = expect_code(command.env("DATABASE_URL", url).args(["--allow-unreadable", "--json"]), 3);
    let printed: Value = serde_json::from_str(&out).unwrap();
    assert!(!store.path().join("latest.json").exists(), "latest must not move to a partial run");
    let run = Run::named(store.path(), printed["run"].as_str().unwrap());
    assert_eq!((&run.manifest["status"], &printed), (&Value::from("partial"), &run.manifest));
    assert_eq!(run.rows("open", "t"), ["1\ta", "2\tb"]);
    assert_eq!(run.rows("pgatemp_data", "kept"), ["4"]);
    let skipped = run.manifest["skipped"].as_array().unwrap();
    let restore = std::fs::read_to_string(run.folder.join("RESTORE.md")).unwrap();
    for (schema, gap) in [
        ("open", "secret"),
        ("open", "policed"),
        ("open", "by_columns"),
        ("open", "counter"),
        ("open", "t_id_seq"),
        ("hidden", "deep"),
    ] {
        let named = skipped.iter().any(|s| s["schema"] == schema && s["name"] == gap);
        let whole = skipped.iter().any(|s| s["kind"] == "schema" && s["name"] == schema);
        assert!(named || whole, "{schema}.{gap} is not in {skipped:?}");
        assert!(restore.contains(gap) || whole, "{restore}");
    }
    assert!(skipped.iter().any(|s| s["kind"].as_str().unwrap().contains("large object")), "{skipped:?}");
    expect_code(pgstow().args(["verify", &run.name, "--store"]).arg(store.path()), 0);
    let mut again = backup(cluster, name, store.path());
    expect_code(again.env("DATABASE_URL", url).args(["--allow-unreadable", "--allow-partial-latest"]), 3);
    assert_eq!(Run::latest(store.path()).manifest["status"], "partial");
}

#[test]
pub(crate) fn an_owner_and_pg_read_all_data_need_no_superuser() {
    for version in pg::versions() {
        let (cluster, name) = (pg::shared(version), "detect owner");
        cluster.psql("postgres", "CREATE ROLE owns_it LOGIN PASSWORD 'pw'; CREATE ROLE reads_all LOGIN BYPASSRLS PASSWORD 'pw' IN ROLE pg_read_all_data");
        cluster.create_database_with(name, "OWNER owns_it");
        cluster.psql(name, "SET ROLE owns_it; CREATE SCHEMA s; CREATE TABLE s.t (id serial, t text); INSERT INTO s.t (t) VALUES ('x'); \
            ALTER TABLE s.t ENABLE ROW LEVEL SECURITY; CREATE POLICY none ON s.t USING (false)");
        for role in ["owns_it", "reads_all"] {
            let url = cluster.url_as(role, "pw", name);
            assert_eq!(unreadable(&detect_json(&url)), Vec::<String>::new(), "{role}");
            let store = tempfile::tempdir().unwrap();
            expect_code(backup(cluster, name, store.path()).env("DATABASE_URL", &url), 0);
            let run = Run::latest(store.path());
            assert_eq!(
                (run.rows("s", "t"), &run.manifest["source"]["role"]),
                (vec!["1\tx".to_owned()], &Value::from(role))
            );
            assert_eq!(
                (&run.manifest["source"]["superuser"], &run.manifest["roles"]["passwords"]),
                (&Value::from(false), &Value::from(role == "reads_all"))
            );
            let roles = String::from_utf8(run.plain(run.manifest["roles"]["object"]["key"].as_str().unwrap())).unwrap();
            assert_eq!(
                (roles.contains("CREATE ROLE owns_it"), roles.contains("SCRAM-SHA-256")),
                (true, role == "reads_all")
            );
        }
        // Row-level security with FORCE holds for the owner too.
        cluster.psql(name, "ALTER TABLE s.t FORCE ROW LEVEL SECURITY");
        let told = unreadable(&detect_json(&cluster.url_as("owns_it", "pw", name)));
        assert_eq!(told, ["table s.t"]);
        cluster.drop_database(name);
        cluster.psql("postgres", "DROP ROLE owns_it; DROP ROLE reads_all");
    }
}

#[test]
pub(crate) fn latin1_and_sql_ascii_come_back_byte_for_byte() {
    for version in pg::versions() {
        let source = pg::shared(version);
        for (name, options) in
            [("detect latin1", "ENCODING 'LATIN1' LOCALE 'C'"), ("detect ascii", "ENCODING 'SQL_ASCII' LOCALE 'C'")]
        {
            let copy = format!("{name} copy");
            source.create_database_with(name, options);
            source.create_database_with(&copy, options);
            source.psql(
                name,
                "SET client_encoding = 'UTF8'; CREATE SCHEMA \"s\"; CREATE TABLE s.t (id int, t text DEFAULT 'x')",
            );
            if name.ends_with("latin1") {
                source.psql(name, "CREATE TABLE s.\"größe\" (\"é\" text); INSERT INTO s.\"größe\" VALUES ('Ünï'), (chr(255)), (E'tab\\t')");
                source.psql(name, "INSERT INTO s.t SELECT i, chr(i) FROM generate_series(1, 255) i");
            } else {
                // Bytes of no encoding at all.
                source.psql(name, "INSERT INTO s.t SELECT i, convert_from(set_byte('\\x2e'::bytea, 0, i), 'SQL_ASCII') FROM generate_series(1, 255) i");
            }
            let store = tempfile::tempdir().unwrap();
            expect_code(&mut backup(source, name, store.path()), 0);
            let run = Run::latest(store.path());
            expect_code(pgstow().arg("verify").arg("--store").arg(store.path()), 0);
            restore_as_told(&run, source, &copy);
            let bytes = "SELECT string_agg(encode(convert_to(t, getdatabaseencoding()::name), 'hex'), ',' ORDER BY id) FROM s.t";
            let theirs = source.psql(name, bytes);
            assert!(theirs.split(',').count() == 255 && theirs.ends_with("ff"), "{theirs}");
            assert_eq!(theirs, source.psql(&copy, bytes));
            if name.ends_with("latin1") {
                judge::assert_same_database((source, name), (source, &copy));
            }
            source.psql(&copy, "DROP TABLE s.t");
            let mut psql = source.command("psql");
            psql.args(["-X", "-q", "-f", "-", "-d"]).arg(source.url(&copy)).env_remove("PGCLIENTENCODING");
            process::succeed_with(&mut psql, &run.plain(run.table("s", "t")["file"]["key"].as_str().unwrap()));
            assert_eq!(theirs, source.psql(&copy, bytes), "from the table's own file");
            source.drop_database(name);
            source.drop_database(&copy);
        }
    }
}
