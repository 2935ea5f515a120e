//! One object of a run on its way into the store: compressed, sealed where the run is encrypted, cut into volumes where
//! objects may not be large. Owns suffixes and the order of these steps; what is in an object is the caller's.
//!
//! Memory: a frame; while it is sealed, [`SEAL_STEP`] more; with a limit of size, the first [`HELD_BYTES`] of an
//! object, which decide its name. An object dropped unfinished aborts its upload; volumes that were finished stay
//! behind, as other objects of a failed run do.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::format::manifest::{Object, Volume};
use crate::seal::compress::Compression;
use crate::seal::encrypt::{Recipients, Sealed};
use crate::seal::hash::hex;
use crate::store::{ObjectWriter, Plan, Store, WriteError};

/// Sealed at once; a row of hundreds of MiB is in memory as frame once, and as ciphertext in parts.
const SEAL_STEP: usize = 4 << 20;
/// Sealed where it is, without a thread of its own: 0.1 ms.
const SEAL_HERE: usize = 64 << 10;
/// Objects up to this size keep their plain name under any larger limit: what one upload request holds anyway.
const HELD_BYTES: u64 = 8 << 20;
/// Hashed before other tasks get a turn.
const HASH_STEP: usize = 1 << 20;

/// The place and form of objects.
#[derive(Clone)]
pub(crate) struct Target {
    /// The store.
    pub(crate) store: Store,
    /// `runs/<run>/`.
    pub(crate) prefix: String,
    /// The compression of text.
    pub(crate) compression: Compression,
    /// Public keys that everything but RESTORE.md and the manifest is sealed to.
    pub(crate) recipients: Option<Recipients>,
    /// Objects above so many stored bytes are cut into volumes.
    pub(crate) max_object_bytes: Option<u64>,
}

impl Target {
    /// The suffix of a compressed object's key: `.zst`, `.gz.age`, nothing.
    #[must_use]
    pub(crate) fn suffix(&self) -> String {
        format!("{}{}", self.compression.suffix(), self.seal_suffix())
    }

    fn seal_suffix(&self) -> &'static str {
        if self.recipients.is_some() { ".age" } else { "" }
    }

    /// Stores a whole object made from a text.
    pub(crate) async fn put_text(&self, stem: &str, text: Bytes) -> Result<Object> {
        let raw = text.len() as u64;
        let mut output = self.open(stem, raw)?;
        output.frame(self.compression.frame(&[text])?, raw).await?;
        Ok(output.finish().await?)
    }

    /// Stores an object that is not compressed, sealed all the same.
    pub(crate) async fn put_uncompressed(&self, stem: &str, body: Bytes) -> Result<Object> {
        let raw = body.len() as u64;
        let mut output = self.output(format!("{stem}{}", self.seal_suffix()), Compression::None, raw)?;
        output.frame(body, raw).await?;
        Ok(output.finish().await?)
    }

    /// Stores an object exactly as given, under exactly this key.
    pub(crate) async fn put_plain(&self, key: &str, body: Bytes) -> Result<Object> {
        let raw_bytes = body.len() as u64;
        let mut writer = self.store.writer(&format!("{}{key}", self.prefix), Plan { expected_bytes: raw_bytes });
        writer.write(body).await?;
        let stored = writer.finish().await?;
        Ok(Object { key: key.to_owned(), bytes: stored.bytes, sha256: stored.sha256, raw_bytes, volumes: Vec::new() })
    }

    /// Opens an object to be written piece by piece.
    pub(crate) fn open(&self, stem: &str, expected: u64) -> Result<Output> {
        self.output(format!("{stem}{}", self.suffix()), self.compression, expected)
    }

    fn output(&self, key: String, compression: Compression, expected: u64) -> Result<Output> {
        let seal = match &self.recipients {
            Some(recipients) => Seal::To(Some(recipients.seal()?)),
            None => Seal::Open,
        };
        let volumes = Volumes::new(self, key, expected);
        Ok(Output { volumes, seal, compression, raw: 0, framed: 0 })
    }
}

enum Seal {
    /// Not sealed.
    Open,
    /// Sealed; `None` after an error, so that nothing can go on unsealed.
    To(Option<Sealed>),
}

/// An object being written.
pub(crate) struct Output {
    volumes: Volumes,
    seal: Seal,
    compression: Compression,
    raw: u64,
    framed: u64,
}

impl Output {
    /// The compression frames of this object are made with.
    #[must_use]
    pub(crate) const fn compression(&self) -> Compression {
        self.compression
    }

    /// Bytes of all frames so far, before they are sealed.
    #[must_use]
    pub(crate) const fn framed(&self) -> u64 {
        self.framed
    }

    /// Bytes of the object that are in memory and not on their way yet.
    #[must_use]
    pub(crate) fn held(&self) -> usize {
        self.volumes.held()
    }

    /// Compresses a text into a frame of its own and writes it.
    pub(crate) async fn text(&mut self, text: Vec<u8>) -> Result<(), WriteError> {
        if text.is_empty() {
            return Ok(());
        }
        let raw = text.len() as u64;
        let frame = self.compression.frame(&[Bytes::from(text)])?;
        self.frame(frame, raw).await
    }

    /// Writes a frame of `raw` bytes that is in pieces.
    pub(crate) async fn pieces(&mut self, pieces: &[Bytes], raw: u64) -> Result<(), WriteError> {
        let mut left = raw;
        for piece in pieces {
            // All of a frame's text counts with its first piece.
            self.frame(piece.clone(), std::mem::take(&mut left)).await?;
        }
        Ok(())
    }

