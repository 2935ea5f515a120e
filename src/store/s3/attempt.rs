//! One request, tried until it works or it makes no sense to go on; and what a failure is called in front of people.
//!
//! One file, since the same facts of a failure decide on another attempt and on the hint.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::error::{Error, Result};
use crate::store::s3::S3;
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

/// The failure of one request, or of all attempts of it.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) status: Option<u16>,
    pub(crate) code: Option<String>,
    message: String,
    /// Trying again makes sense.
    pub(crate) retry: bool,
    /// The server may have done what was asked.
    pub(crate) ambiguous: bool,
    corrupted: bool,
    /// The cause below the request, where it has one.
    cause: Option<Cause>,
    /// Made so far, this one included.
    pub(crate) attempts: u32,
}

/// What stood in the way of a request before a server of S3 answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// There are no credentials.
    NoCredentials,
    /// The other side's certificate, or TLS itself, was refused.
    Tls,
    /// The other side speaks no TLS.
    NoTls,
    /// The other side speaks no HTTP.
    NoHttp,
    /// Nothing listens there.
    Refused,
}

impl Cause {
    /// The first known cause of an error: by types, since words differ between versions and systems.
    fn of(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = Self::of_one(error) {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    fn of_one(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            // The source of an error in an I/O error's custody is that error's source: it would be passed over.
            let inner = error.get_ref().and_then(|inner| Self::of(inner));
            return inner.or_else(|| (error.kind() == std::io::ErrorKind::ConnectionRefused).then_some(Self::Refused));
        }
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(match error {
                rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => Self::NoTls,
                _ => Self::Tls,
            });
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return (error.is_parse() && !error.is_parse_status()).then_some(Self::NoHttp);
        }
        let error = error.downcast_ref::<CredentialsError>()?;
        matches!(error, CredentialsError::CredentialsNotLoaded(_)).then_some(Self::NoCredentials)
    }
}

impl Failure {
    fn new(message: impl Into<String>, retry: bool) -> Self {
        Self {
            status: None,
            code: None,
            message: message.into(),
            retry,
            ambiguous: retry,
            corrupted: false,
            cause: None,
            attempts: 1,
        }
    }

    /// A failure of our own that no second attempt mends.
    pub(crate) fn of(error: &dyn std::error::Error) -> Self {
        Self::new(error.to_string(), false)
    }

    /// A stream that ended before its announced length.
    pub(crate) fn cut() -> Self {
        Self::new("the connection was closed within the object", true)
    }

    pub(crate) fn corrupted() -> Self {
        let mut failure = Self::new("the server's checksum of what it received is not that of what was sent", true);
        failure.ambiguous = false;
        failure.corrupted = true;
        failure
    }

    /// The server has stored something else than what was sent.
    pub(crate) fn is_corrupted(&self) -> bool {
        self.corrupted
    }

    pub(crate) fn is_absent(&self) -> bool {
        match self.code.as_deref() {
            Some("NoSuchKey") => true,
            Some(_) => false,
            None => self.status == Some(404),
        }
    }

    /// The server does not know what a header asks for.
    pub(crate) fn is_not_implemented(&self) -> bool {
        self.status == Some(501) || self.code.as_deref() == Some("NotImplemented")
    }

    /// The server asks for fewer requests at once. 544 is Supabase Storage's for a database that cannot follow.
    pub(crate) fn is_throttled(&self) -> bool {
        matches!(self.status, Some(429 | 503 | 544)) || self.code.as_deref() == Some("SlowDown")
    }

    /// The credentials may not do that.
    pub(crate) fn is_denied(&self) -> bool {
        self.status == Some(403) || matches!(self.code.as_deref(), Some("AccessDenied" | "AllAccessDisabled"))
    }

    /// The credentials may be too old. An answer to HEAD has no code.
    pub(crate) fn may_be_expired(&self) -> bool {
        match self.code.as_deref() {
            Some(code) => {
                matches!(code, "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidToken")
            }
            None => matches!(self.status, Some(400 | 403)),
        }
    }

    /// The answer of the server, in a few words: its code, else the status, else the message.
    pub(crate) fn brief(&self) -> String {
        match (&self.code, self.status) {
            (Some(code), Some(status)) => format!("{code}, HTTP {status}"),
            (None, Some(status)) => format!("HTTP {status}"),
            _ => self.message.clone(),
        }
    }

