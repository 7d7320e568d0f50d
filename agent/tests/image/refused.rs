//! Pulls that have to fail, each with its reason and with nothing left behind.

use std::time::{Duration, Instant};

use berth::image::ErrorKind;

use crate::build::{Compression, Image, Layer, digest, files, noise};
use crate::server::{Answer, Server};
use crate::{Fixture, assert_nothing_left, block_on, in_own_mounts};

/// An image of one layer, served by a registry with a hook.
fn served(tar: Vec<u8>) -> (Server, Image, String) {
    let server = Server::start();
    let image = Image::gzip(&[files(&[("base", b"base")]), tar]);
    let reference = server.push("app", "1", &image);
    (server, image, reference)
}

#[tokio::test]
async fn what_is_not_there() {
    let fixture = Fixture::new();
    let (server, _, _) = served(files(&[]));
    let error = fixture.refused(&format!("{}/nothing:1", server.address)).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("nothing:1") && error.to_string().contains("NAME_UNKNOWN"), "{error}");
    assert_eq!(fixture.refused("UPPER/x:y:z").await.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_registry_that_is_down_or_ill() {
    let fixture = Fixture::new();
    let error = fixture.refused("127.0.0.1:1/app:1").await;
    assert!(error.to_string().starts_with("RegistryUnavailable"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let (server, _, reference) = served(files(&[]));
    server.hook(|_, _| Some(Answer::new(502, "ill")));
    let error = fixture.refused(&reference).await;
    assert!(error.to_string().starts_with("RegistryUnavailable") && error.to_string().contains("502"), "{error}");
    assert_eq!(server.requests().len(), 4, "three retries");
}

#[tokio::test]
async fn a_forbidden_repository() {
    let fixture = Fixture::new();
    let (server, _, reference) = served(files(&[]));
    server.hook(|_, _| Some(Answer::new(403, r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#)));
    let error = fixture.refused(&reference).await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("not yours"), "{error}");
}

#[tokio::test]
async fn a_corrupt_layer() {
    let fixture = Fixture::new();
    let (server, image, reference) = served(files(&[("x", &noise(500_000, 7))]));
    let name = image.layers[1].clone();
    let mut blob = image.blobs[&name].clone();
    let middle = blob.len() / 2;
    blob[middle] ^= 1;
    server.set(&format!("/v2/app/blobs/{name}"), Answer::new(200, blob));
    assert_eq!(fixture.refused(&reference).await.kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_layer_with_another_blobs_content() {
    let fixture = Fixture::new();
    // Uncompressed, so that only the digests can tell.
    let image = Image::new(&[(files(&[("x", b"right")]), Compression::None)]);
    let server = Server::start();
    let reference = server.push("app", "1", &image);
    server.set(&format!("/v2/app/blobs/{}", image.layers[0]), Answer::new(200, files(&[("x", b"wrong")])));
    let error = fixture.refused(&reference).await;
    assert!(error.to_string().contains("digest is sha256:"), "{error}");
}

#[tokio::test]
async fn a_layer_that_is_compressed_otherwise() {
    let fixture = Fixture::new();
    let server = Server::start();
    let tar = files(&[("x", &noise(10_000, 12))]);
    let mut image = Image::gzip(std::slice::from_ref(&tar));
    // The same content in another form: only the blob's own digest can tell.
    let other = crate::build::compress(&tar, Compression::GzipTwice);
    image.edit_manifest(|m| m["layers"][0]["size"] = other.len().into());
    image.blobs.insert(image.layers[0].clone(), other);
    let error = fixture.refused(&server.push("app", "1", &image)).await;
    assert!(error.to_string().starts_with("layer blob: the content's digest"), "{error}");
}

#[tokio::test]
async fn a_layer_that_the_configuration_does_not_know() {
    let fixture = Fixture::new();
    let server = Server::start();
    let layers = [(files(&[("x", b"x")]), Compression::Gzip)];
    let image = Image::with_config(&layers, |c| c["rootfs"]["diff_ids"][0] = digest(b"another").into());
    let error = fixture.refused(&server.push("app", "1", &image)).await;
    assert!(error.to_string().contains("uncompressed content"), "{error}");
}

#[tokio::test]
async fn a_truncated_layer_and_one_that_lies_about_its_size() {
    let fixture = Fixture::new();
    let server = Server::start();
    let mut image = Image::gzip(&[files(&[("x", &noise(300_000, 8))])]);
    let blob = image.blobs[&image.layers[0]].clone();
    let half = blob[..blob.len() / 2].to_vec();
    let name = digest(&half);
    image.edit_manifest(|m| {
        m["layers"][0]["digest"] = name.clone().into();
        m["layers"][0]["size"] = half.len().into();
    });
    image.blobs.insert(name.clone(), half);
    assert_eq!(fixture.refused(&server.push("app", "1", &image)).await.kind(), ErrorKind::Corrupt);
    image.edit_manifest(|m| m["layers"][0]["size"] = 10.into());
    let error = fixture.refused(&server.push("app", "2", &image)).await;
    assert!(error.to_string().contains("the manifest says 10"), "{error}");
}

#[tokio::test]
async fn a_manifest_with_another_digest() {
    let fixture = Fixture::new();
    let (server, image, _) = served(files(&[]));
    let asked = digest(b"something else");
    server.set(&format!("/v2/app/manifests/{asked}"), Answer::new(200, image.manifest.clone()));
    let error = fixture.refused(&format!("{}/app@{asked}", server.address)).await;
    assert!(error.to_string().contains(&asked), "{error}");
}

#[tokio::test]
async fn a_manifest_of_a_hundred_megabytes_is_not_read() {
    let fixture = Fixture::new();
    let (server, _, reference) = served(files(&[]));
    let huge = Answer::new(200, vec![b' '; 8 << 20]).told_length(100 << 20);
    server.set("/v2/app/manifests/1", huge);
    let begun = Instant::now();
    let error = fixture.refused(&reference).await;
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.to_string().contains("104857600"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_registry_that_stalls() {
    let fixture = Fixture::with(|config| config.stall_period = Duration::from_millis(300));
    let (server, image, reference) = served(files(&[("x", &noise(100_000, 9))]));
    let (name, blob) = (image.layers[1].clone(), image.blobs[&image.layers[1]].clone());
    server.hook(move |request, _| request.path.contains(&name).then(|| Answer::new(200, blob.clone()).stalling(1000)));
    let begun = Instant::now();
    let error = fixture.refused(&reference).await;
    assert!(error.to_string().contains("stalled: 1000 bytes"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn entries_that_climb_out() {
    use tar::EntryType::{Link, Regular, Symlink};
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "the host's").unwrap();
    let out = outside.path().to_str().unwrap();
    let up = format!("../../../../../../../..{out}");
    let cases: Vec<(&str, Layer, &str)> = vec![
        (
            "dots",
            layer(|l| {
                l.raw(Regular, &format!("{up}/evil"), "", b"evil");
            }),
            "\"..\"",
        ),
        (
            "inner dots",
            layer(|l| {
                l.raw(Regular, "a/../../evil", "", b"evil");
            }),
            "\"..\"",
        ),
        (
            "absolute symlink",
            layer(|l| {
                l.raw(Symlink, "way", out, b"").raw(Regular, "way/evil", "", b"evil");
            }),
            "does not have",
        ),
        (
            "climbing symlink",
            layer(|l| {
                l.raw(Symlink, "way", &up, b"").raw(Regular, "way/evil", "", b"evil");
            }),
            "climbs out",
        ),
        (
            "hard link",
            layer(|l| {
                l.raw(Link, "stolen", &format!("{up}/secret"), b"");
            }),
            "climbs with",
        ),
        (
            "absolute hard link",
            layer(|l| {
                l.raw(Link, "stolen", &format!("{out}/secret"), b"");
            }),
            "not in this layer",
        ),
        (
            "hard link by symlink",
            layer(|l| {
                l.raw(Symlink, "way", out, b"").raw(Link, "stolen", "way/secret", b"");
            }),
            "does not have",
        ),
        (
            "whiteout",
            layer(|l| {
                l.file(".wh...", b"");
            }),
            "whiteout of nothing",
        ),
        (
            "symlink as a folder's place",
            layer(|l| {
                l.raw(Symlink, "x", &up, b"").raw(Link, "x/stolen", "base", b"");
            }),
            "climbs out",
        ),
    ];
    let fixture = Fixture::new();
    let server = Server::start();
    for (name, layer, reason) in cases {
        let image = Image::gzip(&[files(&[("base", b"base")]), layer.tar()]);
        let error = fixture.refused(&server.push("climb", "1", &image)).await;
        assert!(error.to_string().contains(reason), "{name}: {error}");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}");
        assert_eq!(crate::names(outside.path()), ["secret"], "{name}");
    }
}

fn layer(fill: impl FnOnce(&mut Layer)) -> Layer {
    let mut layer = Layer::new();
    fill(&mut layer);
    layer
}

#[tokio::test]
async fn a_decompression_bomb() {
    let fixture = Fixture::with(|config| {
        config.max_layer_bytes = 10 << 20;
        config.max_layer_entries = 50;
    });
    let server = Server::start();
    let image = Image::gzip(&[files(&[("zeros", &vec![0; 11 << 20])])]);
    let error = fixture.refused(&server.push("bomb", "1", &image)).await;
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.to_string().contains("unpacked size"), "{error}");
    // No file, only endless padding.
    let padding = Image::gzip(&[vec![0; 13 << 20]]);
    let error = fixture.refused(&server.push("bomb", "3", &padding)).await;
    assert!(error.to_string().contains("decompressed size"), "{error}");
    let many: Vec<String> = (0..60).map(|n| format!("f{n}")).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let error = fixture.refused(&server.push("bomb", "2", &Image::gzip(&[files(&many)]))).await;
    assert!(error.to_string().contains("number of entries"), "{error}");
}

#[test]
fn a_full_disk() {
    in_own_mounts(|| {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("small");
        std::fs::create_dir(&root).unwrap();
        nix::mount::mount(Some("tmpfs"), &root, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=4m")).unwrap();
        block_on(async {
            let config = berth::image::ImageConfig { registry_dirs: Vec::new(), ..Default::default() };
            let store = berth::image::ImageStore::open(&root, config).unwrap();
            let (server, _, _) = served(files(&[]));
            let pull = |reference: String| store.pull(berth::image::PullRequest { reference, ..Default::default() });
            let large = Image::gzip(&[files(&[("a", b"a")]), files(&[("x/y", &noise(6 << 20, 10))])]);
            let error = pull(server.push("large", "1", &large)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exhausted);
            // Whichever layer met the end of the disk, its file is named.
            let text = error.to_string();
            assert!(text.contains("no space left") && (text.ends_with("/x/y") || text.ends_with("/a")), "{text}");
            assert_nothing_left(&root);
            // What fits afterwards fits.
            let small = Image::gzip(&[files(&[("x", &noise(2 << 20, 11))])]);
            pull(server.push("small", "1", &small)).await.unwrap();
            // And on a disk filled by somebody else an image can still be removed.
            let rest = root.join("filler");
            let _ = std::fs::write(&rest, vec![1; 4 << 20]);
            store.remove(&small.id()).await.unwrap();
            assert_nothing_left(&root);
        });
        nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
}
