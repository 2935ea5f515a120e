//! Everything that could stop the next backup, checked now. Owns the order of the checks; what each finding means is in
//! `database` and `store`, the permissions a bucket must give in `policy`.

pub(crate) mod database;
pub(crate) mod findings;
pub(crate) mod options;
pub(crate) mod policy;
pub(crate) mod reach;
pub(crate) mod signing;
pub(crate) mod store;

use std::time::Duration;

use serde::Serialize;

use crate::doctor::findings::Report;
use crate::doctor::options::Options;
use crate::doctor::policy::{Facts, Policies};
use crate::error::{Kind, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::shutdown::Shutdown;
use crate::store::probe::{Probe, ProbeObjects};
use crate::store::{Config, Store};

/// Longest time to remove the objects of the probe, a lock of three seconds included.
const TIDY: Duration = Duration::from_secs(30);

/// Everything that was found.
#[derive(Debug)]
pub(crate) struct Examined {
    pub(crate) report: Report,
    pub(crate) store: Option<Looked>,
    pub(crate) policies: Option<Policies>,
}

/// A store and what its probe found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Looked {
    url: String,
    endpoint: Option<String>,
    #[serde(flatten)]
    probe: Probe,
}

/// Checks everything that is asked for.
///
/// # Errors
/// Wrong usage, and a signal; what the probe made is removed first.
pub(crate) async fn examine(options: &Options, shutdown: &Shutdown) -> Result<Examined> {
    let mut report = Report::default();
    let store = match &options.store {
        Some(config) => open(config, &mut report).await?,
        None => None,
    };
    let probe_objects = ProbeObjects::default();
    let examined = tokio::select! {
        biased;
        error = shutdown.requested() => Err(error),
        examined = Box::pin(look(options, store.as_ref(), &probe_objects, &mut report)) => examined,
    };
    if let Some(store) = &store {
        tidy(store, &probe_objects, &mut report).await;
    }
    let looked = examined?;
    let policies = match (&store, &options.store) {
        (Some(store), Some(config)) => {
            let facts = Facts::of(store, looked.as_ref().map(|looked| &looked.probe));
            store.bucket().map(|(bucket, prefix)| Policies::of(bucket, prefix, config, facts))
        }
        _ => None,
    };
    Ok(Examined { report, store: looked, policies })
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

async fn look(
    options: &Options,
    store: Option<&Store>,
    probe_objects: &ProbeObjects,
    report: &mut Report,
) -> Result<Option<Looked>> {
    let mut size = None;
    if let Some(asked) = &options.database {
        let info = ConnInfo::resolve(asked.source.as_deref())
            .and_then(|info| info.with_passwords(asked.passwords.clone()))
            .map_err(|error| error.hint("to check the store alone: --skip-database"))?;
        size = Box::pin(database::examine(asked, &info, store, report)).await;
    }
    let (Some(store), Some(config)) = (store, &options.store) else { return Ok(None) };
    let probe = store.probe(probe_objects).await;
    store::judge(store, config, &probe, size, report);
    Box::pin(signing::examine(store, options.signing_key.as_ref(), &options.trust, report)).await;
    let (url, endpoint) = (store.describe(), store.endpoint().map(str::to_owned));
    Ok(Some(Looked { url, endpoint, probe }))
}

async fn tidy(store: &Store, probe_objects: &ProbeObjects, report: &mut Report) {
    let remaining = match tokio::time::timeout(TIDY, store.tidy(probe_objects)).await {
        Ok(remaining) => remaining,
        Err(_elapsed) => vec!["what it was trying".to_owned()],
    };
    if !remaining.is_empty() {
        let text = format!("the probe left behind, since it could not be deleted: {}", remaining.join(", "));
        report.warn("store", "clean", text, ["delete it when convenient; nothing depends on it".to_owned()]);
    }
}
