//! `berth serve` with the systemd driver. Needs root. Each agent has folders, slices, a network namespace and a /run of
//! its own, in which systemd seems to be the init.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cri_api::v1::runtime_service_client::RuntimeServiceClient;
use cri_api::v1::*;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::bus::Bus;
use super::image::{Compression, Image, Layer};
use super::service::{self, Service, processes, unified};

const IMAGE: &str = "test/busybox:1";

struct Node {
    dir: tempfile::TempDir,
    name: String,
    bus: Bus,
    systemd: Service,
    agent: Option<Child>,
}

impl Node {
    async fn start() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("berthtest{}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (dir, bus) = (tempfile::tempdir().unwrap(), Bus::start());
        let systemd = Service::start(&bus.address).await;
        let config = format!(
            "root: {dir}/lib\nrun_root: {dir}/run\n\
             cgroups: {{driver: systemd, monitor_cgroup: {name}.slice/{name}-monitors.scope, pod_parent: {name}.slice}}\n",
            dir = dir.path().display(),
        );
        std::fs::write(dir.path().join("config.yaml"), config).unwrap();
        let mut node = Self { dir, name, bus, systemd, agent: None };
        node.start_agent();
        node
    }

    fn start_agent(&mut self) {
        let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/system && exec \"$0\" serve --config \"$1\"";
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_berth")]);
        command.arg(self.dir.path().join("config.yaml")).env("DBUS_SYSTEM_BUS_ADDRESS", &self.bus.address);
        self.agent = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    }

    fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/berth.sock")
    }

    async fn client(&self) -> RuntimeServiceClient<Channel> {
        let socket = self.socket();
        until("an agent that listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        let channel = Endpoint::from_static("http://berth").connect_with_connector(connect).await.unwrap();
        RuntimeServiceClient::new(channel)
    }

    /// Puts busybox into the store.
    async fn import_image(&self) {
        let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
        let mut layer = Layer::new();
        layer.folder("bin/").entry(tar::EntryType::Regular, "bin/sh", "", &busybox, |header| header.set_mode(0o755));
        let layout = self.dir.path().join("layout");
        Image::new(&[(layer.tar(), Compression::None)]).write_layout(&layout);
        let (socket, program) = (self.socket(), env!("CARGO_BIN_EXE_berth"));
        let imported = tokio::task::spawn_blocking(move || {
            let mut command = Command::new(program);
            command.args(["image", "--socket"]).arg(socket).arg("import").arg(layout).args(["--name", IMAGE]);
            command.stdout(Stdio::null()).status().unwrap()
        });
        assert!(imported.await.unwrap().success());
    }

    fn pod_config(&self, cgroup_parent: &str) -> PodSandboxConfig {
        let metadata = PodSandboxMetadata { name: "p".into(), uid: "u".into(), namespace: "n".into(), attempt: 0 };
        let linux = LinuxPodSandboxConfig { cgroup_parent: cgroup_parent.into(), ..Default::default() };
        PodSandboxConfig { metadata: Some(metadata), linux: Some(linux), ..Default::default() }
    }

    async fn run_pod(&self) -> String {
        let config = Some(self.pod_config(&format!("{}-pod.slice", self.name)));
        let request = RunPodSandboxRequest { config, runtime_handler: String::new() };
        self.client().await.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    async fn create(&self, pod: &str, resources: LinuxContainerResources) -> Result<String, tonic::Status> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "c".into(), attempt: 0 }),
            image: Some(ImageSpec { image: IMAGE.into(), ..Default::default() }),
            command: vec!["/bin/sh".into(), "-c".into(), "trap exit TERM; while :; do sleep 1; done".into()],
            linux: Some(LinuxContainerConfig { resources: Some(resources), ..Default::default() }),
            ..Default::default()
        };
        let request = CreateContainerRequest { pod_sandbox_id: pod.into(), config: Some(config), sandbox_config: None };
        Ok(self.client().await.create_container(request).await?.into_inner().container_id)
    }

    fn scopes(&self) -> Vec<String> {
        let units = self.systemd.units.lock().unwrap();
        units.keys().filter(|unit| unit.starts_with("berth-")).cloned().collect()
    }

    fn monitors(&self) -> Vec<i32> {
        processes(&format!("{0}.slice/{0}-monitors.scope", self.name))
    }
}

