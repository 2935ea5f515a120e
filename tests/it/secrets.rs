//! No secret is ever shown: not in the arguments of the program and of all it starts, not in what it prints at any level
//! and in any form, not in an error, not in what it stores or downloads. However the secret was given.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::encryption::Key;
use crate::race::newest;
use crate::support::bucket::Bucket;
use crate::support::pg::{self, Cluster};
use crate::support::program::{drain, expect_failure, files, pgstow, plain_or_raw};
use crate::support::tally;

const SOURCE: &str = "secrets source";
const TARGET: &str = "secrets target";
/// Passwords that need escapes in every form; each has a part that needs none, which is what is looked for.
const SOURCE_PASSWORD: &str = r"n33dle-source/of a:p'w\%";
const TARGET_PASSWORD: &str = r"n33dle-target@of a:p'w\%";
const TOKEN: &str = "n33dle-token";
const NEEDLES: [&str; 5] = ["n33dle", "needle'", "test-secret-key", "AGE-SECRET-KEY", "p'w"];

/// How a password is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Url,
    Environment,
    Words,
}

/// A database in a bucket, and everything that could tell a secret.
struct Place {
    cluster: &'static Cluster,
    bucket: Bucket,
    key: Key,
    programs: Programs,
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let cluster = pg::shared(newest());
        for (role, password) in [("secrets_source", SOURCE_PASSWORD), ("secrets_target", TARGET_PASSWORD)] {
            let password = password.replace('\'', "''");
            cluster.psql("postgres", &format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{password}'"));
        }
        cluster.create_database(SOURCE);
        cluster.psql(
            SOURCE,
            "CREATE TABLE t (id int PRIMARY KEY, t text); INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 500) i;
             CREATE VIEW v AS SELECT * FROM t; SELECT lo_from_bytea(0, 'x')",
        );
        let (key, programs) = (Key::make(), Programs::new(cluster));
        Self { cluster, bucket: Bucket::start(), key, programs, folder: tempfile::tempdir().unwrap() }
    }

    /// A command at the store, with the session token of temporary credentials.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.bucket.command("pre", words);
        command.env("AWS_SESSION_TOKEN", TOKEN).env("HOME", "/nonexistent");
        command
    }

    fn reading(&self, words: &[&str]) -> Command {
        let mut command = self.command(words);
        command.env("PGSTOW_IDENTITY", &self.key.file);
        command
    }

    /// A connection in that form: the variable that holds it, and the password beside it where it is not within.
    fn connection(&self, command: &mut Command, form: Form, variable: &str, database: &str) {
        let (role, password) = if variable == "DATABASE_URL" {
            ("secrets_source", SOURCE_PASSWORD)
        } else {
            ("secrets_target", TARGET_PASSWORD)
        };
        let port = self.cluster.port();
        let words = format!("host=127.0.0.1 port={port} user={role} dbname='{database}'");
        let quoted = password.replace('\\', r"\\").replace('\'', r"\'");
        match form {
            Form::Url => command.env(variable, self.cluster.url_as(role, password, database)),
            Form::Environment => command.env(variable, words).env("PGPASSWORD", password),
            Form::Words => command.env(variable, format!("{words} password='{quoted}'")),
        };
        command.env("PGSTOW_PG_BIN_DIR", self.programs.folder.path());
    }

    fn fresh_target(&self) {
        self.cluster.drop_database(TARGET);
        self.cluster.create_database(TARGET);
    }
}

/// The client programs of a server, each of which writes down the arguments it and who started it were given.
struct Programs {
    folder: TempDir,
}

impl Programs {
    fn new(cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["pg_dump", "pg_dumpall", "pg_restore", "psql"] {
            let (real, words) = (cluster.bin(name), folder.path().join("words"));
            let script = format!(
                "#!/bin/sh\ncat /proc/$$/cmdline /proc/$PPID/cmdline | tr '\\0' '\\n' >> '{}'\nexec '{}' \"$@\"\n",
                words.display(),
                real.display()
            );
            let path = folder.path().join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { folder }
    }

    fn words(&self) -> String {
        fs::read_to_string(self.folder.path().join("words")).unwrap()
    }
}

/// Arguments of a process and of all below it, from /proc.
fn arguments(of: u32) -> BTreeSet<String> {
    let text = |pid: u32, file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let mut found = BTreeSet::new();
    let mut open = vec![of];
    while let Some(pid) = open.pop() {
        found.insert(String::from_utf8_lossy(&text(pid, "cmdline")).replace('\0', " "));
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            open.extend(children.split_whitespace().map(|child| child.parse::<u32>().unwrap()));
        }
    }
    found
}

