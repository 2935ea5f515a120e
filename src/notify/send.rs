//! Delivers over HTTP: a POST, tried up to [`ATTEMPTS`] times. Redirects are not followed: an address is to be the right one.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::notify::message::HttpRequest;

const ATTEMPTS: u32 = 3;
/// Longest wait for the answer to one attempt.
const ATTEMPT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes of an answer that are read: what a receiver complains of.
const ANSWER: usize = 300;

/// A client for requests that are in memory.
pub(crate) type HttpsClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client that trusts the certificates of this machine.
pub(crate) fn client() -> HttpsClient {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (_added, _ignored) = roots.add_parsable_certificates(found.certs);
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_root_certificates(roots).with_no_client_auth());
    let connector = match config {
        Ok(config) => hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config),
        // Cannot be: ring has both versions of TLS. Without any certificate every https address is refused.
        Err(_no_version) => hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(none()),
    };
    let connector = connector.https_or_http().enable_http1().build();
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Sends requests.
pub(crate) struct Sender {
    client: HttpsClient,
}

impl Sender {
    pub(crate) fn new() -> Self {
        Self { client: client() }
    }

    /// Sends, and again where the receiver does not answer, or says that it cannot now.
    ///
    /// # Errors
    /// The failure of the last attempt, without the address.
    pub(crate) async fn http(&self, request: &HttpRequest) -> Result<(), String> {
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            let (error, again) = match tokio::time::timeout(ATTEMPT, self.once(request)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(failed)) => failed,
                Err(_elapsed) => (format!("no answer within {}", humantime::format_duration(ATTEMPT)), true),
            };
            if !again || attempt == ATTEMPTS {
                return Err(if attempt == 1 { error } else { format!("{error} ({attempt} attempts)") });
            }
            tokio::time::sleep(pause).await;
            pause *= 3;
            attempt += 1;
        }
    }

    /// One attempt; on failure, what it was, and whether another one may help.
    async fn once(&self, request: &HttpRequest) -> Result<(), (String, bool)> {
        let agent = concat!("pgstow/", env!("CARGO_PKG_VERSION"));
        let mut builder = Request::post(&request.url).header("user-agent", agent);
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        let body = Full::new(Bytes::from(request.body.clone()));
        let built =
            builder.body(body).map_err(|_quotes_the_address| ("the address cannot be used".to_owned(), false))?;
        let answer = self.client.request(built).await.map_err(|error| (reason(&error), true))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let mut said = Vec::new();
        let mut body = answer.into_body();
        while said.len() < ANSWER
            && let Some(Ok(frame)) = body.frame().await
        {
            said.extend_from_slice(frame.data_ref().map_or(&[][..], AsRef::as_ref));
        }
        said.truncate(ANSWER);
        let said = String::from_utf8_lossy(&said).trim().replace(['\n', '\r'], " ");
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        let again = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
        Err((format!("HTTP {}{said}", status.as_u16()), again))
    }
}

fn none() -> rustls::ClientConfig {
    rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
}

/// The innermost cause: it names no address.
pub(crate) fn reason(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
