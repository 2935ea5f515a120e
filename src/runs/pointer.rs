//! The pointer `latest.json`: how it is read and the one way it is moved, by `backup` and by `promote`.
//!
//! A move compares, writes under a condition and reads back. Stores that ignore conditions (Supabase Storage, Garage)
//! would let the slower of two processes overwrite the faster one's move after both compared; there a process first
//! takes a turn. A turn is a small object below `claims/`: whoever finds, after writing its own, no other one, is
//! alone; whoever finds one takes its own away and tries again later. Of two processes at least one sees the other,
//! since each writes before it lists and the list shows what was written (S3, Garage and Supabase Storage promise
//! that).

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use crate::error::{Context as _, Error, Kind, Result};
use crate::format::layout;
use crate::format::manifest::{Latest, Manifest};
use crate::runs::is_future;
use crate::store::{Condition, ObjectInfo, Put, Store};

/// Times the pointer is tried when somebody else moves it at the same moment.
const ATTEMPTS: u32 = 10;
/// A claim older than this, by the store's clock, belongs to a process that died. Its holder gives up at half of it.
const CLAIM: Duration = Duration::from_mins(1);
/// Longest wait for a turn: until every claim of a dead process has grown old.
const PATIENCE: Duration = Duration::from_secs(150);
/// Longest pause between two tries for a turn.
const PAUSE: Duration = Duration::from_secs(1);
/// An etag that no object has.
const NO_ETAG: &str = "\"00000000000000000000000000000000\"";

/// Which moves are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To a run that finished later than the one named now.
    Forward,
    /// To any run, also away from a pointer that makes no sense.
    Any,
}

/// The pointer and its etag; `None` where there is none.
///
/// # Errors
/// When the store fails, or the pointer makes no sense.
pub(crate) async fn read(store: &Store) -> Result<Option<(Latest, Option<String>)>> {
    let Some((body, etag)) = raw(store).await? else { return Ok(None) };
    Ok(Some((parse(store, &body).map_err(|error| error.with_kind(Kind::Failed))?, etag)))
}

/// The pointer; `None` where there is none.
///
/// # Errors
/// When the store fails; kind `Damage` when the pointer makes no sense.
pub(crate) async fn latest(store: &Store) -> Result<Option<Latest>> {
    store.get(layout::LATEST).await?.map(|body| parse(store, &body)).transpose()
}

pub(crate) fn parse(store: &Store, body: &[u8]) -> Result<Latest> {
    let wrong = |problem: String| {
        Error::damage(format!("{} of {}: {problem}", layout::LATEST, store.describe()))
            .hint("`pgstow promote RUN` replaces it; `pgstow list` shows the runs")
    };
    let latest: Latest = serde_json::from_slice(body).map_err(|error| wrong(error.to_string()))?;
    if !layout::is_run(&latest.run) {
        return Err(wrong(format!("points to {:?}, which is not a valid run name", latest.run)));
    }
    if moment(&latest).is_none() {
        return Err(wrong(format!("finished_at {:?} is not a timestamp", latest.finished_at)));
    }
    Ok(latest)
}

fn moment(latest: &Latest) -> Option<jiff::Timestamp> {
    latest.finished_at.parse().ok()
}

async fn raw(store: &Store) -> Result<Option<(Bytes, Option<String>)>> {
    // The ETag first: a pointer that moves in between makes it stale, and a conditional PUT with it is refused.
    let etag = store.head(layout::LATEST).await?.and_then(|info| info.etag);
    Ok(store.get(layout::LATEST).await?.map(|body| (body, etag)))
}

/// Moves `latest.json`. True when it points to this run now; false where a newer one was there or won meanwhile.
///
/// # Errors
/// When the store fails; a hint says where the pointer may have moved all the same.
pub(crate) async fn advance(store: &Store, pointer: &Latest, way: Way) -> Result<bool> {
    let mut turn = Turn::announce(store).await;
    let moved = try_to_move(store, pointer, way, &mut turn).await;
    turn.end().await;
    moved
}

