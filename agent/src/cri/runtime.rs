//! RuntimeService: one short body a verb.

use std::collections::HashMap;
use std::sync::Arc;

use cri_api::v1::runtime_service_server::RuntimeService;
use cri_api::v1::*;
use futures_util::stream::{self, StreamExt};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::Span;

use super::portions::{Portions, portions};
use super::status::{failed, missing};
use super::{Readiness, convert, filter, now, statistics};
use crate::model::ContainerId;
use crate::ops::{self, Engine};
use crate::state::Lookup;

/// The answers' shape.
type Answer<T> = Result<Response<T>, Status>;

/// The service.
pub(super) struct Face {
    pub(super) readiness: Readiness,
    pub(super) cgroup_driver: CgroupDriver,
}

impl Face {
    /// The engine, for a request about a pod.
    async fn for_pod(&self, id: &str) -> &Arc<Engine> {
        Span::current().record("pod", id);
        self.readiness.engine().await
    }

    /// The engine, for a request about a container.
    async fn for_container(&self, id: &str) -> &Arc<Engine> {
        Span::current().record("container", id);
        self.readiness.engine().await
    }
}

fn answer<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

fn done<T: Default>(result: Result<(), ops::Error>) -> Answer<T> {
    result.map_err(|error| failed(&error)).and_then(|()| answer(T::default()))
}

/// The API leaves them to runtimes, and this one has none: who sends one wants what he will not get.
fn no_options(options: &HashMap<String, String>) -> Result<(), Status> {
    match options.keys().min() {
        Some(key) => Err(Status::invalid_argument(format!("options: {key:?} is none that berth has"))),
        None => Ok(()),
    }
}

