//! `pgstow doctor`: everything that could stop the next backup, checked now. Owns the order of the checks and what is
//! printed; what each finding means is in `database` and `store`, the permissions a bucket must give in `policy`.

pub(crate) mod database;
pub(crate) mod findings;
pub(crate) mod policy;
pub(crate) mod store;

use std::time::Duration;

use serde::Serialize;

use crate::cli::args::Global;
use crate::cli::doctor::Doctor;
use crate::cli::output;
use crate::cli::run::Outcome;
use crate::doctor::findings::{Check, Level, Report};
use crate::error::{Error, Kind, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::shutdown::Shutdown;
use crate::store::probe::{Litter, Probe};
use crate::store::{Config, Store};

/// How long removing what the probe made may take, a lock of three seconds included.
const TIDY: Duration = Duration::from_secs(30);

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    verdict: Level,
    checks: &'a [Check],
    store: Option<&'a Looked>,
    policies: Option<policy::Policies>,
}

/// A store and what its probe found.
#[derive(Debug, Clone, Serialize)]
struct Looked {
    url: String,
    endpoint: Option<String>,
    #[serde(flatten)]
    probe: Probe,
}

/// Checks and prints.
///
/// # Errors
/// Wrong usage; a signal; and, once everything is printed, that a check found an error.
pub(crate) async fn run(arguments: Doctor, global: &Global, shutdown: &Shutdown) -> Result<Outcome> {
    let mut report = Report::default();
    let config = global.store.config();
    let store = if arguments.skip_store { None } else { open(&config, &mut report).await? };
    let litter = Litter::default();
    let examined = tokio::select! {
        biased;
        error = shutdown.requested() => Err(error),
        examined = Box::pin(examine(&arguments, &config, store.as_ref(), &litter, &mut report)) => examined,
    };
    if let Some(store) = &store {
        tidy(store, &litter, &mut report).await;
    }
    let looked = examined?;
    let policies = store
        .as_ref()
        .and_then(|store| store.bucket())
        .map(|(bucket, prefix)| policy::Policies::of(bucket, prefix, &config));
    let verdict = report.verdict();
    if global.json {
        output::print_json(&Document { verdict, checks: &report.checks, store: looked.as_ref(), policies })?;
    } else {
        output::print(&text(&report, policies.as_ref())?)?;
    }
    if verdict == Level::Error {
        let count = report.count(Level::Error);
        let what = if count == 1 { "one check found".to_owned() } else { format!("{count} checks found") };
        return Err(Error::failed(format!("{what} what would stop a backup")));
    }
    Ok(Outcome::Done)
}

/// Opens the store; wrong usage ends the command, anything else is a finding.
async fn open(config: &Config, report: &mut Report) -> Result<Option<Store>> {
    match Store::open(config.clone()).await {
        Ok(store) => Ok(Some(store)),
        Err(error) if error.kind() == Kind::Usage => Err(error),
        Err(error) => {
            report.failed("store", "open", &error);
            Ok(None)
        }
    }
}

async fn examine(
    arguments: &Doctor,
    config: &Config,
    store: Option<&Store>,
    litter: &Litter,
    report: &mut Report,
) -> Result<Option<Looked>> {
    let mut size = None;
    if !arguments.skip_database {
        let info = ConnInfo::resolve(arguments.source.database_url.as_deref())
            .map_err(|error| error.hint("to check the store alone: --skip-database"))?;
        size = Box::pin(database::examine(arguments, &info, store, report)).await;
    }
    let Some(store) = store else { return Ok(None) };
    let probe = store.probe(litter).await;
    store::judge(store, config, &probe, size, report);
    let (url, endpoint) = (store.describe(), store.endpoint().map(str::to_owned));
    Ok(Some(Looked { url, endpoint, probe }))
}

async fn tidy(store: &Store, litter: &Litter, report: &mut Report) {
    let remaining = match tokio::time::timeout(TIDY, store.tidy(litter)).await {
        Ok(remaining) => remaining,
        Err(_elapsed) => vec!["what it was trying".to_owned()],
    };
    if !remaining.is_empty() {
        let text = format!("the probe left behind, since it could not be deleted: {}", remaining.join(", "));
        report.warn("store", "clean", text, ["delete it when convenient; nothing depends on it".to_owned()]);
    }
}

fn text(report: &Report, policies: Option<&policy::Policies>) -> Result<String> {
    let mut text = report.text();
    if let Some(policies) = policies {
        text.push_str("\nThe smallest IAM policy that backup, verify, restore and prune need:\n\n");
        text.push_str(&policies.text()?);
        text.push_str(
            "\nA machine that only backs up needs no s3:DeleteObject and no s3:ListBucketMultipartUploads, and s3:GetObject on\n\
             latest.json and runs/*/manifest.json only: `pgstow doctor --json` prints that policy as policies.write_only.\n",
        );
    }
    let (errors, warnings) = (report.count(Level::Error), report.count(Level::Warning));
    let s = |count: usize| if count == 1 { "" } else { "s" };
    text.push_str(&format!("\n{errors} error{}, {warnings} warning{}\n", s(errors), s(warnings)));
    Ok(text)
}
