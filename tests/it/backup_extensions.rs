//! What extensions own and pg_dump leaves out: rows, sequences. Of an extension nobody has heard of, of pg_cron and
//! pgAgent, and a database in the shape of a Supabase project.

use std::path::Path;
use std::process::Command;

use crate::support::pg::{self, Cluster};
use crate::support::program::{Run, backup, expect_code, pgstow, restore_as_told};
use crate::support::{judge, process};

/// A run of `app`, restored as RESTORE.md says into `app` of another server.
fn there_and_back(source: &Cluster) -> (tempfile::TempDir, Run, Cluster) {
    let store = tempfile::tempdir().unwrap();
    expect_code(&mut backup(source, "app", store.path()), 0);
    expect_code(pgstow().arg("verify").arg("--store").arg(store.path()), 0);
    let run = Run::latest(store.path());
    assert_eq!(run.manifest["status"], "complete");
    let target = Cluster::start(source.version());
    target.create_database("app");
    restore_as_told(&run, &target, "app");
    judge::assert_same_database((source, "app"), (&target, "app"));
    (store, run, target)
}

/// The same answer from both, and not an empty one.
#[track_caller]
fn same(source: &Cluster, target: &Cluster, question: &str) {
    let answer = source.psql("app", question);
    assert!(!answer.is_empty(), "{question}");
    assert_eq!(answer, target.psql("app", question), "{question}");
}

#[test]
fn an_extension_nobody_has_heard_of_keeps_its_rows_and_numbers() {
    for version in pg::versions() {
        let source = Cluster::start(version);
        source.install_extension(&pg::fixture("ext"));
        source.create_database("app");
        source.psql(
            "app",
            "CREATE EXTENSION pgstow_probe; SET search_path = pgstow_probe;
             INSERT INTO plain VALUES (3, E'a user''s\\t\\\\.'), (4, NULL); UPDATE plain SET t = 'changed' WHERE id = 1;
             INSERT INTO plain_empty VALUES (1, 'x'), (1, 'x'); INSERT INTO filtered VALUES (3, 'a user''s', false);
             SELECT setval('numbers', 42);
             INSERT INTO z_referred VALUES (-1), (1), (2); INSERT INTO a_refers VALUES (2, NULL), (1, 2);
             INSERT INTO decoded VALUES (3, 'a user''s'); UPDATE decoded SET t = 'changed' WHERE id = 1;
             CREATE SCHEMA app; CREATE TABLE app.checked (id integer PRIMARY KEY CHECK (pgstow_probe.known(id)));
             CREATE INDEX ON app.checked ((id + 1));
             INSERT INTO configured VALUES (1), (2); INSERT INTO app.checked VALUES (1), (2);
             INSERT INTO configured VALUES (-1)",
        );
        let (store, run, target) = there_and_back(&source);
        let tables = ["plain", "plain_empty", "filtered", "z_referred", "a_refers", "configured", "decoded"];
        for table in tables {
            same(&source, &target, &format!("SELECT t FROM pgstow_probe.{table} t ORDER BY t::text"));
            assert_eq!(run.table("pgstow_probe", table)["extension"], "pgstow_probe");
        }
        same(&source, &target, "SELECT last_value, is_called FROM pgstow_probe.numbers");
        assert_eq!(run.table("pgstow_probe", "filtered")["rows"], 1);
        assert!(run.table("pgstow_probe", "filtered")["filter"].as_str().unwrap().contains("builtin"));
        // The schema's archive alone is enough, where there is nothing yet.
        target.create_database("alone");
        let archive = run.plain(run.schema("pgstow_probe")["dump"]["key"].as_str().unwrap());
        let mut restore = target.command("pg_restore");
        process::succeed_with(restore.args(["--exit-on-error", "-d"]).arg(target.url("alone")), &archive);
        let rows = "SELECT t FROM pgstow_probe.plain t ORDER BY t::text";
        assert_eq!(source.psql("app", rows), target.psql("alone", rows));
        // By several sessions too: what refers depends on what it refers to.
        target.create_database("parallel");
        let file = store.path().join("plain.dump");
        std::fs::write(&file, &archive).unwrap();
        let mut restore = target.command("pg_restore");
        restore.args(["--exit-on-error", "--jobs=4", "-d"]).arg(target.url("parallel")).arg(&file);
        process::succeed(&mut restore);
        let mut restore = pgstow();
        restore.args(["restore", "--create", "--to"]).arg(target.url("restored")).arg("--store").arg(store.path());
        expect_code(restore.env("PGSTOW_PG_BIN_DIR", target.bin_dir()), 0);
        judge::assert_same_database((&source, "app"), (&target, "restored"));
        for table in tables {
            let rows = format!("SELECT t FROM pgstow_probe.{table} t ORDER BY t::text");
            for restored in ["parallel", "restored"] {
                assert_eq!(source.psql("app", &rows), target.psql(restored, &rows), "{table} of {restored}");
            }
        }
    }
}

