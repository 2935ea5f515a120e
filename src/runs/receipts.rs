//! Receipts that `verify` and `drill` leave in the store: `receipts/<run>/<utc>-<kind>.json`, and what they say of a
//! run.
//!
//! The moment in the name is that of writing, in milliseconds, so that the newest is found by name alone and none
//! replaces another. A receipt speaks of one manifest; one that names another manifest's SHA-256 is not counted.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::error::{Context as _, Error, Result};
use crate::format::layout;
use crate::format::manifest::Tool;
use crate::human;
use crate::runs::is_future;
use crate::store::{Condition, Store};

/// `checked` where every object was opened and what is in it recomputed.
pub(crate) const CONTENTS: &str = "contents";
/// `checked` of an encrypted run without its key: stored sizes and SHA-256 only.
pub(crate) const HASHES: &str = "hashes only";

/// Newest receipts of a run that are read: more say nothing new, and each is a request.
const READ: usize = 16;

/// A receipt in the store.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) run: String,
    pub(crate) key: String,
}

impl Found {
    fn file(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }

    /// True when a drill left it.
    pub(crate) fn is_of_drill(&self) -> bool {
        self.file().ends_with("-drill.json")
    }
}

/// The beginning of every receipt that this program writes.
#[derive(Debug, Serialize)]
pub(crate) struct Head {
    kind: &'static str,
    pub(crate) run: String,
    /// SHA-256 of the manifest that the receipt speaks of.
    manifest_sha256: String,
    /// Time of writing, RFC 3339 in UTC.
    at: String,
    /// True when no damage and no difference was found.
    pub(crate) ok: bool,
    tool: Tool,
}

impl Head {
    /// The head of a receipt made now.
    pub(crate) fn new(kind: &'static str, run: &str, manifest_sha256: &str, ok: bool) -> Self {
        Self {
            kind,
            run: run.to_owned(),
            manifest_sha256: manifest_sha256.to_owned(),
            at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            ok,
            tool: Tool { name: "pgstow".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        }
    }
}

/// The part of a receipt that speaks of the run as a whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Receipt {
    #[serde(skip_serializing)]
    kind: String,
    /// When, RFC 3339 in UTC.
    pub(crate) at: String,
    /// True when no damage and no difference was found.
    pub(crate) ok: bool,
    /// SHA-256 of the manifest that it speaks of; older receipts do not say.
    #[serde(default, skip_serializing)]
    manifest_sha256: Option<String>,
    /// The sampled tables; `None` for a full drill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sample: Option<Sample>,
    /// The parts that a drill could not prove.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) not_proven: Vec<String>,
    /// The depth of a verification: [`CONTENTS`] or [`HASHES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checked: Option<String>,
    /// The time until a drill had restored the run, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restore_seconds: Option<f64>,
}

/// The tables of a sampled drill.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    of: usize,
    tables: Vec<String>,
}

impl Receipt {
    /// The part that it speaks for, where that is not everything: `hashes only`, `2 of 30 tables`, `3 things not
    /// proven`.
    pub(crate) fn extent(&self) -> Option<String> {
        let sample = self.sample.as_ref().map(|sample| format!("{} of {} tables", sample.tables.len(), sample.of));
        let hashes = (self.checked.as_deref() == Some(HASHES)).then(|| HASHES.to_owned());
        let not_proven = match self.not_proven.len() {
            0 => None,
            1 => Some("1 thing not proven".to_owned()),
            count => Some(format!("{count} things not proven")),
        };
        let parts: Vec<String> = [sample, hashes, not_proven].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// True when an older receipt counts all the same: it found damage that this one's part of the run may not show, or
    /// it covers more.
    fn says_less_than(&self, older: &Self) -> bool {
        let is_part = self.sample.is_some() || self.checked.as_deref() == Some(HASHES);
        self.ok && if older.ok { older.coverage() > self.coverage() } else { is_part }
    }

    /// The extent of the run that it speaks for; of two receipts the greater one covers more. Samples are alike: each
    /// takes other tables, and the newest is the one to show.
    fn coverage(&self) -> impl Ord + use<> {
        let opened = self.checked.as_deref() != Some(HASHES);
        (opened, self.sample.is_none().then_some(std::cmp::Reverse(self.not_proven.len())))
    }
}

/// The receipts of one run, taken together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdicts {
    /// Of `verify`.
    pub(crate) verified: Option<Receipt>,
    /// Of `drill`.
    pub(crate) drilled: Option<Receipt>,
}

impl Verdicts {
    /// Reads the receipts with these keys, the newest first; `manifest_sha256` is that of the run's manifest.
    ///
    /// # Errors
    /// When the store fails. A receipt that makes no sense is passed over.
    pub(crate) async fn read(store: &Store, keys: &[String], manifest_sha256: &str) -> Result<Self> {
        let mut verdicts = Self::default();
        for key in keys.iter().take(READ) {
            let Some(bytes) = store.get(key).await.with_context(|| format!("read {key}"))? else { continue };
            let Ok(receipt) = serde_json::from_slice::<Receipt>(&bytes) else { continue };
            if receipt.manifest_sha256.as_deref().is_some_and(|sha256| sha256 != manifest_sha256) {
                continue;
            }
            let kept = match receipt.kind.as_str() {
                "verify" => &mut verdicts.verified,
                "drill" => &mut verdicts.drilled,
                _ => continue,
            };
            // The newest counts, but a look at a part of the run does not take the word of an older look at all of it.
            let says_more = |kept: &Receipt| kept.says_less_than(&receipt);
            if kept.as_ref().is_none_or(says_more) {
                *kept = Some(receipt);
            }
        }
        Ok(verdicts)
    }

