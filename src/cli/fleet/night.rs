//! `pgstow run`: all databases of the file, their table at the end, and the worst exit code.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::alarm::{self, AlarmArgs, Ended};
use crate::cli::args::Global;
use crate::cli::fleet::{file_of, keys, relay, this_program};
use crate::cli::metrics::{self, Metric};
use crate::cli::outcome::Outcome;
use crate::cli::output;
use crate::error::{Error, Result};
use crate::fleet::file::File;
use crate::fleet::keys::Step;
use crate::fleet::night::{self, Night, Report};
use crate::fleet::roster::{Excluded, Roster};
use crate::fleet::share::{self, Scheduled, Task};
use crate::human;
use crate::notify::event::Event;
use crate::shutdown::Shutdown;

/// `pgstow run`
#[derive(Debug, Clone, Args)]
pub struct Run {
    /// Databases, or servers, to do; all of the file where none is named.
    pub names: Vec<String>,
    /// The file that names the databases. Default: pgstow.toml in the working directory.
    #[arg(long, value_name = "FILE", env = "PGSTOW_CONFIG")]
    pub config: Option<PathBuf>,
    /// Databases worked on at the same time.
    #[arg(long, value_name = "N", env = "PGSTOW_AT_ONCE", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub at_once: u16,
    /// Most backups of one server at the same time, by whatever process; `per-server` in the file wins.
    #[arg(long, value_name = "N", env = "PGSTOW_PER_SERVER", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub per_server: Option<u16>,
    /// Do one task's share of the databases: `2/8`, or `auto`, as the scheduler says that started the task.
    #[arg(long, value_name = "TASK", env = "PGSTOW_TASK")]
    pub task: Option<String>,
    /// Number of tasks, for --task auto where the scheduler does not say it, and for --matrix.
    #[arg(long, value_name = "N", env = "PGSTOW_TASKS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub tasks: Option<u32>,
    /// Name of this round, the same for all tasks and for each that is started again: what has a run of this round already
    /// is not backed up again. --task auto takes it from the scheduler where it can.
    #[arg(long, value_name = "NAME", env = "PGSTOW_ROUND")]
    pub round: Option<String>,
    /// Print the matrix of a job of GitHub Actions, one entry a task (--tasks) or a database, and do nothing.
    #[arg(long)]
    pub matrix: bool,
    /// The receivers of the whole round's notifications.
    #[command(flatten)]
    pub alarms: AlarmArgs,
}

/// The document of `--json`.
#[derive(Serialize)]
struct Document<'a> {
    config: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    round: Option<String>,
    exit_code: u8,
    databases: &'a [Report],
    /// Databases that the file excludes by name.
    excluded: &'a [Excluded],
    /// Servers that could not be asked for their databases.
    unlisted: Vec<Unlisted>,
}

#[derive(Serialize)]
struct Unlisted {
    server: String,
    error: String,
    hints: Vec<String>,
}

/// Works through the file.
///
/// # Errors
/// A file that makes no sense; a signal, once every step has ended.
pub(crate) async fn run(
    arguments: Run,
    global: &Global,
    shutdown: &Shutdown,
    program: &clap::Command,
) -> Result<Outcome> {
    if arguments.matrix {
        return matrix(&arguments, shutdown, program).await.map(|()| Outcome::Done);
    }
    let alarms = arguments.alarms.clone();
    alarm::watch(&alarms, "run", global, Box::pin(work(arguments, global, shutdown, program))).await
}

