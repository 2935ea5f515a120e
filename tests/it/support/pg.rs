//! Real PostgreSQL clusters for tests: made by initdb (once for each version, then copied), one temporary folder
//! each, on 127.0.0.1 and a free port, with SCRAM passwords for TCP connections.
//!
//! A cluster lives as long as a small shell that waits for its stdin to close. The test process holds the other end
//! of that pipe, so the server is stopped and its folder removed on drop, at the end of the process (statics are never
//! dropped) and also when the process is killed. Servers run as user `postgres` where the tests run as root.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::process::{succeed, succeed_with};

/// Password of the superuser `postgres` in every cluster.
pub const PASSWORD: &str = "it's a p@ss/word%";

/// Starts the server, says "ready", waits for stdin to close, stops it, removes everything.
/// Arguments: base folder, folder of the programs, server options, then the words that change the user.
const WATCHDOG: &str = r#"
# The reader of "ready" may be gone already: that must not end this shell before it has stopped the server.
trap '' PIPE HUP INT TERM
base=$1; bin=$2; options=$3; shift 3
if "$@" "$bin/pg_ctl" start -w -t 120 -s -D "$base/data" -l "$base/log" -o "$options" </dev/null >/dev/null 2>&1
then echo ready; else echo failed; fi
cat >/dev/null
"$@" "$bin/pg_ctl" stop -s -m immediate -D "$base/data" </dev/null >/dev/null 2>&1
rm -rf "$base"
"#;

/// A running PostgreSQL server with a data folder of its own.
#[derive(Debug)]
pub struct Cluster {
    version: u32,
    /// The server's programs.
    bin: PathBuf,
    /// The clients': the same folder, or that of the next newer version where the server came without any.
    clients: PathBuf,
    base: PathBuf,
    port: u16,
    watchdog: Child,
}

impl Cluster {
    /// Starts a fresh cluster of that major version. `pg_cron` is loaded, for the database `app`, where it is
    /// installed.
    #[track_caller]
    pub fn start(version: u32) -> Self {
        Self::start_with(version, &[])
    }

    /// As [`Cluster::start`], with more settings (or others: the last word wins).
    #[track_caller]
    pub fn start_with(version: u32, settings: &[(&str, &str)]) -> Self {
        Self::start_as(version, settings, false, None)
    }

    /// A cluster that knows these locales (`es_AR`, ...), in UTF-8, beside those of the system.
    #[track_caller]
    pub fn start_with_locales(version: u32, names: &[&str]) -> Self {
        Self::start_as(version, &[], false, Some(&locales(names)))
    }

    /// A standby that waits for WAL which never comes; read-only, it has the databases of a fresh cluster.
    #[track_caller]
    pub fn start_standby(version: u32) -> Self {
        Self::start_as(version, &[("hot_standby", "on")], true, None)
    }

    #[track_caller]
    fn start_as(version: u32, settings: &[(&str, &str)], standby: bool, locales: Option<&Path>) -> Self {
        let bin = bin_dir(version);
        let mut log = String::new();
        // Somebody else may take the port between our asking for a free one and the server's binding it.
        for _ in 0..5 {
            let fill = |data: &Path| {
                copy_tree(&template(version, &bin), data);
                if standby {
                    fs::write(data.join("standby.signal"), "").expect("our folder can be written");
                }
            };
            match Self::try_start(version, &bin, settings, locales, &fill) {
                Ok(cluster) => return cluster,
                Err(text) => log = text,
            }
        }
        panic!("PostgreSQL {version} does not start:\n{log}");
    }