    /// The condition of a PUT was not met.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.status, Some(409 | 412)) || self.is_absent()
    }
}

impl<E> From<SdkError<E, HttpResponse>> for Failure
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        let status = error.raw_response().map(|answer| answer.status().as_u16());
        let code = error.code().map(str::to_owned);
        let cause = Cause::of(&error);
        let (retry, ambiguous) = match &error {
            SdkError::ConstructionFailure(_) => (false, false),
            SdkError::DispatchFailure(failed) => {
                let lasts = matches!(cause, Some(Cause::NoCredentials | Cause::Tls | Cause::NoTls));
                (!failed.is_user() && !lasts, true)
            }
            SdkError::ServiceError(_) => {
                let again = status.is_some_and(again_status) || code.as_deref().is_some_and(again_code);
                (again, again)
            }
            _ => (true, true),
        };
        let message = match (error.message(), &error) {
            (Some(message), SdkError::ServiceError(_)) => message.to_owned(),
            (None, SdkError::ServiceError(odd)) => plain_text(odd.raw()),
            _ => causes(&error),
        };
        Self { status, code, message, retry, ambiguous, corrupted: false, cause, attempts: 1 }
    }
}

/// The first line of an answer that is no XML: servers and proxies that took a request for something else say so there.
fn plain_text(answer: &HttpResponse) -> String {
    let text = answer.body().bytes().and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    if line.starts_with("<?xml") || line.is_empty() || line.len() > 200 {
        return "the server says no more".to_owned();
    }
    line.to_owned()
}

/// An error's causes in one line: the SDK's own display ends before them, its debug form shows internals.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        cause = inner.source();
    }
    texts.join(": ")
}

/// 423 (locks) and 544 (database timeout) are Supabase Storage's.
fn again_status(status: u16) -> bool {
    matches!(status, 408 | 423 | 429 | 500 | 502 | 503 | 504 | 544)
}

/// Also found inside an answer with status 200.
fn again_code(code: &str) -> bool {
    matches!(
        code,
        "InternalError" | "SlowDown" | "ServiceUnavailable" | "RequestTimeout" | "OperationAborted" | "LockTimeout"
    ) || matches!(
        code,
        "ResourceLocked"
            | "DatabaseTimeout"
            | "BadDigest"
            | "IncompleteBody"
            | "XAmzContentSHA256Mismatch"
            | "ConditionalRequestConflict"
    )
}

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

    /// The error a person reads: store, operation, key, the server's code and words, hints.
    pub(crate) fn error(&self, operation: &str, key: &str, failure: &Failure) -> Error {
        let mut text = format!("{}: {operation}", self.describe());
        if !key.is_empty() {
            text = format!("{text} {key}");
        }
        if let Some(code) = &failure.code {
            text = format!("{text}: {code}");
        }
        text = format!("{text}: {}", failure.message.trim_end_matches('.'));
        if let Some(status) = failure.status {
            text = format!("{text} (HTTP {status})");
        }
        if failure.attempts > 1 {
            text = format!("{text}, after {} attempts", failure.attempts);
        }
        match self.hint(failure) {
            Some(hint) => Error::failed(text).hint(hint),
            None => Error::failed(text),
        }
    }

    fn hint(&self, failure: &Failure) -> Option<String> {
        let endpoint = self.endpoint.as_deref().unwrap_or("Amazon S3");
        let message = failure.message.as_str();
        if let Some(hint) = self.endpoint_hint(failure) {
            return Some(hint);
        }
        let hint = match failure.code.as_deref() {
            // Garage and others: the signature is wrong, or nobody has such a key.
            Some("AccessDenied") if ["signature", "No such key"].iter().any(|word| message.contains(word)) => {
                self.keys_hint()
            }
            Some("NoSuchBucket") => {
                format!("create the bucket {} at {endpoint}, or correct --store", self.bucket)
            }
            Some("AccessDenied" | "AllAccessDisabled") => "the credentials need s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket and s3:AbortMultipartUpload on this bucket and prefix: `pgstow doctor` prints the policy".to_owned(),
            Some("InvalidAccessKeyId" | "NotSignedUp" | "SignatureDoesNotMatch" | "InvalidSignature") => self.keys_hint(),
            Some("ExpiredToken" | "TokenRefreshRequired" | "InvalidToken") => {
                "the session token is no longer valid: sign in again, or use credentials that renew themselves".to_owned()
            }
            Some("RequestTimeTooSkewed") => "this machine's clock is wrong: set it by NTP".to_owned(),
            Some("EntityTooLarge") => TOO_LARGE.to_owned(),
            Some("AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException") => {
                "the bucket is in another region: set --s3-region, and --s3-endpoint where the provider has one a region".to_owned()
            }
            _ if matches!(failure.status, Some(301 | 307)) => {
                "the bucket is in another region: set --s3-region, and --s3-endpoint where the provider has one a region".to_owned()
            }
            _ if failure.status == Some(413) => TOO_LARGE.to_owned(),
            Some("InvalidStorageClass") => "the provider has no such class: see --s3-storage-class".to_owned(),
            Some("InvalidRequest") if message.contains("Content-MD5") => {
                "the bucket locks its objects and wants a checksum: add --s3-content-md5".to_owned()
            }
            Some("InvalidRequest") if message.contains("Lock") => {
                "the bucket was made without Object Lock: enable it there, or leave --s3-object-lock-mode out".to_owned()
            }
            _ if failure.status == Some(403) => "check the credentials and what they may do on this bucket".to_owned(),
            _ if failure.cause == Some(Cause::Tls) => "the server's certificate is not trusted: give that of its authority, or a self-signed one itself, by --s3-ca-file".to_owned(),
            _ if failure.cause == Some(Cause::NoCredentials) => client_hint().to_owned(),
            _ if message.contains("dns error") || message.contains("lookup address") => {
                format!("the host of {endpoint} is unknown: check --s3-endpoint (and --s3-path-style), or the network")
            }
            _ if failure.cause == Some(Cause::Refused) => format!("nothing listens at {endpoint}: check --s3-endpoint"),
            _ => return None,
        };
        Some(hint)
    }
}

