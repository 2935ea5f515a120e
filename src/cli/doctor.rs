//! `pgstow doctor`: its flags and what it prints.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::args::{Global, SealArgs, SourceArgs, TrustArgs, duration};
use crate::cli::fleet::ConfigArgs;
use crate::cli::outcome::Outcome;
use crate::cli::output;
use crate::doctor::findings::{Check, Level, Report};
use crate::doctor::options::{Database, Options};
use crate::doctor::policy::Policies;
use crate::doctor::{Looked, examine};
use crate::error::{Error, Result};
use crate::shutdown::Shutdown;

/// The JSON document.
#[derive(Serialize)]
struct Document<'a> {
    /// False where a check found an error.
    ok: bool,
    /// The worst level of all checks.
    verdict: Level,
    checks: &'a [Check],
    store: Option<&'a Looked>,
    policies: Option<&'a Policies>,
}

/// Checks and prints.
///
/// # Errors
/// Wrong usage; a signal; and, once everything is printed, that a check found an error.
pub(crate) async fn run(arguments: Doctor, global: &Global, shutdown: &Shutdown) -> Result<Outcome> {
    let passwords = arguments.source.passwords()?;
    let database = (!arguments.skip_database).then_some(Database {
        source: arguments.source.database_url,
        passwords,
        pg_bin_dir: arguments.source.pg_bin_dir,
        connect_timeout: arguments.source.connect_timeout,
        jobs: arguments.jobs,
        lock_timeout: arguments.lock_timeout,
    });
    let store = (!arguments.skip_store).then(|| global.store.config());
    let seal = SealArgs { sign_key: arguments.sign_key, ..SealArgs::default() };
    let (signing_key, trust) = (seal.signing_key()?, arguments.trust.read()?);
    let found = examine(&Options { database, store, signing_key, trust }, shutdown).await?;
    let verdict = found.report.verdict();
    let policies = found.policies.as_ref();
    if global.json {
        output::print_json(&Document {
            ok: verdict != Level::Error,
            verdict,
            checks: &found.report.checks,
            store: found.store.as_ref(),
            policies,
        })?;
    } else {
        output::print(&text(&found.report, policies)?)?;
    }
    if verdict == Level::Error {
        let count = found.report.count(Level::Error);
        let what = if count == 1 { "one check found".to_owned() } else { format!("{count} checks found") };
        return Err(Error::failed(format!("{what} what would stop a backup")));
    }
    Ok(Outcome::Done)
}

fn text(report: &Report, policies: Option<&Policies>) -> Result<String> {
    let mut text = report.text();
    if let Some(policies) = policies {
        text.push_str("\nThe smallest IAM policy that backup, verify, restore and prune need:\n\n");
        text.push_str(&policies.text()?);
        text.push_str(
            "\nA machine that only backs up needs no s3:DeleteObject and no s3:ListBucketMultipartUploads, and s3:GetObject on\n\
             latest.json and runs/*/manifest.json only: `pgstow doctor --json` prints that policy as policies.write_only.\n",
        );
        text.push_str(if policies.demands_new {
            "Its key can neither delete nor replace a run: it must write each object under the condition that there is none.\n"
        } else {
            "Its key cannot delete a run, but it can replace its objects: only versioning or Object Lock keeps the old ones.\n"
        });
    }
    let (errors, warnings) = (report.count(Level::Error), report.count(Level::Warning));
    let s = |count: usize| if count == 1 { "" } else { "s" };
    text.push_str(&format!("\n{errors} error{}, {warnings} warning{}\n", s(errors), s(warnings)));
    Ok(text)
}

/// `pgstow doctor`
#[derive(Debug, Clone, Args)]
pub struct Doctor {
    /// The database to read.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Sessions that the backup will read rows with.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// Time that the backup waits for the lock of a table.
    #[arg(long, env = "PGSTOW_LOCK_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub lock_timeout: Duration,
    /// The key that the backup will sign with, as `pgstow backup` takes it.
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Encrypted and signed runs",
        env = "PGSTOW_SIGN_KEY",
        hide_env_values = true
    )]
    pub sign_key: Option<String>,
    /// The keys whose signatures are trusted.
    #[command(flatten)]
    pub trust: TrustArgs,
    /// Check the store only.
    #[arg(long, env = "PGSTOW_SKIP_DATABASE")]
    pub skip_database: bool,
    /// Check the database only.
    #[arg(long, env = "PGSTOW_SKIP_STORE", conflicts_with = "skip_database")]
    pub skip_store: bool,
    /// The file of all databases.
    #[command(flatten)]
    pub config: ConfigArgs,
}
