//! `status`, `list`, `report` and `doctor` with `--config`: the same verb for each database of the file, in a process with
//! the database's own settings and credentials; one document, or one text, for all.

use std::path::{Path, PathBuf};

use futures::stream::{self, StreamExt as _};
use serde::Serialize;
use serde_json::Value;

use crate::cli::args::Global;
use crate::cli::fleet::{keys, relay, this_program};
use crate::cli::outcome::Outcome;
use crate::cli::{metrics, output};
use crate::error::{Error, Result};
use crate::fleet::file::File;
use crate::fleet::keys::Keys;
use crate::fleet::plan::Plan;
use crate::fleet::roster::Roster;
use crate::fleet::{child, night};
use crate::format::layout;
use crate::human;
use crate::report::index::Entry;
use crate::shutdown::Shutdown;

/// Word of the caller: the metrics of all databases are printed. The processes are asked for JSON as ever.
pub(crate) const PROMETHEUS: &str = "--prometheus";

/// Databases that are asked at the same time.
const AT_ONCE: usize = 8;

/// The findings about one database.
#[derive(Serialize)]
struct Answer {
    name: String,
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The document of the verb with `--json`.
    result: Value,
    #[serde(skip)]
    text: String,
}

#[derive(Serialize)]
struct Document<'a> {
    config: String,
    exit_code: u8,
    databases: &'a [Answer],
    problems: Vec<String>,
}

/// Runs a verb for all databases of a file. `more` are words of its command line that the caller gave.
///
/// # Errors
/// A file that makes no sense; a signal.
pub(crate) async fn run(
    verb: &'static str,
    more: &[String],
    path: &Path,
    global: &Global,
    shutdown: &Shutdown,
    program: &clap::Command,
) -> Result<Outcome> {
    let keys = keys::keys(program);
    let file = File::read(path, &keys)?;
    let roster = tokio::select! {
        roster = keys::roster(&file, &[], &keys, program) => roster?,
        error = shutdown.requested() => return Err(error),
    };
    // The status of all is a table of fields.
    let json = global.json || verb == "status";
    let prometheus = more.iter().any(|word| word == PROMETHEUS);
    let more: Vec<String> = more.iter().filter(|word| *word != PROMETHEUS).cloned().collect();
    let ask = |plan| ask(plan, verb, more.clone(), json, &keys, global, shutdown);
    let answers: Vec<Answer> = stream::iter(&roster.plans).map(ask).buffered(AT_ONCE).collect().await;
    if shutdown.token().is_cancelled() {
        return Err(shutdown.error());
    }
    let outcomes = answers.iter().map(|answer| night::Outcome::of(answer.exit_code));
    let worst = night::Outcome::worst(outcomes.chain(roster.unlisted.iter().map(|_| night::Outcome::Failed)));
    if prometheus {
        let metrics = answers.iter().flat_map(|answer| metrics::of_health(&answer.result, Some(&answer.name)));
        output::print(&metrics::text(&metrics.collect::<Vec<_>>()))?;
    } else if global.json {
        let problems = problems(&roster);
        output::print_json(&Document {
            config: path.display().to_string(),
            exit_code: worst.exit_code(),
            databases: &answers,
            problems,
        })?;
    } else {
        let mut text = if verb == "status" { table(&answers) } else { sections(&answers) };
        for problem in problems(&roster) {
            text.push_str(&format!("{}\n", human::plain(&problem)));
        }
        output::print(&text)?;
    }
    Ok(match worst {
        night::Outcome::Done | night::Outcome::Skipped | night::Outcome::Missed => Outcome::Done,
        night::Outcome::Partial => Outcome::Partial,
        night::Outcome::Damage => Outcome::Damage,
        night::Outcome::Failed | night::Outcome::Usage => Outcome::Failed,
    })
}

fn problems(roster: &Roster) -> Vec<String> {
    roster
        .unlisted
        .iter()
        .map(|one| format!("{}: FAILED, its databases are not known: {}", one.server, one.error))
        .collect()
}

async fn ask(
    plan: &Plan,
    verb: &'static str,
    more: Vec<String>,
    json: bool,
    keys: &Keys,
    global: &Global,
    shutdown: &Shutdown,
) -> Answer {
    let ended = async {
        let mut call = plan.call(verb, keys).await?;
        call.words.extend(more);
        if json {
            call.words.push("--json".to_owned());
        }
        child::run(&this_program()?, &plan.name, &call, &relay(global.log_format), shutdown.token()).await
    };
    match ended.await {
        Ok(ended) => Answer {
            name: plan.name.clone(),
            exit_code: ended.code,
            error: ended.error,
            result: if json { serde_json::from_str(&ended.stdout).unwrap_or_default() } else { Value::Null },
            text: ended.stdout,
        },
        Err(error) => Answer {
            name: plan.name.clone(),
            exit_code: Some(i32::from(error.kind().exit_code())),
            error: Some(error.message()),
            result: Value::Null,
            text: String::new(),
        },
    }
}

