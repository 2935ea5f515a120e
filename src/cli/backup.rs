//! `pgstow backup`: its flags, its progress, its summary, its exit code.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use crate::backup::chunks::CHUNK_BYTES;
use crate::backup::commit::{Done, Pointer};
use crate::backup::counters::Counters;
use crate::backup::options::{Adopt, Form, Labels, Limits, Odd, Options, Partial};
use crate::cli::alarm::{self, AlarmArgs, Ended};
use crate::cli::args::{Global, JOBS, LOCK_TIMEOUTS, SealArgs, SourceArgs, duration};
use crate::cli::metrics::{self, Metric};
use crate::cli::outcome::Outcome;
use crate::cli::progress::Shown;
use crate::cli::timings::Timings;
use crate::error::{Error, Result};
use crate::fleet::child::SUPERVISED;
use crate::format::manifest::Status;
use crate::human;
use crate::notify::Failures;
use crate::notify::event::Event;
use crate::notify::telemetry::context::Step;
use crate::pipeline::rate::BytesPerSecond;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::source::server::{self, Place};
use crate::runs::anomaly;
use crate::seal::encrypt::Recipients;
use crate::shutdown::Shutdown;
use crate::store::Store;

/// `pgstow backup`
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Debug, Clone, Args)]
pub struct Backup {
    /// The database to read.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Sessions that read rows at the same time.
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = JOBS, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// Compression of the objects: `zstd[:level]` (level 1 unless given), `gzip[:level]` (6) or `none`.
    #[arg(long, env = "PGSTOW_COMPRESSION", default_value = "zstd")]
    pub compression: String,
    /// Encryption and the size of objects.
    #[command(flatten)]
    pub seal: SealArgs,
    /// Longest wait for a lock before the backup lets everything go.
    #[arg(long, env = "PGSTOW_LOCK_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub lock_timeout: Duration,
    /// Abort when another session has been blocked by the backup for this long; `none`: warn only. Five minutes are
    /// longer than most migrations wait, and shorter than an outage that somebody must end by hand.
    #[arg(long, env = "PGSTOW_MAX_BLOCK", default_value = "5m", value_parser = max_block)]
    pub max_block: MaxBlock,
    /// Abort the run, cleanly, when it has taken this long. Set it a minute below the platform's own time limit.
    #[arg(long, env = "PGSTOW_DEADLINE", value_parser = duration)]
    pub deadline: Option<Duration>,
    /// Read at most this much a second, all sessions together: `50MiB`, `800kB`.
    #[arg(long, env = "PGSTOW_RATE_LIMIT")]
    pub rate_limit: Option<BytesPerSecond>,
    /// When no row arrived for this long, ask the server whether it is still at work; if not, connect again.
    #[arg(long, env = "PGSTOW_STALL_TIMEOUT", default_value = "10m", value_parser = duration)]
    pub stall_timeout: Duration,
    /// Leave out the objects that the role cannot read, and rows that are damaged on the server: a partial run, exit code 3.
    #[arg(long, env = "PGSTOW_ALLOW_UNREADABLE")]
    pub allow_unreadable: bool,
    /// Note about this run, for the manifest and `pgstow list`.
    #[arg(long, value_name = "TEXT", env = "PGSTOW_NOTE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub note: Option<String>,
    /// Name of the round that the run belongs to, for the manifest: `pgstow run` asks for it.
    #[arg(long, value_name = "NAME", env = "PGSTOW_ROUND", hide_short_help = true)]
    pub round: Option<String>,
    /// Let a partial run become `latest`.
    #[arg(long, env = "PGSTOW_ALLOW_PARTIAL_LATEST")]
    pub allow_partial_latest: bool,
    /// Use this prefix although it belongs to another database, or to a server that this one is a promoted copy of;
    /// =failover: only where this server was promoted to take over.
    #[arg(long, value_name = "WHICH", env = "PGSTOW_ADOPT_PREFIX", default_value = "none", default_missing_value = "any", num_args = 0..=1, require_equals = true, value_parser = adopt)]
    adopt_prefix: Adopt,
    /// Take a database without tables and other objects for what it should be. Without it such a run is said loudly, ends
    /// with exit code 3 where the connection string names no database, and does not take `latest` from a run of rows.
    #[arg(long, env = "PGSTOW_ALLOW_EMPTY")]
    pub allow_empty: bool,
    /// Allow backing a Supabase project up into its own Storage, whose index lives in the database being saved.
    #[arg(long, env = "PGSTOW_ALLOW_SAME_PROJECT")]
    pub allow_same_project: bool,
    /// Count it as an anomaly when rows or bytes fell by more than this since the run that is latest; `none`: never.
    #[arg(long, value_name = "PERCENT", env = "PGSTOW_MAX_SHRINK", default_value = "50%", value_parser = percent)]
    pub max_shrink: MaxChange,
    /// Count it as an anomaly when rows or bytes rose by more than this since the run that is latest; `none`: never.
    #[arg(long, value_name = "PERCENT", env = "PGSTOW_MAX_GROWTH", default_value = "none", value_parser = percent)]
    pub max_growth: MaxChange,
    /// Leave `latest` where it is after an anomaly, and let nothing be pruned, until `promote`.
    #[arg(long, env = "PGSTOW_HOLD_ON_ANOMALY")]
    pub hold_on_anomaly: bool,
    /// Say at the end how long each step took, how long the stages waited for each other, how many requests were sent, and
    /// what was chosen; with --json as `timings`.
    #[arg(long, env = "PGSTOW_TIMINGS")]
    pub timings: bool,
    /// The receivers of notifications.
    #[command(flatten)]
    pub alarms: AlarmArgs,
}

