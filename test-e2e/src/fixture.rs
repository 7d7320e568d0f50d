//! What a test begins with. `Fixture::shared()` is one runtime for all tests of a binary, `Fixture::own()` one for this
//! test alone, to be killed at will. Pods a test made go away with its fixture, also when it panics.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use cri_api::v1;

use crate::agent::Agent;
use crate::client::Client;
use crate::cri_log::{Log, Stream};
use crate::host::{Host, Namespaces, run_inside};
use crate::image::{self, Format};
use crate::registry::Registry;
use crate::spec;

/// A runtime and what it needs around it.
#[derive(Debug)]
pub struct Machine {
    /// Where it runs.
    pub host: Host,
    /// What it pulls from.
    pub registry: Registry,
    /// Berth's agent; `None` with `CRI_ENDPOINT`.
    pub agent: Option<Mutex<Agent>>,
    /// Whose namespaces the runtime lives in.
    pub inside: i32,
    /// Everything of this machine's, removed with it.
    pub folder: PathBuf,
    /// The cgroup that pods are put below, removed with it.
    pub cgroup: String,
    endpoint: String,
    busybox: String,
}

/// What a machine is made of.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Tells the folders and cgroups of one process's machines apart.
    pub name: String,
    /// A running runtime; without one Berth's agent is started.
    pub endpoint: Option<String>,
    /// A process in whose namespaces that runtime lives; without one it is taken to be in ours.
    pub inside: Option<i32>,
    /// Put the agent's root on a tmpfs of so many MiB.
    pub root_size: Option<u64>,
}

impl Setup {
    /// What `CRI_ENDPOINT` and `CRI_HOST_PID` say.
    pub fn from_environment(name: &str) -> Setup {
        let inside = std::env::var("CRI_HOST_PID").ok().and_then(|pid| pid.parse().ok());
        Setup { name: name.to_owned(), endpoint: std::env::var("CRI_ENDPOINT").ok(), inside, root_size: None }
    }
}

impl Machine {
    /// Starts the host, a registry with the busybox image in it, and, if no runtime runs yet, the agent.
    pub fn start(setup: &Setup) -> std::io::Result<Machine> {
        let cgroup = format!("berth-e2e-{}-{}", std::process::id(), setup.name);
        let folder = std::env::temp_dir().join(&cgroup);
        std::fs::create_dir_all(&folder)?;
        let namespaces = match (&setup.endpoint, setup.inside) {
            (None, _) => Namespaces::New,
            (Some(_), Some(pid)) => Namespaces::Of(pid),
            (Some(_), None) => Namespaces::Inherited,
        };
        let host = Host::start(namespaces, &folder, &cgroup)?;
        let registry = Registry::start(&host, &folder)?;
        // A label of its own: a runtime that has this image from an earlier run would know it by that run's name too.
        let label = serde_json::json!({ "e2e": registry.address });
        let image = image::busybox(Format::Docker)?.set("Labels", label).build();
        let busybox = registry.push("e2e/busybox", "1", &image)?;
        if let Some(size) = setup.root_size {
            let root = folder.join("root");
            std::fs::create_dir_all(&root)?;
            let options = format!("size={size}m");
            let flags = nix::mount::MsFlags::empty();
            host.run(|| nix::mount::mount(Some("e2e"), &root, Some("tmpfs"), flags, Some(options.as_str())))?;
        }
        let (agent, endpoint) = match &setup.endpoint {
            Some(endpoint) => (None, endpoint.clone()),
            None => {
                let agent = Agent::start(&host, &folder, &cgroup)?;
                let endpoint = agent.endpoint();
                (Some(Mutex::new(agent)), endpoint)
            }
        };
        let inside = host.pid();
        Ok(Machine { host, registry, agent, inside, folder, cgroup, endpoint, busybox })
    }

    /// Where the runtime listens.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The reference of the image with a shell.
    pub fn busybox(&self) -> &str {
        &self.busybox
    }
}

