//! A differential fuzzer: random databases, random ways through the program, judges that share no code with it.
//!
//! `cargo test --test fuzz` plays the regression files and 100 cases of fixed seeds; `infra/fuzz` plays as many as it
//! is asked for. Findings are shrunk to a few statements and written as files that are played first from then on.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    clippy::expect_used,
    clippy::format_push_string,
    clippy::indexing_slicing,
    reason = "tests: what they print is read after a failure, and the support is shared with other tests"
)]

#[path = "../it/support/pg.rs"]
mod pg;
#[path = "../it/support/process.rs"]
mod process;
#[path = "../it/support/session.rs"]
mod session;

mod case;
mod damage;
mod generate;
mod judge;
mod play;
mod server;
mod values;
mod way;
mod words;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use case::{Case, Cases, Shrinking};
use play::{Played, play};
use server::Server;

/// Tries that shrinking one finding may take.
const TRIES: usize = 45;

/// What is asked for on the command line.
struct Asked {
    seed: u64,
    cases: u64,
    minutes: Option<u64>,
    keep: Option<PathBuf>,
    version: u32,
    explain: bool,
    /// Words of findings that are known and not shrunk.
    known: Vec<String>,
}

impl Asked {
    fn read() -> Result<Self, String> {
        let mut asked = Self {
            seed: 1,
            cases: 100,
            minutes: None,
            keep: None,
            version: pg::packaged(),
            explain: false,
            known: Vec::new(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--seed" => asked.seed = number(&value()?)?,
                "--cases" => asked.cases = number(&value()?)?,
                "--minutes" => asked.minutes = Some(number(&value()?)?),
                "--keep" => asked.keep = Some(PathBuf::from(value()?)),
                "--pg" => asked.version = u32::try_from(number(&value()?)?).map_err(|error| error.to_string())?,
                "--known" => {
                    let text = fs::read_to_string(value()?).map_err(|error| error.to_string())?;
                    asked.known = text.lines().filter(|line| !line.is_empty()).map(ToOwned::to_owned).collect();
                }
                "--explain" => asked.explain = true,
                _ => return Err(format!("unknown word {word:?}")),
            }
        }
        if asked.minutes.is_some() && !std::env::args().any(|word| word == "--cases") {
            asked.cases = u64::MAX;
        }
        Ok(asked)
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_digits| format!("no number: {text:?}"))
}

/// What a session found.
#[derive(Default)]
struct Tally {
    played: u64,
    /// Plays while shrinking.
    tries: u64,
    statements: usize,
    refused: usize,
    refusals: BTreeMap<String, usize>,
    skipped: BTreeMap<String, usize>,
    like_stock: BTreeMap<String, usize>,
    listed: BTreeMap<String, usize>,
    findings: BTreeMap<String, usize>,
}

