//! One object sent in parts while it is made: uniform parts (R2 wants them), several in flight, each retried from
//! memory; never left open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use md5::{Digest as _, Md5};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::task::TaskTracker;

use crate::error::{Error, Result};
use crate::seal::hash::hex;
use crate::store::s3::attempt::{Progress, ended};
use crate::store::s3::failure::Failure;
use crate::store::s3::server::{IN_FLIGHT_BYTES, S3, SINGLE_PUT};
use crate::store::{Condition, Plan, WriteError};

/// Servers put large objects together before they answer: so many stall timeouts (10 minutes by default).
const COMPLETE: u32 = 20;
/// First size of a part's buffer; it doubles, so that small objects stay small ...
const FIRST_BUFFER: usize = 16 << 10;
/// ... up to this size, after which it is a whole part's: doubling copies, and holds both buffers while it does.
const LAST_DOUBLED: usize = 512 << 10;

/// One object on its way.
pub(crate) struct Writer {
    s3: Arc<S3>,
    key: String,
    part_bytes: usize,
    buffer: Vec<u8>,
    upload: Upload,
    /// The answer to a request for an upload was lost: the server may have one whose id nobody knows.
    strays: Arc<AtomicBool>,
    sent: i32,
    total: u64,
    sending: JoinSet<Result<Part, Failure>>,
    done: Vec<Part>,
    failed: bool,
    cleaners: TaskTracker,
}

/// The multipart upload; made by a task of its own, so that its id is known even when the caller goes away.
enum Upload {
    None,
    Asked(JoinHandle<Result<String, Failure>>),
    Open(String),
}

struct Part {
    number: i32,
    etag: Option<String>,
    /// In hex, where the etag was this sum.
    md5: Option<String>,
}

impl Writer {
    pub(crate) fn new(s3: Arc<S3>, key: &str, plan: Plan, cleaners: TaskTracker) -> Self {
        let part_bytes = usize::try_from(part_bytes(plan.expected_bytes, s3.part_bytes, s3.max_parts));
        Self {
            part_bytes: part_bytes.unwrap_or(usize::MAX),
            s3,
            key: key.to_owned(),
            buffer: Vec::new(),
            upload: Upload::None,
            strays: Arc::default(),
            sent: 0,
            total: 0,
            sending: JoinSet::new(),
            done: Vec::new(),
            failed: false,
            cleaners,
        }
    }

    pub(crate) fn held(&self) -> usize {
        self.buffer.capacity()
    }

    pub(crate) fn part_bytes(&self) -> u64 {
        self.part_bytes as u64
    }

    pub(crate) async fn write(&mut self, mut bytes: Bytes) -> Result<(), WriteError> {
        self.usable()?;
        while !bytes.is_empty() {
            if self.buffer.len() == self.part_bytes {
                self.send().await?;
            }
            let taken = bytes.len().min(self.part_bytes - self.buffer.len());
            self.room(taken);
            self.buffer.extend_from_slice(&bytes.split_to(taken));
            self.total += taken as u64;
        }
        Ok(())
    }

    fn usable(&self) -> Result<()> {
        if self.failed { Err(Error::failed(format!("write {}: an earlier write failed", self.key))) } else { Ok(()) }
    }

    /// Grows the buffer, never beyond a part.
    fn room(&mut self, more: usize) {
        let (needed, room) = (self.buffer.len() + more, self.buffer.capacity());
        if needed > room {
            let is_long = self.sent > 0 || needed > LAST_DOUBLED;
            let wanted = if is_long { self.part_bytes } else { needed.max(room * 2).max(FIRST_BUFFER) };
            self.buffer.reserve_exact(wanted.min(self.part_bytes) - self.buffer.len());
        }
    }

    /// Sends the buffer as the next part; after an error nothing of the upload is left.
    async fn send(&mut self) -> Result<(), WriteError> {
        let sent = self.send_part().await;
        if sent.is_err() {
            self.failed = true;
            self.remove().await;
        }
        sent
    }

    async fn send_part(&mut self) -> Result<(), WriteError> {
        let most = (u64::from(self.s3.max_parts) * 9 / 10).max(1);
        if u64::try_from(self.sent).unwrap_or(0) >= most {
            return Err(WriteError::PartsExhausted { key: self.key.clone(), part_bytes: self.part_bytes() });
        }
        let id = self.open().await?;
        while let Some(part) = self.sending.try_join_next() {
            self.arrived(part)?;
        }
        self.sent += 1;
        let body = Bytes::from(std::mem::take(&mut self.buffer));
        // A part larger than the whole allowance waits for all of it: it still goes.
        let weight = u32::try_from(body.len().min(IN_FLIGHT_BYTES)).unwrap_or(u32::MAX);
        let allowance = Arc::clone(&self.s3.bytes);
        let allowed = allowance.acquire_many_owned(weight).await.map_err(|error| Error::failed(error.to_string()))?;
        let (s3, full, number) = (Arc::clone(&self.s3), self.s3.full(&self.key)?, self.sent);
        self.sending.spawn(async move {
            let _allowed = allowed;
            s3.tried_raw(s3.attempts, |_tries| part(&s3, &full, &id, number, &body)).await
        });
        Ok(())
    }