#[tonic::async_trait]
impl RuntimeService for Face {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        answer(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "berth".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        let engine = self.readiness.engine().await;
        let mut status = convert::status(engine.network().status(), engine.handlers(), engine.host().user_namespaces);
        if request.get_ref().verbose {
            let snapshot = engine.snapshot();
            status.info = convert::node_info(snapshot.pods.len(), snapshot.containers.len(), self.cgroup_driver);
        }
        answer(status)
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        let linux = LinuxRuntimeConfiguration { cgroup_driver: self.cgroup_driver.into() };
        answer(RuntimeConfigResponse { linux: Some(linux) })
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        let engine = self.readiness.engine().await;
        let network = request.into_inner().runtime_config.and_then(|config| config.network_config);
        // kubelet sends an empty CIDR while the node has none yet.
        if let Some(network) = network.filter(|network| !network.pod_cidr.is_empty()) {
            let set = engine.network().set_pod_cidr(&network.pod_cidr).await;
            set.map_err(|error| failed(&error.into()))?;
        }
        answer(UpdateRuntimeConfigResponse {})
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let RunPodSandboxRequest { config, runtime_handler } = request.into_inner();
        let config = config.ok_or_else(|| missing("config"))?;
        let engine = self.readiness.engine().await;
        let pod = engine.run_pod(config, runtime_handler).await.map_err(|error| failed(&error))?;
        Span::current().record("pod", pod.as_str());
        answer(RunPodSandboxResponse { pod_sandbox_id: pod.to_string() })
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Answer<StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        done(self.for_pod(&id).await.stop_pod(&id).await)
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Answer<RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        done(self.for_pod(&id).await.remove_pod(&id).await)
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Answer<PodSandboxStatusResponse> {
        let PodSandboxStatusRequest { pod_sandbox_id: id, verbose } = request.into_inner();
        let engine = self.for_pod(&id).await;
        // One picture for both: the pod's containers must be those of the pod's moment.
        let (timestamp, snapshot) = (now(), engine.snapshot());
        let pod = match snapshot.pod(&id) {
            Lookup::Found(pod) => pod,
            Lookup::Absent => return Err(failed(&ops::Error::NoSuchPod(id))),
            Lookup::Ambiguous => return Err(failed(&ops::Error::AmbiguousId(id))),
        };
        let containers = snapshot.containers_of(&pod.id);
        answer(PodSandboxStatusResponse {
            status: Some(convert::pod_status(&pod)),
            info: if verbose { convert::pod_info(&pod) } else { Default::default() },
            containers_statuses: containers.iter().map(|container| convert::container_status(container)).collect(),
            timestamp,
        })
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
        let snapshot = self.readiness.engine().await.snapshot();
        let pods = filter::pods(&snapshot, request.get_ref().filter.as_ref());
        answer(ListPodSandboxResponse { items: pods.iter().map(|pod| convert::pod(pod)).collect() })
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        let CreateContainerRequest { pod_sandbox_id: pod, config, sandbox_config: _ } = request.into_inner();
        let config = config.ok_or_else(|| missing("config"))?;
        let engine = self.for_pod(&pod).await;
        let container = engine.create_container(&pod, config).await.map_err(|error| failed(&error))?;
        Span::current().record("container", container.as_str());
        answer(CreateContainerResponse { container_id: container.to_string() })
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
        let id = request.into_inner().container_id;
        done(self.for_container(&id).await.start_container(&id).await)
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let StopContainerRequest { container_id: id, timeout } = request.into_inner();
        done(self.for_container(&id).await.stop_container(&id, timeout).await)
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        done(self.for_container(&id).await.remove_container(&id).await)
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        let snapshot = self.readiness.engine().await.snapshot();
        let containers = filter::containers(&snapshot, request.get_ref().filter.as_ref());
        let containers = containers.iter().map(|container| convert::container(container)).collect();
        answer(ListContainersResponse { containers })
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Answer<ContainerStatusResponse> {
        let ContainerStatusRequest { container_id: id, verbose } = request.into_inner();
        let container = self.for_container(&id).await.container(&id).map_err(|error| failed(&error))?;
        let info = if verbose { convert::container_info(&container) } else { Default::default() };
        answer(ContainerStatusResponse { status: Some(convert::container_status(&container)), info })
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        let id = request.into_inner().container_id;
        done(self.for_container(&id).await.reopen_log(&id).await)
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        done(self.for_container(&request.container_id).await.update_container_resources(request).await)
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        done(self.for_pod(&request.pod_sandbox_id).await.update_pod_resources(request).await)
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let ExecSyncRequest { container_id: id, cmd, timeout } = request.into_inner();
        let engine = self.for_container(&id).await;
        let output = engine.exec_sync(&id, cmd, timeout).await.map_err(|error| failed(&error))?;
        answer(ExecSyncResponse {
            stdout: output.stdout.into(),
            stderr: output.stderr.into(),
            exit_code: output.exit_code,
        })
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let request = request.into_inner();
        let url = self.for_container(&request.container_id).await.exec(request).map_err(|error| failed(&error))?;
        answer(ExecResponse { url })
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let request = request.into_inner();
        let url = self.for_container(&request.container_id).await.attach(request).map_err(|error| failed(&error))?;
        answer(AttachResponse { url })
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        let request = request.into_inner();
        let url = self.for_pod(&request.pod_sandbox_id).await.port_forward(request).map_err(|error| failed(&error))?;
        answer(PortForwardResponse { url })
    }

    async fn container_stats(&self, request: Request<ContainerStatsRequest>) -> Answer<ContainerStatsResponse> {
        let id = request.into_inner().container_id;
        let engine = self.for_container(&id).await;
        let container = engine.container(&id).map_err(|error| failed(&error))?;
        let stats = statistics::of(engine, vec![container]).await?.next();
        answer(ContainerStatsResponse { stats })
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        let stats = statistics::listed(self.readiness.engine().await, request.into_inner().filter).await?;
        answer(ListContainerStatsResponse { stats: stats.collect() })
    }

    async fn pod_sandbox_stats(&self, request: Request<PodSandboxStatsRequest>) -> Answer<PodSandboxStatsResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let engine = self.for_pod(&id).await;
        let pod = engine.pod(&id).map_err(|error| failed(&error))?;
        let stats = statistics::of_pods(engine, vec![pod]).await?.next();
        answer(PodSandboxStatsResponse { stats })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let stats = statistics::listed_pods(self.readiness.engine().await, request.into_inner().filter).await?;
        answer(ListPodSandboxStatsResponse { stats: stats.collect() })
    }

    type StreamPodSandboxesStream = Portions<StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let snapshot = self.readiness.engine().await.snapshot();
        let pods = filter::pods(&snapshot, request.get_ref().filter.as_ref());
        let pods = pods.into_iter().map(|pod| convert::pod(&pod));
        answer(portions(pods, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes }))
    }

    type StreamContainersStream = Portions<StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let snapshot = self.readiness.engine().await.snapshot();
        let containers = filter::containers(&snapshot, request.get_ref().filter.as_ref());
        let containers = containers.into_iter().map(|container| convert::container(&container));
        answer(portions(containers, |containers| StreamContainersResponse { containers }))
    }

    type StreamContainerStatsStream = Portions<StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let stats = statistics::listed(self.readiness.engine().await, request.into_inner().filter).await?;
        answer(portions(stats, |container_stats| StreamContainerStatsResponse { container_stats }))
    }

    type StreamPodSandboxStatsStream = Portions<StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let stats = statistics::listed_pods(self.readiness.engine().await, request.into_inner().filter).await?;
        answer(portions(stats, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats }))
    }

    type GetContainerEventsStream = Portions<ContainerEventResponse>;

    async fn get_container_events(&self, _: Request<GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
        let events = ReceiverStream::new(self.readiness.engine().await.events());
        // Nothing is left out silently: whoever did not keep up has to list anew.
        let end =
            || Err(Status::resource_exhausted("events came faster than they were read; list, and subscribe again"));
        let told = events.map(|event| Ok(convert::event(&event)));
        answer(told.chain(stream::once(async move { end() })).boxed())
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        let huge_pages = self.readiness.engine().await.counts_huge_pages();
        answer(ListMetricDescriptorsResponse { descriptors: convert::metric_descriptors(huge_pages) })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        let metrics = statistics::metrics(self.readiness.engine().await).await?;
        answer(ListPodSandboxMetricsResponse { pod_metrics: metrics.collect() })
    }

    type StreamPodSandboxMetricsStream = Portions<StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        let metrics = statistics::metrics(self.readiness.engine().await).await?;
        answer(portions(metrics, |pod_sandbox_metrics| StreamPodSandboxMetricsResponse { pod_sandbox_metrics }))
    }

    async fn checkpoint_container(
        &self,
        request: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        let CheckpointContainerRequest { container_id: id, location, timeout } = request.into_inner();
        done(self.for_container(&id).await.checkpoint_container(&id, location.into(), timeout).await)
    }

    async fn checkpoint_pod(&self, request: Request<CheckpointPodRequest>) -> Answer<CheckpointPodResponse> {
        let CheckpointPodRequest { pod_sandbox_id: id, output_path, container_ids, options } = request.into_inner();
        no_options(&options)?;
        done(self.for_pod(&id).await.checkpoint_pod(&id, output_path.into(), container_ids).await)
    }

    async fn restore_pod(&self, request: Request<RestorePodRequest>) -> Answer<RestorePodResponse> {
        let RestorePodRequest { checkpoint_path, config, runtime_handler, options, container_configs } =
            request.into_inner();
        no_options(&options)?;
        let config = config.ok_or_else(|| missing("config"))?;
        let engine = self.readiness.engine().await;
        let restored = engine.restore_pod(checkpoint_path.into(), config, runtime_handler, container_configs).await;
        let (pod, containers) = restored.map_err(|error| failed(&error))?;
        Span::current().record("pod", pod.as_str());
        let container = |(name, id): (String, ContainerId)| RestoredContainer { name, container_id: id.to_string() };
        let restored_containers = containers.into_iter().map(container).collect();
        answer(RestorePodResponse { pod_sandbox_id: pod.to_string(), restored_containers })
    }
}
