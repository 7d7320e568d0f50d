//! A spawner, pods and busybox containers for the monitor's tests.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use berth::libcontainer::plan::{
    Action, Attributes, Bind, Capabilities, EnterRoot, FdSource, InitPlan, MakeDir, Missing, MountFs, Namespaces,
    Overlay, PidNamespace, ProcessPlan, Propagation, Step, Upper,
};
use berth::libcontainer::run;
use berth::model::{ContainerId, PodId};
use berth::monitor::client::{
    CgroupFds, CreateContainer, ExecRequest, Execed, ExitRecord, LogTarget, Monitor, MonitorError, MonitorEvent,
    PodMonitor, PodNamespaces, Spawner, SpawnerConfig,
};
use berth::monitor::protocol::exit_file;
use tokio::sync::mpsc::UnboundedReceiver;

/// Capabilities that this machine surely has and a container usually gets.
pub(crate) const CAPABILITIES: u64 = 0xa804_25fb;
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder, a root file system made of busybox, a cgroup and a spawner.
pub(crate) struct Sandbox {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cgroup: PathBuf,
    pub(crate) spawner: Spawner,
}

pub(crate) struct Pod<'a> {
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) id: PodId,
    pub(crate) monitor: Monitor,
    pub(crate) namespaces: PodNamespaces,
    pub(crate) events: UnboundedReceiver<MonitorEvent>,
}

pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) dir: PathBuf,
    pub(crate) cgroup: PathBuf,
    pub(crate) plan: InitPlan,
    pub(crate) sources: Vec<FdSource>,
    pub(crate) memory: Option<PathBuf>,
    pub(crate) v1: Vec<PathBuf>,
}