    /// A streaming standby of this cluster; it has replayed what the primary had written when this was called.
    #[track_caller]
    pub fn standby(&self, settings: &[(&str, &str)]) -> Self {
        let copy = |data: &Path| {
            let (program, words) = user_words().split_first().expect("there is at least one word");
            let mut command = Command::new(program);
            command.args(words).arg(self.bin("pg_basebackup"));
            command.args(["--wal-method=stream", "--checkpoint=fast", "--no-sync", "--write-recovery-conf", "-D"]);
            command.arg(data).arg("-d").arg(self.url("postgres")).env("LC_ALL", "C").current_dir("/");
            succeed(&mut command);
        };
        let standby = Self::try_start(self.version, &self.bin, settings, None, &copy);
        let standby = standby.unwrap_or_else(|log| panic!("the standby does not start:\n{log}"));
        self.caught_up(&standby);
        standby
    }

    /// Waits until a standby has replayed what this primary has written.
    #[track_caller]
    pub fn caught_up(&self, standby: &Self) {
        let written = self.psql("postgres", "SELECT pg_current_wal_lsn()");
        let question = format!("SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= '{written}'");
        super::session::until("a standby that has caught up", || standby.psql("postgres", &question) == "t");
    }

    fn try_start(
        version: u32,
        bin: &Path,
        settings: &[(&str, &str)],
        locales: Option<&Path>,
        fill: &dyn Fn(&Path),
    ) -> Result<Self, String> {
        let base = new_base(version);
        fill(&base.join("data"));
        let port = free_port();
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(&base)
            .arg(bin)
            .arg(server_options(bin, &base, port, settings))
            .args(user_words())
            .env("LC_ALL", "C")
            .envs(locales.map(|folder| ("LOCPATH", folder)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("sh can be started");
        let mut word = String::new();
        BufReader::new(watchdog.stdout.take().expect("stdout is piped"))
            .read_line(&mut word)
            .expect("the watchdog answers");
        let log = fs::read_to_string(base.join("log")).unwrap_or_default();
        let cluster = Self { version, bin: bin.to_owned(), clients: clients(version), base, port, watchdog };
        if word.trim() == "ready" { Ok(cluster) } else { Err(log) }
    }

    /// Stops the server at once, as a crash would (`pg_ctl stop -m immediate`), and removes its folder.
    pub fn stop(&mut self) {
        drop(self.watchdog.stdin.take());
        self.watchdog.wait().expect("the watchdog can be waited for");
    }

    /// Stops the server in that mode (`fast`, `immediate`) and starts it again, on the same port.
    #[track_caller]
    pub fn restart(&self, mode: &str) {
        let (program, words) = user_words().split_first().expect("there is at least one word");
        let mut command = Command::new(program);
        command.args(words).arg(self.bin.join("pg_ctl")).args(["restart", "-w", "-s", "-t", "60", "-m", mode, "-D"]);
        command.arg(self.base.join("data")).arg("-l").arg(self.base.join("log"));
        // pg_ctl hands its outputs on to the server, which would keep pipes open.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).env("LC_ALL", "C").current_dir("/");
        assert!(command.status().expect("pg_ctl can be started").success(), "{}", self.log());
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.base.join("data")
    }

    /// Major version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Folder of the unix socket.
    pub fn socket_dir(&self) -> PathBuf {
        self.base.join("socket")
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.base.join("log")).unwrap_or_default()
    }

    /// Folder of the clients for this server: `pg_dump`, `pg_restore`, `psql`...
    pub fn bin_dir(&self) -> &Path {
        &self.clients
    }

    /// One of them.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.clients.join(name)
    }

