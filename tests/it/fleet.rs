//! One file for many databases: what a night does, what it says, and how tasks share it, with real servers and processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support;
use super::support::pg::{self, Cluster};
use super::support::pgbouncer::PgBouncer;
use super::support::process::succeed;
use super::support::program::{Going, drain, expect_code, expect_failure, json, pgstow};
use super::support::session::until;

/// `pgstow` with that file, in its folder.
fn with(file: &Path, cluster: &Cluster, words: &[&str]) -> Command {
    let mut command = pgstow();
    command.args(words).current_dir(file.parent().unwrap()).env("PGSTOW_CONFIG", file);
    command.env("SERVER_URL", cluster.url("postgres")).env("PGSTOW_PG_BIN_DIR", cluster.bin_dir());
    command
}

fn document(command: &mut Command, code: i32) -> Value {
    let (out, err) = expect_code(command.arg("--json"), code);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"))
}

/// The databases of a document, by name.
fn by_name(document: &Value) -> BTreeMap<String, Value> {
    let all = document["databases"].as_array().unwrap();
    all.iter().map(|one| (one["name"].as_str().unwrap().to_owned(), one.clone())).collect()
}

fn outcomes(database: &Value) -> String {
    let steps = database["steps"].as_array().unwrap().iter();
    steps
        .map(|step| format!("{} {}", step["step"].as_str().unwrap(), step["outcome"].as_str().unwrap()))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Names of the complete runs of a store.
fn runs(store: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(store.join("runs")) else { return Vec::new() };
    let entries = entries.map(|entry| entry.unwrap());
    entries
        .filter(|run| run.path().join("manifest.json").exists())
        .map(|run| run.file_name().into_string().unwrap())
        .collect()
}

#[test]
pub(crate) fn a_night_does_every_database_and_one_that_fails_keeps_nobody_from_its_turn() {
    let cluster = Cluster::start(pg::packaged());
    for name in ["app", "Bill ing", "scratch", "own"] {
        cluster.create_database(name);
        cluster.psql(name, "CREATE TABLE t AS SELECT generate_series(1, 100) n");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgstow.toml");
    let text = format!(
        r#"
[defaults]
store = "{}/{{name}}"
jobs = 2
verify = true
prune = {{ keep-last = 3 }}

[defaults.drill]
on = {{ env = "SERVER_URL" }}
every = "7d"

[[server]]
name = "prod"
url = {{ command = ["printenv", "SERVER_URL"] }}
all-databases = true
exclude = ["scratch", "postgres"]

[[database]]
name = "own"
server = "prod"
note = "by the file"
drill = false

[[database]]
name = "gone"
url = "postgresql://nobody@127.0.0.1:{}/nowhere"
"#,
        folder.path().join("stores").display(),
        cluster.port()
    );
    fs::write(&file, &text).unwrap();

    let checked = document(&mut with(&file, &cluster, &["config", "check"]), 1);
    let found = by_name(&checked);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["gone", "own", "prod/Bill ing", "prod/app"]);
    assert!(found.iter().all(|(name, one)| one["ok"] == (name != "gone")), "{checked}");
    assert_eq!(found["own"]["steps"], serde_json::json!(["backup", "verify", "prune"]));

    let night = document(&mut with(&file, &cluster, &["run", "--at-once", "3"]), 1);
    let done = by_name(&night);
    assert_eq!(outcomes(&done["prod/app"]), "backup done, verify done, prune done, drill done", "{night}");
    assert_eq!(outcomes(&done["own"]), "backup done, verify done, prune done");
    assert_eq!(outcomes(&done["gone"]), "backup failed, verify missed, prune missed, drill missed");
    let why = done["gone"]["steps"][0]["why"].as_str().unwrap();
    assert!(why.contains("nobody@127.0.0.1"), "{why}");
    let excluded: Vec<&str> =
        night["excluded"].as_array().unwrap().iter().map(|one| one["database"].as_str().unwrap()).collect();
    assert_eq!(excluded, ["postgres", "scratch"]);
    let stores = folder.path().join("stores");
    let own = json(&stores.join("own/runs").join(&runs(&stores.join("own"))[0]).join("manifest.json"));
    assert_eq!(own["note"], "by the file");
    assert_eq!(runs(&stores.join("prod/Bill=20ing")).len(), 1, "{night}");

    // A database that is new, and one that is gone; the drill is not due; the fourth run takes the first one's place.
    cluster.create_database("tomorrow");
    cluster.drop_database("Bill ing");
    for _ in 0..2 {
        let (out, _) = expect_code(&mut with(&file, &cluster, &["run", "prod"]), 0);
        assert!(
            out.contains("prod/tomorrow") && out.contains("excluded by name: prod/postgres, prod/scratch"),
            "{out}"
        );
        assert!(!out.contains("gone") && !out.contains("Bill"), "{out}");
    }
    let app = by_name(&document(&mut with(&file, &cluster, &["run", "prod/app"]), 0));
    assert_eq!(outcomes(&app["prod/app"]), "backup done, verify done, prune done, drill skipped");
    assert_eq!(runs(&stores.join("prod/app")).len(), 3);

    let (out, _) = expect_code(&mut with(&file, &cluster, &["status"]), 1);
    assert!(out.lines().any(|line| line.starts_with("prod/app") && line.contains(" ok ")), "{out}");
    assert!(out.lines().any(|line| line.starts_with("gone") && line.contains("FAILED")), "{out}");
    let listed = by_name(&document(&mut with(&file, &cluster, &["list"]), 1));
    assert_eq!(listed["prod/app"]["result"]["runs"].as_array().unwrap().len(), 3);
    let doctor = by_name(&document(&mut with(&file, &cluster, &["doctor"]), 1));
    assert_eq!((&doctor["own"]["exit_code"], &doctor["gone"]["exit_code"]), (&0.into(), &1.into()), "{doctor:?}");
    // The database that was never saved has no page.
    expect_code(&mut with(&file, &cluster, &["report", "--out", "all.html"]), 1);
    let index = fs::read_to_string(folder.path().join("all.html")).unwrap();
    assert!(
        index.contains("href=\"all/prod=2Fapp.html\"") && folder.path().join("all/prod=2Fapp.html").exists(),
        "{index}"
    );
    assert!(index.contains("<th scope=\"row\">gone</th>") && !index.contains("all/gone.html"), "{index}");
}

#[test]
fn what_the_file_gets_wrong_is_said_before_anything_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgstow.toml");
    let database = "[[database]]\nname = \"a\"\nurl = { env = \"SERVER_URL\" }\n";
    let store = format!("[defaults]\nstore = \"{}/{{name}}\"\n", folder.path().display());
    for (text, words) in [
        (
            format!("{store}encypt = \"age1\"\n{database}"),
            ["[defaults]: unknown key \"encypt\"", "did you mean encrypt"],
        ),
        (
            format!("{store}keep-daily = 7\n{database}"),
            ["keep-daily: it is a setting of prune alone", "[defaults.prune]"],
        ),
        (
            format!("{store}[defaults.prune]\nkeep-dayly = 7\n{database}"),
            ["prune: unknown key \"keep-dayly\"", "keep-daily"],
        ),
        (format!("{store}jobs = \"many\"\n{database}"), ["a, backup: invalid value 'many' for '--jobs", "--help"]),
        (format!("{store}prune = true\n{database}"), ["no rule says what to keep", "keep-daily"]),
        (database.to_owned(), ["a: no store", "{name}"]),
        (format!("{store}[[databse]]\nname = \"a\"\n"), ["unknown key \"databse\"", "database"]),
        (
            format!("{store}{database}[[database]]\nname = \"b\"\nurl = \"postgresql://u:HUNTER2@h/x\"\n"),
            ["[[database]] b, url: a password stands in the file", "env"],
        ),
        (format!("{store}[defaults.drill]\nevery = \"7d\"\n{database}"), ["drill: no key \"on\"", "DRILL_URL"]),
        (format!("[defaults]\nstore = \"/tmp/{{nmae}}\"\n{database}"), ["{nmae} stands for nothing", "{name}"]),
        (
            format!("[defaults]\nstore = \"/tmp/x\"\n{database}{}", database.replace("\"a\"", "\"b\"")),
            ["a and b have one store", "{name}"],
        ),
        (
            format!("{store}[defaults.env]\nAWS_SECRET_ACCESS_KEY = \"HUNTER2\"\n{database}"),
            ["a secret stands in the file", "env"],
        ),
        (format!("{store}jobs = \n{database}"), ["line 3", "line 3"]),
    ] {
        fs::write(&file, &text).unwrap();
        for verb in [&["run"][..], &["config", "check"], &["status"]] {
            let mut command = pgstow();
            command.args(verb).current_dir(folder.path()).env("SERVER_URL", "postgresql://u@127.0.0.1:1/x");
            command.env("PGSTOW_CONFIG", &file);
            let (error, all) = expect_failure(&mut command, 2);
            assert!(error.contains(words[0]) && all.contains(words[1]), "{text}\n{all}");
            assert!(!all.contains("HUNTER2"), "{all}");
        }
    }
    // A reference that leads nowhere is that database's own failure.
    fs::write(&file, format!("{store}{database}")).unwrap();
    let (out, _) = expect_code(pgstow().arg("run").current_dir(folder.path()), 2);
    assert!(out.contains("a, backup: the environment variable SERVER_URL is not set"), "{out}");
}

