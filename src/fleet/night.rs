//! One round of all databases: for each, its steps in their order, each a process of its own; a failure of one database
//! never keeps another from its turn.
//!
//! A failed step bars the next ones: without a backup nothing is verified and nothing pruned; a damaged run is
//! neither drilled nor a reason to delete others; a second store that is away
//! bars nothing. The work ends with one report a database, in the order of the roster.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::error::{Kind, Result};
use crate::fleet::child::{self, Ended, Relay};
use crate::fleet::keys::{Keys, Step};
use crate::fleet::plan::{Plan, Planned};
use crate::fleet::roster::CONNECT;
use crate::format::manifest::Anomaly;
use crate::human;
use crate::notify::event::{Event, Notification};
use crate::notify::{Delivery, Notifier};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::source::server;

/// With a round, pause before a backup that failed is tried once more: that of a task which was killed may still be ending.
const AGAIN: Duration = Duration::from_secs(8);

/// Place of the stored bytes in a manifest.
const STORED: &str = "/totals/stored_bytes";

/// The end of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Done,
    /// Not done, and rightly so: not due yet, or done already in this round.
    Skipped,
    Partial,
    /// Wrong usage or configuration.
    Usage,
    Failed,
    Damage,
    /// Not done because something before it failed, or the program was asked to end.
    Missed,
}

impl Outcome {
    pub(crate) const fn of(code: Option<i32>) -> Self {
        match code {
            Some(0) => Self::Done,
            Some(2) => Self::Usage,
            Some(3) => Self::Partial,
            Some(4) => Self::Damage,
            Some(130 | 143) => Self::Missed,
            _ => Self::Failed,
        }
    }

    const fn of_kind(kind: Kind) -> Self {
        match kind {
            Kind::Usage => Self::Usage,
            Kind::Partial => Self::Partial,
            Kind::Damage => Self::Damage,
            Kind::Failed => Self::Failed,
            Kind::Interrupted | Kind::Terminated => Self::Missed,
        }
    }

    /// The word for it, as in `--json`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Skipped => "skipped",
            Self::Partial => "partial",
            Self::Usage => "usage",
            Self::Failed => "failed",
            Self::Damage => "damage",
            Self::Missed => "missed",
        }
    }

    /// The exit code of a program that did nothing else.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::Done | Self::Skipped | Self::Missed => 0,
            Self::Partial => Kind::Partial.exit_code(),
            Self::Usage => Kind::Usage.exit_code(),
            Self::Failed => Kind::Failed.exit_code(),
            Self::Damage => Kind::Damage.exit_code(),
        }
    }

    /// Of several, the one that a person has to know first.
    pub(crate) fn worst(all: impl IntoIterator<Item = Self>) -> Self {
        let rank = |outcome: &Self| match outcome {
            Self::Done | Self::Skipped | Self::Missed => 0,
            Self::Partial => 1,
            Self::Usage => 2,
            Self::Failed => 3,
            Self::Damage => 4,
        };
        all.into_iter().max_by_key(rank).filter(|worst| rank(worst) > 0).unwrap_or(Self::Done)
    }
}

/// One step of a database, as it went.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Taken {
    pub(crate) step: &'static str,
    pub(crate) outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<i32>,
    pub(crate) seconds: f64,
    /// The reason why it was not done, or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hints: Vec<String>,
    /// The last lines of its log, where it failed.
    #[serde(rename = "log", skip_serializing_if = "Vec::is_empty")]
    pub(crate) tail: Vec<String>,
}

/// One database, as it went.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<String>,
    pub(crate) store: String,
    pub(crate) outcome: Outcome,
    /// The run that was made, or that this round had made already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stored_bytes: Option<u64>,
    pub(crate) seconds: f64,
    pub(crate) steps: Vec<Taken>,
    /// The anomalies of the run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) anomalies: Vec<String>,
    /// False where `latest` does not name the new run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latest: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) notifications: Vec<Delivery>,
}

