//! `pgstow drill`: its flags, its text and its JSON.

use std::sync::Arc;

use clap::Args;

use crate::cli::alarm::{self, AlarmArgs, Ended};
use crate::cli::args::{Global, RestoringArgs, connection};
use crate::cli::forget::ForgetArgs;
use crate::cli::outcome::Outcome;
use crate::cli::progress::Shown;
use crate::drill::options::Options;
use crate::drill::receipt::{Receipt, Verdict};
use crate::drill::{self, Drilled};
use crate::error::Result;
use crate::human;
use crate::restore::forget::Forgotten;
use crate::restore::progress::Progress;
use crate::shutdown::Shutdown;

/// `pgstow drill`
#[derive(Debug, Clone, Args)]
pub struct Drill {
    /// Run: its name, the beginning of its name, or `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// A database on the server where the scratch database is made: a URL or `key=value` words.
    #[arg(long, env = "PGSTOW_DRILL_ON", hide_env_values = true, value_parser = connection())]
    pub on: String,
    /// Name of the scratch database, which must not exist. Default: made from the run's name.
    #[arg(long, env = "PGSTOW_SCRATCH_NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub scratch_name: Option<String>,
    /// Load and compare the rows of some tables only: a percentage of the tables (`10%`, other tables each time), or a
    /// table as `schema.table` (repeatable). All definitions are compared.
    #[arg(long, env = "PGSTOW_TABLES")]
    pub tables: Vec<String>,
    /// Create the roles that the server lacks, for the time of the drill.
    #[arg(long)]
    pub roles: bool,
    /// Rows that a restore would erase: after everything was proven they are erased in the scratch database as well.
    #[command(flatten)]
    pub forget: ForgetArgs,
    /// Sessions, programs and keys.
    #[command(flatten)]
    pub means: RestoringArgs,
    /// The receivers of notifications.
    #[command(flatten)]
    pub alarms: AlarmArgs,
}

/// Proves a run and prints the account of it.
///
/// # Errors
/// Anything that kept the drill from coming to a verdict.
pub(crate) async fn run(arguments: Drill, global: &Global, shutdown: &Shutdown) -> Result<Outcome> {
    let alarms = arguments.alarms.clone();
    alarm::watch(&alarms, "drill", global, Box::pin(work(arguments, global, shutdown))).await
}

async fn work(arguments: Drill, global: &Global, shutdown: &Shutdown) -> Result<Ended> {
    let forget = arguments.forget.read(&global.store).await?;
    let store = global.store.open_existing().await?;
    let mut options = options(arguments)?;
    options.forget = forget;
    let counters = Arc::new(Progress::default());
    let shown = Shown::restore(global, &counters);
    let drilled = Box::pin(drill::run(store, &options, &counters, shutdown)).await;
    shown.end();
    let Drilled { receipt, left_behind } = drilled?;
    let outcome = match receipt.verdict() {
        Verdict::Proven => Outcome::Done,
        Verdict::ProvenInPart => Outcome::Partial,
        Verdict::Different => Outcome::Damage,
    };
    let mut ended = Ended::new(outcome, text(&receipt), &receipt)?;
    ended.run = Some(receipt.head.run.clone());
    ended.late = left_behind;
    Ok(ended)
}

fn options(arguments: Drill) -> Result<Options> {
    Ok(Options {
        run: arguments.run,
        on: arguments.on,
        scratch_name: arguments.scratch_name,
        tables: arguments.tables,
        roles: arguments.roles,
        keys: arguments.means.keys.read()?,
        jobs: arguments.means.jobs,
        pg_bin_dir: arguments.means.pg_bin_dir,
        connect_timeout: arguments.means.connect_timeout,
        stall_timeout: arguments.means.stall_timeout,
        forget: None,
    })
}

fn text(receipt: &Receipt) -> String {
    let verdict = match receipt.verdict() {
        Verdict::Proven => "PROVEN",
        Verdict::ProvenInPart => "proven but for what this server cannot hold",
        Verdict::Different => "NOT what was saved",
    };
    let sampled = match &receipt.sample {
        Some(sample) => format!(" in a sample of {} of {} tables", sample.tables.len(), sample.of),
        None => String::new(),
    };
    let mut text = format!(
        "run {} restored into PostgreSQL {}: {verdict}{sampled}; {} tables, {} rows, {:.1} s of which restore {:.1} s\n",
        receipt.head.run,
        receipt.server_version,
        human::count(receipt.tables),
        human::count(receipt.rows),
        receipt.seconds,
        receipt.restore_seconds
    );
    for line in receipt.forgotten.iter().flat_map(Forgotten::lines) {
        text.push_str(&format!("  {}\n", human::plain(&line)));
    }
    if let Some(sample) = receipt.sample.as_ref().filter(|_| receipt.head.ok) {
        text.push_str(&format!("  proven: {}\n", human::plain(&sample.tables.join(", "))));
    }
    for (title, lines) in
        [("difference", &receipt.differences), ("not proven", &receipt.not_proven), ("note", &receipt.notes)]
    {
        for line in lines {
            text.push_str(&format!("  {title}: {}\n", human::plain(line)));
        }
    }
    text
}