/// A percentage, or none.
#[derive(Debug, Clone, Copy)]
pub struct MaxChange(Option<f64>);

fn percent(text: &str) -> Result<MaxChange, String> {
    if text == "none" {
        return Ok(MaxChange(None));
    }
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let fit = number.filter(|number| number.is_finite() && *number >= 0.0);
    fit.map(|number| MaxChange(Some(number))).ok_or_else(|| "write it like 20%, or none".to_owned())
}

fn adopt(text: &str) -> Result<Adopt, String> {
    match text.to_ascii_lowercase().as_str() {
        "none" | "0" | "false" | "no" | "off" => Ok(Adopt::None),
        "failover" => Ok(Adopt::Failover),
        "any" | "1" | "true" | "yes" | "on" => Ok(Adopt::Any),
        _ => Err("use any or failover".to_owned()),
    }
}

/// A limit, or none.
#[derive(Debug, Clone, Copy)]
pub struct MaxBlock(Option<Duration>);

fn max_block(text: &str) -> Result<MaxBlock, String> {
    if text == "none" { Ok(MaxBlock(None)) } else { duration(text).map(|limit| MaxBlock(Some(limit))) }
}

/// Runs `pgstow backup`.
///
/// # Errors
/// The error that stopped the run; nothing was promoted and open uploads were aborted.
pub(crate) async fn run(arguments: Backup, global: &Global, shutdown: &Shutdown) -> Result<Outcome> {
    let alarms = arguments.alarms.clone();
    let failures = Failures::default();
    let work = Box::pin(work(arguments, global, shutdown, Arc::clone(&failures)));
    alarm::watch_with(&alarms, "backup", global, failures, work).await
}

async fn work(arguments: Backup, global: &Global, shutdown: &Shutdown, failures: Failures) -> Result<Ended> {
    let place = tokio::select! {
        place = place(&arguments.source) => place?,
        error = shutdown.requested() => return Err(error),
    };
    let ended = Box::pin(save(arguments, global, shutdown, failures)).await;
    if let Some(place) = place {
        place.leave().await;
    }
    ended
}

