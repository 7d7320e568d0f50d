//! Credentials: those a pull brings (CRI AuthConfig), and those of a docker `config.json`.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::image::error::ImageError;

/// Credentials for a registry. Never printed.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Auth {
    /// With `password`: HTTP basic, or the login at a token service.
    pub username: String,
    /// See `username`.
    pub password: String,
    /// A refresh token (OAuth 2) for the token service.
    pub identity_token: String,
    /// A bearer token to be sent as it is.
    pub registry_token: String,
    /// Set: only for this registry. Empty: for whichever host serves the pull, its mirrors included.
    pub server_address: String,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("username", &self.username)
            .field("server", &self.server_address)
            .finish_non_exhaustive()
    }
}

impl Auth {
    /// False: it is as good as none.
    pub(crate) fn says_something(&self) -> bool {
        !(self.username.is_empty() && self.identity_token.is_empty() && self.registry_token.is_empty())
    }

    /// Whether they may be sent to `host`.
    pub(super) fn is_for(&self, host: &str) -> bool {
        self.server_address.is_empty() || same_host(host_of(&self.server_address), host)
    }
}

fn decode_pair(text: &str) -> Option<(String, String)> {
    let bytes = STANDARD.decode(text.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    // Docker pads old entries with NULs.
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// The host (and port) of a key or address: `https://index.docker.io/v1/`, `r.io`, `r.io/team`.
fn host_of(address: &str) -> &str {
    let address = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://")).unwrap_or(address);
    address.split('/').next().unwrap_or(address)
}

fn same_host(a: &str, b: &str) -> bool {
    let docker = |host: &str| ["docker.io", "index.docker.io", "registry-1.docker.io"].contains(&host);
    a.eq_ignore_ascii_case(b) || docker(a) && docker(b)
}

/// The part of docker's configuration file that concerns registries.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: HashMap<String, DockerAuth>,
    creds_store: String,
    cred_helpers: HashMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DockerAuth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What a docker `config.json` has for a repository: the entry with the longest path that fits, as containers-auth.json(5)
/// has it. Blocks on the file.
pub(super) fn from_docker_config(path: &Path, registry: &str, repository: &str) -> Result<Option<Auth>, ImageError> {
    let bad = |reason: String| ImageError::BadConfiguration { path: path.to_owned(), reason };
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ImageError::io("read", path, e)),
    };
    let config: DockerConfig = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
    lookup(&config, registry, repository).map_err(bad)
}

fn lookup(config: &DockerConfig, registry: &str, repository: &str) -> Result<Option<Auth>, String> {
    let best =
        config.auths.iter().filter_map(|(key, entry)| match_length(key, registry, repository).map(|n| (n, key, entry)));
    let best = best.max_by_key(|(length, key, _)| (*length, std::cmp::Reverse(key.len())));
    if let Some((_, key, entry)) = best {
        let mut auth = Auth {
            username: entry.username.clone(),
            password: entry.password.clone(),
            identity_token: entry.identitytoken.clone(),
            registry_token: entry.registrytoken.clone(),
            // What stands in the file belongs to that host, not to its mirrors.
            server_address: registry.to_owned(),
        };
        if auth.username.is_empty() && !entry.auth.is_empty() {
            (auth.username, auth.password) = decode_pair(&entry.auth)
                .ok_or_else(|| format!("auths.{key}.auth is not the base64 of user:password"))?;
        }
        if auth.says_something() {
            return Ok(Some(auth));
        }
    }
    let helper =
        config.cred_helpers.iter().find(|(key, _)| same_host(host_of(key), registry)).map(|(_, helper)| helper);
    let helper = helper.or(Some(&config.creds_store).filter(|store| !store.is_empty() && best.is_some()));
    match helper {
        Some(helper) => Err(format!(
            "credentials for {registry} are kept by the helper docker-credential-{helper}, which is not run; put them under \
             \"auths\", or let the kubelet's credential provider or an imagePullSecret bring them"
        )),
        None => Ok(None),
    }
}

/// How much of a repository's path a key names, `None` if it is another host's or path's.
fn match_length(key: &str, registry: &str, repository: &str) -> Option<usize> {
    let host = host_of(key);
    if !same_host(host, registry) {
        return None;
    }
    if key.contains("://") || host.len() == key.len() {
        return Some(0);
    }
    let path = key[host.len()..].trim_matches('/');
    let fits = repository == path || repository.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    (path.is_empty() || fits).then_some(path.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str, registry: &str, repository: &str) -> Result<Option<String>, String> {
        let config: DockerConfig = serde_json::from_str(json).unwrap();
        lookup(&config, registry, repository)
            .map(|auth| auth.map(|auth| format!("{}:{}", auth.username, auth.password)))
    }

    #[test]
    fn hosts_match_in_all_their_spellings() {
        let config = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "r.io:5000": {"username": "u", "password": "p"},
            "r.io:5000/team": {"username": "team", "password": "p"}
        }}"#;
        let found = |registry, repository| found(config, registry, repository).unwrap();
        assert_eq!(found("docker.io", "library/x").as_deref(), Some("hub:pw"));
        assert_eq!(found("r.io:5000", "x").as_deref(), Some("u:p"));
        assert_eq!(found("r.io:5000", "team/x").as_deref(), Some("team:p"));
        assert_eq!(found("r.io:5000", "teams/x").as_deref(), Some("u:p"));
        assert_eq!(found("r.io", "x"), None);
    }

    #[test]
    fn helpers_are_refused_by_name() {
        let config = r#"{"credHelpers": {"r.io": "ecr-login"}, "auths": {"other.io": {}}, "credsStore": "pass"}"#;
        assert!(found(config, "r.io", "x").unwrap_err().contains("docker-credential-ecr-login"));
        assert!(found(config, "other.io", "x").unwrap_err().contains("docker-credential-pass"));
        assert_eq!(found(config, "third.io", "x"), Ok(None));
    }

    #[test]
    fn an_address_limits_where_they_go() {
        let auth = Auth { username: "u".into(), server_address: "https://r.io/v2/".into(), ..Auth::default() };
        assert!(auth.is_for("r.io") && !auth.is_for("evil.io"));
        assert!(!format!("{:?}", Auth { password: "secret".into(), ..auth }).contains("secret"));
    }
}