impl S3 {
    fn keys_hint(&self) -> String {
        let endpoint = self.endpoint.as_deref().unwrap_or("Amazon S3");
        format!(
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the profile), and that they belong to {endpoint} and \
             its region"
        )
    }

    /// The advice about a wrong endpoint, as far as an answer shows it.
    fn endpoint_hint(&self, failure: &Failure) -> Option<String> {
        let endpoint = self.endpoint.as_deref()?;
        let (scheme, rest) = endpoint.split_once("://")?;
        let path = rest.split_once('/').map_or("", |(_, path)| path).trim_end_matches('/');
        if failure.status == Some(404) && path.rsplit('/').next() == Some(self.bucket.as_str()) {
            let without = endpoint.trim_end_matches(self.bucket.as_str()).trim_end_matches('/');
            return Some(format!("the endpoint ends in the bucket's name: set it to {without}"));
        }
        if failure.status == Some(404) && path == "storage/v1" {
            return Some(format!("the S3 endpoint of Supabase Storage ends in /s3: set it to {endpoint}/s3"));
        }
        if scheme == "https" && failure.cause == Some(Cause::NoTls) {
            return Some(format!("the server at {rest} speaks no TLS: set the endpoint to http://{rest}"));
        }
        // A server that speaks TLS only answers 400 in words of its own, or with something that is no HTTP.
        let no_s3 = failure.status == Some(400) && failure.code.is_none();
        if scheme == "http" && (no_s3 || failure.cause == Some(Cause::NoHttp)) {
            return Some(format!("the server at {rest} seems to want TLS: set the endpoint to https://{rest}"));
        }
        None
    }
}

/// The advice where the provider takes no object of this size.
const TOO_LARGE: &str = "the provider's limit for one object is reached: `backup --max-object-size 50MB` stores larger ones in volumes of that size, or raise the limit there (Supabase: the project's and the bucket's file size limit, 50 MB on the Free plan)";

/// The advice without credentials.
pub(crate) const fn client_hint() -> &'static str {
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run where a role is attached"
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

/// When the last byte of a request's body moved.
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
