//! Pulling an image: reference → manifest → all layers at once, each streamed into its folder → one sync → the index.

use std::sync::Arc;

use futures_util::future::try_join_all;
use oci_spec::image::ImageConfiguration;

use super::artifact;
use super::error::ImageError;
use super::joins::Operation;
use super::layout::{NewImage, read_blob};
use super::manifest::{self, Descriptor, Document, Manifest};
use super::progress::{LayerSize, Listener, Progress};
use super::reference::Reference;
use super::registry::{Auth, Repository};
use super::signature;
use super::store::{Claim, ImageStore};
use crate::fault;
use crate::model::{Digest, chain};

/// What is to be pulled.
#[derive(Debug, Default)]
pub struct PullRequest {
    /// As the user wrote it.
    pub reference: String,
    /// `None`: what docker's configuration file says, or anonymous.
    pub auth: Option<Auth>,
    /// Who wants to watch.
    pub progress: Option<super::progress::ProgressSender>,
}

/// An image's documents, as they were found at the registry.
struct Resolved {
    manifest: Manifest,
    descriptor: Descriptor,
    bytes: Vec<u8>,
    /// Of what the reference names: the index, if there is one.
    top: Digest,
}

/// The whole of a pull; ends early when nobody waits for it any more.
pub(super) async fn run(
    store: Arc<ImageStore>,
    reference: Reference,
    auth: Option<Auth>,
    operation: Operation,
) -> Result<Digest, ImageError> {
    let cancel = operation.cancel.clone();
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(ImageError::Cancelled),
        result = pull(&store, &reference, auth, &operation) => result,
    }
}

async fn pull(
    store: &Arc<ImageStore>,
    reference: &Reference,
    auth: Option<Auth>,
    operation: &Operation,
) -> Result<Digest, ImageError> {
    let what = reference.to_string();
    let repository = Arc::new(store.client().repository(reference, auth).await?);
    let resolved = resolve(store, &repository, reference, &what).await?;
    if let Some(policy) = &store.config().signature_policy {
        let digests = [&resolved.top, &resolved.descriptor.digest];
        signature::require(policy, &repository, reference, &digests).await?;
    }
    let content = if resolved.manifest.artifact {
        let found = (&resolved.manifest, &resolved.descriptor.digest);
        let (layer, claim) = artifact::fetch(store, &repository, &what, found, operation).await?;
        Content {
            id: resolved.descriptor.digest.clone(),
            config_bytes: resolved.bytes.clone(),
            config: ImageConfiguration::default(),
            layers: vec![layer],
            claim,
        }
    } else {
        fetch_image(store, &repository, &what, &resolved.manifest, operation).await?
    };
    let (repo_tags, repo_digests) = names(reference, &resolved.top);
    let new = NewImage {
        size: resolved.manifest.size(),
        config_digest: content.id,
        manifest: resolved.descriptor,
        manifest_bytes: resolved.bytes,
        config_bytes: content.config_bytes,
        config: content.config,
        artifact: resolved.manifest.artifact,
        layers: content.layers,
        repo_tags,
        repo_digests,
    };
    commit(store, new, content.claim, operation).await
}

/// What a manifest led to.
struct Content {
    /// The image's id, and the digest of `config_bytes`.
    id: Digest,
    config_bytes: Vec<u8>,
    config: ImageConfiguration,
    layers: Vec<Digest>,
    claim: Claim,
}

/// The configuration, and every layer that is missing.
async fn fetch_image(
    store: &Arc<ImageStore>,
    repository: &Arc<Repository>,
    what: &str,
    manifest: &Manifest,
    operation: &Operation,
) -> Result<Content, ImageError> {
    let config_bytes = configuration(store, repository, what, &manifest.config).await?;
    let layers = &manifest.layers;
    let (config, diff_ids) = manifest::parse_config(what, &config_bytes, layers.len())?;

    fault::point("pull_image.resolved");
    let claim = store.claim(&diff_ids);
    operation.listeners.tell(&Progress::Layers(sizes(store, layers, &diff_ids)));
    let missing =
        layers.iter().zip(&diff_ids).enumerate().filter(|(n, (_, diff_id))| !diff_ids[..*n].contains(diff_id));
    try_join_all(missing.map(|(_, (layer, diff_id))| {
        let listener = Some(Listener::Group(operation.listeners.clone()));
        store.layer(repository.clone(), layer.clone(), diff_id.clone(), listener)
    }))
    .await?;
    Ok(Content { id: manifest.config.digest.clone(), config_bytes, config, layers: diff_ids, claim })
}

