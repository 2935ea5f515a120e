//! Data that cannot simply be read: damaged on the server, or without an equivalent in UTF-8.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};

use crate::support::pg::{self, Cluster};
use crate::support::process;
use crate::support::program::{Run, backup, expect_code, expect_failure, pgstow, restore_as_told};

/// Overwrites a block of a relation's file behind the server's back.
fn overwrite(cluster: &Cluster, relation: &str, block: u64, with: u8) {
    cluster.psql("app", "CHECKPOINT");
    let file = cluster.psql("app", &format!("SELECT pg_relation_filepath({relation})"));
    let mut file = fs::OpenOptions::new().write(true).open(cluster.data().join(file.trim())).unwrap();
    file.seek(SeekFrom::Start(block * 8192)).unwrap();
    file.write_all(&[with; 8192]).unwrap();
}

#[test]
fn damaged_blocks_and_values_cost_their_rows_and_nothing_else() {
    let cluster = Cluster::start(*pg::versions().last().unwrap());
    cluster.create_database("app");
    cluster.psql(
        "app",
        "CREATE TABLE sound AS SELECT i FROM generate_series(1, 100) i;
         CREATE TABLE paged (i int, t text) WITH (autovacuum_enabled = off);
         INSERT INTO paged SELECT i, repeat('x', 700) FROM generate_series(1, 200) i;
         CREATE TABLE toasted (i int, t text) WITH (autovacuum_enabled = off);
         ALTER TABLE toasted ALTER t SET STORAGE EXTERNAL;
         INSERT INTO toasted SELECT i, repeat(md5(i::text), 300) FROM generate_series(1, 40) i;
         VACUUM FREEZE paged; VACUUM FREEZE toasted",
    );
    let lost = cluster.psql("app", "SELECT count(*) FROM paged WHERE ctid >= '(3,0)' AND ctid < '(4,0)'");
    assert_eq!(cluster.psql("app", "SELECT count(*) > 5 FROM paged WHERE ctid >= '(4,0)'"), "t");
    let readable = "SELECT count(*), sum(i), min(length(t)) FROM paged";
    let expected = cluster.psql("app", &format!("{readable} WHERE ctid < '(3,0)' OR ctid >= '(4,0)'"));
    overwrite(&cluster, "'paged'", 3, 0xA5);
    // A page of nothing: the values in it are missing.
    overwrite(&cluster, "(SELECT reltoastrelid FROM pg_class WHERE relname = 'toasted')", 2, 0);
    cluster.restart("fast");
    let store = tempfile::tempdir().unwrap();
    let (error, hints) = expect_failure(&mut backup(&cluster, "app", store.path()), 1);
    assert!(error.contains("read public.paged") || error.contains("read public.toasted"), "{error}");
    assert!(hints.contains("--allow-unreadable") && hints.contains("pg_amcheck"), "{hints}");
    let (out, _) = expect_code(backup(&cluster, "app", store.path()).arg("--allow-unreadable"), 3);
    assert!(out.contains("block 3") && out.contains("XX001"), "{out}");
    let run = &fs::read_dir(store.path().join("runs")).unwrap().map(|run| run.unwrap().path()).max().unwrap();
    let run = Run::named(store.path(), run.file_name().unwrap().to_str().unwrap());
    assert_eq!(run.manifest["status"], "partial");
    let skipped = run.manifest["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), 2, "{skipped:?}");
    for gap in skipped {
        let (name, reason) = (gap["name"].as_str().unwrap(), gap["reason"].as_str().unwrap());
        assert!(name.starts_with("paged (block 3)") || name.starts_with("toasted (row ("), "{gap}");
        assert!(reason.contains("XX001"), "{gap}");
    }
    assert_eq!(run.table("public", "sound")["rows"], 100);
    assert_eq!(run.table("public", "paged")["rows"].as_u64().unwrap(), 200 - lost.trim().parse::<u64>().unwrap());
    let rest = run.table("public", "toasted")["rows"].as_u64().unwrap();
    assert!((30..40).contains(&rest), "{rest}");
    expect_code(pgstow().args(["verify", &run.name]).arg("--store").arg(store.path()), 0);
    let target = Cluster::start(cluster.version());
    target.create_database("app");
    restore_as_told(&run, &target, "app");
    assert_eq!(target.psql("app", readable), expected);
    assert_eq!(target.psql("app", "SELECT count(*), min(length(t)) FROM toasted"), format!("{rest}|9600"));
}

/// A database in WIN1252 holds bytes that are no character: UTF-8 cannot say them, its own encoding can.
#[test]
fn values_without_an_equivalent_in_utf8_are_saved_in_the_databases_own_encoding() {
    let cluster = Cluster::start(*pg::versions().last().unwrap());
    for (encoding, bytes) in [("WIN1252", "\\xe481"), ("ISO_8859_7", "\\xe1ae"), ("EUC_JP", "\\xa4a2a9a1")] {
        let database = format!("in {}", encoding.to_lowercase());
        cluster.create_database_with(&database, &format!("ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"));
        cluster.psql(
            &database,
            &format!(
                "CREATE SCHEMA early; CREATE TABLE early.sound (t text); INSERT INTO early.sound VALUES ('plain');
                 CREATE TABLE first (t text); INSERT INTO first VALUES (convert_from('\\x61', '{encoding}'));
                 CREATE TABLE odd (id int PRIMARY KEY, t text);
                 INSERT INTO odd SELECT i, 'x' FROM generate_series(1, 20000) i;
                 INSERT INTO odd VALUES (0, convert_from('{bytes}', '{encoding}'))",
            ),
        );
        let question = format!("SELECT md5(string_agg(convert_to(t, '{encoding}'), '' ORDER BY id)) FROM odd");
        let store = tempfile::tempdir().unwrap();
        let (_, err) = expect_code(&mut backup(&cluster, &database, store.path()), 0);
        assert!(err.contains("odd") && err.contains(encoding), "{err}");
        let run = Run::latest(store.path());
        assert_eq!(run.table("public", "odd")["encoding"], encoding);
        assert_eq!(run.table("early", "sound")["rows"], 1);
        let sql = run.plain(run.table("public", "odd")["file"]["key"].as_str().unwrap());
        assert!(String::from_utf8_lossy(&sql).contains(&format!("FROM stdin WITH (ENCODING '{encoding}');")));
        expect_code(pgstow().arg("verify").arg("--store").arg(store.path()), 0);
        let options = format!("ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'");
        let again = |name: &str| {
            cluster.drop_database(name);
            cluster.create_database_with(name, &options);
        };
        again("as told");
        restore_as_told(&run, &cluster, "as told");
        again("restored");
        let mut restore = pgstow();
        restore.args(["restore", "--to"]).arg(cluster.url("restored")).arg("--store").arg(store.path());
        expect_code(restore.env("PGSTOW_PG_BIN_DIR", cluster.bin_dir()), 0);
        again("from sql");
        let file = store.path().join("odd.sql");
        fs::write(&file, sql).unwrap();
        process::succeed(
            cluster.command("psql").args(["-X", "-q", "-d"]).arg(cluster.url("from sql")).arg("-f").arg(&file),
        );
        for copy in ["as told", "restored", "from sql"] {
            assert_eq!(cluster.psql(copy, &question), cluster.psql(&database, &question), "{copy} of {encoding}");
        }
        let dump = |name: &str| {
            let mut dump = cluster.command("pg_dump");
            let text = process::succeed_with(dump.args(["-E", encoding, "-d"]).arg(cluster.url(name)), b"").stdout;
            let lines =
                text.split(|byte| *byte == b'\n').filter(|line| !line.windows(8).any(|word| word == b"restrict"));
            lines.map(<[u8]>::to_vec).collect::<Vec<_>>()
        };
        assert!(dump(&database) == dump("restored"), "pg_dump in {encoding} differs");
        let mut drill = pgstow();
        drill.args(["drill", "--on"]).arg(cluster.url("postgres")).arg("--store").arg(store.path());
        expect_code(drill.env("PGSTOW_PG_BIN_DIR", cluster.bin_dir()), 0);
    }
}
