//! `pgstow status`: a probe for monitoring. One line; the exit code is the answer.
//!
//! Healthy means: `latest` names a complete run whose manifest is the one it was, which finished recently enough, and
//! whose objects the store lists, each with its size. Nothing is read but pointer, manifest and listing: `verify` reads.

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::args::{EXIT_CODES, duration};
use crate::cli::output;
use crate::cli::run::Outcome;
use crate::error::{Context as _, Result};
use crate::format::layout;
use crate::format::manifest::{self, Manifest};
use crate::human;
use crate::objects::read;
use crate::runs::find;
use crate::store::Store;

/// A run that ends further in the future than this by our clock has no age; one of the clocks is wrong.
const SKEW: Duration = Duration::from_hours(1);

#[derive(Debug, Default, Serialize)]
struct Document {
    ok: bool,
    store: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    max_age_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<manifest::Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_bytes: Option<u64>,
}

/// Tells whether there is a recent backup.
pub(crate) async fn run(store: &Store, arguments: &Status, json: bool) -> Result<Outcome> {
    let mut found =
        Document { store: store.describe(), max_age_seconds: arguments.max_age.as_secs(), ..Document::default() };
    // A store that cannot be reached is an answer too: there is no backup that could be restored now.
    match examine(store, arguments.max_age, &mut found).await {
        Ok(None) => found.ok = true,
        Ok(Some(reason)) => found.reason = Some(reason),
        Err(error) => found.reason = Some(error.message()),
    }
    if json {
        output::print_json(&found)?;
    } else {
        output::print(&line(&found))?;
    }
    Ok(if found.ok { Outcome::Done } else { Outcome::Failed })
}

/// `None` when all is well.
async fn examine(store: &Store, max_age: Duration, found: &mut Document) -> Result<Option<String>> {
    let manifest = find::run(store, "latest").await?.manifest;
    found.run = Some(manifest.run.clone());
    found.status = Some(manifest.status);
    found.finished_at = Some(manifest.finished_at.clone());
    found.objects = Some(manifest.totals.objects + 1);
    found.stored_bytes = Some(manifest.totals.stored_bytes);
    if manifest.status != manifest::Status::Complete {
        return Ok(Some(format!(
            "run {} is partial: {} relations were left out",
            manifest.run,
            manifest.skipped.len()
        )));
    }
    let Ok(finished) = manifest.finished_at.parse::<jiff::Timestamp>() else {
        return Ok(Some(format!("run {} finished at {:?}, which is no moment", manifest.run, manifest.finished_at)));
    };
    let age = jiff::Timestamp::now().duration_since(finished).as_secs();
    found.age_seconds = Some(age);
    if age < -i64::try_from(SKEW.as_secs()).unwrap_or(i64::MAX) {
        return Ok(Some(format!("run {} finished in {}: a clock is wrong", manifest.run, human::passed(-age))));
    }
    if u64::try_from(age).unwrap_or_default() >= max_age.as_secs() {
        let allowed = humantime::format_duration(max_age);
        return Ok(Some(format!("run {} is {} old, {allowed} are allowed", manifest.run, human::passed(age))));
    }
    Ok(incomplete(store, &manifest).await?.map(|problem| format!("run {}: {problem}", manifest.run)))
}

/// What the listing of a run says against its manifest, in one line; `None` where every object is there with its size.
///
/// # Errors
/// When the store fails.
pub(crate) async fn incomplete(store: &Store, manifest: &Manifest) -> Result<Option<String>> {
    let prefix = layout::run_prefix(&manifest.run);
    let listed = store.list(&prefix).await.with_context(|| format!("list {prefix}"))?;
    let sizes: HashMap<&str, u64> =
        listed.iter().filter_map(|object| Some((object.key.strip_prefix(&prefix)?, object.bytes))).collect();
    let volumes: Vec<_> = read::all(manifest).into_iter().flat_map(read::volumes).collect();
    let mut problems = volumes.iter().filter_map(|volume| match sizes.get(volume.key.as_str()) {
        None => Some(format!("{} is missing", volume.key)),
        Some(bytes) if *bytes != volume.bytes => {
            Some(format!("{} is {bytes} bytes, the manifest says {}", volume.key, volume.bytes))
        }
        Some(_) => None,
    });
    let Some(first) = problems.next() else { return Ok(None) };
    Ok(Some(match problems.count() {
        0 => first,
        more => format!("{first}, and {more} more objects are not as they were"),
    }))
}

fn line(found: &Document) -> String {
    if let Some(reason) = &found.reason {
        return format!("failed: {}\n", human::plain(reason));
    }
    format!(
        "ok: run {} is complete, {} old, {} objects, {}\n",
        found.run.as_deref().unwrap_or_default(),
        human::passed(found.age_seconds.unwrap_or_default()),
        human::count(found.objects.unwrap_or_default()),
        human::size(found.stored_bytes.unwrap_or_default()),
    )
}

/// `pgstow status`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Status {
    /// Fail when `latest` finished longer ago.
    #[arg(long, value_name = "DURATION", env = "PGSTOW_MAX_AGE", default_value = "26h", value_parser = duration)]
    pub max_age: Duration,
}
