//! The typed CRI client. Each verb has the deadline a kubelet gives it (rules.md, rule 7), so that a call that hangs
//! fails a test instead of stalling it.

use std::path::Path;
use std::time::Duration;

use cri_api::v1;
use cri_api::v1::image_service_client::ImageServiceClient;
use cri_api::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// What kubelet accepts as one message.
const MESSAGE_LIMIT: usize = 16 << 20;
/// kubelet's ordinary deadline.
const ORDINARY: Duration = Duration::from_secs(120);
/// kubelet's deadline for RunPodSandbox.
const RUN_POD: Duration = Duration::from_secs(240);
/// Image pulls have no deadline in kubelet but its own progress one.
const PULL: Duration = Duration::from_secs(600);

/// A connection to a CRI runtime; clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    /// The generated client of the runtime service, for verbs without a method here.
    pub runtime: RuntimeServiceClient<Channel>,
    /// The generated client of the image service.
    pub image: ImageServiceClient<Channel>,
}

fn within<T>(limit: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

fn image_spec(image: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() })
}

/// The runtime handler that pods have unless their tests say otherwise: `E2E_HANDLER`, else the default one.
pub fn tested_handler() -> String {
    std::env::var("E2E_HANDLER").unwrap_or_default()
}

impl Client {
    /// Connects to `endpoint`, written `unix:///path` as crictl and kubelet write it.
    pub async fn connect(endpoint: &str) -> Result<Client, tonic::transport::Error> {
        let channel = Endpoint::from_shared(endpoint.to_owned())?.connect().await?;
        Ok(Client {
            // Above kubelet's limit, so that a test can tell a message that kubelet would refuse.
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(4 * MESSAGE_LIMIT),
            image: ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT),
        })
    }

    /// RunPodSandbox with the handler that is tested; the answer is the pod's id.
    pub async fn run_pod(&self, config: v1::PodSandboxConfig) -> Result<String, Status> {
        self.run_pod_of(config, &tested_handler()).await
    }

    /// RunPodSandbox with that handler.
    pub async fn run_pod_of(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String, Status> {
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        Ok(self.runtime.clone().run_pod_sandbox(within(RUN_POD, request)).await?.into_inner().pod_sandbox_id)
    }

    /// StopPodSandbox.
    pub async fn stop_pod(&self, pod: &str) -> Result<(), Status> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: pod.to_owned() };
        self.runtime.clone().stop_pod_sandbox(within(ORDINARY, request)).await.map(drop)
    }

    /// RemovePodSandbox.
    pub async fn remove_pod(&self, pod: &str) -> Result<(), Status> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: pod.to_owned() };
        self.runtime.clone().remove_pod_sandbox(within(ORDINARY, request)).await.map(drop)
    }

    /// PodSandboxStatus, the whole answer.
    pub async fn pod_response(&self, pod: &str, verbose: bool) -> Result<v1::PodSandboxStatusResponse, Status> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose };
        Ok(self.runtime.clone().pod_sandbox_status(within(ORDINARY, request)).await?.into_inner())
    }

    /// PodSandboxStatus, the status in it.
    pub async fn pod_status(&self, pod: &str) -> Result<v1::PodSandboxStatus, Status> {
        self.pod_response(pod, false).await?.status.ok_or_else(|| Status::internal("no status in the answer"))
    }

    /// ListPodSandbox.
    pub async fn list_pods(&self, filter: Option<v1::PodSandboxFilter>) -> Result<Vec<v1::PodSandbox>, Status> {
        let request = v1::ListPodSandboxRequest { filter };
        Ok(self.runtime.clone().list_pod_sandbox(within(ORDINARY, request)).await?.into_inner().items)
    }

    /// CreateContainer; the answer is the container's id.
    pub async fn create_container(
        &self,
        pod: &str,
        config: v1::ContainerConfig,
        sandbox: v1::PodSandboxConfig,
    ) -> Result<String, Status> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox),
        };
        Ok(self.runtime.clone().create_container(within(ORDINARY, request)).await?.into_inner().container_id)
    }

    /// StartContainer.
    pub async fn start_container(&self, id: &str) -> Result<(), Status> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        self.runtime.clone().start_container(within(ORDINARY, request)).await.map(drop)
    }

    /// StopContainer with `grace` seconds between the soft signal and SIGKILL.
    pub async fn stop_container(&self, id: &str, grace: i64) -> Result<(), Status> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: grace };
        let limit = ORDINARY + Duration::from_secs(grace.unsigned_abs());
        self.runtime.clone().stop_container(within(limit, request)).await.map(drop)
    }

    /// RemoveContainer.
    pub async fn remove_container(&self, id: &str) -> Result<(), Status> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        self.runtime.clone().remove_container(within(ORDINARY, request)).await.map(drop)
    }

    /// ContainerStatus, the whole answer.
    pub async fn container_response(&self, id: &str, verbose: bool) -> Result<v1::ContainerStatusResponse, Status> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose };
        Ok(self.runtime.clone().container_status(within(ORDINARY, request)).await?.into_inner())
    }

    /// ContainerStatus, the status in it.
    pub async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Status> {
        self.container_response(id, false).await?.status.ok_or_else(|| Status::internal("no status in the answer"))
    }

    /// ListContainers.
    pub async fn list_containers(&self, filter: Option<v1::ContainerFilter>) -> Result<Vec<v1::Container>, Status> {
        let request = v1::ListContainersRequest { filter };
        Ok(self.runtime.clone().list_containers(within(ORDINARY, request)).await?.into_inner().containers)
    }

    /// ExecSync; `timeout` in seconds, 0 for none.
    pub async fn exec(&self, id: &str, cmd: &[&str], timeout: i64) -> Result<v1::ExecSyncResponse, Status> {
        let cmd = cmd.iter().map(|&word| word.to_owned()).collect();
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        let limit = ORDINARY + Duration::from_secs(timeout.unsigned_abs());
        Ok(self.runtime.clone().exec_sync(within(limit, request)).await?.into_inner())
    }

    /// Exec; the answer is the URL.
    pub async fn exec_url(&self, request: v1::ExecRequest) -> Result<String, Status> {
        Ok(self.runtime.clone().exec(within(ORDINARY, request)).await?.into_inner().url)
    }

    /// Attach; the answer is the URL.
    pub async fn attach_url(&self, request: v1::AttachRequest) -> Result<String, Status> {
        Ok(self.runtime.clone().attach(within(ORDINARY, request)).await?.into_inner().url)
    }

    /// PortForward; the answer is the URL.
    pub async fn port_forward_url(&self, pod: &str, port: Vec<i32>) -> Result<String, Status> {
        let request = v1::PortForwardRequest { pod_sandbox_id: pod.to_owned(), port };
        Ok(self.runtime.clone().port_forward(within(ORDINARY, request)).await?.into_inner().url)
    }

    /// ReopenContainerLog.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Status> {
        let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        self.runtime.clone().reopen_container_log(within(ORDINARY, request)).await.map(drop)
    }

    /// ContainerStats.
    pub async fn container_stats(&self, id: &str) -> Result<v1::ContainerStats, Status> {
        let request = v1::ContainerStatsRequest { container_id: id.to_owned() };
        let response = self.runtime.clone().container_stats(within(ORDINARY, request)).await?.into_inner();
        response.stats.ok_or_else(|| Status::internal("no stats in the answer"))
    }

    /// ListContainerStats.
    pub async fn list_stats(
        &self,
        filter: Option<v1::ContainerStatsFilter>,
    ) -> Result<Vec<v1::ContainerStats>, Status> {
        let request = v1::ListContainerStatsRequest { filter };
        Ok(self.runtime.clone().list_container_stats(within(ORDINARY, request)).await?.into_inner().stats)
    }

    /// CheckpointContainer.
    pub async fn checkpoint(&self, id: &str, location: &Path, timeout: i64) -> Result<(), Status> {
        let location = location.display().to_string();
        let request = v1::CheckpointContainerRequest { container_id: id.to_owned(), location, timeout };
        self.runtime.clone().checkpoint_container(within(ORDINARY, request)).await.map(drop)
    }

    /// CheckpointPod.
    pub async fn checkpoint_pod(&self, pod: &str, output: &Path, containers: Vec<String>) -> Result<(), Status> {
        let request = v1::CheckpointPodRequest {
            pod_sandbox_id: pod.to_owned(),
            output_path: output.display().to_string(),
            container_ids: containers,
            ..Default::default()
        };
        self.runtime.clone().checkpoint_pod(within(ORDINARY, request)).await.map(drop)
    }

    /// RestorePod.
    pub async fn restore_pod(
        &self,
        archive: &Path,
        config: v1::PodSandboxConfig,
        containers: Vec<v1::ContainerConfig>,
    ) -> Result<v1::RestorePodResponse, Status> {
        let request = v1::RestorePodRequest {
            checkpoint_path: archive.display().to_string(),
            config: Some(config),
            container_configs: containers,
            ..Default::default()
        };
        Ok(self.runtime.clone().restore_pod(within(ORDINARY, request)).await?.into_inner())
    }

    /// UpdateContainerResources.
    pub async fn update_resources(&self, id: &str, linux: v1::LinuxContainerResources) -> Result<(), Status> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        self.runtime.clone().update_container_resources(within(ORDINARY, request)).await.map(drop)
    }

    /// PullImage without credentials; the answer is the image's id.
    pub async fn pull(&self, image: &str) -> Result<String, Status> {
        self.pull_as(image, None, PULL).await
    }

    /// PullImage with credentials and a deadline.
    pub async fn pull_as(&self, image: &str, auth: Option<v1::AuthConfig>, limit: Duration) -> Result<String, Status> {
        let request = v1::PullImageRequest { image: image_spec(image), auth, sandbox_config: None };
        Ok(self.image.clone().pull_image(within(limit, request)).await?.into_inner().image_ref)
    }

    /// ListImages.
    pub async fn list_images(&self) -> Result<Vec<v1::Image>, Status> {
        let request = v1::ListImagesRequest { filter: None };
        Ok(self.image.clone().list_images(within(ORDINARY, request)).await?.into_inner().images)
    }

    /// ImageStatus; `None` for an image that is not there.
    pub async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, Status> {
        let request = v1::ImageStatusRequest { image: image_spec(image), verbose: false };
        Ok(self.image.clone().image_status(within(ORDINARY, request)).await?.into_inner().image)
    }

    /// RemoveImage.
    pub async fn remove_image(&self, image: &str) -> Result<(), Status> {
        let request = v1::RemoveImageRequest { image: image_spec(image) };
        self.image.clone().remove_image(within(ORDINARY, request)).await.map(drop)
    }

    /// ImageFsInfo.
    pub async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, Status> {
        Ok(self.image.clone().image_fs_info(within(ORDINARY, v1::ImageFsInfoRequest {})).await?.into_inner())
    }

    /// Version.
    pub async fn version(&self) -> Result<v1::VersionResponse, Status> {
        let request = v1::VersionRequest { version: "0.1.0".into() };
        Ok(self.runtime.clone().version(within(ORDINARY, request)).await?.into_inner())
    }

    /// Status of the runtime.
    pub async fn status(&self) -> Result<v1::StatusResponse, Status> {
        let request = v1::StatusRequest { verbose: false };
        Ok(self.runtime.clone().status(within(ORDINARY, request)).await?.into_inner())
    }
}
