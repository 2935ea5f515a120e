//! A real PgBouncer in front of a test cluster, on a free port; ends when dropped, also when the tests are killed.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::pg::{self, Cluster, PASSWORD};
use super::session::until;

/// Starts the program behind `--`, waits for stdin to close, ends it. Arguments: folder to remove, then the command.
const WATCHDOG: &str = r#"
trap '' PIPE HUP INT TERM
base=$1; shift
"$@" </dev/null >/dev/null 2>&1 &
cat >/dev/null
kill -KILL $!
wait $!
rm -rf "$base"
"#;

/// A running PgBouncer.
#[derive(Debug)]
pub struct PgBouncer {
    /// TCP port on 127.0.0.1.
    pub port: u16,
    watchdog: Child,
}

impl PgBouncer {
    /// Pools every database of the cluster in `session`, `transaction` or `statement` mode.
    #[track_caller]
    pub fn start(cluster: &Cluster, mode: &str) -> Self {
        let base = pg::new_base(0);
        let port = pg::free_port();
        let users = base.join("users");
        fs::write(&users, format!("\"postgres\" \"{PASSWORD}\"\n")).expect("our folder can be written");
        let config = base.join("config");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = {mode}\ndefault_pool_size = 20\n\
             ignore_startup_parameters = extra_float_digits\n",
            cluster.port(),
            users.display()
        );
        fs::write(&config, text).expect("our folder can be written");
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(&base)
            .args(pg::user_words())
            .arg(program())
            .arg("-q")
            .arg(&config)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh can be started");
        until("PgBouncer listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        Self { port, watchdog }
    }

    /// Connection string of the superuser through the pool.
    pub fn url(&self, cluster: &Cluster, database: &str) -> String {
        cluster.url(database).replace(&format!(":{}/", cluster.port()), &format!(":{}/", self.port))
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        // Nothing to be done about a failure while unwinding.
        self.watchdog.wait().ok();
    }
}

/// `PGSTOW_TEST_PGBOUNCER`, else where infra/setup puts it, else the system's.
#[track_caller]
fn program() -> PathBuf {
    let tools = std::env::var("PGSTOW_TOOLS").unwrap_or_else(|_unset| "/var/tmp/pgstow-tools".to_owned());
    let places = [
        std::env::var_os("PGSTOW_TEST_PGBOUNCER").map(PathBuf::from),
        Some(PathBuf::from(tools).join("venv/bin/pgbouncer")),
        Some(PathBuf::from("/usr/sbin/pgbouncer")),
    ];
    places
        .into_iter()
        .flatten()
        .find(|place| place.is_file())
        .expect("no pgbouncer here: let infra/setup fetch it, or set PGSTOW_TEST_PGBOUNCER")
}