#[test]
fn the_schema_describes_the_file() {
    let schema: Value = serde_json::from_str(&expect_code(pgstow().args(["schema", "config"]), 0).0).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/manual/fleet.md")).unwrap();
    let example = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    // The program itself reads the example: what it says next is that a variable is not set.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgstow.toml");
    fs::write(&file, example.replace("\"vault\"", "\"false\"")).unwrap();
    let (out, _) = expect_code(pgstow().args(["config", "check"]).current_dir(folder.path()), 1);
    assert!(out.contains("the environment variable BILLING_DATABASE_URL is not set"), "{out}");
    // TOML of this form as JSON.
    let item = |key: &str, value: Value| serde_json::json!({ "defaults": { key: value }, "database": [{ "name": "a", "url": { "env": "X" } }] });
    for (document, valid) in [
        (item("jobs", 4.into()), true),
        (item("allow-unreadable", true.into()), true),
        (item("encrypt", serde_json::json!(["age1x", { "env": "KEY" }])), true),
        (item("verify", serde_json::json!({ "every": "7d", "jobs": 2 })), true),
        (item("prune", false.into()), true),
        (item("jbos", 4.into()), false),
        (item("keep-daily", 4.into()), false),
        (item("prune", serde_json::json!({ "keep-dayly": 1 })), false),
        (item("s3-checksums", "never".into()), false),
        (serde_json::json!({ "defaults": {} }), false),
        (serde_json::json!({ "database": [{ "name": "a" }] }), false),
    ] {
        assert_eq!(validator.is_valid(&document), valid, "{document}");
    }
}

