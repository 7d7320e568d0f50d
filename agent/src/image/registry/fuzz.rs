//! What has to hold for any registry's name, and any text of a registry or of its configuration.

use std::path::Path;

use super::{challenge, hosts};

/// Its configuration is looked for below the operator's folder, and its address is that host's and nobody else's.
pub(in super::super) fn leads_to(registry: &str) {
    let root = Path::new("/etc/certs.d");
    for folder in hosts::candidates(root, registry) {
        assert_eq!(folder.parent(), Some(root), "{registry}");
        assert!(folder.file_name().is_some(), "{registry}");
    }
    // Some names are none of a host after all: an IPv4 address of five numbers.
    let Ok(endpoint) = hosts::upstream(registry) else { return };
    assert!(["http", "https"].contains(&endpoint.base.scheme()) && endpoint.base.path() == "/v2", "{}", endpoint.base);
    assert!(
        endpoint.base.username().is_empty() && endpoint.base.password().is_none() && endpoint.base.query().is_none()
    );
    assert!(endpoint.base.host_str().is_some_and(|host| !host.is_empty()));
    assert!(!endpoint.is_mirror && endpoint.resolve && endpoint.pull);
}

pub(in super::super) fn hosts(text: &str, registry: &str) {
    let dir = Path::new("/etc/certs.d/x");
    let Ok(endpoints) = hosts::parse(text, dir, registry) else { return };
    assert!(!endpoints.is_empty(), "the registry itself is always the last");
    for endpoint in endpoints {
        assert!(["http", "https"].contains(&endpoint.base.scheme()) && endpoint.base.has_host());
        assert!(
            !endpoint.host().is_empty() && (endpoint.base.path() == "/" || !endpoint.base.path().ends_with('/')),
            "{}",
            endpoint.base
        );
        let client = endpoint.tls.client.iter().flat_map(|(certificate, key)| [Some(certificate), key.as_ref()]);
        for file in endpoint.tls.ca.iter().map(Some).chain(client).flatten() {
            assert!(file.is_absolute(), "{}", file.display());
        }
    }
}

pub(in super::super) fn challenge(text: &str) {
    let challenges = challenge::parse(text);
    assert!(challenges.len() <= text.len());
    for challenge in &challenges {
        assert!(
            !challenge.scheme.is_empty() && !challenge.scheme.contains(|c: char| c.is_ascii_uppercase() || c == ' ')
        );
        assert!(challenge.parameter("realm").is_none_or(|realm| realm.len() <= text.len()));
    }
}
