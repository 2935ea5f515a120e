//! The program under test as its users start it: the real binary, an environment without settings of the caller, a
//! store, and what a run left in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::pg::{self, Cluster};
use super::process::output_with;

/// The binary (`PGSTOW_TEST_PROGRAM` names another build of it), without settings from the environment or a `.env` of the caller's folder.
pub fn pgstow() -> Command {
    let program = std::env::var_os("PGSTOW_TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_pgstow").into());
    let mut command = Command::new(program);
    for (key, _) in std::env::vars_os() {
        let key = key.to_string_lossy().into_owned();
        if ["PG", "AWS_", "DATABASE_URL", "SUPABASE_DB_URL", "RUST_LOG"].iter().any(|word| key.starts_with(word)) {
            command.env_remove(key);
        }
    }
    command.current_dir("/").env("PGSTOW_PROGRESS", "never");
    command
}

/// `pgstow restore` of the newest run of a store, with the client programs of the target's version.
pub fn restore(cluster: &Cluster, url: &str, store: &Path) -> Command {
    let mut command = pgstow();
    command.args(["restore", "--pg-bin-dir"]).arg(cluster.bin_dir()).args(["--to", url]).arg("--store").arg(store);
    command
}

/// `pgstow drill` of the newest run of a store on that server.
pub fn drill(cluster: &Cluster, store: &Path) -> Command {
    let mut command = pgstow();
    command.args(["drill", "--pg-bin-dir"]).arg(cluster.bin_dir()).args(["--on", &cluster.url("postgres")]);
    command.arg("--store").arg(store);
    command
}

/// `pgstow backup` of that database into a store, with the client programs of the server's version.
pub fn backup(cluster: &Cluster, database: &str, store: &Path) -> Command {
    let mut command = pgstow();
    command.args(["backup", "--pg-bin-dir"]).arg(cluster.bin_dir()).env("DATABASE_URL", cluster.url(database));
    command.arg("--store").arg(store);
    command
}

/// As [`backup`], with the client programs of a gate.
pub fn gated(cluster: &Cluster, database: &str, store: &Path, gate: &Gate) -> Command {
    let mut command = pgstow();
    command.args(["backup", "--pg-bin-dir"]).arg(gate.bin_dir()).env("DATABASE_URL", cluster.url(database));
    command.arg("--store").arg(store);
    command
}

/// What was printed, for messages.
pub fn story(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!(
        "ended with {}\n--- stderr\n{err}\n--- stdout\n{}",
        output.status,
        out.chars().take(4000).collect::<String>()
    )
}

/// Runs to the end, wants that exit code and returns stdout and stderr.
#[track_caller]
pub fn expect_code(command: &mut Command, code: i32) -> (String, String) {
    let output = output_with(command, b"");
    assert_eq!(output.status.code(), Some(code), "{command:?}\n{}", story(&output));
    if matches!(code, 2 | 4) {
        super::tally::bad_input(&format!(
            "ended with {code}: {}",
            story(&output).lines().find(|l| l.starts_with("error: ")).unwrap_or_default()
        ));
    }
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program prints UTF-8");
    (text(output.stdout), text(output.stderr))
}

/// A failure as users should see it: that exit code, exactly one `error:` line and it is returned. Nothing on stdout;
/// with `--json` one document, which says the same.
#[track_caller]
pub fn expect_failure(command: &mut Command, code: i32) -> (String, String) {
    let (out, err) = expect_code(command, code);
    let errors: Vec<&str> = err.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{err}");
    assert!(!err.contains("panicked"), "{err}");
    if command.get_args().any(|arg| arg == "--json") {
        let document: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
        assert_eq!(document["exit_code"], code, "{document}");
    } else {
        assert_eq!(out, "", "a failure has nothing to say on stdout");
    }
    (errors[0].to_owned(), err)
}

/// A run in a directory store.
#[derive(Debug, Clone)]
pub struct Run {
    /// The store's folder.
    pub store: PathBuf,
    /// The run's folder.
    pub folder: PathBuf,
    /// Its name.
    pub name: String,
    /// Its manifest.
    pub manifest: Value,
}