    /// Writes a frame of `raw` bytes.
    pub(crate) async fn frame(&mut self, mut frame: Bytes, raw: u64) -> Result<(), WriteError> {
        self.raw += raw;
        self.framed += frame.len() as u64;
        let Seal::To(sealed) = &mut self.seal else { return self.volumes.write(frame).await };
        while !frame.is_empty() {
            let part = frame.split_to(frame.len().min(SEAL_STEP));
            let ready = seal(sealed, part).await?;
            self.volumes.write(ready).await?;
        }
        Ok(())
    }

    /// Ends the object.
    pub(crate) async fn finish(mut self) -> Result<Object, WriteError> {
        if let Seal::To(sealed) = &mut self.seal {
            let sealed = sealed.take().ok_or_else(broken)?;
            self.volumes.write(sealed.finish()?).await?;
        }
        self.volumes.finish(self.raw).await
    }
}

fn broken() -> Error {
    Error::failed("encrypt: an earlier write failed")
}

async fn seal(slot: &mut Option<Sealed>, part: Bytes) -> Result<Bytes> {
    let mut sealed = slot.take().ok_or_else(broken)?;
    if part.len() <= SEAL_HERE {
        let ready = sealed.write(&part)?;
        *slot = Some(sealed);
        return Ok(ready);
    }
    let sealing = tokio::task::spawn_blocking(move || {
        let ready = sealed.write(&part)?;
        Ok::<_, Error>((sealed, ready))
    });
    let (sealed, ready) = sealing.await.map_err(|error| Error::failed(format!("encrypt: {error}")))??;
    *slot = Some(sealed);
    Ok(ready)
}

/// The stored bytes of an object: one object of the store, or numbered volumes whose concatenation it is.
///
/// With a limit an object keeps its name while it fits into [`HELD_BYTES`] and the limit; from there on it is volumes
/// `<key>.001`, `<key>.002`, ..., each but the last of exactly the limit: an upload's name cannot be changed later.
struct Volumes {
    target: Target,
    key: String,
    expected: u64,
    /// The bytes that were written while the name is open.
    held: Vec<Bytes>,
    held_bytes: u64,
    writer: Option<ObjectWriter>,
    /// Bytes of the open volume.
    filled: u64,
    done: Vec<Volume>,
    /// Of all volumes together; where there are none the writer counts.
    hash: Sha256,
    bytes: u64,
}

impl Volumes {
    fn new(target: &Target, key: String, expected: u64) -> Self {
        let mut volumes = Self {
            target: target.clone(),
            key,
            expected,
            held: Vec::new(),
            held_bytes: 0,
            writer: None,
            filled: 0,
            done: Vec::new(),
            hash: Sha256::new(),
            bytes: 0,
        };
        if target.max_object_bytes.is_none() {
            volumes.writer = Some(volumes.open(&volumes.key));
        }
        volumes
    }

    fn open(&self, key: &str) -> ObjectWriter {
        let expected_bytes = self.expected.min(self.target.max_object_bytes.unwrap_or(u64::MAX));
        self.target.store.writer(&format!("{}{key}", self.target.prefix), Plan { expected_bytes })
    }

    fn held(&self) -> usize {
        let waiting = usize::try_from(self.held_bytes).unwrap_or(usize::MAX);
        let held = if self.held.is_empty() { 0 } else { waiting };
        held + self.writer.as_ref().map_or(0, ObjectWriter::held)
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        let Some(limit) = self.target.max_object_bytes else {
            return match &mut self.writer {
                Some(writer) => writer.write(bytes).await,
                None => Err(Error::failed(format!("write {}: it is closed", self.key)).into()),
            };
        };
        if self.bytes > 0 {
            return self.split(bytes, limit).await;
        }
        self.held_bytes += bytes.len() as u64;
        self.held.push(bytes);
        if self.held_bytes > limit.min(HELD_BYTES) {
            for bytes in std::mem::take(&mut self.held) {
                self.split(bytes, limit).await?;
            }
        }
        Ok(())
    }

    async fn split(&mut self, mut bytes: Bytes, limit: u64) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let room = usize::try_from(limit - self.filled).unwrap_or(usize::MAX);
            let part = bytes.split_to(bytes.len().min(room).min(HASH_STEP));
            self.hash.update(&part);
            self.bytes += part.len() as u64;
            self.filled += part.len() as u64;
            let key = self.next_key();
            let mut writer = match self.writer.take() {
                Some(writer) => writer,
                None => self.open(&key),
            };
            writer.write(part).await?;
            if self.filled < limit {
                self.writer = Some(writer);
            } else {
                self.close(writer, key).await?;
            }
            if !bytes.is_empty() {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    fn next_key(&self) -> String {
        format!("{}.{:03}", self.key, self.done.len() + 1)
    }

    async fn close(&mut self, writer: ObjectWriter, key: String) -> Result<(), WriteError> {
        let stored = writer.finish().await?;
        self.done.push(Volume { key, bytes: stored.bytes, sha256: stored.sha256 });
        self.filled = 0;
        Ok(())
    }

    async fn finish(mut self, raw_bytes: u64) -> Result<Object, WriteError> {
        if self.bytes == 0 {
            let mut writer = match self.writer.take() {
                Some(writer) => writer,
                None => self.open(&self.key),
            };
            for bytes in std::mem::take(&mut self.held) {
                writer.write(bytes).await?;
            }
            let stored = writer.finish().await?;
            let (bytes, sha256) = (stored.bytes, stored.sha256);
            return Ok(Object { key: self.key, bytes, sha256, raw_bytes, volumes: Vec::new() });
        }
        if let Some(writer) = self.writer.take() {
            let key = self.next_key();
            self.close(writer, key).await?;
        }
        let key = self.done.first().map_or_else(String::new, |volume| volume.key.clone());
        let sha256 = hex(&self.hash.finalize());
        Ok(Object { key, bytes: self.bytes, sha256, raw_bytes, volumes: self.done })
    }
}