async fn try_to_move(store: &Store, pointer: &Latest, way: Way, turn: &mut Turn<'_>) -> Result<bool> {
    let json = serde_json::to_vec_pretty(pointer).map_err(std::io::Error::from).context("write the pointer")?;
    let body = Bytes::from([json, b"\n".to_vec()].concat());
    turn.take().await?;
    for _attempt in 0..ATTEMPTS {
        match compare_and_put(store, pointer, &body, way, turn).await? {
            Tried::Moved => return Ok(true),
            Tried::Newer => return Ok(false),
            Tried::Again => {}
            Tried::RefusedUnchanged => {
                tracing::debug!("{} refuses a condition that is met: taking turns instead", store.describe());
                turn.distrust_conditions();
                turn.take().await?;
            }
        }
    }
    Err(Error::failed(format!("move {} of {}: it changes each time", layout::LATEST, store.describe()))
        .hint("other processes move it all the time; try again when they are done"))
}

/// The pointer to the run of this manifest, whose bytes have this SHA-256.
pub(crate) fn naming(manifest: &Manifest, sha256: String) -> Latest {
    Latest {
        run: manifest.run.clone(),
        manifest: layout::in_run(&manifest.run, layout::MANIFEST),
        sha256,
        finished_at: manifest.finished_at.clone(),
        identity: manifest.source.identity.clone(),
    }
}

/// The result of one attempt to move the pointer.
enum Tried {
    /// It points to this run.
    Moved,
    /// It points to a newer run.
    Newer,
    /// Somebody moved it in between.
    Again,
    /// The store refused a condition though nothing had changed (Ceph RGW 16.2 does with every etag).
    RefusedUnchanged,
}

async fn compare_and_put(store: &Store, pointer: &Latest, body: &Bytes, way: Way, turn: &Turn<'_>) -> Result<Tried> {
    let before = raw(store).await?;
    if let (Way::Forward, Some((there, _))) = (way, &before) {
        let there = parse(store, there).map_err(|error| error.with_kind(Kind::Failed))?;
        if there.identity == pointer.identity && is_newer(&there, pointer) {
            tracing::warn!("{} points to the newer run {}; left as it is", layout::LATEST, there.run);
            return Ok(Tried::Newer);
        }
    }
    let condition = match &before {
        _ if !turn.sends_conditions => Condition::None,
        None => Condition::Absent,
        Some((_, None)) => Condition::None,
        Some((_, Some(etag))) => Condition::Matches(etag.clone()),
    };
    let put = turn.within(store.put(layout::LATEST, body.clone(), condition)).await;
    if let Ok(Put::Refused) = put {
        return Ok(if raw(store).await? == before { Tried::RefusedUnchanged } else { Tried::Again });
    }
    match (put, read(store).await) {
        (_, Ok(Some((there, _)))) if there == *pointer => Ok(Tried::Moved),
        (put, Ok(Some((there, _)))) if is_newer(&there, pointer) && (put.is_ok() || way == Way::Forward) => {
            Ok(Tried::Newer)
        }
        (Ok(_), Ok(_)) => Ok(Tried::Again),
        (Err(error), Ok(_)) => Err(error),
        // The store has said that it moved.
        (Ok(_), Err(error)) => {
            tracing::warn!("{} was stored, but could not be read back: {error}", layout::LATEST);
            Ok(Tried::Moved)
        }
        (Err(error), Err(_unreachable)) => Err(error.hint(format!("{} may point to this run already", layout::LATEST))),
    }
}

/// True when `a` stands for a newer run than `b`. A pointer from the future is newer than nothing: it would hold back
/// every run until then.
pub(crate) fn is_newer(a: &Latest, b: &Latest) -> bool {
    let (at, than) = (moment(a), moment(b));
    !at.is_some_and(is_future) && (at, &a.run) > (than, &b.run)
}

/// A turn at the pointer of a store; see the head of this file.
struct Turn<'a> {
    store: &'a Store,
    key: String,
    /// The moment when the claim in the store was last written; `None` where there is none.
    since: Option<Instant>,
    /// True when the store was seen to refuse a PUT whose condition is not met: then no turn is needed.
    conditions: bool,
    /// False when the store was seen to refuse a condition that is met.
    sends_conditions: bool,
}

impl<'a> Turn<'a> {
    /// Writes a claim and tries on it that the store refuses a PUT whose condition is not met, and takes one whose is.
    ///
    /// A store that does not let us write claims (a narrow policy) leaves what conditions alone can do.
    async fn announce(store: &'a Store) -> Self {
        let key = format!("{}{:016x}", layout::CLAIMS, rand::random::<u64>());
        let mut turn = Self { store, key, since: None, conditions: false, sends_conditions: true };
        match turn.probe().await {
            Ok(conditions) => turn.conditions = conditions,
            Err(error) => {
                tracing::warn!("no turn could be taken for {}: {error}", layout::LATEST);
                turn.end().await;
                // As if alone: nothing better can be known.
                turn.conditions = true;
            }
        }
        turn
    }

