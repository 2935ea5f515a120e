//! The objects a manifest names: their keys checked, their stored bytes as one stream, volumes put together, opened.

use std::io::{self, Read};
use std::ops::Range;
use std::pin::Pin;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::io::{AsyncRead, BufReader};
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

use crate::error::{Error, Result};
use crate::format::layout;
use crate::format::manifest::{AGE, Manifest, Object, Volume};
use crate::human;
use crate::seal::compress::Compression;
use crate::seal::decode;
use crate::seal::decode::Decoding;
use crate::seal::decrypt::Identities;
use crate::seal::hash::{Tap, Tapped};
use crate::store::Store;

/// Stored bytes of one object.
pub(crate) type Stored = Pin<Box<dyn AsyncRead + Send>>;

/// The way to open the objects of a run with these keys; a run that is not encrypted needs none.
///
/// # Errors
/// Kind `Usage` where keys are needed and missing, or are not among those the run was encrypted to; a format that is
/// unknown to this version.
pub(crate) fn decoding(manifest: &Manifest, identities: &Identities) -> Result<Decoding> {
    let compression: Compression = manifest.compression.parse().map_err(|_unknown: Error| {
        Error::failed(format!("compression {:?} is unknown to this version", manifest.compression))
            .hint("read the run with a newer pgstow")
    })?;
    let Some(encryption) = &manifest.encryption else { return Ok(Decoding::new(compression, None)) };
    if encryption.scheme != AGE {
        return Err(Error::failed(format!("encryption {:?} is unknown to this version", encryption.scheme))
            .hint("read the run with a newer pgstow"));
    }
    let public = identities.public();
    if public.iter().any(|key| encryption.recipients.contains(key)) {
        return Ok(Decoding::new(compression, Some(identities.clone())));
    }
    let error = if identities.is_empty() {
        Error::usage(format!("run {} is encrypted", manifest.run))
    } else {
        Error::usage(format!("run {} is not encrypted to {}", manifest.run, public.join(" or ")))
    };
    Err(error.hint(format!(
        "give the file with the secret key of {} by --identity or PGSTOW_IDENTITY",
        encryption.recipients.join(" or ")
    )))
}

/// True when a key can be a file below a folder and nowhere else.
pub(crate) fn safe(key: &str) -> bool {
    !key.is_empty()
        && !key.contains(['\\', '\0'])
        && key.split('/').all(|segment| !segment.is_empty() && segment != "." && segment != "..")
}

/// The stored bytes of an object, as many as the manifest says; each volume is requested when its turn comes.
pub(crate) fn open(store: &Store, run: &str, object: &Object) -> Stored {
    reader(store, run, cut(object, 0..object.bytes).into_iter().map(|(volume, range)| (volume, range, None)).collect())
}

/// Some of the stored bytes of an object, and the keys they are in.
pub(crate) fn range(store: &Store, run: &str, object: &Object, range: Range<u64>) -> (String, Stored) {
    let parts = cut(object, range);
    let keys: Vec<&str> = parts.iter().map(|(volume, _)| volume.key.as_str()).collect();
    let keys = keys.join(" and ");
    (keys, reader(store, run, parts.into_iter().map(|(volume, range)| (volume, range, None)).collect()))
}

/// The volumes that a range of an object is in, and where in them.
fn cut(object: &Object, range: Range<u64>) -> Vec<(Volume, Range<u64>)> {
    let mut parts = Vec::new();
    let mut begin = 0_u64;
    for volume in object.volumes() {
        let end = begin.saturating_add(volume.bytes);
        let (from, to) = (range.start.max(begin), range.end.min(end));
        if from < to {
            parts.push((volume, from - begin..to - begin));
        }
        begin = end;
    }
    parts
}