    /// The receipts of one run.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn of(store: &Store, run: &str, manifest_sha256: &str) -> Result<Self> {
        let listed = store.list(&layout::receipts(run)).await.context("list the receipts")?;
        let mut keys: Vec<String> = listed.into_iter().map(|object| object.key).collect();
        keys.sort_unstable_by(|a, b| (is_of_the_future(a), b).cmp(&(is_of_the_future(b), a)));
        Self::read(store, &keys, manifest_sha256).await
    }

    /// One line about the damage that was recorded; `None` where none was.
    pub(crate) fn damage(&self) -> Option<String> {
        let says = |what: &str, receipt: &Option<Receipt>| {
            let receipt = receipt.as_ref().filter(|receipt| !receipt.ok)?;
            Some(format!("`pgstow {what}` found it damaged {} ago", human::age(&receipt.at)))
        };
        says("verify", &self.verified).or_else(|| says("drill", &self.drilled))
    }
}

/// True for a receipt whose name lies in the future: a clock was wrong. It hides none that came later in truth, so it
/// counts as the oldest.
fn is_of_the_future(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or_default();
    let moment = name.get(..15).and_then(|text| jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S", text).ok());
    let moment = moment.and_then(|at| at.to_zoned(jiff::tz::TimeZone::UTC).ok());
    moment.is_some_and(|at| is_future(at.timestamp()))
}

/// Leaves a receipt. Reading must work with read-only credentials, so a refusal is only logged.
pub(crate) async fn leave(store: &Store, Head { run, kind, .. }: &Head, receipt: &impl Serialize) {
    let at = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ");
    let key = format!("{}{at}-{kind}.json", layout::receipts(run));
    if store.is_past() {
        tracing::info!("no receipt is left in a store that is read as it was (--at)");
        return;
    }
    let left = match serde_json::to_vec_pretty(receipt) {
        Ok(body) => store.put(&key, Bytes::from(body), Condition::None).await.map(drop),
        Err(error) => Err(Error::failed(error.to_string())),
    };
    if let Err(error) = left {
        warn!("no receipt was left in the store: {error}");
    }
}

/// Receipts of all runs, newest first.
///
/// # Errors
/// When the store can't be listed.
pub(crate) async fn all(store: &Store) -> Result<Vec<Found>> {
    let objects = store.list(layout::RECEIPTS).await.context("list the receipts")?;
    let mut all: Vec<Found> = objects
        .into_iter()
        .filter_map(|object| {
            let mut parts = object.key.split('/').skip(1);
            let (Some(run), Some(_file), None) = (parts.next(), parts.next(), parts.next()) else { return None };
            Some(Found { run: run.to_owned(), key: object.key })
        })
        .collect();
    all.sort_by(|a, b| (is_of_the_future(&a.key), b.file()).cmp(&(is_of_the_future(&b.key), a.file())));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_look_neither_hides_nor_heals() {
        let receipt = |ok, checked: &str| Receipt {
            kind: "verify".to_owned(),
            at: "2026-01-01T00:00:00Z".to_owned(),
            ok,
            manifest_sha256: None,
            sample: None,
            not_proven: Vec::new(),
            checked: Some(checked.to_owned()),
            restore_seconds: None,
        };
        assert_eq!(receipt(true, HASHES).extent().as_deref(), Some(HASHES));
        assert_eq!(receipt(true, CONTENTS).extent(), None);
        let damage = |receipt| Verdicts { verified: Some(receipt), drilled: None }.damage();
        assert!(damage(receipt(false, HASHES)).is_some_and(|text| text.contains("verify")));
        assert_eq!(damage(receipt(true, CONTENTS)), None);

        let drilled = |ok, tables: usize, not_proven: usize| Receipt {
            kind: "drill".to_owned(),
            checked: None,
            sample: (tables < 4).then(|| Sample { of: 4, tables: vec!["t".to_owned(); tables] }),
            not_proven: vec!["x".to_owned(); not_proven],
            ..receipt(ok, "")
        };
        // Newer, older, and whether the older one counts.
        for (newer, older, counts) in [
            (drilled(true, 1, 0), drilled(true, 4, 0), true),
            (drilled(true, 1, 0), drilled(true, 4, 1), true),
            (drilled(true, 2, 0), drilled(true, 1, 0), false),
            (drilled(true, 1, 0), drilled(true, 2, 0), false),
            (drilled(true, 4, 2), drilled(true, 4, 0), true),
            (drilled(true, 4, 0), drilled(false, 4, 0), false),
            (drilled(true, 1, 0), drilled(false, 4, 0), true),
            (drilled(false, 1, 0), drilled(true, 4, 0), false),
        ] {
            assert_eq!(newer.says_less_than(&older), counts, "{newer:?} {older:?}");
        }
    }
}
