//! Streaming one object into a store: the part of it that is the same for every store (hash, count, wording).

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::seal::hash::hex;
use crate::store::object::{Stored, WriteError};
use crate::store::{dir, s3};

/// Bytes hashed before other tasks get a turn: under 1 ms with SHA instructions, 5 ms without.
const HASH_STEP: usize = 1 << 20;

/// Writes one object. It appears when [`ObjectWriter::finish`] returns, and not at all otherwise: dropped unfinished,
/// the writer removes what it left in a task that [`crate::store::Store::drain`] waits for.
///
/// Memory: up to one part of its own, and its share of the 32 MiB that all writers of a store may have in flight.
pub struct ObjectWriter {
    sink: Sink,
    hash: Sha256,
    bytes: u64,
}

enum Sink {
    Dir(dir::Writer),
    S3(Box<s3::Writer>),
}

impl ObjectWriter {
    pub(crate) fn dir(writer: dir::Writer) -> Self {
        Self { sink: Sink::Dir(writer), hash: Sha256::new(), bytes: 0 }
    }

    pub(crate) fn s3(writer: s3::Writer) -> Self {
        Self { sink: Sink::S3(Box::new(writer)), hash: Sha256::new(), bytes: 0 }
    }

    /// Appends bytes. Waits while too many are in flight. Not cancel-safe: after a dropped call the writer can only
    /// be aborted or dropped.
    ///
    /// # Errors
    /// After an error the writer has removed what it stored; further calls fail too.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let step = rest.split_to(rest.len().min(HASH_STEP));
            self.hash.update(&step);
            if !rest.is_empty() {
                tokio::task::yield_now().await;
            }
        }
        self.bytes += bytes.len() as u64;
        match &mut self.sink {
            Sink::Dir(writer) => Ok(writer.write(bytes).await?),
            Sink::S3(writer) => Box::pin(writer.write(bytes)).await,
        }
    }

    /// Makes the object appear, durably: one PUT for a small object, else the end of the multipart upload.
    ///
    /// # Errors
    /// After an error nothing of the object is left.
    pub async fn finish(self) -> Result<Stored, WriteError> {
        match self.sink {
            Sink::Dir(writer) => writer.finish().await?,
            Sink::S3(writer) => Box::pin(writer.finish()).await?,
        }
        Ok(Stored { bytes: self.bytes, sha256: hex(&self.hash.finalize()) })
    }

    /// Removes what was stored, best effort: a failure is logged.
    pub async fn abort(self) {
        match self.sink {
            Sink::Dir(writer) => writer.abort().await,
            Sink::S3(writer) => Box::pin(writer.abort()).await,
        }
    }

    /// Bytes in memory that are not on their way yet.
    pub(crate) fn held(&self) -> usize {
        match &self.sink {
            Sink::Dir(writer) => writer.held(),
            Sink::S3(writer) => writer.held(),
        }
    }

    /// Size of the parts this object is stored in.
    #[must_use]
    pub fn part_bytes(&self) -> u64 {
        match &self.sink {
            Sink::Dir(_) => dir::FLUSH_BYTES as u64,
            Sink::S3(writer) => writer.part_bytes(),
        }
    }
}