fn reader(store: &Store, run: &str, parts: Vec<(Volume, Range<u64>, Option<Tap>)>) -> Stored {
    let (store, run) = (store.clone(), run.to_owned());
    let bytes = stream::iter(parts)
        .then(move |(volume, range, tap)| {
            let (store, key) = (store.clone(), layout::in_run(&run, &volume.key));
            async move {
                let reader = store.read(&key, range).await.map_err(io::Error::from)?;
                let reader: Stored = match tap {
                    Some(tap) => Box::pin(tap.reader(reader)),
                    None => Box::pin(reader),
                };
                Ok::<_, io::Error>(ReaderStream::with_capacity(reader, decode::BUFFER))
            }
        })
        .try_flatten();
    Box::pin(StreamReader::new(bytes.boxed()))
}

/// The hashes of an object's stored bytes: as a whole, and of each volume where it has some.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    /// All bytes.
    pub(crate) whole: Tap,
    volumes: Vec<(Volume, Tap)>,
}

impl Watch {
    /// True when all bytes were seen and are the manifest's.
    pub(crate) fn is_sound(&self, object: &Object) -> bool {
        self.whole.bytes() == object.bytes && self.whole.sha256() == object.sha256
    }

    /// The place of damage: the first volume that was read to its end and is another one, else the one being read.
    pub(crate) fn blame(&self, object: &Object) -> String {
        let differs = |(volume, tap): &&(Volume, Tap)| tap.bytes() != volume.bytes || tap.sha256() != volume.sha256;
        self.volumes.iter().find(differs).map_or_else(|| object.key.clone(), |(volume, _)| volume.key.clone())
    }

    /// Every volume (or the object, where it has none) whose bytes are not the manifest's, once all were read.
    pub(crate) fn damaged(&self, object: &Object) -> Vec<String> {
        let differs = |(volume, tap): &&(Volume, Tap)| tap.bytes() != volume.bytes || tap.sha256() != volume.sha256;
        let keys: Vec<String> = self.volumes.iter().filter(differs).map(|(volume, _)| volume.key.clone()).collect();
        if keys.is_empty() && !self.is_sound(object) { vec![object.key.clone()] } else { keys }
    }
}

/// [`open`] with everything that passes being watched.
pub(crate) fn watched(store: &Store, run: &str, object: &Object) -> (Watch, Tapped<Stored>) {
    let mut watch = Watch { whole: Tap::default(), volumes: Vec::new() };
    let mut parts = Vec::new();
    for (volume, range) in cut(object, 0..object.bytes) {
        // Hashed once more only where there is more than one thing to tell apart.
        let tap = (!object.volumes.is_empty()).then(Tap::default);
        watch.volumes.extend(tap.iter().map(|tap| (volume.clone(), tap.clone())));
        parts.push((volume, range, tap));
    }
    let stored = watch.whole.reader(reader(store, run, parts));
    (watch, stored)
}

/// Most plain bytes of an object that is held in memory whole: roles, definitions, an index. The definitions of 20,000
/// tables are some 40 MiB. What is larger is a decompression bomb, or far beyond what was ever tried.
pub(crate) const LARGEST_IN_MEMORY: u64 = 1 << 30;

/// The most plain bytes that are read of an object that is held in memory whole: as many as the manifest says.
///
/// # Errors
/// Kind `Damage` where the manifest says too many.
pub(crate) fn most(object: &Object) -> Result<u64> {
    if object.raw_bytes <= LARGEST_IN_MEMORY {
        return Ok(object.raw_bytes);
    }
    let (key, size, most) = (object.whole_key(), human::size(object.raw_bytes), human::size(LARGEST_IN_MEMORY));
    Err(Error::damage(format!("{key}: the manifest says {size}, more than the {most} that are read at once")))
}

/// A whole object in memory, plain, verified.
///
/// # Errors
/// Kind `Damage`, with the key, for bytes that are not the manifest's or too many; what the store failed with.
pub(crate) async fn read(store: &Store, run: &str, object: &Object, decoding: &Decoding) -> Result<Vec<u8>> {
    let most = most(object)?;
    let (watch, stored) = watched(store, run, object);
    let (object, decoding) = (object.clone(), decoding.clone());
    let read = tokio::task::spawn_blocking(move || {
        let mut plain = Plain::new(stored, &decoding).at_most(most);
        let mut content = Vec::new();
        let read = plain.read_to_end(&mut content);
        settle(&watch, &object, read.map(drop).map_err(Error::from), plain.bytes)?;
        Ok(content)
    });
    read.await.map_err(|error| Error::failed(format!("read an object: {error}")))?
}

