//! What has to hold for any reference, manifest and registry configuration.

use std::path::{Component, Path};

use super::artifact;
use super::manifest::{self, Descriptor, Document, LARGEST_DOCUMENT, MOST_LAYERS};
use super::platform::Platform;
use super::reference::Reference;
use super::registry::fuzz as registry;
use crate::fuzz::Input;

/// What an error may say, in bytes: it goes to kubelet and into an event. gRPC's status has to fit into one header.
const LONGEST_ERROR: usize = 2000;

/// A reference that is taken can be written down and read again, and leads nowhere but to its registry.
pub(crate) fn reference(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let reference: Reference = match text.parse() {
        Ok(reference) => reference,
        Err(error) => return short(&error),
    };
    let shown = reference.to_string();
    assert_eq!(shown.parse::<Reference>().ok().as_ref(), Some(&reference), "{shown}");
    let canonical: Reference = reference.canonical().parse().expect("a canonical name is a reference");
    assert_eq!(canonical.canonical(), reference.canonical());
    assert!(shown.is_ascii() && !shown.contains(|c: char| c.is_ascii_control() || " ?#%\\".contains(c)), "{shown}");
    assert!(reference.repository().split('/').all(|part| !matches!(part, "" | "." | "..")), "{shown}");
    registry::leads_to(reference.registry());
}

/// A manifest that is taken keeps all limits; what is refused is told in few words, whatever it is.
pub(crate) fn manifest(data: &[u8]) {
    let mut input = Input::new(data);
    let content_type = input.pick(&[
        None,
        Some(manifest::OCI_MANIFEST),
        Some(manifest::OCI_INDEX),
        Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
        Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
        Some("text/html"),
    ]);
    let bytes = input.rest();
    match manifest::parse("image", bytes, content_type) {
        Ok(Document::Manifest(manifest)) => {
            assert!(
                manifest.config.size <= LARGEST_DOCUMENT && (manifest.artifact || manifest.layers.len() <= MOST_LAYERS)
            );
            assert!(manifest.size() >= manifest.config.size);
            manifest.layers.iter().for_each(written_and_read);
            match artifact::paths("image", &manifest) {
                Ok(paths) => assert!(paths.iter().all(|path| below(path)), "{paths:?}"),
                Err(error) => short(&error),
            }
            assert!(!manifest::media_type(bytes, content_type).is_empty());
        }
        Ok(Document::Index(manifests)) => {
            manifests.iter().for_each(written_and_read);
            match manifest::choose("image", &manifests, &Platform::host()) {
                Ok(chosen) => assert!(manifests.contains(chosen)),
                Err(error) => short(&error),
            }
        }
        Err(error) => short(&error),
    }
    for layers in 0..2 {
        match manifest::parse_config("image", bytes, layers) {
            Ok((_, diff_ids)) => assert_eq!(diff_ids.len(), layers),
            Err(error) => short(&error),
        }
    }
}

fn below(path: &Path) -> bool {
    path.components().next().is_some() && path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// The index of the store keeps descriptors.
fn written_and_read(descriptor: &Descriptor) {
    let text = serde_json::to_vec(descriptor).expect("a descriptor is JSON");
    assert_eq!(serde_json::from_slice::<Descriptor>(&text).ok().as_ref(), Some(descriptor));
}

/// `hosts.toml`: any text is endpoints or an error.
pub(crate) fn hosts(data: &[u8]) {
    let mut input = Input::new(data);
    let name = input.pick(&["docker.io", "registry.example:5000", "[::1]:5000", "localhost", "_default"]);
    registry::hosts(&String::from_utf8_lossy(input.rest()), name);
}

/// `WWW-Authenticate`: any text is challenges, no more than it has characters for.
pub(crate) fn challenge(data: &[u8]) {
    registry::challenge(&String::from_utf8_lossy(data));
}

fn short(error: &impl std::fmt::Display) {
    let text = error.to_string();
    assert!(
        text.len() <= LONGEST_ERROR,
        "an error of {} bytes: {}…",
        text.len(),
        text.chars().take(200).collect::<String>()
    );
}
