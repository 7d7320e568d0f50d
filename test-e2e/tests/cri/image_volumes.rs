//! Image volumes (rules.md, rule 28; KEP-4639): images mounted into containers of other images.

use cri_api::v1;
use test_e2e::fixture::Fixture;
use test_e2e::image::{Compression, Format, Image, ImageBuilder, Layer};

/// A volume of three layers: `data` is replaced as a whole by the second (opaque), `gone` is removed by the third.
fn data() -> Image {
    let layer = |fill: &dyn Fn(&mut Layer)| {
        let mut layer = Layer::new();
        fill(&mut layer);
        layer.finish(Compression::Gzip).expect("layer")
    };
    let base = layer(&|layer| {
        layer.folder("data", 0o755).and_then(|l| l.file("data/hidden", b"hidden", 0o644)).expect("data");
        layer.folder("kept", 0o755).and_then(|l| l.file("kept/base", b"base", 0o644)).expect("kept");
        layer.file("kept/gone", b"gone", 0o644).and_then(|l| l.file("kept/file", b"old", 0o644)).expect("files");
        layer.file("program", b"#!/bin/sh\necho ran\n", 0o755).expect("program");
        layer.symlink("out", "/../../kept").and_then(|l| l.symlink("away", "/etc")).expect("links");
    });
    let middle = layer(&|layer| {
        layer.folder("data", 0o755).and_then(|l| l.file("data/.wh..wh..opq", b"", 0o644)).expect("opaque");
        layer.file("data/shown", b"shown", 0o644).and_then(|l| l.file("kept/file", b"new", 0o640)).expect("files");
    });
    let top = layer(&|layer| {
        layer.folder("kept", 0o755).and_then(|l| l.file("kept/.wh.gone", b"", 0o644)).expect("whiteout");
        layer.file("kept/top", b"top", 0o644).expect("top");
    });
    ImageBuilder::new(Format::Oci).layer(base).layer(middle).layer(top).build()
}

/// As kubelet asks: by the id that the pull answered.
fn volume(image: &str, target: &str, sub_path: &str) -> v1::Mount {
    v1::Mount {
        container_path: target.to_owned(),
        readonly: true,
        image: Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() }),
        image_sub_path: sub_path.to_owned(),
        ..Default::default()
    }
}

async fn pulled(e2e: &Fixture, name: &str) -> (String, String) {
    let reference = e2e.registry().push(&format!("e2e/{name}"), "1", &data()).expect("push");
    let id = e2e.client.pull(&reference).await.expect("pull");
    (reference, id)
}

#[tokio::test]
async fn newer_an_image_is_mounted_read_only_and_told() {
    let e2e = Fixture::shared().await;
    let (_, id) = pulled(&e2e, "volume").await;
    let asked = volume(&id, "/v", "");
    let (_pod, container) = e2e.run_with("volume", &["sleep", "1000"], |c| c.mounts = vec![asked.clone()]).await;
    let seen = container.sh("cd /v && find . -type f | sort && cat kept/file").await;
    assert_eq!(seen, "./data/shown\n./kept/base\n./kept/file\n./kept/top\n./program\nnew");
    let refused = container.exec(&["touch", "/v/x"]).await;
    assert!(refused.code != 0 && refused.stderr.contains("Read-only file system"), "{refused:?}");
    assert_eq!(container.exec(&["/v/program"]).await.code, 0, "a program of the volume runs");
    let told = container.status().await.mounts;
    let [told] = told.as_slice() else { panic!("{told:?}") };
    let image = told.image.as_ref().expect("the image is echoed");
    assert_eq!((image.image.as_str(), image.image_ref.as_str()), (id.as_str(), id.as_str()));
    assert_eq!((told.container_path.as_str(), told.readonly), ("/v", true));
}

