//! The store over time: names that move, removal, holds, restarts, broken indexes, imports.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use berth::image::{ErrorKind, ImageConfig, ImageStore};
use berth::model::{ContainerId, Digest};

use crate::build::{Compression, Image, digest, files, noise};
use crate::server::Server;
use crate::{Fixture, assert_nothing_left, names};

fn reopen(fixture: &Fixture) -> Arc<ImageStore> {
    ImageStore::open(&fixture.dir.path().join("store"), ImageConfig::default()).unwrap()
}

fn image(text: &str) -> Image {
    Image::gzip(&[files(&[("base", b"base")]), files(&[("text", text.as_bytes())])])
}

#[tokio::test]
async fn what_was_pulled_is_there_after_a_restart() {
    let fixture = Fixture::new();
    let server = Server::start();
    let (one, two) = (server.push("one", "1", &image("a")), server.push("two", "1", &image("a")));
    fixture.pull(&one).await.unwrap();
    fixture.pull(&two).await.unwrap();
    let known = fixture.store.resolve(&one).unwrap();
    assert_eq!(known.repo_tags.len(), 2, "one content is one image");
    assert_eq!(known.repo_digests.len(), 2);
    let usage = fixture.store.fs_usage();
    let store = reopen(&fixture);
    assert_eq!(store.list(), std::slice::from_ref(&known));
    assert_eq!(store.resolve(&two), Some(known));
    assert_eq!(store.fs_usage(), usage);
    let root = fixture.dir.path().join("store");
    assert_eq!(std::fs::read_to_string(root.join("oci-layout")).unwrap().trim(), r#"{"imageLayoutVersion":"1.0.0"}"#);
    store.sweep().await.unwrap();
    assert_eq!(names(&root.join("layers")).len(), 4, "two folders, two records");
}

#[tokio::test]
async fn a_tag_moves_and_what_it_left_stays_by_digest() {
    let fixture = Fixture::new();
    let server = Server::start();
    let reference = server.push("app", "1", &image("old"));
    let old = fixture.pull(&reference).await.unwrap();
    server.push("app", "1", &image("new"));
    let new = fixture.pull(&reference).await.unwrap();
    assert_eq!(fixture.store.resolve(&reference).unwrap().id.as_str(), new);
    let left = fixture.store.resolve(&old).unwrap();
    assert_eq!((left.repo_tags.len(), left.repo_digests.len()), (0, 1));
    fixture.store.remove(&left.repo_digests[0]).await.unwrap();
    assert!(fixture.store.resolve(&old).is_none());
    assert_eq!(fixture.read(&new, "base"), Some(b"base".to_vec()), "the shared layer stays");
    assert_eq!(fixture.read(&new, "text"), Some(b"new".to_vec()));
}

#[tokio::test]
async fn removing_by_any_name_removes_it_whole_and_again() {
    let fixture = Fixture::new();
    let server = Server::start();
    let one = server.push("one", "1", &image("a"));
    let id = fixture.pull(&one).await.unwrap();
    fixture.pull(&server.push("two", "1", &image("a"))).await.unwrap();
    let (a, b, c, d, e) = tokio::join!(
        fixture.store.remove(&one),
        fixture.store.remove(&id),
        fixture.store.remove(&one),
        fixture.store.remove(&id[7..20]),
        fixture.store.remove(&one),
    );
    for removed in [a, b, c, d, e, fixture.store.remove("never/was:there").await, fixture.store.remove("!!").await] {
        removed.unwrap();
    }
    fixture.assert_empty();
    assert_eq!(fixture.store.fs_usage().used_bytes, 0);
    assert!(reopen(&fixture).list().is_empty());
}

#[tokio::test]
async fn layers_in_use_stay_until_they_are_released() {
    let fixture = Fixture::new();
    let server = Server::start();
    let reference = server.push("app", "1", &image("held"));
    fixture.pull(&reference).await.unwrap();
    let known = fixture.store.resolve(&reference).unwrap();
    let (first, second) = (ContainerId::random().unwrap(), ContainerId::random().unwrap());
    assert!(fixture.store.hold(&known.layers, &first) && fixture.store.hold(&known.layers, &second));
    fixture.store.remove(&reference).await.unwrap();
    assert!(fixture.store.list().is_empty());
    let dirs = fixture.store.layer_dirs(&known.layers);
    fixture.store.release(&first);
    assert!(dirs.iter().all(|dir| dir.is_dir()));

    // The agent restarts: recovery holds again, then sweeps.
    let store = reopen(&fixture);
    assert!(store.hold(&known.layers, &second));
    store.sweep().await.unwrap();
    assert!(dirs.iter().all(|dir| dir.is_dir()));
    store.release(&second);
    assert_nothing_left(&fixture.dir.path().join("store"));
    assert!(!store.hold(&known.layers, &first), "they are gone");
}

#[tokio::test]
async fn what_no_index_names_is_swept() {
    let fixture = Fixture::new();
    let server = Server::start();
    let reference = server.push("app", "1", &image("kept"));
    fixture.pull(&reference).await.unwrap();
    let root = fixture.dir.path().join("store");
    let stray = digest(b"stray").replace("sha256:", "");
    std::fs::create_dir_all(root.join("layers").join(&stray).join("usr/bin")).unwrap();
    std::fs::write(root.join("layers").join(format!("{stray}.json")), "{}").unwrap();
    std::fs::write(root.join("blobs/sha256").join(&stray), "x").unwrap();
    std::fs::create_dir_all(root.join("tmp/half/done")).unwrap();
    let store = reopen(&fixture);
    store.sweep().await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while !names(&root.join("tmp")).is_empty() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(names(&root.join("tmp")).is_empty());
    assert_eq!(names(&root.join("layers")).len(), 4);
    assert_eq!(names(&root.join("blobs/sha256")).len(), 2);
    assert!(store.resolve(&reference).is_some());
}

#[tokio::test]
async fn a_layer_left_by_a_crash_is_not_trusted() {
    let fixture = Fixture::new();
    let server = Server::start();
    let built = image("whole");
    let reference = server.push("app", "1", &built);
    // As after a power loss between a layer's rename and its sync: there, and empty.
    let place = fixture.dir.path().join("store/layers").join(&built.diff_ids[1]["sha256:".len()..]);
    std::fs::create_dir(&place).unwrap();
    let store = reopen(&fixture);
    let request = berth::image::PullRequest { reference, ..Default::default() };
    store.pull(request).await.unwrap();
    assert_eq!(std::fs::read(place.join("text")).unwrap(), b"whole");
}

#[tokio::test]
async fn a_broken_index_is_told_and_nothing_is_swept() {
    let fixture = Fixture::new();
    let server = Server::start();
    fixture.pull(&server.push("app", "1", &image("a"))).await.unwrap();
    let root = fixture.dir.path().join("store");
    let index = root.join("index.json");
    let whole = std::fs::read(&index).unwrap();
    for broken in [&whole[..whole.len() / 2], b"", b"{}"] {
        std::fs::write(&index, broken).unwrap();
        let error = ImageStore::open(&root, ImageConfig::default()).unwrap_err();
        assert!(error.to_string().contains("index.json") && error.to_string().contains("move"), "{error}");
        assert_eq!(names(&root.join("layers")).len(), 4);
    }
    let text =
        String::from_utf8(whole.clone()).unwrap().replace("\"io.berth.format\": \"1\"", "\"io.berth.format\": \"9\"");
    std::fs::write(&index, text).unwrap();
    assert!(ImageStore::open(&root, ImageConfig::default()).unwrap_err().to_string().contains("\"9\""));
    std::fs::write(&index, whole).unwrap();
    assert_eq!(reopen(&fixture).list().len(), 1);
}

#[tokio::test]
async fn an_image_with_a_missing_layer_is_dropped_and_pulled_anew() {
    let fixture = Fixture::new();
    let server = Server::start();
    let reference = server.push("app", "1", &image("a"));
    let id = fixture.pull(&reference).await.unwrap();
    let known = fixture.store.resolve(&id).unwrap();
    std::fs::remove_dir_all(&fixture.store.layer_dirs(&known.layers)[0]).unwrap();
    let store = reopen(&fixture);
    assert!(store.list().is_empty());
    let request = berth::image::PullRequest { reference, ..Default::default() };
    assert_eq!(store.pull(request).await.unwrap().as_str(), id);
}

#[tokio::test]
async fn a_pinned_image_is_marked_and_stays() {
    let server = Server::start();
    let address = server.address.clone();
    let fixture = Fixture::with(|config| config.pinned = vec![format!("{address}/pause:*")]);
    let reference = server.push("pause", "3", &image("pause"));
    let id = fixture.pull(&reference).await.unwrap();
    assert!(fixture.store.resolve(&id).unwrap().pinned);
    for name in [&id, &reference] {
        let refused = fixture.store.remove(name).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
        assert!(refused.to_string().contains("image.pinned"), "{refused}");
    }
    assert!(fixture.store.resolve(&id).is_some());
}

#[tokio::test]
async fn archives_and_layouts_are_imported() {
    let fixture = Fixture::new();
    let layers =
        [(files(&[("a", &noise(100_000, 20))]), Compression::Gzip), (files(&[("b", b"b")]), Compression::Zstd)];
    let image = Image::new(&layers);
    let layout = fixture.dir.path().join("layout");
    image.write_layout(&layout);
    let imported = fixture.store.import(layout.clone(), Some("team/app:7".to_owned())).await.unwrap();
    assert_eq!(imported[0].id.as_str(), image.id());
    assert_eq!(imported[0].repo_tags, ["docker.io/team/app:7"]);
    assert_eq!(fixture.read("team/app:7", "a"), Some(noise(100_000, 20)));
    fixture.store.remove("team/app:7").await.unwrap();
    fixture.assert_empty();

    let image = Image::gzip(&[files(&[("a", b"a")]), files(&[("b", b"b")])]);
    image.write_layout(&layout);
    for (format, name) in [("oci-archive", "r.io/oci:2"), ("docker-archive", "r.io/docker:2")] {
        let archive = fixture.dir.path().join(format);
        let (from, to) = (format!("oci:{}:latest", layout.display()), format!("{format}:{}:{name}", archive.display()));
        let copied = Command::new("skopeo")
            .args(["copy", "--insecure-policy", &from, &to])
            .output()
            .expect("the package skopeo");
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let imported = fixture.store.import(archive, None).await.unwrap();
        assert_eq!(imported[0].repo_tags, [name], "{format}");
        assert_eq!(fixture.read(name, "b"), Some(b"b".to_vec()));
        fixture.store.remove(name).await.unwrap();
        fixture.assert_empty();
    }
    let missing = fixture.store.import("/no/such/file".into(), None).await.unwrap_err();
    assert!(missing.to_string().contains("/no/such/file"), "{missing}");
    assert_eq!(fixture.store.import("relative".into(), None).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_corrupt_archive_leaves_nothing() {
    let fixture = Fixture::new();
    let mut image = Image::gzip(&[files(&[("a", b"a")]), files(&[("b", &noise(50_000, 21))])]);
    let name = image.layers[1].clone();
    let blob = image.blobs.get_mut(&name).unwrap();
    let middle = blob.len() / 2;
    blob[middle] ^= 1;
    let layout = fixture.dir.path().join("layout");
    image.write_layout(&layout);
    assert_eq!(fixture.store.import(layout, None).await.unwrap_err().kind(), ErrorKind::Corrupt);
    fixture.assert_empty();
}

#[tokio::test]
async fn a_name_of_hex_digits_is_found_only_as_one_images_prefix() {
    let fixture = Fixture::new();
    let server = Server::start();
    let id: Digest = fixture.pull(&server.push("app", "1", &image("a"))).await.unwrap().parse().unwrap();
    assert!(fixture.store.resolve(&id.hex()[..12]).is_some());
    assert!(fixture.store.resolve("").is_none() && fixture.store.resolve(&id.hex()[..2]).is_none());
    assert!(fixture.store.resolve("zz").is_none());
}
