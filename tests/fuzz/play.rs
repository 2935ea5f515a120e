//! Plays one case: makes the database, a run of it, the restore that the way names, and asks the judges.
//!
//! What stock `pg_dump | psql` loses too is no finding; what pgstow reports (exit 3) must be lost there as well.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::case::Case;
use crate::damage;
use crate::judge::{Entries, RESTORED, SOURCE, STOCK, signature};
use crate::pg::PASSWORD;
use crate::server::{Ended, Server, run, run_until};
use crate::way::Goal;
use crate::words::{ident, literal};

/// What became of a case.
#[derive(Debug, Default)]
pub struct Played {
    /// The statements that the server took.
    pub accepted: Vec<String>,
    /// Why it refused the others.
    pub refusals: Vec<String>,
    /// The first line names the kind, without names and numbers of this case.
    pub finding: Option<String>,
    /// Lost with exit 0, but by stock too.
    pub like_stock: Option<String>,
    /// Lost with exit 3, and by stock too.
    pub listed: Option<String>,
    /// Nothing could be judged, and why.
    pub skipped: Option<String>,
}

/// Plays the case in a folder of its own, which is empty and stays.
pub fn play(server: &Server, case: &Case, folder: &Path) -> Played {
    server.fresh(SOURCE);
    let answers = server.accepted(SOURCE, &case.statements);
    let mut played = Played::default();
    for (statement, answer) in case.statements.iter().zip(answers) {
        match answer {
            None => played.accepted.push(statement.clone()),
            Some(why) => played.refusals.push(why),
        }
    }
    let stage = Stage { server, case, folder, store: folder.join("store"), key: folder.with_file_name("key.txt") };
    match stage.judge(&mut played) {
        Ok(()) => {}
        Err(Verdict::Finding(text)) => played.finding = Some(text),
        Err(Verdict::Skip(text)) => played.skipped = Some(text),
    }
    played
}

/// The end of a case before its end.
enum Verdict {
    Finding(String),
    Skip(String),
}

/// A finding: the kind in one line, then the details.
fn finding<T>(kind: &str, details: &str) -> Result<T, Verdict> {
    Err(Verdict::Finding(format!("{}\n{details}", kind.replace('\n', " "))))
}

struct Stage<'a> {
    server: &'a Server,
    case: &'a Case,
    folder: &'a Path,
    store: PathBuf,
    /// An identity of age's; its recipient stands beside it.
    key: PathBuf,
}