#[tokio::test]
async fn newer_a_volume_has_as_many_layers_as_an_image() {
    let e2e = Fixture::shared().await;
    let mut image = ImageBuilder::new(Format::Oci);
    for number in 0..127 {
        let mut layer = Layer::new();
        layer.file(&format!("floors/{number}"), b"", 0o644).expect("file");
        image = image.layer(layer.finish(Compression::Gzip).expect("layer"));
    }
    let reference = e2e.registry().push("e2e/volume-tower", "1", &image.build()).expect("push");
    let id = e2e.client.pull(&reference).await.expect("pull");
    let mounts = vec![volume(&id, "/whole", ""), volume(&id, "/part", "floors")];
    let (_pod, container) = e2e.run_with("volume-tower", &["sleep", "1000"], |c| c.mounts = mounts).await;
    assert_eq!(container.sh("ls /whole/floors | wc -l && ls /part | wc -l").await, "127\n127\n");
}

#[tokio::test]
async fn newer_a_sub_path_is_a_folder_or_a_file() {
    let e2e = Fixture::shared().await;
    let (reference, _) = pulled(&e2e, "volume-part").await;
    let mounts = vec![
        volume(&reference, "/kept", "kept"),
        volume(&reference, "/data", "./data/"),
        volume(&reference, "/one/file", "kept/file"),
        volume(&reference, "/linked", "out"),
    ];
    let (_pod, container) = e2e.run_with("volume-part", &["sleep", "1000"], |c| c.mounts = mounts).await;
    let seen = container.sh("ls /kept /data /linked; cat /one/file; stat -c %a /one/file").await;
    assert_eq!(seen, "/data:\nshown\n\n/kept:\nbase\nfile\ntop\n\n/linked:\nbase\nfile\ntop\nnew640\n");
    let refused = container.exec(&["sh", "-c", "echo x > /one/file"]).await;
    assert!(refused.code != 0 && refused.stderr.contains("Read-only file system"), "{refused:?}");
    let told: Vec<String> = container.status().await.mounts.into_iter().map(|mount| mount.image_sub_path).collect();
    assert_eq!(told, ["kept", "./data/", "kept/file", "out"]);
}

#[tokio::test]
async fn newer_what_cannot_be_mounted_is_refused_by_name() {
    let e2e = Fixture::shared().await;
    let (_, id) = pulled(&e2e, "volume-refused").await;
    let pod = e2e.pod("volume-refused").await;
    let refused = async |mount: v1::Mount| {
        let refused = pod.try_create("main", &["true"], |config| config.mounts = vec![mount]).await;
        refused.map(|_| ()).expect_err("refused")
    };
    // `away` leads to the image's own /etc, which is not there; the host's and the container's are.
    for sub_path in ["absent", "kept/gone", "data/hidden", "away/passwd", "kept/file/below"] {
        let status = refused(volume(&id, "/v", sub_path)).await;
        assert!(status.message().starts_with("ImageVolumeMountFailed"), "{sub_path}: {status:?}");
    }
    let status = refused(volume("no.such/image:1", "/v", "")).await;
    assert!(status.message().starts_with("ImageVolumeMountFailed"), "{status:?}");
    assert_eq!(status.code(), tonic::Code::NotFound);
    for mount in [
        v1::Mount { readonly: false, ..volume(&id, "/v", "") },
        v1::Mount { host_path: "/tmp".to_owned(), ..volume(&id, "/v", "") },
        v1::Mount { propagation: v1::MountPropagation::PropagationBidirectional.into(), ..volume(&id, "/v", "") },
        volume(&id, "/v", "kept/../../etc"),
        volume(&id, "/", ""),
    ] {
        assert_eq!(refused(mount.clone()).await.code(), tonic::Code::InvalidArgument, "{mount:?}");
    }
}

