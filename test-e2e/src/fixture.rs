//! What a test begins with. `Fixture::shared()` is one runtime for all tests of a binary, `Fixture::own()` one for this
//! test alone, to be killed at will. Pods a test made go away with its fixture, also when it panics.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use cri_api::v1;

use crate::agent::Agent;
use crate::client::{Client, tested_handler};
use crate::cri_log::Stream;
use crate::host::run_inside;
use crate::machine::{Machine, Setup};
pub use crate::pod::{Container, Output, Pod};
use crate::registry::Registry;
use crate::spec;

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
        let client =
            Client::connect(machine.endpoint()).await.unwrap_or_else(|e| panic!("{}: {e:?}", machine.endpoint()));
        let fixture = Fixture { client, machine, pods: Mutex::default() };
        fixture.client.pull(fixture.machine.busybox()).await.unwrap_or_else(|e| panic!("pulling busybox: {e:?}"));
        fixture
    }

    /// The reference of the image with a shell, which is pulled.
    pub fn busybox(&self) -> &str {
        self.machine.busybox()
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
        let endpoint = self.machine.endpoint().to_owned();
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
        self.try_pod_of(&tested_handler(), name, change).await
    }

    /// A pod of a runtime handler that may be refused.
    pub async fn try_pod_of(
        &self,
        handler: &str,
        name: &str,
        change: impl FnOnce(&mut v1::PodSandboxConfig),
    ) -> Result<Pod<'_>, tonic::Status> {
        let mut config = spec::pod(name, &self.machine.folder);
        config.linux.get_or_insert_default().cgroup_parent = self.machine.cgroup_parent(None);
        change(&mut config);
        if !config.log_directory.is_empty() {
            // kubelet makes it before it runs the pod.
            std::fs::create_dir_all(&config.log_directory).unwrap_or_else(|e| panic!("{}: {e}", config.log_directory));
        }
        let id = self.client.run_pod_of(config.clone(), handler).await?;
        self.pods.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(id.clone());
        Ok(Pod::new(self, id, config))
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
        let endpoint = self.machine.endpoint().to_owned();
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

pub(crate) fn nanos() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos()
}
