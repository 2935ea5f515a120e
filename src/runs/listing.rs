//! The objects of a run as the store lists them, compared with its manifest: the one comparison, by sizes alone.
//! Nothing is read; that is what `verify` does.

use std::collections::{HashMap, HashSet};

use crate::error::{Context as _, Result};
use crate::format::layout;
use crate::format::manifest::{Manifest, Object, Volume};
use crate::store::Store;

/// The keys and sizes of one run in the store's listing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    /// Sizes by key relative to the run.
    sizes: HashMap<String, u64>,
}

/// A stored object (or a volume of one) that is not as the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// Its key, relative to the run.
    pub(crate) key: String,
    /// Its size in the store; `None` where it is missing.
    pub(crate) found: Option<u64>,
    /// Its size in the manifest.
    pub(crate) expected: u64,
}

impl Mismatch {
    /// The difference alone: `missing`, `is 5 bytes, the manifest says 7`.
    pub(crate) fn problem(&self) -> String {
        match self.found {
            None => "missing".to_owned(),
            Some(bytes) => format!("is {bytes} bytes, the manifest says {}", self.expected),
        }
    }
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = if self.found.is_none() { "is " } else { "" };
        write!(f, "{} {verb}{}", self.key, self.problem())
    }
}

impl Listing {
    /// Lists a run.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn read(store: &Store, run: &str) -> Result<Self> {
        let prefix = layout::run_prefix(run);
        let listed = store.list(&prefix).await.with_context(|| format!("list {prefix}"))?;
        let relative = |key: &str| key.strip_prefix(&prefix).map(str::to_owned);
        Ok(Self { sizes: listed.iter().filter_map(|object| Some((relative(&object.key)?, object.bytes))).collect() })
    }

    /// The mismatches of an object's volumes; an object that was not split is one volume.
    pub(crate) fn mismatches(&self, object: &Object) -> Vec<Mismatch> {
        let wrong = |volume: Volume| {
            let found = self.sizes.get(&volume.key).copied();
            (found != Some(volume.bytes)).then_some(Mismatch { key: volume.key, found, expected: volume.bytes })
        };
        object.volumes().into_iter().filter_map(wrong).collect()
    }

    /// True where the store has an object of this name and size.
    pub(crate) fn holds(&self, volume: &Volume) -> bool {
        self.sizes.get(&volume.key) == Some(&volume.bytes)
    }

    /// True where the store has an object of this name, whatever its size.
    pub(crate) fn names(&self, key: &str) -> bool {
        self.sizes.contains_key(key)
    }

    /// The mismatches of these objects, in one line; `None` where each is there with its size.
    pub(crate) fn problem<'a>(&self, objects: impl IntoIterator<Item = &'a Object>) -> Option<String> {
        let mut wrong = objects.into_iter().flat_map(|object| self.mismatches(object));
        let first = wrong.next()?;
        Some(match wrong.count() {
            0 => first.to_string(),
            more => format!("{first}, and {more} more objects are not as they were"),
        })
    }

    /// Keys that the store lists and the manifest does not name, sorted.
    pub(crate) fn strangers(&self, manifest: &Manifest) -> Vec<&str> {
        let mut known: HashSet<String> = HashSet::from([layout::MANIFEST, layout::SIGNATURE].map(str::to_owned));
        known.extend(manifest.objects().into_iter().flat_map(Object::volumes).map(|volume| volume.key));
        let mut strangers: Vec<&str> =
            self.sizes.keys().filter(|key| !known.contains(*key)).map(String::as_str).collect();
        strangers.sort_unstable();
        strangers
    }
}

/// The mismatches of a run's listing with its manifest, in one line; `None` where every object is there with its size.
///
/// # Errors
/// When the store fails.
pub(crate) async fn incomplete(store: &Store, manifest: &Manifest) -> Result<Option<String>> {
    Ok(Listing::read(store, &manifest.run).await?.problem(manifest.objects()))
}
