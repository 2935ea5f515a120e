//! `pgstow prune`: its flags and what it prints.

use std::time::Duration;

use clap::Args;
use jiff::tz::TimeZone;

use crate::cli::alarm::{self, AlarmArgs, Ended};
use crate::cli::args::{Global, duration};
use crate::cli::outcome::Outcome;
use crate::cli::output;
use crate::error::{Error, Result};
use crate::human;
use crate::runs::retention::rules::Rules;
use crate::runs::retention::{Action, Options, Pruned, prune};
use crate::shutdown::Shutdown;
use crate::store::Store;

/// Prunes a store.
///
/// # Errors
/// Kind `Usage` without a rule; a store that cannot be read; at the end, when something could not be deleted.
pub(crate) async fn run(arguments: &Prune, global: &Global, shutdown: &Shutdown) -> Result<Outcome> {
    alarm::watch(&arguments.alarms, "prune", global, async {
        let store = global.store.open_existing().await?;
        tokio::select! {
            pruned = work(&store, arguments) => pruned,
            error = shutdown.requested() => Err(error),
        }
    })
    .await
}

async fn work(store: &Store, arguments: &Prune) -> Result<Ended> {
    let rules = Rules {
        last: arguments.keep_last.unwrap_or_default(),
        within: arguments.keep_within,
        hourly: arguments.keep_hourly.unwrap_or_default(),
        yearly: arguments.keep_yearly.unwrap_or_default(),
        zone: arguments.time_zone.clone(),
        daily: arguments.keep_daily.unwrap_or_default(),
        weekly: arguments.keep_weekly.unwrap_or_default(),
        monthly: arguments.keep_monthly.unwrap_or_default(),
    };
    if !rules.is_any() {
        return Err(Error::usage("prune needs a rule that says what to keep").hint(
            "give one or more of --keep-last, --keep-within, --keep-hourly, --keep-daily, --keep-weekly, --keep-monthly, --keep-yearly; \
             --dry-run shows what they would delete",
        ));
    }
    let options = Options {
        rules,
        grace: arguments.incomplete_older_than,
        versions: arguments.versions,
        dry_run: arguments.dry_run,
    };
    let pruned = prune(store, &options).await?;
    let mut ended = Ended::new(Outcome::Done, text(&pruned), &pruned)?;
    let runs = pruned.runs.iter().filter(|decision| decision.action == Action::Keep).count();
    ended.message = format!("{} runs deleted, {runs} kept", pruned.deleted_runs);
    let what = match pruned.failures.len() {
        0 => return Ok(ended),
        1 => "one thing".to_owned(),
        count => format!("{count} things"),
    };
    let error = Error::failed(format!("{what} could not be deleted"));
    ended.late = Some(error.hint("run prune again: it goes on where it stopped"));
    Ok(ended)
}

fn text(document: &Pruned) -> String {
    let rows: Vec<Vec<String>> = document
        .runs
        .iter()
        .map(|decision| {
            let mark = if decision.latest { "*" } else { "" };
            let action = match decision.action {
                Action::Keep => "keep",
                Action::Delete if document.dry_run => "would delete",
                Action::Delete => "deleted",
            };
            vec![
                format!("{}{mark}", decision.run),
                decision.status.as_str().to_owned(),
                decision.finished_at.as_deref().map_or_else(|| "-".to_owned(), human::age),
                human::size(decision.bytes),
                action.to_owned(),
                human::plain(&decision.reasons.join(", ")),
            ]
        })
        .collect();
    let mut text = String::new();
    if rows.is_empty() {
        text.push_str(&format!("no runs in {}\n", document.store));
    } else {
        text.push_str(&output::table(&["RUN", "STATUS", "AGE", "STORED", "", "WHY"], &[3], &rows));
    }
    let did = if document.dry_run { "would delete" } else { "deleted" };
    let runs = if document.deleted_runs == 1 { "run" } else { "runs" };
    let left = document.deleted_bytes - document.freed_bytes;
    let left = match left {
        0 => String::new(),
        left => format!(", of which {} still take room as old versions", human::size(left)),
    };
    text.push_str(&format!(
        "{did} {} {runs}: {} objects, {}{left}\n",
        document.deleted_runs,
        human::count(document.deleted_objects),
        human::size(document.deleted_bytes)
    ));
    for key in &document.uploads {
        text.push_str(&format!("{did} unfinished upload: {}\n", human::plain(key)));
    }
    for key in &document.leftovers {
        text.push_str(&format!("{did} leftover: {}\n", human::plain(key)));
    }
    for note in &document.notes {
        text.push_str(&format!("note: {}\n", human::plain(note)));
    }
    for failure in &document.failures {
        text.push_str(&format!("FAILED: {}\n", human::plain(failure)));
    }
    if document.dry_run {
        text.push_str("nothing was deleted (--dry-run)\n");
    }
    text
}

