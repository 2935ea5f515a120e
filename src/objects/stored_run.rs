//! A run of a store with its manifest: where its objects are and how they are opened. [`crate::runs::find`] finds the
//! manifest by a name; whoever reads objects of the run holds one of these.

use std::ops::Range;
use std::sync::Arc;

use libpgdump::format::ArchiveMetadata;

use crate::archive::head;
use crate::archive::schema_names::SchemaNames;
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, Object};
use crate::objects::read::{self, Plain, Stored, Watch};
use crate::seal::decode::Decoding;
use crate::seal::decrypt::Identities;
use crate::seal::hash::Tapped;
use crate::store::Store;

/// A run of a store. A clone costs little.
#[derive(Clone)]
pub(crate) struct StoredRun {
    /// The store.
    pub(crate) store: Store,
    /// The run's manifest.
    pub(crate) manifest: Arc<Manifest>,
    /// The way from stored bytes to plain ones.
    pub(crate) decoding: Decoding,
    /// The schemas that have other names here than in the objects; the manifest has those from here.
    pub(crate) schemas: Arc<SchemaNames>,
}

impl StoredRun {
    /// A run whose objects are opened with these keys; one that is not encrypted needs none.
    ///
    /// # Errors
    /// As [`read::decoding`].
    pub(crate) fn new(store: Store, manifest: Manifest, identities: &Identities) -> Result<Self> {
        let decoding = read::decoding(&manifest, identities)?;
        Ok(Self { store, manifest: Arc::new(manifest), decoding, schemas: Arc::default() })
    }

    /// A run whose objects are taken as they are stored.
    pub(crate) fn as_stored(store: Store, manifest: Manifest) -> Self {
        Self { store, manifest: Arc::new(manifest), decoding: Decoding::AS_STORED, schemas: Arc::default() }
    }

    /// The stored bytes of an object, watched as they pass.
    pub(crate) fn watched(&self, object: &Object) -> (Watch, Tapped<Stored>) {
        read::watched(&self.store, &self.manifest.run, object)
    }

    /// Some of the stored bytes of an object, and the keys they are in.
    pub(crate) fn range(&self, object: &Object, range: Range<u64>) -> (String, Stored) {
        read::range(&self.store, &self.manifest.run, object, range)
    }

    /// A whole object in memory, plain, verified.
    ///
    /// # Errors
    /// As [`read::read`].
    pub(crate) async fn read(&self, object: &Object) -> Result<Vec<u8>> {
        self.read_with(object, &self.decoding).await
    }

    /// A whole object that is opened in another way than most of the run, as [`StoredRun::read`].
    pub(crate) async fn read_with(&self, object: &Object, decoding: &Decoding) -> Result<Vec<u8>> {
        read::read(&self.store, &self.manifest.run, object, decoding).await
    }

    /// The table of contents of an archive. It stands at the beginning; the rest is not fetched, and not verified.
    ///
    /// # Errors
    /// Kind `Damage`, with the key; what the store failed with.
    pub(crate) async fn table_of_contents(&self, archive: &Object) -> Result<ArchiveMetadata> {
        let stored = read::open(&self.store, &self.manifest.run, archive);
        let (key, decoding) = (archive.key.clone(), self.decoding.clone());
        let read = tokio::task::spawn_blocking(move || {
            let mut plain = Plain::new(stored, &decoding);
            head::read(&mut plain).map_err(|error| Error::damage(format!("{key}: {error}")))
        });
        read.await.map_err(|error| Error::failed(format!("read an archive: {error}")))?
    }
}
