//! The surroundings of a command that runs unattended: notifications of its start and end, metrics, and output for a CI.
//! The command itself makes an [`Ended`] of its result; it is printed here, once everybody was notified, so that a notification
//! that failed stands in what is printed.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::cli::args::Global;
use crate::cli::metrics::{self, Metric};
use crate::cli::outcome::Outcome;
use crate::cli::{ci, output, progress};
use crate::error::{Error, Kind, Result};
use crate::human;
use crate::notify::event::{Event, Notification};
use crate::notify::target::When;
use crate::notify::telemetry::Trace;
use crate::notify::telemetry::context::{self, Figure, Step};
use crate::notify::{Delivery, Failures, Notifier};

/// Lines of the log that a notification of a failure holds.
const TAIL: usize = 60;

/// The receivers of notifications.
#[derive(Debug, Clone, Default, Args)]
pub struct AlarmArgs {
    /// Tell this address of start and end (repeatable): https://hc-ping.com/..., a webhook of Slack or Discord, any other
    /// https://... for JSON, mailto:somebody@example.com. `pgstow manual alarms` explains each.
    #[arg(
        long,
        value_name = "URL",
        help_heading = "Alarms",
        env = "PGSTOW_NOTIFY",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub notify: Vec<String>,
    /// Events that chats and mails report; webhooks and healthchecks get all.
    #[arg(long, value_name = "WHEN", help_heading = "Alarms", env = "PGSTOW_NOTIFY_ON", value_enum, default_value_t = NotifyOn::Problems)]
    pub notify_on: NotifyOn,
    /// Write metrics to this file, for the textfile collector of node_exporter.
    #[arg(long, value_name = "FILE", help_heading = "Alarms", env = "PGSTOW_METRICS_FILE")]
    pub metrics_file: Option<PathBuf>,
}

/// Events that chats and mails report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum NotifyOn {
    /// Whatever is not a success.
    #[default]
    Problems,
    /// Successes too.
    All,
}

impl AlarmArgs {
    /// The receivers.
    ///
    /// # Errors
    /// Kind `Usage`.
    pub(crate) fn notifier(&self) -> Result<Notifier> {
        let when = match self.notify_on {
            NotifyOn::Problems => When::Problems,
            NotifyOn::All => When::All,
        };
        Notifier::new(&self.notify, when)
    }
}

/// A command that came to its end.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    /// The event, where the outcome does not say it.
    pub(crate) event: Option<Event>,
    pub(crate) name: Option<String>,
    pub(crate) run: Option<String>,
    /// One sentence for a notification.
    pub(crate) message: String,
    pub(crate) figures: Vec<Metric>,
    /// The steps that it took, as far as they are known.
    pub(crate) steps: Vec<Step>,
    /// The text on stdout.
    pub(crate) text: String,
    /// The document of `--json`.
    pub(crate) json: Value,
    /// The failure that came after the result.
    pub(crate) late: Option<Error>,
}

impl Ended {
    /// An end that was printed in full, with nothing more to say.
    ///
    /// # Errors
    /// A document that is no JSON.
    pub(crate) fn new(outcome: Outcome, text: String, json: &impl serde::Serialize) -> Result<Self> {
        let json = serde_json::to_value(json).map_err(|error| Error::failed(format!("write JSON: {error}")))?;
        let message = text.lines().next().unwrap_or_default().to_owned();
        Ok(Self {
            outcome,
            event: None,
            name: None,
            run: None,
            message,
            figures: Vec::new(),
            steps: Vec::new(),
            text,
            json,
            late: None,
        })
    }

    fn event(&self) -> Event {
        self.event.unwrap_or(match (self.outcome, &self.late) {
            (Outcome::Done, Some(_)) | (Outcome::Failed, _) => Event::Failure,
            (Outcome::Done, None) => Event::Success,
            (Outcome::Partial, _) => Event::Partial,
            (Outcome::Damage, _) => Event::Damage,
        })
    }
}

/// Runs a command, tells who wants to know, and prints its result.
///
/// # Errors
/// The failure of the command; addresses that make no sense.
pub(crate) async fn watch(
    arguments: &AlarmArgs,
    command: &'static str,
    global: &Global,
    work: impl Future<Output = Result<Ended>>,
) -> Result<Outcome> {
    watch_with(arguments, command, global, Failures::default(), work).await
}