impl Report {
    /// The notification of this database's end.
    fn notification(&self) -> Notification {
        let event = match self.outcome {
            Outcome::Damage => Event::Damage,
            Outcome::Failed | Outcome::Usage => Event::Failure,
            Outcome::Missed => Event::Interrupted,
            Outcome::Partial => Event::Partial,
            Outcome::Done | Outcome::Skipped if !self.anomalies.is_empty() => Event::Anomaly,
            Outcome::Done | Outcome::Skipped if self.latest == Some(false) => Event::LatestNotMoved,
            Outcome::Done | Outcome::Skipped => Event::Success,
        };
        let bad = self.steps.iter().find(|taken| taken.outcome == self.outcome && event.is_problem());
        let steps = self.steps.iter().map(|taken| format!("{} {}", taken.step, taken.outcome.as_str()));
        let message = match (bad, event, self.anomalies.first()) {
            (Some(taken), ..) if taken.why.is_some() => {
                format!("{}: {}", taken.step, taken.why.as_deref().unwrap_or_default())
            }
            (_, Event::Anomaly, Some(first)) => first.clone(),
            (_, Event::LatestNotMoved, _) => "latest was not moved to the new run".to_owned(),
            _ => steps.collect::<Vec<_>>().join(", "),
        };
        let mut notification = Notification::now(event, "run", message);
        notification.name = Some(self.name.clone());
        notification.store = Some(self.store.clone());
        notification.run.clone_from(&self.run);
        notification.exit_code = Some(self.outcome.exit_code());
        notification.seconds = Some(self.seconds);
        if let Some(taken) = bad {
            notification.hints.clone_from(&taken.hints);
            notification.log.clone_from(&taken.tail);
        }
        notification
    }
}

/// The settings of a round.
pub(crate) struct Night<'a> {
    pub(crate) keys: &'a Keys,
    /// This very program.
    pub(crate) program: PathBuf,
    pub(crate) relay: Relay,
    pub(crate) stop: CancellationToken,
    /// Databases worked on at the same time.
    pub(crate) at_once: usize,
    /// Most backups of one server at the same time, where the file does not say; `None`: no limit.
    pub(crate) per_server: Option<u16>,
    /// The name that all tasks of one start have.
    pub(crate) round: Option<String>,
}

/// The earlier runs of a store, newest first.
#[derive(Debug, Default)]
struct History(Vec<Value>);

impl History {
    /// The run of that round.
    fn of_round(&self, round: &str) -> Option<&Value> {
        let is_saved = |run: &&Value| matches!(run["status"].as_str(), Some("complete" | "partial"));
        self.0.iter().filter(is_saved).find(|run| run["round"].as_str() == Some(round))
    }

    /// The age of the newest receipt of this kind.
    fn age(&self, receipt: &str) -> Option<Duration> {
        let at = self.0.iter().filter_map(|run| run[receipt].get("at")?.as_str()?.parse::<jiff::Timestamp>().ok());
        Some(jiff::Timestamp::now().duration_since(at.max()?).unsigned_abs())
    }
}

