//! Manifests, indexes and configurations: OCI image-spec 1.1 and docker's schema 2, from untrusted bytes. Pure.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use super::error::{ImageError, shorten};
use super::platform::Platform;
use crate::model::Digest;

/// Manifests, indexes and configurations are read into memory; larger ones are refused unread.
pub(crate) const LARGEST_DOCUMENT: u64 = 4 << 20;
/// overlayfs and the containers' plans take this many layers.
pub(crate) const MOST_LAYERS: usize = 127;

/// Files of an artifact.
const MOST_FILES: usize = 1000;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// What docker 1.10 called a configuration when it pushed one.
const OLD_CONFIG: &str = "application/octet-stream";

/// The `Accept` header of a manifest request.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, \
    */*;q=0.1";

/// A reference to content by its digest (image-spec, descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What stands behind a `/manifests/` address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// One image for one platform.
    Manifest(Manifest),
    /// Images for several platforms.
    Index(Vec<Descriptor>),
}

/// One platform's image: a configuration and its layers, the bottom one first; or an artifact's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    /// Files of any kind, not a container image.
    pub(crate) artifact: bool,
}

impl Manifest {
    /// What registries and other runtimes call the image's size: configuration and compressed layers.
    pub(crate) fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).fold(self.config.size, u64::saturating_add)
    }
}

/// The fields of all four documents; which are there decides what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default, deserialize_with = "null_is_default")]
    media_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    // Schema 1 only.
    fs_layers: Option<serde::de::IgnoredAny>,
}

fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Reads a manifest or an index. `what` names it in errors; `content_type` is the registry's word, if there is one.
pub(crate) fn parse(what: &str, bytes: &[u8], content_type: Option<&str>) -> Result<Document, ImageError> {
    let invalid = |reason: String| ImageError::InvalidContent { what: what.to_owned(), reason };
    let raw: Raw = serde_json::from_slice(bytes).map_err(|e| invalid(format!("manifest: {}", told(&e))))?;
    let told = content_type.and_then(|t| t.split(';').next()).map_or("", str::trim);
    let media_type = if raw.media_type.is_empty() { told } else { raw.media_type.as_str() };
    if raw.fs_layers.is_some()
        || raw.schema_version == Some(1)
        || media_type.contains("manifest.v1") && media_type.contains("docker")
    {
        return Err(ImageError::Unsupported {
            what: what.to_owned(),
            reason:
                "it is a docker schema 1 manifest, which no longer carries verifiable content; push the image anew \
                     with a current tool"
                    .to_owned(),
        });
    }
    if raw.schema_version != Some(2) {
        return Err(invalid("manifest: schemaVersion is not 2".to_owned()));
    }
    let known = |t: &str| [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].contains(&t);
    if known(told) && !raw.media_type.is_empty() && told != raw.media_type {
        // CVE-2021-41190: one text read as two things by two readers.
        return Err(invalid(format!(
            "manifest: mediaType {:?} differs from Content-Type {told:?}",
            shorten(&raw.media_type)
        )));
    }
    let is_index = [OCI_INDEX, DOCKER_LIST].contains(&media_type);
    let is_manifest = [OCI_MANIFEST, DOCKER_MANIFEST].contains(&media_type);
    if !raw.media_type.is_empty() && !is_index && !is_manifest {
        return Err(invalid(format!(
            "manifest: mediaType {:?} is neither a manifest nor an index",
            shorten(&raw.media_type)
        )));
    }
    match (raw.manifests, raw.config, raw.layers) {
        (Some(manifests), None, None) if !is_manifest => Ok(Document::Index(manifests)),
        (None, Some(config), Some(layers)) if !is_index => {
            let image = [OCI_CONFIG, DOCKER_CONFIG, OLD_CONFIG].contains(&config.media_type.as_str());
            let manifest = Manifest { artifact: !image, config, layers };
            check(what, &manifest)?;
            Ok(Document::Manifest(manifest))
        }
        (Some(_), _, _) => Err(invalid("manifest: it has the fields of a manifest and of an index".to_owned())),
        _ => Err(invalid("manifest: it has no config and layers, and no manifests".to_owned())),
    }
}

/// What is wrong with a text, without all of it: an error quotes what it did not expect, and that may be megabytes.
fn told(error: &serde_json::Error) -> String {
    match error.to_string() {
        short if short.len() <= 256 => short,
        long => format!("{} at line {} column {}", shorten(&long), error.line(), error.column()),
    }
}

/// What a manifest that `parse` took calls itself, or the registry calls it.
pub(crate) fn media_type(bytes: &[u8], content_type: Option<&str>) -> String {
    let own = serde_json::from_slice::<Raw>(bytes).map(|raw| raw.media_type).unwrap_or_default();
    let told = content_type.and_then(|t| t.split(';').next()).map_or("", str::trim);
    match own.as_str() {
        "" if [OCI_MANIFEST, DOCKER_MANIFEST].contains(&told) => told.to_owned(),
        "" => OCI_MANIFEST.to_owned(),
        _ => own,
    }
}

fn check(what: &str, manifest: &Manifest) -> Result<(), ImageError> {
    let config = &manifest.config;
    if config.size > LARGEST_DOCUMENT {
        return Err(too_large(format!("{what}: config.size"), config.size, LARGEST_DOCUMENT));
    }
    let most = if manifest.artifact { MOST_FILES } else { MOST_LAYERS };
    if manifest.layers.len() > most {
        return Err(too_large(format!("{what}: number of layers"), manifest.layers.len() as u64, most as u64));
    }
    if manifest.artifact {
        return Ok(());
    }
    for (n, layer) in manifest.layers.iter().enumerate() {
        if !is_layer(&layer.media_type) {
            return Err(ImageError::Unsupported {
                what: what.to_owned(),
                reason: format!("layers[{n}].mediaType {:?} is not a tar layer", shorten(&layer.media_type)),
            });
        }
    }
    Ok(())
}

/// The compression is read from the stream itself: registries and builders are known to mislabel it.
fn is_layer(media_type: &str) -> bool {
    let oci = |prefix: &str| media_type.strip_prefix(prefix).is_some_and(|rest| matches!(rest, "" | "+gzip" | "+zstd"));
    oci("application/vnd.oci.image.layer.v1.tar")
        || oci("application/vnd.oci.image.layer.nondistributable.v1.tar")
        || [
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ]
        .contains(&media_type)
}

pub(crate) fn too_large(what: String, actual: u64, limit: u64) -> ImageError {
    ImageError::TooLarge { what, actual, limit }
}

/// The manifest of an index that suits `host` best.
pub(crate) fn choose<'a>(
    what: &str,
    manifests: &'a [Descriptor],
    host: &Platform,
) -> Result<&'a Descriptor, ImageError> {
    let readable =
        |d: &&Descriptor| d.media_type.is_empty() || [OCI_MANIFEST, DOCKER_MANIFEST].contains(&d.media_type.as_str());
    let rank = |d: &Descriptor| match &d.platform {
        Some(platform) => host.rank(platform),
        // Without a platform only the configuration would tell: the last choice.
        None => Some(u32::MAX),
    };
    let best =
        manifests.iter().filter(readable).filter_map(|d| rank(d).map(|rank| (rank, d))).min_by_key(|(rank, _)| *rank);
    best.map(|(_, d)| d).ok_or_else(|| {
        let offered: Vec<String> =
            manifests.iter().filter_map(|d| d.platform.as_ref()).map(Platform::to_string).collect();
        ImageError::Unsupported {
            what: what.to_owned(),
            reason: format!("no image for {host}; the index offers: {}", shorten(&offered.join(", "))),
        }
    })
}

/// Reads an image configuration and its diff ids, and compares them with the manifest's layers.
pub(crate) fn parse_config(
    what: &str,
    bytes: &[u8],
    layers: usize,
) -> Result<(ImageConfiguration, Vec<Digest>), ImageError> {
    let invalid = |reason: String| ImageError::InvalidContent { what: what.to_owned(), reason };
    let config: ImageConfiguration =
        serde_json::from_slice(bytes).map_err(|e| invalid(format!("configuration: {}", told(&e))))?;
    let os = config.os().to_string();
    if !os.is_empty() && os != "linux" {
        return Err(ImageError::Unsupported {
            what: what.to_owned(),
            reason: format!("it is for {}, not linux", shorten(&os)),
        });
    }
    let diff_ids: Vec<Digest> = config
        .rootfs()
        .diff_ids()
        .iter()
        .enumerate()
        .map(|(n, text)| text.parse().map_err(|e| invalid(format!("configuration: rootfs.diff_ids[{n}]: {e}"))))
        .collect::<Result<_, _>>()?;
    if diff_ids.len() != layers {
        return Err(invalid(format!("configuration: {} diff ids for {layers} layers", diff_ids.len())));
    }
    Ok((config, diff_ids))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn digest(n: u8) -> String {
        format!("sha256:{}", format!("{n:02x}").repeat(32))
    }

    fn manifest() -> Value {
        json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": digest(1), "size": 10},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(2), "size": 100}],
        })
    }

    fn read(value: &Value, content_type: Option<&str>) -> Result<Document, ImageError> {
        parse("x", value.to_string().as_bytes(), content_type)
    }

    fn refused(value: &Value, word: &str) {
        let text = read(value, None).expect_err(word).to_string();
        assert!(text.contains(word), "{text}");
    }

    /// An error ends in an event, and in a header of gRPC.
    #[test]
    fn what_is_refused_is_told_in_few_words() {
        let long = "x".repeat(100_000);
        for text in
            [format!(r#"{{"schemaVersion":"{long}"}}"#), format!(r#"{{"schemaVersion":2,"mediaType":"{long}"}}"#)]
        {
            let error = parse("image", text.as_bytes(), None).unwrap_err().to_string();
            assert!(error.len() < 1000, "{} bytes", error.len());
        }
        let error =
            parse_config("image", format!(r#"{{"architecture":"amd64","os":7,"rootfs":"{long}"}}"#).as_bytes(), 0);
        assert!(error.unwrap_err().to_string().len() < 1000);
        let error =
            parse("image", format!(r#"{{"schemaVersion":"{long}"}}"#).as_bytes(), None).unwrap_err().to_string();
        assert!(error.contains(" at line 1 column 1000"), "where it is stays: {error}");
    }

    #[test]
    fn both_families_are_read() {
        let Document::Manifest(oci) = read(&manifest(), None).unwrap() else { panic!("no manifest") };
        assert_eq!(oci.size(), 110);
        let docker = json!({
            "schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
            "config": {"mediaType": DOCKER_CONFIG, "digest": digest(1), "size": 10},
            "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": digest(2), "size": 100}],
        });
        assert!(matches!(read(&docker, Some(DOCKER_MANIFEST)), Ok(Document::Manifest(_))));
        let index =
            json!({"schemaVersion": 2, "manifests": [{"mediaType": OCI_MANIFEST, "digest": digest(3), "size": 5}]});
        assert!(matches!(
            read(&index, Some("application/vnd.oci.image.index.v1+json; charset=utf-8")),
            Ok(Document::Index(_))
        ));
    }

    #[test]
    fn schema_1_is_refused_with_advice() {
        refused(&json!({"schemaVersion": 1, "fsLayers": []}), "schema 1");
        refused(&json!({"schemaVersion": 1, "name": "x", "tag": "y"}), "schema 1");
    }

    #[test]
    fn ambiguous_and_foreign_documents_are_refused() {
        let mut both = manifest();
        both["manifests"] = json!([]);
        refused(&both, "of a manifest and of an index");
        let text = read(&manifest(), Some(OCI_INDEX)).unwrap_err().to_string();
        assert!(text.contains("differs from Content-Type"), "{text}");
        let mut encrypted = manifest();
        encrypted["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
        refused(&encrypted, "layers[0].mediaType");
        refused(&json!({"schemaVersion": 2}), "no config and layers");
    }

    #[test]
    fn what_has_another_configuration_is_an_artifact() {
        let mut helm = manifest();
        helm["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
        helm["layers"][0]["mediaType"] = json!("text/plain");
        helm["layers"] = (0..1000).map(|_| helm["layers"][0].clone()).collect();
        let Document::Manifest(read_back) = read(&helm, None).unwrap() else { panic!("no manifest") };
        assert!(read_back.artifact);
        helm["layers"].as_array_mut().unwrap().push(manifest()["layers"][0].clone());
        refused(&helm, "number of layers");
        let Document::Manifest(image) = read(&manifest(), None).unwrap() else { panic!("no manifest") };
        assert!(!image.artifact);
    }

    #[test]
    fn sizes_and_counts_are_capped() {
        let mut large = manifest();
        large["config"]["size"] = json!(LARGEST_DOCUMENT + 1);
        refused(&large, "config.size");
        let mut many = manifest();
        many["layers"] = (0..128).map(|_| many["layers"][0].clone()).collect();
        refused(&many, "number of layers");
        let mut negative = manifest();
        negative["layers"][0]["size"] = json!(-1);
        refused(&negative, "invalid value");
        let mut climbing = manifest();
        climbing["layers"][0]["digest"] = json!("sha256:../../x");
        refused(&climbing, "not a digest");
    }

    #[test]
    fn the_best_platform_wins() {
        let entry = |n: u8, os: &str, arch: &str, variant: &str| -> Descriptor {
            serde_json::from_value(json!({"mediaType": OCI_MANIFEST, "digest": digest(n), "size": 1,
                "platform": {"os": os, "architecture": arch, "variant": variant}}))
            .unwrap()
        };
        let index = [
            entry(1, "windows", "amd64", ""),
            entry(2, "linux", "arm64", "v8"),
            entry(3, "unknown", "unknown", ""),
            entry(4, "linux", "amd64", ""),
        ];
        let amd64 = Platform { os: "linux".into(), architecture: "amd64".into(), ..Platform::default() };
        assert_eq!(choose("x", &index, &amd64).unwrap().digest.as_str(), digest(4));
        let s390x = Platform { os: "linux".into(), architecture: "s390x".into(), ..Platform::default() };
        let text = choose("x", &index, &s390x).unwrap_err().to_string();
        assert!(text.contains("no image for linux/s390x") && text.contains("linux/arm64/v8"), "{text}");
    }

    #[test]
    fn a_configuration_must_fit_its_manifest() {
        let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(7)]},
            "config": {"Cmd": ["/x"], "Env": null, "Volumes": {"/data": {}}}, "docker_version": "20"});
        let bytes = config.to_string();
        assert_eq!(parse_config("x", bytes.as_bytes(), 1).unwrap().1[0].as_str(), digest(7));
        assert!(parse_config("x", bytes.as_bytes(), 2).unwrap_err().to_string().contains("1 diff ids for 2 layers"));
        let windows = bytes.replace("\"linux\"", "\"windows\"");
        assert!(parse_config("x", windows.as_bytes(), 1).unwrap_err().to_string().contains("windows"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse("x", &bytes, None);
            let _ = parse_config("x", &bytes, 0);
        }
    }
}
