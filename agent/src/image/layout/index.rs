//! `index.json`: an OCI image index with one descriptor for each name of an image. It is the store's only truth.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Layout, NewImage};
use crate::fault;
use crate::image::artifact;
use crate::image::error::ImageError;
use crate::image::image::{Image, Usage};
use crate::image::manifest::{self, Descriptor, Document, OCI_INDEX};
use crate::image::reference::Reference;
use crate::model::Digest;

/// The name of an image (image-spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The version of what Berth keeps beside the layout; raised when an older Berth could not read it.
const FORMAT_KEY: &str = "io.berth.format";
const FORMAT: &str = "1";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexFile {
    schema_version: u64,
    #[serde(default)]
    media_type: String,
    manifests: Vec<Descriptor>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

fn index_path(root: &Path) -> PathBuf {
    root.join("index.json")
}

/// Beside a layer's folder: what it takes on disk, so that nobody has to walk it.
pub(super) fn usage_path(root: &Path, diff_id: &Digest) -> PathBuf {
    root.join("layers").join(format!("{}.json", diff_id.hex()))
}

/// The images that the index names. One whose documents are gone is left out with a warning; a broken index is an
/// error, because going on would sweep every layer.
pub(super) fn load(root: &Path, pinned: &[String]) -> Result<Vec<Image>, ImageError> {
    let path = index_path(root);
    let broken = |reason: String| ImageError::BrokenIndex { path: path.clone(), root: root.to_owned(), reason };
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(broken(e.to_string())),
    };
    let index: IndexFile = serde_json::from_slice(&text).map_err(|e| broken(e.to_string()))?;
    if let Some(format) = index.annotations.get(FORMAT_KEY).filter(|format| *format != FORMAT) {
        return Err(broken(format!("its format is {format:?}; this Berth reads {FORMAT:?}")));
    }
    let mut images: BTreeMap<Digest, Image> = BTreeMap::new();
    for mut descriptor in index.manifests {
        let name = descriptor.annotations.remove(REF_NAME);
        let image = match read_image(root, descriptor) {
            Ok(image) => image,
            Err(error) => {
                tracing::warn!(name, error = &error as &dyn std::error::Error, "an image is dropped from the index");
                continue;
            }
        };
        let image = images.entry(image.id.clone()).or_insert(image);
        if let Some(name) = name {
            add_name(image, name);
        }
    }
    Ok(images.into_values().map(|image| with_pin(image, pinned)).collect())
}

fn add_name(image: &mut Image, name: String) {
    let names = if name.contains('@') { &mut image.repo_digests } else { &mut image.repo_tags };
    if let Err(place) = names.binary_search(&name) {
        names.insert(place, name);
    }
}

fn with_pin(mut image: Image, pinned: &[String]) -> Image {
    image.pinned = image.repo_tags.iter().chain(&image.repo_digests).any(|name| is_pinned(name, pinned));
    image
}

/// `*` stands for any text; a pattern without one is a reference.
fn is_pinned(name: &str, patterns: &[String]) -> bool {
    patterns.iter().any(|pattern| {
        if pattern.contains('*') {
            glob(pattern.as_bytes(), name.as_bytes())
        } else {
            pattern.parse::<Reference>().is_ok_and(|reference| reference.canonical() == name)
        }
    })
}

