//! Manifests and blobs of one repository, from whichever of its endpoints has them.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE};
use reqwest::{Response, StatusCode};
use sha2::{Digest as _, Sha256};

use super::connection::{describe, is_transient};
use super::credentials::Auth;
use super::hosts::Endpoint;
use super::request::{Ask, Failure, Retry};
use super::{Client, Patience};
use crate::image::error::ImageError;
use crate::image::manifest::{ACCEPT, Descriptor, LARGEST_DOCUMENT, too_large};
use crate::image::reference::Reference;
use crate::model::Digest;

/// A document with the digest of its bytes.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) content_type: Option<String>,
}

/// Takes a blob's bytes in their order.
pub(crate) trait Sink: Send {
    /// Waits for room; an error means that nobody reads any more.
    fn write(&mut self, chunk: Bytes) -> impl Future<Output = Result<(), SinkClosed>> + Send;
}

/// The reader of a blob has failed; it tells why itself.
#[derive(Debug)]
pub(crate) struct SinkClosed;

/// One repository for one pull: its endpoints, its credentials, and what they were granted.
#[derive(Debug)]
pub(crate) struct Repository {
    pub(super) client: Arc<Client>,
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) auth: Option<Auth>,
    pub(super) endpoints: Vec<Endpoint>,
    /// Authorization headers that answered an endpoint's challenge, by its address.
    granted: Mutex<HashMap<String, String>>,
}

impl Repository {
    pub(super) fn new(
        client: Arc<Client>,
        reference: &Reference,
        endpoints: Vec<Endpoint>,
        auth: Option<Auth>,
    ) -> Self {
        Self {
            client,
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            auth,
            endpoints,
            granted: Mutex::default(),
        }
    }

    pub(super) fn granted(&self, endpoint: &Endpoint) -> Option<String> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner).get(endpoint.base.as_str()).cloned()
    }

    pub(super) fn grant(&self, endpoint: &Endpoint, authorization: String) {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        granted.insert(endpoint.base.to_string(), authorization);
    }

    fn patience(&self) -> &Patience {
        &self.client.patience
    }

    /// The manifest or index of a tag or digest (`selector`), its digest checked where it was asked for by one.
    pub(crate) async fn manifest(&self, what: &str, selector: &str) -> Result<Fetched, ImageError> {
        let by_digest: Option<Digest> = selector.parse().ok();
        let ask = Ask { path: format!("manifests/{selector}"), what, accept: Some(ACCEPT), offset: 0 };
        let usable = |endpoint: &&Endpoint| if by_digest.is_some() { endpoint.pull } else { endpoint.resolve };
        let mut last = None;
        for endpoint in self.endpoints.iter().filter(usable) {
            match self.document(endpoint, &ask, by_digest.as_ref(), LARGEST_DOCUMENT).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => last = Some(self.next_host(endpoint, error)),
            }
        }
        Err(last.unwrap_or_else(|| self.nowhere(what, "resolve")))
    }

    /// A small blob, whole: the configuration.
    pub(crate) async fn small_blob(&self, what: &str, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let ask = Ask { path: format!("blobs/{}", descriptor.digest), what, accept: None, offset: 0 };
        let mut last = None;
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.pull) {
            match self.document(endpoint, &ask, Some(&descriptor.digest), descriptor.size.min(LARGEST_DOCUMENT)).await {
                Ok(fetched) => return Ok(fetched.bytes),
                Err(error) => last = Some(self.next_host(endpoint, error)),
            }
        }
        Err(last.unwrap_or_else(|| self.nowhere(what, "pull")))
    }

    /// A mirror's failure is of interest only if nobody else has it; then the registry's own counts.
    fn next_host(&self, endpoint: &Endpoint, error: ImageError) -> ImageError {
        if endpoint.is_mirror {
            tracing::info!(mirror = endpoint.host(), %error, "a mirror could not serve this, trying the next host");
        }
        error
    }

    pub(super) fn nowhere(&self, what: &str, capability: &str) -> ImageError {
        ImageError::NotFound {
            what: what.to_owned(),
            registry: self.registry.clone(),
            detail: format!("no configured host has the capability {capability:?}"),
        }
    }

    async fn document(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        expected: Option<&Digest>,
        limit: u64,
    ) -> Result<Fetched, ImageError> {
        let mut failures = 0;
        loop {
            let response = self.get(endpoint, ask).await?;
            let content_type = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).map(str::to_owned);
            match self.read_all(endpoint, ask, response, limit).await {
                Ok(bytes) => {
                    let digest = Digest::from_sha256(&Sha256::digest(&bytes).into());
                    if let Some(expected) = expected.filter(|expected| **expected != digest) {
                        let what = format!("{} from {}", ask.what, endpoint.host());
                        return Err(ImageError::WrongDigest { what, expected: expected.clone(), actual: digest });
                    }
                    return Ok(Fetched { bytes, digest, content_type });
                }
                Err(failure) => {
                    failures += 1;
                    self.pause_or_give_up(failure, failures).await?;
                }
            }
        }
    }

    async fn read_all(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        mut response: Response,
        limit: u64,
    ) -> Result<Vec<u8>, Failure> {
        let larger = |actual| Failure::last(too_large(format!("{}: size", ask.what), actual, limit));
        // Refused by what it says of itself, before a byte is read.
        if let Some(length) = response.content_length().filter(|length| *length > limit) {
            return Err(larger(length));
        }
        let mut bytes = Vec::new();
        let mut progress = Progress::new(self.patience());
        while let Some(chunk) = progress.next(self, endpoint, ask, &mut response).await? {
            let length = bytes.len() as u64 + chunk.len() as u64;
            if length > limit {
                return Err(larger(length));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// A blob of any size into `sink`. A broken download goes on where it stopped, at the next host if need be; the
    /// digest is for the reader to check, who sees one stream. A closed sink ends it without an error.
    pub(crate) async fn blob(&self, descriptor: &Descriptor, sink: &mut impl Sink) -> Result<(), ImageError> {
        let what = format!("blob {}", descriptor.digest);
        let mut received = 0;
        let mut last = None;
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.pull) {
            let mut failures = 0;
            loop {
                let before = received;
                let ask =
                    Ask { path: format!("blobs/{}", descriptor.digest), what: &what, accept: None, offset: received };
                let failure = match self.blob_part(endpoint, &ask, descriptor.size, &mut received, sink).await {
                    Ok(()) => return Ok(()),
                    Err(failure) => failure,
                };
                // Progress earns new patience: a long download over a bad line ends.
                failures = if received - before >= self.patience().stall_bytes { 1 } else { failures + 1 };
                if let Err(error) = self.pause_or_give_up(failure, failures).await {
                    last = Some(self.next_host(endpoint, error));
                    break;
                }
            }
        }
        Err(last.unwrap_or_else(|| self.nowhere(&what, "pull")))
    }

    async fn blob_part(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        size: u64,
        received: &mut u64,
        sink: &mut impl Sink,
    ) -> Result<(), Failure> {
        let mut response = self.get_once(endpoint, ask).await?;
        let mut skip = 0;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if range_start(&response) != Some(ask.offset) => {
                return Err(Failure::last(self.bad(
                    endpoint,
                    ask,
                    "it answers with another range than it was asked for",
                )));
            }
            StatusCode::PARTIAL_CONTENT => {}
            // It knows no ranges: what is there already comes once more.
            _ => skip = ask.offset,
        }
        if let Some(length) = response.content_length()
            && length + ask.offset - skip != size
        {
            let reason = format!("it has {length} bytes to offer, the manifest says {size}");
            return Err(Failure::last(self.bad(endpoint, ask, reason)));
        }
        let mut progress = Progress::new(self.patience());
        while let Some(mut chunk) = progress.next(self, endpoint, ask, &mut response).await? {
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let _ = chunk.split_to(usize::try_from(skipped).unwrap_or(usize::MAX));
            *received += chunk.len() as u64;
            if *received > size {
                return Err(Failure::last(self.bad(
                    endpoint,
                    ask,
                    format!("more than the manifest's {size} bytes came"),
                )));
            }
            if !chunk.is_empty() && sink.write(chunk).await.is_err() {
                return Ok(());
            }
        }
        if *received < size {
            let detail = format!("the connection ended after {received} of {size} bytes");
            return Err(Failure { error: self.unavailable(endpoint, ask.what, detail), retry: Retry::After(None) });
        }
        Ok(())
    }
}

