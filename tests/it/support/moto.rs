//! moto, an S3 server that keeps versions and locks; it and its client for Python come from infra/setup.

use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::process::succeed;
use super::program::pgstow;
use super::session::until;

/// Starts the program behind the first word, waits for stdin to close, ends it.
const WATCHDOG: &str = r#"
trap '' PIPE HUP INT TERM
"$@" </dev/null >/dev/null 2>&1 &
cat >/dev/null
kill -KILL $!
wait $!
"#;

/// A running server; ends when dropped, also when the tests are killed.
#[derive(Debug)]
pub struct Moto {
    endpoint: String,
    watchdog: Child,
}

impl Moto {
    /// Starts a server without buckets.
    #[track_caller]
    pub fn start() -> Self {
        let port = super::pg::free_port();
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(tool("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh can be started");
        until("moto listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        Self { endpoint: format!("http://127.0.0.1:{port}"), watchdog }
    }

    /// Runs lines of Python in which `s3` is a client of this server; what they print.
    #[track_caller]
    pub fn python(&self, lines: &str) -> String {
        let head = format!(
            "import boto3, json\nfrom botocore.config import Config\n\
             s3 = boto3.client('s3', endpoint_url='{}', region_name='us-east-1', aws_access_key_id='a', \
             aws_secret_access_key='b', config=Config(proxies={{}}, s3={{'addressing_style': 'path'}}))\n",
            self.endpoint
        );
        succeed(Command::new(tool("python3")).args(["-c", &(head + lines)])).trim().to_owned()
    }

    /// Settings of the environment for this server.
    pub fn env(&self) -> [(&'static str, &str); 4] {
        let [id, secret] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        [(id, "a"), (secret, "b"), ("AWS_REGION", "us-east-1"), ("AWS_ENDPOINT_URL_S3", &self.endpoint)]
    }

    /// A command of the program on `s3://BUCKET/p`.
    pub fn command(&self, bucket: &str, words: &[&str]) -> Command {
        let mut command = pgstow();
        command.args(words).args(["--store", &format!("s3://{bucket}/p")]).envs(self.env());
        command
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        // Nothing to be done about a failure while unwinding.
        self.watchdog.wait().ok();
    }
}

/// A program of infra/setup's environment for Python.
pub fn tool(name: &str) -> PathBuf {
    let tools = std::env::var("PGSTOW_TOOLS").unwrap_or_else(|_unset| "/var/tmp/pgstow-tools".to_owned());
    PathBuf::from(tools).join("venv/bin").join(name)
}