impl Night<'_> {
    /// Does what the plans say.
    pub(crate) async fn work(&self, plans: Vec<Plan>) -> Vec<Report> {
        let mut reports: Vec<(usize, Report)> = stream::iter(plans.iter().enumerate())
            .map(|(at, plan)| async move { (at, self.database(plan).await) })
            .buffer_unordered(self.at_once)
            .collect()
            .await;
        reports.sort_by_key(|(at, _)| *at);
        reports.into_iter().map(|(_, report)| report).collect()
    }

    /// Does what one plan says.
    async fn database(&self, plan: &Plan) -> Report {
        let begun = Instant::now();
        let mut report = Report {
            name: plan.name.clone(),
            server: plan.server.clone(),
            store: plan.store.clone(),
            outcome: Outcome::Done,
            run: None,
            stored_bytes: None,
            seconds: 0.0,
            steps: Vec::new(),
            anomalies: Vec::new(),
            latest: None,
            notifications: Vec::new(),
        };
        let mut notifier = plan.notifier().await.unwrap_or_else(|error| {
            tracing::warn!("{}: nobody is notified: {error}", plan.name);
            Notifier::default()
        });
        let mut start = Notification::now(Event::Start, "run", "the steps of the database begin".to_owned());
        start.name = Some(plan.name.clone());
        start.store = Some(plan.store.clone());
        notifier.start(start);
        let history = self.history(plan).await;
        let mut barred: Option<String> = None;
        for planned in plan.steps.iter().filter(|planned| planned.step != Step::Status) {
            let taken = if self.stop.is_cancelled() {
                skipped(planned.step, Outcome::Missed, "the program was asked to end".to_owned())
            } else if let Some(why) = &barred {
                skipped(planned.step, Outcome::Missed, why.clone())
            } else {
                self.step(plan, planned, &history, &mut report).await
            };
            if barred.is_none() && !matches!(taken.outcome, Outcome::Done | Outcome::Skipped | Outcome::Partial) {
                barred = match planned.step {
                    Step::Backup => Some("there is no new run".to_owned()),
                    Step::Verify => Some("the run was not found sound".to_owned()),
                    Step::Copy | Step::Prune | Step::Drill | Step::Status => None,
                };
            }
            report.steps.push(taken);
        }
        report.outcome = Outcome::worst(report.steps.iter().map(|taken| taken.outcome));
        if report.outcome == Outcome::Done && report.steps.iter().any(|taken| taken.outcome == Outcome::Missed) {
            report.outcome = Outcome::Missed;
        }
        report.seconds = begun.elapsed().as_secs_f64();
        let kind = self.stop.is_cancelled().then_some(Kind::Terminated);
        report.notifications = notifier.end(report.notification(), kind).await;
        report
    }

    /// The earlier runs, where a step depends on them. A store that does not answer is found out by the backup.
    async fn history(&self, plan: &Plan) -> History {
        if self.round.is_none() && plan.steps.iter().all(|planned| planned.every.is_none()) {
            return History::default();
        }
        let listed = async {
            let mut call = plan.call("list", self.keys).await?;
            call.words.push("--json".to_owned());
            // Nothing of it is for a person: a store that is not there yet is no error.
            call.env.push(("PGSTOW_LOG".to_owned(), "off".to_owned()));
            let quiet: Relay = std::sync::Arc::new(|_, _| {});
            child::run(&self.program, &plan.name, &call, &quiet, &self.stop).await
        };
        let Ok(Ended { code: Some(0), stdout, .. }) = listed.await else { return History::default() };
        let document: Value = serde_json::from_str(&stdout).unwrap_or_default();
        History(document.get("runs").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    async fn step(&self, plan: &Plan, planned: &Planned, history: &History, report: &mut Report) -> Taken {
        let step = planned.step;
        if step == Step::Backup
            && let Some(taken) = self.made_already(plan, history, report).await
        {
            return taken;
        }
        let receipt = match step {
            Step::Verify => "verified",
            Step::Drill => "drilled",
            Step::Backup | Step::Copy | Step::Prune | Step::Status => "",
        };
        if let (Some(every), Some(age)) = (planned.every, history.age(receipt))
            && age < every
        {
            let ago = human::passed(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
            return skipped(step, Outcome::Skipped, format!("not due, {receipt} {ago} ago"));
        }
        let begun = Instant::now();
        let mut taken = self.attempt(plan, step, report).await;
        if step == Step::Backup && self.round.is_some() && taken.outcome == Outcome::Failed {
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = self.stop.cancelled() => return taken,
            }
            let history = self.history(plan).await;
            if let Some(taken) = self.made_already(plan, &history, report).await {
                return taken;
            }
            taken = self.attempt(plan, step, report).await;
        }
        taken.seconds = begun.elapsed().as_secs_f64();
        taken
    }

    /// The backup of this round, where there is one: a task that was killed had made it.
    async fn made_already(&self, plan: &Plan, history: &History, report: &mut Report) -> Option<Taken> {
        let run = history.of_round(self.round.as_deref()?)?;
        let name = run["run"].as_str()?;
        report.run = Some(name.to_owned());
        report.stored_bytes = run.pointer(STORED).and_then(Value::as_u64);
        if run["status"].as_str() == Some("partial") {
            return Some(skipped(
                Step::Backup,
                Outcome::Partial,
                "made already in this round, a partial run".to_owned(),
            ));
        }
        // Killed between the manifest and the pointer.
        if run["latest"].as_bool() == Some(false)
            && run["held"].as_bool() != Some(true)
            && let Ok(mut call) = plan.call("promote", self.keys).await
        {
            call.words.extend([name.to_owned(), "--json".to_owned()]);
            let promoted = child::run(&self.program, &plan.name, &call, &self.relay, &self.stop).await;
            report.latest = Some(promoted.is_ok_and(|ended| ended.code == Some(0)));
        }
        Some(skipped(Step::Backup, Outcome::Skipped, "made already in this round".to_owned()))
    }

    async fn attempt(&self, plan: &Plan, step: Step, report: &mut Report) -> Taken {
        match self.call(plan, step, report).await {
            Ok(ended) => taken(step, ended),
            Err(error) => Taken {
                hints: error.hints().to_vec(),
                ..skipped(step, Outcome::of_kind(error.kind()), error.message())
            },
        }
    }

    /// Runs the process of a step.
    async fn call(&self, plan: &Plan, step: Step, report: &mut Report) -> Result<Ended> {
        let mut call = plan.call(step.verb(), self.keys).await?;
        call.words.push("--json".to_owned());
        if step == Step::Backup
            && let Some((server, limit)) = self.place(plan).await?
        {
            call.env.push((server::PLACE.to_owned(), server.words().reveal().to_owned()));
            call.env.push((server::PLACES.to_owned(), limit.to_string()));
        }
        match (step, &report.run) {
            (Step::Backup, _) => {
                call.env.push(("PGSTOW_ROUND".to_owned(), self.round.clone().unwrap_or_default()));
            }
            (Step::Copy | Step::Verify | Step::Drill, Some(run)) => call.words.push(run.clone()),
            _ => {}
        }
        let ended = child::run(&self.program, &plan.name, &call, &self.relay, &self.stop).await?;
        if step == Step::Backup {
            let manifest: Value = serde_json::from_str(&ended.stdout).unwrap_or_default();
            report.run = manifest.get("run").and_then(Value::as_str).map(str::to_owned);
            report.stored_bytes = manifest.pointer(STORED).and_then(Value::as_u64);
            report.latest = manifest.get("latest").and_then(Value::as_bool);
            let odd = manifest.get("anomalies").cloned().unwrap_or_default();
            let odd: Vec<Anomaly> = serde_json::from_value(odd).unwrap_or_default();
            report.anomalies = odd.iter().map(ToString::to_string).collect();
        }
        Ok(ended)
    }

    /// The server where the backup takes a place, and how many it has, where their number is limited. The process that makes
    /// the backup holds the place: it outlives us for a moment where we are killed.
    async fn place(&self, plan: &Plan) -> Result<Option<(ConnInfo, u16)>> {
        let Some(limit) = plan.per_server.or(self.per_server) else { return Ok(None) };
        if let Some(info) = plan.server_connection().await? {
            return Ok(Some((info, limit)));
        }
        // All databases of a server have to ask in one place.
        let own = plan.connection().await?;
        let common = own.with_database("postgres");
        if server::reach(&common, CONNECT).await.is_ok() {
            return Ok(Some((common, limit)));
        }
        tracing::warn!(
            "{}: the database postgres of {own} cannot be reached: its server's limit counts only backups of this database",
            plan.name
        );
        Ok(Some((own, limit)))
    }
}

fn skipped(step: Step, outcome: Outcome, why: String) -> Taken {
    Taken {
        step: step.verb(),
        outcome,
        exit_code: None,
        seconds: 0.0,
        why: Some(why),
        hints: Vec::new(),
        tail: Vec::new(),
    }
}

fn taken(step: Step, ended: Ended) -> Taken {
    let outcome = Outcome::of(ended.code);
    let why = match outcome {
        Outcome::Done => None,
        Outcome::Partial | Outcome::Damage => ended.error.or_else(|| Some(finding(step, outcome, &ended.stdout))),
        _ if ended.code.is_none() => Some("its process was killed".to_owned()),
        _ => ended.error,
    };
    let tail = if outcome == Outcome::Done { Vec::new() } else { ended.tail.into() };
    Taken { step: step.verb(), outcome, exit_code: ended.code, seconds: 0.0, why, hints: ended.hints, tail }
}

/// The finding of a step that ended without an error, by its document.
fn finding(step: Step, outcome: Outcome, stdout: &str) -> String {
    let document: Value = serde_json::from_str(stdout).unwrap_or_default();
    let count = |name: &str| document.get(name).and_then(Value::as_array).map_or(0, Vec::len);
    let warning = document.get("warnings").and_then(|all| all.get(0)).and_then(Value::as_str);
    match (step, outcome) {
        (Step::Backup, _) if warning.is_some() => warning.unwrap_or_default().to_owned(),
        (Step::Backup, _) => format!("partial: {} things were left out", count("skipped") + count("dependents")),
        (Step::Verify, _) => format!("{} objects are damaged", count("damaged")),
        (Step::Drill, Outcome::Partial) => format!("{} things could not be proven", count("not_proven")),
        (Step::Drill, _) => format!("{} differences", count("differences")),
        _ => outcome.as_str().to_owned(),
    }
}