impl Drop for Node {
    /// A test that failed leaves its pods: they are killed with their slice.
    fn drop(&mut self) {
        if self.agent.is_some() {
            self.kill_agent();
        }
        let slice = format!("{}.slice", self.name);
        let _ = std::fs::write(unified(&slice).join("cgroup.kill"), "1");
        // EBUSY until the last of the killed is reaped.
        for _ in 0..100 {
            if service::remove_everywhere(&slice) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "in vain waited for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn command_name(process: i32) -> String {
    std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default().trim().to_owned()
}

#[tokio::test]
async fn containers_live_in_scopes_and_outlive_the_agent() {
    let mut node = Node::start().await;
    let mut client = node.client().await;
    let driver = client.runtime_config(RuntimeConfigRequest {}).await.unwrap().into_inner().linux.unwrap();
    assert_eq!(driver.cgroup_driver(), CgroupDriver::Systemd);
    let path = Some(node.pod_config("/kubepods/pod1"));
    let refused = client.run_pod_sandbox(RunPodSandboxRequest { config: path, runtime_handler: String::new() }).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("is not a slice"), "{refused}");

    node.import_image().await;
    let pod = node.run_pod().await;
    assert_eq!(node.monitors().len(), 3, "the spawner, the pod's monitor and its init");
    let resources = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, cpu_shares: 512, ..Default::default() };
    let id = node.create(&pod, resources).await.unwrap();
    let unit = format!("berth-{id}.scope");
    let scope = node.systemd.cgroup(&unit).expect("the container's scope");
    assert_eq!(scope, format!("{0}.slice/{0}-pod.slice/{unit}", node.name));
    let inside = processes(&scope);
    assert_eq!(inside.len(), 1, "init, and no placeholder any more: {inside:?}");
    let told = node.systemd.calls.lock().unwrap().iter().find(|call| call.contains(&unit)).cloned().unwrap();
    assert!(told.contains("Delegate") && told.contains("Memory") && told.contains("CPU"), "{told}");

    client.start_container(StartContainerRequest { container_id: id.clone() }).await.unwrap();
    let exec = ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["/bin/sh".into(), "-c".into(), "echo here".into()],
        timeout: 5,
    };
    assert_eq!(client.exec_sync(exec).await.unwrap().into_inner().stdout, "here\n");

    node.kill_agent();
    until("the killed agent's spawner to end", || node.monitors().len() == 2).await;
    node.start_agent();
    let mut client = node.client().await;
    let status = ContainerStatusRequest { container_id: id.clone(), verbose: false };
    let status = client.container_status(status).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    assert_eq!(node.monitors().len(), 3, "the new spawner joined the scope");
    assert_eq!(node.systemd.called("AttachProcessesToUnit"), 1);

    client.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 5 }).await.unwrap();
    until("the empty scope to be gone", || node.systemd.cgroup(&unit).is_none()).await;
    client.remove_container(RemoveContainerRequest { container_id: id.clone() }).await.unwrap();
    assert_eq!(node.systemd.called(&format!("StopUnit {unit}")), 1);
    client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.clone() }).await.unwrap();
    client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod }).await.unwrap();
    assert!(!unified(&scope).exists());
    assert_eq!(node.scopes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_running_container_is_removed_with_its_scope() {
    let node = Node::start().await;
    let mut client = node.client().await;
    node.import_image().await;
    let pod = node.run_pod().await;
    let id = node.create(&pod, LinuxContainerResources::default()).await.unwrap();
    client.start_container(StartContainerRequest { container_id: id.clone() }).await.unwrap();
    let scope = node.systemd.cgroup(&format!("berth-{id}.scope")).unwrap();
    client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod }).await.unwrap();
    assert!(!unified(&scope).exists());
    assert_eq!(node.scopes(), Vec::<String>::new());
}

#[tokio::test]
async fn nothing_is_left_of_a_creation_that_fails() {
    let node = Node::start().await;
    node.client().await;
    node.import_image().await;
    let pod = node.run_pod().await;
    let unified = [("memory.nosuchfile".to_owned(), "1".to_owned())].into();
    let started = Instant::now();
    let failed = node.create(&pod, LinuxContainerResources { unified, ..Default::default() }).await.unwrap_err();
    assert!(failed.message().contains("memory.nosuchfile"), "{failed}");
    assert!(started.elapsed() < Duration::from_secs(2), "it waited for the placeholder");
    assert_eq!(node.systemd.called("StartTransientUnit berth-"), 1);
    assert_eq!(node.scopes(), Vec::<String>::new());
    assert!(node.monitors().iter().all(|&process| command_name(process) != "berth-scope"));
}

#[tokio::test]
async fn a_crash_between_the_scope_and_its_container_leaves_neither() {
    let mut node = Node::start().await;
    node.client().await;
    node.import_image().await;
    let pod = node.run_pod().await;
    node.systemd.stuck.store(true, Ordering::Relaxed);
    let placeholder = {
        let create = node.create(&pod, LinuxContainerResources::default());
        let made = until("a scope", || !node.scopes().is_empty());
        tokio::select! {
            created = create => panic!("made in a scope that does not start: {created:?}"),
            () = made => {}
        }
        let scope = node.systemd.cgroup(&node.scopes()[0]).unwrap();
        processes(&scope)
    };
    assert_eq!(placeholder.iter().map(|&one| command_name(one)).collect::<Vec<_>>(), ["berth-scope"]);
    node.kill_agent();
    until("the placeholder to end with its agent", || command_name(placeholder[0]) != "berth-scope").await;
    until("the scope to be gone", || node.scopes().is_empty()).await;

    node.systemd.stuck.store(false, Ordering::Relaxed);
    node.start_agent();
    let mut client = node.client().await;
    let containers = client.list_containers(ListContainersRequest::default()).await.unwrap().into_inner().containers;
    assert_eq!(containers, Vec::new());
    client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod }).await.unwrap();
}