    /// A command that runs one of the clients, free of the caller's `PG*` variables, with `PGTZ=UTC`.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin(name));
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("PG") {
                command.env_remove(key);
            }
        }
        command.env("PGTZ", "UTC").env("PGCLIENTENCODING", "UTF8");
        command
    }

    /// Connection string of the superuser.
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", PASSWORD, database)
    }

    /// Connection string of any role.
    pub fn url_as(&self, role: &str, password: &str, database: &str) -> String {
        let (role, password, database) = (escape(role), escape(password), escape(database));
        format!("postgresql://{role}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// `CREATE DATABASE` in UTF-8 from `template0`.
    #[track_caller]
    pub fn create_database(&self, name: &str) {
        self.create_database_with(name, "encoding 'UTF8'");
    }

    /// `CREATE DATABASE name TEMPLATE template0 options`.
    #[track_caller]
    pub fn create_database_with(&self, name: &str, options: &str) {
        self.psql("postgres", &format!("CREATE DATABASE {} TEMPLATE template0 {options}", quote(name)));
    }

    /// `DROP DATABASE IF EXISTS name WITH (FORCE)`.
    #[track_caller]
    pub fn drop_database(&self, name: &str) {
        self.psql("postgres", &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote(name)));
    }

    /// Runs a script as superuser, stopping at the first error; its rows unaligned, without headers.
    #[track_caller]
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let output = succeed_with(self.psql_command(database).args(["-f", "-"]), sql.as_bytes());
        String::from_utf8(output.stdout).expect("psql prints UTF-8").trim_end_matches('\n').to_owned()
    }

    /// Runs a script file as superuser, stopping at the first error; `variables` become psql's `-v`.
    #[track_caller]
    pub fn psql_file(&self, database: &str, file: &Path, variables: &[(&str, &str)]) -> String {
        let mut command = self.psql_command(database);
        for (name, value) in variables {
            command.arg("-v").arg(format!("{name}={value}"));
        }
        succeed(command.arg("-f").arg(file))
    }

    fn psql_command(&self, database: &str) -> Command {
        let mut command = self.command("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d"]).arg(self.url(database));
        command
    }

    /// What this server's `pg_dump` prints.
    #[track_caller]
    pub fn pg_dump(&self, database: &str, args: &[&str]) -> String {
        succeed(self.command("pg_dump").args(args).arg("-d").arg(self.url(database)))
    }

    /// Copies an extension's `.control` and `.sql` files where this server finds them.
    ///
    /// Panics where that folder can't be written: a test that needs the extension must not pass without it.
    #[track_caller]
    pub fn install_extension(&self, folder: &Path) {
        let target = share_dir(&self.bin).join("extension");
        for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let entry = entry.expect("a folder can be listed");
            let name = entry.file_name().to_string_lossy().into_owned();
            let fresh = target.join(format!(".{name}.{}", std::process::id()));
            fs::copy(entry.path(), &fresh).unwrap_or_else(|error| panic!("{}: {error}", fresh.display()));
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o644)).expect("we own the copy");
            fs::rename(&fresh, target.join(&name)).expect("a rename in one folder");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        // Nothing to be done about a failure while unwinding; the watchdog works on without us.
        self.watchdog.wait().ok();
    }
}

/// One cluster of that version for all tests of this process; give databases names of your own.
#[track_caller]
pub fn shared(version: u32) -> &'static Cluster {
    static CLUSTERS: Mutex<BTreeMap<u32, &'static Cluster>> = Mutex::new(BTreeMap::new());
    let mut clusters = CLUSTERS.lock().unwrap_or_else(PoisonError::into_inner);
    clusters.entry(version).or_insert_with(|| Box::leak(Box::new(Cluster::start(version))))
}

/// The major versions installed here with clients of their own, ascending; never empty.
#[track_caller]
pub fn versions() -> Vec<u32> {
    installed().into_iter().filter(|(_, bin)| has_clients(bin)).map(|(version, _)| version).collect()
}

/// The distribution's major version, with TLS and extensions that have packages of their own.
#[track_caller]
pub fn packaged() -> u32 {
    let found = installed().into_iter().find(|(_, bin)| bin.starts_with("/usr/lib/postgresql"));
    found.expect("a PostgreSQL of the distribution").0
}

/// The major versions of all servers installed here, those without clients too, ascending; never empty.
#[track_caller]
pub fn servers() -> Vec<u32> {
    installed().into_keys().collect()
}

fn has_clients(bin: &Path) -> bool {
    bin.join("pg_dump").exists()
}

/// The folder of the clients for a server of that version: its own, or the next newer version's.
#[track_caller]
fn clients(version: u32) -> PathBuf {
    let newer = installed().into_iter().find(|(other, bin)| *other >= version && has_clients(bin));
    newer.unwrap_or_else(|| panic!("no clients here for PostgreSQL {version}")).1
}