/// One line a database.
fn table(answers: &[Answer]) -> String {
    let row = |answer: &Answer| {
        let found = &answer.result;
        let text = |name: &str| found[name].as_str().unwrap_or("-").to_owned();
        let ok = answer.exit_code == Some(0);
        let why = answer.error.as_deref().or_else(|| found["reason"].as_str()).filter(|_| !ok).unwrap_or_default();
        vec![
            human::plain(&answer.name),
            if ok { "ok" } else { "FAILED" }.to_owned(),
            found["age_seconds"].as_i64().map_or_else(|| "-".to_owned(), human::passed),
            found["stored_bytes"].as_u64().map_or_else(|| "-".to_owned(), human::size),
            text("run"),
            human::plain(why),
        ]
    };
    output::table(
        &["DATABASE", "STATUS", "AGE", "STORED", "RUN", "WHY"],
        &[],
        &answers.iter().map(row).collect::<Vec<_>>(),
    )
}

/// The text of each database below its name.
fn sections(answers: &[Answer]) -> String {
    let mut text = String::new();
    for answer in answers {
        let gap = if text.is_empty() { "" } else { "\n" };
        text.push_str(&format!("{gap}== {}\n{}", human::plain(&answer.name), answer.text));
        if let Some(error) = &answer.error {
            text.push_str(&format!("FAILED: {}\n", human::plain(error)));
        }
    }
    text
}

/// `pgstow report` for all databases: a page for each, beside a page that links to them.
///
/// # Errors
/// A file that makes no sense, a page that cannot be written; a signal.
pub(crate) async fn report(
    (out, more): (&Path, &[String]),
    path: &Path,
    global: &Global,
    shutdown: &Shutdown,
    program: &clap::Command,
) -> Result<Outcome> {
    if out == Path::new("-") {
        return Err(Error::usage("--config writes a page for each database").hint("give --out a file's name"));
    }
    let keys = keys::keys(program);
    let file = File::read(path, &keys)?;
    let roster = tokio::select! {
        roster = keys::roster(&file, &[], &keys, program) => roster?,
        error = shutdown.requested() => return Err(error),
    };
    let folder = out.with_extension("");
    let failed = |path: &Path, error: &std::io::Error| Error::failed(format!("write {}: {error}", path.display()));
    tokio::fs::create_dir_all(&folder).await.map_err(|error| failed(&folder, &error))?;
    let page = |plan: &Plan| folder.join(format!("{}.html", layout::segment(&plan.name)));
    let (page, keys) = (&page, &keys);
    let one = |plan| async move {
        let words = [more, &[format!("--out={}", page(plan).display())]].concat();
        let written = ask(plan, "report", words, true, keys, global, shutdown);
        (written.await, ask(plan, "status", Vec::new(), true, keys, global, shutdown).await)
    };
    let answers: Vec<(Answer, Answer)> = stream::iter(&roster.plans).map(one).buffered(AT_ONCE).collect().await;
    if shutdown.token().is_cancelled() {
        return Err(shutdown.error());
    }
    let stem = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let entries: Vec<Entry> = roster
        .plans
        .iter()
        .zip(&answers)
        .map(|(plan, (written, status))| {
            let is_there = written.exit_code == Some(0);
            let name = is_there.then(|| Path::new(&stem).join(page(plan).file_name().unwrap_or_default()));
            entry(name, written, status)
        })
        .collect();
    let index = crate::report::index::compose(&entries);
    tokio::fs::write(out, index).await.map_err(|error| failed(out, &error))?;
    let pages: Vec<Answer> = answers.into_iter().map(|(page, _)| page).collect();
    let is_bad = pages.iter().any(|page| page.exit_code != Some(0));
    if global.json {
        let exit_code = u8::from(is_bad);
        output::print_json(&Document {
            config: path.display().to_string(),
            exit_code,
            databases: &pages,
            problems: problems(&roster),
        })?;
    } else {
        let count = pages.len();
        output::print(&format!("{}: {count} databases, a page for each in {}\n", out.display(), folder.display()))?;
    }
    Ok(if !is_bad && roster.unlisted.is_empty() { Outcome::Done } else { Outcome::Failed })
}

/// One line of the page of all databases: the verdict of `status`, and what `report` says of the latest run.
fn entry(page: Option<PathBuf>, written: &Answer, status: &Answer) -> Entry {
    let found = &status.result;
    let finished = found["finished_at"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
    let allowed = found["max_age_seconds"].as_i64().map(jiff::SignedDuration::from_secs);
    Entry {
        name: status.name.clone(),
        page: page.map(|page| page.display().to_string()),
        ok: status.exit_code == Some(0),
        latest: serde_json::from_value(written.result.get("latest_run").cloned().unwrap_or_default()).ok(),
        old_after: finished.zip(allowed).and_then(|(at, allowed)| at.checked_add(allowed).ok()),
        why: status.error.as_deref().or_else(|| found["reason"].as_str()).unwrap_or_default().to_owned(),
    }
}
