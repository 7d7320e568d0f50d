//! The store on disk and in memory: an OCI image layout whose layers are unpacked folders.
//!
//! `oci-layout`, `index.json`, `blobs/sha256/<hex>` (manifests and configurations), `layers/<hex of the diff id>/`,
//! `tmp/`. What the index names is whole and durable; what it does not name is garbage. Readers take a snapshot and
//! never wait; one writer at a time changes the disk, and no lock that a reader takes is held over a system call.

/// Folders whose attributes a layer leaves to those below.
mod implied;
/// `index.json`: reading, writing, and the images it names.
mod index;
/// Which layers are on disk and who holds them.
mod layers;
/// Removing files and folders that nothing names.
mod sweep;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use oci_spec::image::ImageConfiguration;

use super::error::ImageError;
use super::image::{FsUsage, Image};
use super::layer::Unpacked;
use super::manifest::Descriptor;
use super::reference::Reference;
use crate::fault;
use crate::model::Digest;

pub(crate) use index::read_blob;
pub(crate) use layers::{Holder, LayerTable};

/// What stands in for the layers of an image that has none: overlayfs wants at least one.
const EMPTY_LAYER: &str = "empty";

/// The images of one moment, with the names they are found by.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    images: Vec<Arc<Image>>,
    by_name: HashMap<String, Arc<Image>>,
}

impl Snapshot {
    fn new(images: Vec<Arc<Image>>) -> Self {
        let mut by_name = HashMap::new();
        for image in &images {
            for name in image.repo_tags.iter().chain(&image.repo_digests) {
                by_name.insert(name.clone(), image.clone());
            }
            by_name.insert(image.id.as_str().to_owned(), image.clone());
        }
        Self { images, by_name }
    }

    pub(crate) fn images(&self) -> &[Arc<Image>] {
        &self.images
    }

    /// By id (with or without `sha256:`), by name, by digest, or by a prefix of the id that only one image has.
    pub(crate) fn resolve(&self, text: &str) -> Option<Arc<Image>> {
        const SHORTEST_PREFIX: usize = 3;
        if let Some(image) = self.by_name.get(text) {
            return Some(image.clone());
        }
        if let Some(image) = text.parse::<Reference>().ok().and_then(|r| self.by_name.get(&r.canonical())) {
            return Some(image.clone());
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = prefix.len() >= SHORTEST_PREFIX && prefix.bytes().all(|b| b.is_ascii_hexdigit());
        let mut found = self.images.iter().filter(|image| is_hex && image.id.hex().starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(image), None) => Some(image.clone()),
            _ => None,
        }
    }
}

/// Everything a finished pull or import hands over.
#[derive(Debug)]
pub(crate) struct NewImage {
    pub(crate) manifest: Descriptor,
    pub(crate) manifest_bytes: Vec<u8>,
    pub(crate) config_digest: Digest,
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) config: ImageConfiguration,
    pub(crate) artifact: bool,
    pub(crate) layers: Vec<Digest>,
    pub(crate) size: u64,
    pub(crate) repo_tags: Vec<String>,
    pub(crate) repo_digests: Vec<String>,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    mountpoint: PathBuf,
    pinned: Vec<String>,
    snapshot: ArcSwap<Snapshot>,
    layers: LayerTable,
    /// Held by whoever changes index, blobs or the names in `layers/`; taken in blocking threads only.
    writer: Mutex<()>,
    /// Temporary names carry it, so that those of an earlier agent are never met.
    nonce: u64,
    sequence: AtomicU64,
}