#[test]
pub(crate) fn tasks_that_are_killed_and_started_again_make_one_run_of_each_database() {
    let cluster = Cluster::start(pg::packaged());
    let databases: Vec<String> = (0..12).map(|number| format!("customer_{number}")).collect();
    for name in &databases {
        cluster.create_database(name);
        cluster.psql(name, "CREATE TABLE t AS SELECT n, repeat('x', 500) AS x FROM generate_series(1, 2000) n");
    }
    let folder = tempfile::tempdir().unwrap();
    let (file, stores) = (folder.path().join("pgstow.toml"), folder.path().join("stores"));
    let text = format!(
        "[defaults]\nstore = \"{}/{{database}}\"\nrate-limit = \"2MB\"\n[[server]]\nname = \"s\"\n\
         url = {{ env = \"SERVER_URL\" }}\nall-databases = true\nexclude = [\"postgres\"]\nper-server = 3\n",
        stores.display()
    );
    fs::write(&file, text).unwrap();
    let start = |index: usize| {
        let mut command = with(&file, &cluster, &["run", "--task", "auto", "--at-once", "2"]);
        // As an Indexed Job of Kubernetes has them.
        command.env("JOB_COMPLETION_INDEX", index.to_string()).env("PGSTOW_TASKS", "4");
        command.env("HOSTNAME", format!("nightly-29384-{index}"));
        Going::start(&mut command)
    };
    let mut tasks: Vec<Going> = (0..4).map(start).collect();
    let (mut most, mut killed, begun) = (0, 0, Instant::now());
    let saved = || databases.iter().filter(|name| !runs(&stores.join(name)).is_empty()).count();
    loop {
        let now = "SELECT count(DISTINCT datname) FROM pg_stat_activity WHERE application_name LIKE 'pgstow leader%'";
        most = most.max(cluster.psql("postgres", now).trim().parse::<usize>().unwrap());
        if killed < 3 && saved() > killed * 2 {
            // With a kill that nothing can catch, while it has a backup under way.
            let index = killed;
            tasks[index].signal("KILL");
            let gone = std::mem::replace(&mut tasks[index], start(index));
            gone.end();
            killed += 1;
        }
        if tasks.iter_mut().all(|task| !task.runs()) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_mins(4), "the tasks do not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    let codes: Vec<i32> = tasks.into_iter().map(Going::code).collect();
    assert_eq!((codes, killed), (vec![0; 4], 3));
    assert!((1..=3).contains(&most), "{most} backups of one server at the same time");
    let counts: BTreeMap<&String, usize> =
        databases.iter().map(|name| (name, runs(&stores.join(name)).len())).collect();
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");

    // The same round again makes nothing; the next round makes one more of each.
    for (round, expected) in [("nightly-29384", 1), ("nightly-29385", 2)] {
        for index in 1..=2 {
            let task = format!("{index}/2");
            expect_code(&mut with(&file, &cluster, &["run", "--task", &task, "--round", round, "--at-once", "4"]), 0);
        }
        assert!(databases.iter().all(|name| runs(&stores.join(name)).len() == expected), "{round}");
    }
}

#[test]
fn the_matrix_of_github_actions_has_every_database_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let entry = |name: &str| format!("[[database]]\nname = \"{name}\"\nurl = {{ env = \"X\" }}\n");
    fs::write(
        folder.path().join("pgstow.toml"),
        format!("[defaults]\nstore = \"/x/{{name}}\"\n{}{}", entry("a"), entry("b")),
    )
    .unwrap();
    let run =
        |words: &[&str]| expect_code(pgstow().args(["run", "--matrix"]).args(words).current_dir(folder.path()), 0).0;
    assert_eq!(run(&[]), "{\"include\":[{\"database\":\"a\"},{\"database\":\"b\"}]}\n");
    assert_eq!(run(&["--tasks", "2"]), "{\"include\":[{\"task\":\"1/2\"},{\"task\":\"2/2\"}]}\n");
    let (error, _) = expect_failure(pgstow().args(["run", "--task", "auto"]).current_dir(folder.path()), 2);
    assert!(error.contains("no scheduler says which task this is"), "{error}");
}

