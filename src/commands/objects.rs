//! The objects a manifest names: their keys checked, their stored bytes as one stream, volumes put together.

use std::io;
use std::pin::Pin;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

use crate::error::{Error, Result};
use crate::layout;
use crate::manifest::{Manifest, Object, Volume};
use crate::seal::compress::Compression;
use crate::seal::decode::{self, Tap, Tapped};
use crate::store::Store;

/// Stored bytes of one object.
pub(crate) type Stored = Pin<Box<dyn AsyncRead + Send>>;

/// How the objects of a run are sealed.
///
/// # Errors
/// Encrypted runs and unknown compressions.
pub(crate) fn sealing(manifest: &Manifest) -> Result<Compression> {
    if let Some(encryption) = &manifest.encryption {
        return Err(Error::failed(format!("run {} is encrypted ({})", manifest.run, encryption.scheme))
            .hint("this version cannot open encrypted runs"));
    }
    manifest.compression.parse().map_err(|_unknown: Error| {
        Error::failed(format!("compression {:?} is unknown to this version", manifest.compression))
            .hint("read the run with a newer pgstow")
    })
}

/// An object's volumes; an object that was not split is one volume.
pub(crate) fn volumes(object: &Object) -> Vec<Volume> {
    if object.volumes.is_empty() {
        let Object { key, bytes, sha256, .. } = object.clone();
        return vec![Volume { key, bytes, sha256 }];
    }
    object.volumes.clone()
}

/// Every object the manifest names, the manifest itself not counted.
pub(crate) fn all(manifest: &Manifest) -> Vec<&Object> {
    let mut objects = vec![&manifest.roles.object, &manifest.database.object];
    objects.extend(&manifest.large_objects.object);
    objects.extend(&manifest.restore_md);
    for schema in &manifest.schemas {
        objects.push(&schema.dump);
        for table in &schema.tables {
            objects.push(&table.file);
            objects.extend(&table.index);
        }
    }
    objects
}

/// Whether a key can be a file below a folder and nowhere else.
pub(crate) fn safe(key: &str) -> bool {
    !key.is_empty()
        && !key.contains(['\\', '\0'])
        && key.split('/').all(|segment| !segment.is_empty() && segment != "." && segment != "..")
}

/// The stored bytes of an object, as many as the manifest says; each volume is requested when its turn comes.
pub(crate) fn open(store: &Store, run: &str, object: &Object) -> Stored {
    let (store, run) = (store.clone(), run.to_owned());
    let volumes = volumes(object).into_iter().filter(|volume| volume.bytes > 0);
    let bytes = stream::iter(volumes)
        .then(move |volume| {
            let (store, key) = (store.clone(), layout::in_run(&run, &volume.key));
            async move {
                let reader = store.read(&key, 0..volume.bytes).await.map_err(io::Error::from)?;
                Ok::<_, io::Error>(ReaderStream::with_capacity(reader, decode::BUFFER))
            }
        })
        .try_flatten();
    Box::pin(StreamReader::new(bytes.boxed()))
}

/// Plain bytes on a blocking thread. Counts them; a broken frame is an [`Error`] that says so.
pub(crate) struct Plain<'a> {
    inner: SyncIoBridge<Box<dyn AsyncRead + Send + Unpin + 'a>>,
    /// Plain bytes read.
    pub(crate) bytes: u64,
}

impl<'a> Plain<'a> {
    /// Decodes on the calling thread, which must be one of `spawn_blocking`.
    pub(crate) fn new<R: AsyncRead + Send + Unpin + 'a>(stored: R, compression: Compression) -> Self {
        let inner = SyncIoBridge::new(decode::decoder(stored, compression));
        Self { inner, bytes: 0 }
    }
}

impl io::Read for Plain<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.inner.read(buffer).map_err(|error| {
            if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Error>) {
                error
            } else {
                Error::damage(format!("after {} plain bytes: decompression failed: {error}", self.bytes)).into()
            }
        })?;
        self.bytes += size as u64;
        Ok(size)
    }
}

/// [`open`] with a tap on the stored bytes.
pub(crate) fn tapped(store: &Store, run: &str, object: &Object) -> (Tap, Tapped<Stored>) {
    let tap = Tap::default();
    let reader = tap.reader(open(store, run, object));
    (tap, reader)
}
