//! TLS as libpq's `sslmode` asks for it, on rustls.
//!
//! | sslmode | encrypted | chain checked | name checked |
//! |---|---|---|---|
//! | `disable` | no | | |
//! | `allow`, `prefer` | if the server will | no | no |
//! | `require` | yes | only if a root file is given or in its default place | no |
//! | `verify-ca` | yes | yes | no |
//! | `verify-full` | yes | yes | yes |
//!
//! A server certificate that is itself listed in the root file is trusted as it is, as OpenSSL does with a self-signed
//! one (its dates are then not looked at). Names come from subjectAltName only.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{Error, Result};
use crate::postgres::connect::conninfo::ConnInfo;

/// Which version of TLS the last handshake of a connector came to, as far as the server proved who it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Negotiated(Arc<AtomicU8>);

impl Negotiated {
    /// Forgets what was: a new attempt begins.
    pub(crate) fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// `TLSv1.2` or `TLSv1.3`; `None` where there was no handshake.
    pub(crate) fn version(&self) -> Option<&'static str> {
        match self.0.load(Ordering::Relaxed) {
            12 => Some("TLSv1.2"),
            13 => Some("TLSv1.3"),
            _ => None,
        }
    }
}

/// The TLS connector that the parameters of a connection ask for, and what its handshakes come to.
///
/// # Errors
/// A usage error when a certificate or key file is missing or malformed.
pub(crate) fn connector(info: &ConnInfo) -> Result<(MakeRustlsConnect, Negotiated)> {
    let provider = Arc::new(ring::default_provider());
    let verifier = verifier(info, &provider)?;
    let negotiated = verifier.negotiated.clone();
    let versions = versions(info);
    if versions.is_empty() {
        return Err(Error::usage("ssl_min_protocol_version is above ssl_max_protocol_version"));
    }
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| Error::failed(format!("set up TLS: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match client_certificate(info)? {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| Error::usage(format!("use the client certificate (sslcert, sslkey): {error}")))?,
        None => builder.with_no_client_auth(),
    };
    // Wanted by servers that are asked for TLS at once (sslnegotiation=direct); harmless otherwise.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    config.enable_sni = info.get("sslsni") != Some("0");
    Ok((MakeRustlsConnect::new(config), negotiated))
}

/// The versions of TLS that the parameters of a connection allow. rustls has none below 1.2.
fn versions(info: &ConnInfo) -> Vec<&'static SupportedProtocolVersion> {
    let least = if info.get("ssl_min_protocol_version") == Some("TLSv1.3") { 13 } else { 12 };
    let most = if info.get("ssl_max_protocol_version") == Some("TLSv1.2") { 12 } else { 13 };
    [(12, &rustls::version::TLS12), (13, &rustls::version::TLS13)]
        .into_iter()
        .filter(|(number, _)| (least..=most).contains(number))
        .map(|(_, version)| version)
        .collect()
}

/// The lists of revoked certificates: the file of `sslcrl` (or libpq's default one) and every file of `sslcrldir`.
fn revoked(info: &ConnInfo) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let mut files: Vec<PathBuf> = file(info, "sslcrl", "root.crl").into_iter().collect();
    if let Some(folder) = info.get("sslcrldir") {
        let failed = |error: std::io::Error| Error::usage(format!("read {folder} (sslcrldir): {error}"));
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            files.push(entry.map_err(failed)?.path());
        }
    }
    let mut lists = Vec::new();
    for path in files {
        let failed = |error| Error::usage(format!("read {} (sslcrl): {error}", path.display()));
        let found = CertificateRevocationListDer::pem_file_iter(&path).map_err(failed)?;
        lists.extend(found.collect::<Result<Vec<_>, _>>().map_err(failed)?);
    }
    if lists.is_empty() && (info.get("sslcrl").is_some() || info.get("sslcrldir").is_some()) {
        return Err(Error::usage("sslcrl or sslcrldir holds no PEM list of revoked certificates"));
    }
    Ok(lists)
}

/// The checks of the server's certificate.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    chain: Option<Chain>,
    name: bool,
    negotiated: Negotiated,
}

#[derive(Debug)]
struct Chain {
    webpki: Arc<WebPkiServerVerifier>,
    listed: Vec<CertificateDer<'static>>,
}

fn verifier(info: &ConnInfo, provider: &Arc<CryptoProvider>) -> Result<Verifier> {
    let mode = info.get("sslmode").unwrap_or("prefer");
    let encrypted_only = !["require", "verify-ca", "verify-full"].contains(&mode) || info.host().starts_with('/');
    let unchecked =
        Verifier { provider: Arc::clone(provider), chain: None, name: false, negotiated: Negotiated::default() };
    if encrypted_only {
        return Ok(unchecked);
    }
    let listed = if info.get("sslrootcert") == Some("system") {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            return Err(Error::usage("the system has no trusted certificates (sslrootcert=system)")
                .hint("install the package ca-certificates, or name a file with sslrootcert"));
        }
        found.certs
    } else {
        match file(info, "sslrootcert", "root.crt") {
            Some(path) => certificates(&path, "sslrootcert")?,
            None if mode == "require" => return Ok(unchecked),
            None => {
                return Err(Error::usage(format!("sslmode={mode} needs a root certificate")).hint(
                    "name the file with sslrootcert (Supabase: the certificate from the project's database settings), \
                     or use sslrootcert=system",
                ));
            }
        }
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(listed.iter().cloned());
    let revoked = revoked(info)?;
    // A certificate that is trusted by itself could not be revoked.
    let trusted = if revoked.is_empty() { listed } else { Vec::new() };
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .with_crls(revoked)
        .build()
        .map_err(|error| Error::usage(format!("use the root certificates (sslrootcert): {error}")))?;
    let chain = Some(Chain { webpki, listed: trusted });
    Ok(Verifier { chain, name: mode == "verify-full", ..unchecked })
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        if chain.listed.iter().any(|listed| listed == end_entity) {
            if self.name {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match chain.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The chain is looked at before the name, so here it was found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.negotiated.0.store(12, Ordering::Relaxed);
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.negotiated.0.store(13, Ordering::Relaxed);
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The file a parameter names, else the one in libpq's default place, if it is there.
fn file(info: &ConnInfo, key: &str, default: &str) -> Option<PathBuf> {
    info.get(key).map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(PathBuf::from(home).join(".postgresql").join(default)).filter(|path| path.exists())
    })
}

fn certificates(path: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>> {
    let failed = |error| Error::usage(format!("read {} ({key}): {error}", path.display()));
    let list = CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if list.is_empty() {
        return Err(Error::usage(format!("{} ({key}) holds no PEM certificate", path.display())));
    }
    Ok(list)
}

type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(info: &ConnInfo) -> Result<Option<ClientCertificate>> {
    if info.get("sslcertmode") == Some("disable") {
        return Ok(None);
    }
    let Some(path) = file(info, "sslcert", "postgresql.crt") else { return Ok(None) };
    let chain = certificates(&path, "sslcert")?;
    let key = file(info, "sslkey", "postgresql.key").ok_or_else(|| {
        Error::usage("sslcert is given without sslkey").hint("name the private key's file with sslkey")
    })?;
    let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| {
        Error::usage(format!("read {} (sslkey): {error}", key.display()))
            .hint("the key must be PEM and not encrypted (openssl pkey -in key -out plain.key)")
    })?;
    Ok(Some((chain, key)))
}
