//! `pgstow verify`: its flags and what it prints.

use std::time::Duration;

use clap::Args;
use tracing::warn;

use crate::cli::alarm::{self, AlarmArgs, Ended};
use crate::cli::args::{Global, JOBS, KeyArgs};
use crate::cli::outcome::Outcome;
use crate::cli::progress::Shown;
use crate::cli::timings::Timings;
use crate::error::{Error, Result};
use crate::human;
use crate::objects::turns;
use crate::runs::receipts::{self, HASHES};
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::verify::{Options, Receipt, verify};

const UNOPENED: &str = "CONTENTS WERE NOT LOOKED INTO: the run is encrypted and no --identity was given\n";

/// Longest time that a signal waits for a receipt that is being written.
const RECEIPT: Duration = Duration::from_secs(4);

/// Verifies a run. A signal that comes when the verdict is there does not take it back.
pub(crate) async fn run(arguments: &Verify, global: &Global, shutdown: &Shutdown) -> Result<Outcome> {
    alarm::watch(&arguments.alarms, "verify", global, Box::pin(work(arguments, global, shutdown))).await
}

async fn work(arguments: &Verify, global: &Global, shutdown: &Shutdown) -> Result<Ended> {
    let examined = async {
        let store = global.store.open_existing().await?;
        let keys = arguments.keys.read()?;
        let options = Options { run: arguments.run.clone(), jobs: usize::from(arguments.jobs), keys };
        let progress = Shown::reading(global, &store);
        let receipt = Box::pin(verify(&store, &options)).await;
        progress.end();
        let receipt = receipt?;
        Ok::<_, Error>((store, receipt))
    };
    let (store, receipt) = tokio::select! {
        examined = Box::pin(examined) => examined?,
        error = shutdown.requested() => return Err(error),
    };
    let late = async {
        let error = shutdown.requested().await;
        tokio::time::sleep(RECEIPT).await;
        error
    };
    tokio::select! {
        reported = report(&store, &receipt, arguments) => reported,
        error = late => Err(error),
    }
}

async fn report(store: &Store, receipt: &Receipt, arguments: &Verify) -> Result<Ended> {
    receipts::leave(store, &receipt.head, receipt).await;
    for warning in &receipt.warnings {
        warn!("{warning}");
    }
    let outcome = if receipt.head.ok { Outcome::Done } else { Outcome::Damage };
    let mut ended = Ended::new(outcome, text(receipt), receipt)?;
    ended.run = Some(receipt.head.run.clone());
    if arguments.timings {
        let mut timings = Timings::new(store, arguments.jobs, JOBS);
        timings.step("objects", receipt.seconds);
        timings.reading(store, false);
        let places = turns::places(usize::from(arguments.jobs));
        timings.choose("small objects at once", places.to_string(), "a small object is all latency".to_owned());
        timings.put(&mut ended.text, &mut ended.json);
    }
    Ok(ended)
}

fn text(receipt: &Receipt) -> String {
    let rows = if receipt.checked == HASHES { String::new() } else { format!("{} rows, ", human::count(receipt.rows)) };
    let (objects, size) = (human::count(receipt.objects), human::size(receipt.bytes));
    let read = format!("{objects} objects, {size}, {rows}{:.1}s", receipt.seconds);
    if receipt.head.ok && receipt.checked == HASHES {
        return format!(
            "run {} is stored as it was written (sizes and SHA-256): {read}\n\
             {UNOPENED}",
            receipt.head.run
        );
    }
    if receipt.head.ok {
        return format!("run {} is sound: {read}\n", receipt.head.run);
    }
    let mut text = format!("run {} is DAMAGED: {} of {read}\n", receipt.head.run, receipt.damaged.len());
    for damaged in &receipt.damaged {
        for problem in &damaged.problems {
            text.extend(["  ", damaged.key.as_str(), ": ", &human::plain(problem), "\n"]);
        }
    }
    if receipt.checked == HASHES {
        text.push_str(UNOPENED);
    }
    text
}

/// `pgstow verify`
#[derive(Debug, Clone, Args)]
pub struct Verify {
    /// Run: its name, the beginning of its name, or `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// Large objects read at the same time; of small ones up to 32 times as many, 256 at most.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = JOBS, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// The secret keys of an encrypted run.
    #[command(flatten)]
    pub keys: KeyArgs,
    /// Say at the end how long each step took, how long the stages waited for each other, how many requests were sent, and
    /// what was chosen; with --json as `timings`.
    #[arg(long, env = "PGSTOW_TIMINGS")]
    pub timings: bool,
    /// The receivers of notifications.
    #[command(flatten)]
    pub alarms: AlarmArgs,
}