async fn work(arguments: Run, global: &Global, shutdown: &Shutdown, program: &clap::Command) -> Result<Ended> {
    let path = file_of(arguments.config.as_ref());
    let keys = keys::keys(program);
    let file = File::read(&path, &keys)?;
    let scheduled = scheduled(&arguments)?;
    let mut roster = tokio::select! {
        roster = keys::roster(&file, &arguments.names, &keys, program) => roster?,
        error = shutdown.requested() => return Err(error),
    };
    let task = scheduled.as_ref().map(|scheduled| scheduled.task);
    if let Some(task) = task {
        roster.plans.retain(|plan| task.takes(&plan.name));
        tracing::info!("task {task}: {} databases", roster.plans.len());
    }
    let round = arguments.round.or_else(|| scheduled.and_then(|scheduled| scheduled.round));
    let night = Night {
        keys: &keys,
        program: this_program()?,
        relay: relay(global.log_format),
        stop: shutdown.token().clone(),
        at_once: usize::from(arguments.at_once),
        per_server: arguments.per_server,
        round: round.clone(),
    };
    let reports = Box::pin(night.work(std::mem::take(&mut roster.plans))).await;
    let unlisted = roster.unlisted.iter().map(|_| night::Outcome::Failed);
    let worst = night::Outcome::worst(reports.iter().map(|report| report.outcome).chain(unlisted));
    let unlisted = roster.unlisted.iter().map(|one| Unlisted {
        server: one.server.clone(),
        error: one.error.message(),
        hints: one.error.hints().to_vec(),
    });
    let document = Document {
        config: path.display().to_string(),
        task: task.map(|task| task.to_string()),
        round,
        exit_code: worst.exit_code(),
        databases: &reports,
        excluded: &roster.excluded,
        unlisted: unlisted.collect(),
    };
    let outcome = match worst {
        night::Outcome::Done | night::Outcome::Skipped | night::Outcome::Missed => Outcome::Done,
        night::Outcome::Partial => Outcome::Partial,
        night::Outcome::Damage => Outcome::Damage,
        night::Outcome::Failed | night::Outcome::Usage => Outcome::Failed,
    };
    let mut ended = Ended::new(outcome, text(&reports, &roster), &document)?;
    if shutdown.token().is_cancelled() {
        ended.late = Some(shutdown.error());
    } else if worst == night::Outcome::Usage {
        let error = Error::usage("the settings of some databases make no sense");
        ended.late = Some(error.hint("the table says of which, and why"));
    }
    ended.message = message(&reports, &roster);
    ended.figures = figures(&reports);
    let odd = reports.iter().any(|report| !report.anomalies.is_empty());
    ended.event = (outcome == Outcome::Done && ended.late.is_none() && odd).then_some(Event::Anomaly);
    Ok(ended)
}

/// `2 of 30 databases did not end well: a (backup failed), prod/b (verify damage)`
fn message(reports: &[Report], roster: &Roster) -> String {
    let bad = reports.iter().filter_map(|report| {
        let taken = report.steps.iter().find(|taken| taken.outcome == report.outcome)?;
        let is_bad = !matches!(report.outcome, night::Outcome::Done | night::Outcome::Skipped);
        is_bad.then(|| format!("{} ({} {})", report.name, taken.step, taken.outcome.as_str()))
    });
    let unlisted = roster.unlisted.iter().map(|one| format!("{} (not reached)", one.server));
    let bad: Vec<String> = bad.chain(unlisted).collect();
    let odd: Vec<&str> =
        reports.iter().filter(|report| !report.anomalies.is_empty()).map(|report| report.name.as_str()).collect();
    let odd = if odd.is_empty() { String::new() } else { format!("; anomalies in {}", odd.join(", ")) };
    match bad.len() {
        0 => format!("{} databases are done{odd}", reports.len()),
        count => format!("{count} of {} databases did not end well: {}{odd}", reports.len(), bad.join(", ")),
    }
}

fn figures(reports: &[Report]) -> Vec<Metric> {
    let mut figures = Vec::new();
    for report in reports {
        let mut add = |name, help, value| figures.push(Metric::new(name, help, value).with("database", &report.name));
        add(
            "database_exit_code",
            "Worst exit code of the last steps of the database.",
            f64::from(report.outcome.exit_code()),
        );
        add("database_duration_seconds", "Time that the last steps of the database took.", report.seconds);
        if let Some(stored) = report.stored_bytes {
            add("stored_bytes", "Bytes of the last run in the store.", metrics::number(stored));
        }
        add("anomalies", "Anomalies of the last run.", metrics::number(report.anomalies.len() as u64));
    }
    figures
}

fn scheduled(arguments: &Run) -> Result<Option<Scheduled>> {
    match arguments.task.as_deref() {
        None => Ok(None),
        Some("auto") => share::scheduled(|name| std::env::var(name).ok(), arguments.tasks).map(Some),
        Some(text) => {
            let task = Task::parse(text).ok_or_else(|| {
                Error::usage(format!("--task {text:?} is no task")).hint("write 2/8 for the second of eight, or auto")
            })?;
            Ok(Some(Scheduled { task, round: None }))
        }
    }
}