    /// The upload's id; asks for one before the first part.
    async fn open(&mut self) -> Result<String> {
        if let Upload::Open(id) = &self.upload {
            return Ok(id.clone());
        }
        if let Upload::None = self.upload {
            let (s3, full) = (Arc::clone(&self.s3), self.s3.full(&self.key)?);
            let strays = Arc::clone(&self.strays);
            self.upload = Upload::Asked(tokio::spawn(async move { create(&s3, &full, &strays).await }));
        }
        let Upload::Asked(asked) = &mut self.upload else { return Err(Error::failed("the upload is closed")) };
        let answer = asked.await;
        self.upload = Upload::None;
        let id = match answer {
            Ok(Ok(id)) => id,
            Ok(Err(failure)) => return Err(self.s3.error("begin to write", &self.key, &failure)),
            Err(error) => return Err(Error::failed(format!("write {}: {error}", self.key))),
        };
        self.upload = Upload::Open(id.clone());
        Ok(id)
    }

    fn arrived(&mut self, part: Result<Result<Part, Failure>, tokio::task::JoinError>) -> Result<()> {
        match part {
            Ok(Ok(part)) => self.done.push(part),
            Ok(Err(failure)) => return Err(self.s3.error("write", &self.key, &failure)),
            Err(error) => return Err(Error::failed(format!("write {}: {error}", self.key))),
        }
        Ok(())
    }

    pub(crate) async fn finish(mut self) -> Result<(), WriteError> {
        self.usable()?;
        if self.sent == 0 && self.buffer.len() <= SINGLE_PUT {
            let body = Bytes::from(std::mem::take(&mut self.buffer));
            self.s3.put(&self.key, body, &Condition::None).await?;
            return Ok(());
        }
        if !self.buffer.is_empty() {
            self.send().await?;
        }
        let completed = self.complete().await;
        if completed.is_err() {
            self.remove().await;
        } else {
            self.upload = Upload::None;
            if self.strays.load(Ordering::Relaxed) {
                remove_strays(&self.s3, &self.key).await;
            }
        }
        Ok(completed?)
    }

    async fn complete(&mut self) -> Result<()> {
        while let Some(part) = self.sending.join_next().await {
            self.arrived(part)?;
        }
        let id = self.open().await?;
        let full = self.s3.full(&self.key)?;
        self.done.sort_by_key(|part| part.number);
        let parts = self
            .done
            .iter()
            .map(|part| CompletedPart::builder().part_number(part.number).set_e_tag(part.etag.clone()).build());
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        let s3 = &self.s3;
        let patience = s3.stall * COMPLETE;
        let mut answer_lost = false;
        let mut tries = 0;
        loop {
            let (once, with) = (s3.writes_once(&self.key), s3.connection());
            let request = s3
                .client()
                .complete_multipart_upload()
                .bucket(&s3.bucket)
                .key(&full)
                .upload_id(&id)
                .set_if_none_match(once.then(|| "*".to_owned()))
                .multipart_upload(parts.clone())
                .send();
            let Err(mut failure) = s3.watch_for(patience, &Progress::default(), request).await else { return Ok(()) };
            if tries < s3.attempts && s3.renews(&with, &failure).await {
                tries += 1;
                continue;
            }
            if once && failure.is_not_implemented() {
                s3.conditions.store(false, Ordering::Relaxed);
                continue;
            }
            tries += 1;
            failure.attempts = tries;
            answer_lost |= failure.ambiguous;
            if !failure.retry || tries >= s3.attempts {
                // The first failure is the one to tell, whatever asking for the object says.
                if answer_lost && self.is_there().await.unwrap_or(false) {
                    return Ok(());
                }
                if once && failure.status == Some(412) {
                    return Err(s3.taken(&self.key));
                }
                return Err(s3.error("finish", &self.key, &failure));
            }
            crate::store::s3::attempt::pause(tries).await;
        }
    }

    /// True when the object in the store is the one just sent: the answer that said so was lost.
    async fn is_there(&self) -> Result<bool> {
        let Some(found) = self.s3.look_up(&self.key).await? else { return Ok(false) };
        let sums: Option<Vec<&str>> = self.done.iter().map(|part| part.md5.as_deref()).collect();
        let etag = found.etag.as_deref().unwrap_or_default().trim_matches('"').to_owned();
        let same = match sums {
            // The usual form of an etag made of parts: MD5 of their MD5 sums, and their number.
            Some(sums) if etag.contains('-') => etag.eq_ignore_ascii_case(&of_parts(&sums)),
            _ => true,
        };
        Ok(found.bytes == self.total && same)
    }