/// How many runs or periods a rule keeps.
fn count(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("at least 1; leave the rule out to keep none by it".to_owned()),
        Ok(count) => Ok(count),
        Err(_) if duration(text).is_ok() => {
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            Err(format!("a number is needed, not a time: write {digits}; --keep-within takes {text}"))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// `pgstow prune`
#[derive(Debug, Clone, Args)]
pub struct Prune {
    /// Keep the newest N runs.
    #[arg(long, value_name = "N", env = "PGSTOW_KEEP_LAST", value_parser = count)]
    pub keep_last: Option<u32>,
    /// Keep every run that began at most this long before the newest one: 30d.
    #[arg(long, value_name = "DURATION", env = "PGSTOW_KEEP_WITHIN", value_parser = duration)]
    pub keep_within: Option<Duration>,
    /// Keep the newest run of each of the last N hours that have one.
    #[arg(long, value_name = "N", env = "PGSTOW_KEEP_HOURLY", value_parser = count)]
    pub keep_hourly: Option<u32>,
    /// Keep the newest run of each of the last N days that have one.
    #[arg(long, value_name = "N", env = "PGSTOW_KEEP_DAILY", value_parser = count)]
    pub keep_daily: Option<u32>,
    /// Keep the newest run of each of the last N ISO weeks that have one.
    #[arg(long, value_name = "N", env = "PGSTOW_KEEP_WEEKLY", value_parser = count)]
    pub keep_weekly: Option<u32>,
    /// Keep the newest run of each of the last N months that have one.
    #[arg(long, value_name = "N", env = "PGSTOW_KEEP_MONTHLY", value_parser = count)]
    pub keep_monthly: Option<u32>,
    /// Keep the newest run of each of the last N years that have one.
    #[arg(long, value_name = "N", env = "PGSTOW_KEEP_YEARLY", value_parser = count)]
    pub keep_yearly: Option<u32>,
    /// Time zone in which hours, days, weeks, months and years begin: Europe/Berlin. Default: UTC.
    #[arg(long, value_name = "ZONE", env = "PGSTOW_TIME_ZONE", value_parser = time_zone)]
    pub time_zone: Option<TimeZone>,
    /// Remove runs without a manifest and unfinished uploads that began longer ago than this.
    #[arg(long, value_name = "DURATION", env = "PGSTOW_INCOMPLETE_OLDER_THAN", default_value = "24h", value_parser = duration)]
    pub incomplete_older_than: Duration,
    /// In a bucket that keeps versions: delete all versions of the runs that are deleted, and keep runs that a lock holds.
    #[arg(long, env = "PGSTOW_PRUNE_VERSIONS")]
    pub versions: bool,
    /// Report what would be deleted, and delete nothing.
    #[arg(long, env = "PGSTOW_DRY_RUN")]
    pub dry_run: bool,
    /// The receivers of notifications.
    #[command(flatten)]
    pub alarms: AlarmArgs,
}

fn time_zone(text: &str) -> Result<TimeZone, String> {
    TimeZone::get(text).map_err(|_unknown| "no time zone has this name; write it like Europe/Berlin or UTC".to_owned())
}
