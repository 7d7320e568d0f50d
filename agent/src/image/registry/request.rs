//! One request to one endpoint: authentication as the registry demands it, redirects without taking the credentials
//! along, retries while it makes sense.

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};

use super::challenge::{self, Challenge};
use super::connection::{describe, is_transient, remedy};
use super::credentials::Auth;
use super::hosts::Endpoint;
use super::repository::Repository;
use super::token::{TokenError, TokenKey};
use crate::image::error::{ImageError, shorten};

const MOST_REDIRECTS: usize = 10;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Of an error's body, for its message.
const ERROR_BODY: usize = 4096;

/// A failure, and whether to try again.
pub(super) struct Failure {
    pub(super) error: ImageError,
    pub(super) retry: Retry,
}

/// What a failure leaves to hope for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    Never,
    /// After the usual pause, or the one that the registry asked for.
    After(Option<Duration>),
}

impl Failure {
    pub(super) fn last(error: ImageError) -> Self {
        Self { error, retry: Retry::Never }
    }
}

/// What is asked for.
pub(super) struct Ask<'a> {
    /// Below the repository: `manifests/latest`.
    pub(super) path: String,
    /// For messages.
    pub(super) what: &'a str,
    pub(super) accept: Option<&'static str>,
    /// Resume behind this many bytes.
    pub(super) offset: u64,
}

