//! The S3 client: endpoint, region, credentials, TLS and proxy. Retries, checks and time limits of the SDK are off:
//! `attempt` has its own.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, ProvideCredentials as _, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::error::{Context as _, Error, Result};
use crate::store::config::{Checksums, Config};
use crate::store::s3::failure::{Failure, causes, client_hint};
use crate::store::s3::server::{Connection, S3};
use crate::store::s3::tally::{Counting, Tally};
use crate::store::s3::{own_ca, services};

const CONNECT: Duration = Duration::from_secs(10);
/// Variables that name a proxy, in either case.
const PROXIES: [&str; 3] = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"];
/// The region of stores that have none.
const ANY_REGION: &str = "us-east-1";

/// A client and its endpoint, if one is set.
pub(super) async fn connect(
    config: &Config,
    credentials: Option<(String, String)>,
    tally: &Arc<Tally>,
) -> Result<(Connection, Option<String>)> {
    let http = http(config.ca_file.as_deref())?;
    let mut sdk = aws_sdk_s3::Config::builder();
    let named = config.endpoint.clone();
    if let Some(endpoint) = &named {
        sensible(endpoint)?;
    }
    let (endpoint, region, found) = if let Some((key, secret)) = credentials {
        sdk = sdk.credentials_provider(Credentials::new(key, secret, None, None, "given"));
        (named, None, None)
    } else {
        let found = Surroundings::read(config, &http).await?;
        sdk = sdk.credentials_provider(found.provider);
        (found.endpoint, found.region, Some(found.credentials))
    };
    let endpoint = endpoint.map(|endpoint| endpoint.trim_end_matches('/').to_owned()).filter(|it| !it.is_empty());
    if let Some(endpoint) = &endpoint {
        sensible(endpoint)?;
    }
    let region = config.region.clone().map(Region::new).or(region);
    let region = match (region, &endpoint) {
        (Some(region), _) => region,
        (None, Some(_)) => Region::new(ANY_REGION),
        (None, None) => {
            return Err(Error::usage("the bucket's region is not known")
                .hint("set --s3-region or AWS_REGION; another provider than Amazon needs --s3-endpoint"));
        }
    };
    sdk = sdk
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .interceptor(Counting(Arc::clone(tally)))
        .region(region)
        .force_path_style(config.path_style.unwrap_or(endpoint.is_some()))
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    sdk = match config.checksums {
        Checksums::WhenRequired => sdk
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired),
        Checksums::WhenSupported => sdk
            .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
            .response_checksum_validation(ResponseChecksumValidation::WhenSupported),
    };
    sdk.set_endpoint_url(endpoint.as_deref().map(with_slash));
    Ok((Connection { client: Client::from_conf(sdk.build()), credentials: found, renewed: 0 }, endpoint))
}

impl S3 {
    /// Looks for credentials again, where the server says that those it was asked with have expired: whoever made them
    /// may have put new ones in their place. `with`: the connection that was refused. True when there are others now.
    pub(super) async fn renews(&self, with: &Connection, failure: &Failure) -> bool {
        if with.credentials.is_none() || !failure.may_be_expired() {
            return false;
        }
        let _alone = self.renewing.lock().await;
        let now = self.connection();
        if now.renewed != with.renewed {
            return true;
        }
        let fresh = match Box::pin(connect(&self.config, None, &self.tally)).await {
            Ok((fresh, _endpoint)) => fresh,
            Err(error) => {
                tracing::debug!("look for credentials again: {error}");
                return false;
            }
        };
        let same = |a: &Credentials, b: &Credentials| {
            (a.access_key_id(), a.secret_access_key(), a.session_token())
                == (b.access_key_id(), b.secret_access_key(), b.session_token())
        };
        if fresh.credentials.as_ref().zip(now.credentials.as_ref()).is_none_or(|(a, b)| same(a, b)) {
            return false;
        }
        tracing::info!("{}: the credentials have expired; there are new ones", self.describe());
        let mut connection = self.connection.write().unwrap_or_else(PoisonError::into_inner);
        *connection = Connection { renewed: now.renewed + 1, ..fresh };
        true
    }
}

/// The settings that the AWS SDK finds in variables, profiles and metadata services.
struct Surroundings {
    provider: SharedCredentialsProvider,
    /// The credentials that it gives now.
    credentials: Credentials,
    endpoint: Option<String>,
    region: Option<Region>,
}