/// Where a server's extensions are described.
#[track_caller]
fn share_dir(bin: &Path) -> PathBuf {
    let config = bin.join("pg_config");
    if config.exists() {
        PathBuf::from(succeed(Command::new(config).arg("--sharedir")).trim())
    } else {
        bin.with_file_name("share").join("postgresql")
    }
}

/// The folder of that version's server programs.
#[track_caller]
pub fn bin_dir(version: u32) -> PathBuf {
    let mut found = installed();
    let known: Vec<u32> = found.keys().copied().collect();
    found.remove(&version).unwrap_or_else(|| panic!("no PostgreSQL {version} here, only {known:?}"))
}

/// Path of a file below `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// `name` as an SQL identifier.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// From `PGSTOW_TEST_PG_BINS` (`15=/folder:18=/folder`), else Debian's folders.
#[track_caller]
fn installed() -> BTreeMap<u32, PathBuf> {
    let mut found = BTreeMap::new();
    if let Ok(listed) = std::env::var("PGSTOW_TEST_PG_BINS") {
        for word in listed.split(':').filter(|word| !word.is_empty()) {
            let (version, folder) = word.split_once('=').unwrap_or_else(|| panic!("PGSTOW_TEST_PG_BINS: {word:?}"));
            found.insert(version.parse().expect("PGSTOW_TEST_PG_BINS has a version"), PathBuf::from(folder));
        }
    } else if let Ok(entries) = fs::read_dir("/usr/lib/postgresql") {
        for entry in entries.flatten() {
            let bin = entry.path().join("bin");
            if let (Ok(version), true) = (entry.file_name().to_string_lossy().parse(), bin.join("initdb").exists()) {
                found.insert(version, bin);
            }
        }
    }
    assert!(!found.is_empty(), "no PostgreSQL server here: set PGSTOW_TEST_PG_BINS, or let infra/setup install one");
    found
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// The words in front of a server program: none, or a change to user `postgres` for root.
pub fn user_words() -> &'static [&'static str] {
    const CHANGE: [&str; 5] = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"];
    const SAME: [&str; 1] = ["env"];
    if is_root() { &CHANGE } else { &SAME }
}

/// User and group `postgres`, for chown by root.
fn postgres_ids() -> (u32, u32) {
    let id = |flag: &str| succeed(Command::new("id").args([flag, "postgres"])).trim().parse().expect("id is a number");
    (id("-u"), id("-g"))
}

/// Makes files of ours the server's, readable by nobody else.
pub fn give_to_server(files: &[&Path]) {
    for file in files {
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("we own the file");
        if is_root() {
            let (user, group) = postgres_ids();
            chown(file, Some(user), Some(group)).expect("root may chown");
        }
    }
}

/// A new folder that the server's user owns; short, for the socket's path may have 107 bytes.
pub fn new_base(version: u32) -> PathBuf {
    let base = tempfile::Builder::new()
        .prefix(&format!("pgstow-it-{version}-"))
        .tempdir()
        .expect("a temporary folder can be made")
        .keep();
    let socket = base.join("socket");
    fs::create_dir(&socket).expect("a folder in ours can be made");
    fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).expect("we own the folder");
    if is_root() {
        let (user, group) = postgres_ids();
        for folder in [&base, &socket] {
            chown(folder, Some(user), Some(group)).expect("root may chown");
        }
    }
    base
}