/// As [`watch`]; each notification of the start that fails is in `failures` as soon as it is known.
///
/// # Errors
/// As [`watch`].
pub(crate) async fn watch_with(
    arguments: &AlarmArgs,
    command: &'static str,
    global: &Global,
    failures: Failures,
    work: impl Future<Output = Result<Ended>>,
) -> Result<Outcome> {
    let begun = Instant::now();
    let mut notifier = arguments.notifier()?.with_failures(failures);
    let trace = Trace::begin(command);
    let with_store = |mut notification: Notification| {
        notification.store.clone_from(&global.store.store);
        notification
    };
    notifier.start(with_store(Notification::now(Event::Start, command, format!("pgstow {command} begins"))));
    let section = ci::Section::begin(command);
    let result = work.await;
    section.end();
    let seconds = begun.elapsed().as_secs_f64();
    let mut notification = with_store(match &result {
        Ok(ended) => told_of_end(command, ended),
        Err(error) => told_of_error(command, error),
    });
    notification.seconds = Some(seconds);
    if notification.event.is_problem() {
        notification.log = progress::tail(TAIL);
    }
    let kind = result.as_ref().err().map(Error::kind);
    ci::report(command, &notification, result.as_ref().map_or("", |ended| ended.text.as_str()));
    if let Some(file) = &arguments.metrics_file {
        let figures = result.as_ref().map_or(&[][..], |ended| ended.figures.as_slice());
        metrics::write(file, command, &notification, figures);
    }
    let deliveries = tokio::join!(notifier.end(notification.clone(), kind), async {
        if let Some(trace) = trace {
            send(trace, &notification, result.as_ref().ok()).await;
        }
    })
    .0;
    let ended = result?;
    print(&ended, &deliveries, global.json)?;
    match ended.late {
        Some(error) => Err(error),
        None => Ok(ended.outcome),
    }
}

/// Sends traces and metrics of a command that ended.
async fn send(trace: Trace, notification: &Notification, ended: Option<&Ended>) {
    let figures = ended.map_or(&[][..], |ended| ended.figures.as_slice());
    let bound = if notification.event == Event::Interrupted { context::BRIEF } else { context::BOUND };
    let steps = ended.map_or(&[][..], |ended| ended.steps.as_slice());
    trace.end(notification, steps, &figures.iter().map(figure).collect::<Vec<_>>(), bound).await;
}

fn figure(metric: &Metric) -> Figure<'_> {
    Figure { name: metric.name, help: metric.help, labels: &metric.labels, value: metric.value }
}

fn told_of_end(command: &str, ended: &Ended) -> Notification {
    let mut notification = Notification::now(ended.event(), command, ended.message.clone());
    notification.exit_code = Some(match (&ended.late, ended.outcome) {
        (Some(error), _) => error.kind().exit_code(),
        (None, Outcome::Done) => 0,
        (None, Outcome::Failed) => Kind::Failed.exit_code(),
        (None, Outcome::Partial) => Kind::Partial.exit_code(),
        (None, Outcome::Damage) => Kind::Damage.exit_code(),
    });
    notification.name.clone_from(&ended.name);
    notification.run.clone_from(&ended.run);
    if let Some(error) = &ended.late {
        notification.message = error.message();
        notification.hints = error.hints().to_vec();
    }
    notification
}

fn told_of_error(command: &str, error: &Error) -> Notification {
    let event = match error.kind() {
        Kind::Interrupted | Kind::Terminated => Event::Interrupted,
        Kind::Damage => Event::Damage,
        Kind::Partial => Event::Partial,
        Kind::Failed | Kind::Usage => Event::Failure,
    };
    let mut notification = Notification::now(event, command, error.message());
    notification.hints = error.hints().to_vec();
    notification.exit_code = Some(error.kind().exit_code());
    notification
}

fn print(ended: &Ended, deliveries: &[Delivery], json: bool) -> Result<()> {
    if json {
        let mut document = ended.json.clone();
        if let (Value::Object(fields), false) = (&mut document, deliveries.is_empty()) {
            let notification = serde_json::to_value(deliveries).unwrap_or_default();
            fields.insert("notifications".to_owned(), notification);
        }
        return output::print_json(&document);
    }
    let mut text = ended.text.clone();
    for failed in deliveries.iter().filter(|delivery| !delivery.ok) {
        let why = failed.error.as_deref().unwrap_or_default();
        let line = human::plain(&format!("{} ({}): {why}", failed.target, failed.event.as_str()));
        let written = writeln!(text, "NOT NOTIFIED: {line}");
        debug_assert!(written.is_ok(), "writing to a String does not fail");
    }
    output::print(&text)
}