/// A test's view of a machine: a connection of its own, and the pods it made.
#[derive(Debug)]
pub struct Fixture {
    /// The runtime's client.
    pub client: Client,
    /// The machine it runs on.
    pub machine: Arc<Machine>,
    pods: Mutex<Vec<String>>,
}

impl Fixture {
    /// The machine that all tests of this binary share.
    pub async fn shared() -> Fixture {
        static SHARED: OnceLock<Arc<Machine>> = OnceLock::new();
        require_root();
        let machine = SHARED.get_or_init(|| Arc::new(start_machine(&Setup::from_environment("s"))));
        Fixture::on(machine.clone()).await
    }

    /// A machine for this test alone. Only Berth can be started anew, so a peer's run has to leave such tests out.
    pub async fn own(name: &str) -> Fixture {
        Fixture::own_with(Setup { name: name.to_owned(), ..Default::default() }).await
    }

    /// A machine for this test alone, made to measure.
    pub async fn own_with(setup: Setup) -> Fixture {
        require_berth();
        require_root();
        Fixture::on(Arc::new(start_machine(&setup))).await
    }

    async fn on(machine: Arc<Machine>) -> Fixture {
        let client = Client::connect(&machine.endpoint).await.unwrap_or_else(|e| panic!("{}: {e:?}", machine.endpoint));
        let fixture = Fixture { client, machine, pods: Mutex::default() };
        fixture.client.pull(&fixture.machine.busybox).await.unwrap_or_else(|e| panic!("pulling busybox: {e:?}"));
        fixture
    }

    /// The reference of the image with a shell, which is pulled.
    pub fn busybox(&self) -> &str {
        &self.machine.busybox
    }

    /// The registry the runtime pulls from.
    pub fn registry(&self) -> &Registry {
        &self.machine.registry
    }

    /// A new folder of the test's own, which runtime and test both see.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.machine.folder.join(format!("{name}-{:x}", nanos()));
        std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    /// Runs `work` inside the runtime's network and mount namespaces.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        run_inside(self.machine.inside, work)
    }

    /// The agent; only in tests that are Berth's own.
    pub fn agent(&self) -> std::sync::MutexGuard<'_, Agent> {
        let agent = self.machine.agent.as_ref().unwrap_or_else(|| panic!("there is no agent behind CRI_ENDPOINT"));
        agent.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A new connection, for after the agent was started again.
    pub async fn reconnect(&mut self) {
        let endpoint = self.machine.endpoint.clone();
        self.client = Client::connect(&endpoint).await.unwrap_or_else(|e| panic!("{endpoint}: {e:?}"));
    }

    /// A running pod with the plainest configuration.
    pub async fn pod(&self, name: &str) -> Pod<'_> {
        self.pod_with(name, |_| {}).await
    }

    /// A running pod whose configuration `change` has changed.
    pub async fn pod_with(&self, name: &str, change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Pod<'_> {
        self.try_pod(name, change).await.unwrap_or_else(|e| panic!("running pod {name}: {e:?}"))
    }

    /// A pod that may be refused.
    pub async fn try_pod(
        &self,
        name: &str,
        change: impl FnOnce(&mut v1::PodSandboxConfig),
    ) -> Result<Pod<'_>, tonic::Status> {
        let mut config = spec::pod(name, &self.machine.folder);
        config.linux.get_or_insert_default().cgroup_parent = format!("/{}", self.machine.cgroup);
        change(&mut config);
        if !config.log_directory.is_empty() {
            // kubelet makes it before it runs the pod.
            std::fs::create_dir_all(&config.log_directory).unwrap_or_else(|e| panic!("{}: {e}", config.log_directory));
        }
        let id = self.client.run_pod(config.clone()).await?;
        self.pods.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(id.clone());
        Ok(Pod { fixture: self, id, config })
    }

    /// A pod with one running container.
    pub async fn run(&self, name: &str, command: &[&str]) -> (Pod<'_>, Container<'_>) {
        self.run_with(name, command, |_| {}).await
    }

    /// A pod with one running container whose configuration `change` has changed.
    pub async fn run_with(
        &self,
        name: &str,
        command: &[&str],
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> (Pod<'_>, Container<'_>) {
        let pod = self.pod(name).await;
        let container = pod.start_with("main", command, change).await;
        (pod, container)
    }

    /// The output of a short program in a pod of its own: exit code and what it printed to stdout.
    pub async fn output_of(
        &self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> (i32, String) {
        let (_pod, container) = self.run_with(name, &["sh", "-c", script], change).await;
        let status = container.wait_exit().await;
        (status.exit_code, container.written(Stream::Stdout))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let pods = std::mem::take(self.pods.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let endpoint = self.machine.endpoint.clone();
        // A drop cannot await, and the test's own runtime may be gone: a thread with a small one does it.
        let clean_up = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_or_else(|e| vec![e.to_string()], |runtime| runtime.block_on(end_pods(&endpoint, &pods)))
        });
        let failures = clean_up.join().unwrap_or_else(|_| vec!["the clean-up panicked".to_owned()]);
        if failures.is_empty() || std::thread::panicking() {
            return;
        }
        let log = self.machine.agent.as_ref().map(|_| self.agent().log_tail()).unwrap_or_default();
        panic!("pods of this test could not be ended: {failures:?}\n{log}");
    }
}