/// Runs to the end while /proc is looked at; wants that exit code, and no secret anywhere. Returns what was seen.
#[track_caller]
fn watched(command: &mut Command, code: i32) -> BTreeSet<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (out, err) = (drain(child.stdout.take().unwrap()), drain(child.stderr.take().unwrap()));
    let mut seen = arguments(child.id());
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        seen.append(&mut arguments(child.id()));
        std::thread::sleep(Duration::from_millis(2));
    };
    let (out, err) = (out.join().unwrap(), err.join().unwrap());
    assert_eq!(status.code(), Some(code), "{command:?}\n{err}\n{out}");
    assert!(seen.iter().any(|words| words.contains("pgstow")), "{seen:?}");
    assert_silent("stdout", &out);
    assert_silent("stderr", &err);
    seen.iter().for_each(|words| assert_silent("arguments", words));
    assert!(err.len() > 200, "trace says more: {err}");
    seen
}

#[track_caller]
fn assert_silent(what: &str, text: &str) {
    // RESTORE.md says what a key looks like.
    let text = &text.replace("AGE-SECRET-KEY-1...", "");
    for needle in NEEDLES {
        let Some(at) = text.find(needle) else { continue };
        let from = text.floor_char_boundary(at.saturating_sub(600));
        let to = text.ceil_char_boundary((at + 200).min(text.len()));
        panic!("{what} shows {needle}: ...{}", &text[from..to]);
    }
}

/// Everything in a folder, as it is and, where it is compressed, plain.
#[track_caller]
fn assert_files_silent(folder: &Path) -> Vec<String> {
    let found = files(folder);
    for file in &found {
        let path: PathBuf = folder.join(file);
        assert_silent(file, file);
        assert_silent(file, &String::from_utf8_lossy(&fs::read(&path).unwrap()));
        assert_silent(file, &String::from_utf8_lossy(&plain_or_raw(&path)));
    }
    found
}

#[test]
pub(crate) fn no_secret_is_shown_by_any_command_however_it_was_given() {
    let place = Place::new();
    assert!(place.key.secret().starts_with("AGE-SECRET-KEY"));
    let target_of = place.cluster;
    let mut seen = BTreeSet::new();
    for (form, format) in [(Form::Url, "json"), (Form::Environment, "text"), (Form::Words, "json")] {
        let trace = ["--log", "trace", "--log-format", format];
        let encrypt = ["backup", "--encrypt", &place.key.public];
        // The last run is plain: what it holds can be looked into.
        let backup: &[&str] = if form == Form::Words { &["backup"] } else { &encrypt };
        for words in [&["detect"], &["doctor"], backup] {
            let mut command = place.command(words);
            place.connection(&mut command, form, "DATABASE_URL", SOURCE);
            seen.append(&mut watched(command.args(trace), 0));
        }
        place.fresh_target();
        let mut restore = place.reading(&["restore"]);
        place.connection(&mut restore, form, "PGSTOW_RESTORE_TO", TARGET);
        seen.append(&mut watched(restore.args(trace), 0));
        assert_eq!(target_of.psql(TARGET, "SELECT count(*) FROM t"), "500");
        let mut drill = place.reading(&["drill"]);
        place.connection(&mut drill, form, "PGSTOW_DRILL_ON", "postgres");
        seen.append(&mut watched(drill.args(trace), 0));
        watched(place.reading(&["verify"]).args(trace), 0);
        let to = place.folder.path().join(format);
        if !to.exists() {
            watched(place.reading(&["download"]).arg("--to").arg(&to).args(trace), 0);
            assert!(assert_files_silent(&to).len() > 3);
        }
    }
    let words = place.programs.words();
    for program in ["pg_dump\n", "pg_dumpall\n", "pg_restore\n"] {
        assert!(words.contains(program), "{program} was never started: {words}");
    }
    assert_silent("arguments", &words);
    assert!(seen.iter().any(|words| words.contains("/pg_dump ")), "no child was seen in /proc: {seen:?}");
    let stored = assert_files_silent(&place.bucket.path("pre"));
    for file in ["RESTORE.md", "manifest.json", "latest.json", ".age"] {
        assert!(stored.iter().any(|path| path.ends_with(file)), "{file}: {stored:?}");
    }
    assert!(stored.iter().any(|path| path.starts_with("receipts/")), "{stored:?}");
    for database in [SOURCE, TARGET] {
        place.cluster.drop_database(database);
    }
    place.cluster.psql("postgres", "DROP ROLE secrets_source; DROP ROLE secrets_target");
}

