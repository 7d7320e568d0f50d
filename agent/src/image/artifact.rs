//! OCI artifacts (image-spec, manifest.md, "guidelines for artifact usage"): files in a registry, for image volumes. A pull
//! puts them into one folder of the store, which is to the rest of the agent an image of one layer.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use sha2::{Digest as _, Sha256};

use super::error::{ImageError, shorten};
use super::image::Usage;
use super::joins::Operation;
use super::layer::Unpacked;
use super::manifest::{Descriptor, Manifest};
use super::progress::{LayerSize, Progress};
use super::registry::{Repository, Sink, SinkClosed};
use super::store::{Claim, ImageStore};
use crate::model::Digest;

/// The file name of a blob (image-spec, annotations.md).
const TITLE: &str = "org.opencontainers.image.title";
/// PATH_MAX, and NAME_MAX of every file system that a store is on.
const LONGEST_PATH: usize = 4095;
const LONGEST_NAME: usize = 255;
/// Written at once, off the runtime.
const BATCH: usize = 1 << 20;

/// The store's name for the folder of an artifact's files. No layer's diff id: it is of another text than any archive.
pub(super) fn layer_id(manifest: &Digest) -> Digest {
    Digest::from_sha256(&Sha256::digest(format!("berth artifact {manifest}")).into())
}

/// Where each blob goes, below the artifact's folder: its title, or the digits of its digest when it has none.
pub(super) fn paths(what: &str, manifest: &Manifest) -> Result<Vec<PathBuf>, ImageError> {
    let mut files = BTreeSet::new();
    let mut paths = Vec::new();
    for (n, blob) in manifest.layers.iter().enumerate() {
        let title = blob.annotations.get(TITLE).map_or(blob.digest.hex(), String::as_str);
        let refused = |reason: &str| ImageError::InvalidContent {
            what: what.to_owned(),
            reason: format!("layers[{n}]: the title {:?} {reason}", shorten(title)),
        };
        let bad = |name: &str| matches!(name, "" | "." | "..") || name.len() > LONGEST_NAME || name.contains('\0');
        if title.len() > LONGEST_PATH || title.split('/').any(bad) {
            return Err(refused("is no path below the artifact's folder"));
        }
        let path = PathBuf::from(title);
        if !files.insert(path.clone()) {
            return Err(refused("is there twice"));
        }
        paths.push(path);
    }
    let folder_too = |path: &&PathBuf| path.ancestors().skip(1).any(|parent| files.contains(parent));
    if let Some(path) = paths.iter().find(folder_too) {
        let reason = format!("the title {path:?} is below that of a file");
        return Err(ImageError::InvalidContent { what: what.to_owned(), reason });
    }
    Ok(paths)
}

/// Brings the artifact's files into the store, unless they are there. Answers the folder's id and the hold on it.
pub(super) async fn fetch(
    store: &Arc<ImageStore>,
    repository: &Repository,
    what: &str,
    (manifest, digest): (&Manifest, &Digest),
    operation: &Operation,
) -> Result<(Digest, Claim), ImageError> {
    let paths = paths(what, manifest)?;
    let id = layer_id(digest);
    let claim = store.claim(std::slice::from_ref(&id));
    let present = store.has_layer(&id);
    let size = |blob: &Descriptor| LayerSize { layer: blob.digest.clone(), size: blob.size, present };
    operation.listeners.tell(&Progress::Layers(manifest.layers.iter().map(size).collect()));
    if present {
        return Ok((id, claim));
    }
    let folder = Folder { path: store.layout().temp_path() };
    let (root, files) = (folder.path.clone(), paths.clone());
    let usage = blocking(&folder.path, move || make_folders(&root, &files)).await?;
    let total = manifest.layers.iter().map(|blob| blob.size).fold(0, u64::saturating_add);
    try_join_all(manifest.layers.iter().zip(&paths).map(async |(blob, path)| {
        let _slot = store.slots().acquire().await.map_err(|_| ImageError::Cancelled)?;
        let mut sink = FileSink::new(folder.path.join(path), blob, operation);
        repository.blob(blob, &mut sink).await?;
        sink.finish().await?;
        operation.listeners.tell(&Progress::Unpacked { layer: blob.digest.clone() });
        Ok(())
    }))
    .await?;
    let unpacked = Unpacked { usage: Usage { bytes: total, inodes: usage }, implied: Vec::new() };
    let (layout, layer, root) = (store.layout().clone(), id.clone(), folder.path.clone());
    blocking(&folder.path, move || layout.publish_layer(&layer, &root, unpacked)).await?;
    Ok((id, claim))
}

