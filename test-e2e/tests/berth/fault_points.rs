//! The agent is killed at each of its fault points in turn, started again, and has to finish or undo what it had begun.
//! Needs an agent built with `--features fault-points`.

use std::path::Path;

use cri_api::v1;
use test_e2e::fixture::Fixture;
use test_e2e::image::archive::oci_archive;
use test_e2e::image::{self, Compression, Format, Layer};
use test_e2e::leaks::Census;
use test_e2e::spec;
use tonic::Status;

use crate::recovery::{crash_at, nothing_more_than};

#[tokio::test]
async fn a_crash_at_every_step_is_recovered_from() {
    let mut e2e = Fixture::own("faults").await;
    let mut points = e2e.agent().fault_points().expect("berth debug fault-points");
    // No part of a pod's life; see `checkpoints`.
    points.retain(|point| !point.starts_with("checkpoint_"));
    assert!(!points.is_empty(), "the agent has no fault points; build it with --features fault-points");
    let mut layer = Layer::new();
    layer.file("fault-points", b"", 0o644).expect("file");
    let image = image::busybox(Format::Oci).expect("busybox");
    let image = image.layer(layer.finish(Compression::Gzip).expect("layer")).build();
    let reference = e2e.registry().push("e2e/faults", "1", &image).expect("push");
    let archive = e2e.folder("faults").join("image.tar");
    std::fs::write(&archive, oci_archive(&image).expect("archive")).expect("archive");

    // Once undisturbed: what is made on first use is there before the census.
    let archive = Source::Archive(&archive);
    for (attempt, source) in [Source::Registry, archive].into_iter().enumerate() {
        life(&e2e, source, &reference, attempt as u32).await.expect("an undisturbed life");
    }
    let before = Census::take(&e2e.machine.host, &e2e.agent());
    // Those of plugins are visited where there are plugins.
    let elsewhere = |point: &&String| point.starts_with("import_image.") || point.starts_with("network.plugin_");
    let pulled = points.iter().filter(|point| !elsewhere(point)).map(|point| (point, Source::Registry));
    let imported = |point: &&String| point.starts_with("import_image.") || point.starts_with("image.");
    let imported = points.iter().filter(imported).map(|point| (point, archive));
    let of_pods = |point: &&String| point.starts_with("run_pod.") || point.starts_with("create_container.");
    let mapped = points.iter().filter(of_pods).map(|point| (point, Source::Mapped));
    for (attempt, (point, source)) in (2..).zip(pulled.chain(imported).chain(mapped)) {
        eprintln!("fault point {point}, {source:?}");
        life_with_a_crash(&mut e2e, point, source, &reference, attempt, &before).await;
    }
}

/// Where an image comes from.
#[derive(Clone, Copy, Debug)]
enum Source<'a> {
    Registry,
    /// The registry, and the pod is in a user namespace.
    Mapped,
    Archive(&'a Path),
}

async fn life_with_a_crash(
    e2e: &mut Fixture,
    point: &str,
    source: Source<'_>,
    reference: &str,
    attempt: u32,
    before: &Census,
) {
    let interrupted = crash_at(e2e, point, async |e2e| life(e2e, source, reference, attempt).await).await;
    eprintln!("the verbs answered {interrupted:?}");
    if point.contains("image") {
        // The image is there as a whole, and runs without being fetched again, or nothing of it is left.
        match e2e.client.image_status(reference).await.expect("ImageStatus") {
            Some(_) => {
                run(e2e, source, reference, attempt).await.unwrap_or_else(|e| panic!("{point}: not whole: {e:?}"))
            }
            None => nothing_more_than(e2e, before).await,
        }
    }
    // kubelet asks again for the same pod; afterwards it ends whatever it finds.
    life(e2e, source, reference, attempt).await.unwrap_or_else(|e| panic!("{point}: asked again: {e:?}"));
    end_all(e2e, reference).await.unwrap_or_else(|e| panic!("{point}: clean-up: {e:?}"));
    nothing_more_than(e2e, before).await;
}

/// All mutating verbs on one pod, from fetching its image to removing it.
async fn life(e2e: &Fixture, source: Source<'_>, reference: &str, attempt: u32) -> Result<(), Status> {
    match source {
        Source::Registry | Source::Mapped => drop(e2e.client.pull(reference).await?),
        Source::Archive(archive) => e2e.agent().import(archive, reference)?,
    }
    run(e2e, source, reference, attempt).await?;
    e2e.client.remove_image(reference).await
}

/// One pod's life on an image that is there.
async fn run(e2e: &Fixture, source: Source<'_>, reference: &str, attempt: u32) -> Result<(), Status> {
    let client = &e2e.client;
    let mut config = spec::pod("fault", &e2e.machine.folder);
    let metadata = config.metadata.get_or_insert_default();
    metadata.uid = "fault-uid".into();
    metadata.attempt = attempt;
    config.log_directory = e2e.machine.folder.join("logs/fault").display().to_string();
    if let Source::Mapped = source {
        let user = v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), ..Default::default() };
        spec::pod_namespaces(&mut config).userns_options = Some(user);
    }
    config.linux.get_or_insert_default().cgroup_parent = e2e.machine.cgroup_parent(None);
    std::fs::create_dir_all(&config.log_directory)?;
    let pod = match existing_pod(e2e, attempt).await? {
        Some(pod) => pod,
        None => client.run_pod(config.clone()).await?,
    };
    // As kubelet does: a container that an interrupted attempt left is removed, and made anew under its name.
    for left in client.list_containers(None).await?.into_iter().filter(|left| left.pod_sandbox_id == pod) {
        client.remove_container(&left.id).await?;
    }
    let container =
        client.create_container(&pod, spec::container("main", reference, &["sleep", "1000"]), config).await?;
    client.start_container(&container).await?;
    client.exec(&container, &["true"], 10).await?;
    let size = v1::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, cpu_shares: 300, ..Default::default() };
    client.update_resources(&container, size).await?;
    client.reopen_log(&container).await?;
    client.stop_container(&container, 0).await?;
    client.remove_container(&container).await?;
    client.stop_pod(&pod).await?;
    client.remove_pod(&pod).await
}

/// The ready pod of this attempt, if an earlier try got so far.
async fn existing_pod(e2e: &Fixture, attempt: u32) -> Result<Option<String>, Status> {
    let pods = e2e.client.list_pods(None).await?;
    let ready = cri_api::v1::PodSandboxState::SandboxReady;
    let ours = pods.into_iter().filter(|pod| pod.metadata.as_ref().is_some_and(|m| m.attempt == attempt));
    for pod in ours {
        if pod.state() == ready {
            return Ok(Some(pod.id));
        }
        // Not ready any more: kubelet ends it and runs the pod under the next attempt; here its name is freed.
        e2e.client.stop_pod(&pod.id).await?;
        e2e.client.remove_pod(&pod.id).await?;
    }
    Ok(None)
}

async fn end_all(e2e: &Fixture, reference: &str) -> Result<(), Status> {
    for pod in e2e.client.list_pods(None).await? {
        e2e.client.stop_pod(&pod.id).await?;
        e2e.client.remove_pod(&pod.id).await?;
    }
    e2e.client.remove_image(reference).await
}
