//! The registry client: distribution-spec 1.1, docker's token authentication, containerd's host files.

/// `WWW-Authenticate`.
mod challenge;
/// HTTP clients by TLS settings, and what their errors mean.
mod connection;
/// Credentials and docker's configuration file.
mod credentials;
/// What has to hold for any input.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
/// Mirrors and TLS settings.
mod hosts;
/// Uploads.
mod push;
/// Manifests and blobs of one repository.
mod repository;
/// Requests: authentication, redirects, retries.
mod request;
/// Bearer tokens.
mod token;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::config::ImageConfig;
use super::error::ImageError;
use super::reference::Reference;

pub use credentials::Auth;
pub(crate) use repository::{Repository, Sink, SinkClosed};

/// How patient the client is.
#[derive(Debug, Clone)]
struct Patience {
    stall_bytes: u64,
    stall_period: Duration,
    retries: u32,
    retry_pause: Duration,
}

/// Shared by all pulls: connections, and the tokens that were given out.
#[derive(Debug)]
pub(crate) struct Client {
    hosts_dirs: Vec<PathBuf>,
    docker_config: Option<PathBuf>,
    patience: Patience,
    connections: connection::Connections,
    tokens: token::Tokens,
}

impl Client {
    pub(crate) fn new(config: &ImageConfig) -> Self {
        Self {
            hosts_dirs: config.registry_dirs.clone(),
            docker_config: config.docker_config.clone(),
            patience: Patience {
                stall_bytes: config.stall_bytes.max(1),
                stall_period: config.stall_period,
                retries: config.retries,
                retry_pause: config.retry_pause,
            },
            connections: connection::Connections::new(config.connect_timeout),
            tokens: token::Tokens::default(),
        }
    }

    /// A repository to pull from. Host files and docker's configuration are read anew each time: changing them needs
    /// no restart.
    pub(crate) async fn repository(
        self: &Arc<Self>,
        reference: &Reference,
        auth: Option<Auth>,
    ) -> Result<Repository, ImageError> {
        let (client, wanted) = (self.clone(), reference.clone());
        let files = tokio::task::spawn_blocking(move || {
            let endpoints = hosts::endpoints(&client.hosts_dirs, wanted.registry())?;
            let from_file = match (&auth, &client.docker_config) {
                (None, Some(path)) => credentials::from_docker_config(path, wanted.registry(), wanted.repository())?,
                _ => None,
            };
            for endpoint in &endpoints {
                // Makes the client and keeps it: certificates are read here, where a disk may be waited for. What is
                // wrong with them is told when the endpoint is used.
                let _ = client.connections.get(endpoint);
            }
            Ok((endpoints, auth.or(from_file)))
        });
        let (endpoints, auth) = files
            .await
            .map_err(|e| ImageError::io("read", "registry configuration".as_ref(), std::io::Error::other(e)))??;
        Ok(Repository::new(self.clone(), reference, endpoints, auth))
    }
}
