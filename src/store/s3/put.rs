//! Storing a small object in one request: under a condition, compared with the server's ETag, and, for the objects of
//! runs, only where nothing is stored yet.
//!
//! The objects of a run are written once. `If-None-Match: *` says so to the server: one that honours it lets nobody
//! replace an object by mistake, and a policy can demand it of a key. A retry whose first answer was lost meets its own
//! object then, and compares.

use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use md5::{Digest as _, Md5};

use crate::error::{Error, Result};
use crate::format::layout;
use crate::seal::hash::hex;
use crate::store::s3::attempt::{Progress, ended};
use crate::store::s3::failure::Failure;
use crate::store::s3::server::{IN_FLIGHT_BYTES, IS_MD5, NOT_MD5, S3, SINGLE_PUT, UNKNOWN};
use crate::store::{Condition, ObjectInfo, Put};

/// Nothing went wrong yet; an answer was lost; something else than what was sent may be stored.
const SENT: u8 = 0;
const LOST: u8 = 1;
const CORRUPTED: u8 = 2;

impl S3 {
    /// True where an object is written under the condition that there is none.
    pub(super) fn writes_once(&self, key: &str) -> bool {
        layout::is_of_a_run(key) && self.conditions.load(Ordering::Relaxed)
    }

    pub(crate) async fn put(&self, key: &str, body: Bytes, condition: &Condition) -> Result<Put> {
        self.refuse_past()?;
        let full = self.full(key)?;
        let once = *condition == Condition::None && self.writes_once(key);
        let condition = if once { &Condition::Absent } else { condition };
        let before = AtomicU8::new(SENT);
        let stored = self
            .tried_raw(self.attempts, |_tries| async {
                // What the server got wrong is replaced.
                let replaces = once && before.load(Ordering::Relaxed) == CORRUPTED;
                let stored = self.put_once(&full, &body, if replaces { &Condition::None } else { condition }).await;
                if let Err(failure) = &stored {
                    let now = if failure.is_corrupted() { CORRUPTED } else { u8::from(failure.ambiguous) * LOST };
                    before.fetch_max(now, Ordering::Relaxed);
                }
                stored
            })
            .await;
        match stored {
            Ok(etag) => Ok(Put::Stored { etag }),
            // Some stores know no conditions and say so (Backblaze B2): as good as one that ignores them.
            Err(failure) if *condition != Condition::None && failure.is_not_implemented() => {
                self.conditions.store(false, Ordering::Relaxed);
                Box::pin(self.put(key, body, &Condition::None)).await
            }
            Err(failure) if *condition != Condition::None && failure.is_refusal() => {
                // An answer was lost: the refusal may be about our own object. An object of a run that is the same is as
                // good as written, whoever wrote it.
                if (once || before.load(Ordering::Relaxed) == LOST) && self.is_own(key, &body).await? {
                    return Ok(Put::Stored { etag: self.look_up(key).await?.and_then(|found| found.etag) });
                }
                if once && failure.is_absent() {
                    return Err(self.error("write", key, &failure));
                }
                if once { Err(self.taken(key)) } else { Ok(Put::Refused) }
            }
            Err(failure) => Err(self.error("write", key, &failure)),
        }
    }

    /// Compares an object with what was sent; a key that may not read it compares size and ETag.
    async fn is_own(&self, key: &str, body: &Bytes) -> Result<bool> {
        if let Ok(found) = self.get(key).await {
            return Ok(found.as_ref() == Some(body));
        }
        let Some(found) = self.look_up(key).await? else { return Ok(false) };
        let etag = found.etag.as_deref().unwrap_or_default().trim_matches('"').to_owned();
        let is_md5 = self.etags.load(Ordering::Relaxed) == IS_MD5;
        let same = etag.is_empty() || !is_md5 || etag.eq_ignore_ascii_case(&hex(&Md5::digest(body)));
        Ok(found.bytes == body.len() as u64 && same)
    }

    /// The facts about an object, from a list where the key may not ask for the object itself.
    pub(super) async fn look_up(&self, key: &str) -> Result<Option<ObjectInfo>> {
        match self.head(key).await {
            Ok(found) => Ok(found),
            Err(denied) => {
                let listed = self.list(key).await.map_err(|_also_denied| denied)?;
                Ok(listed.into_iter().find(|found| found.key == key))
            }
        }
    }

    /// The error for an object that is there before it was written.
    pub(super) fn taken(&self, key: &str) -> Error {
        Error::failed(format!("{}: write {key}: somebody else has stored an object of this name", self.describe()))
            .hint("names of runs are random: look at who can write to the store")
    }

    async fn put_once(&self, full: &str, body: &Bytes, condition: &Condition) -> Result<Option<String>, Failure> {
        let weight = u32::try_from(body.len().min(IN_FLIGHT_BYTES)).unwrap_or(u32::MAX);
        let _allowed = self.bytes.acquire_many(weight).await.map_err(|error| Failure::of(&error))?;
        let turn = self.flight.turn().await.map_err(|error| Failure::of(&error))?;
        let md5 = self.md5(body);
        let request = self.put_request(full, body);
        let request = match condition {
            Condition::None => request,
            Condition::Absent => request.if_none_match("*"),
            Condition::Matches(etag) => request.if_match(etag),
        };
        let progress = Progress::default();
        let request = request.customize().interceptor(progress.interceptor(body)).send();
        let answer = ended(turn, self.watch(&progress, request).await)?;
        if body.len() <= SINGLE_PUT {
            self.compare(answer.e_tag.as_deref(), md5.as_deref())?;
        }
        Ok(answer.e_tag)
    }

    /// MD5 of a body in hex, while this store's etags may be MD5 sums.
    pub(super) fn md5(&self, body: &[u8]) -> Option<String> {
        (self.etags.load(Ordering::Relaxed) != NOT_MD5).then(|| hex(&Md5::digest(body)))
    }

    /// Compares an etag with the body's MD5, or learns from the first one whether that can be done. True when the
    /// etag is the MD5.
    pub(super) fn compare(&self, etag: Option<&str>, md5: Option<&str>) -> Result<bool, Failure> {
        let (Some(etag), Some(md5)) = (etag, md5) else { return Ok(false) };
        let same = etag.trim_matches('"').eq_ignore_ascii_case(md5);
        let learnt = if same { IS_MD5 } else { NOT_MD5 };
        let known = self
            .etags
            .compare_exchange(UNKNOWN, learnt, Ordering::Relaxed, Ordering::Relaxed)
            .map_or_else(|known| known, |_unknown| learnt);
        if known == IS_MD5 && !same { Err(Failure::corrupted()) } else { Ok(same) }
    }
}
