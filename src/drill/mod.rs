//! A drill: a run is restored into a scratch database, every table is read back and compared with the manifest
//! ([`rows`]), the definitions with the run's own ([`definitions`]), and the scratch database is dropped whatever
//! happens ([`scratch`]).
//!
//! Subscriptions are left out and cron jobs come back inactive. An extension that the server does not have is left out
//! with its tables and named ([`leave_out`]): those are not proven, which is no difference.

pub(crate) mod definitions;
pub(crate) mod forget;
pub(crate) mod leave_out;
pub(crate) mod leftovers;
pub(crate) mod made;
pub(crate) mod options;
pub(crate) mod receipt;
pub(crate) mod roles;
pub(crate) mod rows;
pub(crate) mod sample;
pub(crate) mod scratch;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::task::TaskTracker;

use crate::drill::options::Options;
use crate::drill::receipt::{Observations, Receipt};
use crate::drill::scratch::Scratch;
use crate::error::{Error, Kind, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::postgres::target::scratch::Mark;
use crate::restore::entry::has_login_triggers;
use crate::restore::findings::{Finding, Findings};
use crate::restore::options::Destination;
use crate::restore::progress::Progress;
use crate::restore::source::Loaded;
use crate::restore::{self, COMMITS, plain};
use crate::runs::receipts;
use crate::shutdown::Shutdown;
use crate::store::Store;

/// A drill that came to a verdict.
pub(crate) struct Drilled {
    /// The account of it, which is in the store too.
    pub(crate) receipt: Receipt,
    /// The reason why something of the drill is still on the server.
    pub(crate) left_behind: Option<Error>,
}

/// Proves a run, and leaves a receipt in the store.
///
/// # Errors
/// Anything that kept the drill from coming to a verdict. Damage of the store is a verdict.
pub(crate) async fn run(
    store: Store,
    options: &Options,
    progress: &Arc<Progress>,
    shutdown: &Shutdown,
) -> Result<Drilled> {
    let Begun { maintenance, loaded, scratch, mark, notes } = tokio::select! {
        begun = Box::pin(begin(store.clone(), options)) => begun?,
        // Nothing is to be undone yet.
        error = shutdown.requested() => return Err(error),
    };
    let commits = TaskTracker::new();
    let result = tokio::select! {
        biased;
        error = shutdown.requested() => Err(error),
        // With it goes the lock that tells other drills that this one is running.
        error = maintenance.closed() => Err(error),
        result = Box::pin(drill(options, &loaded, &maintenance, &scratch, &mark, progress, commits.clone())) => result,
    };
    commits.close();
    if tokio::time::timeout(COMMITS, commits.wait()).await.is_err() {
        tracing::debug!("a commit into the scratch database was cut");
    }
    let left_behind = tidy(&maintenance, options, &scratch, &mark).await.err();
    let mut receipt = match result {
        Ok(receipt) => receipt,
        Err(error) if error.kind() == Kind::Damage => {
            let mut receipt = Receipt::new(&loaded, maintenance.server_version_num());
            receipt.differences.push(error.message());
            receipt
        }
        Err(error) => {
            if let Some(left) = left_behind {
                tracing::warn!("{left}");
            }
            return Err(error);
        }
    };
    receipt.notes.extend(notes);
    receipts::leave(&store, &receipt.head, &receipt).await;
    Ok(Drilled { receipt, left_behind })
}

/// Drops the scratch database, then the roles that were made for it.
async fn tidy(maintenance: &Session, options: &Options, scratch: &Scratch, mark: &Mark) -> Result<()> {
    scratch.drop().await?;
    if options.roles {
        // The statements that make them are over when the session answers again.
        let answers = target::execute(maintenance, "", "wait for the roles of the drill");
        if !matches!(tokio::time::timeout(COMMITS, answers).await, Ok(Ok(()))) {
            tracing::debug!("the session that makes roles does not answer");
        }
        let session = Session::connect(maintenance.info(), options.connect_timeout, "drill").await?;
        target::scratch::drop_roles(&session, mark).await?;
        session.close().await;
    }
    Ok(())
}

/// Everything a drill stands on.
struct Begun {
    maintenance: Session,
    loaded: Loaded,
    scratch: Scratch,
    mark: Mark,
    /// Leftovers of earlier drills.
    notes: Vec<String>,
}

/// Everything before the scratch database is made.
async fn begin(store: Store, options: &Options) -> Result<Begun> {
    let on = ConnInfo::resolve(Some(&options.on))?.with_silence(Some(options.stall_timeout));
    let maintenance = Session::connect_unpooled(&on, options.connect_timeout, "drill").await?;
    if let Some(name) = &options.scratch_name {
        refuse_name(&maintenance, name).await?;
    }
    let mut loaded = Loaded::read(store, &options.run, &options.keys).await?;
    leave_out::properties(&mut loaded.meta.entries);
    let notes = leftovers::clear(&maintenance).await?;
    let name = options.scratch_name.clone().unwrap_or_else(|| {
        format!("pgstow_drill_{}_{:06x}", loaded.run.manifest.run.to_lowercase(), rand::random::<u32>() & 0x00FF_FFFF)
    });
    // Refused again by the server where it is made meanwhile.
    if target::server(&maintenance).await?.databases.contains(&name) {
        return Err(scratch::exists(&name));
    }
    let mark = Mark::new(&loaded.run.manifest.run);
    target::scratch::hold(&maintenance, &mark).await?;
    let scratch = Scratch::new(&name, &maintenance, options.connect_timeout, mark.clone());
    Ok(Begun { maintenance, loaded, scratch, mark, notes })
}

/// Refuses a name that the server would cut: what it then makes, and what is dropped, has another name.
async fn refuse_name(session: &Session, name: &str) -> Result<()> {
    let longest = target::scratch::longest_name(session).await?;
    if name.len() <= longest {
        return Ok(());
    }
    Err(Error::usage(format!("--scratch-name has {} bytes, and the server cuts names to {longest}", name.len()))
        .hint("choose a shorter name"))
}

async fn drill(
    options: &Options,
    loaded: &Loaded,
    maintenance: &Session,
    scratch: &Scratch,
    mark: &Mark,
    progress: &Arc<Progress>,
    commits: TaskTracker,
) -> Result<Receipt> {
    let started = Instant::now();
    let manifest = &loaded.run.manifest;
    let mut receipt = Receipt::new(loaded, maintenance.server_version_num());
    scratch.claim(&loaded.meta.entries).await?;
    let restore = restore_options(options, scratch.info().clone());
    let session = Session::connect(scratch.info(), options.connect_timeout, "drill").await?;
    let (mut leave_out, found) = leave_out::choose(loaded, &session, &restore).await?;
    session.close().await;
    receipt.add(found);
    receipt.differences.extend(loaded.disagreements().await?.into_iter().map(|one| one.problem));
    if !options.tables.is_empty() {
        let (entries, store) = (&loaded.meta.entries, &loaded.run.store);
        let (sample, notes) = sample::choose(&options.tables, manifest, entries, store, &mut leave_out).await?;
        tracing::info!("a sample of {} of {} tables: {}", sample.tables.len(), sample.of, sample.tables.join(", "));
        receipt.sample = Some(sample);
        receipt.notes.extend(notes);
    }
    if options.roles {
        receipt.add(roles::make(maintenance, &loaded.script, mark).await?);
    }
    scratch.give_away(&loaded.meta.entries, maintenance).await?;
    let restored = Box::pin(plain::restore(&restore, loaded, &leave_out, progress, commits)).await?;
    receipt.restore_seconds = started.elapsed().as_secs_f64();
    receipt.add(refused(&restored.findings));
    leave_out.entries.extend(&restored.of_left_out);
    let info = if has_login_triggers(&loaded.meta.entries) {
        target::without_event_triggers(maintenance, scratch.info()).await?
    } else {
        scratch.info().clone()
    };
    let session = Session::connect(&info, options.connect_timeout, "drill").await?;
    let missing = made::missing(&session, &loaded.meta.entries, &leave_out).await?;
    session.close().await;
    // One line for each object: the restore knows why, where it was refused.
    let known: HashSet<String> =
        restored.findings.not_restored.iter().map(|f| format!("{} {} is missing", f.kind, f.name)).collect();
    receipt.differences.extend(missing.into_iter().filter(|line| !known.contains(line)));
    let compared = rows::compare(
        options,
        loaded,
        &leave_out,
        &info.with_own_money(loaded.run.manifest.source.lc_monetary.is_none()),
    )
    .await?;
    (receipt.tables, receipt.rows) = (compared.tables, compared.rows);
    receipt.add(compared.observations);
    if let Some(list) = &options.forget {
        Box::pin(forget::rehearse(list, loaded, &leave_out, &info, options, &mut receipt)).await?;
    }
    let tools = loaded.tools(&restore)?;
    receipt.add(Box::pin(definitions::compare(tools, loaded, &leave_out, scratch)).await?);
    let mut seen = HashSet::new();
    receipt.differences.retain(|line| seen.insert(line.clone()));
    receipt.head.ok = receipt.differences.is_empty();
    receipt.seconds = started.elapsed().as_secs_f64();
    Ok(receipt)
}

/// The objects that PostgreSQL did not take back, each a difference.
fn refused(findings: &Findings) -> Observations {
    let line = |finding: &Finding| format!("{} {} was not restored: {}", finding.kind, finding.name, finding.why);
    Observations {
        differences: findings.not_restored.iter().map(line).collect(),
        notes: findings.notes.clone(),
        ..Observations::default()
    }
}

/// The restore that a drill makes.
fn restore_options(options: &Options, target: ConnInfo) -> restore::options::Options {
    restore::options::Options {
        destination: Destination::Scratch,
        jobs: options.jobs,
        pg_bin_dir: options.pg_bin_dir.clone(),
        ..restore::options::Options::whole(target, options.connect_timeout)
    }
}
