//! A psql that stays open, for tests that hold locks and transactions while the program works.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use super::pg::Cluster;

/// Longest wait for something that is bound to happen.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// An open session of the superuser; ends when dropped.
#[derive(Debug)]
pub struct Talk {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    said: u32,
}

impl Talk {
    /// Connects.
    #[track_caller]
    pub fn open(cluster: &Cluster, database: &str) -> Self {
        let mut command = cluster.command("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d"]).arg(cluster.url(database));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("psql can be started");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut talk = Self { child, stdin, stdout, said: 0 };
        talk.run("SELECT 1");
        talk
    }

    /// Sends statements without waiting for their end.
    pub fn send(&mut self, sql: &str) {
        self.said += 1;
        let text = format!("{sql};\n\\echo done {}\n", self.said);
        self.stdin.as_mut().expect("the session is open").write_all(text.as_bytes()).expect("psql reads its input");
    }

    /// Waits for the end of everything sent and returns its rows.
    #[track_caller]
    pub fn wait(&mut self) -> String {
        let marker = format!("done {}", self.said);
        let mut rows = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.stdout.read_line(&mut line).expect("psql prints UTF-8"), 0, "psql ended before {marker}");
            if line.trim_end() == marker {
                return rows.trim_end().to_owned();
            }
            rows.push_str(&line);
        }
    }

    /// Runs statements and returns their rows.
    #[track_caller]
    pub fn run(&mut self, sql: &str) -> String {
        self.send(sql);
        self.wait()
    }

    /// Process id of the server's backend.
    #[track_caller]
    pub fn pid(&mut self) -> String {
        self.run("SELECT pg_backend_pid()")
    }

    /// Asks until the answer is `t`. Panics when it never comes.
    #[track_caller]
    pub fn until(&mut self, question: &str) {
        let start = Instant::now();
        while self.run(question) != "t" {
            assert!(start.elapsed() < PATIENCE, "never came true: {question}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Waits until it is true. Panics when it never is.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