impl Layout {
    /// Opens or makes the store below `root`; what an interrupted agent left goes away in the background, except
    /// layers, which `sweep` removes once it is known which ones containers hold.
    pub(crate) fn open(root: &Path, pinned: Vec<String>) -> Result<Self, ImageError> {
        for dir in ["blobs/sha256", "layers", "tmp", EMPTY_LAYER] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(|e| ImageError::io("create", &dir, e))?;
        }
        private(root)?;
        for pattern in index::useless_pins(&pinned) {
            tracing::warn!(
                pattern,
                "`image.pinned` has an entry that is neither a reference nor has a `*`: it pins nothing"
            );
        }
        let mut nonce = [0u8; 8];
        getrandom::fill(&mut nonce).map_err(|e| ImageError::io("name", root, std::io::Error::other(e)))?;
        let mut layout = Self {
            root: root.to_owned(),
            mountpoint: mountpoint(root),
            pinned,
            snapshot: ArcSwap::default(),
            layers: LayerTable::default(),
            writer: Mutex::new(()),
            nonce: u64::from_ne_bytes(nonce),
            sequence: AtomicU64::new(0),
        };
        layout.write_marker()?;
        let images = layout.load()?;
        layout.snapshot = ArcSwap::from_pointee(Snapshot::new(images));
        layout.sweep_leftovers()?;
        Ok(layout)
    }

    fn load(&self) -> Result<Vec<Arc<Image>>, ImageError> {
        let on_disk = self.read_layers()?;
        let images: Vec<Arc<Image>> = index::load(&self.root, &self.pinned)?
            .into_iter()
            .filter(|image| {
                let missing = image.layers.iter().find(|layer| !on_disk.contains_key(*layer));
                if let Some(layer) = missing {
                    tracing::warn!(image = %image.id, %layer, "a layer is missing on disk: the image is dropped");
                }
                missing.is_none()
            })
            .map(Arc::new)
            .collect();
        self.layers.load(on_disk, images.iter().flat_map(|image| image.layers.iter()));
        Ok(images)
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub(crate) fn layers(&self) -> &LayerTable {
        &self.layers
    }

    /// Whether the index names each of these layers.
    pub(crate) fn all_named(&self, layers: &[Digest]) -> bool {
        let snapshot = self.snapshot.load();
        layers.iter().all(|diff_id| snapshot.images.iter().any(|image| image.layers.contains(diff_id)))
    }

    /// Where a layer is, or will be.
    pub(crate) fn layer_dir(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// The layers' folders as overlayfs wants them: the top one first, each once (a second mention adds nothing, and
    /// overlayfs refuses it).
    pub(crate) fn layer_dirs(&self, layers: &[Digest]) -> Vec<PathBuf> {
        let mut seen = HashSet::new();
        let unique = layers.iter().rev().filter(|diff_id| seen.insert(*diff_id));
        let dirs: Vec<PathBuf> = unique.map(|diff_id| self.layer_dir(diff_id)).collect();
        if dirs.is_empty() { vec![self.root.join(EMPTY_LAYER)] } else { dirs }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// A fresh path on the store's file system that nothing else uses.
    pub(crate) fn temp_path(&self) -> PathBuf {
        let n = self.sequence.fetch_add(1, Ordering::Relaxed);
        self.root.join("tmp").join(format!("{:016x}-{n}", self.nonce))
    }

    /// From memory: the layers' usage was counted as they were unpacked.
    pub(crate) fn fs_usage(&self) -> FsUsage {
        let layers = self.layers.usage();
        let snapshot = self.snapshot.load();
        let documents: u64 = snapshot.images.iter().map(|image| image.manifest.size).sum();
        FsUsage {
            mountpoint: self.mountpoint.clone(),
            used_bytes: layers.bytes + documents,
            inodes: layers.inodes + 2 * snapshot.images.len() as u64,
        }
    }

    fn lock_writer(&self) -> MutexGuard<'_, ()> {
        // The guarded state is on disk and changes by single renames: a panic leaves nothing half done.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an unpacked folder in its place as the layer `diff_id`; if that fails, it is gone.
    pub(crate) fn publish_layer(&self, diff_id: &Digest, unpacked: &Path, found: Unpacked) -> Result<(), ImageError> {
        fault::point("image.layer_unpacked");
        let stale = self.place_layer(diff_id, unpacked, found).inspect_err(|_| {
            let _ = sweep::delete(unpacked);
        })?;
        fault::point("image.layer_placed");
        if let Some(path) = stale {
            sweep::delete(&path)?;
        }
        // Whoever wanted it may have gone meanwhile.
        self.collect(std::slice::from_ref(diff_id))
    }

    /// Answers what is to be deleted afterwards.
    fn place_layer(&self, diff_id: &Digest, unpacked: &Path, found: Unpacked) -> Result<Option<PathBuf>, ImageError> {
        let record = index::usage_path(&self.root, diff_id);
        let text = serde_json::to_vec(&found.usage);
        let text = text.map_err(|e| ImageError::io("encode", &record, std::io::Error::from(e)))?;
        let place = self.layer_dir(diff_id);
        let _writer = self.lock_writer();
        if self.layers.is_usable(diff_id) {
            // Another operation was faster; containers may stand on its folder already.
            return Ok(Some(unpacked.to_owned()));
        }
        fs::write(&record, text).map_err(|e| ImageError::io("write", &record, e))?;
        // A folder of that name that the index does not name may be half there: it was never synced.
        let stale = self.set_aside(&place)?;
        fs::rename(unpacked, &place).map_err(|e| ImageError::io("rename", &place, e))?;
        self.layers.set_ready(diff_id, found.usage, found.implied);
        Ok(stale)
    }

    /// Makes the image durable and visible: layers first, the index last. `still_wanted` is asked once more when
    /// nothing but the index is left to write.
    pub(crate) fn commit(&self, new: NewImage, still_wanted: &dyn Fn() -> bool) -> Result<Arc<Image>, ImageError> {
        {
            // Whoever commits another image of these layers waits until they are settled.
            let _writer = self.lock_writer();
            self.settle_implied(&new.layers)?;
        }
        fault::point("image.layers_ready");
        if self.layers.any_volatile(&new.layers) {
            let root = fs::File::open(&self.root).map_err(|e| ImageError::io("open", &self.root, e))?;
            rustix::fs::syncfs(&root).map_err(|e| ImageError::io("sync", &self.root, e))?;
            self.layers.set_durable(&new.layers);
        }
        fault::point("image.synced");
        let _writer = self.lock_writer();
        if !still_wanted() {
            return Err(ImageError::Cancelled);
        }
        let snapshot = self.snapshot.load_full();
        let (next, image) = index::with_image(&snapshot.images, &new, &self.pinned);
        if next == snapshot.images {
            return Ok(image);
        }
        index::write_blob(&self.blob_path(&new.config_digest), &self.temp_path(), &new.config_bytes)?;
        if image.manifest.digest == new.manifest.digest {
            index::write_blob(&self.blob_path(&new.manifest.digest), &self.temp_path(), &new.manifest_bytes)?;
        }
        fault::point("image.documents_written");
        index::store(&self.root, &self.temp_path(), &next, "image.index_staged")?;
        fault::point("image.indexed");
        self.snapshot.store(Arc::new(Snapshot::new(next)));
        Ok(image)
    }

    /// Removes the image that `name` finds, with all its names. An unknown one is removed already.
    pub(crate) fn remove(&self, name: &str) -> Result<(), ImageError> {
        let garbage = {
            let _writer = self.lock_writer();
            let snapshot = self.snapshot.load_full();
            let Some(image) = snapshot.resolve(name) else { return Ok(()) };
            if image.pinned {
                return Err(ImageError::Pinned(name.to_owned()));
            }
            let next: Vec<_> = snapshot.images.iter().filter(|other| other.id != image.id).cloned().collect();
            let stored = index::store(&self.root, &self.temp_path(), &next, "remove_image.index_staged");
            let full = matches!(stored, Err(ImageError::DiskFull { .. }));
            if !full {
                stored?;
            }
            fault::point("remove_image.indexed");
            self.snapshot.store(Arc::new(Snapshot::new(next.clone())));
            let mut garbage = self.set_garbage_aside(Some(&image.layers))?;
            fault::point("remove_image.layers_set_aside");
            if full {
                // On a full disk the index can only shrink after the layers: an image without them is dropped at open.
                garbage.drain(..).try_for_each(|path| sweep::delete(&path))?;
                index::store(&self.root, &self.temp_path(), &next, "remove_image.index_staged")?;
            }
            self.remove_blobs(&image, &next)?;
            fault::point("remove_image.documents_deleted");
            garbage
        };
        garbage.iter().try_for_each(|path| sweep::delete(path))?;
        fault::point("remove_image.layers_deleted");
        Ok(())
    }

    fn remove_blobs(&self, image: &Image, others: &[Arc<Image>]) -> Result<(), ImageError> {
        if !others.iter().any(|other| other.manifest.digest == image.manifest.digest) {
            sweep::delete(&self.blob_path(&image.manifest.digest))?;
        }
        sweep::delete(&self.blob_path(&image.id))
    }
}

/// Images may hold what only the container's user should read: nobody but root looks into the store.
fn private(root: &Path) -> Result<(), ImageError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(root, fs::Permissions::from_mode(0o700)).map_err(|e| ImageError::io("chmod", root, e))
}

/// The mount point above `root`: the last ancestor on the same device.
fn mountpoint(root: &Path) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let Ok(root) = root.canonicalize() else { return root.to_owned() };
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    let own = device(&root);
    root.ancestors().take_while(|path| device(path) == own).last().unwrap_or(&root).to_owned()
}