/// The place of the server for this backup, where `pgstow run` says that their number is limited.
async fn place(source: &SourceArgs) -> Result<Option<Place>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (Some(server), Some(limit)) = (variable(server::PLACE), variable(server::PLACES)) else { return Ok(None) };
    let info = ConnInfo::resolve(Some(&server))?.with_passwords(source.passwords()?)?;
    let limit = limit.parse().map_err(|_number| Error::usage(format!("{} is no number", server::PLACES)))?;
    Place::take(&info, source.connect_timeout, limit).await.map(Some)
}

async fn save(arguments: Backup, global: &Global, shutdown: &Shutdown, failures: Failures) -> Result<Ended> {
    let begun = Instant::now();
    let store = Store::open(&global.store).await?;
    let (allow_empty, timed, jobs) = (arguments.allow_empty, arguments.timings, arguments.jobs);
    let compression = arguments.compression.clone();
    let options = options(arguments, global, begun, failures)?;
    let counters = Arc::new(Counters::default());
    let progress = Shown::backup(global, &counters);
    let result = crate::backup::run(options, &store, &counters, shutdown).await;
    progress.end();
    let done = result?;
    let mut ended = ended(&done, allow_empty, &store.describe())?;
    ended.steps = counters.steps().into_iter().map(|(name, begun, took)| Step { name, begun, took }).collect();
    if timed {
        let mut timings = Timings::new(&store, jobs, JOBS);
        counters.steps().into_iter().for_each(|(name, _, took)| timings.step(name, took.as_secs_f64()));
        timings.writing(&counters.clock);
        let totals = &done.manifest.totals;
        let ratio = format!("{} became {}, twice", human::size(totals.raw_bytes), human::size(totals.stored_bytes / 2));
        timings.choose("compression", compression, ratio);
        timings.choose(
            "chunk",
            human::size(CHUNK_BYTES.unsigned_abs()),
            "four sessions share a table of 64 MiB".to_owned(),
        );
        timings.put(&mut ended.text, &mut ended.json);
    }
    Ok(ended)
}

fn ended(done: &Done, allow_empty: bool, store: &str) -> Result<Ended> {
    let manifest = &done.manifest;
    let warnings = warnings(done, allow_empty);
    let is_latest = done.latest == Pointer::Moved;
    let is_good = manifest.status == Status::Complete && !is_grave(done, allow_empty);
    let outcome = if is_good { Outcome::Done } else { Outcome::Partial };
    let mut ended = Ended::new(outcome, summary(done, &warnings, store), manifest)?;
    if let serde_json::Value::Object(fields) = &mut ended.json {
        // Of this very moment, and so in no manifest.
        if manifest.status == Status::Complete {
            fields.insert("latest".to_owned(), is_latest.into());
        }
        if !warnings.is_empty() {
            fields.insert("warnings".to_owned(), warnings.clone().into());
        }
    }
    let odd = manifest.anomalies.len();
    ended.event = match manifest.status {
        Status::Partial => None,
        Status::Complete if odd > 0 => Some(Event::Anomaly),
        Status::Complete => (!is_latest).then_some(Event::LatestNotMoved),
    };
    let totals = &manifest.totals;
    ended.name = Some(manifest.source.database.clone());
    ended.run = Some(manifest.run.clone());
    let skipped = manifest.skipped.len() + manifest.dependents.len();
    ended.message = match (&ended.event, manifest.anomalies.first()) {
        (Some(Event::Anomaly), Some(first)) => {
            let held = if manifest.held { "; latest was not moved" } else { "" };
            let more = if odd > 1 { format!(", and {} more anomalies", odd - 1) } else { String::new() };
            format!("run {}: {first}{more}{held}", manifest.run)
        }
        (Some(_), _) => format!("run {} is complete, but latest was not moved to it", manifest.run),
        (None, _) if manifest.status == Status::Complete && outcome == Outcome::Partial => {
            format!("run {}: {}", manifest.run, warnings.join("; "))
        }
        (None, _) if outcome == Outcome::Partial => {
            format!("run {} is partial: {skipped} things were left out", manifest.run)
        }
        (None, _) => format!(
            "run {} is complete: {} rows, {}",
            manifest.run,
            human::count(totals.rows),
            human::size(totals.stored_bytes)
        ),
    };
    let figure =
        |name, help, value| Metric::new(name, help, metrics::number(value)).with("database", &manifest.source.database);
    ended.figures = vec![
        figure("rows", "Rows of the last run.", totals.rows),
        figure("tables", "Tables of the last run.", totals.tables),
        figure("raw_bytes", "Bytes of the rows of the last run, as text.", totals.raw_bytes),
        figure("stored_bytes", "Bytes of the last run in the store.", totals.stored_bytes),
        figure("anomalies", "Anomalies of the last run.", odd as u64),
    ];
    Ok(ended)
}