/// The version whose server has these extensions.
#[track_caller]
fn version_with(extension: &str) -> u32 {
    let has = |version: &u32| {
        let share = process::succeed(Command::new(pg::bin_dir(*version).join("pg_config")).arg("--sharedir"));
        Path::new(share.trim()).join(format!("extension/{extension}.control")).exists()
    };
    pg::versions().into_iter().find(has).unwrap_or_else(|| panic!("no server here has {extension}"))
}

#[test]
fn jobs_of_pg_cron_and_pgagent_come_back() {
    let source = Cluster::start(version_with("pg_cron"));
    source.create_database("app");
    source.psql(
        "app",
        "CREATE EXTENSION pg_cron; CREATE EXTENSION pgagent;
         SELECT cron.schedule('nightly', '0 3 1 1 *', 'SELECT ''it''''s'''), cron.schedule('hourly', '7 0 1 1 *', 'VACUUM');
         INSERT INTO cron.job_run_details (jobid, runid, command, status) VALUES (1, 7, 'SELECT 1', 'succeeded');
         SELECT setval('cron.runid_seq', 7);
         INSERT INTO pgagent.pga_job (jobjclid, jobname) SELECT min(jclid), 'a job' FROM pgagent.pga_jobclass;
         INSERT INTO pgagent.pga_jobclass (jclname) VALUES ('ours');
         INSERT INTO pgagent.pga_jobstep (jstjobid, jstname, jstkind, jstcode, jstdbname)
         SELECT max(jobid), 'a step', 's', 'SELECT 1', 'app' FROM pgagent.pga_job;
         SELECT setval('pgagent.pga_job_jobid_seq', 23)",
    );
    let (_store, run, target) = there_and_back(&source);
    assert_eq!(run.table("cron", "job")["rows"], 2);
    for table in ["cron.job", "cron.job_run_details", "pgagent.pga_job", "pgagent.pga_jobclass", "pgagent.pga_jobstep"]
    {
        same(&source, &target, &format!("SELECT t FROM {table} t ORDER BY t::text"));
    }
    for sequence in [
        "cron.jobid_seq",
        "cron.runid_seq",
        "pgagent.pga_job_jobid_seq",
        "pgagent.pga_jobclass_jclid_seq",
        "pgagent.pga_jobstep_jstid_seq",
    ] {
        same(&source, &target, &format!("SELECT last_value, is_called FROM {sequence}"));
    }
}

#[test]
fn a_project_in_the_shape_of_supabase_comes_back() {
    let source = Cluster::start(version_with("pg_cron"));
    source.create_database("app");
    source.psql_file("app", &pg::fixture("supabase.sql"), &[("users", "500")]);
    let (_store, run, target) = there_and_back(&source);
    assert!(run.schemas().len() > 8 && run.table("auth", "users")["rows"] == 500);
    same(&source, &target, "SELECT count(*), md5(string_agg(u::text, ',' ORDER BY id)) FROM auth.users u");
}
