//! The server of a session of fuzzing and the programs that act on it, each with a bound on its time.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::pg::{Cluster, PASSWORD};
use crate::process::piped;
use crate::words::ident;

/// Longest time that any program may take on databases so small.
const PATIENCE: Duration = Duration::from_secs(90);

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// None after a signal; ours where it took too long.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub late: bool,
}

impl Ended {
    /// One line: the exit code and the first error.
    pub fn story(&self) -> String {
        let line = self.err.lines().find(|line| line.starts_with("error:") || line.contains("ERROR"));
        let line = line.or_else(|| self.err.lines().last()).unwrap_or_default();
        let late = if self.late { " (stopped by the fuzzer: too late)" } else { "" };
        let code = self.code.map_or_else(|| "signal".to_owned(), |code| code.to_string());
        format!("exit {code}{late}: {line}")
    }
}

/// Runs a program to its end or [`PATIENCE`]'s.
pub fn run(command: &mut Command, input: &[u8]) -> Ended {
    run_until(command, input, PATIENCE)
}

/// Runs a program to its end, or kills it after that time.
pub fn run_until(command: &mut Command, input: &[u8], patience: Duration) -> Ended {
    let mut late = false;
    let output = piped(command, input, |child| {
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a child can be asked") {
                break status;
            }
            if started.elapsed() > patience && !late {
                late = true;
                child.kill().ok();
            }
            thread::sleep(Duration::from_millis(5));
        }
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr), late }
}

/// The cluster with what every case needs.
#[derive(Debug)]
pub struct Server {
    pub cluster: Cluster,
}

impl Server {
    /// Starts it and makes the roles.
    pub fn start(version: u32) -> Self {
        let settings = [("autovacuum", "off"), ("max_connections", "60"), ("max_worker_processes", "2")];
        let server = Self { cluster: Cluster::start_with(version, &settings) };
        server.make_roles();
        server
    }

    /// Those of the generator and a restorer without rights.
    pub fn make_roles(&self) {
        for role in crate::generate::ROLES {
            self.sql("postgres", &format!("CREATE ROLE {}", ident(role)));
        }
        self.sql(
            "postgres",
            &format!("CREATE ROLE fz_login LOGIN CREATEDB PASSWORD E'{}'", PASSWORD.replace('\'', "\\'")),
        );
    }

    /// The definitions of all roles, without passwords.
    pub fn roles(&self) -> String {
        let words = ["--roles-only", "--no-role-passwords", "-d"];
        let ended = run(self.cluster.command("pg_dumpall").args(words).arg(self.url("postgres")), b"");
        let lines = ended.out.lines().filter(|line| !line.contains("restrict") && !line.starts_with("--"));
        lines.collect::<Vec<_>>().join("\n")
    }

    pub fn url(&self, database: &str) -> String {
        self.cluster.url(database)
    }

    /// Runs SQL as superuser, the answer's rows as text; errors are of no interest here.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        run(self.psql(database).args(["-f", "-"]), sql.as_bytes()).out
    }

    pub fn psql(&self, database: &str) -> Command {
        let mut command = self.cluster.command("psql");
        command.args(["-X", "-q", "-A", "-t", "-d"]).arg(self.url(database));
        command
    }

    /// A fresh database; one of that name is dropped first.
    pub fn fresh(&self, database: &str) {
        self.drop(database);
        self.sql("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8'"));
    }

    /// Drops a database, its subscriptions first, which would prevent it.
    pub fn drop(&self, database: &str) {
        self.sql(
            "postgres",
            &format!(
                "DELETE FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = '{database}');\n\
                 UPDATE pg_database SET datistemplate = false WHERE datname = '{database}';\n\
                 DROP DATABASE IF EXISTS {database} WITH (FORCE);"
            ),
        );
    }

    /// Runs statement after statement in a fresh session and returns the refusals: a message for each, or none.
    pub fn accepted(&self, database: &str, statements: &[String]) -> Vec<Option<String>> {
        let mut script = "\\o /dev/null\nSET client_min_messages = error;\nSET statement_timeout = '10s';\n".to_owned();
        for (at, statement) in statements.iter().enumerate() {
            script.push_str(&format!("RESET ROLE; RESET session_replication_role;\n{statement}\n;\n\\echo @@fz {at} :ERROR :LAST_ERROR_MESSAGE\n"));
        }
        let ended = run(&mut self.psql(database), script.as_bytes());
        let mut answers = vec![Some("no answer".to_owned()); statements.len()];
        for line in ended.out.lines().filter_map(|line| line.strip_prefix("@@fz ")) {
            let mut words = line.splitn(3, ' ');
            let at = words.next().and_then(|word| word.parse::<usize>().ok());
            let refused = words.next() != Some("false");
            let message = words.next().unwrap_or_default().to_owned();
            if let Some(answer) = at.and_then(|at| answers.get_mut(at)) {
                *answer = refused.then_some(message);
            }
        }
        answers
    }

    /// What pg_dump prints; an error's text where it fails.
    pub fn dump(&self, database: &str, words: &[&str]) -> Result<String, String> {
        let mut command = self.cluster.command("pg_dump");
        // Settings that the database has or has not, and that change no value.
        command
            .env("PGOPTIONS", "-c bytea_output=hex -c standard_conforming_strings=on -c quote_all_identifiers=off")
            .args(words)
            .arg("-d")
            .arg(self.url(database));
        let ended = run(&mut command, b"");
        if ended.code == Some(0) { Ok(ended.out) } else { Err(ended.story()) }
    }

    /// The program under test with a store.
    pub fn pgstow(&self, words: &[&str], store: &Path) -> Command {
        let program = std::env::var_os("PGSTOW")
            .unwrap_or_else(|| option_env!("CARGO_BIN_EXE_pgstow").unwrap_or("pgstow").into());
        let mut command = Command::new(program);
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if name.starts_with("PG") || name.starts_with("AWS_") || name.starts_with("DATABASE") {
                command.env_remove(key);
            }
        }
        command.args(words).arg("--store").arg(store).env("PGSTOW_PG_BIN_DIR", self.cluster.bin_dir()).current_dir("/");
        command
    }
}