/// Checks that an object was read to its end and is the manifest's; an error of the store itself comes first.
pub(crate) fn settle(watch: &Watch, object: &Object, read: Result<()>, plain: u64) -> Result<()> {
    if let Some(failure) = watch.whole.store_failure() {
        return Err(failure.context(&object.key));
    }
    read.map_err(|error| error.context(watch.blame(object)))?;
    if !watch.is_sound(object) {
        let key = watch.blame(object);
        return Err(Error::damage(format!("{key}: its stored bytes are not the manifest's (SHA-256)")));
    }
    if plain != object.raw_bytes {
        let (key, said) = (object.whole_key(), object.raw_bytes);
        return Err(Error::damage(format!("{key}: {plain} plain bytes, the manifest says {said}")));
    }
    Ok(())
}

/// Plain bytes on a blocking thread. Counts them; a broken frame is an [`Error`] that says so.
pub(crate) struct Plain<'a> {
    inner: Box<dyn Read + 'a>,
    /// Plain bytes read.
    pub(crate) bytes: u64,
    /// Most plain bytes that may come.
    most: u64,
}

impl<'a> Plain<'a> {
    /// Opens and decodes on the calling thread, which must be one of `spawn_blocking`.
    pub(crate) fn new<R: AsyncRead + Send + Unpin + 'a>(stored: R, decoding: &Decoding) -> Self {
        Self { inner: Box::new(SyncIoBridge::new(decoding.decoder(stored))), bytes: 0, most: u64::MAX }
    }

    /// Decodes frames that are opened already, as [`Plain::new`].
    pub(crate) fn of_frames<R: AsyncRead + Send + Unpin + 'a>(frames: R, decoding: &Decoding) -> Self {
        let frames = BufReader::with_capacity(decode::BUFFER, frames);
        Self { inner: Box::new(SyncIoBridge::new(decoding.decompressed(frames))), bytes: 0, most: u64::MAX }
    }

    /// Decodes frames that are opened already, from a reader that blocks.
    pub(crate) fn of_blocking<R: Read + Send + 'a>(frames: R, decoding: &Decoding) -> Result<Self> {
        Ok(Self { inner: decoding.decompressed_blocking(frames)?, bytes: 0, most: u64::MAX })
    }

    /// Fails once more than so many plain bytes have come.
    pub(crate) const fn at_most(mut self, most: u64) -> Self {
        self.most = most;
        self
    }
}

impl Read for Plain<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.inner.read(buffer).map_err(|error| {
            if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Error>) {
                error
            } else {
                Error::damage(format!("after {} plain bytes: decompression failed: {error}", self.bytes)).into()
            }
        })?;
        self.bytes += size as u64;
        if self.bytes > self.most {
            return Err(Error::damage(format!("decompresses to more than the manifest's {} bytes", self.most)).into());
        }
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_found_in_the_volumes_it_crosses() {
        let volume = |number: u64, bytes| Volume { key: format!("x.{number:03}"), bytes, sha256: String::new() };
        let volumes = vec![volume(1, 10), volume(2, 10), volume(3, 4)];
        let object = Object { key: "x.001".to_owned(), bytes: 24, sha256: String::new(), raw_bytes: 24, volumes };
        let found = |range| cut(&object, range).into_iter().map(|(v, r)| (v.key, r)).collect::<Vec<_>>();
        let key = |number: u64| format!("x.{number:03}");
        assert_eq!(found(0..24), [(key(1), 0..10), (key(2), 0..10), (key(3), 0..4)]);
        assert_eq!(found(9..11), [(key(1), 9..10), (key(2), 0..1)]);
        assert_eq!(found(10..20), [(key(2), 0..10)]);
        assert_eq!(found(23..99), [(key(3), 3..4)]);
        assert_eq!(found(5..5), []);
        assert_eq!(object.whole_key(), "x");
    }
}
