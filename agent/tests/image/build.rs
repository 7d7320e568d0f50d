//! Small images, made in memory.

use std::collections::HashMap;
use std::io::Write;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

#[derive(Clone, Copy)]
pub(crate) enum Compression {
    None,
    Gzip,
    /// Two gzip members, one behind the other.
    GzipTwice,
    Zstd,
}

/// A layer's archive.
pub(crate) struct Layer(pub(crate) tar::Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// An entry whose name is written as it is, whatever it tries.
    pub(crate) fn raw(&mut self, kind: tar::EntryType, path: &str, link: &str, data: &[u8]) -> &mut Self {
        self.entry(kind, path, link, data, |_| {})
    }

    pub(crate) fn entry(
        &mut self,
        kind: tar::EntryType,
        path: &str,
        link: &str,
        data: &[u8],
        change: impl FnOnce(&mut tar::Header),
    ) -> &mut Self {
        let mut header = tar::Header::new_gnu();
        assert!(path.len() <= 100 && link.len() <= 100, "an old header has no room");
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        change(&mut header);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub(crate) fn file(&mut self, path: &str, data: &[u8]) -> &mut Self {
        self.raw(tar::EntryType::Regular, path, "", data)
    }

    pub(crate) fn folder(&mut self, path: &str) -> &mut Self {
        self.raw(tar::EntryType::Directory, path, "", b"")
    }

    pub(crate) fn tar(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A layer with these files.
pub(crate) fn files(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut layer = Layer::new();
    for (path, data) in files {
        layer.file(path, data);
    }
    layer.tar()
}

/// Bytes that do not compress.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

pub(crate) fn compress(tar: &[u8], compression: Compression) -> Vec<u8> {
    let gzip = |part: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap()
    };
    match compression {
        Compression::None => tar.to_vec(),
        Compression::Gzip => gzip(tar),
        Compression::GzipTwice => [gzip(&tar[..tar.len() / 3]), gzip(&tar[tar.len() / 3..])].concat(),
        Compression::Zstd => zstd::encode_all(tar, 1).unwrap(),
    }
}

/// An image: its documents and blobs.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    /// By digest; the configuration is among them.
    pub(crate) blobs: HashMap<String, Vec<u8>>,
    /// The layers' blobs, the bottom one first.
    pub(crate) layers: Vec<String>,
    pub(crate) diff_ids: Vec<String>,
}

impl Image {
    pub(crate) fn new(layers: &[(Vec<u8>, Compression)]) -> Self {
        Self::with_config(layers, |_| {})
    }

    /// Of gzip layers.
    pub(crate) fn gzip(tars: &[Vec<u8>]) -> Self {
        Self::new(&tars.iter().map(|tar| (tar.clone(), Compression::Gzip)).collect::<Vec<_>>())
    }

    pub(crate) fn with_config(layers: &[(Vec<u8>, Compression)], change: impl FnOnce(&mut Value)) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|(tar, _)| digest(tar)).collect();
        let mut config = json!({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        change(&mut config);
        let config = config.to_string().into_bytes();
        let mut blobs = HashMap::from([(digest(&config), config.clone())]);
        let mut names = Vec::new();
        let mut descriptors = Vec::new();
        for (tar, compression) in layers {
            let blob = compress(tar, *compression);
            let media_type = match compression {
                Compression::None => "application/vnd.oci.image.layer.v1.tar",
                Compression::Gzip | Compression::GzipTwice => "application/vnd.oci.image.layer.v1.tar+gzip",
                Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            };
            descriptors.push(json!({"mediaType": media_type, "digest": digest(&blob), "size": blob.len()}));
            names.push(digest(&blob));
            blobs.insert(digest(&blob), blob);
        }
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": descriptors,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        });
        Self { manifest: manifest.to_string().into_bytes(), config, blobs, layers: names, diff_ids }
    }

    pub(crate) fn id(&self) -> String {
        digest(&self.config)
    }

    /// The manifest with a change, for lies.
    pub(crate) fn edit_manifest(&mut self, change: impl FnOnce(&mut Value)) {
        let mut manifest: Value = serde_json::from_slice(&self.manifest).unwrap();
        change(&mut manifest);
        self.manifest = manifest.to_string().into_bytes();
    }

    /// As an OCI layout folder, under the name `latest`.
    pub(crate) fn write_layout(&self, dir: &std::path::Path) {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let manifest = digest(&self.manifest);
        for (name, blob) in self.blobs.iter().map(|(n, b)| (n.as_str(), b)).chain([(manifest.as_str(), &self.manifest)])
        {
            std::fs::write(blobs.join(&name["sha256:".len()..]), blob).unwrap();
        }
        let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": MANIFEST, "digest": manifest,
            "size": self.manifest.len(), "annotations": {"org.opencontainers.image.ref.name": "latest"}}]});
        std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }
}