impl Stage<'_> {
    fn judge(&self, played: &mut Played) -> Result<(), Verdict> {
        let way = &self.case.way;
        let dump = || self.server.dump(SOURCE, &["--create"]);
        let (dump, backup) = if way.changes {
            // pg_dump fails where definitions go away under it; a backup must not.
            (dump(), self.backup_of_a_changing_database())
        } else {
            std::thread::scope(|scope| {
                let dump = scope.spawn(dump);
                let backup = self.backup();
                (dump.join().expect("the thread does not panic"), backup)
            })
        };
        let source = match (dump, backup.code) {
            (Err(error), _) => return Err(Verdict::Skip(format!("pg_dump itself: {}", signature(&error)))),
            (Ok(dump), Some(0)) => Entries::of(&dump),
            (Ok(_), _) => return finding(&format!("backup {}", signature(&backup.story())), &backup.err),
        };
        if way.draw.is_multiple_of(4) || way.volumes || way.sealed {
            Self::expect(&mut self.pgstow_reading("verify"), "verify")?;
        }
        match way.goal {
            Goal::Create => self.create(&source, played),
            Goal::Empty => self.empty(played),
            Goal::Halves => self.halves(played),
            Goal::Schema => self.schema(played),
            Goal::Table | Goal::Files => self.table(played),
            Goal::Rows => self.rows(played),
            Goal::Script => self.script(played),
            Goal::Drill => self.drill(&source, played),
            Goal::Damage => self.damage(),
            Goal::Kill => self.kill(&source, played),
            Goal::Owner => self.owner(played),
            Goal::Roles => self.roles(&source, played),
        }
    }

    /// A run while another session makes, changes and drops things of its own.
    fn backup_of_a_changing_database(&self) -> Ended {
        let round = "CREATE VIEW fz_change_v AS SELECT 1 AS a; CREATE FUNCTION fz_change_f() RETURNS int LANGUAGE sql AS 'SELECT 1';
            CREATE TABLE fz_change_t (a int); ALTER TABLE fz_change_t ADD COLUMN b text; INSERT INTO fz_change_t VALUES (1);
            CREATE OR REPLACE VIEW fz_change_v AS SELECT 2 AS a; DROP VIEW fz_change_v; DROP FUNCTION fz_change_f; DROP TABLE fz_change_t;
            SELECT pg_sleep(0.05);\n";
        std::thread::scope(|scope| {
            let changes = scope.spawn(|| {
                run_until(
                    self.server.psql(SOURCE).args(["-f", "-"]),
                    round.repeat(12).as_bytes(),
                    Duration::from_secs(20),
                )
            });
            let ended = self.backup();
            changes.join().expect("the thread does not panic");
            ended
        })
    }

    fn backup(&self) -> Ended {
        let way = &self.case.way;
        let mut command =
            self.server.pgstow(&["backup", "--log", "warn", "--compression", &way.compression], &self.store);
        command.args(["--jobs", &way.jobs.to_string()]).env("DATABASE_URL", self.server.url(SOURCE));
        if way.sealed {
            let recipient = fs::read_to_string(self.key.with_extension("pub")).unwrap_or_default();
            command.args(["--encrypt", recipient.trim()]);
        }
        if way.volumes {
            command.args(["--max-object-size", "1MiB"]);
        }
        run(&mut command, b"")
    }

    /// A verb that reads runs, with the identity where there is one.
    fn pgstow_reading(&self, verb: &str) -> Command {
        let mut command = self.server.pgstow(&[verb, "--log", "warn"], &self.store);
        if self.case.way.sealed {
            command.arg("--identity").arg(&self.key);
        }
        command
    }

    fn restore(&self, words: &[&str]) -> Ended {
        self.restore_as(&self.server.url(RESTORED), words)
    }

    fn restore_as(&self, url: &str, words: &[&str]) -> Ended {
        let mut command = self.pgstow_reading("restore");
        command.args(words).args(["--jobs", &self.case.way.jobs.to_string()]).env("PGSTOW_RESTORE_TO", url);
        run(&mut command, b"")
    }

    /// Exit code 0 or a finding.
    fn expect(command: &mut Command, what: &str) -> Result<(), Verdict> {
        let ended = run(command, b"");
        if ended.code == Some(0) {
            return Ok(());
        }
        finding(&format!("{what} {}", signature(&ended.story())), &ended.err)
    }

    /// Compares the restored database with the saved one, and with what stock makes of the whole.
    fn compare(&self, ended: &Ended, source: &Entries, words: &[&str], played: &mut Played) -> Result<(), Verdict> {
        self.compare_with(ended, source, words, played, || self.stock(words))
    }

    /// As [`Self::compare`], with another yardstick: what it makes, and its errors.
    fn compare_with(
        &self,
        ended: &Ended,
        source: &Entries,
        words: &[&str],
        played: &mut Played,
        stock: impl FnOnce() -> Result<(Entries, String), Verdict>,
    ) -> Result<(), Verdict> {
        let refused = !matches!(ended.code, Some(0 | 3));
        let restored = if refused { String::new() } else { self.dump_of(RESTORED, words)? };
        let differences = Entries::of(&restored).differences(source);
        if differences.is_empty() && ended.code == Some(0) {
            return self.same_facts();
        }
        if refused && ended.err.contains(" is ENABLE ALWAYS") {
            // By design: such a trigger would change the rows that are loaded.
            return Ok(());
        }
        let (stock, errors) = stock()?;
        let of_stock = stock.differences(source);
        let kind = format!("{:?} {}", self.case.way.goal, signature(&ended.story()));
        let part = matches!(self.case.way.goal, Goal::Schema | Goal::Table | Goal::Files | Goal::Halves | Goal::Rows);
        if refused && !of_stock.is_empty() && part {
            // Refused for what it needs from elsewhere, of which stock makes half.
            return Ok(());
        }
        if refused {
            let also = if of_stock.is_empty() { "stock restores all" } else { "stock restores the rest" };
            return finding(&format!("{kind} [{also}]"), &format!("{}\n--- stock's errors\n{errors}", ended.err));
        }
        let worse: Vec<&String> = differences.iter().filter(|difference| !of_stock.contains(difference)).collect();
        if let Some(first) = worse.first() {
            let all: Vec<&str> = worse.iter().map(|text| text.as_str()).take(20).collect();
            let kind =
                format!("{:?} exit {:?} differs: {}", self.case.way.goal, ended.code, signature(&what_of(first)));
            return finding(&kind, &format!("{}\n--- stderr\n{}", all.join("\n"), ended.err));
        }
        match (ended.code, differences.first()) {
            (Some(0), Some(first)) => {
                played.like_stock = Some(format!(
                    "{:?}: {}\n{}",
                    self.case.way.goal,
                    signature(&what_of(first)),
                    differences.join("\n")
                ));
                Ok(())
            }
            (_, None) => finding(&format!("{kind} though nothing differs"), &ended.err),
            _ => {
                played.listed = Some(kind);
                Ok(())
            }
        }
    }

    fn dump_of(&self, database: &str, words: &[&str]) -> Result<String, Verdict> {
        match self.server.dump(database, words) {
            Ok(text) => Ok(text),
            Err(error) => finding(&format!("pg_dump of the restored database fails: {}", signature(&error)), &error),
        }
    }

    /// The database as stock pg_dump and psql make it again, and psql's errors.
    fn stock(&self, words: &[&str]) -> Result<(Entries, String), Verdict> {
        let errors = self.make_stock()?;
        let entries = Entries::of(&self.dump_of(STOCK, words)?);
        self.server.drop(STOCK);
        Ok((entries, errors))
    }

    fn make_stock(&self) -> Result<String, Verdict> {
        let text = self.dump_of(SOURCE, &["--create"])?.replace(SOURCE, STOCK);
        self.server.drop(STOCK);
        Ok(self.pipe(&text, "postgres"))
    }

    /// What pg_dump does not print: filled views, valid constraints and indexes, states, inherited columns.
    fn same_facts(&self) -> Result<(), Verdict> {
        let whole = matches!(
            self.case.way.goal,
            Goal::Create | Goal::Empty | Goal::Halves | Goal::Drill | Goal::Kill | Goal::Script
        );
        if !self.case.way.draw.is_multiple_of(3) || !whole {
            return Ok(());
        }
        let facts = |database: &str| Entries::lines(&self.server.sql(database, FACTS));
        let source = facts(SOURCE);
        let differences = facts(RESTORED).differences(&source);
        if differences.is_empty() {
            return Ok(());
        }
        self.make_stock()?;
        let of_stock = facts(STOCK).differences(&source);
        self.server.drop(STOCK);
        let worse: Vec<String> = differences.into_iter().filter(|difference| !of_stock.contains(difference)).collect();
        let Some(first) = worse.first() else { return Ok(()) };
        let kind = first.split('|').next().unwrap_or_default();
        finding(&format!("{:?} facts of the catalogue differ: {kind}", self.case.way.goal), &worse.join("\n"))
    }

    fn create(&self, source: &Entries, played: &mut Played) -> Result<(), Verdict> {
        self.server.drop(RESTORED);
        let ended = self.restore(&["--create"]);
        self.compare(&ended, source, &["--create"], played)
    }

    /// Into an empty database of somebody else's: what its owner has by owning it is not there for stock either.
    fn empty(&self, played: &mut Played) -> Result<(), Verdict> {
        self.server.fresh(RESTORED);
        let source = Entries::of(&self.dump_of(SOURCE, &[])?);
        let ended = self.restore(&[]);
        self.compare_with(&ended, &source, &[], played, || self.stock_in_empty())
    }

    fn stock_in_empty(&self) -> Result<(Entries, String), Verdict> {
        self.server.fresh(STOCK);
        let errors = self.pipe(&self.dump_of(SOURCE, &[])?, STOCK);
        Ok((Entries::of(&self.dump_of(STOCK, &[])?), errors))
    }

    /// Definitions, then rows: stock in two halves is the yardstick, for a constraint that is not valid stops both.
    fn halves(&self, played: &mut Played) -> Result<(), Verdict> {
        self.server.fresh(RESTORED);
        let source = Entries::of(&self.dump_of(SOURCE, &[])?);
        let stock = || self.stock_in_halves();
        let first = self.restore(&["--schema-only"]);
        if !matches!(first.code, Some(0 | 3)) {
            return self.compare_with(&first, &source, &[], played, stock);
        }
        let ended = self.restore(&["--data-only"]);
        self.compare_with(&ended, &source, &[], played, stock)
    }

    fn stock_in_halves(&self) -> Result<(Entries, String), Verdict> {
        self.server.fresh(STOCK);
        let errors = self.pipe(&self.dump_of(SOURCE, &["--schema-only"])?, STOCK);
        let errors = errors + &self.pipe(&self.dump_of(SOURCE, &["--data-only", "--disable-triggers"])?, STOCK);
        Ok((Entries::of(&self.dump_of(STOCK, &[])?), errors))
    }

    /// One schema into an empty database: whatever `pg_dump -n` brings back, this does too.
    fn schema(&self, played: &mut Played) -> Result<(), Verdict> {
        let schemas = "SELECT quote_ident(nspname) FROM pg_namespace WHERE oid >= 16384 AND nspname !~ '^pg_' AND nspname !~ '\n' ORDER BY 1";
        let Some(schema) = self.one_of(schemas) else { return Ok(()) };
        let words = ["-n", schema.as_str()];
        let source = Entries::of(&self.dump_of(SOURCE, &words)?);
        self.server.fresh(RESTORED);
        let ended = self.restore(&["--schema", &unquoted(&schema)]);
        self.compare_with(&ended, &source, &words, played, || {
            self.server.fresh(STOCK);
            let errors = self.pipe(&self.dump_of(SOURCE, &words)?, STOCK);
            Ok((Entries::of(&self.dump_of(STOCK, &words)?), errors))
        })
    }

    /// One table that is gone from a copy comes back: by `restore --table`, or by its file.
    fn table(&self, played: &mut Played) -> Result<(), Verdict> {
        let tables = "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p', 'm') AND c.oid >= 16384 AND n.nspname !~ '^pg_' AND n.nspname || c.relname !~ '\n' ORDER BY 1";
        let Some(table) = self.one_of(tables) else { return Ok(()) };
        let source = Entries::of(&self.dump_of(SOURCE, &[])?);
        self.server.fresh(STOCK);
        let errors = self.pipe(&self.dump_of(SOURCE, &[])?, STOCK);
        if !errors.is_empty() {
            return Ok(());
        }
        let kind = self.server.sql(STOCK, &format!("SELECT CASE relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END FROM pg_class WHERE oid = {}::regclass", literal(&table)));
        let dropped =
            run(self.server.psql(STOCK).args(["-f", "-"]), format!("DROP {} {table}", kind.trim()).as_bytes());
        if !dropped.err.is_empty() {
            return Ok(());
        }
        self.server.drop(RESTORED);
        self.server.sql("postgres", &format!("CREATE DATABASE {RESTORED} TEMPLATE {STOCK}"));
        let ended = if self.case.way.goal == Goal::Table {
            self.restore(&["--table", &table, "--into-existing"])
        } else {
            match self.file_of(&table) {
                Some(text) => {
                    run(self.server.psql(RESTORED).args(["-v", "ON_ERROR_STOP=1", "-f", "-"]), text.as_bytes())
                }
                None => return Ok(()),
            }
        };
        self.compare_with(&ended, &source, &[], played, || {
            let errors = self.pipe(&self.dump_of(SOURCE, &["-t", &table])?, STOCK);
            Ok((Entries::of(&self.dump_of(STOCK, &[])?), errors))
        })
    }

    /// One of the rows of a query on the saved database, as the way draws it.
    fn one_of(&self, query: &str) -> Option<String> {
        let answer = self.server.sql(SOURCE, query);
        let all: Vec<&str> = answer.lines().collect();
        all.get(self.case.way.draw / 32 % all.len().max(1)).map(|line| (*line).to_owned())
    }

    /// Runs a dump's text; psql's errors. A database that is read-only by default would stop it at its first line.
    fn pipe(&self, text: &str, database: &str) -> String {
        let mut psql = self.server.psql(database);
        psql.args(["-o", "/dev/null", "-f", "-"]).env("PGOPTIONS", "-c default_transaction_read_only=off");
        run(&mut psql, text.as_bytes()).err
    }

    /// The text of a table's `.sql` object, where it is one file in the clear.
    fn file_of(&self, table: &str) -> Option<String> {
        let folder = self.run_folder()?;
        let manifest: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("manifest.json")).ok()?).ok()?;
        let names = self.server.sql(SOURCE, &format!("SELECT n.nspname || E'\\x01' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {}::regclass", literal(table)));
        let (schema, name) = names.trim_end_matches('\n').split_once('\u{1}')?;
        let with_name =
            |all: &serde_json::Value, name: &str| all.as_array()?.iter().find(|one| one["name"] == name).cloned();
        let found = with_name(&with_name(&manifest["schemas"], schema)?["tables"], name)?;
        let key = found["object"]["key"].as_str()?;
        let program = match key.rsplit('.').next()? {
            "zst" => "zstd",
            "gz" => "gzip",
            "sql" => "cat",
            _ => return None,
        };
        let words: &[&str] = if program == "cat" { &[] } else { &["-dc"] };
        let ended = run(Command::new(program).args(words).arg(folder.join(key)), b"");
        (ended.code == Some(0)).then_some(ended.out)
    }

    fn run_folder(&self) -> Option<PathBuf> {
        fs::read_dir(self.store.join("runs")).ok()?.flatten().map(|entry| entry.path()).next()
    }

    /// The script of RESTORE.md, by bash.
    fn script(&self, played: &mut Played) -> Result<(), Verdict> {
        let Some(folder) = self.run_folder() else { return Ok(()) };
        let text = fs::read_to_string(folder.join("RESTORE.md")).unwrap_or_default();
        let block = text.split_once("```bash\n").and_then(|(_, rest)| rest.split_once("\n```"));
        let block = block.map_or("", |(block, _)| block);
        let script = self.folder.join("script");
        fs::write(&script, block).ok();
        self.server.fresh(RESTORED);
        let source = Entries::of(&self.dump_of(SOURCE, &[])?);
        let mut bash = Command::new("bash");
        let path = format!("{}:/usr/bin:/bin", self.server.cluster.bin_dir().display());
        bash.arg(&script).env_clear().env("PATH", path).env("RUN", &folder).env("DB", self.server.url(RESTORED));
        bash.env("LC_ALL", "C.UTF-8").env("KEY", &self.key).current_dir("/");
        let ended = run(&mut bash, b"");
        self.compare_with(&ended, &source, &[], played, || self.stock_in_empty())
    }

    /// Rows again, over rows that changed meanwhile.
    fn rows(&self, played: &mut Played) -> Result<(), Verdict> {
        let source = Entries::of(&self.dump_of(SOURCE, &[])?);
        self.server.fresh(RESTORED);
        let errors = self.pipe(&self.dump_of(SOURCE, &[])?, RESTORED);
        let large_objects = self.server.sql(SOURCE, "SELECT count(*) FROM pg_largeobject_metadata");
        if !errors.is_empty() || large_objects.trim() != "0" {
            return Ok(());
        }
        let first = self.one_of("SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND c.oid >= 16384 ORDER BY c.oid");
        if let Some(table) = first {
            self.server.sql(RESTORED, &format!("SET session_replication_role = replica; DELETE FROM {table};"));
        }
        let ended = self.restore(&["--data-only", "--truncate", "--into-existing"]);
        self.compare_with(&ended, &source, &[], played, || self.stock_in_halves())
    }

    /// A restore that is killed at some moment, and the same command again.
    fn kill(&self, source: &Entries, played: &mut Played) -> Result<(), Verdict> {
        self.server.drop(RESTORED);
        let mut command = self.pgstow_reading("restore");
        command.args(["--create"]).env("PGSTOW_RESTORE_TO", self.server.url(RESTORED));
        let moment = Duration::from_millis(50 + (self.case.way.draw % 1200) as u64);
        let killed = run_until(&mut command, b"", moment);
        // The server notices a moment later.
        let others =
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        for _ in 0..200 {
            if self.server.sql("postgres", others).trim() == "0" {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        // Done before the moment came: the second would find a database that is not empty.
        if !killed.late {
            self.server.drop(RESTORED);
        }
        let exists = self.server.sql("postgres", &format!("SELECT 1 FROM pg_database WHERE datname = '{RESTORED}'"));
        let ended = if exists.trim() == "1" { self.restore(&[]) } else { self.restore(&["--create"]) };
        self.compare(&ended, source, &["--create"], played)
    }

    /// By the owner of the target, who is no superuser; stock has the same rights.
    fn owner(&self, played: &mut Played) -> Result<(), Verdict> {
        let source = Entries::of(&self.dump_of(SOURCE, &[])?);
        let text = self.dump_of(SOURCE, &[])?;
        self.server.fresh(RESTORED);
        self.server.sql("postgres", &format!("ALTER DATABASE {RESTORED} OWNER TO fz_login"));
        let ended = self.restore_as(&self.server.cluster.url_as("fz_login", PASSWORD, RESTORED), &["--best-effort"]);
        self.compare_with(&ended, &source, &[], played, || {
            self.server.fresh(STOCK);
            self.server.sql("postgres", &format!("ALTER DATABASE {STOCK} OWNER TO fz_login"));
            let mut psql = self.server.cluster.command("psql");
            psql.env("PGOPTIONS", "-c default_transaction_read_only=off");
            psql.args(["-X", "-q", "-o", "/dev/null", "-f", "-", "-d"])
                .arg(self.server.cluster.url_as("fz_login", PASSWORD, STOCK));
            let errors = run(&mut psql, text.as_bytes()).err;
            Ok((Entries::of(&self.dump_of(STOCK, &[])?), errors))
        })
    }

    /// Database and roles are gone, and come back.
    fn roles(&self, source: &Entries, played: &mut Played) -> Result<(), Verdict> {
        // Stock first: it needs the source and the roles.
        let (stock, errors) = self.stock(&["--create"])?;
        self.server.drop(RESTORED);
        let before = self.server.roles();
        self.server.drop(SOURCE);
        for role in crate::generate::ROLES {
            self.server.sql("postgres", &format!("DROP ROLE {}", ident(role)));
        }
        let ended = self.restore(&["--create", "--roles"]);
        let after = self.server.roles();
        self.server.make_roles();
        self.compare_with(&ended, source, &["--create"], played, || Ok((stock, errors)))?;
        if before == after { Ok(()) } else { finding("Roles: the roles differ", &format!("{before}\n---\n{after}")) }
    }

    /// A drill's verdict agrees with a restore.
    fn drill(&self, source: &Entries, played: &mut Played) -> Result<(), Verdict> {
        let mut command = self.pgstow_reading("drill");
        command.args(["--jobs", &self.case.way.jobs.to_string()]).env("PGSTOW_DRILL_ON", self.server.url("postgres"));
        let ended = run(&mut command, b"");
        self.create(source, played)?;
        match (ended.code, played.like_stock.as_ref().or(played.listed.as_ref())) {
            // What differs from stock's words only (a default that PostgreSQL prints with a type the second time) is proven.
            (Some(0), _) | (Some(3 | 4), Some(_)) => Ok(()),
            _ => finding(
                &format!("drill of what is restored right: {}", signature(&ended.story())),
                &format!("{}\n{}", ended.err, ended.out),
            ),
        }
    }

    /// Damages one thing; verify or drill must say so.
    fn damage(&self) -> Result<(), Verdict> {
        let Some(what) = damage::damage(&self.store, self.case.way.draw) else { return Ok(()) };
        let verify = run(&mut self.pgstow_reading("verify"), b"");
        let mut drill = self.pgstow_reading("drill");
        let drill = run(drill.env("PGSTOW_DRILL_ON", self.server.url("postgres")), b"");
        if verify.code == Some(0) && drill.code == Some(0) {
            return finding(
                &format!("damage unseen: {}", signature(&what)),
                &format!("{what}\n{}\n{}", verify.out, drill.out),
            );
        }
        if verify.late || drill.late || verify.code.is_none() || drill.code.is_none() {
            return finding(
                "damage: verify or drill hangs or dies",
                &format!("{what}\n{}\n{}", verify.story(), drill.story()),
            );
        }
        Ok(())
    }
}

/// A quoted identifier as the catalogue has it.
fn unquoted(name: &str) -> String {
    let inner = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.map_or_else(|| name.to_owned(), |inner| inner.replace("\"\"", "\""))
}

/// The name line of an entry, or the entry's beginning.
fn what_of(difference: &str) -> String {
    let (sign, entry) = difference.split_at(1);
    let kind = entry.split("; ").find(|word| word.starts_with("Type: ")).unwrap_or("");
    let body = entry.split_once('\n').map_or("", |(_, body)| body);
    format!("{sign} {kind} {}", body.chars().take(60).collect::<String>())
}

/// Facts that pg_dump's text does not show, in any order.
const FACTS: &str = "
SELECT 'relation', to_json(n.nspname), to_json(c.relname), c.relkind, c.relispopulated, c.relrowsecurity, c.relforcerowsecurity
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast');
SELECT 'constraint', to_json(n.nspname), to_json(c.conname), c.contype, c.convalidated, c.conislocal, c.coninhcount, to_json(c.conrelid::regclass::text)
  FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace WHERE c.contype <> 'n' AND c.oid >= 16384;
SELECT 'index', to_json(i.indexrelid::regclass::text), i.indisvalid, i.indisclustered, i.indisreplident, i.indisunique
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.oid >= 16384 AND c.relnamespace <> 'pg_toast'::regnamespace;
SELECT 'trigger', to_json(t.tgrelid::regclass::text), to_json(t.tgname), t.tgenabled, t.tgisinternal AND t.tgname ~ '^RI_' AS ri
  FROM pg_trigger t WHERE NOT t.tgisinternal;
SELECT 'column', to_json(a.attrelid::regclass::text), to_json(a.attname), a.attislocal, a.attinhcount, a.attnotnull, a.atthasdef
  FROM pg_attribute a WHERE a.attrelid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped
   AND a.attrelid NOT IN (SELECT oid FROM pg_class WHERE relkind = 't' OR relkind = 'i' OR relkind = 'I')
;
";
