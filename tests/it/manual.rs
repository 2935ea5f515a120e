//! README and the manual: the program prints every page; every command line in them is one that the program takes; the
//! tour and the way back from a lost server are executed as they are written; settings are explained where they belong.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use pgstow::cli::Cli;

use super::support::judge::assert_same_database;
use super::support::pg::{self, Cluster};
use super::support::process::succeed_with;
use super::support::program::{expect_code, pgstow};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README, CONTRIBUTING and every page, with their text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = vec![repository().join("README.md"), repository().join(".github/CONTRIBUTING.md")];
    paths.extend(fs::read_dir(repository().join("src/manual")).unwrap().map(|entry| entry.unwrap().path()));
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(&path).unwrap())).collect()
}

/// A fenced block: its language and its lines.
struct Block {
    language: String,
    lines: Vec<String>,
}

/// The fenced blocks of a text, and the text without them.
fn blocks(text: &str) -> (Vec<Block>, String) {
    let (mut found, mut prose, mut open): (Vec<Block>, String, Option<Block>) = (Vec::new(), String::new(), None);
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => found.push(block),
            (Some(language), None) => open = Some(Block { language: language.to_owned(), lines: Vec::new() }),
            (None, Some(mut block)) => {
                block.lines.push(line.to_owned());
                open = Some(block);
            }
            (None, None) => {
                prose.push_str(line);
                prose.push('\n');
            }
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    (found, prose)
}

/// The simple commands of a line of shell, each as its words. Redirections and comments are left out.
fn simple_commands(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut quote = None;
    for c in line.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() => break,
            (' ' | '\t' | '|' | ';' | '&' | '>', None) => {
                words.extend(word.take());
                if !c.is_whitespace() {
                    commands.push(std::mem::take(&mut words));
                }
            }
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    commands.push(words);
    commands
}

/// The arguments of every `pgstow` in a block.
fn invocations(block: &Block) -> Vec<Vec<String>> {
    let console = block.language == "console";
    if !console && !["sh", "bash", "yaml", "crontab"].contains(&block.language.as_str()) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let text = block.lines.join("\n").replace("\\\n", " ");
    for line in text.lines() {
        let line = match line.strip_prefix("$ ") {
            Some(line) => line,
            None if console => continue,
            None => line,
        };
        for words in simple_commands(line) {
            let builds_an_image = words.first().is_some_and(|word| word == "docker") && words[1] == "build";
            if let Some(at) = words.iter().position(|word| word == "pgstow").filter(|_| !builds_an_image) {
                found.push(words[at..].to_vec());
            }
        }
    }
    found
}