fn range_start(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// Watches that enough comes. Only waiting for the network counts, not waiting for our own disk.
struct Progress {
    stall_bytes: u64,
    stall_period: Duration,
    waited: Duration,
    received: u64,
    total: u64,
}

impl Progress {
    fn new(patience: &Patience) -> Self {
        let (stall_bytes, stall_period) = (patience.stall_bytes, patience.stall_period);
        Self { stall_bytes, stall_period, waited: Duration::ZERO, received: 0, total: 0 }
    }

    async fn next(
        &mut self,
        repository: &Repository,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        response: &mut Response,
    ) -> Result<Option<Bytes>, Failure> {
        let start = Instant::now();
        let left = self.stall_period.saturating_sub(self.waited);
        let stalled = |received, total| Failure {
            error: repository.stalled(endpoint, ask.what, received),
            // A connection that once worked may have died unseen; one that never did is not worth another wait.
            retry: if total >= self.stall_bytes { Retry::After(None) } else { Retry::Never },
        };
        let Ok(next) = tokio::time::timeout(left, response.chunk()).await else {
            return Err(stalled(self.received, self.total));
        };
        let chunk = match next {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(None),
            Err(error) => {
                let retry = if is_transient(&error) { Retry::After(None) } else { Retry::Never };
                let detail = format!("reading the answer: {}", describe(error));
                return Err(Failure { error: repository.unavailable(endpoint, ask.what, detail), retry });
            }
        };
        self.waited += start.elapsed();
        self.received += chunk.len() as u64;
        self.total += chunk.len() as u64;
        if self.received >= self.stall_bytes {
            (self.waited, self.received) = (Duration::ZERO, 0);
        } else if self.waited >= self.stall_period {
            return Err(stalled(self.received, self.total));
        }
        Ok(Some(chunk))
    }
}
