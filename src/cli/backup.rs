//! `pgstow backup`: its flags, its progress, its summary, its exit code.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use crate::backup::counters::Counters;
use crate::backup::options::{Form, Limits, Options, Partial};
use crate::cli::args::{Global, SealArgs, SourceArgs, duration};
use crate::cli::outcome::Outcome;
use crate::cli::output;
use crate::cli::progress::Shown;
use crate::error::Result;
use crate::format::manifest::{Manifest, Status};
use crate::human;
use crate::pipeline::rate::BytesPerSecond;
use crate::postgres::connect::conninfo::ConnInfo;
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
    #[arg(long, short, env = "PGSTOW_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
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
    /// Leave out the objects that the role cannot read: a partial run, exit code 3.
    #[arg(long, env = "PGSTOW_ALLOW_UNREADABLE")]
    pub allow_unreadable: bool,
    /// Let a partial run become `latest`.
    #[arg(long, env = "PGSTOW_ALLOW_PARTIAL_LATEST")]
    pub allow_partial_latest: bool,
    /// Use this prefix although it belongs to another database.
    #[arg(long, env = "PGSTOW_ADOPT_PREFIX")]
    pub adopt_prefix: bool,
    /// Allow backing a Supabase project up into its own Storage, whose index lives in the database being saved.
    #[arg(long, env = "PGSTOW_ALLOW_SAME_PROJECT")]
    pub allow_same_project: bool,
}

/// A limit, or none.
#[derive(Debug, Clone, Copy)]
pub struct MaxBlock(Option<Duration>);

fn max_block(text: &str) -> Result<MaxBlock, String> {
    if text == "none" { Ok(MaxBlock(None)) } else { duration(text).map(|limit| MaxBlock(Some(limit))) }
}

/// The server counts in milliseconds, and takes 0 for no limit at all.
const LOCK_TIMEOUTS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(i32::MAX as u64));

/// Runs `pgstow backup`.
///
/// # Errors
/// The error that stopped the run; nothing was promoted and open uploads were aborted.
pub(crate) async fn run(arguments: Backup, global: &Global, shutdown: &Shutdown) -> Result<Outcome> {
    let begun = Instant::now();
    let store = Store::open(&global.store).await?;
    let options = options(arguments, global, begun)?;
    let counters = Arc::new(Counters::default());
    let progress = Shown::backup(global, &counters);
    let result = crate::backup::run(options, &store, &counters, shutdown).await;
    progress.end();
    let done = result?;
    if global.json {
        output::print_json(&done.manifest)?;
    } else {
        output::print(&summary(&done.manifest, done.is_latest, &store.describe()))?;
    }
    Ok(if done.manifest.status == Status::Partial { Outcome::Partial } else { Outcome::Done })
}

/// The flags as the engine takes them.
fn options(arguments: Backup, global: &Global, begun: Instant) -> Result<Options> {
    Ok(Options {
        info: ConnInfo::resolve(arguments.source.database_url.as_deref())?,
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
        partial: Partial { allowed: arguments.allow_unreadable, becomes_latest: arguments.allow_partial_latest },
        adopt_prefix: arguments.adopt_prefix,
        allow_same_project: arguments.allow_same_project,
    })
}

/// Names in a line of the final summary; the manifest and RESTORE.md have all.
const OMITTED_SHOWN: usize = 8;

/// The final summary as text.
fn summary(manifest: &Manifest, latest: bool, store: &str) -> String {
    let totals = &manifest.totals;
    let took = manifest
        .finished_at
        .parse::<jiff::Timestamp>()
        .ok()
        .zip(manifest.started_at.parse::<jiff::Timestamp>().ok())
        .map_or(0.0, |(end, start)| end.duration_since(start).as_secs_f64());
    let human = |bytes: u64| indicatif::HumanBytes(bytes).to_string();
    let mut text = format!(
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
        latest = if latest { "this run" } else { "not moved" },
    );
    let skipped = manifest.skipped.iter().map(|s| (&*s.kind, format!("{}.{}", s.schema, s.name), &*s.reason));
    let dependents = manifest.dependents.iter().map(|d| (&*d.kind, d.name.clone(), &*d.reason));
    let omitted = manifest.omitted.iter().map(|o| (&*o.kind, o.name.clone(), &*o.reason));
    for (title, lines) in [
        ("Skipped", human::grouped(skipped, usize::MAX)),
        ("Saved, but cannot be fully restored because of the skipped objects", human::grouped(dependents, usize::MAX)),
        ("Outside of what a logical backup can hold", human::grouped(omitted, OMITTED_SHOWN)),
    ] {
        if !lines.is_empty() {
            text.push_str(&format!("\n{title}:\n"));
            for line in lines {
                text.push_str(&format!("  - {line}\n"));
            }
        }
    }
    text
}
