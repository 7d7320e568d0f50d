//! Whether a signature is about the image that is pulled: the reference that was signed against the one that is asked for
//! (containers-policy.json(5), `signedIdentity`). Pure.

use serde::Deserialize;

use crate::image::reference::Reference;

/// What a signature has to name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub(super) enum Identity {
    /// The same repository with the same tag or digest.
    MatchExact {},
    /// The same repository, and the same tag if the image is pulled by one.
    #[default]
    #[serde(rename = "matchRepoDigestOrExact")]
    MatchRepositoryOfDigestOrExact,
    /// The same repository; cosign signs no tag.
    MatchRepository {},
    /// This, whatever is pulled.
    ExactReference { docker_reference: String },
    /// This repository, whatever is pulled.
    ExactRepository { docker_repository: String },
    /// As the default, with the start of the pulled name replaced: for mirrors.
    #[serde(rename = "remapIdentity")]
    Remap { prefix: String, signed_prefix: String },
}

/// A name and whether it has a tag or digest of its own.
fn parse(text: &str) -> Option<(Reference, bool)> {
    let last = text.rsplit('/').next().unwrap_or(text);
    Some((text.parse().ok()?, last.contains([':', '@'])))
}

impl Identity {
    /// Why a policy's identity cannot be used.
    pub(super) fn check(&self) -> Result<(), String> {
        let wrong = |field: &str, text: &str| Err(format!("{field}: {text:?} is no image reference of the right form"));
        match self {
            Self::ExactReference { docker_reference: text } if !parse(text).is_some_and(|(_, whole)| whole) => {
                wrong("dockerReference", text)
            }
            Self::ExactRepository { docker_repository: text } if parse(text).is_none_or(|(_, whole)| whole) => {
                wrong("dockerRepository", text)
            }
            Self::Remap { prefix, .. } if prefix.is_empty() => wrong("prefix", prefix),
            Self::Remap { signed_prefix, .. } if signed_prefix.is_empty() => wrong("signedPrefix", signed_prefix),
            _ => Ok(()),
        }
    }

    /// `signed`: the reference inside the signature. `image`: what is pulled.
    pub(super) fn accepts(&self, image: &Reference, signed: &str) -> bool {
        let Some((signed, is_whole)) = parse(signed) else { return false };
        let exact = |image: &Reference| is_whole && image.canonical() == signed.canonical();
        let by_digest_or_exact = |image: &Reference| {
            if image.digest().is_some() { image.name() == signed.name() } else { exact(image) }
        };
        match self {
            Self::MatchExact {} => exact(image),
            Self::MatchRepositoryOfDigestOrExact => by_digest_or_exact(image),
            Self::MatchRepository {} => image.name() == signed.name(),
            Self::ExactReference { docker_reference } => {
                parse(docker_reference).is_some_and(|(named, _)| exact(&named))
            }
            Self::ExactRepository { docker_repository } => {
                parse(docker_repository).is_some_and(|(named, _)| named.name() == signed.name())
            }
            Self::Remap { prefix, signed_prefix } => {
                let name = image.canonical();
                let remapped = match name.strip_prefix(prefix.as_str()) {
                    Some(rest) if rest.is_empty() || rest.starts_with(['/', ':', '@']) => {
                        format!("{signed_prefix}{rest}")
                    }
                    _ => name,
                };
                remapped.parse().is_ok_and(|image| by_digest_or_exact(&image))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn accepted(identity: serde_json::Value, image: &str, signed: &str) -> bool {
        let identity: Identity = serde_json::from_value(identity).unwrap();
        identity.check().unwrap();
        identity.accepts(&image.parse().unwrap(), signed)
    }

    #[test]
    fn each_rule_matches_what_it_says() {
        let digest = format!("r.io/a/b@sha256:{}", "1".repeat(64));
        let (exact, repository) = (json!({"type": "matchExact"}), json!({"type": "matchRepository"}));
        let default = json!({"type": "matchRepoDigestOrExact"});
        // identity, pulled, signed, accepted
        let table = [
            (&exact, "r.io/a/b:1", "r.io/a/b:1", true),
            (&exact, "r.io/a/b:1", "r.io/a/b:2", false),
            (&exact, "r.io/a/b:latest", "r.io/a/b", false),
            (&exact, digest.as_str(), "r.io/a/b:1", false),
            (&default, "r.io/a/b:1", "r.io/a/b:1", true),
            (&default, "r.io/a/b:1", "r.io/a/b", false),
            (&default, digest.as_str(), "r.io/a/b", true),
            (&default, digest.as_str(), "r.io/a/c", false),
            (&repository, "r.io/a/b:1", "r.io/a/b", true),
            (&repository, "r.io/a/b:1", "r.io/a", false),
            (&repository, "busybox", "docker.io/library/busybox:9", true),
            (&repository, "r.io/a/b:1", "r.io:443/a/b", false),
            (&repository, "r.io/a/b:1", "", false),
        ];
        for (identity, image, signed, expected) in table {
            assert_eq!(accepted(identity.clone(), image, signed), expected, "{identity} {image} {signed}");
        }
        let exactly = json!({"type": "exactReference", "dockerReference": "o.io/x:3"});
        assert!(accepted(exactly.clone(), "r.io/a/b:1", "o.io/x:3") && !accepted(exactly, "r.io/a/b:1", "r.io/a/b:1"));
        let named = json!({"type": "exactRepository", "dockerRepository": "o.io/x"});
        assert!(accepted(named.clone(), "r.io/a/b:1", "o.io/x:4") && !accepted(named, "r.io/a/b:1", "o.io/y"));
        let remap = json!({"type": "remapIdentity", "prefix": "mirror.io/r", "signedPrefix": "r.io"});
        assert!(accepted(remap.clone(), "mirror.io/r/a:1", "r.io/a:1"));
        assert!(!accepted(remap.clone(), "mirror.io/rest/a:1", "r.ioest/a:1"), "a prefix ends where a part ends");
        assert!(accepted(remap, "other.io/a:1", "other.io/a:1"));
    }

    #[test]
    fn identities_that_name_nothing_are_refused() {
        for bad in [
            json!({"type": "exactReference", "dockerReference": "o.io/x"}),
            json!({"type": "exactRepository", "dockerRepository": "o.io/x:1"}),
            json!({"type": "remapIdentity", "prefix": "", "signedPrefix": "x"}),
        ] {
            assert!(serde_json::from_value::<Identity>(bad.clone()).unwrap().check().is_err(), "{bad}");
        }
        assert!(serde_json::from_value::<Identity>(json!({"type": "matchAnything"})).is_err());
    }
}