/// Stops and removes pods; answers what went wrong. One that is gone, or an agent that is, is no failure.
async fn end_pods(endpoint: &str, pods: &[String]) -> Vec<String> {
    let mut failures = Vec::new();
    let Ok(client) = Client::connect(endpoint).await else { return failures };
    let limit = Duration::from_secs(seconds(30) as u64);
    for pod in pods {
        let ended = tokio::time::timeout(limit, async {
            match client.stop_pod(pod).await {
                Err(status) if status.code() != tonic::Code::NotFound => Err(status),
                _ => client.remove_pod(pod).await,
            }
        });
        match ended.await {
            Ok(Ok(())) => {}
            Ok(Err(status)) => failures.push(format!("{pod}: {status:?}")),
            Err(_) => failures.push(format!("{pod}: no answer within {limit:?}")),
        }
    }
    failures
}

/// A running pod.
#[derive(Debug)]
pub struct Pod<'a> {
    fixture: &'a Fixture,
    /// Its id.
    pub id: String,
    /// What it was run with.
    pub config: v1::PodSandboxConfig,
}

impl<'a> Pod<'a> {
    /// Its status.
    pub async fn status(&self) -> v1::PodSandboxStatus {
        self.fixture.client.pod_status(&self.id).await.unwrap_or_else(|e| panic!("status of pod {}: {e:?}", self.id))
    }

    /// Its first address.
    pub async fn ip(&self) -> String {
        self.status().await.network.unwrap_or_default().ip
    }

    /// Creates a container that may be refused.
    pub async fn try_create(
        &self,
        name: &str,
        command: &[&str],
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> Result<Container<'a>, tonic::Status> {
        let mut config = spec::container(name, self.fixture.busybox(), command);
        let mark = format!("{name}-{:x}", nanos());
        config.envs.push(v1::KeyValue { key: MARK.to_owned(), value: mark.clone().into_bytes() });
        change(&mut config);
        let log = Path::new(&self.config.log_directory).join(&config.log_path);
        let id = self.fixture.client.create_container(&self.id, config, self.config.clone()).await?;
        Ok(Container { fixture: self.fixture, id, log, mark })
    }

    /// Creates a container.
    pub async fn create_with(
        &self,
        name: &str,
        command: &[&str],
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> Container<'a> {
        self.try_create(name, command, change).await.unwrap_or_else(|e| panic!("creating {name}: {e:?}"))
    }

    /// Creates and starts a container.
    pub async fn start_with(
        &self,
        name: &str,
        command: &[&str],
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> Container<'a> {
        let container = self.create_with(name, command, change).await;
        let started = self.fixture.client.start_container(&container.id).await;
        started.unwrap_or_else(|e| panic!("starting {name}: {e:?}"));
        container
    }

    /// Creates and starts a container with the plainest configuration.
    pub async fn start(&self, name: &str, command: &[&str]) -> Container<'a> {
        self.start_with(name, command, |_| {}).await
    }
}