/// The artifact's folder and those its titles name; answers how many inodes it all takes.
fn make_folders(root: &Path, files: &[PathBuf]) -> Result<u64, ImageError> {
    let mut folders = BTreeSet::from([root.to_owned()]);
    for file in files {
        let parents = file.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
        folders.extend(parents.map(|parent| root.join(parent)));
    }
    // A folder sorts before what is in it.
    for folder in &folders {
        fs::create_dir(folder).map_err(|e| ImageError::io("create", folder, e))?;
    }
    Ok((folders.len() + files.len()) as u64)
}

/// Gone when the pull ends early; a published one has been renamed away.
struct Folder {
    path: PathBuf,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left after all is in `tmp`, and swept at the next start.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A blob on its way into its file.
struct FileSink<'a> {
    path: PathBuf,
    blob: &'a Descriptor,
    operation: &'a Operation,
    received: u64,
    waiting: Vec<Bytes>,
    length: usize,
    file: Option<(File, Sha256)>,
    failed: Option<ImageError>,
}

impl<'a> FileSink<'a> {
    fn new(path: PathBuf, blob: &'a Descriptor, operation: &'a Operation) -> Self {
        Self { path, blob, operation, received: 0, waiting: Vec::new(), length: 0, file: None, failed: None }
    }

    async fn flush(&mut self) -> Result<(), ImageError> {
        let (path, chunks, opened) = (self.path.clone(), std::mem::take(&mut self.waiting), self.file.take());
        self.length = 0;
        let written = blocking(&self.path, move || {
            let failed = |e| ImageError::io("write", &path, e);
            let (mut file, mut hash) = match opened {
                Some(opened) => opened,
                None => (File::create_new(&path).map_err(failed)?, Sha256::new()),
            };
            for chunk in chunks {
                file.write_all(&chunk).map_err(failed)?;
                hash.update(&chunk);
            }
            Ok((file, hash))
        });
        self.file = Some(written.await?);
        self.operation.listeners.tell(&Progress::Received { layer: self.blob.digest.clone(), bytes: self.received });
        Ok(())
    }

    async fn finish(mut self) -> Result<(), ImageError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        // An empty blob makes an empty file.
        self.flush().await?;
        let Some((_, hash)) = self.file else { return Err(ImageError::Cancelled) };
        let actual = Digest::from_sha256(&hash.finalize().into());
        if actual != self.blob.digest {
            let what = format!("blob {}", self.blob.digest);
            return Err(ImageError::WrongDigest { what, expected: self.blob.digest.clone(), actual });
        }
        Ok(())
    }
}

impl Sink for FileSink<'_> {
    async fn write(&mut self, chunk: Bytes) -> Result<(), SinkClosed> {
        self.length += chunk.len();
        self.received += chunk.len() as u64;
        self.waiting.push(chunk);
        if self.length < BATCH {
            return Ok(());
        }
        self.flush().await.map_err(|error| {
            self.failed = Some(error);
            SinkClosed
        })
    }
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| ImageError::io("write", path, std::io::Error::other(e)))?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn manifest(titles: &[&str]) -> Manifest {
        let blob = |(n, title): (usize, &&str)| {
            let digest = Digest::from_sha256(&[n as u8; 32]);
            json!({"mediaType": "text/plain", "digest": digest.as_str(), "size": 1, "annotations": {TITLE: title}})
        };
        let layers: Vec<_> = titles.iter().enumerate().map(blob).collect();
        let config = json!({"mediaType": "x", "digest": Digest::from_sha256(&[9; 32]).as_str(), "size": 2});
        Manifest {
            config: serde_json::from_value(config).unwrap(),
            layers: layers.into_iter().map(|layer| serde_json::from_value(layer).unwrap()).collect(),
            artifact: true,
        }
    }

    #[test]
    fn titles_are_paths_and_a_blob_without_one_has_its_digits() {
        let mut manifest = manifest(&["a.txt", "models/b.bin", "x"]);
        manifest.layers[2].annotations.clear();
        let digits = "02".repeat(32);
        let expected: Vec<PathBuf> = ["a.txt", "models/b.bin", &digits].map(PathBuf::from).into();
        assert_eq!(paths("w", &manifest).unwrap(), expected);
    }

    #[test]
    fn titles_that_lead_out_or_collide_are_refused() {
        for title in ["", ".", "..", "../x", "/etc/passwd", "a//b", "a/", "a/../../b", "a\0b", &"n".repeat(256)] {
            let error = paths("w", &manifest(&[title])).unwrap_err().to_string();
            assert!(error.contains("no path below"), "{title:?}: {error}");
        }
        assert!(paths("w", &manifest(&["a", "a"])).unwrap_err().to_string().contains("twice"));
        assert!(paths("w", &manifest(&["a/b", "a"])).unwrap_err().to_string().contains("below that of a file"));
    }

    proptest! {
        #[test]
        fn no_title_leads_out(title in "[./a]{0,12}") {
            if let Ok(paths) = paths("w", &manifest(&[&title])) {
                prop_assert!(paths[0].components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }
}