/// A failure shows no secret, neither in its one line nor in the log around it.
#[track_caller]
fn refused(command: &mut Command, codes: &[i32]) {
    command.args(["--log", "trace"]);
    let output = crate::support::process::output_with(command, b"");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.code().is_some_and(|code| codes.contains(&code)), "{command:?}: {}\n{err}", output.status);
    tally::bad_input("a connection that cannot be made, or is no connection");
    for needle in ["n33dle", "AGE-SECRET-KEY"] {
        assert!(!err.contains(needle) && !out.contains(needle), "{needle} is shown by {command:?}:\n{err}\n{out}");
    }
}

#[test]
pub(crate) fn no_secret_is_shown_by_an_error() {
    let cluster = pg::shared(newest());
    let (bucket, key) = (Bucket::start(), Key::make());
    let port = cluster.port();
    let connections = [
        (format!("postgresql://postgres:n33dle@127.0.0.1:{port}/postgres"), 1),
        (format!("host=127.0.0.1 port={port} user=postgres password='n33dle it\\'s' dbname=postgres"), 1),
        ("postgresql://postgres:n33dle%25@nowhere.invalid/x".to_owned(), 1),
        // As people write passwords that would need escapes.
        ("postgresql://postgres:n33dle/with#signs@127.0.0.1:5432/x".to_owned(), 2),
        ("postgresql://postgres:n33dle%zz@127.0.0.1:5432/x".to_owned(), 2),
        ("postgresql://postgres:with@n33dle@127.0.0.1:no/x".to_owned(), 2),
        ("postgresql://postgres@127.0.0.1:5432/x?pasword=n33dle".to_owned(), 2),
        ("http://postgres:n33dle@127.0.0.1/x".to_owned(), 2),
        ("postgres:n33dle@127.0.0.1:5432/x".to_owned(), 2),
        ("host=127.0.0.1 password=with n33dle".to_owned(), 2),
        ("host=127.0.0.1 password='n33dle".to_owned(), 2),
        ("host=127.0.0.1 pasword=n33dle".to_owned(), 2),
        ("host=127.0.0.1 user=x sslmode=n33dle".to_owned(), 2),
    ];
    for (connection, code) in &connections {
        for (command, variable) in
            [("detect", "DATABASE_URL"), ("restore", "PGSTOW_RESTORE_TO"), ("drill", "PGSTOW_DRILL_ON")]
        {
            let mut command = bucket.command("pre", &[command]);
            command.env(variable, connection).env("PGSTOW_PG_BIN_DIR", cluster.bin_dir()).env("HOME", "/nonexistent");
            // Which of the two is missed first, the database or the run, is not the matter here.
            refused(&mut command, &[*code, 2]);
        }
        let mut doctor = pgstow();
        doctor.args(["doctor", "--skip-store"]).env("DATABASE_URL", connection).env("HOME", "/nonexistent");
        refused(&mut doctor, &[1, 2]);
    }
    // Typed where it does not belong.
    let url = "postgresql://postgres:n33dle@127.0.0.1:5432/x";
    for words in [&["backup", url][..], &["restore", "--jobs", url], &["verify", "--store", "s3://AK:n33dle@bucket/x"]]
    {
        refused(pgstow().args(words), &[2]);
    }
    refused(pgstow().arg("list").env("PGSTOW_JOBS", url).args(["--store", url]), &[1, 2]);
    let folder = tempfile::tempdir().unwrap();
    for line in
        ["DATABASE_URL=\"postgresql://u:n33dle@h/x", "PGPASSWORD=n33dle'it", "PGPASSWORD=it n33dle", "n33dle it"]
    {
        std::fs::write(folder.path().join(".env"), format!("PGSTOW_STORE=/nowhere\n{line}\n")).unwrap();
        refused(pgstow().arg("list").current_dir(folder.path()), &[2]);
    }
    for (name, wrong) in [("AWS_SECRET_ACCESS_KEY", "n33dle-secret"), ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")] {
        for words in [&["verify"][..], &["list"], &["download", "--to", "/nonexistent/x"]] {
            let mut command = bucket.command("pre", words);
            command.env("AWS_SESSION_TOKEN", "n33dle-token").env("PGSTOW_S3_ATTEMPTS", "1").env(name, wrong);
            command.env("PGSTOW_IDENTITY", &key.file);
            refused(&mut command, &[1, 2]);
        }
    }
    // A secret key where a file or a recipient belongs.
    let mut verify = bucket.command("pre", &["verify"]);
    refused(verify.env("PGSTOW_IDENTITY", key.secret()), &[1, 2]);
    let mut backup = bucket.command("pre", &["backup"]);
    backup.env("DATABASE_URL", cluster.url("postgres")).env("PGSTOW_ENCRYPT", key.secret());
    let (_, all) = expect_failure(backup.env("PGSTOW_PG_BIN_DIR", cluster.bin_dir()), 2);
    assert_silent("the error", &all);
}
