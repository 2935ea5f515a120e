//! Copies a run into a second store: another provider, other credentials. The bytes go as they are stored, so that hashes and
//! signature stay what they were; each object is hashed on its way, and the manifest is written last.
//!
//! Copying again goes on: an object that is there already is read back and kept where its hash is right. Receipts and pins
//! stay where they are: they speak of the first store.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use tokio::io::AsyncReadExt as _;

use crate::error::{Context as _, Error, Kind, Result};
use crate::format::layout;
use crate::format::manifest::{Object, Status, Volume};
use crate::runs::listing::Listing;
use crate::runs::pointer::Way;
use crate::runs::{find, pointer};
use crate::seal::hash::{self, Tap};
use crate::seal::sign::Trust;
use crate::store::{Condition, Plan, Store, WriteError};

/// Bytes read at once.
const STEP: usize = 1 << 20;

/// The request.
#[derive(Debug)]
pub(crate) struct Options {
    /// `latest`, a run's name or the beginning of one.
    pub(crate) run: String,
    /// Objects copied at the same time.
    pub(crate) jobs: usize,
    pub(crate) trust: Trust,
}

/// The result of a copy.
#[derive(Debug, Serialize)]
pub(crate) struct Copied {
    pub(crate) run: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    /// Objects that were there already.
    pub(crate) kept: u64,
    /// True when `latest` of the second store names the run now.
    pub(crate) latest: bool,
    pub(crate) seconds: f64,
}

/// Copies a run.
///
/// # Errors
/// A run that is unknown; kind `Damage` where an object is not what the manifest says; a store that fails. The second store
/// then holds no manifest of the run, unless it held one before.
pub(crate) async fn copy(from: &Store, to: &Store, options: &Options) -> Result<Copied> {
    let started = Instant::now();
    if from.identity() == to.identity() {
        return Err(Error::usage("--to names the store that the run is in"));
    }
    let found = find::trusted(from, &options.run, &options.trust).await?;
    to.check().await.map_err(|error| error.context("the second store"))?;
    refuse_others(to, &found.manifest.source.identity).await?;
    let listing = Listing::read(to, &found.name).await?;
    let volumes: Vec<Volume> = found.manifest.objects().into_iter().flat_map(Object::volumes).collect();
    let one = |volume: Volume| {
        let (is_there, is_in_the_way) = (listing.holds(&volume), listing.names(&volume.key));
        let run = found.name.clone();
        async move {
            let key = layout::in_run(&run, &volume.key);
            if is_there && read_hash(to, &key, volume.bytes).await? == volume.sha256 {
                return Ok((volume.bytes, true));
            }
            // Objects of a run are written once: what is not right goes first.
            if is_in_the_way {
                to.delete(&key).await?;
            }
            transfer(from, to, &key, &volume).await.map(|()| (volume.bytes, false))
        }
    };
    let done: Vec<(u64, bool)> =
        stream::iter(volumes).map(one).buffer_unordered(options.jobs.max(1)).try_collect().await?;
    let signature = layout::in_run(&found.name, layout::SIGNATURE);
    if let Some(text) = from.get(&signature).await.with_context(|| format!("read {signature}"))? {
        put(to, &signature, text).await?;
    }
    let key = layout::in_run(&found.name, layout::MANIFEST);
    put(to, &key, found.bytes.clone()).await?;
    let manifest = &found.manifest;
    let latest = if manifest.status == Status::Complete && !manifest.held {
        let pointer = pointer::naming(manifest, hash::sha256(&found.bytes));
        pointer::advance(to, &pointer, Way::Forward).await?
    } else {
        false
    };
    Ok(Copied {
        from: from.describe(),
        to: to.describe(),
        objects: done.len() as u64 + 1,
        bytes: done.iter().map(|(bytes, _)| bytes).sum(),
        kept: done.iter().filter(|(_, kept)| *kept).count() as u64,
        latest,
        seconds: started.elapsed().as_secs_f64(),
        run: found.name,
    })
}

/// One prefix belongs to one database, in the second store too.
async fn refuse_others(to: &Store, identity: &str) -> Result<()> {
    match pointer::latest(to).await {
        Ok(Some(latest)) if latest.identity != identity => Err(Error::usage(format!(
            "{} holds backups of another database ({}; the run is of {identity})",
            to.describe(),
            latest.identity
        ))
        .hint("give each database a prefix of its own")),
        Ok(_) => Ok(()),
        Err(error) => Err(error.with_kind(Kind::Failed)),
    }
}

/// The SHA-256 of an object, read back.
async fn read_hash(store: &Store, key: &str, bytes: u64) -> Result<String> {
    let tap = Tap::default();
    let mut reader = tap.reader(store.read(key, 0..bytes).await?);
    tokio::io::copy(&mut reader, &mut tokio::io::sink()).await.with_context(|| format!("read {key}"))?;
    Ok(tap.sha256())
}

/// Copies one object, and again with larger parts where the provider allows too few.
async fn transfer(from: &Store, to: &Store, key: &str, volume: &Volume) -> Result<()> {
    let mut expected_bytes = volume.bytes;
    loop {
        match attempt(from, to, key, volume, Plan { expected_bytes }).await {
            Err(WriteError::PartsExhausted { .. }) if expected_bytes < volume.bytes.saturating_mul(64) => {
                expected_bytes = expected_bytes.saturating_mul(4);
            }
            done => return done.map_err(|error| Error::from(error).context(format!("copy {key}"))),
        }
    }
}

async fn attempt(from: &Store, to: &Store, key: &str, volume: &Volume, plan: Plan) -> Result<(), WriteError> {
    let mut reader = from.read(key, 0..volume.bytes).await?;
    let mut writer = to.writer(key, plan);
    let tap = Tap::default();
    let mut left = volume.bytes;
    let mut stored = tap.reader(&mut reader);
    while left > 0 {
        let mut step = BytesMut::with_capacity(STEP);
        let got = stored.read_buf(&mut step).await.map_err(Error::from);
        match got {
            Ok(0) => break,
            Ok(count) => {
                left = left.saturating_sub(count as u64);
                writer.write(step.freeze()).await?;
            }
            Err(error) => {
                writer.abort().await;
                return Err(error.into());
            }
        }
    }
    // Before the object appears: what is damaged is not spread.
    if tap.bytes() != volume.bytes || tap.sha256() != volume.sha256 {
        writer.abort().await;
        return Err(Error::damage(format!("its SHA-256 is {}, the manifest says {}", tap.sha256(), volume.sha256))
            .hint("`pgstow verify` names every damaged object of the run")
            .into());
    }
    writer.finish().await?;
    Ok(())
}

/// Writes a small object and reads it back.
async fn put(to: &Store, key: &str, body: Bytes) -> Result<()> {
    to.put(key, body.clone(), Condition::None).await.with_context(|| format!("write {key}"))?;
    if to.get(key).await.with_context(|| format!("read {key}"))?.as_ref() == Some(&body) {
        return Ok(());
    }
    Err(Error::failed(format!("{key} of {} does not read back as it was written", to.describe())))
}