impl Repository {
    /// GET, tried as often as it may help; the body is still to be read.
    pub(super) async fn get(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> Result<Response, ImageError> {
        let mut failures = 0;
        loop {
            match self.get_once(endpoint, ask).await {
                Ok(response) => return Ok(response),
                Err(failure) => {
                    failures += 1;
                    self.pause_or_give_up(failure, failures).await?;
                }
            }
        }
    }

    /// Returns when it is time for another attempt; the `failures` so far decide how long that takes.
    pub(super) async fn pause_or_give_up(&self, failure: Failure, failures: u32) -> Result<(), ImageError> {
        let patience = &self.client.patience;
        let Retry::After(wanted) = failure.retry else { return Err(failure.error) };
        if failures > patience.retries {
            return Err(failure.error);
        }
        let doubled = patience.retry_pause.saturating_mul(1 << (failures - 1).min(4));
        let pause = wanted.unwrap_or_else(|| jittered(doubled)).min(LONGEST_PAUSE);
        tracing::debug!(error = %failure.error, ?pause, "registry request failed, trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// One attempt, with the round trip for a token if the registry wants one.
    pub(super) async fn get_once(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> Result<Response, Failure> {
        let url = self.url(endpoint, &ask.path);
        let mut response = self.send(endpoint, url.clone(), ask).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && self.answer_challenge(endpoint, &url, &response, ask).await?
        {
            response = self.send(endpoint, url, ask).await?;
        }
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(endpoint, ask, response).await) }
    }

    pub(super) fn url(&self, endpoint: &Endpoint, path: &str) -> Url {
        let mut url = endpoint.base.clone();
        url.set_path(&format!("{}/{}/{path}", url.path().trim_end_matches('/'), self.repository));
        if endpoint.is_mirror {
            url.query_pairs_mut().append_pair("ns", &self.registry);
        }
        url
    }

    /// The credentials of this pull, if this endpoint may see them. A mirror counts as the registry it stands for only
    /// where they are not tied to an address.
    fn auth_for(&self, endpoint: &Endpoint) -> Option<&Auth> {
        let auth = self.auth.as_ref()?;
        let own = !endpoint.is_mirror && auth.is_for(&self.registry);
        (own || auth.is_for(&endpoint.host())).then_some(auth)
    }

    /// What to send unasked: a token of the pull's own, or what answered this endpoint's challenge before.
    pub(super) fn authorization(&self, endpoint: &Endpoint) -> Option<String> {
        let auth = self.auth_for(endpoint);
        if let Some(auth) = auth.filter(|auth| !auth.registry_token.is_empty()) {
            return Some(format!("Bearer {}", auth.registry_token));
        }
        self.granted(endpoint)
    }

    async fn send(&self, endpoint: &Endpoint, mut url: Url, ask: &Ask<'_>) -> Result<Response, Failure> {
        let http = self.client.connections.get(endpoint).map_err(Failure::last)?;
        let origin = url.origin();
        let mut headers = endpoint.headers.clone();
        if let Some(value) = self.authorization(endpoint) {
            let mut value = HeaderValue::from_str(&value).map_err(|_| {
                Failure::last(self.bad(endpoint, ask, "the token has characters that no header may have"))
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        for _ in 0..=MOST_REDIRECTS {
            // Credentials and the operator's own headers are for the host they were given for.
            let own = if url.origin() == origin { headers.clone() } else { HeaderMap::new() };
            let mut request = http.get(url.clone()).headers(own);
            if let Some(accept) = ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if ask.offset > 0 {
                request = request.header(RANGE, format!("bytes={}-", ask.offset));
            }
            let response = self.wait(endpoint, ask, request).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let target = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).and_then(|l| url.join(l).ok());
            url = target
                .filter(|url| ["http", "https"].contains(&url.scheme()))
                .ok_or_else(|| Failure::last(self.bad(endpoint, ask, "it redirects to no address")))?;
        }
        Err(Failure::last(self.bad(endpoint, ask, "it redirects without end")))
    }

    async fn wait(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        request: reqwest::RequestBuilder,
    ) -> Result<Response, Failure> {
        let period = self.client.patience.stall_period;
        match tokio::time::timeout(period, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let retry = if is_transient(&error) { Retry::After(None) } else { Retry::Never };
                Err(Failure { error: self.unavailable(endpoint, ask.what, describe(error)), retry })
            }
            Err(_) => Err(Failure::last(self.stalled(endpoint, ask.what, 0))),
        }
    }

    /// Gets what a 401 asks for. False: there is nothing to answer with, and the 401 stands.
    pub(super) async fn answer_challenge(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        response: &Response,
        ask: &Ask<'_>,
    ) -> Result<bool, Failure> {
        let auth = self.auth_for(endpoint).filter(|auth| auth.registry_token.is_empty());
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let challenges: Vec<Challenge> =
            headers.iter().filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect();
        let of = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        if let Some(bearer) = of("bearer") {
            if self.auth_for(endpoint).is_some() && auth.is_none() {
                return Ok(false);
            }
            let granted = self.bearer(endpoint, bearer, url, auth).await;
            let token = granted.map_err(|error| self.no_token(endpoint, ask, error))?;
            self.grant(endpoint, format!("Bearer {token}"));
            return Ok(true);
        }
        match (of("basic"), auth) {
            (Some(_), Some(auth)) if !auth.username.is_empty() => {
                use base64::Engine as _;
                let pair = format!("{}:{}", auth.username, auth.password);
                let value = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
                // Sent already and refused: once more would be the same.
                Ok(self.granted(endpoint).as_deref() != Some(&value) && {
                    self.grant(endpoint, value);
                    true
                })
            }
            _ => Ok(false),
        }
    }

    async fn bearer(
        &self,
        endpoint: &Endpoint,
        challenge: &Challenge,
        url: &Url,
        auth: Option<&Auth>,
    ) -> Result<String, TokenError> {
        let key = TokenKey::new(challenge, &self.repository, url, auth)?;
        if let Some(token) = self.client.tokens.cached(&key) {
            if self.granted(endpoint).as_deref() != Some(&format!("Bearer {token}")) {
                return Ok(token);
            }
            self.client.tokens.forget(&key);
        }
        let http = self.client.connections.get(endpoint).map_err(|e| TokenError::Bad(e.to_string()))?;
        self.client.tokens.fetch(&http, &key, self.client.patience.stall_period).await
    }

    fn no_token(&self, endpoint: &Endpoint, ask: &Ask<'_>, error: TokenError) -> Failure {
        match error {
            TokenError::Unavailable(detail) => {
                Failure { error: self.unavailable(endpoint, ask.what, detail), retry: Retry::After(None) }
            }
            TokenError::Refused(detail) => Failure::last(ImageError::Unauthenticated {
                what: ask.what.to_owned(),
                registry: endpoint.host(),
                detail,
            }),
            TokenError::Bad(reason) => Failure::last(self.bad(endpoint, ask, reason)),
        }
    }

    /// A status that is no success, as an error with the registry's own words.
    pub(super) async fn refusal(&self, endpoint: &Endpoint, ask: &Ask<'_>, response: Response) -> Failure {
        let status = response.status();
        let wanted = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
        let detail = format!("{status}{}", error_text(response, self.client.patience.stall_period).await);
        let (what, registry) = (ask.what.to_owned(), endpoint.host());
        let error = match status {
            StatusCode::NOT_FOUND => ImageError::NotFound { what, registry, detail },
            StatusCode::UNAUTHORIZED => ImageError::Unauthenticated { what, registry, detail },
            StatusCode::FORBIDDEN => ImageError::PermissionDenied { what, registry, detail },
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                let error = ImageError::RegistryUnavailable { what, registry, detail };
                return Failure { error, retry: Retry::After(wanted.map(Duration::from_secs)) };
            }
            _ if status.is_server_error() => {
                let error = ImageError::RegistryUnavailable { what, registry, detail };
                return Failure { error, retry: Retry::After(wanted.map(Duration::from_secs)) };
            }
            _ => ImageError::BadAnswer { what, registry, reason: detail },
        };
        Failure::last(error)
    }

    pub(super) fn bad(&self, endpoint: &Endpoint, ask: &Ask<'_>, reason: impl Into<String>) -> ImageError {
        ImageError::BadAnswer { what: ask.what.to_owned(), registry: endpoint.host(), reason: reason.into() }
    }

    pub(super) fn unavailable(&self, endpoint: &Endpoint, what: &str, detail: String) -> ImageError {
        let detail = format!("{detail}{}", remedy(endpoint, &detail));
        ImageError::RegistryUnavailable { what: what.to_owned(), registry: endpoint.host(), detail }
    }

    pub(super) fn stalled(&self, endpoint: &Endpoint, what: &str, received: u64) -> ImageError {
        let period = self.client.patience.stall_period;
        ImageError::Stalled { what: what.to_owned(), registry: endpoint.host(), received, period }
    }
}

/// `{"errors": [{"code": …, "message": …}]}` as text; anything else as it is, shortened.
async fn error_text(mut response: Response, timeout: Duration) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<OneError>,
    }
    #[derive(serde::Deserialize)]
    struct OneError {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(ERROR_BODY - body.len())]);
            if body.len() >= ERROR_BODY {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(timeout, read).await;
    if let Ok(told) = serde_json::from_slice::<Errors>(&body) {
        let words = told.errors.iter().map(|e| format!(": {} {}", e.code, e.message));
        return shorten(words.collect::<String>().trim_end());
    }
    let text = String::from_utf8_lossy(&body);
    let text = text.trim();
    if text.is_empty() || text.starts_with('<') { String::new() } else { format!(": {}", shorten(text)) }
}

/// Between half and all of it, so that many nodes do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0u8; 2];
    let _ = getrandom::fill(&mut random);
    let fraction = f64::from(u16::from_ne_bytes(random)) / f64::from(u16::MAX);
    pause.mul_f64(0.5 + fraction / 2.0)
}