/// Follows the reference to the manifest for this host.
async fn resolve(
    store: &ImageStore,
    repository: &Repository,
    reference: &Reference,
    what: &str,
) -> Result<Resolved, ImageError> {
    let fetched = repository.manifest(what, reference.manifest_selector()).await?;
    let top = fetched.digest.clone();
    let (fetched, manifest) = match manifest::parse(what, &fetched.bytes, fetched.content_type.as_deref())? {
        Document::Manifest(manifest) => (fetched, manifest),
        Document::Index(manifests) => {
            let chosen = manifest::choose(what, &manifests, store.host())?;
            let fetched = repository.manifest(what, chosen.digest.as_str()).await?;
            match manifest::parse(what, &fetched.bytes, fetched.content_type.as_deref())? {
                Document::Manifest(manifest) => (fetched, manifest),
                Document::Index(_) => {
                    let reason = "an index within an index".to_owned();
                    return Err(ImageError::Unsupported { what: what.to_owned(), reason });
                }
            }
        }
    };
    let limit = store.config().max_layer_bytes;
    if let Some(layer) = manifest.layers.iter().find(|layer| layer.size > limit) {
        return Err(manifest::too_large(format!("{what}: size of layer {}", layer.digest), layer.size, limit));
    }
    let descriptor = Descriptor {
        media_type: manifest::media_type(&fetched.bytes, fetched.content_type.as_deref()),
        digest: fetched.digest,
        size: fetched.bytes.len() as u64,
        platform: None,
        annotations: std::collections::BTreeMap::new(),
    };
    Ok(Resolved { manifest, descriptor, bytes: fetched.bytes, top })
}

/// From the store, if an image of that id is there already.
async fn configuration(
    store: &ImageStore,
    repository: &Repository,
    what: &str,
    descriptor: &Descriptor,
) -> Result<Vec<u8>, ImageError> {
    if store.resolve(descriptor.digest.as_str()).is_some() {
        let (root, digest) = (store.root().to_owned(), descriptor.digest.clone());
        let kept = tokio::task::spawn_blocking(move || read_blob(&root, &digest)).await;
        if let Ok(Ok(bytes)) = kept {
            return Ok(bytes);
        }
    }
    repository.small_blob(&format!("{what}: configuration {}", descriptor.digest), descriptor).await
}

fn sizes(store: &ImageStore, layers: &[Descriptor], diff_ids: &[Digest]) -> Vec<LayerSize> {
    let size = |(layer, diff_id): (&Descriptor, &Digest)| LayerSize {
        layer: layer.digest.clone(),
        size: layer.size,
        present: store.has_layer(diff_id),
    };
    layers.iter().zip(diff_ids).map(size).collect()
}

/// A tag is a name of its own; a digest is one only as a repo digest (rules.md, 30).
fn names(reference: &Reference, top: &Digest) -> (Vec<String>, Vec<String>) {
    let tags = if reference.digest().is_none() { vec![reference.canonical()] } else { Vec::new() };
    (tags, vec![reference.with_digest(top)])
}

async fn commit(
    store: &Arc<ImageStore>,
    new: NewImage,
    claim: Claim,
    operation: &Operation,
) -> Result<Digest, ImageError> {
    let (layout, cancel) = (store.layout().clone(), operation.cancel.clone());
    let committed = tokio::task::spawn_blocking(move || {
        let image = layout.commit(new, &|| !cancel.is_cancelled());
        // The layers stay claimed until the index names them, even if this task's owner has gone.
        drop(claim);
        image
    });
    let image =
        committed.await.map_err(|e| ImageError::InvalidContent { what: "commit".to_owned(), reason: chain(&e) })??;
    Ok(image.id.clone())
}