/// The code spans of prose.
fn spans(prose: &str) -> Vec<String> {
    let prose = prose.replace("``", "");
    prose.split('`').skip(1).step_by(2).map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn every_command_line_of_readme_and_manual_is_one_that_the_program_takes() {
    let mut tried = 0;
    for (path, text) in documents() {
        for words in blocks(&text).0.iter().flat_map(invocations) {
            tried += 1;
            if let Err(error) = Cli::try_parse_from(&words)
                && !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
            {
                panic!("{}: {}\n{error}", path.display(), words.join(" "));
            }
        }
    }
    assert!(tried > 40, "only {tried} command lines were found");
}

#[test]
fn the_help_of_every_command_ends_with_examples_that_it_takes() {
    let root = Cli::command();
    let mut tried = 0;
    for name in root.get_subcommands().map(clap::Command::get_name).chain([""]) {
        let mut arguments: Vec<&str> = [name, "--help"].into();
        arguments.retain(|argument| !argument.is_empty());
        let help = expect_code(pgstow().args(arguments), 0).0;
        let (before, end) = help.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{name}: {help}"));
        let (examples, rest) = end.split_once("\n\nExit codes:\n").unwrap_or_else(|| panic!("{name}: {help}"));
        assert!(rest.contains("More: pgstow manual"), "{name}: {rest}");
        for example in examples.lines() {
            // What it does may stand behind.
            let line = example.trim().split("   ").next().unwrap().trim_end();
            let block = Block { language: "sh".to_owned(), lines: vec![line.to_owned()] };
            for words in invocations(&block) {
                tried += 1;
                assert_eq!(words.get(1).is_some_and(|word| word != name), name.is_empty(), "{name}: {line}");
                Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{line}\n{error}"));
            }
        }
        // The options of a command stand together, before those of all commands.
        let place = |words: &str| before.find(words);
        match place("\nGlobal options:") {
            Some(globals) => assert!(["--help", "--jobs", "--keep-last"].iter().all(|own| place(own) < Some(globals))),
            None => assert!(["manual", "schema", "completions"].contains(&name) && place("--s3-").is_none(), "{help}"),
        }
    }
    assert!(tried > 25, "only {tried} examples were found");
}

#[test]
fn every_command_and_flag_that_prose_names_is_one_that_the_program_takes() {
    // Names of sessions, and flags of other programs.
    let sessions = ["leader", "reader", "watcher", "pg_dump", "pg_dumpall"];
    let foreign = ["--roles-only", "--versioning-dir", "--foo-bar"];
    let mut known: BTreeSet<String> = ["--help".to_owned(), "--version".to_owned()].into();
    let root = Cli::command();
    for command in std::iter::once(&root).chain(root.get_subcommands()) {
        known.extend(command.get_arguments().filter_map(|argument| Some(format!("--{}", argument.get_long()?))));
    }
    let (mut commands, mut flags) = (0, 0);
    for (path, text) in documents() {
        for span in spans(&blocks(&text).1) {
            let words: Vec<&str> = span.trim_end_matches("...").split_whitespace().collect();
            let place = || format!("{}: `{span}`", path.display());
            if words.first() == Some(&"pgstow") && words.len() > 1 && !sessions.contains(&words[1]) {
                // Words in capitals are put in by the reader: RUN, TOPIC, COMMAND.
                if let Err(error) = Cli::try_parse_from(&words) {
                    let open = words.iter().any(|word| word.chars().all(|c| c.is_ascii_uppercase()));
                    let wrong = match error.kind() {
                        ErrorKind::UnknownArgument => true,
                        ErrorKind::InvalidSubcommand => !open,
                        ErrorKind::InvalidValue => words[1] == "manual" && !open,
                        _ => false,
                    };
                    assert!(!wrong, "{}\n{error}", place());
                }
                commands += 1;
            }
            for word in words.iter().filter(|word| word.starts_with("--")) {
                let flag = word.split(['=', ',']).next().unwrap();
                assert!(known.contains(flag) || foreign.contains(&flag), "{}: no flag {flag}", place());
                flags += 1;
            }
        }
    }
    assert!(commands > 20 && flags > 60, "only {commands} commands and {flags} flags were found");
}

#[test]
fn every_link_of_readme_and_manual_leads_somewhere() {
    let slug = |heading: &str| -> String {
        let kept = heading.to_lowercase();
        kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
    };
    let mut links = 0;
    for (path, text) in documents() {
        let headings: Vec<String> = text
            .lines()
            .filter(|line| line.starts_with('#'))
            .map(|line| slug(line.trim_start_matches(['#', ' '])))
            .collect();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            links += 1;
            if let Some(anchor) = target.strip_prefix('#') {
                assert!(headings.iter().any(|heading| heading == anchor), "{}: {target}", path.display());
            } else if !target.starts_with("https://") {
                let there = path.parent().unwrap().join(target);
                assert!(there.exists(), "{}: {target}", path.display());
            }
        }
    }
    assert!(links > 8, "only {links} links were found");
}

#[test]
fn the_program_prints_every_page_of_the_manual() {
    let list = expect_code(pgstow().arg("manual"), 0).0;
    let mut pages = 0;
    for entry in fs::read_dir(repository().join("src/manual")).unwrap() {
        let path = entry.unwrap().path();
        let (topic, text) = (path.file_stem().unwrap().to_str().unwrap(), fs::read_to_string(&path).unwrap());
        let printed = expect_code(pgstow().args(["manual", topic]), 0).0;
        assert!(printed.starts_with(&text) && text.starts_with("# "), "{topic}: {printed}");
        let document = expect_code(pgstow().args(["manual", topic, "--json"]), 0).0;
        let document: serde_json::Value = serde_json::from_str(&document).unwrap();
        assert_eq!((document["topic"].as_str(), document["text"].as_str()), (Some(topic), Some(printed.as_str())));
        assert!(topic == "index" || list.contains(&format!("\n    pgstow manual {topic} ")), "{topic}: {list}");
        pages += 1;
    }
    assert!(pages > 12, "only {pages} pages");
    let folder = tempfile::tempdir().unwrap();
    expect_code(pgstow().args(["manual", "--man"]).arg(folder.path().join("man1")), 0);
    let man = |name: &str| fs::read_to_string(folder.path().join("man1").join(name)).unwrap();
    let commands = Cli::command().get_subcommands().count();
    assert_eq!(fs::read_dir(folder.path().join("man1")).unwrap().count(), commands + 1);
    assert!(man("pgstow.1").contains(".TH pgstow 1") && man("pgstow-backup.1").contains("\\-\\-max\\-block"));
    let (_, err) = expect_code(pgstow().args(["manual", "restor"]), 2);
    assert!(err.contains("'restore'"), "{err}");
}