/// The data folder of a server that has never run, made once for each version and kept for later runs.
fn template(version: u32, bin: &Path) -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let full = succeed(Command::new(bin.join("postgres")).arg("--version"));
    let word: String = full.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cluster-{}", word.trim_matches('-')));
    if kept.exists() {
        return kept;
    }
    let base = new_base(version);
    let password = base.join("password");
    fs::write(&password, PASSWORD).expect("our folder can be written");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).expect("we own the file");
    let (program, words) = user_words().split_first().expect("there is at least one word");
    succeed(
        Command::new(program)
            .args(words)
            .arg(bin.join("initdb"))
            .args(["-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--auth-local=trust"])
            .args(["--auth-host=scram-sha-256", "--pwfile"])
            .arg(&password)
            .arg("-D")
            .arg(base.join("data"))
            .env("LC_ALL", "C")
            .current_dir("/"),
    );
    let fresh = kept.with_extension(format!("fresh-{}", std::process::id()));
    copy_tree(&base.join("data"), &fresh);
    fs::remove_dir_all(&base).expect("we own the folder");
    // Another test process may have been quicker: its folder is as good as ours.
    if fs::rename(&fresh, &kept).is_err() {
        fs::remove_dir_all(&fresh).expect("we own the folder");
    }
    kept
}

/// Copies a folder with owners and modes.
fn copy_tree(from: &Path, to: &Path) {
    succeed(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// A folder with these locales in UTF-8, made by `localedef` from the system's sources, once.
fn locales(names: &[&str]) -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("locales");
    fs::create_dir_all(&folder).expect("a folder can be made");
    for name in names {
        let made = folder.join(format!("{name}.utf8"));
        if !made.join("LC_MONETARY").exists() {
            succeed(Command::new("localedef").args(["--no-archive", "-c", "-i", name, "-f", "UTF-8"]).arg(&made));
        }
    }
    // Servers run as another user, who may not enter the folder of the build.
    let kept = std::env::temp_dir().join(format!("pgstow-locales-{}", std::process::id()));
    if !kept.exists() {
        copy_tree(&folder, &kept);
    }
    kept
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("127.0.0.1 has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// The server's command line for `pg_ctl -o`, quoted for a shell.
fn server_options(bin: &Path, base: &Path, port: u16, settings: &[(&str, &str)]) -> String {
    let (port, socket) = (port.to_string(), base.join("socket").display().to_string());
    let mut all = vec![
        ("listen_addresses", "127.0.0.1"),
        ("port", &port),
        ("unix_socket_directories", &socket),
        ("wal_level", "logical"),
        ("max_locks_per_transaction", "256"),
        ("max_connections", "200"),
        ("fsync", "off"),
        ("synchronous_commit", "off"),
        ("full_page_writes", "off"),
        ("autovacuum_naptime", "1h"),
        ("max_wal_size", "2GB"),
        ("shared_buffers", "64MB"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
    ];
    if share_dir(bin).join("extension/pg_cron.control").exists() {
        all.push(("shared_preload_libraries", "pg_cron"));
        all.push(("cron.database_name", "app"));
    }
    all.extend_from_slice(settings);
    let mut options = String::new();
    for (name, value) in all {
        write!(options, "-c {name}='{value}' ").expect("a String takes any text");
    }
    options
}

/// Percent-encodes all that isn't plainly harmless in a URL.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("a String takes any text");
        }
    }
    escaped
}

/// The servers themselves.
pub mod tests {
    use super::*;

    #[test]
    pub(crate) fn every_promised_version_starts_and_takes_passwords_only() {
        for version in servers() {
            let cluster = shared(version);
            let name = format!("start \"{version}\"");
            cluster.create_database(&name);
            let answer = cluster.psql(&name, "SELECT current_setting('server_version_num')::int / 10000");
            assert_eq!(answer, version.to_string());
            let wrong = cluster.url_as("postgres", "wrong", &name);
            let output = super::super::process::output_with(cluster.command("psql").args(["-X", "-d", &wrong]), b"");
            assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("password"));
            cluster.drop_database(&name);
        }
    }

    #[test]
    fn a_dropped_cluster_leaves_nothing_behind() {
        let cluster = Cluster::start_with(versions()[0], &[("max_connections", "7")]);
        assert_eq!(cluster.psql("postgres", "SHOW max_connections"), "7");
        let (base, port) = (cluster.base.clone(), cluster.port);
        drop(cluster);
        assert!(!base.exists());
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("nobody listens there any more");
    }
}