/// True where the run is whole and yet not what anybody wanted: nobody named its database, which is empty, or `latest`
/// names another run.
fn is_grave(done: &Done, allow_empty: bool) -> bool {
    let is_elsewhere = done.empty.as_ref().is_some_and(|empty| empty.is_assumed) && !allow_empty;
    is_elsewhere || matches!(done.latest, Pointer::Stays(_)) && !done.manifest.held
}

/// The reasons why nobody should rely on the run, though it is whole.
fn warnings(done: &Done, allow_empty: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if let (Some(empty), false) = (&done.empty, allow_empty) {
        let database = &done.manifest.source.database;
        let beside = match empty.beside.as_slice() {
            [] => "the server has no other database".to_owned(),
            others => {
                let names: Vec<String> = others.iter().take(OMITTED_SHOWN).map(|name| human::plain(name)).collect();
                format!("the server also has {}", names.join(", "))
            }
        };
        warnings.push(format!(
            "NOTHING WAS SAVED: database {database} has no table and no other object; {beside}. \
             Does the connection string name the right one? --allow-empty where it is meant to be empty"
        ));
    }
    if let Pointer::Stays(why) | Pointer::Overtaken(why) = &done.latest
        && done.manifest.status == Status::Complete
        && !done.manifest.held
    {
        warnings.push(format!("LATEST DID NOT MOVE: {why}; restore takes the run that it names"));
    }
    warnings
}

/// The flags as the engine takes them.
fn options(arguments: Backup, global: &Global, begun: Instant, not_notified: Failures) -> Result<Options> {
    Ok(Options {
        info: arguments.source.connection()?,
        connect_timeout: arguments.source.connect_timeout,
        pg_bin_dir: arguments.source.pg_bin_dir,
        form: Form {
            compression: arguments.compression.parse()?,
            recipients: Recipients::read(&arguments.seal.encrypt)?,
            signing_key: arguments.seal.signing_key()?.map(Arc::new),
            max_object_bytes: arguments.seal.max_object_size,
            max_parts: global.store.s3_max_parts,
        },
        limits: Limits {
            begun,
            deadline: arguments.deadline,
            jobs: arguments.jobs,
            lock_timeout: arguments.lock_timeout.clamp(LOCK_TIMEOUTS.0, LOCK_TIMEOUTS.1),
            max_block: arguments.max_block.0,
            rate: arguments.rate_limit,
            stall_timeout: arguments.stall_timeout,
        },
        partial: Partial {
            allowed: arguments.allow_unreadable,
            becomes_latest: arguments.allow_partial_latest,
            may_be_empty: arguments.allow_empty,
        },
        labels: Labels {
            note: arguments.note,
            round: arguments.round.filter(|round| !round.is_empty()),
            // Of `pgstow run`, whose tasks may be started again. Who names a round without it makes the runs that he wants.
            once: std::env::var_os(SUPERVISED).is_some(),
        },
        odd: Odd {
            limits: anomaly::Limits { shrink: arguments.max_shrink.0, growth: arguments.max_growth.0 },
            hold: arguments.hold_on_anomaly,
        },
        adopt: arguments.adopt_prefix,
        allow_same_project: arguments.allow_same_project,
        not_notified,
    })
}

