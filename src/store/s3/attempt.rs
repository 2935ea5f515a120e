//! One request, tried until it works or it makes no sense to go on, and watched while its bytes move. Whether another
//! attempt makes sense is a fact of the failure (`failure.rs`).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::error::Result;
use crate::store::s3::S3;
use crate::store::s3::failure::{Failure, causes};
use crate::store::s3::flight::Turn;

/// First pause between attempts, doubled each time up to [`LONGEST`], with jitter: 8 attempts span about a minute.
const PAUSE: Duration = Duration::from_millis(300);
/// Times that credentials are looked for again for one request.
const RENEWALS: u32 = 2;
const LONGEST: Duration = Duration::from_secs(20);
/// A body goes to the connection in slices of this size, so that a stall is seen within a part.
const SLICE: usize = 64 << 10;
/// Once a body is handed over, the kernel's buffers still have to drain and the server has to store it.
const ANSWER: u32 = 4;

impl S3 {
    /// Tries until it works; the failure becomes the error that a person reads.
    pub(crate) async fn tried<T, F, A>(&self, operation: &str, key: &str, attempts: u32, call: F) -> Result<T>
    where
        F: FnMut(u32) -> A,
        A: Future<Output = Result<T, Failure>>,
    {
        self.tried_raw(attempts, call).await.map_err(|failure| self.error(operation, key, &failure))
    }

    /// Tries until it works, makes no sense any more, or `attempts` are used; the call gets the number of attempts
    /// that came before.
    pub(crate) async fn tried_raw<T, F, A>(&self, attempts: u32, mut call: F) -> Result<T, Failure>
    where
        F: FnMut(u32) -> A,
        A: Future<Output = Result<T, Failure>>,
    {
        let (mut tries, mut renewals) = (0, 0);
        loop {
            let with = self.connection();
            match call(tries).await {
                Ok(done) => return Ok(done),
                Err(mut failure) => {
                    if renewals < RENEWALS && self.renews(&with, &failure).await {
                        renewals += 1;
                        continue;
                    }
                    tries += 1;
                    failure.attempts = tries;
                    if !failure.retry || tries >= attempts {
                        return Err(failure);
                    }
                    tracing::debug!(store = %self.describe(), tries, failure = %failure.message, "trying again");
                    pause(tries).await;
                }
            }
        }
    }

    /// Runs one request; gives up when not a byte moved for the stall timeout.
    pub(crate) async fn watch<T, E, A>(&self, progress: &Progress, request: A) -> Result<T, Failure>
    where
        A: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        self.watch_for(self.stall, progress, request).await
    }

    /// Like [`S3::watch`] with another patience.
    pub(crate) async fn watch_for<T, E, A>(
        &self,
        stall: Duration,
        progress: &Progress,
        request: A,
    ) -> Result<T, Failure>
    where
        A: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let mut request = Box::pin(request);
        loop {
            let (quiet, patience) = progress.quiet(stall);
            if quiet >= patience {
                return Err(Failure::new(format!("not a byte moved for {} s", patience.as_secs_f32()), true));
            }
            if let Ok(answer) = tokio::time::timeout(patience.saturating_sub(quiet), &mut request).await {
                return answer.map_err(Failure::from);
            }
        }
    }

    /// The next bytes of an answer's body.
    pub(crate) async fn chunk(&self, body: &mut ByteStream) -> Result<Option<Bytes>, Failure> {
        match tokio::time::timeout(self.stall, body.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
            Ok(Some(Err(error))) => Err(Failure::new(causes(&error), true)),
            Err(_elapsed) => Err(Failure::new(format!("not a byte moved for {} s", self.stall.as_secs_f32()), true)),
        }
    }
}

/// Ends the turn of a request with its answer.
pub(super) fn ended<T>(turn: Turn<'_>, answer: Result<T, Failure>) -> Result<T, Failure> {
    match &answer {
        Ok(_) => turn.answered(false),
        Err(failure) if failure.is_throttled() => turn.answered(true),
        Err(_) => {}
    }
    answer
}

/// Waits before the next attempt.
pub(crate) async fn pause(tries: u32) {
    let longest = PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(LONGEST);
    tokio::time::sleep(longest.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
}

/// The moment when the last byte of a request's body moved.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    begun: Instant,
    shared: Arc<Moved>,
}

#[derive(Debug, Default)]
struct Moved {
    /// Milliseconds after `begun`.
    last: AtomicU64,
    /// Bytes that the connection has not taken yet.
    left: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { begun: Instant::now(), shared: Arc::default() }
    }
}

impl Progress {
    /// The time without movement, and its limit now.
    fn quiet(&self, stall: Duration) -> (Duration, Duration) {
        let last = Duration::from_millis(self.shared.last.load(Ordering::Relaxed));
        let handed_over = self.shared.left.load(Ordering::Relaxed) == 0 && !last.is_zero();
        (self.begun.elapsed().saturating_sub(last), if handed_over { stall * ANSWER } else { stall })
    }

    fn moved(&self, left: usize) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        self.shared.last.store(now, Ordering::Relaxed);
        self.shared.left.store(left as u64, Ordering::Relaxed);
    }

    /// Slices the body after it is signed, and notes each slice taken.
    pub(crate) fn interceptor(&self, body: &Bytes) -> Slicer {
        Slicer { progress: self.clone(), body: body.clone() }
    }
}

/// See [`Progress::interceptor`].
#[derive(Debug)]
pub(crate) struct Slicer {
    progress: Progress,
    body: Bytes,
}

impl Intercept for Slicer {
    fn name(&self) -> &'static str {
        "Slicer"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), aws_sdk_s3::error::BoxError> {
        let body = context.request_mut().body_mut();
        // A body that the SDK has wrapped (checksums asked for) stays as it is.
        if self.body.len() > SLICE && body.bytes().is_some_and(|bytes| bytes.len() == self.body.len()) {
            self.progress.moved(self.body.len());
            *body = SdkBody::from_body_1_x(Sliced { rest: self.body.clone(), progress: self.progress.clone() });
        }
        Ok(())
    }
}

struct Sliced {
    rest: Bytes,
    progress: Progress,
}

impl Body for Sliced {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let taken = self.rest.len().min(SLICE);
        let slice = self.rest.split_to(taken);
        self.progress.moved(self.rest.len());
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
