//! Rows of one table of a run beside those of the live table, and back into it: the answer to a wrong DELETE.
//!
//! The order of things, each step once:
//!
//! 1. [`begin`] finds the run and the table, connects, and reads the table's object (no other) into a temporary table;
//! 2. PostgreSQL itself evaluates the condition of a person on these rows;
//! 3. [`referenced`] follows foreign keys to rows that are missing too;
//! 4. [`compare`] counts and fetches what is missing, changed and extra, in one snapshot;
//! 5. [`apply`] writes in the same transaction what was asked for, or rolls everything back.
//!
//! Nothing is written before 5, and 1 to 3 write into temporary tables only: however the program ends, the live table is
//! as it was, or as it was asked for.

pub(crate) mod apply;
pub(crate) mod begin;
pub(crate) mod beside;
pub(crate) mod compare;
pub(crate) mod forget;
pub(crate) mod options;
pub(crate) mod pushdown;
pub(crate) mod referenced;

use std::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::postgres::target::staging::Staging;
use crate::rescue::apply::Applied;
use crate::rescue::begin::Begun;
use crate::rescue::compare::{Changed, Found};
use crate::rescue::options::{Apply, Options};
use crate::rescue::referenced::Needed;
use crate::restore::forget::Forgotten;
use crate::sql::names::TableName;
use crate::store::Store;

/// The result of a rescue: what it found and wrote.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) run: String,
    pub(crate) table: TableName,
    /// The database.
    pub(crate) into: String,
    /// The columns by which rows are told apart.
    pub(crate) key: Vec<String>,
    /// Stored bytes that were read for rows.
    pub(crate) read_bytes: u64,
    /// The pieces that were read, in words, where not all of them were.
    pub(crate) plan: Option<String>,
    /// Rows of the table in the run.
    pub(crate) rows: u64,
    /// Those that the condition chose.
    pub(crate) chosen: u64,
    pub(crate) missing: Found,
    pub(crate) changed: Changed,
    /// `None` where not all rows of the run were read that a live row could be.
    pub(crate) extra: Option<Found>,
    /// Missing rows of other tables that missing rows refer to.
    pub(crate) needed: Vec<Needed>,
    pub(crate) notes: Vec<String>,
    /// Rows of the run that had to be erased since, and were left out.
    pub(crate) forgotten: Option<Forgotten>,
    /// `None` where nothing was to be written.
    pub(crate) applied: Option<Applied>,
    pub(crate) seconds: f64,
}

/// Compares, and writes what was asked for.
///
/// # Errors
/// What stopped it; nothing was changed then.
pub(crate) async fn run(store: Store, options: &Options) -> Result<Report> {
    let started = Instant::now();
    match Box::pin(rescue(store, options, started)).await {
        // Damage of the store is a finding in verify and drill; here it is why the rescue failed.
        Err(error) if error.kind() == Kind::Damage => {
            Err(error.with_kind(Kind::Failed).hint("nothing was changed; another run may be sound (`pgstow list`)"))
        }
        other => other,
    }
}

async fn rescue(store: Store, options: &Options, started: Instant) -> Result<Report> {
    let mut begun = Begun::new(store, options).await?;
    let mut staged = vec![begun.stage_table().await?];
    let first = staged.first().ok_or_else(lost)?;
    first.choose(&begun.loader, options.condition.as_deref()).await?;
    first.check_key(&begun.loader).await?;
    let mut forgotten = None;
    if let Some(list) = &options.forget {
        forgotten = Some(Box::pin(forget::forget(&mut begun, &mut staged, list)).await?);
        if !options.with_referenced {
            for one in staged.drain(1..) {
                one.drop(&begun.loader).await?;
            }
        }
    }
    let (needed, mut notes) = referenced::follow(&mut begun, &mut staged, options).await?;
    let first = staged.first().ok_or_else(lost)?;
    notes.splice(0..0, columns_that_differ(first));
    let mode = if options.apply.is_none() { "READ ONLY" } else { "READ WRITE" };
    let snapshot = format!("BEGIN ISOLATION LEVEL REPEATABLE READ, {mode}");
    begun.loader.execute(&snapshot, "begin to compare").await?;
    let condition = options.condition.as_deref();
    let (missing, changed, extra, chosen) = compare::all(&begun.loader, first, condition, options.limit).await?;
    if missing.count > 0 {
        let referring = first.live.referring(begun.loader.session()).await?;
        if !referring.is_empty() {
            notes.push(format!(
                "a DELETE of rows of {} reaches {}: compare these as well",
                first.live.name,
                referring.join(", ")
            ));
        }
    }
    let needed = needed.count(&begun.loader, &staged).await?;
    let mut report = Report {
        run: begun.source.manifest.run.clone(),
        table: first.live.name.clone(),
        into: begun.loader.session().info().to_string(),
        key: first.key.clone(),
        read_bytes: begun.read_bytes,
        plan: begun.plan.clone(),
        rows: begun.rows,
        chosen,
        missing,
        changed,
        extra: extra.filter(|_| begun.extra_is_known),
        needed,
        notes,
        forgotten,
        applied: None,
        seconds: 0.0,
    };
    match options.apply {
        Some(what) => report.applied = Some(apply::apply(begun, staged, what, options).await?),
        None => begun.loader.close().await,
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

fn lost() -> Error {
    Error::failed("the table of the rescue is missing")
}

/// The columns that only one side has, in words.
fn columns_that_differ(staging: &Staging) -> Vec<String> {
    let mut notes = Vec::new();
    let (lost, gained) = (staging.lost(), staging.gained());
    if !lost.is_empty() {
        notes.push(format!("not compared, since the live table no longer has it: {}", lost.join(", ")));
    }
    if !gained.is_empty() {
        notes.push(format!("not in the run, so a missing row gets the default: {}", gained.join(", ")));
    }
    notes
}

impl Apply {
    /// Missing rows are written.
    pub(crate) const fn missing(self) -> bool {
        matches!(self, Self::Missing | Self::Both)
    }

    /// Changed rows are written.
    pub(crate) const fn changed(self) -> bool {
        matches!(self, Self::Changed | Self::Both)
    }
}
