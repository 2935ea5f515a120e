//! A probe under way: how it sends a request and hears the answer's headers, and the keys it works on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use bytes::Bytes;

use crate::error::Error;
use crate::store::probe::{Probe, ProbeObjects};
use crate::store::s3::failure::Failure;
use crate::store::s3::server::S3;

/// Sends a request of the SDK, up to [`CHECK_ATTEMPTS`] times, and hears the answer's headers.
macro_rules! ask {
    ($prober:expr, $request:expr) => {{
        let prober: &crate::store::s3::probe::prober::Prober<'_> = &$prober;
        let asked = prober.s3.tried_raw(crate::store::s3::server::CHECK_ATTEMPTS, |_tries| async {
            let request = $request.customize().interceptor(prober.heard.clone()).send();
            prober.s3.watch(&crate::store::s3::attempt::Progress::default(), request).await
        });
        Box::pin(asked).await
    }};
}
pub(crate) use ask;

/// A probe under way.
pub(crate) struct Prober<'a> {
    pub(crate) s3: &'a S3,
    pub(crate) probe_objects: &'a ProbeObjects,
    pub(crate) heard: Heard,
    pub(crate) probe: Probe,
}

impl Prober<'_> {
    /// The full key of a name below the probe's folder.
    pub(crate) fn full(&self, name: &str) -> String {
        format!("{}{}", self.s3.prefix, self.probe_objects.key(name))
    }

    pub(crate) fn error(&self, operation: &str, name: &str, failure: &Failure) -> Error {
        self.s3.error(operation, &self.probe_objects.key(name), failure)
    }

    /// A PUT with a change to the request; what it makes is noted first.
    pub(crate) async fn put(
        &self,
        name: &str,
        body: &'static [u8],
        change: impl Fn(PutObjectFluentBuilder) -> PutObjectFluentBuilder,
    ) -> Result<PutObjectOutput, Failure> {
        let full = self.full(name);
        let body = Bytes::from_static(body);
        self.probe_objects.with(|left| left.keys.insert(full.clone()));
        let answer = ask!(self, change(self.s3.put_request(&full, &body)))?;
        if let Some(version) = version(answer.version_id.as_deref()) {
            self.probe_objects.with(|left| left.versions.insert((full, version)));
        }
        Ok(answer)
    }
}

/// Reads a small answer to its end; `None` when the connection broke.
pub(crate) async fn body(stream: aws_sdk_s3::primitives::ByteStream) -> Option<Bytes> {
    stream.collect().await.ok().map(aws_sdk_s3::primitives::AggregatedBytes::into_bytes)
}

/// A version that can be deleted by its name; some stores answer `null` where they keep none.
pub(crate) fn version(id: Option<&str>) -> Option<String> {
    id.filter(|id| !id.is_empty() && *id != "null").map(str::to_owned)
}

/// The headers of the answers. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Said>>);

#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    pub(crate) server: Option<String>,
    pub(crate) ahead: Option<i64>,
}

impl Heard {
    pub(crate) fn all(&self) -> Said {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Intercept for Heard {
    fn name(&self) -> &'static str {
        "Heard"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), aws_sdk_s3::error::BoxError> {
        let headers = context.response().headers();
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = headers.get("server") {
            said.server = Some(server.to_owned());
        }
        let date = headers.get("date").and_then(|text| DateTime::from_str(text, DateTimeFormat::HttpDate).ok());
        if let Some(date) = date {
            said.ahead = Some(date.secs() - DateTime::from(SystemTime::now()).secs());
        }
        Ok(())
    }
}