/// Names in a line of the final summary; the manifest and RESTORE.md have all.
const OMITTED_SHOWN: usize = 8;

/// The final summary as text.
fn summary(done: &Done, warnings: &[String], store: &str) -> String {
    let manifest = &done.manifest;
    let mut text = figures(done, store);
    let odd = manifest.anomalies.iter().map(|one| human::plain(&one.to_string()));
    let mut lines: Vec<String> = odd.take(OMITTED_SHOWN).collect();
    let more = manifest.anomalies.len().saturating_sub(OMITTED_SHOWN);
    lines.extend((more > 0).then(|| format!("and {more} more: the manifest has all")));
    text.push_str(&listed("Anomalies, beside the run before", &lines));
    for warning in warnings {
        text.push_str(&format!("\n{warning}\n"));
    }
    let skipped = manifest.skipped.iter().map(|s| (&*s.kind, s.display_name(), &*s.reason));
    let dependents = manifest.dependents.iter().map(|d| (&*d.kind, d.name.clone(), &*d.reason));
    let omitted = manifest.omitted.iter().map(|o| (&*o.kind, o.name.clone(), &*o.reason));
    for (title, lines) in [
        ("Skipped", human::grouped(skipped, usize::MAX)),
        ("Saved, but cannot be fully restored because of the skipped objects", human::grouped(dependents, usize::MAX)),
        ("Outside of what a logical backup can hold", human::grouped(omitted, OMITTED_SHOWN)),
    ] {
        text.push_str(&listed(title, &lines));
    }
    text
}

/// A list under its title; nothing where it has no line.
fn listed(title: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    format!("\n{title}:\n  - {}\n", lines.join("\n  - "))
}

/// The run in figures: the head of the summary.
fn figures(done: &Done, store: &str) -> String {
    let manifest = &done.manifest;
    let totals = &manifest.totals;
    let took = manifest
        .finished_at
        .parse::<jiff::Timestamp>()
        .ok()
        .zip(manifest.started_at.parse::<jiff::Timestamp>().ok())
        .map_or(0.0, |(end, start)| end.duration_since(start).as_secs_f64());
    let human = |bytes: u64| indicatif::HumanBytes(bytes).to_string();
    format!(
        "Run {run} is {status}.\n\n  \
           database       {database} (PostgreSQL {version}, snapshot {snapshot})\n  \
           schemas        {schemas}\n  \
           tables         {tables} with {rows} rows\n  \
           large objects  {blobs}\n  \
           text           {raw}\n  \
           stored         {stored} in {objects} objects, {compression}{encrypted}\n  \
           time           {took:.1} s\n  \
           store          {store}/runs/{run}\n  \
           latest         {latest}\n",
        run = manifest.run,
        status = if manifest.status == Status::Complete { "complete" } else { "PARTIAL" },
        database = manifest.source.database,
        version = manifest.source.server_version,
        snapshot = manifest.source.snapshot,
        schemas = totals.schemas,
        tables = totals.tables,
        rows = indicatif::HumanCount(totals.rows),
        blobs = manifest.large_objects.count,
        raw = human(totals.raw_bytes),
        stored = human(totals.stored_bytes),
        objects = totals.objects + 1,
        compression = manifest.compression,
        encrypted = if manifest.encryption.is_some() { ", encrypted" } else { "" },
        latest = match &done.latest {
            Pointer::Moved => "this run".to_owned(),
            Pointer::Stays(why) | Pointer::Overtaken(why) => format!("NOT MOVED: {why}"),
        },
    )
}