#[tokio::test]
async fn newer_a_removed_image_stays_in_its_volumes() {
    let e2e = Fixture::shared().await;
    let mut layer = Layer::new();
    layer.file("only-here", b"still here", 0o644).expect("file");
    let image = ImageBuilder::new(Format::Oci).layer(layer.finish(Compression::Gzip).expect("layer")).build();
    let reference = e2e.registry().push("e2e/volume-removed", "1", &image).expect("push");
    let id = e2e.client.pull(&reference).await.expect("pull");
    let mounts = vec![volume(&id, "/v", "")];
    let (_pod, container) = e2e.run_with("volume-removed", &["sleep", "1000"], |c| c.mounts = mounts).await;
    e2e.client.remove_image(&id).await.expect("remove");
    assert_eq!(e2e.client.image_status(&id).await.expect("status"), None);
    assert_eq!(container.sh("cat /v/only-here").await, "still here");
    assert_eq!(container.status().await.mounts[0].image.as_ref().map(|image| image.image.as_str()), Some(id.as_str()));
}

/// CVE-2022-23648: containerd copied the host's files that an image's `Volumes` led to.
#[tokio::test]
async fn an_images_own_volumes_bring_nothing_of_the_hosts() {
    let e2e = Fixture::shared().await;
    let secret = e2e.folder("volumes").join("secret");
    std::fs::write(&secret, "of the host").expect("secret");
    let way_out = format!("/../../../../../../../..{}", secret.parent().expect("folder").display());
    let volumes = serde_json::json!({ (way_out.as_str()): {}, "/v/../../..": {} });
    let image = test_e2e::image::busybox(Format::Oci).expect("busybox").set("Volumes", volumes).build();
    let reference = e2e.registry().push("e2e/own-volumes", "1", &image).expect("push");
    e2e.client.pull(&reference).await.expect("pull");
    let script = "find / -xdev -name secret; test ! -e /etc/shadow && echo none";
    let use_image = |config: &mut v1::ContainerConfig| {
        config.image = Some(v1::ImageSpec { image: reference, ..Default::default() });
    };
    assert_eq!(e2e.output_of("own-volumes", script, use_image).await, (0, "none\n".into()));
}

/// CRI-O does so from 1.33 on, containerd refuses the pull.
#[tokio::test]
async fn strict_an_artifacts_files_can_be_mounted_and_not_run() {
    let e2e = Fixture::shared().await;
    let registry = e2e.registry();
    let files: [(&str, &[u8]); 2] = [("model.bin", b"weights"), ("docs/readme", b"read me")];
    let blob = |media_type: &str, content: &[u8]| {
        let digest = test_e2e::image::layer::digest(content);
        registry.push_blob("e2e/artifact", &digest, content).expect("blob");
        serde_json::json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    };
    let layers = files.map(|(title, content)| {
        let mut layer = blob("application/x-model", content);
        layer["annotations"] = serde_json::json!({"org.opencontainers.image.title": title});
        layer
    });
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": Format::Oci.manifest(), "artifactType": "application/x-model",
        "config": blob("application/vnd.oci.empty.v1+json", b"{}"), "layers": layers,
    });
    registry
        .push_manifest("e2e/artifact", "1", Format::Oci.manifest(), manifest.to_string().as_bytes())
        .expect("manifest");
    let id = e2e.client.pull(&format!("{}/e2e/artifact:1", registry.address)).await.expect("pull");
    let mounts = vec![volume(&id, "/all", ""), volume(&id, "/one", "docs/readme")];
    let script = "cd /all && cat model.bin docs/readme /one";
    let seen = e2e.output_of("artifact", script, |config| config.mounts = mounts).await;
    assert_eq!(seen, (0, "weightsread meread me".to_owned()));
    let pod = e2e.pod("artifact-as-root").await;
    let as_root = v1::ImageSpec { image: id.clone(), ..Default::default() };
    let refused = pod.try_create("main", &["/model.bin"], |config| config.image = Some(as_root)).await;
    let status = refused.map(|_| ()).expect_err("nothing to run");
    assert!(status.code() == tonic::Code::InvalidArgument && status.message().contains("artifact"), "{status:?}");
}
