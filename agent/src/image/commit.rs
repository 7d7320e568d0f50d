//! A container's writable layer as a new image on top of its own. Blocks: runs in a thread.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::error::ImageError;
use super::export::{Hashing, configuration, digest};
use super::image::Image;
use super::layer::{FileBlocks, pack, unpack};
use super::layout::{NewImage, read_blob};
use super::manifest::{self, Descriptor, Document, OCI_CONFIG, OCI_MANIFEST};
use super::reference::Reference;
use super::store::ImageStore;
use crate::model::Digest;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What is made into an image.
#[derive(Debug)]
pub struct Commit {
    /// The image that the container runs.
    pub base: Arc<Image>,
    /// The container's writable layer, overlayfs's `upperdir`.
    pub upper: PathBuf,
    /// The new image's name.
    pub reference: String,
    /// What its history says of where it comes from.
    pub created_by: String,
}

/// A temporary file that is gone in the end.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub(super) fn run(store: &ImageStore, commit: &Commit, name: &Reference) -> Result<Arc<Image>, ImageError> {
    if name.digest().is_some() {
        let reason = "a new image's digest is not known before; give it a tag".to_owned();
        return Err(ImageError::InvalidArgument { field: "reference", reason });
    }
    let base = &commit.base;
    // As hostile as any layer: it goes through a file and the same checks.
    let packed = Temporary(store.layout().temp_path());
    let (diff_id, size) = write_archive(&commit.upper, &packed.0)?;
    let mut layers = base.layers.clone();
    layers.push(diff_id.clone());
    let _claim = store.claim(&layers);
    if !store.has_layer(&diff_id) {
        let temp = store.layout().temp_path();
        let file = File::open(&packed.0).map_err(|e| ImageError::io("read", &packed.0, e))?;
        let blocks = FileBlocks::new(file, 0, size);
        let unpacked = unpack(blocks, None, &diff_id, &temp, &store.limits())?;
        store.layout().publish_layer(&diff_id, &temp, unpacked)?;
    }

    let config_bytes = config(store.root(), commit, &layers)?;
    let what = name.to_string();
    let (config, _) = manifest::parse_config(&what, &config_bytes, layers.len())?;
    let plain = |media_type: &str, digest, size| Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
        annotations: std::collections::BTreeMap::new(),
    };
    let kept = read_blob(store.root(), &base.manifest.digest)?;
    let Document::Manifest(kept) = manifest::parse(&what, &kept, None)? else {
        return Err(ImageError::InvalidContent { what, reason: "its manifest is an index".to_owned() });
    };
    let mut descriptors = kept.layers;
    descriptors.push(plain(LAYER, diff_id, size));
    let config_digest = digest(&config_bytes);
    let described = plain(OCI_CONFIG, config_digest.clone(), config_bytes.len() as u64);
    let total = descriptors.iter().map(|layer| layer.size).fold(described.size, u64::saturating_add);
    let text = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": descriptors});
    let manifest_bytes = text.to_string().into_bytes();
    // Too many layers, for example.
    manifest::parse(&what, &manifest_bytes, None)?;
    let new = NewImage {
        size: total,
        manifest: plain(OCI_MANIFEST, digest(&manifest_bytes), manifest_bytes.len() as u64),
        manifest_bytes,
        config_digest,
        config_bytes,
        config,
        artifact: false,
        layers,
        repo_tags: vec![name.canonical()],
        repo_digests: Vec::new(),
    };
    store.layout().commit(new, &|| true)
}

/// Answers diff id and length.
fn write_archive(upper: &Path, target: &Path) -> Result<(Digest, u64), ImageError> {
    let failed = |e| ImageError::io("write", target, e);
    let file = BufWriter::new(File::create_new(target).map_err(failed)?);
    let mut archive = pack(upper, Hashing::new(file))?;
    archive.flush().map_err(failed)?;
    let (_, diff_id, size) = archive.finish();
    Ok((diff_id, size))
}

/// The base's configuration, one layer and one step of history longer.
fn config(root: &Path, commit: &Commit, layers: &[Digest]) -> Result<Vec<u8>, ImageError> {
    let mut config = configuration(root, &commit.base.id)?;
    let now = jiff::Timestamp::now().to_string();
    config["created"] = json!(now);
    config["rootfs"] = json!({"type": "layers",
        "diff_ids": layers.iter().map(Digest::as_str).collect::<Vec<_>>()});
    let step = json!({"created": now, "created_by": commit.created_by});
    match config.get_mut("history").and_then(Value::as_array_mut) {
        Some(history) => history.push(step),
        // An incomplete history would be read as that of other layers.
        None if commit.base.layers.is_empty() => config["history"] = json!([step]),
        None => {}
    }
    Ok(config.to_string().into_bytes())
}
