//! `berth serve` as a process: one agent a state, the socket, the service manager, a stop and a crash. Needs root; each
//! agent has folders, cgroups and a network namespace of its own.

#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cri_api::v1::runtime_service_client::RuntimeServiceClient;
use cri_api::v1::*;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// A host for one agent.
struct Host {
    dir: tempfile::TempDir,
    name: String,
}

impl Host {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("berth-serve-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let host = Self { dir: tempfile::tempdir().unwrap(), name };
        let config = format!(
            "root: {dir}/lib\nrun_root: {dir}/run\ncgroups: {{monitor_cgroup: /{name}, pod_parent: /{name}-pods}}\n",
            dir = host.dir.path().display(),
            name = host.name,
        );
        std::fs::write(host.config(), config).unwrap();
        host
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("config.yaml")
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/berth.sock")
    }

    /// The command of an agent, in a network namespace of its own: it makes a bridge and firewall rules.
    fn agent(&self) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--net", env!("CARGO_BIN_EXE_berth"), "serve", "--config"]).arg(self.config());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    async fn client(&self) -> RuntimeServiceClient<Channel> {
        let path = self.socket();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let path = path.clone();
            let connect = tower::service_fn(move |_| {
                let path = path.clone();
                async move { Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(UnixStream::connect(path).await?)) }
            });
            match Endpoint::from_static("http://berth").connect_with_connector(connect).await {
                Ok(channel) => return RuntimeServiceClient::new(channel),
                Err(error) => assert!(Instant::now() < deadline, "no agent at {}: {error}", self.socket().display()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Host {
    /// A test that failed leaves its pods' monitors: they are killed with their cgroup.
    fn drop(&mut self) {
        let base = Path::new("/sys/fs/cgroup");
        let folders = std::fs::read_dir(base).into_iter().flatten().flatten().map(|entry| entry.path());
        let hierarchies: Vec<_> = folders.chain([base.to_owned()]).collect();
        for cgroup in [self.name.clone(), format!("{}-pods", self.name)] {
            for hierarchy in &hierarchies {
                let _ = std::fs::write(hierarchy.join(&cgroup).join("cgroup.kill"), "1");
            }
            for folder in hierarchies.iter().map(|hierarchy| hierarchy.join(&cgroup)) {
                // EBUSY until the last of the killed is reaped.
                for _ in 0..50 {
                    match std::fs::remove_dir(&folder) {
                        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                            std::thread::sleep(Duration::from_millis(20));
                        }
                        _ => break,
                    }
                }
            }
        }
    }
}

/// An agent that does not outlive its test.
struct Agent(Child);

impl Agent {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Its exit code and what it said.
    async fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        let deadline = Instant::now() + Duration::from_secs(15);
        let status = loop {
            match self.0.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "the agent does not end"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        if let Some(mut stderr) = self.0.stderr.take() {
            // Monitors may hold the other end: what is there now is enough.
            rustix::io::ioctl_fionbio(&stderr, true).unwrap();
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            said = String::from_utf8_lossy(&bytes).into_owned();
        }
        (status.code(), said)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pod_request() -> RunPodSandboxRequest {
    let metadata = PodSandboxMetadata { name: "p".into(), uid: "u".into(), namespace: "n".into(), attempt: 0 };
    let config = PodSandboxConfig { metadata: Some(metadata), ..PodSandboxConfig::default() };
    RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() }
}

#[tokio::test]
async fn a_second_agent_is_refused_and_the_first_goes_on() {
    let host = Host::new();
    let first = Agent::start(&mut host.agent());
    host.client().await.status(StatusRequest::default()).await.unwrap();
    let (code, said) = Agent::start(&mut host.agent()).end().await;
    assert_eq!(code, Some(1), "{said}");
    let pid = first.0.id();
    assert!(said.contains(&format!("another berth agent (process {pid}) runs on")), "{said}");
    host.client().await.version(VersionRequest::default()).await.unwrap();
    first.signal(rustix::process::Signal::TERM);
    assert_eq!(first.end().await.0, Some(0));
}

#[tokio::test]
async fn only_root_may_connect_and_a_stop_takes_the_socket_away() {
    let host = Host::new();
    let agent = Agent::start(&mut host.agent());
    host.client().await.status(StatusRequest::default()).await.unwrap();
    let mode = std::fs::metadata(host.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    agent.signal(rustix::process::Signal::TERM);
    let (code, said) = agent.end().await;
    assert_eq!(code, Some(0), "{said}");
    assert!(!host.socket().exists());
}

#[tokio::test]
async fn pods_outlive_a_stop_and_a_crash_of_the_agent() {
    let host = Host::new();
    let agent = Agent::start(&mut host.agent());
    let mut client = host.client().await;
    let pod = client.run_pod_sandbox(pod_request()).await.unwrap().into_inner().pod_sandbox_id;
    agent.signal(rustix::process::Signal::TERM);
    assert_eq!(agent.end().await.0, Some(0));

    let agent = Agent::start(&mut host.agent());
    let status = |id: &str| PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
    let after_stop = host.client().await.pod_sandbox_status(status(&pod)).await.unwrap().into_inner().status.unwrap();
    assert_eq!(after_stop.state(), PodSandboxState::SandboxReady);
    agent.signal(rustix::process::Signal::KILL);
    agent.end().await;

    // The socket of the killed one is still there and is replaced.
    assert!(host.socket().exists());
    let agent = Agent::start(&mut host.agent());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut client = host.client().await;
    let after_crash = client.pod_sandbox_status(status(&pod)).await.unwrap().into_inner().status.unwrap();
    assert_eq!(after_crash, after_stop);
    client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.clone() }).await.unwrap();
    client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod.clone() }).await.unwrap();
    let gone = client.pod_sandbox_status(status(&pod)).await.unwrap_err();
    assert_eq!(gone.code(), tonic::Code::NotFound);
    agent.signal(rustix::process::Signal::TERM);
    assert_eq!(agent.end().await.0, Some(0));
}

