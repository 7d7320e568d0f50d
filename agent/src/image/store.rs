//! The image store as the rest of the agent uses it: lists from memory, pulls and imports, removes, holds.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

use super::commit::{self, Commit};
use super::config::ImageConfig;
use super::error::ImageError;
use super::image::{FsUsage, Image};
use super::joins::Joins;
use super::layer::{Archive, Limits, apply};
use super::layout::{Holder, Layout};
use super::manifest::{Descriptor, OCI_MANIFEST};
use super::platform::Platform;
use super::progress::Listener;
use super::pull::{self, PullRequest};
use super::reference::Reference;
use super::registry::{self, Auth, Repository};
use super::{download, export, import};
use crate::model::{ContainerId, Digest};
use crate::sys::memory;

/// All images of the node. Cheap calls (`list`, `resolve`, `hold`, `release`, `fs_usage`) answer from memory and never
/// wait for a disk; the others are asynchronous and do their work in threads.
#[derive(Debug)]
pub struct ImageStore {
    layout: Arc<Layout>,
    client: Arc<registry::Client>,
    config: ImageConfig,
    host: Platform,
    /// Two callers with different credentials do not share a pull: one of them may have none that suffice.
    pulls: Arc<Joins<(String, Option<Auth>), Digest>>,
    layers: Arc<Joins<Digest, ()>>,
    slots: Semaphore,
    operations: AtomicU64,
}

impl ImageStore {
    /// Opens or makes the store below `root`. Blocks: called once, at start, before anything is served. Leftovers of an
    /// interrupted agent go away, but for layers: `sweep` takes those once recovery has placed the containers' holds.
    ///
    /// # Errors
    /// A folder that cannot be made, or an index that cannot be read; the message says what to do.
    pub fn open(root: &Path, config: ImageConfig) -> Result<Arc<Self>, ImageError> {
        let layout = Arc::new(Layout::open(root, config.pinned.clone())?);
        Ok(Arc::new(Self {
            layout,
            client: Arc::new(registry::Client::new(&config)),
            host: Platform::host(),
            pulls: Arc::default(),
            layers: Arc::default(),
            slots: Semaphore::new(config.parallel_layers.max(1)),
            operations: AtomicU64::new(0),
            config,
        }))
    }