/// `{"include": [{"task": "1/8"}, ...]}`, or an entry for each database.
async fn matrix(arguments: &Run, shutdown: &Shutdown, program: &clap::Command) -> Result<()> {
    let include: Vec<serde_json::Value> = if let Some(count) = arguments.tasks {
        (1..=count).map(|number| serde_json::json!({ "task": format!("{number}/{count}") })).collect()
    } else {
        let keys = keys::keys(program);
        let file = File::read(&file_of(arguments.config.as_ref()), &keys)?;
        let roster = tokio::select! {
            roster = keys::roster(&file, &arguments.names, &keys, program) => roster?,
            error = shutdown.requested() => return Err(error),
        };
        roster.plans.iter().map(|plan| serde_json::json!({ "database": plan.name })).collect()
    };
    // One line: a step writes it to GITHUB_OUTPUT.
    output::print(&format!("{}\n", serde_json::json!({ "include": include })))
}

/// The table, then what a person has to know of each database that did not end well.
fn text(reports: &[Report], roster: &Roster) -> String {
    let steps: Vec<Step> = Step::ALL
        .into_iter()
        .filter(|step| reports.iter().flat_map(|report| &report.steps).any(|taken| taken.step == step.verb()))
        .collect();
    let mut head = vec!["DATABASE".to_owned()];
    head.extend(steps.iter().map(|step| step.verb().to_uppercase()));
    head.extend(["TOOK", "STORED", "RUN"].map(str::to_owned));
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let rows: Vec<Vec<String>> = reports.iter().map(|report| cells(report, &steps)).collect();
    let mut text = if reports.is_empty() { "no databases\n".to_owned() } else { output::table(&head, &[], &rows) };
    for report in reports {
        for taken in &report.steps {
            let is_news =
                !matches!(taken.outcome, night::Outcome::Done | night::Outcome::Skipped | night::Outcome::Missed);
            if let Some(why) = taken.why.as_ref().filter(|_| is_news) {
                text.push_str(&format!("{}, {}: {}\n", report.name, taken.step, human::plain(why)));
                for hint in &taken.hints {
                    text.push_str(&format!("  hint: {}\n", human::plain(hint)));
                }
            }
        }
    }
    for report in reports {
        for one in &report.anomalies {
            text.push_str(&format!("{}, anomaly: {}\n", human::plain(&report.name), human::plain(one)));
        }
        for failed in report.notifications.iter().filter(|delivery| !delivery.ok) {
            let why = failed.error.as_deref().unwrap_or_default();
            let line = format!("{}, NOT NOTIFIED: {} ({}): {why}", report.name, failed.target, failed.event.as_str());
            text.push_str(&format!("{}\n", human::plain(&line)));
        }
    }
    for one in &roster.unlisted {
        text.push_str(&format!("{}: FAILED, its databases are not known: {}\n", one.server, one.error));
    }
    if !roster.excluded.is_empty() {
        let names = roster.excluded.iter().map(|one| human::plain(&format!("{}/{}", one.server, one.database)));
        text.push_str(&format!("excluded by name: {}\n", names.collect::<Vec<_>>().join(", ")));
    }
    text
}

fn cells(report: &Report, steps: &[Step]) -> Vec<String> {
    let mut cells = vec![human::plain(&report.name)];
    cells.extend(steps.iter().map(|step| {
        let taken = report.steps.iter().find(|taken| taken.step == step.verb());
        taken.map_or_else(
            || "-".to_owned(),
            |taken| match taken.outcome {
                night::Outcome::Done => "ok".to_owned(),
                night::Outcome::Failed => "FAILED".to_owned(),
                night::Outcome::Damage => "DAMAGE".to_owned(),
                other => other.as_str().to_owned(),
            },
        )
    }));
    cells.extend([
        format!("{:.1}s", report.seconds),
        report.stored_bytes.map_or_else(|| "-".to_owned(), human::size),
        report.run.clone().unwrap_or_else(|| "-".to_owned()),
    ]);
    cells
}