impl Run {
    /// The run that `latest.json` names.
    #[track_caller]
    pub fn latest(store: &Path) -> Self {
        let latest = json(&store.join("latest.json"));
        Self::named(store, latest["run"].as_str().expect("latest names a run"))
    }

    /// A run by its name.
    #[track_caller]
    pub fn named(store: &Path, name: &str) -> Self {
        let folder = store.join("runs").join(name);
        let manifest = json(&folder.join("manifest.json"));
        Self { store: store.to_owned(), folder, name: name.to_owned(), manifest }
    }

    /// Every object of the manifest, as (key, object).
    pub fn objects(&self) -> Vec<(String, Value)> {
        let mut found = Vec::new();
        collect(&self.manifest, &mut found);
        found
    }

    /// Schemas of the manifest.
    pub fn schemas(&self) -> &[Value] {
        self.manifest["schemas"].as_array().expect("the manifest has schemas")
    }

    /// The manifest's entry of a schema.
    #[track_caller]
    pub fn schema(&self, name: &str) -> &Value {
        self.schemas()
            .iter()
            .find(|s| s["name"] == name)
            .unwrap_or_else(|| panic!("no schema {name:?} in the manifest"))
    }

    /// The manifest's entry of a table.
    #[track_caller]
    pub fn table(&self, schema: &str, name: &str) -> &Value {
        let tables = self.schema(schema)["tables"].as_array().expect("a schema has tables");
        tables.iter().find(|t| t["name"] == name).unwrap_or_else(|| panic!("no table {schema}.{name} in the manifest"))
    }

    /// An object's plain content.
    #[track_caller]
    pub fn plain(&self, key: &str) -> Vec<u8> {
        plain(&self.folder.join(key))
    }

    /// A table's SQL file.
    #[track_caller]
    pub fn sql(&self, schema: &str, table: &str) -> String {
        let key = self.table(schema, table)["file"]["key"].as_str().expect("a file has a key");
        String::from_utf8(self.plain(key)).expect("SQL is UTF-8")
    }

    /// The lines between `COPY ... FROM stdin;` and `\.` of a table's SQL file.
    #[track_caller]
    pub fn rows(&self, schema: &str, table: &str) -> Vec<String> {
        let statements = super::judge::statements(&self.sql(schema, table));
        let mut copies = statements.iter().filter(|s| s.starts_with("COPY "));
        let (_, rows) = copies.find_map(|s| s.split_once(" FROM stdin;\n")).expect("a table's file has rows");
        rows.split('\n').take_while(|line| *line != "\\.").map(str::to_owned).collect()
    }
}