impl Sandbox {
    pub(crate) async fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let dir = tempfile::Builder::new().prefix("berth-monitor-").tempdir_in("/dev/shm").unwrap();
        let rootfs = dir.path().join("rootfs");
        fs::create_dir_all(rootfs.join("bin")).unwrap();
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static is installed");
        for name in ["sh", "sleep", "echo", "cat", "printf", "readlink", "id", "ls", "yes", "head", "stty", "true"] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        fs::create_dir(rootfs.join("etc")).unwrap();
        fs::create_dir(dir.path().join("pods")).unwrap();
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let cgroup = unified().join(format!("berth-monitor-test-{}-{serial}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        let spawner = Spawner::start(SpawnerConfig {
            binary: env!("CARGO_BIN_EXE_berth-monitor").into(),
            cgroup_procs: Vec::new(),
            log: None,
        })
        .await
        .unwrap();
        Self { dir, cgroup, spawner }
    }

    pub(crate) async fn pod(&self) -> Pod<'_> {
        self.pod_with(|_| {}).await.unwrap()
    }

    pub(crate) async fn pod_with(&self, change: impl FnOnce(&mut PodMonitor)) -> Result<Pod<'_>, MonitorError> {
        let id = PodId::random().unwrap();
        let mut request = PodMonitor {
            socket: self.socket(&id),
            pod: id.clone(),
            hostname: Some("pod-host".to_owned()),
            private_net: true,
            private_ipc: true,
            private_uts: true,
            shared_pid: false,
            sysctls: Vec::new(),
            shm_bytes: Some(64 << 20),
        };
        change(&mut request);
        let (monitor, namespaces, events) = self.spawner.fork_monitor(request).await?;
        Ok(Pod { sandbox: self, id, monitor, namespaces, events })
    }

    pub(crate) fn socket(&self, pod: &PodId) -> PathBuf {
        self.dir.path().join("pods").join(pod.as_str())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Whatever a failed test left behind.
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        for _ in 0..100 {
            if remove_tree(&self.cgroup) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

pub(crate) fn remove_tree(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
}

/// Where cgroup v2 is mounted.
pub(crate) fn unified() -> PathBuf {
    let path = Path::new("/sys/fs/cgroup/unified");
    if path.exists() { path.into() } else { "/sys/fs/cgroup".into() }
}

pub(crate) fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap_or_else(|error| panic!("{path:?}: {error}")).into()
}

pub(crate) fn step(action: Action) -> Step {
    Step { action: Some(action) }
}

pub(crate) fn process(args: &[&str]) -> ProcessPlan {
    ProcessPlan {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec![b"PATH=/bin".to_vec()],
        cwd: "/".to_owned(),
        capabilities: Capabilities {
            bounding: CAPABILITIES,
            effective: CAPABILITIES,
            permitted: CAPABILITIES,
            inheritable: 0,
            ambient: 0,
        },
        no_new_privileges: true,
        ..ProcessPlan::default()
    }
}

impl Pod<'_> {
    /// A container that is not created yet: proc, dev and shm, and a shell that runs `script`.
    pub(crate) fn container(&self, script: &str) -> Container {
        let id = ContainerId::random().unwrap();
        let dir = self.sandbox.dir.path().join(&id.as_str()[..12]);
        for name in ["upper", "work", "log"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let cgroup = self.sandbox.cgroup.join(&id.as_str()[..12]);
        fs::create_dir(&cgroup).unwrap();
        let mount = |fstype: &str, target: &str, options: &[&str]| {
            step(Action::MountFs(MountFs {
                fstype: fstype.to_owned(),
                target: target.to_owned(),
                source: fstype.to_owned(),
                attributes: 0,
                options: options.iter().map(|option| (*option).to_owned()).collect(),
            }))
        };
        let steps = vec![
            step(Action::EnterRoot(EnterRoot { fd: 0, propagation: 0 })),
            mount("proc", "/proc", &[]),
            mount("tmpfs", "/dev", &["mode=755"]),
            mount("devpts", "/dev/pts", &["newinstance", "ptmxmode=0666", "mode=0620"]),
            step(Action::MakeDir(MakeDir { path: "/dev/shm".to_owned(), mode: 0o755 })),
            step(Action::MoveMount(berth::libcontainer::plan::MoveMount {
                source: Some(berth::libcontainer::plan::MountSource::Pod("shm".to_owned())),
                target: "/dev/shm".to_owned(),
            })),
            step(Action::MoveMount(berth::libcontainer::plan::MoveMount {
                source: Some(berth::libcontainer::plan::MountSource::Fd(1)),
                target: "/dev/null".to_owned(),
            })),
        ];
        let sources = vec![
            FdSource::Overlay(Overlay {
                lower: vec![self.sandbox.dir.path().join("rootfs")],
                upper: Some(Upper { upper: dir.join("upper"), work: dir.join("work"), volatile: true }),
                readonly: false,
                selinux_context: None,
            }),
            bind(Path::new("/dev/null")),
        ];
        let plan = InitPlan {
            namespaces: Namespaces { pid: PidNamespace::Container.into(), pid_target: String::new(), cgroup: true },
            steps,
            process: process(&["/bin/sh", "-c", script]),
            ..InitPlan::default()
        };
        Container { id, dir, cgroup, plan, sources, memory: None, v1: Vec::new() }
    }

    pub(crate) async fn create(&self, container: &Container) -> Result<i32, MonitorError> {
        let procs = |dir: &PathBuf| File::options().write(true).open(dir.join("cgroup.procs")).unwrap().into();
        self.monitor
            .create(CreateContainer {
                id: container.id.clone(),
                plan: container.plan.clone(),
                fds: run::open(&container.sources).unwrap(),
                cgroup: CgroupFds {
                    unified: Some(open(&container.cgroup)),
                    v1_procs: container.v1.iter().map(procs).collect(),
                    memory: container.memory.as_deref().map(open),
                },
                log: Some(container.log_target("0.log")),
                record_dir: open(&container.dir),
            })
            .await
    }

    pub(crate) async fn run(&self, script: &str) -> Container {
        let container = self.container(script);
        self.create(&container).await.unwrap();
        self.monitor.start(&container.id).await.unwrap();
        container
    }

    /// The log's lines without their times, which are checked.
    pub(crate) fn log(&self, container: &Container) -> Vec<String> {
        container.log("0.log")
    }

    pub(crate) async fn event(&mut self) -> MonitorEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("an event")
    }

    pub(crate) async fn exited(&mut self, container: &Container) -> ExitRecord {
        loop {
            match self.event().await {
                MonitorEvent::ContainerExited { id, record } if id == container.id => return record,
                MonitorEvent::Lost => panic!("the monitor is lost"),
                _ => {}
            }
        }
    }

    pub(crate) async fn exec_raw(&self, container: &Container, args: &[&str]) -> Result<Execed, MonitorError> {
        self.monitor
            .exec(ExecRequest {
                container: container.id.clone(),
                exec: "raw".to_owned(),
                process: process(args),
                tty: false,
                stdin: None,
                stdout: None,
                stderr: None,
            })
            .await
    }

    /// Runs a script and gives its exit code and standard output.
    pub(crate) async fn exec(&mut self, container: &Container, script: &str) -> (i32, String) {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let name = format!("exec-{}", SERIAL.fetch_add(1, Ordering::Relaxed));
        let (mut read, write) = std::io::pipe().unwrap();
        self.monitor
            .exec(ExecRequest {
                container: container.id.clone(),
                exec: name.clone(),
                process: process(&["/bin/sh", "-c", script]),
                tty: false,
                stdin: None,
                stdout: Some(write.try_clone().unwrap().into()),
                stderr: Some(write.into()),
            })
            .await
            .unwrap();
        let output = tokio::task::spawn_blocking(move || {
            let mut output = String::new();
            read.read_to_string(&mut output).unwrap();
            output
        })
        .await
        .unwrap();
        loop {
            match self.event().await {
                MonitorEvent::ExecExited { exec, exit_code } if exec == name => return (exit_code, output),
                MonitorEvent::Lost => panic!("the monitor is lost"),
                _ => {}
            }
        }
    }
}

impl Container {
    pub(crate) fn log_target(&self, name: &str) -> LogTarget {
        LogTarget { dir: open(&self.dir.join("log")), name: name.to_owned() }
    }

    pub(crate) fn log(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("log").join(name)).unwrap();
        text.lines()
            .map(|line| {
                let (time, rest) = line.split_once(' ').expect("a time");
                assert_eq!(time.len(), 30, "{time}");
                time.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{time}: {error}"));
                rest.to_owned()
            })
            .collect()
    }

    pub(crate) fn record(&self) -> ExitRecord {
        exit_file::decode(&fs::read(self.dir.join(exit_file::NAME)).unwrap()).unwrap()
    }
}

pub(crate) fn bind(source: &Path) -> FdSource {
    FdSource::Bind(Bind {
        source: source.to_owned(),
        recursive: false,
        attributes: Attributes::default(),
        recursive_attributes: Attributes::default(),
        propagation: Propagation::Private,
        missing: Missing::Fail,
    })
}
