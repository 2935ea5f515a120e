//! The large objects of a run, streamed from the store into `pg_restore`. The end of their archive is held back until all
//! of it was compared with the manifest, so that a damaged one is never completed.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use tokio::io::{AsyncRead, ReadBuf};

use crate::error::{Error, Result};
use crate::format::manifest::Object;
use crate::objects::read::Watch;
use crate::restore::work::Work;
use crate::seal::decode;

/// Up to so many large objects are restored in one transaction: each takes a lock.
const BLOBS_AT_ONCE: u64 = 2_000;

impl Work<'_> {
    /// Streams the large objects into `pg_restore`. The end of the archive is held back until its SHA-256 was compared.
    pub(crate) async fn large_objects(&self, object: &Object, more: &[&str]) -> Result<()> {
        let (watch, stored) = self.run.watched(object);
        let plain = self.run.opening.decoder(stored);
        let (watched, damage) = (watch.clone(), Arc::new(Mutex::new(None)));
        let mut held = HeldBack {
            inner: plain,
            last: Vec::new(),
            ended: false,
            object: object.clone(),
            watch,
            damage: Arc::clone(&damage),
        };
        let mut arguments = more.to_vec();
        if self.run.manifest.large_objects.count <= BLOBS_AT_ONCE {
            arguments.push("--single-transaction");
        }
        let arguments = self.owned(&arguments);
        let result = self.pg_restore.pipe("restore large objects", &arguments, &mut held).await;
        if let Some(failure) = watched.whole.store_failure() {
            return Err(failure.context(&object.key));
        }
        let damaged = damage.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(damaged) = damaged {
            return Err(damaged);
        }
        result?;
        self.note(|report| report.large_objects = self.run.manifest.large_objects.count);
        Ok(())
    }
}

/// Plain bytes of an object, the last of which come only when the whole object was compared with the manifest. What
/// is damaged so ends early, and who reads it fails.
struct HeldBack<R> {
    inner: R,
    last: Vec<u8>,
    ended: bool,
    object: Object,
    watch: Watch,
    damage: Arc<Mutex<Option<Error>>>,
}

impl<R: AsyncRead + Unpin> AsyncRead for HeldBack<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while !self.ended {
            // Two readings are held, so that the one before the last can be given out.
            let mut buffer = vec![0; decode::BUFFER.min(out.remaining())];
            let mut read = ReadBuf::new(&mut buffer);
            let damage = match Pin::new(&mut self.inner).poll_read(context, &mut read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if read.filled().is_empty() => (!self.watch.is_sound(&self.object))
                    .then(|| "its stored bytes are not the manifest's (SHA-256)".to_owned()),
                Poll::Ready(Ok(())) => {
                    let new = read.filled().to_vec();
                    let before = std::mem::replace(&mut self.last, new);
                    if before.is_empty() {
                        continue;
                    }
                    out.put_slice(&before);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => Some(format!("does not decode: {error}")),
            };
            self.ended = true;
            if let Some(why) = damage {
                self.last.clear();
                let error = Error::damage(format!("{}: {why}", self.watch.blame(&self.object)));
                *self.damage.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
            }
        }
        let last = std::mem::take(&mut self.last);
        let now = last.len().min(out.remaining());
        let (given, kept) = last.split_at(now);
        out.put_slice(given);
        self.last = kept.to_vec();
        Poll::Ready(Ok(()))
    }
}
