//! A drill: a run is restored into a scratch database, every table is read back and compared with the manifest
//! ([`rows`]), the definitions with the run's own ([`definitions`]), and the scratch database is dropped whatever
//! happens ([`scratch`]).
//!
//! Subscriptions are left out and cron jobs come back inactive. An extension that the server does not have is left out
//! with its tables and named ([`leave_out`]): those are not proven, which is no difference.

pub(crate) mod definitions;
pub(crate) mod leave_out;
pub(crate) mod options;
pub(crate) mod receipt;
pub(crate) mod rows;
pub(crate) mod sample;
pub(crate) mod scratch;

use std::time::Instant;

use tokio_util::task::TaskTracker;

use crate::cli::args::{Global, IdentityArgs};
use crate::cli::restore::Restore;
use crate::drill::options::Options;
use crate::drill::receipt::Receipt;
use crate::drill::scratch::Scratch;
use crate::error::{Error, Kind, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::restore::{COMMITS, Loaded, restore_loaded};
use crate::runs::receipts;
use crate::shutdown::Shutdown;
use crate::store::Store;

/// Proves a run, and leaves a receipt in the store.
///
/// # Errors
/// Anything that kept the drill from coming to a verdict. Damage of the store is a verdict.
pub(crate) async fn run(options: &Options, global: &Global, shutdown: &Shutdown) -> Result<Receipt> {
    let Begun { store, on, maintenance, loaded, scratch } = tokio::select! {
        begun = Box::pin(begin(options, global)) => begun?,
        // Nothing is to be undone yet.
        error = shutdown.requested() => return Err(error),
    };
    let commits = TaskTracker::new();
    let database = Scratch::new(&scratch, &maintenance, options.connect_timeout, commits.clone());
    let result = tokio::select! {
        biased;
        error = shutdown.requested() => Err(error),
        result = Box::pin(drill(options, global, &loaded, &maintenance, &database, commits.clone())) => result,
    };
    commits.close();
    if tokio::time::timeout(COMMITS, commits.wait()).await.is_err() {
        tracing::debug!("a commit into the scratch database was cut");
    }
    scratch::drop(&on, options.connect_timeout, &scratch).await?;
    let receipt = match result {
        Ok(receipt) => receipt,
        Err(error) if error.kind() == Kind::Damage => {
            let mut receipt = Receipt::new(&loaded.manifest, maintenance.server_version_num());
            receipt.differences.push(error.message());
            receipt
        }
        Err(error) => return Err(error),
    };
    receipts::leave(&store, &receipt.run, receipt.kind, &receipt).await;
    Ok(receipt)
}

/// Everything a drill stands on.
struct Begun {
    store: Store,
    on: ConnInfo,
    maintenance: Session,
    loaded: Loaded,
    scratch: String,
}

/// Everything before the scratch database is made.
async fn begin(options: &Options, global: &Global) -> Result<Begun> {
    let store = Store::open(&global.store).await?;
    let on = ConnInfo::resolve(Some(&options.on))?;
    let maintenance = Session::connect_unpooled(&on, options.connect_timeout, "drill").await?;
    let identity = IdentityArgs { identity: options.identity.clone() };
    let loaded = Loaded::read(store.clone(), &options.run, &identity).await?;
    let scratch = options.scratch_name.clone().unwrap_or_else(|| {
        format!("pgstow_drill_{}_{:06x}", loaded.manifest.run.to_lowercase(), rand::random::<u32>() & 0x00FF_FFFF)
    });
    let server = target::server(&maintenance).await?;
    if server.databases.contains(&scratch) {
        return Err(Error::usage(format!("database {scratch:?} exists; a drill drops its scratch database"))
            .hint("drop it, or choose another name with --scratch-name"));
    }
    Ok(Begun { store, on, maintenance, loaded, scratch })
}

async fn drill(
    options: &Options,
    global: &Global,
    loaded: &Loaded,
    maintenance: &Session,
    scratch: &Scratch<'_>,
    commits: TaskTracker,
) -> Result<Receipt> {
    let started = Instant::now();
    let manifest = &loaded.manifest;
    let mut receipt = Receipt::new(manifest, maintenance.server_version_num());
    let (mut leave_out, found) = leave_out::choose(loaded, maintenance, scratch.info().database()).await?;
    receipt.add(found);
    if !options.tables.is_empty() {
        let (entries, store) = (&loaded.meta.entries, &loaded.source.store);
        let (sample, notes) = sample::choose(&options.tables, manifest, entries, store, &mut leave_out).await?;
        tracing::info!("a sample of {} of {} tables: {}", sample.tables.len(), sample.of, sample.tables.join(", "));
        receipt.sample = Some(sample);
        receipt.notes.extend(notes);
    }
    let restore = restore_options(options, &manifest.run);
    Box::pin(restore_loaded(&restore, global, loaded, scratch.info().clone(), &leave_out, commits)).await?;
    receipt.restore_seconds = started.elapsed().as_secs_f64();
    let compared = rows::compare(options, loaded, &leave_out, scratch.info()).await?;
    (receipt.tables, receipt.rows) = (compared.tables, compared.rows);
    receipt.add(compared.observations);
    let tools = loaded.tools(&restore)?;
    receipt.add(Box::pin(definitions::compare(tools, loaded, &leave_out, scratch)).await?);
    receipt.ok = receipt.differences.is_empty();
    receipt.seconds = started.elapsed().as_secs_f64();
    Ok(receipt)
}

/// The restore that a drill makes.
fn restore_options(options: &Options, run: &str) -> Restore {
    Restore {
        run: run.to_owned(),
        to: String::new(),
        profile: None,
        create: true,
        roles: options.roles,
        role_passwords: false,
        schema: Vec::new(),
        table: Vec::new(),
        data_only: false,
        schema_only: false,
        into_existing: false,
        truncate: false,
        allow_source: false,
        no_owner: false,
        no_analyze: true,
        full_analyze: false,
        jobs: options.jobs,
        pg_bin_dir: options.pg_bin_dir.clone(),
        connect_timeout: options.connect_timeout,
        identity: IdentityArgs { identity: options.identity.clone() },
    }
}
