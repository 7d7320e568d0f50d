//! Importing images from the node's own disk: OCI layouts (folder or tar) and docker archives. The content is as
//! hostile as a registry's and goes through the same checks. Blocks: runs in a thread.

/// Finding the files of an archive or folder.
mod bundle;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use self::bundle::Bundle;
use super::error::{ImageError, shorten};
use super::image::Image;
use super::layer::{Blob, unpack};
use super::layout::NewImage;
use super::manifest::{self, Descriptor, Document, Manifest, OCI_CONFIG, OCI_MANIFEST};
use super::reference::Reference;
use super::store::ImageStore;
use crate::fault;
use crate::model::Digest;

/// What containerd calls an image in an archive; docker writes it too.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// One image of an archive, ready to be unpacked.
struct Found {
    name: Option<String>,
    manifest: Manifest,
    descriptor: Descriptor,
    manifest_bytes: Vec<u8>,
    config_bytes: Vec<u8>,
    /// The layers' files, and what describes them where something does.
    files: Vec<(String, Option<Blob>)>,
}

/// One entry of a docker archive's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

pub(super) fn run(store: &ImageStore, path: &Path, name: Option<&Reference>) -> Result<Vec<Arc<Image>>, ImageError> {
    if !path.is_absolute() {
        let reason = format!("{} is not absolute", path.display());
        return Err(ImageError::InvalidArgument { field: "path", reason });
    }
    let bundle = Bundle::open(path)?;
    let found = match &bundle {
        _ if bundle.has("index.json") => oci(store, &bundle)?,
        Bundle::Folder(path) => {
            return Err(invalid(path.display().to_string(), "it is no OCI layout: it has no index.json"));
        }
        Bundle::Tar { .. } => docker(&bundle)?,
    };
    if found.is_empty() {
        return Err(invalid(path.display().to_string(), "there is no image for this host in it"));
    }
    if name.is_some() && found.iter().any(|image| image.descriptor.digest != found[0].descriptor.digest) {
        let reason = "the archive has several images, and one name is given".to_owned();
        return Err(ImageError::InvalidArgument { field: "reference", reason });
    }
    fault::point("import_image.read");
    found.into_iter().map(|image| take(store, &bundle, image, name)).collect()
}

fn invalid(what: String, reason: impl Into<String>) -> ImageError {
    ImageError::InvalidContent { what, reason: reason.into() }
}

fn take(store: &ImageStore, bundle: &Bundle, found: Found, name: Option<&Reference>) -> Result<Arc<Image>, ImageError> {
    let what = found.descriptor.digest.to_string();
    let (config, diff_ids) = manifest::parse_config(&what, &found.config_bytes, found.files.len())?;
    // Held until the commit below has named them.
    let _claim = store.claim(&diff_ids);
    for (diff_id, (file, blob)) in diff_ids.iter().zip(found.files) {
        if store.has_layer(diff_id) {
            continue;
        }
        let temp = store.layout().temp_path();
        let unpacked = unpack(bundle.blocks(&file)?, blob, diff_id, &temp, &store.limits())?;
        store.layout().publish_layer(diff_id, &temp, unpacked)?;
    }
    let named = match name {
        Some(name) => Some(name.clone()),
        None => found.name.as_deref().map(str::parse::<Reference>).transpose()?,
    };
    let (mut repo_tags, mut repo_digests) = (Vec::new(), Vec::new());
    match named {
        Some(name) if name.digest().is_some() => repo_digests.push(name.canonical()),
        Some(name) => repo_tags.push(name.canonical()),
        None => {}
    }
    let new = NewImage {
        size: found.manifest.size(),
        config_digest: found.manifest.config.digest,
        manifest: found.descriptor,
        manifest_bytes: found.manifest_bytes,
        config_bytes: found.config_bytes,
        config,
        artifact: false,
        layers: diff_ids,
        repo_tags,
        repo_digests,
    };
    store.layout().commit(new, &|| true)
}

