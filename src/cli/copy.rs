//! `pgstow copy`: its flags and what it prints.

use std::path::PathBuf;

use clap::Args;

use crate::cli::alarm::{self, AlarmArgs, Ended};
use crate::cli::args::{Global, TrustArgs};
use crate::cli::outcome::Outcome;
use crate::copy::{Copied, Options, copy};
use crate::error::{Error, Result};
use crate::human;
use crate::shutdown::Shutdown;
use crate::store::{Config, Store};

/// Holds the access key of the second store, and its secret key.
pub(crate) const ACCESS_KEY: &str = "PGSTOW_TO_ACCESS_KEY_ID";
pub(crate) const SECRET_KEY: &str = "PGSTOW_TO_SECRET_ACCESS_KEY";

/// `pgstow copy`
#[derive(Debug, Clone, Args)]
pub struct Copy {
    /// Run: its name, the beginning of its name, or `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// The second store: `s3://bucket/prefix`, or a directory. PGSTOW_TO_ACCESS_KEY_ID and PGSTOW_TO_SECRET_ACCESS_KEY are its
    /// keys, where they are not those of the first.
    #[arg(long, value_name = "STORE", env = "PGSTOW_COPY_TO")]
    pub to: String,
    /// Endpoint of the second store.
    #[arg(long, value_name = "URL", env = "PGSTOW_TO_S3_ENDPOINT")]
    pub to_s3_endpoint: Option<String>,
    /// Region of the second store.
    #[arg(long, value_name = "REGION", env = "PGSTOW_TO_S3_REGION")]
    pub to_s3_region: Option<String>,
    /// Address buckets of the second store as a path. Default: yes with an endpoint, no without.
    #[arg(long, env = "PGSTOW_TO_S3_PATH_STYLE", value_parser = clap::builder::BoolishValueParser::new(), num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub to_s3_path_style: Option<bool>,
    /// PEM file with certificates to trust for the second store besides the system's.
    #[arg(long, value_name = "FILE", env = "PGSTOW_TO_S3_CA_FILE")]
    pub to_s3_ca_file: Option<PathBuf>,
    /// Storage class of every object in the second store.
    #[arg(long, value_name = "CLASS", env = "PGSTOW_TO_S3_STORAGE_CLASS")]
    pub to_s3_storage_class: Option<String>,
    /// Objects copied at the same time.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// The keys whose signatures are trusted.
    #[command(flatten)]
    pub trust: TrustArgs,
    /// The receivers of notifications.
    #[command(flatten)]
    pub alarms: AlarmArgs,
}

/// Copies a run.
///
/// # Errors
/// The failure that stopped it.
pub(crate) async fn run(arguments: &Copy, global: &Global, shutdown: &Shutdown) -> Result<Outcome> {
    let work = async {
        let from = global.store.open_existing().await?;
        let to = second(arguments, global).await?;
        let options =
            Options { run: arguments.run.clone(), jobs: usize::from(arguments.jobs), trust: arguments.trust.read()? };
        let result = tokio::select! {
            copied = Box::pin(copy(&from, &to, &options)) => copied,
            error = shutdown.requested() => Err(error),
        };
        // What was dropped aborts its uploads.
        to.drain().await;
        let copied = result?;
        let mut ended = Ended::new(Outcome::Done, text(&copied), &copied)?;
        ended.run = Some(copied.run);
        Ok(ended)
    };
    alarm::watch(&arguments.alarms, "copy", global, Box::pin(work)).await
}

async fn second(arguments: &Copy, global: &Global) -> Result<Store> {
    let first = global.store.config();
    let config = Config {
        location: arguments.to.clone(),
        endpoint: arguments.to_s3_endpoint.clone(),
        region: arguments.to_s3_region.clone(),
        path_style: arguments.to_s3_path_style,
        ca_file: arguments.to_s3_ca_file.clone(),
        storage_class: arguments.to_s3_storage_class.clone(),
        sse: None,
        sse_kms_key_id: None,
        lock_mode: None,
        lock_retain: None,
        ..first
    };
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let credentials = match (variable(ACCESS_KEY), variable(SECRET_KEY)) {
        (Some(access), Some(secret)) => Some((access, secret)),
        (None, None) => None,
        _ => {
            return Err(Error::usage(format!("{ACCESS_KEY} and {SECRET_KEY} belong together: one of them is not set")));
        }
    };
    Store::open_with(config, credentials).await
}

fn text(copied: &Copied) -> String {
    let kept =
        if copied.kept > 0 { format!(", {} of them there already", human::count(copied.kept)) } else { String::new() };
    format!(
        "run {} is in {}: {} objects, {}{kept}, {:.1}s; its latest is {}\n",
        copied.run,
        copied.to,
        human::count(copied.objects),
        human::size(copied.bytes),
        copied.seconds,
        if copied.latest { "this run" } else { "not this run" }
    )
}
