//! Requests by kind, counted where each is sent: whoever makes one cannot forget to say so. Attempts are counted, since
//! a provider charges for each.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

use crate::store::traffic::Requests;

/// The kind that gets objects.
const GET: &str = "GET object";
/// The kinds of requests, as they stand in a bill.
const KINDS: [&str; 9] = [
    "PUT object",
    "PUT part",
    "POST begin upload",
    "POST complete upload",
    GET,
    "HEAD object",
    "GET list",
    "DELETE",
    "other",
];

/// The counters of one store.
#[derive(Debug, Default)]
pub(super) struct Tally([Count; KINDS.len()]);

#[derive(Debug, Default)]
struct Count {
    requests: AtomicU64,
    sent: AtomicU64,
}

impl Tally {
    /// The requests sent so far; `received_bytes` came by those for objects.
    pub(super) fn requests(&self, received_bytes: u64) -> Vec<Requests> {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let all = KINDS.iter().zip(&self.0).map(|(kind, count)| Requests {
            kind,
            count: read(&count.requests),
            sent_bytes: read(&count.sent),
            received_bytes: if *kind == GET { received_bytes } else { 0 },
        });
        all.filter(|one| one.count > 0).collect()
    }

    fn count(&self, method: &str, uri: &str) -> Option<&Count> {
        let kind = kind(method, uri);
        KINDS.iter().position(|name| *name == kind).and_then(|at| self.0.get(at))
    }
}

/// The kind of a request, by its method and the names in its query.
fn kind(method: &str, uri: &str) -> &'static str {
    let query = uri.split_once('?').map_or("", |(_, query)| query);
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    match method {
        "PUT" if has("partNumber") => "PUT part",
        "PUT" => "PUT object",
        "POST" if has("uploads") => "POST begin upload",
        "POST" if has("uploadId") => "POST complete upload",
        "POST" if has("delete") => "DELETE",
        "GET" if has("list-type") || has("versions") || has("uploads") || has("prefix") => "GET list",
        "GET" if has("uploadId") || has("versioning") => "other",
        "GET" => GET,
        "HEAD" => "HEAD object",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// The interceptor that counts.
#[derive(Debug)]
pub(super) struct Counting(pub(super) std::sync::Arc<Tally>);

fn length(value: Option<&str>) -> u64 {
    value.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Intercept for Counting {
    fn name(&self) -> &'static str {
        "Counting"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request();
        if let Some(count) = self.0.count(request.method(), request.uri()) {
            count.requests.fetch_add(1, Ordering::Relaxed);
            count.sent.fetch_add(length(request.headers().get("content-length")), Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{KINDS, kind};

    #[test]
    fn every_request_has_one_kind() {
        let of = |method, uri| {
            assert!(KINDS.contains(&kind(method, uri)));
            kind(method, uri)
        };
        assert_eq!(of("PUT", "http://x/b/k?x-id=PutObject"), "PUT object");
        assert_eq!(of("PUT", "http://x/b/k?x-id=UploadPart&partNumber=1&uploadId=a"), "PUT part");
        assert_eq!(of("POST", "http://x/b/k?uploads"), "POST begin upload");
        assert_eq!(of("POST", "http://x/b/k?uploadId=a"), "POST complete upload");
        assert_eq!(of("GET", "http://x/b?list-type=2&prefix=p"), "GET list");
        assert_eq!(of("GET", "http://x/b/k?x-id=GetObject"), "GET object");
        assert_eq!(of("HEAD", "http://x/b/k"), "HEAD object");
        assert_eq!(of("DELETE", "http://x/b/k?uploadId=a"), "DELETE");
        assert_eq!(of("GET", "http://x/b?versioning"), "other");
    }
}