    /// Every image.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.layout.snapshot().images().to_vec()
    }

    /// The image of an id (whole, or a prefix that only one image has), a name, or a name with a digest.
    pub fn resolve(&self, name: &str) -> Option<Arc<Image>> {
        self.layout.snapshot().resolve(name)
    }

    /// Pulls an image and answers its id. Concurrent pulls of one reference with the same credentials are one. Dropping
    /// the last caller's future cancels it, and nothing is left behind.
    ///
    /// # Errors
    /// See [`ImageError::kind`].
    pub async fn pull(self: &Arc<Self>, request: PullRequest) -> Result<Digest, ImageError> {
        let reference: Reference = request.reference.parse()?;
        let auth = request.auth.filter(Auth::says_something);
        let key = (reference.canonical(), auth.clone());
        let store = self.clone();
        let start = |operation| pull::run(store, reference, auth, operation);
        let pulled = self.pulls.join(key, request.progress.map(Listener::Sender), start).await;
        // Nobody waits for it: an agent that pulls now and then is otherwise measured by its largest pull.
        drop(tokio::task::spawn_blocking(memory::give_back));
        pulled
    }

    /// Takes the images of a docker archive (`docker save`), an OCI archive, or an OCI layout folder into the store.
    /// `name` is for an image that brings none.
    ///
    /// # Errors
    /// See [`ImageError::kind`].
    pub async fn import(self: &Arc<Self>, path: PathBuf, name: Option<String>) -> Result<Vec<Arc<Image>>, ImageError> {
        let name = name.map(|name| name.parse::<Reference>()).transpose()?;
        let store = self.clone();
        blocking("import", move || import::run(&store, &path, name.as_ref())).await
    }

    /// Writes an image as an OCI archive to `target`, an absolute path; with the names it has, or only `name`.
    ///
    /// # Errors
    /// See [`ImageError::kind`].
    pub async fn export(self: &Arc<Self>, name: &str, target: PathBuf) -> Result<(), ImageError> {
        if !target.is_absolute() {
            let reason = format!("{} is not absolute", target.display());
            return Err(ImageError::InvalidArgument { field: "path", reason });
        }
        let (image, claim) = self.claim_image(name)?;
        let store = self.clone();
        blocking("export", move || {
            let exported = export::make(&store, &image, claim)?;
            export::archive(&exported, &image.repo_tags, &target)
        })
        .await
    }

    /// Sends an image to a registry, under `target` or (empty) the name it was asked for by.
    ///
    /// # Errors
    /// See [`ImageError::kind`].
    pub async fn push(self: &Arc<Self>, name: &str, target: &str, auth: Option<Auth>) -> Result<Pushed, ImageError> {
        let target: Reference = if target.is_empty() { name } else { target }.parse()?;
        if target.digest().is_some() {
            let reason = "what is pushed is packed anew and has another digest; give a tag".to_owned();
            return Err(ImageError::InvalidArgument { field: "target", reason });
        }
        let (image, claim) = self.claim_image(name)?;
        let repository = self.client.repository(&target, auth.filter(Auth::says_something)).await?;
        let (store, packed) = (self.clone(), image.clone());
        let exported = blocking("push", move || export::make(&store, &packed, claim)).await?;
        let names = image.repo_tags.iter().chain(&image.repo_digests).filter_map(|name| name.parse::<Reference>().ok());
        let same_registry = names.filter(|name| name.registry() == target.registry() && name.name() != target.name());
        let siblings: Vec<String> = same_registry.map(|name| name.repository().to_owned()).collect();
        let mut sent = 0;
        for blob in &exported.blobs {
            sent += repository.push_blob(blob, &siblings).await?;
        }
        repository.push_manifest(target.manifest_selector(), OCI_MANIFEST, &exported.manifest).await?;
        Ok(Pushed { reference: target.with_digest(&exported.manifest_digest), sent })
    }

    /// Makes an image of a container's writable layer. Its base and the container have to be kept by the caller.
    ///
    /// # Errors
    /// See [`ImageError::kind`].
    pub async fn commit(self: &Arc<Self>, commit: Commit) -> Result<Arc<Image>, ImageError> {
        let name: Reference = commit.reference.parse()?;
        let store = self.clone();
        blocking("commit", move || commit::run(&store, &commit, &name)).await
    }

    /// The image of a name, with a hold on its layers: they stay although it may be removed.
    fn claim_image(&self, name: &str) -> Result<(Arc<Image>, Claim), ImageError> {
        let absent = || ImageError::NotFound {
            what: name.to_owned(),
            registry: "this node".to_owned(),
            detail: "pull or import it first".to_owned(),
        };
        let image = self.resolve(name).ok_or_else(absent)?;
        let claim = self.claim(&image.layers);
        // It may have been removed before the claim held it.
        if image.layers.iter().all(|layer| self.has_layer(layer)) { Ok((image, claim)) } else { Err(absent()) }
    }

    /// Removes the image that `name` finds, with all its names; an unknown one is removed already. Layers that
    /// containers hold stay on disk until they are released.
    ///
    /// # Errors
    /// A pinned image, or a failing disk.
    pub async fn remove(&self, name: &str) -> Result<(), ImageError> {
        let (layout, name) = (self.layout.clone(), name.to_owned());
        blocking("remove", move || layout.remove(&name)).await
    }

    /// Keeps `layers` (an image's, or those a recovered container stands on) on disk until `holder` is released. False:
    /// one of them is gone, because the image was removed meanwhile.
    pub fn hold(&self, layers: &[Digest], holder: &ContainerId) -> bool {
        self.layout.layers().hold(layers, &Holder::Container(holder.clone()))
    }

    /// Ends a container's hold. Layers that nothing needs any more are deleted in the background.
    pub fn release(&self, holder: &ContainerId) {
        release(&self.layout, &Holder::Container(holder.clone()));
    }

    /// Deletes every layer that neither an image nor a container needs: once after a start, when recovery has placed
    /// its holds.
    ///
    /// # Errors
    /// A failing disk.
    pub async fn sweep(&self) -> Result<(), ImageError> {
        let layout = self.layout.clone();
        blocking("sweep", move || layout.sweep_layers()).await
    }

    /// The folders of an image's layers, the top one first, as overlayfs wants them; never empty.
    pub fn layer_dirs(&self, layers: &[Digest]) -> Vec<PathBuf> {
        self.layout.layer_dirs(layers)
    }

    /// What the store takes, from memory.
    pub fn fs_usage(&self) -> FsUsage {
        self.layout.fs_usage()
    }

    /// Waits for a layer that is missing, downloading it if nobody does so already. Who joined another's download, from that
    /// one's registry and with its credentials, does not fail with it: its own is tried then.
    pub(super) async fn layer(
        self: &Arc<Self>,
        repository: Arc<Repository>,
        descriptor: Descriptor,
        diff_id: Digest,
        listener: Option<Listener>,
    ) -> Result<(), ImageError> {
        let mut is_own = false;
        loop {
            if self.has_layer(&diff_id) {
                return Ok(());
            }
            let start = |operation| {
                is_own = true;
                download::run(self.clone(), repository.clone(), descriptor.clone(), diff_id.clone(), operation)
            };
            let joined = self.layers.join(diff_id.clone(), listener.clone(), start).await;
            if joined.is_ok() || is_own {
                return joined;
            }
        }
    }

    /// Keeps layers from being swept while an operation works towards an image of them.
    pub(super) fn claim(&self, layers: &[Digest]) -> Claim {
        let holder = Holder::Operation(self.operations.fetch_add(1, Ordering::Relaxed));
        self.layout.layers().claim(layers, &holder);
        Claim { layout: self.layout.clone(), holder }
    }

    pub(super) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.layout.layers().is_usable(diff_id)
    }

    pub(super) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    pub(super) fn client(&self) -> &Arc<registry::Client> {
        &self.client
    }

    pub(super) fn config(&self) -> &ImageConfig {
        &self.config
    }

    pub(super) fn host(&self) -> &Platform {
        &self.host
    }

    pub(super) fn root(&self) -> &Path {
        self.layout.root()
    }

    pub(super) fn slots(&self) -> &Semaphore {
        &self.slots
    }

    /// Fills a container's empty writable layer from an archive in `input`, as hostile as any layer. `name` names it in errors.
    /// Blocks.
    ///
    /// # Errors
    /// The archive is broken, tries to leave the folder or is larger than a layer may be.
    pub fn fill(&self, layer: &Path, input: impl BufRead, name: &str) -> Result<(), ImageError> {
        apply(&mut Archive::new(input), layer, name, &self.limits()).map(drop)
    }

    pub(super) fn limits(&self) -> Limits {
        Limits { bytes: self.config.max_layer_bytes, entries: self.config.max_layer_entries }
    }
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// `registry/repository@sha256:…` of the manifest.
    pub reference: String,
    /// Bytes of the blobs that the registry did not have.
    pub sent: u64,
}

/// An operation's hold on layers, ended when it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    layout: Arc<Layout>,
    holder: Holder,
}

impl Drop for Claim {
    fn drop(&mut self) {
        release(&self.layout, &self.holder);
    }
}

/// Deleting may take long, and the caller may stand on the runtime: it has a thread of its own.
fn release(layout: &Arc<Layout>, holder: &Holder) {
    let free = layout.layers().release(holder);
    if free.is_empty() || layout.all_named(&free) {
        return;
    }
    let layout = layout.clone();
    let sweep = move || {
        if let Err(error) = layout.collect(&free) {
            tracing::warn!(error = &error as &dyn std::error::Error, "deleting layers that nothing needs");
        }
    };
    if let Err(error) = std::thread::Builder::new().name("image-sweep".to_owned()).spawn(sweep) {
        tracing::warn!(%error, "no thread to delete layers that nothing needs; the next start does it");
    }
}

async fn blocking<T: Send + 'static>(
    op: &'static str,
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| ImageError::io(op, Path::new("image store"), std::io::Error::other(e)))?
}