pub(super) fn collect(value: &Value, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            if let (Some(Value::String(key)), true) = (fields.get("key"), fields.contains_key("sha256")) {
                found.push((key.clone(), value.clone()));
            }
            fields.values().for_each(|field| collect(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

/// A file's content decompressed by the stock program its name asks for.
#[track_caller]
pub fn plain(path: &Path) -> Vec<u8> {
    let program = match path.extension().and_then(|word| word.to_str()) {
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
    };
    let output = output_with(Command::new(program).arg("-dc").arg(path), b"");
    assert!(output.status.success(), "{}: {}", path.display(), story(&output));
    output.stdout
}

/// A JSON file.
#[track_caller]
pub fn json(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a folder, relative, sorted; none where there is no folder.
pub fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.expect("a folder can be listed").path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(folder).expect("below the folder").to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// A store that a failed run must leave as it was: nothing promoted, no manifest, no temporary file.
#[track_caller]
pub fn assert_untouched(store: &Path, before: &[String]) {
    let now = files(store);
    let fresh: Vec<&String> = now.iter().filter(|file| !before.contains(file)).collect();
    assert!(!fresh.iter().any(|file| file.ends_with("manifest.json") || file.ends_with("latest.json")), "{fresh:?}");
    let temporary = |file: &str| {
        file.contains("tmp") || file.contains(".part") || file.rsplit('/').next().is_some_and(|n| n.starts_with('.'))
    };
    assert!(!fresh.iter().any(|file| temporary(file)), "temporary files are left: {fresh:?}");
    assert!(before.iter().all(|file| now.contains(file)), "{before:?} became {now:?}");
}

/// The awkward database of one version, and a zstd run of it.
#[derive(Debug)]
pub struct Awkward {
    /// Its server; the database is `app`.
    pub cluster: Cluster,
    /// A complete run of it.
    pub run: Run,
    /// What the backup printed on stderr.
    pub log: String,
}

/// One server with the awkward database and one run of it for all tests of this process. Tests only read it.
#[track_caller]
pub fn awkward(version: u32) -> &'static Awkward {
    static MADE: Mutex<BTreeMap<u32, &'static Awkward>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(version).or_insert_with(|| Box::leak(Box::new(make_awkward(version))))
}

#[track_caller]
fn make_awkward(version: u32) -> Awkward {
    let cluster = Cluster::start(version);
    fill_awkward(&cluster);
    // Removed by nobody but the next run's cleaning of its temporary folder: statics are never dropped.
    let store = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("awkward-store-{version}"));
    if store.exists() {
        fs::remove_dir_all(&store).expect("we own the folder");
    }
    let (_, log) = expect_code(&mut backup(&cluster, "app", &store), 0);
    let run = Run::latest(&store);
    Awkward { cluster, run, log }
}

/// Makes the awkward database `app` in an empty cluster.
#[track_caller]
pub fn fill_awkward(cluster: &Cluster) {
    cluster.create_database("app");
    cluster.psql_file("postgres", &pg::fixture("awkward_roles.sql"), &[]);
    cluster.psql_file("app", &pg::fixture("awkward.sql"), &[]);
    cluster.psql_file("app", &pg::fixture("volume.sql"), &[("rows", "30000"), ("tables", "20")]);
}

/// Runs the one `bash` block of a run's RESTORE.md, verbatim, by bash on a machine without pgstow.
#[track_caller]
pub fn restore_as_told(run: &Run, cluster: &Cluster, database: &str) {
    restore_as_told_with(run, cluster, database, None);
}

/// As [`restore_as_told`], with the file of the secret key where the run is encrypted.
#[track_caller]
pub fn restore_as_told_with(run: &Run, cluster: &Cluster, database: &str, key: Option<&Path>) {
    let text = fs::read_to_string(run.folder.join("RESTORE.md")).expect("a run has RESTORE.md");
    let blocks: Vec<&str> = text.split("```bash\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 1, "{text}");
    let script = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    fs::write(script.path(), blocks[0]).expect("a temporary file can be written");
    let mut bash = Command::new("bash");
    bash.arg(script.path())
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", cluster.bin_dir().display()))
        .env("RUN", &run.folder)
        .env("DB", cluster.url(database))
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/");
    if let Some(key) = key {
        bash.env("KEY", key);
    }
    let output = output_with(&mut bash, b"");
    // What the run does not contain leaves objects out: that is no success.
    let gaps = run.manifest["dependents"].as_array().into_iter().flatten();
    let code =
        if gaps.into_iter().any(|gap| gap["entries"].as_array().is_some_and(|all| !all.is_empty())) { 3 } else { 0 };
    assert_eq!(output.status.code(), Some(code), "{}", story(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("ERROR") && !said.contains("error:"), "the restore complained:\n{said}");
}

/// Reads a child's output to its end in a thread, so that it never blocks on a full pipe.
pub fn drain(mut from: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("a child's output is readable");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A run of the program that goes on while the test does something.
#[derive(Debug)]
pub struct Going {
    child: std::process::Child,
    out: std::thread::JoinHandle<String>,
    err: std::thread::JoinHandle<String>,
}

impl Going {
    /// Starts it.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        use std::process::Stdio;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program can be started");
        let out = drain(child.stdout.take().expect("stdout is piped"));
        let err = drain(child.stderr.take().expect("stderr is piped"));
        Self { child, out, err }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// Sends a signal: `INT`, `TERM`.
    #[track_caller]
    pub fn signal(&self, name: &str) {
        super::process::succeed(Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()));
    }

    /// Waits for its end and returns the exit code.
    #[track_caller]
    pub fn code(mut self) -> i32 {
        let status = self.child.wait().expect("a child can be waited for");
        status.code().unwrap_or_else(|| panic!("ended with {status}"))
    }

    /// Waits for its end, whatever it is.
    #[track_caller]
    pub fn end(mut self) -> super::fixture::Ended {
        let status = self.child.wait().expect("a child can be waited for");
        let (out, err) = (self.out.join().expect("the reader ends"), self.err.join().expect("the reader ends"));
        super::fixture::Ended { code: status.code(), out, err }
    }

    /// Waits for its end, but not for that of what it has started, which may have its output.
    #[track_caller]
    pub fn end_alone(mut self) {
        self.child.wait().expect("a child can be waited for");
    }

    /// Waits for its end, wants that exit code, returns stdout and stderr.
    #[track_caller]
    pub fn expect_code(mut self, code: i32) -> (String, String) {
        let status = self.child.wait().expect("a child can be waited for");
        let (out, err) = (self.out.join().expect("the reader ends"), self.err.join().expect("the reader ends"));
        assert_eq!(status.code(), Some(code), "ended with {status}\n--- stderr\n{err}\n--- stdout\n{out}");
        (out, err)
    }
}

/// A folder with the client programs of a cluster, `pg_dump` replaced by a script that stops at a gate. What does the
/// work is the real program still.
#[derive(Debug)]
pub struct Gate {
    folder: tempfile::TempDir,
}

/// Where a gate stops `pg_dump`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Before it starts.
    Start,
    /// When it has ended, before anybody reads what it wrote.
    End,
    /// Nowhere: it only writes its arguments down.
    Nowhere,
}

impl Gate {
    /// Makes the folder.
    #[track_caller]
    pub fn new(cluster: &Cluster, at: At) -> Self {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        for name in ["pg_dumpall", "pg_restore", "psql"] {
            symlink(cluster.bin(name), folder.path().join(name)).expect("a link can be made");
        }
        let (real, here) = (cluster.bin("pg_dump").display().to_string(), folder.path().display().to_string());
        let wait = format!("touch '{here}/arrived'; while [ ! -e '{here}/go' ]; do sleep 0.02; done");
        let work = match at {
            At::Start => format!("{wait}; exec '{real}' \"$@\""),
            At::End => format!("'{real}' \"$@\" > '{here}/out'; code=$?; {wait}; cat '{here}/out'; exit $code"),
            At::Nowhere => format!("tr '\\0' '\\n' < /proc/$PPID/cmdline >> '{here}/words'; exec '{real}' \"$@\""),
        };
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *--version*) exec '{real}' --version;; esac\nprintf '%s\\n' \"$@\" >> '{here}/words'\n{work}\n"
        );
        let path = folder.path().join("pg_dump");
        fs::write(&path, script).expect("a temporary file can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("we own the file");
        Self { folder }
    }

    /// For `--pg-bin-dir`.
    pub fn bin_dir(&self) -> &Path {
        self.folder.path()
    }

    /// Waits until pg_dump stands at the gate.
    #[track_caller]
    pub fn arrived(&self) {
        super::session::until("pg_dump at the gate", || self.folder.path().join("arrived").exists());
    }

    /// Opens the gate, for good.
    pub fn open(&self) {
        fs::write(self.folder.path().join("go"), "").expect("a temporary file can be written");
    }

    /// The arguments pg_dump was given, one a line.
    pub fn words(&self) -> String {
        fs::read_to_string(self.folder.path().join("words")).expect("pg_dump was started")
    }
}

/// As [`plain`] where the content is what the name says, else the bytes as they are.
pub fn plain_or_raw(path: &Path) -> Vec<u8> {
    let raw = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if raw.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return super::process::succeed_with(Command::new("zstd").arg("-dc"), &raw).stdout;
    }
    raw
}