impl Surroundings {
    /// Reads them; an endpoint or a region of `config` comes first.
    async fn read(config: &Config, http: &SharedHttpClient) -> Result<Self> {
        let named = config.endpoint.clone().or_else(named_endpoint).or_else(services::endpoint);
        refuse_half_a_key()?;
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http.clone());
        if let Some(region) = &config.region {
            loader = loader.region(Region::new(region.clone()));
        } else if named.is_some() {
            // Without the question to Amazon's metadata service that the usual chain ends with: elsewhere nobody answers,
            // which costs seconds.
            let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new());
            loader = loader.region(chain.or_else(ProfileFileRegionProvider::new()).or_else(Region::new(ANY_REGION)));
        }
        let shared = Box::pin(loader.load()).await;
        let Some(provider) = shared.credentials_provider() else {
            return Err(Error::failed("no AWS credentials found").hint(client_hint()));
        };
        let credentials = provider
            .provide_credentials()
            .await
            .map_err(|error| Error::failed(format!("find AWS credentials: {}", causes(&error))).hint(client_hint()))?;
        let endpoint = named.or_else(|| shared.endpoint_url().map(str::to_owned));
        Ok(Self { provider, credentials, endpoint, region: shared.region().cloned() })
    }
}

fn sensible(endpoint: &str) -> Result<()> {
    if endpoint.is_empty() || endpoint.starts_with("http://") || endpoint.starts_with("https://") {
        return Ok(());
    }
    Err(Error::usage(format!("--s3-endpoint {endpoint}: not an http:// or https:// URL"))
        .hint("write it as https://host, or http://host:port where the store speaks no TLS"))
}

/// The SDK puts the bucket right behind an endpoint's path: `/storage/v1/s3` must end in a slash.
fn with_slash(endpoint: &str) -> String {
    let has_path = endpoint.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    if has_path { format!("{endpoint}/") } else { endpoint.to_owned() }
}

/// With one of the two variables alone the SDK goes on to ask Amazon's metadata service, and the error is about that.
pub(super) fn refuse_half_a_key() -> Result<()> {
    let [id, secret] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| (name, variable(name).is_some()));
    let (((set, true), (missing, false)) | ((missing, false), (set, true))) = (id, secret) else { return Ok(()) };
    Err(Error::usage(format!("{set} is set, {missing} is not")).hint(format!("set {missing} too, or unset {set}")))
}

/// The endpoint that the environment names.
pub(crate) fn named_endpoint() -> Option<String> {
    variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL"))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// HTTP over rustls with the system's roots and those of `ca_file`; a proxy from the usual environment variables.
pub(super) fn http(ca_file: Option<&Path>) -> Result<SharedHttpClient> {
    let mut trust = TrustStore::default();
    if let Some(path) = ca_file {
        let operation = || format!("read --s3-ca-file {}", path.display());
        let pem = std::fs::read(path).with_context(operation)?;
        // The client would panic on a bad file.
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let certificates = certificates.map_err(|error| Error::usage(format!("{}: {error}", operation())))?;
        if certificates.is_empty() {
            return Err(Error::usage(format!("{}: no certificate in it", operation())));
        }
        if PROXIES.iter().all(|name| variable(name).is_none() && variable(&name.to_lowercase()).is_none()) {
            return own_ca::client(certificates, CONNECT);
        }
        trust = trust.with_pem_certificate(pem);
    }
    let tls = TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| Error::failed(format!("prepare TLS: {error}")))?;
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .tls_context(tls.clone())
            .proxy_config(ProxyConfig::from_env())
            .enable_tcp_nodelay(true);
        if let Some(settings) = settings {
            connector = connector.connector_settings(settings.clone());
        }
        connector.set_sleep_impl(components.and_then(aws_sdk_s3::config::RuntimeComponents::sleep_impl));
        connector.build_with_resolver(Names)
    }))
}

/// The system's name resolution, but names below `localhost` are this machine (RFC 6761, 6.3), which not every system
/// knows: a local server is then reachable in virtual-host style.
#[derive(Debug, Clone)]
struct Names;

impl ResolveDns for Names {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            if name.ends_with(".localhost") {
                return Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
            }
            match tokio::net::lookup_host((name, 0)).await {
                Ok(found) => Ok(found.map(|address| address.ip()).collect()),
                Err(error) => Err(ResolveDnsError::new(error)),
            }
        })
    }
}