fn main() -> ExitCode {
    let asked = match Asked::read() {
        Ok(asked) => asked,
        Err(error) => {
            eprintln!("fuzz: {error}");
            return ExitCode::from(2);
        }
    };
    judge::check();
    case::check();
    let server = Server::start(asked.version);
    let work = tempfile::Builder::new().prefix("pgstow-fuzz-").tempdir().expect("a temporary folder can be made");
    make_key(work.path());
    let (started, mut tally) = (Instant::now(), Tally::default());
    for (name, case) in regressions() {
        let played = one(&server, &case, work.path());
        if let Some(found) = &played.finding {
            println!("regression {name}: {found}");
        }
        note(&mut tally, &played);
    }
    for seed in asked.seed..asked.seed.saturating_add(asked.cases) {
        if asked.minutes.is_some_and(|minutes| started.elapsed() > Duration::from_secs(60 * minutes)) {
            break;
        }
        let case = case_of(seed);
        let played = one(&server, &case, work.path());
        note(&mut tally, &played);
        if let Some(text) = &played.finding {
            report(&server, seed, &case, text, work.path(), &asked, &mut tally);
        } else if asked.explain {
            println!(
                "{seed}: {} of {} statements, {} s; {}",
                played.accepted.len(),
                case.statements.len(),
                started.elapsed().as_secs(),
                case.way
            );
        }
        if tally.played % 25 == 0 {
            println!(
                "fuzz: {} cases, {} findings, {} s",
                tally.played,
                tally.findings.values().sum::<usize>(),
                started.elapsed().as_secs()
            );
        }
    }
    summary(&tally, started, &asked);
    if tally.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The case of a seed, the same wherever it is made.
fn case_of(seed: u64) -> Case {
    let mut bytes = [0_u8; 32];
    bytes.iter_mut().zip(seed.to_le_bytes()).for_each(|(to, from)| *to = from);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    Cases.new_tree(&mut runner).expect("a case can be made of every seed").current()
}

/// Plays a case in an empty folder.
fn one(server: &Server, case: &Case, work: &Path) -> Played {
    let folder = work.join("case");
    fs::remove_dir_all(&folder).ok();
    fs::create_dir(&folder).expect("our folder can be written");
    play(server, case, &folder)
}

fn note(tally: &mut Tally, played: &Played) {
    tally.played += 1;
    tally.statements += played.accepted.len();
    tally.refused += played.refusals.len();
    for why in &played.refusals {
        *tally.refusals.entry(judge::signature(why)).or_default() += 1;
    }
    if let Some(why) = &played.skipped {
        *tally.skipped.entry(why.clone()).or_default() += 1;
    }
    if let Some(why) = &played.listed {
        *tally.listed.entry(why.clone()).or_default() += 1;
    }
    if let Some(lost) = &played.like_stock {
        let times = tally.like_stock.entry(first_line(lost)).or_default();
        *times += 1;
        if *times == 1 {
            println!(
                "fuzz: exit 0, though lost, by stock too: {}",
                lost.lines().take(12).collect::<Vec<_>>().join("\n  ")
            );
        }
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Prints a finding; one of a new kind is shrunk and written.
fn report(server: &Server, seed: u64, case: &Case, text: &str, work: &Path, asked: &Asked, tally: &mut Tally) {
    let kind = first_line(text);
    let times = tally.findings.entry(kind.clone()).or_default();
    *times += 1;
    println!("fuzz: seed {seed}: {kind}");
    if *times > 1 || asked.known.iter().any(|known| kind.contains(known)) {
        return;
    }
    let (small, text) = shrink(server, case, text, work, &mut tally.tries);
    let folder = asked.keep.clone().unwrap_or_else(regressions_folder);
    fs::create_dir_all(&folder).ok();
    let file = folder.join(format!("{seed}.sql"));
    if fs::write(&file, small.to_file(&text)).is_ok() {
        fs::write(file.with_extension("txt"), &text).ok();
        println!("fuzz: {} of {} statements left: {}", small.statements.len(), case.statements.len(), file.display());
    }
    println!("{}", text.lines().take(25).collect::<Vec<_>>().join("\n"));
}

/// Removes statements as long as the same kind of finding stays.
fn shrink(server: &Server, case: &Case, text: &str, work: &Path, tries: &mut u64) -> (Case, String) {
    let kind = first_line(text);
    let mut tree = Shrinking::new(case.clone());
    let (mut best, mut text) = (case.clone(), text.to_owned());
    for _ in 0..TRIES {
        if !tree.simplify() {
            break;
        }
        *tries += 1;
        let next = tree.current();
        match one(server, &next, work).finding {
            Some(found) if first_line(&found) == kind => (best, text) = (next, found),
            _ => {
                tree.complicate();
            }
        }
    }
    (best, text)
}

fn regressions_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/regressions")
}

/// The regression files, in the order of their names.
fn regressions() -> Vec<(String, Case)> {
    let mut found = Vec::new();
    let files = fs::read_dir(regressions_folder()).into_iter().flatten().flatten();
    for path in files.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|word| word == "sql")) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let case = Case::from_file(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        found.push((name, case));
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

/// An identity of age's and its recipient.
fn make_key(work: &Path) {
    let key = work.join("key.txt");
    let output = process::succeed_with(std::process::Command::new("age-keygen").arg("-o").arg(&key), b"");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let recipient = told.split_whitespace().last().unwrap_or_default();
    fs::write(work.join("key.pub"), recipient).expect("our folder can be written");
}

fn summary(tally: &Tally, started: Instant, asked: &Asked) {
    println!(
        "fuzz: {} cases from seed {}, {} more plays to shrink findings, {} statements ({} more refused by the server), {} s",
        tally.played,
        asked.seed,
        tally.tries,
        tally.statements,
        tally.refused,
        started.elapsed().as_secs()
    );
    let show = |title: &str, all: &BTreeMap<String, usize>, most: usize| {
        let mut sorted: Vec<(&String, &usize)> = all.iter().collect();
        sorted.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
        for (kind, times) in sorted.into_iter().take(most) {
            println!("  {title} {times:5} x {kind}");
        }
    };
    show("finding", &tally.findings, usize::MAX);
    show("lost by stock too", &tally.like_stock, 20);
    show("listed, lost by stock too", &tally.listed, 40);
    show("not judged", &tally.skipped, 20);
    if asked.explain {
        show("refused", &tally.refusals, 60);
    }
}
