//! The signature policy: what is not signed as it says is not pulled, and nothing of it is kept.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth::image::{ErrorKind, ImageConfig};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::Fixture;
use crate::build::{INDEX, Image, MANIFEST, digest, files};
use crate::server::{Answer, Server};

/// A SubjectPublicKeyInfo of P-256 up to its point (RFC 5480).
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

struct Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl Signer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random).unwrap();
        Self { pair, random }
    }

    /// As `keyData` wants it.
    fn key_data(&self) -> String {
        let der = [&P256[..], self.pair.public_key().as_ref()].concat();
        STANDARD.encode(format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der)))
    }

    /// One of cosign's layers: the text and its description.
    fn sign(&self, name: &str, of: &str) -> (Vec<u8>, Value) {
        let text = json!({"critical": {
            "identity": {"docker-reference": name}, "image": {"docker-manifest-digest": of},
            "type": "cosign container image signature"}, "optional": null})
        .to_string()
        .into_bytes();
        let signature = STANDARD.encode(self.pair.sign(&self.random, &text).unwrap());
        let layer = json!({"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": digest(&text),
            "size": text.len(), "annotations": {"dev.cosignproject.cosign/signature": signature}});
        (text, layer)
    }
}

/// What cosign puts beside an image.
fn attach(server: &Server, name: &str, of: &str, signatures: &[(Vec<u8>, Value)]) {
    let layers: Vec<&Value> = signatures.iter().map(|(_, layer)| layer).collect();
    for (text, layer) in signatures {
        let path = format!("/v2/{name}/blobs/{}", layer["digest"].as_str().unwrap());
        server.set(&path, Answer::new(200, text.clone()));
    }
    let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(b"{}"), "size": 2});
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    let path = format!("/v2/{name}/manifests/{}.sig", of.replace(':', "-"));
    server.set(&path, Answer::new(200, manifest.to_string()).header("content-type", MANIFEST));
}

struct Setup {
    server: Server,
    signer: Signer,
    image: Image,
    fixture: Fixture,
    reference: String,
    /// The reference without its tag: all that cosign signs.
    name: String,
    policy: PathBuf,
    _dir: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        let (server, signer) = (Server::start(), Signer::new());
        let image = Image::gzip(&[files(&[("signed", b"content")])]);
        let reference = server.push("app", "1", &image);
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy.json");
        let path = policy.clone();
        let fixture = Fixture::with(|config: &mut ImageConfig| config.signature_policy = Some(path));
        let name = reference.trim_end_matches(":1").to_owned();
        let setup = Self { server, signer, image, fixture, reference, name, policy, _dir: dir };
        setup.want(json!({"type": "matchRepository"}));
        setup
    }

    fn want(&self, identity: Value) {
        let signed = json!({"type": "sigstoreSigned", "keyData": self.signer.key_data(), "signedIdentity": identity});
        self.write(&json!({"default": [{"type": "reject"}], "transports": {"docker": {&self.name: [signed]}}}));
    }

    fn write(&self, policy: &Value) {
        std::fs::write(&self.policy, policy.to_string()).unwrap();
    }

    /// A pull that fails by the policy, before any blob of the image is fetched.
    async fn refused(&self, why: &str) {
        let error = self.fixture.refused(&self.reference).await;
        assert!(error.to_string().starts_with("SignatureValidationFailed: "), "{error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let blobs = self.image.blobs.keys().map(|blob| self.server.count(blob)).sum::<usize>();
        assert_eq!(blobs, 0, "nothing is fetched of an image that is refused");
    }
}

#[tokio::test]
async fn a_signed_image_is_pulled_and_an_unsigned_one_is_not() {
    let setup = Setup::new();
    setup.refused("the registry has none").await;
    let of = digest(&setup.image.manifest);
    let (other, own) = (Signer::new().sign(&setup.name, &of), setup.signer.sign(&setup.name, &of));
    attach(&setup.server, "app", &of, &[other, own]);
    assert_eq!(setup.fixture.pull(&setup.reference).await.unwrap(), setup.image.id());
    assert_eq!(setup.fixture.read(&setup.reference, "signed").as_deref(), Some(&b"content"[..]));
    setup.want(json!({"type": "matchRepoDigestOrExact"}));
    let by_digest = format!("{}@{of}", setup.name);
    setup.write(&json!({"default": [{"type": "sigstoreSigned", "keyData": setup.signer.key_data()}]}));
    setup.fixture.pull(&by_digest).await.expect("a digest says which one, so the repository is enough");
}

#[tokio::test]
async fn signatures_by_others_and_of_other_things_do_not_count() {
    let setup = Setup::new();
    let of = digest(&setup.image.manifest);
    let attach = |signatures: &[(Vec<u8>, Value)]| attach(&setup.server, "app", &of, signatures);
    attach(&[Signer::new().sign(&setup.name, &of)]);
    setup.refused("by none of the policy's keys").await;
    attach(&[setup.signer.sign(&setup.name, &digest(b"another image"))]);
    setup.refused("of another image").await;
    attach(&[setup.signer.sign("elsewhere.example/app", &of)]);
    setup.refused("signedIdentity").await;
    // A text that was changed after it was signed.
    let (text, mut layer) = setup.signer.sign(&setup.name, &digest(b"another image"));
    let text = String::from_utf8(text).unwrap().replace(&digest(b"another image"), &of).into_bytes();
    layer["digest"] = json!(digest(&text));
    attach(&[(text, layer)]);
    setup.refused("by none of the policy's keys").await;
    // The tag is asked for, and cosign's signature has none.
    attach(&[setup.signer.sign(&setup.name, &of)]);
    setup.want(json!({"type": "matchExact"}));
    setup.refused("signedIdentity").await;
    attach(&[setup.signer.sign(&setup.reference, &of)]);
    setup.fixture.pull(&setup.reference).await.unwrap();
}

#[tokio::test]
async fn an_index_or_the_image_that_it_leads_to_may_be_signed() {
    for index_is_signed in [true, false] {
        let setup = Setup::new();
        let manifest = digest(&setup.image.manifest);
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"mediaType": MANIFEST,
            "digest": manifest, "size": setup.image.manifest.len(),
            "platform": {"os": "linux", "architecture": architecture}}]})
        .to_string();
        let answer = Answer::new(200, index.clone()).header("content-type", INDEX);
        setup.server.set("/v2/app/manifests/1", answer);
        setup.refused("the registry has none").await;
        let of = if index_is_signed { digest(index.as_bytes()) } else { manifest };
        attach(&setup.server, "app", &of, &[setup.signer.sign(&setup.name, &of)]);
        setup.fixture.pull(&setup.reference).await.unwrap();
    }
}

#[tokio::test]
async fn a_policy_can_reject_and_a_broken_one_does() {
    let setup = Setup::new();
    setup.write(&json!({"default": [{"type": "reject"}]}));
    setup.refused("rejects all of \"default\"").await;
    setup.write(&json!({"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/x"}]}));
    setup.refused("unknown variant `signedBy`").await;
    std::fs::remove_file(&setup.policy).unwrap();
    setup.refused("cannot be used").await;
    setup.write(&json!({"default": [{"type": "reject"}],
        "transports": {"docker": {&setup.reference: [{"type": "insecureAcceptAnything"}]}}}));
    setup.fixture.pull(&setup.reference).await.unwrap();
}
