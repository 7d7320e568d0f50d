//! An image on its way out: layers packed anew, a configuration and a manifest that name them, and all of it as one OCI
//! archive. The store keeps layers unpacked, so their blobs, and with them diff ids and the image's id, are new ones: the
//! content is the same, the bytes of the archives are not (decision 020). Blocks: runs in a thread.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::error::ImageError;
use super::image::Image;
use super::layer::{NewEntry, TarWriter, pack};
use super::layout::read_blob;
use super::manifest::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use super::store::{Claim, ImageStore};
use crate::model::Digest;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// One blob of an image that goes out.
#[derive(Debug, Clone)]
pub(crate) struct OutBlob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Where its bytes are, as long as the `Exported` lives.
    pub(crate) path: PathBuf,
}

/// A whole image in blobs.
#[derive(Debug)]
pub(crate) struct Exported {
    pub(crate) manifest: Vec<u8>,
    pub(crate) manifest_digest: Digest,
    /// Layers, the bottom one first and each once, and the configuration.
    pub(crate) blobs: Vec<OutBlob>,
    folder: PathBuf,
}

impl Drop for Exported {
    fn drop(&mut self) {
        // What is left after all is in `tmp`, and swept at the next start.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Packs an image. The claim keeps its layers meanwhile.
pub(super) fn make(store: &ImageStore, image: &Image, claim: Claim) -> Result<Exported, ImageError> {
    if image.artifact {
        let reason = "it is an artifact, not a container image".to_owned();
        return Err(ImageError::Unsupported { what: image.id.to_string(), reason });
    }
    let folder = store.layout().temp_path();
    fs::create_dir(&folder).map_err(|e| ImageError::io("create", &folder, e))?;
    let mut exported = Exported { manifest: Vec::new(), manifest_digest: image.id.clone(), blobs: Vec::new(), folder };
    let mut packed: HashMap<&Digest, (Digest, Value)> = HashMap::new();
    let (mut diff_ids, mut layers) = (Vec::new(), Vec::new());
    for layer in &image.layers {
        if !packed.contains_key(layer) {
            let (diff_id, blob) = pack_layer(&store.layout().layer_dir(layer), &exported.folder)?;
            packed.insert(layer, (diff_id, descriptor(LAYER, &blob)));
            exported.blobs.push(blob);
        }
        let (diff_id, description) = &packed[layer];
        diff_ids.push(diff_id.as_str().to_owned());
        layers.push(description.clone());
    }
    drop(claim);
    let mut config = configuration(store.root(), &image.id)?;
    config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
    let config = write(&exported.folder, config.to_string().as_bytes())?;
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, &config), "layers": layers});
    exported.blobs.push(config);
    exported.manifest = manifest.to_string().into_bytes();
    exported.manifest_digest = digest(&exported.manifest);
    Ok(exported)
}

/// An image's configuration with all its fields, also those that nobody here knows.
pub(super) fn configuration(root: &Path, id: &Digest) -> Result<Value, ImageError> {
    let broken = |e: serde_json::Error| ImageError::InvalidContent { what: id.to_string(), reason: e.to_string() };
    serde_json::from_slice(&read_blob(root, id)?).map_err(broken)
}

pub(super) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(&Sha256::digest(bytes).into())
}

fn descriptor(media_type: &str, blob: &OutBlob) -> Value {
    json!({"mediaType": media_type, "digest": blob.digest.as_str(), "size": blob.size})
}

/// A layer's folder as a gzip archive in `folder`, named by its digest; and the diff id.
fn pack_layer(layer: &Path, folder: &Path) -> Result<(Digest, OutBlob), ImageError> {
    let temp = folder.join("layer");
    let failed = |e| ImageError::io("write", &temp, e);
    let file = Hashing::new(BufWriter::new(File::create(&temp).map_err(failed)?));
    // No name and no time in the header: the same layer is the same blob each time.
    let archive = pack(layer, Hashing::new(GzEncoder::new(file, Compression::default())))?;
    let (encoder, diff_id, _) = archive.finish();
    let (mut file, digest, size) = encoder.finish().map_err(failed)?.finish();
    file.flush().map_err(failed)?;
    let path = folder.join(digest.hex());
    fs::rename(&temp, &path).map_err(|e| ImageError::io("rename", &path, e))?;
    Ok((diff_id, OutBlob { digest, size, path }))
}

fn write(folder: &Path, bytes: &[u8]) -> Result<OutBlob, ImageError> {
    let digest = digest(bytes);
    let path = folder.join(digest.hex());
    fs::write(&path, bytes).map_err(|e| ImageError::io("write", &path, e))?;
    Ok(OutBlob { digest, size: bytes.len() as u64, path })
}

/// Writes an OCI archive (image-spec, image-layout.md, as a tar) that holds the image under its names; there whole or not
/// at all.
pub(super) fn archive(exported: &Exported, names: &[String], target: &Path) -> Result<(), ImageError> {
    let mut partial = target.as_os_str().to_owned();
    partial.push(".berth-partial");
    let partial = PathBuf::from(partial);
    let written = write_archive(exported, names, &partial);
    let renamed = written.and_then(|()| fs::rename(&partial, target));
    renamed.map_err(|e| {
        let _ = fs::remove_file(&partial);
        ImageError::io("write", target, e)
    })
}

fn write_archive(exported: &Exported, names: &[String], path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // An image may hold what only the container's user should read.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut tar = TarWriter::new(BufWriter::new(file));
    let mut add =
        |path: &str, content: &mut dyn Read, size: u64| tar.entry(&NewEntry::file(path, size), &mut { content });
    let text = br#"{"imageLayoutVersion":"1.0.0"}"#;
    add("oci-layout", &mut &text[..], text.len() as u64)?;
    let index = index(exported, names);
    add("index.json", &mut index.as_slice(), index.len() as u64)?;
    for blob in &exported.blobs {
        add(&format!("blobs/sha256/{}", blob.digest.hex()), &mut File::open(&blob.path)?, blob.size)?;
    }
    let manifest = format!("blobs/sha256/{}", exported.manifest_digest.hex());
    add(&manifest, &mut exported.manifest.as_slice(), exported.manifest.len() as u64)?;
    tar.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// The image once for each name: skopeo reads the one annotation, containerd and Berth the other.
fn index(exported: &Exported, names: &[String]) -> Vec<u8> {
    let entry = |annotations: Value| {
        json!({"mediaType": OCI_MANIFEST, "digest": exported.manifest_digest.as_str(), "size": exported.manifest.len(),
            "annotations": annotations})
    };
    let named = |name: &String| entry(json!({REF_NAME: name, CONTAINERD_NAME: name}));
    let manifests: Vec<Value> =
        if names.is_empty() { vec![entry(json!({}))] } else { names.iter().map(named).collect() };
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).to_string().into_bytes()
}

/// Passes bytes on, with their digest and number.
pub(super) struct Hashing<W> {
    out: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> Hashing<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, hash: Sha256::new(), length: 0 }
    }

    pub(super) fn finish(self) -> (W, Digest, u64) {
        (self.out, Digest::from_sha256(&self.hash.finalize().into()), self.length)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
