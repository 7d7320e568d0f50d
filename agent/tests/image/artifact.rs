//! OCI artifacts: their files come under their titles, whole or not at all.

use berth::image::{ErrorKind, PullRequest};
use serde_json::json;

use crate::Fixture;
use crate::build::{Image, MANIFEST, digest, noise};
use crate::server::{Answer, Server};

/// An artifact of files by title; without one where it is empty.
fn artifact(files: &[(&str, &[u8])]) -> Image {
    let layers: Vec<_> = files
        .iter()
        .map(|(title, content)| {
            let annotations =
                if title.is_empty() { json!({}) } else { json!({"org.opencontainers.image.title": title}) };
            json!({"mediaType": "application/x-model", "digest": digest(content), "size": content.len(),
                "annotations": annotations})
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/x-model", "layers": layers,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2},
    });
    let blobs = files.iter().map(|(_, content)| (digest(content), content.to_vec())).collect();
    let names = files.iter().map(|(_, content)| digest(content)).collect();
    let manifest = manifest.to_string().into_bytes();
    Image { manifest, config: b"{}".to_vec(), blobs, layers: names, diff_ids: Vec::new() }
}

#[tokio::test]
async fn files_have_their_titles_and_survive_a_restart() {
    let server = Server::start();
    let large = noise(3_000_000, 5);
    let image = artifact(&[("model/weights.bin", &large), ("README", b"read me"), ("", b"no title"), ("empty", b"")]);
    let reference = server.push("model", "1", &image);
    let fixture = Fixture::new();
    let id = fixture.pull(&reference).await.unwrap();
    assert_eq!(id, digest(&image.manifest), "an empty configuration tells no two artifacts apart");
    let untitled = digest(b"no title")["sha256:".len()..].to_owned();
    let expected =
        [("model/weights.bin", &large[..]), ("README", b"read me"), (&untitled, b"no title"), ("empty", b"")];
    for (path, content) in expected {
        assert_eq!(fixture.read(&reference, path).as_deref(), Some(content), "{path}");
    }
    let known = fixture.store.resolve(&reference).unwrap();
    assert!(known.artifact && known.layers.len() == 1 && known.size > 3_000_000);
    assert_eq!(known.repo_tags, std::slice::from_ref(&reference));

    let again = berth::image::ImageStore::open(&fixture.dir.path().join("store"), Default::default()).unwrap();
    assert_eq!(again.resolve(&id).as_deref(), Some(&*known));
    fixture.store.pull(PullRequest { reference: reference.clone(), ..Default::default() }).await.unwrap();
    assert_eq!(server.count("/blobs/"), 4, "what is there is not fetched again");
    fixture.store.remove(&reference).await.unwrap();
    fixture.assert_empty();
}

#[tokio::test]
async fn a_hostile_or_broken_artifact_leaves_nothing() {
    let server = Server::start();
    let fixture = Fixture::new();
    for (n, title) in ["../../escaped", "/etc/escaped", "a/../../escaped"].into_iter().enumerate() {
        let reference = server.push("hostile", &n.to_string(), &artifact(&[("fine", b"x"), (title, b"y")]));
        let error = fixture.refused(&reference).await;
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(title), "{error}");
    }
    let image = artifact(&[("a", b"aaaa"), ("b", b"bbbb")]);
    let reference = server.push("broken", "1", &image);
    server.set(&format!("/v2/broken/blobs/{}", digest(b"bbbb")), Answer::new(200, "cccc"));
    let error = fixture.refused(&reference).await;
    assert!(error.to_string().contains("the content's digest is"), "{error}");
    let layout = fixture.dir.path().join("layout");
    image.write_layout(&layout);
    let error = fixture.store.import(layout, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}
