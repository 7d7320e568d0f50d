//! An image as one file, for a runtime that no registry can be reached from.

use std::io;

use serde_json::json;

use super::layer::Compression;
use super::{Image, Layer};

/// An OCI archive of one image: its layout (image-layout.md) in an uncompressed tar.
pub fn oci_archive(image: &Image) -> io::Result<Vec<u8>> {
    let descriptor = json!({
        "mediaType": image.format.manifest(),
        "size": image.manifest.len(),
        "digest": image.manifest_digest(),
        "platform": { "architecture": super::architecture(), "os": "linux" },
    });
    let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
    let mut tar = Layer::new();
    tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    tar.file("index.json", index.to_string().as_bytes(), 0o644)?;
    let blobs = image.layers.iter().map(|layer| layer.bytes.as_slice());
    for blob in blobs.chain([image.config.as_slice(), image.manifest.as_slice()]) {
        let digest = super::layer::digest(blob);
        tar.file(&format!("blobs/{}", digest.replace(':', "/")), blob, 0o644)?;
    }
    Ok(tar.finish(Compression::None)?.bytes)
}
