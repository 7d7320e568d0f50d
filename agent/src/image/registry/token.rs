//! Bearer tokens from a registry's token service (distribution, docs/spec/auth/token.md and oauth.md), kept until they
//! expire.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use serde::Deserialize;

use super::challenge::Challenge;
use super::connection::describe;
use super::credentials::Auth;
use crate::image::error::shorten;

/// What the specification says where a service says nothing.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token is not used in its last seconds.
const MARGIN: Duration = Duration::from_secs(10);
const LARGEST_ANSWER: usize = 256 << 10;
const MOST_TOKENS: usize = 256;

/// What a token is good for, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    pub(super) realm: String,
    pub(super) service: String,
    pub(super) scope: String,
    pub(super) auth: Option<Auth>,
}

/// The tokens in use, over all pulls.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<TokenKey, (String, Instant)>>);

/// Why there is no token.
#[derive(Debug)]
pub(super) enum TokenError {
    /// The service says no.
    Refused(String),
    /// The service cannot be reached or is ill.
    Unavailable(String),
    /// The challenge or the answer makes no sense.
    Bad(String),
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

impl TokenKey {
    /// From a bearer challenge of a server that is asked for `repository`.
    pub(super) fn new(
        challenge: &Challenge,
        repository: &str,
        asked: &Url,
        auth: Option<&Auth>,
    ) -> Result<Self, TokenError> {
        let realm =
            challenge.parameter("realm").ok_or_else(|| TokenError::Bad("its challenge has no realm".to_owned()))?;
        let realm =
            asked.join(realm).map_err(|_| TokenError::Bad(format!("its realm {:?} is no address", shorten(realm))))?;
        if auth.is_some() && asked.scheme() == "https" && realm.scheme() != "https" {
            return Err(TokenError::Bad(format!("its realm {realm} would have the password sent in the clear")));
        }
        let scope = challenge.parameter("scope").map_or_else(|| format!("repository:{repository}:pull"), str::to_owned);
        Ok(Self {
            realm: realm.to_string(),
            service: challenge.parameter("service").unwrap_or_default().to_owned(),
            scope,
            auth: auth.cloned(),
        })
    }
}

impl Tokens {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TokenKey, (String, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token that is still good.
    pub(super) fn cached(&self, key: &TokenKey) -> Option<String> {
        self.lock().get(key).filter(|(_, until)| *until > Instant::now()).map(|(token, _)| token.clone())
    }

    /// The registry did not take it.
    pub(super) fn forget(&self, key: &TokenKey) {
        self.lock().remove(key);
    }

    /// Asks the token service.
    pub(super) async fn fetch(
        &self,
        http: &reqwest::Client,
        key: &TokenKey,
        timeout: Duration,
    ) -> Result<String, TokenError> {
        let request = match &key.auth {
            Some(auth) if !auth.identity_token.is_empty() => {
                http.post(&key.realm).header("content-type", "application/x-www-form-urlencoded").body(form(&[
                    ("grant_type", "refresh_token"),
                    ("service", &key.service),
                    ("scope", &key.scope),
                    ("client_id", "berth"),
                    ("refresh_token", &auth.identity_token),
                ]))
            }
            auth => {
                let mut url = Url::parse(&key.realm).map_err(|e| TokenError::Bad(e.to_string()))?;
                let mut query = url.query_pairs_mut();
                if !key.service.is_empty() {
                    query.append_pair("service", &key.service);
                }
                // Some services take one scope a parameter only.
                for scope in key.scope.split(' ').filter(|scope| !scope.is_empty()) {
                    query.append_pair("scope", scope);
                }
                if let Some(auth) = auth {
                    query.append_pair("account", &auth.username);
                }
                drop(query);
                let request = http.get(url);
                match auth {
                    Some(auth) => request.basic_auth(&auth.username, Some(&auth.password)),
                    None => request,
                }
            }
        };
        let answer = tokio::time::timeout(timeout, answer(request)).await;
        let answer = answer.map_err(|_| TokenError::Unavailable("the token service does not answer".to_owned()))??;
        let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
        if token.is_empty() {
            return Err(TokenError::Bad("the token service's answer has no token".to_owned()));
        }
        let life = answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs).saturating_sub(MARGIN);
        let mut tokens = self.lock();
        let now = Instant::now();
        if tokens.len() >= MOST_TOKENS {
            tokens.retain(|_, (_, until)| *until > now);
        }
        if tokens.len() < MOST_TOKENS
            && let Some(until) = now.checked_add(life)
        {
            tokens.insert(key.clone(), (token.clone(), until));
        }
        Ok(token)
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Answer, TokenError> {
    let mut response = request.send().await.map_err(|e| TokenError::Unavailable(describe(e)))?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| TokenError::Unavailable(describe(e)))? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            return Err(TokenError::Bad("the token service's answer is too large".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_success() {
        return serde_json::from_slice(&body)
            .map_err(|e| TokenError::Bad(format!("the token service's answer: {}", shorten(&e.to_string()))));
    }
    let detail = format!("the token service answers {status}: {}", shorten(String::from_utf8_lossy(&body).trim()));
    Err(if status.is_server_error() || status.as_u16() == 429 {
        TokenError::Unavailable(detail)
    } else {
        TokenError::Refused(detail)
    })
}

/// `application/x-www-form-urlencoded`.
fn form(pairs: &[(&str, &str)]) -> String {
    let mut url = Url::parse("form:").expect("a constant");
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}