    async fn probe(&mut self) -> Result<bool> {
        let etag = self.claim(b"claim").await?;
        // Other bytes each time: a refusal whose answer was lost must not look like our own object.
        for (body, condition) in [(&b"absent"[..], Condition::Absent), (b"etag", Condition::Matches(NO_ETAG.into()))] {
            if self.store.put(&self.key, Bytes::from_static(body), condition).await? != Put::Refused {
                return Ok(false);
            }
        }
        // Ceph RGW refuses the right etag too: a condition could never be met there.
        if let Some(etag) = etag {
            let put = self.store.put(&self.key, Bytes::from_static(b"right"), Condition::Matches(etag)).await?;
            if put == Put::Refused {
                self.distrust_conditions();
            }
        }
        Ok(self.sends_conditions)
    }

    /// Goes on without conditions, by turns.
    fn distrust_conditions(&mut self) {
        (self.conditions, self.sends_conditions) = (false, false);
    }

    /// Writes the claim; returns its etag, where the store tells one. A key that may only write cannot ask for it.
    async fn claim(&mut self, body: &'static [u8]) -> Result<Option<String>> {
        self.since = Some(Instant::now());
        match self.store.put(&self.key, Bytes::from_static(body), Condition::None).await? {
            Put::Stored { etag } => Ok(etag),
            Put::Refused => Ok(None),
        }
    }

    /// Waits until no other claim is there, where that is needed.
    async fn take(&mut self) -> Result<()> {
        if self.conditions {
            return Ok(());
        }
        let begun = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            self.claim(b"claim").await?;
            let claims = self.store.list(layout::CLAIMS).await?;
            let Some(own) = claims.iter().find(|claim| claim.key == self.key) else {
                tracing::warn!("{} does not list what was just written: no turn can be taken", self.store.describe());
                return Ok(());
            };
            if !claims.iter().any(|claim| claim.key != self.key && is_alive(claim, own.modified)) {
                return Ok(());
            }
            self.end().await;
            if begun.elapsed() > PATIENCE {
                return Err(Error::failed(format!(
                    "move {} of {}: others are moving it all the time",
                    layout::LATEST,
                    self.store.describe()
                )));
            }
            // Random, so that two that met do not meet again.
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
            pause = (pause * 2).min(PAUSE);
        }
    }

    /// Runs something that must end while the claim holds.
    async fn within<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(since) = self.since.filter(|_| !self.conditions) else { return work.await };
        let left = (CLAIM / 2).saturating_sub(since.elapsed());
        tokio::time::timeout(left, work).await.unwrap_or_else(|_elapsed| {
            Err(Error::failed(format!("write {} of {}: it took too long", layout::LATEST, self.store.describe())))
        })
    }

    /// Takes the claim away. Where deleting is not allowed an empty object stands for that.
    async fn end(&mut self) {
        if self.since.take().is_none() {
            return;
        }
        let Err(denied) = self.store.delete(&self.key).await else { return };
        if let Err(error) = self.store.put(&self.key, Bytes::new(), Condition::None).await {
            tracing::warn!("{} is left behind ({denied}; {error}); it counts for a minute", self.key);
        }
    }
}

/// True when the process behind a claim may still be at work, `now` by the store's clock.
fn is_alive(claim: &ObjectInfo, now: Option<SystemTime>) -> bool {
    let age = now.zip(claim.modified).and_then(|(now, then)| now.duration_since(then).ok());
    claim.bytes > 0 && age.is_none_or(|age| age <= CLAIM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_counts_until_it_is_empty_or_old() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let claim = |bytes, modified| ObjectInfo { key: "claims/x".to_owned(), bytes, etag: None, modified };
        assert!(is_alive(&claim(5, at(1000)), at(1030)));
        assert!(is_alive(&claim(5, at(1000)), at(990)));
        assert!(is_alive(&claim(5, None), at(1000)));
        assert!(!is_alive(&claim(5, at(1000)), at(1061)));
        assert!(!is_alive(&claim(0, at(1000)), at(1000)));
    }
}
