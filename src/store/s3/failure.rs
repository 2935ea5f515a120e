//! The failure of a request: the facts that decide on another attempt, the words that people read, and the advice. All of it
//! goes by statuses, codes and the types of causes; the words of a message decide on advice only.

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::error::Error;
use crate::store::s3::S3;

/// The failure of one request, or of all attempts of it.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) status: Option<u16>,
    pub(crate) code: Option<String>,
    pub(super) message: String,
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

/// The obstacle in the way of a request before a server of S3 answered.
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
    pub(super) fn new(message: impl Into<String>, retry: bool) -> Self {
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
