//! HTTP clients, one for each set of TLS settings, and what a failed request says about its registry.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Identity};

use super::hosts::{Endpoint, TlsFiles};
use crate::image::error::ImageError;
use crate::model::chain;

const IDLE: Duration = Duration::from_secs(20);

/// Made when first needed: loading the system's certificates takes time and a megabyte.
#[derive(Debug)]
pub(super) struct Connections {
    connect_timeout: Duration,
    clients: Mutex<HashMap<(TlsFiles, bool, Duration), reqwest::Client>>,
}

impl Connections {
    pub(super) fn new(connect_timeout: Duration) -> Self {
        // The process's default; a second call finds it set, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { connect_timeout, clients: Mutex::default() }
    }

    /// The client for an endpoint. Certificates are read when it is made: from disk, once.
    pub(super) fn get(&self, endpoint: &Endpoint) -> Result<reqwest::Client, ImageError> {
        let timeout = endpoint.connect_timeout.unwrap_or(self.connect_timeout);
        let key = (endpoint.tls.clone(), endpoint.base.scheme() == "http", timeout);
        let lock = || self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = lock().get(&key) {
            return Ok(client.clone());
        }
        let client = build(&endpoint.tls, key.1, timeout)?;
        lock().insert(key, client.clone());
        Ok(client)
    }
}

fn build(tls: &TlsFiles, plain: bool, connect_timeout: Duration) -> Result<reqwest::Client, ImageError> {
    let base = || -> Result<reqwest::ClientBuilder, ImageError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .connect_timeout(connect_timeout)
            .pool_idle_timeout(IDLE)
            .http2_adaptive_window(true)
            .tcp_nodelay(true);
        if tls.skip_verify {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        if let Some((certificate, key)) = &tls.client {
            let mut pem = read(certificate)?;
            if let Some(key) = key {
                pem.push(b'\n');
                pem.extend(read(key)?);
            }
            let identity = Identity::from_pem(&pem).map_err(|e| unusable(certificate, &e))?;
            builder = builder.identity(identity);
        }
        Ok(builder)
    };
    let mut authorities = Vec::new();
    for path in &tls.ca {
        authorities.extend(Certificate::from_pem_bundle(&read(path)?).map_err(|e| unusable(path, &e))?);
    }
    let failed = |e: reqwest::Error| ImageError::InvalidContent { what: "HTTP client".to_owned(), reason: chain(&e) };
    if !plain && let Ok(client) = base()?.tls_certs_merge(authorities.clone()).build() {
        return Ok(client);
    }
    // For http no certificates are loaded; and a machine that has none can still use those it was given.
    base()?.tls_certs_only(authorities).build().map_err(failed)
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    std::fs::read(path).map_err(|e| ImageError::io("read", path, e))
}

fn unusable(path: &Path, error: &reqwest::Error) -> ImageError {
    ImageError::BadConfiguration { path: path.to_owned(), reason: chain(error) }
}

/// Whether trying again may help: not where the certificate is wrong, for it will be wrong again.
pub(super) fn is_transient(error: &reqwest::Error) -> bool {
    !chain(error).contains("invalid peer certificate") && !error.is_builder()
}

/// The causes of a failed request, without the address that every layer repeats.
pub(super) fn describe(error: reqwest::Error) -> String {
    chain(&error.without_url())
}

/// What an operator can do about a failed request to `endpoint`, where its causes tell.
pub(super) fn remedy(endpoint: &Endpoint, causes: &str) -> &'static str {
    if causes.contains("UnknownIssuer") {
        return " (name the certificate of its authority as `ca` in its hosts.toml)";
    }
    // In TLS 1.3 the client is done before the server misses its certificate: often nothing is left to be seen of the alert.
    let without = endpoint.base.scheme() == "https" && endpoint.tls.client.is_none();
    if without
        && ["CertificateRequired", "BadCertificate", "connection closed"].iter().any(|sign| causes.contains(sign))
    {
        return " (if it wants a certificate of ours: name it as `client` in its hosts.toml)";
    }
    ""
}
