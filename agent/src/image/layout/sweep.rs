//! Removing what nothing names. A path is first renamed into `tmp/` (one system call, under the writer's lock) and
//! deleted afterwards: whatever stops in between is found in `tmp/` by the next agent.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Layout, index};
use crate::image::error::ImageError;
use crate::model::Digest;

/// Deletes a file or a folder with all it holds; one that is gone already is fine.
pub(crate) fn delete(path: &Path) -> Result<(), ImageError> {
    let deleted = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match deleted {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ImageError::io("delete", path, e)),
        _ => Ok(()),
    }
}

impl Layout {
    /// Deletes temporary files of an earlier agent (in the background: there may be a whole image's) and documents
    /// that the index does not name.
    pub(super) fn sweep_leftovers(&self) -> Result<(), ImageError> {
        let tmp = self.root.join("tmp");
        let leftovers = entries(&tmp)?;
        if !leftovers.is_empty() {
            std::thread::Builder::new()
                .name("image-sweep".to_owned())
                .spawn(move || leftovers.iter().for_each(|path| warn(delete(path))))
                .map_err(|e| ImageError::io("sweep", &tmp, e))?;
        }
        let snapshot = self.snapshot();
        let named: HashSet<&str> =
            snapshot.images().iter().flat_map(|image| [image.id.hex(), image.manifest.digest.hex()]).collect();
        for path in entries(&self.root.join("blobs/sha256"))? {
            if !path.file_name().and_then(|name| name.to_str()).is_some_and(|name| named.contains(name)) {
                delete(&path)?;
            }
        }
        Ok(())
    }

    /// Deletes every layer that neither the index nor a container needs. Called once after a restart, when recovery
    /// has placed the containers' holds.
    pub(crate) fn sweep_layers(&self) -> Result<(), ImageError> {
        let garbage = {
            let _writer = self.lock_writer();
            let garbage = self.set_garbage_aside(None)?;
            self.delete_strays()?;
            garbage
        };
        garbage.iter().try_for_each(|path| delete(path))
    }

    /// Deletes those of `layers` that nothing needs any more.
    pub(crate) fn collect(&self, layers: &[Digest]) -> Result<(), ImageError> {
        let garbage = {
            let _writer = self.lock_writer();
            self.set_garbage_aside(Some(layers))?
        };
        garbage.iter().try_for_each(|path| delete(path))
    }

    /// The writer's lock is held. Layers in use stay where they are; without candidates every layer is looked at.
    pub(super) fn set_garbage_aside(&self, candidates: Option<&[Digest]>) -> Result<Vec<PathBuf>, ImageError> {
        let snapshot = self.snapshot();
        let named: HashSet<&Digest> = snapshot.images().iter().flat_map(|image| &image.layers).collect();
        let mut aside = Vec::new();
        for diff_id in self.layers().take_garbage(candidates, &named) {
            delete(&index::usage_path(&self.root, &diff_id))?;
            aside.extend(self.set_aside(&self.layer_dir(&diff_id))?);
        }
        Ok(aside)
    }

    /// Renames a path into `tmp/`, if it exists.
    pub(super) fn set_aside(&self, path: &Path) -> Result<Option<PathBuf>, ImageError> {
        let aside = self.temp_path();
        match fs::rename(path, &aside) {
            Ok(()) => Ok(Some(aside)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(ImageError::io("rename", path, e)),
        }
    }

    /// Files in `layers/` that belong to no layer's folder.
    fn delete_strays(&self) -> Result<(), ImageError> {
        for path in entries(&self.root.join("layers"))? {
            let folder = path.with_extension("");
            if !folder.is_dir() {
                delete(&path)?;
            }
        }
        Ok(())
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, ImageError> {
    fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(|e| ImageError::io("list", dir, e))
}

fn warn(result: Result<(), ImageError>) {
    if let Err(error) = result {
        tracing::warn!(error = &error as &dyn std::error::Error, "sweeping the image store");
    }
}
