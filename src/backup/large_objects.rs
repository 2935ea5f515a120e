//! `@large-objects.dump`: an archive with the large objects, in the blocks pg_dump's table of contents announces.

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3;

use crate::archive::compose;
use crate::archive::compose::Framing;
use crate::backup::plan::Plan;
use crate::backup::read::larger;
use crate::backup::run::Run;
use crate::error::{Error, Result};
use crate::format::layout;
use crate::format::manifest::LargeObjects;
use crate::objects::write::Output;
use crate::pipeline::rate::Meter;
use crate::postgres::connect::stall::StallDetector;
use crate::postgres::source::detect::GapKind;
use crate::postgres::source::large_objects::{Sink, read};
use crate::postgres::source::leader;
use crate::postgres::source::leader::Leader;
use crate::store::WriteError;

/// Contents are gathered into chunks and frames of about this size.
const FRAME_BYTES: usize = 2 << 20;
/// Times the whole object is written again when its connection is lost.
const ATTEMPTS: u32 = 3;

/// Stores the large objects.
pub(crate) async fn store(run: &Run, leader: &Leader, plan: &Plan) -> Result<LargeObjects> {
    let unreadable: HashSet<u32> = leader
        .detection
        .unreadable
        .iter()
        .filter(|u| u.kind == GapKind::LargeObject)
        .filter_map(|u| u.name.parse().ok())
        .collect();
    let mut blocks = plan.catalogue.large_object_blocks();
    for (_, oids) in &mut blocks {
        oids.retain(|oid| !unreadable.contains(oid));
    }
    if blocks.is_empty() {
        return Ok(LargeObjects { object: None, count: 0, bytes: 0, digest: None });
    }
    let mut attempt = 1;
    let mut expected = leader::large_object_bytes(&leader.session.client).await?;
    loop {
        match once(run, leader, plan, &blocks, expected).await {
            Ok(done) => return Ok(done),
            Err(Trouble::Lost(error)) if attempt < ATTEMPTS => {
                tracing::warn!("{error}; reading the large objects again");
                attempt += 1;
            }
            Err(Trouble::PartsExhausted(part_bytes)) => {
                tracing::warn!("{} needs larger parts than planned; writing it again", layout::LARGE_OBJECTS);
                expected = larger(part_bytes, run.options.form.max_parts);
            }
            Err(Trouble::Lost(error) | Trouble::Failed(error)) => return Err(error),
        }
    }
}

/// The reasons why an attempt failed.
enum Trouble {
    /// Its connection was lost.
    Lost(Error),
    /// The object came near the limit of parts of this size.
    PartsExhausted(u64),
    /// Anything else.
    Failed(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<WriteError> for Trouble {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::PartsExhausted { part_bytes, .. } => Self::PartsExhausted(part_bytes),
            WriteError::Failed(error) => Self::Failed(error),
        }
    }
}

async fn once(
    run: &Run,
    leader: &Leader,
    plan: &Plan,
    blocks: &[(i32, Vec<u32>)],
    expected: u64,
) -> Result<LargeObjects, Trouble> {
    let readers = run.readers(leader);
    let session = readers.on_snapshot().await.map_err(Trouble::Lost)?;
    let mut writer = Writer {
        output: run.target.open(layout::LARGE_OBJECTS, expected)?,
        framing: Framing::new(&plan.catalogue.meta),
        between: Vec::new(),
        data: BytesMut::new(),
        hash: Xxh3::new(),
        sum: 0,
        count: 0,
        bytes: 0,
        exhausted: None,
        meter: run.rate.meter(),
    };
    if let Err(error) = write(&mut writer, plan, blocks, readers.stall_detector(&session)).await {
        return Err(match writer.exhausted {
            Some(part_bytes) => Trouble::PartsExhausted(part_bytes),
            None if session.is_closed() => Trouble::Lost(error),
            None => Trouble::Failed(error),
        });
    }
    session.close().await;
    let object = writer.output.finish().await?;
    Ok(LargeObjects {
        object: Some(object),
        count: writer.count,
        bytes: writer.bytes,
        digest: Some(format!("xxh3-128-sum:{:032x}", writer.sum)),
    })
}

async fn write(writer: &mut Writer, plan: &Plan, blocks: &[(i32, Vec<u32>)], stall: StallDetector<'_>) -> Result<()> {
    let head = compose::head(&plan.catalogue.meta, plan.catalogue.large_objects())?;
    writer.text(head).await?;
    for (dump_id, oids) in blocks {
        writer.framing.begin_blobs(&mut writer.between, *dump_id);
        read(stall, oids, writer).await?;
        writer.framing.end(&mut writer.between);
    }
    writer.flush_between().await
}

struct Writer {
    output: Output,
    framing: Framing,
    between: Vec<u8>,
    data: BytesMut,
    hash: Xxh3,
    sum: u128,
    count: u64,
    bytes: u64,
    /// Size of the parts of which there are too many.
    exhausted: Option<u64>,
    meter: Meter,
}

impl Writer {
    /// Writes the gathered bytes as one chunk, in a frame of their own.
    async fn flush(&mut self) -> Result<()> {
        let data: Bytes = self.data.split().freeze();
        if data.is_empty() {
            return Ok(());
        }
        self.framing.chunk(&mut self.between, data.len())?;
        if data.len() < FRAME_BYTES {
            // Many small objects share a frame.
            self.between.extend_from_slice(&data);
            return if self.between.len() >= FRAME_BYTES { self.flush_between().await } else { Ok(()) };
        }
        self.flush_between().await?;
        let raw = data.len() as u64;
        let compression = self.output.compression();
        let compressed = tokio::task::spawn_blocking(move || compression.frame(&[data])).await;
        let frame = compressed.map_err(|error| Error::failed(format!("compress a large object: {error}")))??;
        let written = self.output.frame(frame, raw).await;
        self.note(written)
    }

    async fn flush_between(&mut self) -> Result<()> {
        let between = std::mem::take(&mut self.between);
        self.text(between).await
    }

    async fn text(&mut self, text: Vec<u8>) -> Result<()> {
        let written = self.output.text(text).await;
        self.note(written)
    }

    /// Remembers why a write failed: what reads the objects knows one kind of error only.
    fn note(&mut self, written: Result<(), WriteError>) -> Result<()> {
        if let Err(WriteError::PartsExhausted { part_bytes, .. }) = &written {
            self.exhausted = Some(*part_bytes);
        }
        Ok(written?)
    }
}

impl Sink for Writer {
    async fn begin(&mut self, oid: u32) -> Result<()> {
        self.framing.blob(&mut self.between, oid);
        self.hash.reset();
        self.hash.update(&oid.to_le_bytes());
        self.count += 1;
        Ok(())
    }

    async fn bytes(&mut self, data: &[u8]) -> Result<()> {
        self.meter.read(data.len()).await;
        self.hash.update(data);
        self.bytes += data.len() as u64;
        self.data.extend_from_slice(data);
        if self.data.len() >= FRAME_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn end(&mut self) -> Result<()> {
        self.flush().await?;
        self.sum = self.sum.wrapping_add(self.hash.digest128());
        self.framing.end(&mut self.between);
        Ok(())
    }
}