#[test]
fn the_place_of_a_server_belongs_to_the_backup_itself() {
    let cluster = Cluster::start(pg::packaged());
    for name in ["one", "two"] {
        cluster.create_database(name);
        cluster.psql(name, "CREATE TABLE t AS SELECT n, repeat('x', 500) AS x FROM generate_series(1, 20000) n");
    }
    let folder = tempfile::tempdir().unwrap();
    let (file, stores) = (folder.path().join("pgstow.toml"), folder.path().join("stores"));
    let write = |store: &str| {
        let text = format!(
            "[defaults]\nstore = \"{store}/{{database}}\"\nrate-limit = \"500kB\"\n[[server]]\nname = \"s\"\n\
             url = {{ env = \"SERVER_URL\" }}\nall-databases = true\nexclude = [\"postgres\"]\nper-server = 1\n"
        );
        fs::write(&file, text).unwrap();
    };
    write(&stores.display().to_string());
    let readers = || {
        let sql = "SELECT datname FROM pg_stat_activity WHERE application_name LIKE 'pgstow leader%' ORDER BY 1";
        cluster.psql("postgres", sql)
    };
    // The program is killed; its backup, which does not get to run, still reads.
    let task = Going::start(&mut with(&file, &cluster, &["run", "s/one", "--round", "r"]));
    until("the backup of one", || readers() == "one");
    let step = succeed(Command::new("pgrep").args(["-P", &task.pid().to_string()]));
    let signal = |name: &str| succeed(Command::new("kill").arg(format!("-{name}")).arg(step.trim()));
    signal("STOP");
    task.signal("KILL");
    task.end_alone();
    let mut next = Going::start(&mut with(&file, &cluster, &["run", "s/two", "--round", "r"]));
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgstow place'";
    until("the next one waits", || cluster.psql("postgres", waits) == "2");
    std::thread::sleep(Duration::from_secs(2));
    assert!(next.runs() && readers() == "one");
    signal("CONT");
    until("the backup of two", || readers() == "two");
    next.expect_code(0);
    assert_eq!((runs(&stores.join("one")).len(), runs(&stores.join("two")).len()), (0, 1));

    // A run of the round that comes to its end after somebody looked for it: the next one finds it once it has the lock.
    let step = |code: i32| {
        let mut command = support::program::backup(&cluster, "one", &stores.join("one"));
        command.env("PGSTOW_SUPERVISED", "1").env("PGSTOW_ROUND", "r").stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take();
        let err = drain(child.stderr.take().unwrap());
        assert_eq!(child.wait().unwrap().code(), Some(code));
        drop(input);
        err.join().unwrap()
    };
    step(0);
    let made = runs(&stores.join("one"));
    assert!(step(1).contains(&format!("round r has run {} already", made[0])));
    assert_eq!(runs(&stores.join("one")), made);

    // Behind a pooler that shares its sessions, a place would be nobody's, for ever.
    let pooler = PgBouncer::start(&cluster, "transaction");
    let mut command = with(&file, &cluster, &["run", "s/two"]);
    let (out, _) = expect_code(command.env("SERVER_URL", pooler.url(&cluster, "postgres")), 1);
    assert!(out.contains("transaction"), "{out}");
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");
}
