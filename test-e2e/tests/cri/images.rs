//! Images (rules.md, rules 29–31): formats, platforms, names, and that what is unpacked is what was packed.

use std::sync::atomic::{AtomicU32, Ordering};

use cri_api::v1;
use test_e2e::fixture::Fixture;
use test_e2e::image::{self, Blob, Compression, Format, Image, Layer};

/// A small layer that no other image has, so that images of different tests are different images.
fn unique() -> Blob {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let text = format!("{} {}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let mut layer = Layer::new();
    layer.file("unique", text.as_bytes(), 0o644).expect("file");
    layer.finish(Compression::Gzip).expect("layer")
}

fn small(format: Format) -> Image {
    image::busybox(format).expect("busybox").layer(unique()).build()
}

fn use_image(reference: &str) -> impl FnOnce(&mut v1::ContainerConfig) {
    let image = v1::ImageSpec { image: reference.to_owned(), ..Default::default() };
    move |config| config.image = Some(image)
}

#[tokio::test]
async fn every_format_and_compression() {
    let e2e = Fixture::shared().await;
    for (name, format, compression) in [
        ("oci-plain", Format::Oci, Compression::None),
        ("oci-gzip", Format::Oci, Compression::Gzip),
        ("oci-zstd", Format::Oci, Compression::Zstd),
        ("docker-gzip", Format::Docker, Compression::Gzip),
    ] {
        let layer = image::busybox_layer().expect("layer").finish(compression).expect("layer");
        let built = image::ImageBuilder::new(format).layer(layer).layer(unique()).build();
        let reference = e2e.registry().push(&format!("e2e/{name}"), "1", &built).expect("push");
        assert_eq!(e2e.client.pull(&reference).await.expect(name), built.id(), "{name}");
        let out = e2e.output_of(name, "cat /unique; grep -c root /etc/passwd", use_image(&reference)).await;
        assert!(out.0 == 0 && out.1.ends_with("1\n"), "{name}: {out:?}");
    }
}

#[tokio::test]
async fn the_platforms_image_is_chosen_from_an_index() {
    let e2e = Fixture::shared().await;
    let ours = small(Format::Oci);
    let other = image::ImageBuilder::new(Format::Oci).layer(unique()).architecture("s390x").build();
    let registry = e2e.registry();
    registry.push("e2e/index", &ours.manifest_digest(), &ours).expect("push");
    registry.push("e2e/index", &other.manifest_digest(), &other).expect("push");
    let index = image::index(Format::Oci, &[("s390x", &other), (image::architecture(), &ours)]);
    registry.push_manifest("e2e/index", "1", Format::Oci.index(), &index).expect("push");
    let reference = format!("{}/e2e/index:1", registry.address);
    assert_eq!(e2e.client.pull(&reference).await.expect("pull"), ours.id());
}

#[tokio::test]
async fn no_image_for_this_platform_is_an_error() {
    let e2e = Fixture::shared().await;
    let other = image::ImageBuilder::new(Format::Oci).layer(unique()).architecture("s390x").build();
    let registry = e2e.registry();
    registry.push("e2e/foreign", &other.manifest_digest(), &other).expect("push");
    let index = image::index(Format::Oci, &[("s390x", &other)]);
    registry.push_manifest("e2e/foreign", "1", Format::Oci.index(), &index).expect("push");
    e2e.client.pull(&format!("{}/e2e/foreign:1", registry.address)).await.expect_err("nothing to run here");
}

#[tokio::test]
async fn an_image_is_known_by_id_tag_and_digest() {
    let e2e = Fixture::shared().await;
    let built = small(Format::Docker);
    let reference = e2e.registry().push("e2e/names", "one", &built).expect("push");
    e2e.registry().push("e2e/names", "two", &built).expect("push");
    let id = e2e.client.pull(&reference).await.expect("pull");
    let second = reference.replace(":one", ":two");
    assert_eq!(e2e.client.pull(&second).await.expect("pull"), id, "one content is one image");

    let by_id = e2e.client.image_status(&id).await.expect("status").expect("by id");
    let by_digest = reference.replace(":one", &format!("@{}", built.manifest_digest()));
    for name in [&reference, &second, &by_digest] {
        assert_eq!(e2e.client.image_status(name).await.expect("status").as_ref(), Some(&by_id), "{name}");
    }
    let mut tags = by_id.repo_tags.clone();
    tags.sort();
    assert_eq!(tags, [reference.clone(), second]);
    assert_eq!(by_id.repo_digests, [by_digest]);
    assert!(by_id.size > 0);
    let listed = e2e.client.list_images().await.expect("list");
    assert_eq!(listed.iter().filter(|listed| listed.id == id).collect::<Vec<_>>(), [&by_id]);

    let container = e2e.run_with("by-id", &["sleep", "1000"], use_image(&id)).await.1;
    assert_eq!(container.exec(&["true"]).await.code, 0, "CreateContainer takes the id");
    drop(container);
    e2e.client.remove_image(&reference).await.expect("remove by one tag");
    assert_eq!(e2e.client.image_status(&id).await.expect("status"), None, "removes it whole");
}

#[tokio::test]
async fn a_pull_by_digest_has_no_tag() {
    let e2e = Fixture::shared().await;
    let built = small(Format::Oci);
    e2e.registry().push("e2e/by-digest", "1", &built).expect("push");
    let reference = format!("{}/e2e/by-digest@{}", e2e.registry().address, built.manifest_digest());
    let id = e2e.client.pull(&reference).await.expect("pull");
    let told = e2e.client.image_status(&id).await.expect("status").expect("there");
    assert_eq!((told.repo_tags.len(), told.repo_digests), (0, vec![reference]));
}

#[tokio::test]
async fn no_tag_means_latest() {
    let e2e = Fixture::shared().await;
    let built = small(Format::Oci);
    let reference = e2e.registry().push("e2e/untagged", "latest", &built).expect("push");
    let untagged = reference.trim_end_matches(":latest");
    assert_eq!(e2e.client.pull(untagged).await.expect("pull"), built.id());
    let told = e2e.client.image_status(untagged).await.expect("status").expect("there");
    assert_eq!(told.repo_tags, [reference]);
}

#[tokio::test]
async fn five_pulls_at_once_give_one_image() {
    let e2e = Fixture::shared().await;
    let built = small(Format::Oci);
    let reference = e2e.registry().push("e2e/together", "1", &built).expect("push");
    let pulls: Vec<_> = (0..5)
        .map(|_| {
            let (client, reference) = (e2e.client.clone(), reference.clone());
            tokio::spawn(async move { client.pull(&reference).await })
        })
        .collect();
    for pull in pulls {
        assert_eq!(pull.await.expect("task").expect("pull"), built.id());
    }
}

#[tokio::test]
async fn whiteouts_hide_what_is_below() {
    let e2e = Fixture::shared().await;
    let mut below = Layer::new();
    for path in ["d/gone", "d/kept", "opaque/old", "replaced/inside", "turned"] {
        below.file(path, path.as_bytes(), 0o644).expect("file");
    }
    let mut above = Layer::new();
    above.file("d/.wh.gone", b"", 0o644).expect("whiteout");
    above.file("opaque/new", b"new", 0o644).expect("file");
    above.file("opaque/.wh..wh..opq", b"", 0o644).expect("opaque");
    above.file("replaced", b"now a file", 0o644).expect("file");
    above.folder("turned", 0o755).expect("folder").file("turned/x", b"x", 0o644).expect("file");
    let built = image::busybox(Format::Oci).expect("busybox");
    let built = built.layer(below.finish(Compression::Gzip).expect("layer"));
    let built = built.layer(above.finish(Compression::Gzip).expect("layer")).build();
    let reference = e2e.registry().push("e2e/whiteouts", "1", &built).expect("push");
    e2e.client.pull(&reference).await.expect("pull");
    let script = "ls /d /opaque /turned; cat /replaced; find / -xdev -name '.wh*'";
    let out = e2e.output_of("whiteouts", script, use_image(&reference)).await;
    assert_eq!(out, (0, "/d:\nkept\n\n/opaque:\nnew\n\n/turned:\nx\nnow a file".to_owned()));
}

#[tokio::test]
async fn modes_owners_links_and_long_names_survive() {
    let e2e = Fixture::shared().await;
    let long = format!("long/{}/{}", "d".repeat(120), "f".repeat(200));
    let mut layer = Layer::new();
    layer.owned_file("owned", b"o", 0o640, 1000, 5000).expect("file");
    layer.file("setuid", b"s", 0o6755).expect("file");
    layer.hard_link("second-name", "owned", 0o640, 1000, 5000).expect("link");
    layer.symlink("dangling", "../../nowhere").expect("link");
    layer.folder("sticky", 0o1777).expect("folder");
    layer.file(&long, b"deep", 0o644).expect("file");
    layer.raw(tar::EntryType::Fifo, "pipe", "", b"").expect("fifo");
    let built = image::busybox(Format::Oci).expect("busybox");
    let built = built.layer(layer.finish(Compression::Gzip).expect("layer")).build();
    let reference = e2e.registry().push("e2e/attributes", "1", &built).expect("push");
    e2e.client.pull(&reference).await.expect("pull");
    let script = format!(
        "stat -c '%n %a %u %g %h' /owned; stat -c '%n %a' /setuid /sticky; readlink /dangling; cat /second-name /{long}; test -p /pipe && echo ' pipe'"
    );
    let (code, out) = e2e.output_of("attributes", &script, use_image(&reference)).await;
    assert_eq!(out, "/owned 640 1000 5000 2\n/setuid 6755\n/sticky 1777\n../../nowhere\nodeep pipe\n");
    assert_eq!(code, 0);
}

#[tokio::test]
async fn many_layers_stack() {
    let e2e = Fixture::shared().await;
    let mut built = image::busybox(Format::Oci).expect("busybox");
    // With that of busybox as many as an image may have.
    for number in 0..126 {
        let mut layer = Layer::new();
        layer.file("top", format!("{number}\n").as_bytes(), 0o644).expect("file");
        layer.file(&format!("layers/{number}"), b"", 0o644).expect("file");
        built = built.layer(layer.finish(Compression::Gzip).expect("layer"));
    }
    let reference = e2e.registry().push("e2e/many", "1", &built.build()).expect("push");
    e2e.client.pull(&reference).await.expect("pull");
    let out = e2e.output_of("many-layers", "cat /top; ls /layers | wc -l", use_image(&reference)).await;
    assert_eq!(out, (0, "125\n126\n".to_owned()));
}

#[tokio::test]
async fn a_containers_writes_are_its_own() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod("own-writes").await;
    let first = pod.start("first", &["sleep", "1000"]).await;
    let second = pod.start("second", &["sleep", "1000"]).await;
    first.sh("echo x > /etc/passwd; rm /bin/vi; mkdir /new").await;
    assert_eq!(second.sh("grep -c root /etc/passwd; ls -d /bin/vi; ls -d /new; true").await, "1\n/bin/vi\n");
}

#[tokio::test]
async fn the_image_file_system_is_told() {
    let e2e = Fixture::shared().await;
    let info = e2e.client.image_fs_info().await.expect("info");
    let usage = info.image_filesystems.first().expect("at least one");
    let point = usage.fs_id.as_ref().expect("identified").mountpoint.clone();
    assert!(std::path::Path::new(&point).is_dir(), "{point}");
    assert!(usage.timestamp > 0 && usage.used_bytes.is_some_and(|bytes| bytes.value > 0), "{usage:?}");
}

#[tokio::test]
async fn an_image_in_use_can_be_removed_and_its_container_lives() {
    let e2e = Fixture::shared().await;
    let built = small(Format::Oci);
    let reference = e2e.registry().push("e2e/in-use", "1", &built).expect("push");
    e2e.client.pull(&reference).await.expect("pull");
    let (_pod, container) = e2e.run_with("in-use", &["sleep", "1000"], use_image(&reference)).await;
    e2e.client.remove_image(&reference).await.expect("remove");
    assert!(container.sh("cat /unique").await.starts_with(&std::process::id().to_string()));
    assert_eq!(container.sh("ls /bin/busybox").await, "/bin/busybox\n");
}
