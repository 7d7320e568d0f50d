//! Statistics of pods, and lists in portions.

use cri_api::v1;
use test_e2e::fixture::{Fixture, eventually};
use tonic::{Code, Streaming};

fn value(number: Option<v1::UInt64Value>) -> u64 {
    number.map_or(0, |number| number.value)
}

#[tokio::test]
async fn newer_pod_stats_tell_what_the_pod_uses() {
    let e2e = Fixture::shared().await;
    // A cgroup of its own, as kubelet makes one for each pod.
    let parent = e2e.machine.cgroup_parent(Some("pod-stats"));
    let label = [("pod-stats".to_owned(), "yes".to_owned())];
    let pod = e2e
        .pod_with("pod-stats", |config| {
            config.labels = label.clone().into();
            config.linux.get_or_insert_default().cgroup_parent = parent;
        })
        .await;
    let script = "echo x | nc -u -w 1 192.0.2.1 9; while :; do :; done";
    let container = pod.start("main", &["sh", "-c", script]).await;
    let mut runtime = e2e.client.runtime.clone();
    let stats = eventually("the pod's numbers are all there", async || {
        let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
        let stats = e2e.client.runtime.clone().pod_sandbox_stats(request).await.expect("stats").into_inner().stats?;
        let linux = stats.linux.clone()?;
        let (cpu, network) = (linux.cpu?, linux.network?);
        let sent = value(network.default_interface?.tx_bytes);
        (value(cpu.usage_nano_cores) > 0 && value(cpu.usage_core_nano_seconds) > 0 && sent > 0).then_some(stats)
    })
    .await;
    let attributes = stats.attributes.expect("attributes");
    assert_eq!((attributes.id.as_str(), attributes.labels), (pod.id.as_str(), label.clone().into()));
    assert_eq!(attributes.metadata.expect("metadata").name, "pod-stats");
    let linux = stats.linux.expect("linux");
    let memory = linux.memory.expect("memory");
    assert!(value(memory.working_set_bytes) > 0 && value(memory.usage_bytes) >= value(memory.working_set_bytes));
    assert!(value(linux.process.expect("process").process_count) >= 1);
    let network = linux.network.expect("network");
    assert_eq!(network.default_interface.expect("default").name, "eth0");
    assert!(network.interfaces.iter().all(|other| other.name != "eth0" && other.name != "lo"));
    let ids: Vec<_> = linux.containers.iter().filter_map(|one| one.attributes.as_ref()).map(|one| &one.id).collect();
    assert_eq!(ids, [&container.id]);

    let mut listed = async |filter: Option<v1::PodSandboxStatsFilter>| {
        let request = v1::ListPodSandboxStatsRequest { filter };
        let stats = runtime.list_pod_sandbox_stats(request).await.expect("list").into_inner().stats;
        stats.into_iter().filter_map(|stats| stats.attributes).map(|one| one.id).collect::<Vec<_>>()
    };
    let filter = |id: &str, label: &[(String, String)]| {
        Some(v1::PodSandboxStatsFilter { id: id.into(), label_selector: label.iter().cloned().collect() })
    };
    assert_eq!(listed(filter(&pod.id, &[])).await, [pod.id.as_str()]);
    assert_eq!(listed(filter("", &label)).await, [pod.id.as_str()]);
    assert_eq!(listed(filter("no-such-pod", &label)).await, [""; 0]);
    assert!(listed(None).await.contains(&pod.id), "nil means all");

    let unknown = v1::PodSandboxStatsRequest { pod_sandbox_id: "no-such-pod".into() };
    let refused = e2e.client.runtime.clone().pod_sandbox_stats(unknown).await.expect_err("unknown");
    assert_eq!(refused.code(), Code::NotFound);
    e2e.client.stop_pod(&pod.id).await.expect("stop");
    assert!(listed(None).await.contains(&pod.id), "a stopped pod is no failure");
}

async fn all<T>(mut stream: Streaming<T>) -> Vec<T> {
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await.expect("a portion") {
        messages.push(message);
    }
    messages
}