    pub(crate) async fn abort(mut self) {
        self.remove().await;
    }

    async fn remove(&mut self) {
        self.buffer = Vec::new();
        self.sending.abort_all();
        let (upload, sending) = (std::mem::replace(&mut self.upload, Upload::None), std::mem::take(&mut self.sending));
        // A task of its own: it goes on when the caller goes away.
        let strays = Arc::clone(&self.strays);
        let cleaning = self.cleaners.spawn(clean(Arc::clone(&self.s3), self.key.clone(), upload, sending, strays));
        if cleaning.await.is_err() {
            tracing::warn!(key = %self.key, "an upload may be left open");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let upload = std::mem::replace(&mut self.upload, Upload::None);
        if let Upload::None = upload {
            return;
        }
        self.sending.abort_all();
        let sending = std::mem::take(&mut self.sending);
        if tokio::runtime::Handle::try_current().is_err() {
            tracing::warn!(key = %self.key, "an upload is left open: the program has ended before it");
            return;
        }
        let strays = Arc::clone(&self.strays);
        self.cleaners.spawn(clean(Arc::clone(&self.s3), self.key.clone(), upload, sending, strays));
    }
}

/// Ends the parts still on their way, then the upload; a failure is logged.
async fn clean(
    s3: Arc<S3>,
    key: String,
    upload: Upload,
    mut sending: JoinSet<Result<Part, Failure>>,
    strays: Arc<AtomicBool>,
) {
    while sending.join_next().await.is_some() {}
    let id = match upload {
        Upload::None => None,
        Upload::Open(id) => Some(id),
        Upload::Asked(asked) => asked.await.ok().and_then(Result::ok),
    };
    if let Some(id) = id
        && let Err(error) = Box::pin(s3.abort(&key, &id)).await
    {
        tracing::warn!(%error, "an upload is left open");
    }
    if strays.load(Ordering::Relaxed) {
        remove_strays(&s3, &key).await;
    }
}

/// Removes the uploads of a key that this writer began without learning their ids. No other writer has the key: it is
/// below the run's own prefix.
async fn remove_strays(s3: &S3, key: &str) {
    let removed = async {
        for upload in
            Box::pin(s3.uploads(key)).await?.unwrap_or_default().into_iter().filter(|upload| upload.key == key)
        {
            Box::pin(s3.abort(key, &upload.id)).await?;
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = removed.await {
        tracing::warn!(%error, "an upload may be left open");
    }
}

async fn create(s3: &S3, full: &str, strays: &AtomicBool) -> Result<String, Failure> {
    s3.tried_raw(s3.attempts, |_tries| async {
        s3.begin_upload(full).await.inspect_err(|failure| {
            if failure.ambiguous {
                strays.store(true, Ordering::Relaxed);
            }
        })
    })
    .await
}

async fn part(s3: &S3, full: &str, id: &str, number: i32, body: &Bytes) -> Result<Part, Failure> {
    let turn = s3.flight.turn().await.map_err(|error| Failure::of(&error))?;
    let md5 = s3.md5(body);
    let progress = Progress::default();
    let request = s3.part_request(full, id, number, body).customize().interceptor(progress.interceptor(body)).send();
    let answer = ended(turn, s3.watch(&progress, request).await)?;
    let checked = s3.compare(answer.e_tag.as_deref(), md5.as_deref())?;
    Ok(Part { number, etag: answer.e_tag, md5: md5.filter(|_| checked) })
}

fn of_parts(sums: &[&str]) -> String {
    let mut all = Md5::new();
    for sum in sums {
        let bytes: Vec<u8> = (0..sum.len())
            .step_by(2)
            .filter_map(|at| sum.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
            .collect();
        all.update(bytes);
    }
    format!("{}-{}", hex(&all.finalize()), sums.len())
}

/// Uniform size of the parts: 1.5 times the expected bytes fit into the parts allowed, in whole MiB.
fn part_bytes(expected: u64, least: u64, max_parts: u32) -> u64 {
    let needed = expected.saturating_add(expected / 2).div_ceil(u64::from(max_parts.max(1)));
    least.max(needed.div_ceil(1 << 20) << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn parts_hold_the_expected_bytes_with_room_and_are_whole_mebibytes() {
        assert_eq!(part_bytes(0, 8 * MIB, 10_000), 8 * MIB);
        assert_eq!(part_bytes(50_000 * MIB, 8 * MIB, 10_000), 8 * MIB);
        assert_eq!(part_bytes(100_000 * MIB, 8 * MIB, 10_000), 15 * MIB);
        assert_eq!(part_bytes(100_000 * MIB + 1, 8 * MIB, 10_000), 16 * MIB);
        assert_eq!(part_bytes(1_000 * MIB, 5 * MIB, 100), 15 * MIB);
    }
}