#[test]
fn a_terminal_shows_the_manual_by_the_pager_and_no_shell_reads_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (pager, program) = (folder.path().join("pager"), pgstow().get_program().to_owned());
    fs::write(&pager, "#!/bin/sh\nprintf 'PAGED BY %s\\n' \"$*\"\nhead -n 1\n").unwrap();
    succeed_with(Command::new("chmod").arg("+x").arg(&pager), b"");
    let on_a_terminal = |variable: Option<String>| {
        let mut script = Command::new("script");
        script.args(["-qec", &format!("{} manual restore", program.to_str().unwrap()), "/dev/null"]);
        match variable {
            Some(variable) => script.env("PAGER", variable),
            None => script.env_remove("PAGER"),
        };
        String::from_utf8(succeed_with(script.current_dir(folder.path()), b"").stdout).unwrap().replace('\r', "")
    };
    let paged = on_a_terminal(Some(format!("{} -x $(touch made) ; touch made", pager.display())));
    assert!(paged.contains("PAGED BY -x $(touch made) ; touch made\n# Restore\n"), "{paged}");
    assert!(!folder.path().join("made").exists());
    for without in [Some("/nowhere/pager".to_owned()), Some(String::new()), Some("cat".to_owned())] {
        let plain = on_a_terminal(without.clone());
        assert!(
            plain.starts_with("# Restore\n") && plain.contains("no point-in-time recovery"),
            "{without:?}: {plain}"
        );
    }
}

#[test]
fn every_setting_is_explained() {
    let example = fs::read_to_string(repository().join(".env.example")).unwrap();
    let explained: BTreeSet<&str> = example
        .lines()
        .filter_map(|line| Some(line.trim_start_matches(['#', ' ']).split_once('=')?.0))
        .filter(|name| name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'))
        .collect();
    let page = expect_code(pgstow().args(["manual", "settings"]), 0).0;
    let root = Cli::command();
    let mut names = BTreeSet::new();
    for command in std::iter::once(&root).chain(root.get_subcommands()) {
        for argument in command.get_arguments() {
            if let Some(name) = argument.get_env() {
                let name = name.to_str().unwrap().to_owned();
                assert!(explained.contains(name.as_str()), ".env.example lacks {name}");
                assert!(page.contains(&format!("`{name}`")), "the settings page lacks {name}");
                names.insert(name);
            }
            if let Some(long) = argument.get_long().filter(|_| !argument.is_hide_set()) {
                assert!(
                    page.contains(&format!("`--{long}")),
                    "the settings page lacks --{long} of {}",
                    command.get_name()
                );
            }
        }
    }
    assert!(names.len() > 40, "only {} settings were found", names.len());
    // Secrets that have no flag stand in the page's own text.
    for secret in [
        "PGSTOW_SIGN_PASSWORD",
        "PGSTOW_NOTIFY_SECRET",
        "PGSTOW_SMTP_URL",
        "PGSTOW_MAIL_FROM",
        "PGSTOW_TO_ACCESS_KEY_ID",
        "PGSTOW_TO_SECRET_ACCESS_KEY",
    ] {
        names.insert(secret.to_owned());
        assert!(page.contains(&format!("`{secret}`")), "{secret}");
    }
    let unknown: Vec<_> =
        explained.iter().filter(|name| name.starts_with("PGSTOW_") && !names.contains(**name)).collect();
    assert!(unknown.is_empty(), ".env.example explains what no flag has: {unknown:?}");
}

/// The shell of a section: all of its `sh` blocks.
fn shell(path: &str, heading: &str) -> String {
    let text = fs::read_to_string(repository().join(path)).unwrap();
    let from = text.find(&format!("\n## {heading}")).unwrap_or_else(|| panic!("{path} has no section {heading:?}"));
    let section = &text[from + 1..];
    let section = &section[..section.find("\n## ").unwrap_or(section.len())];
    let lines: Vec<String> =
        blocks(section).0.into_iter().filter(|block| block.language == "sh").flat_map(|block| block.lines).collect();
    assert!(lines.len() > 6, "{path}, {heading}: {lines:?}");
    format!("{}\n", lines.join("\n"))
}

/// Runs a section's shell on a machine with the program and the clients of a server, in that folder.
#[track_caller]
fn execute(shell: &str, cluster: &Cluster, folder: &Path) -> String {
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).unwrap();
    if !bin.join("pgstow").exists() {
        std::os::unix::fs::symlink(pgstow().get_program(), bin.join("pgstow")).unwrap();
    }
    let mut bash = Command::new("bash");
    bash.args(["-euxo", "pipefail", "-c", shell]).env_clear().current_dir(folder);
    bash.env("PATH", format!("{}:{}:/usr/bin:/bin", bin.display(), cluster.bin_dir().display()));
    bash.env("PGSTOW_PG_BIN_DIR", cluster.bin_dir()).env("LC_ALL", "C.UTF-8");
    String::from_utf8(succeed_with(&mut bash, b"").stdout).unwrap()
}