/// Patterns that no image can match.
pub(super) fn useless_pins(patterns: &[String]) -> impl Iterator<Item = &String> {
    patterns.iter().filter(|pattern| !pattern.contains('*') && pattern.parse::<Reference>().is_err())
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // The last star and what it has swallowed: enough to come back to (linear in practice, never exponential).
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, swallowed)) = star {
            star = Some((at, swallowed + 1));
            (p, t) = (at + 1, swallowed + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

fn read_image(root: &Path, descriptor: Descriptor) -> Result<Image, ImageError> {
    let what = descriptor.digest.to_string();
    let bytes = read_blob(root, &descriptor.digest)?;
    let Document::Manifest(manifest) = manifest::parse(&what, &bytes, None)? else {
        return Err(ImageError::InvalidContent { what, reason: "an index, where a manifest was kept".to_owned() });
    };
    if manifest.artifact {
        return Ok(Image {
            id: descriptor.digest.clone(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            size: manifest.size(),
            config: ImageConfiguration::default(),
            artifact: true,
            layers: vec![artifact::layer_id(&descriptor.digest)],
            pinned: false,
            manifest: descriptor,
        });
    }
    let bytes = read_blob(root, &manifest.config.digest)?;
    let (config, layers) = manifest::parse_config(&what, &bytes, manifest.layers.len())?;
    Ok(Image {
        id: manifest.config.digest.clone(),
        repo_tags: Vec::new(),
        repo_digests: Vec::new(),
        size: manifest.size(),
        config,
        artifact: false,
        layers,
        pinned: false,
        manifest: descriptor,
    })
}

/// A kept document, with its digest verified.
pub(crate) fn read_blob(root: &Path, digest: &Digest) -> Result<Vec<u8>, ImageError> {
    let path = root.join("blobs/sha256").join(digest.hex());
    let bytes = fs::read(&path).map_err(|e| ImageError::io("read", &path, e))?;
    let actual = Digest::from_sha256(&Sha256::digest(&bytes).into());
    if &actual != digest {
        return Err(ImageError::WrongDigest { what: path.display().to_string(), expected: digest.clone(), actual });
    }
    Ok(bytes)
}

/// The images once `new` is among them: its names move to it, and what it already had stays (rule 30). An image that
/// loses its last tag stays, by its digest or its id, as it does in containerd.
pub(super) fn with_image(images: &[Arc<Image>], new: &NewImage, pinned: &[String]) -> (Vec<Arc<Image>>, Arc<Image>) {
    let moved: BTreeSet<&String> = new.repo_tags.iter().chain(&new.repo_digests).collect();
    let mut next: BTreeMap<Digest, Arc<Image>> = BTreeMap::new();
    for image in images {
        let mut image = Image::clone(image);
        if image.id != new.config_digest {
            image.repo_tags.retain(|name| !moved.contains(name));
            image.repo_digests.retain(|name| !moved.contains(name));
        }
        next.insert(image.id.clone(), Arc::new(with_pin(image, pinned)));
    }
    let mut image = next.get(&new.config_digest).map_or_else(
        || Image {
            id: new.config_digest.clone(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            size: new.size,
            config: new.config.clone(),
            artifact: new.artifact,
            layers: new.layers.clone(),
            pinned: false,
            manifest: new.manifest.clone(),
        },
        |image| Image::clone(image),
    );
    for name in new.repo_tags.iter().chain(&new.repo_digests) {
        add_name(&mut image, name.clone());
    }
    let image = Arc::new(with_pin(image, pinned));
    next.insert(image.id.clone(), image.clone());
    (next.into_values().collect(), image)
}

/// Writes the index: a temporary file, synced, renamed, and the folder synced. `staged` is the fault point between.
pub(super) fn store(root: &Path, temp: &Path, images: &[Arc<Image>], staged: &str) -> Result<(), ImageError> {
    let manifests = images
        .iter()
        .flat_map(|image| {
            let named = |name: Option<&String>| {
                let mut descriptor = image.manifest.clone();
                if let Some(name) = name {
                    descriptor.annotations.insert(REF_NAME.to_owned(), name.clone());
                }
                descriptor
            };
            let mut entries: Vec<_> =
                image.repo_tags.iter().chain(&image.repo_digests).map(|n| named(Some(n))).collect();
            if entries.is_empty() {
                entries.push(named(None));
            }
            entries
        })
        .collect();
    let index = IndexFile {
        schema_version: 2,
        media_type: OCI_INDEX.to_owned(),
        manifests,
        annotations: BTreeMap::from([(FORMAT_KEY.to_owned(), FORMAT.to_owned())]),
    };
    let path = index_path(root);
    let mut text =
        serde_json::to_vec_pretty(&index).map_err(|e| ImageError::io("encode", &path, io::Error::from(e)))?;
    text.push(b'\n');
    write_durable(&path, temp, &text, || fault::point(staged))
}

/// Keeps a document under its digest.
pub(super) fn write_blob(path: &Path, temp: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    if path.exists() { Ok(()) } else { write_durable(path, temp, bytes, || ()) }
}

fn write_durable(path: &Path, temp: &Path, bytes: &[u8], staged: impl FnOnce()) -> Result<(), ImageError> {
    let written = File::create_new(temp).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| {
        staged();
        fs::rename(temp, path)
    });
    if let Err(e) = renamed {
        let _ = fs::remove_file(temp);
        return Err(ImageError::io("write", path, e));
    }
    let dir = path.parent().unwrap_or(path);
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| ImageError::io("sync", dir, e))
}

impl Layout {
    /// `oci-layout`, the file that says what kind of folder this is (image-spec, image-layout.md).
    pub(super) fn write_marker(&self) -> Result<(), ImageError> {
        let path = self.root.join("oci-layout");
        if path.exists() {
            return Ok(());
        }
        fs::write(&path, "{\"imageLayoutVersion\":\"1.0.0\"}\n").map_err(|e| ImageError::io("write", &path, e))
    }

    /// The layers that have a folder, with what they take.
    pub(super) fn read_layers(&self) -> Result<std::collections::HashMap<Digest, Usage>, ImageError> {
        let dir = self.root.join("layers");
        let entries = fs::read_dir(&dir).map_err(|e| ImageError::io("list", &dir, e))?;
        let mut layers = std::collections::HashMap::new();
        for entry in entries {
            let entry = entry.map_err(|e| ImageError::io("list", &dir, e))?;
            let name = entry.file_name();
            let Some(diff_id) = name.to_str().and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok()) else {
                continue;
            };
            let usage = fs::read(usage_path(&self.root, &diff_id)).ok();
            let usage = usage.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
            layers.insert(diff_id, usage);
        }
        Ok(layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_pin_by_star_or_as_a_reference() {
        let pinned = |name: &str, pattern: &str| is_pinned(name, &[pattern.to_owned()]);
        assert!(pinned("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:*"));
        assert!(pinned("registry.k8s.io/pause:3.10", "*pause*"));
        assert!(pinned("docker.io/library/busybox:latest", "busybox"));
        assert!(!pinned("docker.io/library/busybox:1", "busybox"));
        assert!(!pinned("registry.k8s.io/pause:3.10", "*pause"));
        assert!(pinned("a/b:c", "**"));
        let patterns = ["busybox", "*/x", "x/UPPER", ""].map(str::to_owned);
        assert_eq!(useless_pins(&patterns).collect::<Vec<_>>(), ["x/UPPER", ""]);
    }
}
