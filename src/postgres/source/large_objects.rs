//! Reading large objects: many small ones a round trip, a large one in windows, instead of one round trip for each
//! 16 KiB as pg_dump does. `lo_get` checks the role's privilege on each object and reads on the snapshot.

use futures::StreamExt as _;

use crate::error::{Error, Result};
use crate::postgres::connect::stall::StallDetector;
use crate::postgres::error::failure;

/// An object up to this size comes in the round trip of its batch.
const SMALL: i32 = 256 << 10;
/// A larger object comes in windows of this size; the server holds a window twice.
const WINDOW: i32 = 2 << 20;
/// Most objects of one batch: at 256 KiB each the answer stays within 8 MiB unread on the wire.
const BATCH: usize = 128;

/// The receiver of a large object's content.
pub(crate) trait Sink: Send {
    /// A new object begins.
    fn begin(&mut self, oid: u32) -> impl Future<Output = Result<()>> + Send;
    /// The next bytes of it (never empty).
    fn bytes(&mut self, data: &[u8]) -> impl Future<Output = Result<()>> + Send;
    /// It ended.
    fn end(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// Reads these objects in this order, in the session's transaction. Memory: a window.
pub(crate) async fn read(stall_detector: StallDetector<'_>, oids: &[u32], sink: &mut impl Sink) -> Result<()> {
    let mut at = 0;
    let mut batch = BATCH;
    while at < oids.len() {
        let some = oids.get(at..oids.len().min(at + batch)).unwrap_or_default();
        let (taken, long) = read_batch(stall_detector, some, sink).await?;
        at += taken;
        // A long object ends its batch early and the rest of the answer is thrown away: ask for less after one.
        batch = if long { (batch / 4).max(1) } else { (batch * 2).min(BATCH) };
    }
    Ok(())
}

/// Reads up to and including the first long object; returns how many were read and whether one was long.
async fn read_batch(stall_detector: StallDetector<'_>, oids: &[u32], sink: &mut impl Sink) -> Result<(usize, bool)> {
    let client = &stall_detector.session.client;
    let fail = |e: &tokio_postgres::Error| failure(e).context("read large objects");
    let sql = "SELECT o, pg_catalog.lo_get(o, 0, $2) FROM pg_catalog.unnest($1::pg_catalog.oid[]) WITH ORDINALITY AS u(o, n) ORDER BY n";
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&oids, &SMALL];
    let rows = stall_detector.wait(client.query_raw(sql, parameters)).await?.map_err(|e| fail(&e))?;
    let mut rows = std::pin::pin!(rows);
    let mut taken = 0;
    while let Some(row) = stall_detector.wait(rows.next()).await? {
        let row = row.map_err(|e| fail(&e))?;
        let oid: u32 = row.get(0);
        let data: &[u8] = row.get(1);
        taken += 1;
        sink.begin(oid).await?;
        if !data.is_empty() {
            sink.bytes(data).await?;
        }
        if data.len() == usize::try_from(SMALL).unwrap_or(usize::MAX) {
            drop(row);
            // Give up the rest of this answer before asking on the same connection.
            while let Some(skipped) = stall_detector.wait(rows.next()).await? {
                skipped.map_err(|e| fail(&e))?;
            }
            read_windows(stall_detector, oid, sink).await?;
            sink.end().await?;
            return Ok((taken, true));
        }
        sink.end().await?;
    }
    if taken == oids.len() { Ok((taken, false)) } else { Err(Error::failed("read large objects: the answer is short")) }
}

async fn read_windows(stall_detector: StallDetector<'_>, oid: u32, sink: &mut impl Sink) -> Result<()> {
    let client = &stall_detector.session.client;
    let mut offset = i64::from(SMALL);
    loop {
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&oid, &offset, &WINDOW];
        let row = stall_detector.wait(client.query_one("SELECT pg_catalog.lo_get($1, $2, $3)", &parameters)).await?;
        let row = row.map_err(|e| failure(&e).context(format!("read large object {oid}")))?;
        let data: &[u8] = row.get(0);
        if data.is_empty() {
            return Ok(());
        }
        sink.bytes(data).await?;
        offset += i64::from(WINDOW);
    }
}