/// Puts a value in the place of an example's; each must be there.
#[track_caller]
fn with(shell: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(shell.to_owned(), |shell, (example, value)| {
        assert!(shell.contains(example), "{example} is not in\n{shell}");
        shell.replace(example, value)
    })
}

/// A server with a database `app` that has something of everything that the sections speak of.
fn sample() -> Cluster {
    let cluster = Cluster::start(pg::packaged());
    cluster.create_database("app");
    cluster.psql(
        "app",
        "CREATE ROLE clerk LOGIN PASSWORD 'secret'; ALTER DATABASE app SET work_mem = '8MB';
         CREATE SCHEMA billing AUTHORIZATION clerk;
         CREATE TABLE public.customers (id int PRIMARY KEY, name text NOT NULL);
         CREATE TABLE billing.invoices (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
             customer int REFERENCES public.customers, amount numeric(12, 2));
         ALTER TABLE billing.invoices OWNER TO clerk;
         CREATE VIEW public.owed AS SELECT name, sum(amount) FROM public.customers c
             JOIN billing.invoices i ON i.customer = c.id GROUP BY name;
         INSERT INTO public.customers SELECT n, 'customer ' || n FROM generate_series(1, 5000) n;
         INSERT INTO billing.invoices (customer, amount) SELECT n % 5000 + 1, n / 7.0 FROM generate_series(1, 20000) n;
         SELECT lo_from_bytea(0, 'a large object');",
    );
    cluster
}

/// The beginning of the connection strings of a server, without the database's name.
fn server(cluster: &Cluster) -> String {
    cluster.url("").trim_end_matches('/').to_owned()
}

#[test]
fn the_tour_works_as_it_is_written() {
    let (cluster, folder) = (sample(), tempfile::tempdir().unwrap());
    let tour = shell("README.md", "Five-minute tour");
    let tour = with(&tour, &[("postgresql://postgres:secret@127.0.0.1:5432", &server(&cluster))]);
    let out = execute(&tour, &cluster, folder.path());
    assert!(out.contains("is complete.\n") && out.contains("is sound") && out.contains("customers"), "{out}");
    assert!(fs::read_dir(folder.path().join("one-schema")).unwrap().count() > 1);
    assert_same_database((&cluster, "app"), (&cluster, "app_copy"));
}

#[test]
fn the_way_from_a_lost_server_to_a_running_database_works_as_it_is_written() {
    let (lost, folder) = (sample(), tempfile::tempdir().unwrap());
    let manual = ("src/manual/restore.md", "It is all gone: back to a running database");
    for (path, heading) in [("README.md", "It is all gone"), manual] {
        let (fresh, store) = (Cluster::start(pg::packaged()), folder.path().join(path));
        let store = store.to_str().unwrap();
        execute(&format!("pgstow backup --store {store} --database-url {}/app", server(&lost)), &lost, folder.path());
        let values = [("s3://my-backups/app", store), ("postgresql://postgres:secret@new-host:5432", &server(&fresh))];
        execute(&with(&shell(path, heading), &values), &fresh, folder.path());
        assert_same_database((&lost, "app"), (&fresh, "app"));
        let passwords = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = 'clerk'";
        assert_eq!(lost.psql("app", passwords), fresh.psql("app", passwords), "{path}");
        let runs = fs::read_dir(Path::new(store).join("runs")).unwrap().count();
        assert_eq!(runs, 2, "{path}: the new database has a backup of its own");
    }
}