#[tokio::test]
async fn a_service_manager_hands_over_the_socket_and_is_told() {
    let host = Host::new();
    std::fs::create_dir_all(host.socket().parent().unwrap()).unwrap();
    let listener = UnixListener::bind(host.socket()).unwrap();
    let notify = host.dir.path().join("notify");
    let told = UnixDatagram::bind(&notify).unwrap();
    told.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // sd_listen_fds(3): the sockets from descriptor 3 on, for the process that the variable names.
    let script = r#"export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" serve --config "$1" 3<&0 </dev/null"#;
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", script, env!("CARGO_BIN_EXE_berth")]).arg(host.config());
    command.stdin(OwnedFd::from(listener)).stderr(Stdio::piped()).env("NOTIFY_SOCKET", &notify);
    let agent = Agent::start(&mut command);
    host.client().await.status(StatusRequest::default()).await.unwrap();

    let message = || {
        let mut buffer = [0; 256];
        let length = told.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert!(message().contains("READY=1"));
    agent.signal(rustix::process::Signal::TERM);
    assert!(message().contains("STOPPING=1"));
    assert_eq!(agent.end().await.0, Some(0));
    assert!(host.socket().exists(), "it is the service manager's");
}

#[tokio::test]
async fn an_unknown_key_and_a_host_that_cannot_are_told_before_anything_is_made() {
    let host = Host::new();
    let text = std::fs::read_to_string(host.config()).unwrap();
    std::fs::write(host.config(), format!("{text}netwrok: {{}}\n")).unwrap();
    let (code, said) = Agent::start(&mut host.agent()).end().await;
    assert_eq!(code, Some(1));
    assert!(said.contains("config.yaml:4:1: ") && said.contains("netwrok"), "{said}");

    std::fs::write(host.config(), format!("{text}monitor: /does/not/exist\n")).unwrap();
    let (code, said) = Agent::start(&mut host.agent()).end().await;
    assert_eq!(code, Some(1));
    assert!(said.contains("/does/not/exist") && said.contains("→"), "{said}");
    assert!(!host.dir.path().join("lib").exists() && !host.dir.path().join("run").exists());
}