/// What an exec gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Its stdout, lossily as text.
    pub stdout: String,
    /// Its stderr, lossily as text.
    pub stderr: String,
}

/// A container.
#[derive(Debug)]
pub struct Container<'a> {
    fixture: &'a Fixture,
    /// Its id.
    pub id: String,
    /// Its log file.
    pub log: PathBuf,
    mark: String,
}

impl Container<'_> {
    /// The pid, in this process's namespace, of the container's oldest process. The CRI does not tell it: it is found by
    /// a mark in its environment.
    pub fn pid(&self) -> i32 {
        self.pids().into_iter().min().unwrap_or_else(|| panic!("container {} has no process", self.id))
    }

    /// All processes of the container that kept its environment.
    pub fn pids(&self) -> Vec<i32> {
        crate::process::with_environment(MARK, &self.mark)
    }

    /// Its status.
    pub async fn status(&self) -> v1::ContainerStatus {
        let status = self.fixture.client.container_status(&self.id).await;
        status.unwrap_or_else(|e| panic!("status of {}: {e:?}", self.id))
    }

    /// Runs a command in it, for 30 s at most.
    pub async fn exec(&self, cmd: &[&str]) -> Output {
        let response = self.fixture.client.exec(&self.id, cmd, seconds(30)).await;
        let response = response.unwrap_or_else(|e| panic!("exec {cmd:?}: {e:?}"));
        Output {
            code: response.exit_code,
            stdout: String::from_utf8_lossy(&response.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&response.stderr).into_owned(),
        }
    }

    /// Runs a shell line in it and answers its stdout; it must exit 0.
    pub async fn sh(&self, line: &str) -> String {
        let output = self.exec(&["sh", "-c", line]).await;
        assert_eq!(output.code, 0, "{line}: {output:?}");
        output.stdout
    }

    /// Its log as it is now.
    pub fn log(&self) -> Log {
        Log::read(&self.log)
    }

    /// What it has written to a stream so far, by its log.
    pub fn written(&self, stream: Stream) -> String {
        let bytes = self.log().written(stream).unwrap_or_else(|e| panic!("{}: {e:?}", self.log.display()));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until its stdout has this line; a terminal's carriage return at the end may be there or not.
    pub async fn wait_for_line(&self, line: &str) {
        eventually(&format!("the log of {} says {line:?}", self.id), async || {
            // While it is being written the last line may be half there.
            let text = self.log().written(Stream::Stdout).ok()?;
            let mut lines = text.split_inclusive(|&byte| byte == b'\n').filter_map(|text| text.strip_suffix(b"\n"));
            lines.any(|text| text.strip_suffix(b"\r").unwrap_or(text) == line.as_bytes()).then_some(())
        })
        .await;
    }

    /// Waits until it has exited and answers the status it has then.
    pub async fn wait_exit(&self) -> v1::ContainerStatus {
        let exited = v1::ContainerState::ContainerExited as i32;
        eventually(&format!("container {} exits", self.id), async || {
            let status = self.status().await;
            (status.state == exited).then_some(status)
        })
        .await
    }
}

/// The environment variable by which a container's processes are found.
const MARK: &str = "E2E_CONTAINER";

/// Asks again until there is an answer; panics with `what` when there is none for a long while.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds(60) as u64);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "it never came true that {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// So many seconds, times `E2E_PATIENCE` on machines that are slow (an emulated one is 10 to 30 times).
pub fn seconds(count: i64) -> i64 {
    count * std::env::var("E2E_PATIENCE").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// Stops a test that only Berth can pass, when another runtime is being tested: leave it out by name.
pub fn require_berth() {
    assert!(
        std::env::var_os("CRI_ENDPOINT").is_none(),
        "this test is about Berth's own promises; with CRI_ENDPOINT run only the test binary `cri`"
    );
}

fn require_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: it runs containers");
}

fn start_machine(setup: &Setup) -> Machine {
    Machine::start(setup).unwrap_or_else(|e| panic!("starting the machine: {e}"))
}

fn nanos() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos()
}