#[tokio::test]
async fn newer_streams_tell_what_the_lists_tell() {
    let e2e = Fixture::shared().await;
    let (pod, container) = e2e.run("streams", &["sleep", "1000"]).await;
    let (mut runtime, mut image) = (e2e.client.runtime.clone(), e2e.client.image.clone());

    let filter = Some(v1::PodSandboxFilter { id: pod.id.clone(), ..Default::default() });
    let stream = runtime.stream_pod_sandboxes(v1::StreamPodSandboxesRequest { filter: filter.clone() }).await;
    let pods: Vec<_> =
        all(stream.expect("pods").into_inner()).await.into_iter().flat_map(|m| m.pod_sandboxes).collect();
    assert_eq!(pods, e2e.client.list_pods(filter).await.expect("list"));
    assert_eq!(pods.len(), 1);

    let filter = Some(v1::ContainerFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() });
    let stream = runtime.stream_containers(v1::StreamContainersRequest { filter: filter.clone() }).await;
    let containers: Vec<_> =
        all(stream.expect("containers").into_inner()).await.into_iter().flat_map(|m| m.containers).collect();
    assert_eq!(containers, e2e.client.list_containers(filter).await.expect("list"));
    assert_eq!(containers.len(), 1);

    let filter = Some(v1::ContainerStatsFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() });
    let stream = runtime.stream_container_stats(v1::StreamContainerStatsRequest { filter }).await;
    let stats = all(stream.expect("stats").into_inner()).await.into_iter().flat_map(|m| m.container_stats);
    let ids: Vec<_> = stats.filter_map(|one| one.attributes).map(|one| one.id).collect();
    assert_eq!(ids, [container.id.as_str()]);

    let filter = Some(v1::PodSandboxStatsFilter { id: pod.id.clone(), ..Default::default() });
    let stream = runtime.stream_pod_sandbox_stats(v1::StreamPodSandboxStatsRequest { filter }).await;
    let stats = all(stream.expect("stats").into_inner()).await.into_iter().flat_map(|m| m.pod_sandbox_stats);
    let ids: Vec<_> = stats.filter_map(|one| one.attributes).map(|one| one.id).collect();
    assert_eq!(ids, [pod.id.as_str()]);

    let busybox = v1::ImageSpec { image: e2e.busybox().to_owned(), ..Default::default() };
    let filter = Some(v1::ImageFilter { image: Some(busybox) });
    let stream = image.stream_images(v1::StreamImagesRequest { filter }).await;
    let images: Vec<_> = all(stream.expect("images").into_inner()).await.into_iter().flat_map(|m| m.images).collect();
    assert_eq!(images.len(), 1);
    assert_eq!(Some(&images[0]), e2e.client.image_status(e2e.busybox()).await.expect("status").as_ref());

    let nothing = Some(v1::ContainerFilter { id: "no-such-container".into(), ..Default::default() });
    let stream = runtime.stream_containers(v1::StreamContainersRequest { filter: nothing }).await;
    assert_eq!(all(stream.expect("containers").into_inner()).await.iter().flat_map(|m| &m.containers).count(), 0);
}

#[tokio::test]
async fn newer_metrics_are_those_that_are_described() {
    let e2e = Fixture::shared().await;
    let (pod, container) = e2e.run("metrics", &["sleep", "1000"]).await;
    let mut runtime = e2e.client.runtime.clone();
    let described = runtime.list_metric_descriptors(v1::ListMetricDescriptorsRequest {}).await.expect("descriptors");
    let described = described.into_inner().descriptors;
    assert!(described.iter().all(|one| !one.help.is_empty() && !one.label_keys.is_empty()));
    let keys = |metric: &v1::Metric| {
        let descriptor = described.iter().find(|one| one.name == metric.name);
        descriptor.unwrap_or_else(|| panic!("{} is not described", metric.name)).label_keys.len()
    };
    let check = |pods: Vec<v1::PodSandboxMetrics>| {
        let ours = pods.into_iter().find(|one| one.pod_sandbox_id == pod.id).expect("the pod");
        let of_container =
            ours.container_metrics.iter().find(|one| one.container_id == container.id).expect("container");
        for metric in ours.metrics.iter().chain(&of_container.metrics) {
            assert_eq!(metric.label_values.len(), keys(metric), "{metric:?}");
        }
        let has = |name: &str| of_container.metrics.iter().any(|metric| metric.name == name && value(metric.value) > 0);
        let wanted = [
            "container_memory_working_set_bytes",
            "container_start_time_seconds",
            "container_threads",
            "container_processes",
            "container_ulimits_soft",
        ];
        assert!(wanted.into_iter().all(has), "{of_container:?}");
        let known = |name: &str| described.iter().any(|one| one.name == name);
        assert!(known("container_spec_memory_reservation_limit_bytes"), "{described:?}");
        // critest wants a value of what is described; not every host counts huge pages.
        for name in ["container_hugetlb_usage_bytes", "container_hugetlb_failcnt"] {
            assert_eq!(known(name), of_container.metrics.iter().any(|metric| metric.name == name), "{name}");
        }
        assert!(ours.metrics.iter().any(|metric| metric.name == "container_network_receive_bytes_total"));
    };
    let list = runtime.list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest {}).await.expect("metrics");
    check(list.into_inner().pod_metrics);
    let stream = runtime.stream_pod_sandbox_metrics(v1::StreamPodSandboxMetricsRequest {}).await.expect("metrics");
    check(all(stream.into_inner()).await.into_iter().flat_map(|portion| portion.pod_sandbox_metrics).collect());
}