/// The images of an OCI layout (image-spec, image-layout.md).
fn oci(store: &ImageStore, bundle: &Bundle) -> Result<Vec<Found>, ImageError> {
    let Document::Index(entries) = manifest::parse("index.json", &bundle.document("index.json")?, None)? else {
        return Err(invalid("index.json".to_owned(), "it is not an index"));
    };
    let mut all = Vec::new();
    for entry in entries {
        let what = entry.digest.to_string();
        let name = entry.annotations.get(CONTAINERD_NAME).or_else(|| entry.annotations.get(REF_NAME));
        // A bare tag names no image; skopeo and others write one.
        let name = name.filter(|name| name.contains([':', '/'])).cloned();
        if entry.platform.as_ref().is_some_and(|platform| store.host().rank(platform).is_none()) {
            continue;
        }
        let bytes = blob(bundle, &entry.digest)?;
        let (descriptor, bytes, manifest) = match manifest::parse(&what, &bytes, Some(&entry.media_type))? {
            Document::Manifest(manifest) => (entry, bytes, manifest),
            Document::Index(inner) => {
                let chosen = manifest::choose(&what, &inner, store.host())?.clone();
                let bytes = blob(bundle, &chosen.digest)?;
                match manifest::parse(&what, &bytes, None)? {
                    Document::Manifest(manifest) => (chosen, bytes, manifest),
                    Document::Index(_) => return Err(invalid(what, "an index within an index within an index")),
                }
            }
        };
        if manifest.artifact {
            let reason = "it is an artifact, not a container image; artifacts are pulled, not imported".to_owned();
            return Err(ImageError::Unsupported { what, reason });
        }
        let config_bytes = blob(bundle, &manifest.config.digest)?;
        let described = |layer: &Descriptor| {
            let blob = Blob { digest: layer.digest.clone(), size: layer.size };
            (blob_path(&layer.digest), Some(blob))
        };
        all.push(Found {
            name,
            files: manifest.layers.iter().map(described).collect(),
            descriptor: Descriptor {
                media_type: manifest::media_type(&bytes, Some(&descriptor.media_type)),
                digest: descriptor.digest,
                size: bytes.len() as u64,
                platform: None,
                annotations: BTreeMap::new(),
            },
            manifest,
            manifest_bytes: bytes,
            config_bytes,
        });
    }
    Ok(all)
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A document of a layout, with its digest verified.
fn blob(bundle: &Bundle, digest: &Digest) -> Result<Vec<u8>, ImageError> {
    let bytes = bundle.document(&blob_path(digest))?;
    let actual = Digest::from_sha256(&Sha256::digest(&bytes).into());
    if actual == *digest {
        Ok(bytes)
    } else {
        Err(ImageError::WrongDigest { what: blob_path(digest), expected: digest.clone(), actual })
    }
}

/// The images of a docker archive: one for each tag, or one without a name.
fn docker(bundle: &Bundle) -> Result<Vec<Found>, ImageError> {
    let bytes = bundle.document("manifest.json")?;
    let entries: Vec<DockerEntry> =
        serde_json::from_slice(&bytes).map_err(|e| invalid("manifest.json".to_owned(), e.to_string()))?;
    let mut all = Vec::new();
    for entry in entries {
        if entry.layers.len() > manifest::MOST_LAYERS {
            let (actual, limit) = (entry.layers.len() as u64, manifest::MOST_LAYERS as u64);
            return Err(manifest::too_large("manifest.json: number of Layers".to_owned(), actual, limit));
        }
        let names = entry.repo_tags.clone().unwrap_or_default();
        let names = if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() };
        for name in names {
            all.push(docker_image(bundle, &entry, name)?);
        }
    }
    Ok(all)
}

/// A docker archive has no manifest of the registry's kind: one is written from what is known.
fn docker_image(bundle: &Bundle, entry: &DockerEntry, name: Option<String>) -> Result<Found, ImageError> {
    let config_bytes = bundle.document(&entry.config)?;
    let (_, diff_ids) = manifest::parse_config(&shorten(&entry.config), &config_bytes, entry.layers.len())?;
    let plain = |media_type: &str, digest: Digest, size: u64| Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
        annotations: BTreeMap::new(),
    };
    let config_digest = Digest::from_sha256(&Sha256::digest(&config_bytes).into());
    let mut layers = Vec::new();
    for (file, diff_id) in entry.layers.iter().zip(diff_ids) {
        layers.push(plain("application/vnd.oci.image.layer.v1.tar", diff_id, bundle.length(file)?));
    }
    let config = plain(OCI_CONFIG, config_digest, config_bytes.len() as u64);
    let manifest = Manifest { config, layers, artifact: false };
    let text = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": manifest.config, "layers": manifest.layers,
    });
    let manifest_bytes = text.to_string().into_bytes();
    let digest = Digest::from_sha256(&Sha256::digest(&manifest_bytes).into());
    Ok(Found {
        name,
        descriptor: plain(OCI_MANIFEST, digest, manifest_bytes.len() as u64),
        manifest,
        manifest_bytes,
        config_bytes,
        files: entry.layers.iter().map(|file| (file.clone(), None)).collect(),
    })
}
