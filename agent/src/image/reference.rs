//! Image references, normalised the way docker and containerd do (github.com/distribution/reference). Pure.

use std::fmt;
use std::str::FromStr;

use super::error::{ImageError, shorten};
use crate::model::Digest;

/// The longest `registry/repository` (distribution's `NameTotalLengthMax`).
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;
const DEFAULT_REGISTRY: &str = "docker.io";
/// Longer than any valid `name:tag@digest`; refused before anything looks at it.
const LONGEST_REFERENCE: usize = LONGEST_NAME + 1 + LONGEST_TAG + 1 + 71;

/// A complete image reference: registry, repository, and a tag or a digest (or both, and then the digest decides).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host, with a port if one was given: `docker.io`, `localhost:5000`, `[::1]:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` where neither tag nor digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the reference is pinned to one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `registry/repository`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name an image gets in the store: the digest wins over a tag, as it does in containerd's CRI.
    pub fn canonical(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => self.with_digest(digest),
            (None, Some(tag)) => format!("{}:{tag}", self.name()),
            (None, None) => format!("{}:latest", self.name()),
        }
    }

    /// The repository at a digest: an entry of `repo_digests`.
    pub fn with_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }

    /// What the registry is asked for under `/manifests/`.
    pub fn manifest_selector(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        parse(text).map_err(|reason| ImageError::InvalidReference { reference: shorten(text), reason })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > LONGEST_REFERENCE {
        return Err("it is too long");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest =
                digest.parse().map_err(|_| "its digest is not sha256: and 64 lower-case hexadecimal digits")?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    // A colon after the last slash starts a tag; one before it belongs to the registry's port.
    let name_end = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[name_end..].split_once(':') {
        Some((last, tag)) => (&rest[..name_end + last.len()], Some(tag)),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, repository) = split_registry(name);
    check_registry(&registry)?;
    check_repository(&repository)?;
    if registry.len() + 1 + repository.len() > LONGEST_NAME {
        return Err("its name is longer than 255 characters");
    }
    if registry == DEFAULT_REGISTRY && is_hex64(&repository["library/".len().min(repository.len())..]) {
        return Err("64 hexadecimal digits are an image id, not a name");
    }
    let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
    Ok(Reference { registry, repository, tag, digest })
}

/// The first component is a registry only if it looks like a host; everything else lives at docker.io.
fn split_registry(name: &str) -> (String, String) {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if looks_like_host(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
    (registry.to_owned(), if official { format!("library/{repository}") } else { repository.to_owned() })
}

fn looks_like_host(first: &str) -> bool {
    first.contains(['.', ':', '[']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or("its IPv6 registry address has no closing bracket")?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "its registry is not an IPv6 address")?;
            let port = match rest {
                "" => None,
                _ => Some(rest.strip_prefix(':').ok_or("there is more than a port after its IPv6 registry address")?),
            };
            (None, port)
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    if let Some(port) = port
        && (port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err())
    {
        return Err("its registry's port is not a number up to 65535");
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    match host {
        Some(host) if !host.split('.').all(label) => Err("its registry is not a host name"),
        _ => Ok(()),
    }
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("its repository has upper-case letters");
    }
    if repository.split('/').all(is_path_component) {
        Ok(())
    } else {
        Err("its repository is not lower-case letters and digits, separated by '/', '.', '_', '__' or '-'")
    }
}

/// Runs of letters and digits, between them one of `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    word(*first)
        && word(*last)
        && bytes
            .split(|b| word(*b))
            .all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|b| *b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let valid = tag.len() <= LONGEST_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if valid { Ok(()) } else { Err("its tag is not 1 to 128 letters, digits, '_', '.' or '-'") }
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        text.parse::<Reference>().map_or_else(|e| e.to_string(), |r| r.to_string())
    }

    #[test]
    fn short_names_live_at_docker_io() {
        assert_eq!(shown("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(shown("busybox:1.36"), "docker.io/library/busybox:1.36");
        assert_eq!(shown("grafana/loki"), "docker.io/grafana/loki:latest");
        assert_eq!(shown("index.docker.io/library/redis"), "docker.io/library/redis:latest");
        assert_eq!(shown("docker.io/redis"), "docker.io/library/redis:latest");
    }

    #[test]
    fn registries_have_ports_and_addresses() {
        assert_eq!(shown("localhost/x"), "localhost/x:latest");
        assert_eq!(shown("localhost:5000/a/b:t"), "localhost:5000/a/b:t");
        assert_eq!(shown("127.0.0.1:5000/x"), "127.0.0.1:5000/x:latest");
        assert_eq!(shown("[::1]:5000/x:y"), "[::1]:5000/x:y");
        assert_eq!(shown("[2001:db8::1]/x"), "[2001:db8::1]/x:latest");
        assert_eq!(shown("UPPER/x"), "UPPER/x:latest");
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let reference: Reference = format!("r.io/x:v1@{digest}").parse().unwrap();
        assert_eq!((reference.tag(), reference.manifest_selector()), (Some("v1"), digest.as_str()));
        assert_eq!(reference.canonical(), format!("r.io/x@{digest}"));
        let reference: Reference = format!("r.io/x@{digest}").parse().unwrap();
        assert_eq!(reference.tag(), None);
    }

    #[test]
    fn what_is_no_reference_is_refused_with_its_reason() {
        let hex = "a".repeat(64);
        let long = "a".repeat(300);
        let long_tag = format!("x:{}", "t".repeat(129));
        for (bad, reason) in [
            ("", "empty"),
            ("UPPER", "upper-case"),
            ("a//b", "repository"),
            ("a/../b", "repository"),
            ("/etc/passwd", "repository"),
            ("x:", "tag"),
            ("x:-a", "tag"),
            (long_tag.as_str(), "tag"),
            ("x@sha256:12", "digest"),
            ("x@sha512:12", "digest"),
            ("r.io:99999/x", "port"),
            ("r.io:/x", "port"),
            ("[::1/x", "bracket"),
            ("[zz]/x", "IPv6"),
            ("-r.io/x", "host name"),
            ("a__-b", "repository"),
            ("a..b", "repository"),
            ("x y", "repository"),
            ("r.io/x\n", "repository"),
            (hex.as_str(), "image id"),
            (long.as_str(), "255"),
        ] {
            assert!(shown(bad).contains(reason), "{bad:?}: {}", shown(bad));
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails_without_panic(text in ".{0,80}") {
            let _ = text.parse::<Reference>();
        }

        #[test]
        fn what_parses_is_printed_as_itself(
            host in "([a-z]{1,8}\\.[a-z]{2,3}|localhost)(:[1-9][0-9]{0,3})?",
            path in "[a-z0-9]{1,6}([._-][a-z0-9]{1,6}){0,2}(/[a-z0-9]{1,6}){0,2}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            hex in proptest::option::of("[0-9a-f]{64}"),
        ) {
            let mut text = format!("{host}/{path}");
            if let Some(tag) = &tag { text = format!("{text}:{tag}"); }
            if let Some(hex) = &hex { text = format!("{text}@sha256:{hex}"); }
            let reference: Reference = text.parse().unwrap();
            let expected = if tag.is_none() && hex.is_none() { format!("{text}:latest") } else { text };
            prop_assert_eq!(reference.to_string(), &expected[..]);
            prop_assert_eq!(expected.parse::<Reference>().unwrap(), reference);
        }

        #[test]
        fn the_canonical_name_is_a_fixed_point(text in "[a-z]{1,5}(/[a-z]{1,5}){0,2}(:[a-z0-9]{1,5})?") {
            let reference: Reference = text.parse().unwrap();
            let again: Reference = reference.canonical().parse().unwrap();
            prop_assert_eq!(again.canonical(), reference.canonical());
        }
    }
}
