//! Whether an image may be used: the signature policy, and cosign's signatures beside the image in its registry (a manifest
//! under the tag `sha256-<digits>.sig`, whose layers are the signed texts). Called by a pull before it keeps anything.

/// What a signature is about.
mod identity;
/// Public keys.
mod key;
/// The policy file.
mod policy;

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use self::identity::Identity;
use self::key::PublicKey;
use self::policy::Requirement;
use super::error::{ErrorKind, ImageError, shorten};
use super::manifest::Descriptor;
use super::reference::Reference;
use super::registry::Repository;
use crate::model::Digest;

/// The signature of a layer's text, in base64.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The text's media type ("simple signing").
const TEXT: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const TEXT_KIND: &str = "cosign container image signature";
/// Of one image that are looked at, and the bytes of one text.
const MOST_SIGNATURES: usize = 100;
const LARGEST_TEXT: u64 = 64 << 10;

/// A manifest of signatures: only what it is read for.
#[derive(Deserialize)]
struct Signatures {
    layers: Vec<Descriptor>,
}

/// What is signed. An unknown field of `critical` may say that the signature holds only if something else does.
#[derive(Deserialize)]
struct Text {
    critical: Critical,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    identity: SignedIdentity,
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedIdentity {
    #[serde(rename = "docker-reference")]
    docker_reference: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    docker_manifest_digest: String,
}

/// One signature as the registry has it; nothing of it is proven.
struct Signature {
    text: Vec<u8>,
    signature: Vec<u8>,
    /// What the text has to be about.
    digest: Digest,
}

/// Fails unless the policy lets the image in. `digests`: of what the reference names, and of the manifest that it led to
/// for this host; a signature of the index stands for all that the index names by digest.
pub(super) async fn require(
    policy: &Path,
    repository: &Repository,
    reference: &Reference,
    digests: &[&Digest],
) -> Result<(), ImageError> {
    let refused = |reason: String| ImageError::Signature { what: reference.to_string(), reason };
    let (path, wanted) = (policy.to_owned(), reference.clone());
    let read = tokio::task::spawn_blocking(move || policy::requirements(&path, &wanted)).await;
    let read = read.unwrap_or_else(|e| Err(e.to_string()));
    let unusable = |reason| refused(format!("the policy {} cannot be used: {reason}", policy.display()));
    let (scope, requirements) = read.map_err(unusable)?;
    let mut found: Option<Vec<Signature>> = None;
    for requirement in requirements {
        match requirement {
            Requirement::Accept => {}
            Requirement::Reject => {
                return Err(refused(format!("the policy {} rejects all of {scope:?}", policy.display())));
            }
            Requirement::Signed { keys, identity } => {
                let signatures = match &mut found {
                    Some(signatures) => signatures,
                    None => found.insert(fetch(repository, digests).await?),
                };
                judge(reference, &keys, &identity, signatures).map_err(refused)?;
            }
        }
    }
    Ok(())
}

/// The signatures of all the digests; none is no error yet.
async fn fetch(repository: &Repository, digests: &[&Digest]) -> Result<Vec<Signature>, ImageError> {
    let mut found = Vec::new();
    let mut seen: Vec<&Digest> = Vec::new();
    for &digest in digests {
        if seen.contains(&digest) {
            continue;
        }
        seen.push(digest);
        let what = format!("signatures of {digest}");
        let fetched = match repository.manifest(&what, &format!("sha256-{}.sig", digest.hex())).await {
            Ok(fetched) => fetched,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let manifest: Signatures = serde_json::from_slice(&fetched.bytes)
            .map_err(|e| ImageError::InvalidContent { what: what.clone(), reason: format!("manifest: {e}") })?;
        let texts = manifest.layers.into_iter().filter(|layer| layer.media_type == TEXT && layer.size <= LARGEST_TEXT);
        for layer in texts.take(MOST_SIGNATURES) {
            let signature = layer.annotations.get(SIGNATURE).and_then(|text| STANDARD.decode(text).ok());
            let Some(signature) = signature else { continue };
            let text = repository.small_blob(&what, &layer).await?;
            found.push(Signature { text, signature, digest: digest.clone() });
        }
    }
    Ok(found)
}

/// One good signature is enough. The error tells what was wrong with each.
fn judge(
    reference: &Reference,
    keys: &[PublicKey],
    identity: &Identity,
    signatures: &[Signature],
) -> Result<(), String> {
    let mut reasons = Vec::new();
    for signature in signatures {
        match accept(reference, keys, identity, signature) {
            Ok(()) => return Ok(()),
            Err(reason) if reasons.contains(&reason) => {}
            Err(reason) => reasons.push(reason),
        }
    }
    if reasons.is_empty() {
        return Err("the policy wants a signature, and the registry has none for it".to_owned());
    }
    Err(shorten(&format!("none of {} signatures is good: {}", signatures.len(), reasons.join("; "))))
}

fn accept(reference: &Reference, keys: &[PublicKey], identity: &Identity, signature: &Signature) -> Result<(), String> {
    // First of all: nothing that the text says counts before somebody trusted has said it.
    if !keys.iter().any(|key| key.verifies(&signature.text, &signature.signature)) {
        return Err("it is by none of the policy's keys".to_owned());
    }
    let text: Text = serde_json::from_slice(&signature.text).map_err(|e| format!("its text is not cosign's: {e}"))?;
    let Critical { identity: signed, image, kind } = text.critical;
    if kind != TEXT_KIND {
        return Err(format!("its text is of the type {:?}", shorten(&kind)));
    }
    if image.docker_manifest_digest != signature.digest.as_str() {
        return Err(format!("it is of another image, {}", shorten(&image.docker_manifest_digest)));
    }
    if !identity.accepts(reference, &signed.docker_reference) {
        let signed = shorten(&signed.docker_reference);
        return Err(format!("it is of {signed:?}, which the policy's signedIdentity does not take for {reference}"));
    }
    Ok(())
}
