//! Pushing (distribution-spec 1.1, "Push"): a blob that the registry has is not sent, one that another repository of it has
//! is mounted from there, and a large one goes in parts. Mirrors are for reading: only the registry itself is pushed to.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};

use super::connection::{describe, is_transient};
use super::hosts::Endpoint;
use super::repository::Repository;
use super::request::{Ask, Failure, Retry};
use crate::image::error::ImageError;
use crate::image::export::OutBlob;

/// Sent at once, and so held in memory. A blob of one part needs no upload in parts, which some registries lack.
const PART: u64 = 16 << 20;
/// So much has to get through in each stall period.
const SLOWEST: u64 = 512 << 10;

/// One request that changes something.
struct Call {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Bytes::new() }
    }
}

impl Repository {
    fn origin(&self, what: &str) -> Result<&Endpoint, ImageError> {
        let own = self.endpoints.iter().find(|endpoint| !endpoint.is_mirror);
        own.ok_or_else(|| self.nowhere(what, "push"))
    }

    /// Sends a blob unless it is there; answers the bytes that were sent. `siblings`: repositories of the same registry that
    /// may have it.
    pub(crate) async fn push_blob(&self, blob: &OutBlob, siblings: &[String]) -> Result<u64, ImageError> {
        let what = format!("blob {}", blob.digest);
        let endpoint = self.origin(&what)?;
        let mut failures = 0;
        loop {
            match self.push_blob_once(endpoint, &what, blob, siblings).await {
                Ok(sent) => return Ok(sent),
                Err(failure) => {
                    failures += 1;
                    self.pause_or_give_up(failure, failures).await?;
                }
            }
        }
    }

    async fn push_blob_once(
        &self,
        endpoint: &Endpoint,
        what: &str,
        blob: &OutBlob,
        siblings: &[String],
    ) -> Result<u64, Failure> {
        let ask = Ask { path: format!("blobs/{}", blob.digest), what, accept: None, offset: 0 };
        let head = self.call(endpoint, &ask, Call::new(Method::HEAD, self.url(endpoint, &ask.path))).await?;
        if head.status().is_success() {
            return Ok(0);
        }
        let mut url = self.url(endpoint, "blobs/uploads/");
        if let Some(from) = siblings.first() {
            url.query_pairs_mut().append_pair("mount", blob.digest.as_str()).append_pair("from", from);
        }
        let begun = self.call(endpoint, &ask, Call::new(Method::POST, url.clone())).await?;
        if begun.status() == StatusCode::CREATED {
            return Ok(0);
        }
        let mut place = self.location(endpoint, &ask, &url, begun).await?;
        let mut sent = 0;
        let mut last = Bytes::new();
        while sent < blob.size {
            let part = read(blob, sent).await.map_err(Failure::last)?;
            let end = sent + part.len() as u64;
            if blob.size <= PART {
                last = part;
            } else {
                let mut patch = Call::new(Method::PATCH, place.clone());
                let range = HeaderValue::from_str(&format!("{sent}-{}", end - 1));
                patch.headers.insert(CONTENT_RANGE, range.unwrap_or_else(|_| HeaderValue::from_static("")));
                patch.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
                patch.body = part;
                let taken = self.call(endpoint, &ask, patch).await?;
                place = self.location(endpoint, &ask, &place, taken).await?;
            }
            sent = end;
        }
        place.query_pairs_mut().append_pair("digest", blob.digest.as_str());
        let mut put = Call::new(Method::PUT, place);
        put.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        put.body = last;
        let done = self.call(endpoint, &ask, put).await?;
        if done.status().is_success() { Ok(sent) } else { Err(self.refusal(endpoint, &ask, done).await) }
    }

    /// Sends a manifest, which makes the image visible: its blobs are there.
    pub(crate) async fn push_manifest(
        &self,
        selector: &str,
        media_type: &'static str,
        bytes: &[u8],
    ) -> Result<(), ImageError> {
        let what = format!("manifest {selector}");
        let endpoint = self.origin(&what)?;
        let ask = Ask { path: format!("manifests/{selector}"), what: &what, accept: None, offset: 0 };
        let mut failures = 0;
        loop {
            let mut put = Call::new(Method::PUT, self.url(endpoint, &ask.path));
            put.headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
            put.body = Bytes::copy_from_slice(bytes);
            let failure = match self.call(endpoint, &ask, put).await {
                Ok(done) if done.status().is_success() => return Ok(()),
                Ok(done) => self.refusal(endpoint, &ask, done).await,
                Err(failure) => failure,
            };
            failures += 1;
            self.pause_or_give_up(failure, failures).await?;
        }
    }

    /// Where an upload goes on.
    async fn location(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        asked: &Url,
        response: Response,
    ) -> Result<Url, Failure> {
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.refusal(endpoint, ask, response).await);
        }
        let place = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
        let place = place.and_then(|place| asked.join(place).ok());
        let place = place.filter(|place| ["http", "https"].contains(&place.scheme()));
        place.ok_or_else(|| Failure::last(self.bad(endpoint, ask, "its upload has no address")))
    }

    /// One request, and once more when the registry wants to know who asks.
    async fn call(&self, endpoint: &Endpoint, ask: &Ask<'_>, call: Call) -> Result<Response, Failure> {
        let response = self.call_once(endpoint, ask, &call).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && self.answer_challenge(endpoint, &call.url, &response, ask).await?
        {
            return self.call_once(endpoint, ask, &call).await;
        }
        Ok(response)
    }

    async fn call_once(&self, endpoint: &Endpoint, ask: &Ask<'_>, call: &Call) -> Result<Response, Failure> {
        let http = self.client.connections.get(endpoint).map_err(Failure::last)?;
        let mut request = http.request(call.method.clone(), call.url.clone());
        // An upload may go to a storage host of the registry's; credentials stay with the registry.
        if call.url.origin() == endpoint.base.origin() {
            request = request.headers(endpoint.headers.clone());
            if let Some(value) = self.authorization(endpoint) {
                request = request.header(AUTHORIZATION, value);
            }
        }
        let request = request.headers(call.headers.clone()).body(call.body.clone());
        let periods = u32::try_from(1 + call.body.len() as u64 / SLOWEST).unwrap_or(u32::MAX);
        let patience = self.client.patience.stall_period.saturating_mul(periods);
        match tokio::time::timeout(patience, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let retry = if is_transient(&error) { Retry::After(None) } else { Retry::Never };
                Err(Failure { error: self.unavailable(endpoint, ask.what, describe(error)), retry })
            }
            Err(_) => Err(Failure::last(self.stalled(endpoint, ask.what, 0))),
        }
    }
}

/// The next part of a blob.
async fn read(blob: &OutBlob, offset: u64) -> Result<Bytes, ImageError> {
    let (path, size) = (Arc::new(blob.path.clone()), (blob.size - offset).min(PART));
    let of_task = path.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut part = vec![0; usize::try_from(size).unwrap_or(0)];
        File::open(&*of_task)?.read_exact_at(&mut part, offset)?;
        Ok::<_, std::io::Error>(Bytes::from(part))
    });
    let read = read.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
    read.map_err(|e| ImageError::io("read", &path, e))
}
