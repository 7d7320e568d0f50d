//! Spawner, pods and busybox containers for the tests.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use berth::libcontainer::plan::{
    Action, Attributes, Bind, Capabilities, EnterRoot, FdSource, InitPlan, MakeDir, MakeNode, Missing, MountFs,
    Namespaces, Overlay, PidNamespace, ProcessPlan, Propagation, Step, Upper,
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
const APPLETS: &str = "sh sleep echo cat printf readlink id ls yes head tail stty true grep setsid tr wc touch cut test \
    hostname";
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
    /// Set: it has no unified cgroup.
    pub(crate) freezer: Option<PathBuf>,
}

impl Sandbox {
    pub(crate) async fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let dir = tempfile::Builder::new().prefix("berth-monitor-").tempdir_in("/dev/shm").unwrap();
        let rootfs = dir.path().join("rootfs");
        fs::create_dir_all(rootfs.join("bin")).unwrap();
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static is installed");
        for name in APPLETS.split(' ') {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        fs::create_dir(rootfs.join("etc")).unwrap();
        fs::create_dir(dir.path().join("pods")).unwrap();
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let cgroup = unified().join(format!("berth-monitor-test-{}-{serial}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        let spawner = start_spawner(dir.path()).await;
        Self { dir, cgroup, spawner }
    }

    pub(crate) async fn restart_spawner(&mut self) {
        self.spawner = start_spawner(self.dir.path()).await;
    }

    /// A pod by a connection of the test's own.
    pub(crate) fn adopt(
        &self,
        monitor: Monitor,
        namespaces: PodNamespaces,
        events: UnboundedReceiver<MonitorEvent>,
    ) -> Pod<'_> {
        Pod { sandbox: self, id: PodId::random().unwrap(), monitor, namespaces, events }
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
            network: None,
            private_ipc: true,
            private_uts: true,
            shared_pid: false,
            sysctls: Vec::new(),
            shm_bytes: Some(64 << 20),
            shm_label: None,
            user_namespace: None,
        };
        change(&mut request);
        let (monitor, namespaces, events) = self.spawner.fork_monitor(request).await?;
        Ok(Pod { sandbox: self, id, monitor, namespaces, events })
    }

    pub(crate) fn socket(&self, pod: &PodId) -> PathBuf {
        self.dir.path().join("pods").join(pod.as_str())
    }
}

async fn start_spawner(dir: &Path) -> Spawner {
    let log = File::options().create(true).append(true).open(dir.join("monitor.log")).unwrap();
    Spawner::start(SpawnerConfig {
        // Another build of it may be measured.
        binary: std::env::var_os("BERTH_MONITOR").map_or(env!("CARGO_BIN_EXE_berth-monitor").into(), PathBuf::from),
        cgroup_procs: vec![File::options().write(true).open(dir_of_monitors(dir).join("cgroup.procs")).unwrap().into()],
        log: Some(log.into()),
    })
    .await
    .unwrap()
}

/// A cgroup of the monitors, so that none outlives its test.
fn dir_of_monitors(dir: &Path) -> PathBuf {
    let cgroup = unified().join(dir.file_name().unwrap());
    let _ = fs::create_dir(&cgroup);
    cgroup
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Ok(text) = fs::read_to_string(self.dir.path().join("monitor.log"))
            && !text.is_empty()
        {
            println!("monitors said: {text}");
        }
        let monitors = dir_of_monitors(self.dir.path());
        let _ = fs::write(monitors.join("cgroup.kill"), "1");
        for _ in 0..100 {
            if remove_tree(&monitors) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
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
                propagation: 0,
            }))
        };
        let steps = vec![
            step(Action::EnterRoot(EnterRoot::default())),
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
                idmapped: false,
            }),
            bind(Path::new("/dev/null")),
        ];
        let plan = InitPlan {
            namespaces: Namespaces { pid: PidNamespace::Container.into(), cgroup: true, ..Namespaces::default() },
            steps,
            process: process(&["/bin/sh", "-c", script]),
            ..InitPlan::default()
        };
        Container { id, dir, cgroup, plan, sources, memory: None, v1: Vec::new(), freezer: None }
    }

    pub(crate) async fn create(&self, container: &Container) -> Result<i32, MonitorError> {
        let procs = |dir: &PathBuf| File::options().write(true).open(dir.join("cgroup.procs")).unwrap().into();
        self.monitor
            .create(CreateContainer {
                id: container.id.clone(),
                plan: container.plan.clone(),
                fds: open_sources(&container.sources).unwrap(),
                cgroup: CgroupFds {
                    unified: container.freezer.is_none().then(|| open(&container.cgroup)),
                    v1_tasks: container.v1.iter().map(procs).collect(),
                    memory: container.memory.as_deref().map(open),
                    freezer: container.freezer.as_deref().map(open),
                },
                log: Some(container.log_target("0.log")),
                record_dir: open(&container.dir),
                runtime: None,
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

    /// Waits until something is so.
    pub(crate) async fn until(&self, mut so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !so() {
            assert!(begun.elapsed() < PATIENCE, "not so in time");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until a line ends with `text`.
    pub(crate) async fn until_logged(&self, container: &Container, text: &str) {
        self.until(|| container.raw_log("0.log").lines().any(|line| line.trim_end().ends_with(text))).await;
    }

    /// The monitor's memory, as the kernel tells it.
    pub(crate) fn memory(&self) -> String {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.monitor.pid())).unwrap();
        let wanted = |line: &&str| ["Rss", "Pss:", "Private", "Shared"].iter().any(|name| line.starts_with(name));
        text.lines().filter(wanted).collect::<Vec<_>>().join(", ")
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

    pub(crate) async fn exec_raw(
        &self,
        container: &Container,
        exec: &str,
        args: &[&str],
    ) -> Result<Execed, MonitorError> {
        self.monitor
            .exec(ExecRequest {
                container: container.id.clone(),
                exec: exec.to_owned(),
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

    pub(crate) fn raw_log(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join("log").join(name)).unwrap()
    }

    /// A volatile overlay's folders serve once (the kernel's own rule).
    pub(crate) fn fresh_folders(&self) {
        for name in ["upper", "work"] {
            fs::remove_dir_all(self.dir.join(name)).unwrap();
            fs::create_dir(self.dir.join(name)).unwrap();
        }
    }

    /// The cgroups of its execs.
    pub(crate) fn exec_cgroups(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.cgroup).unwrap().flatten().map(|entry| entry.path());
        entries.filter(|path| path.is_dir()).collect()
    }

    /// Limits its memory, in whichever hierarchy the controller is.
    pub(crate) fn limit_memory(&mut self, sandbox: &Sandbox, bytes: u64) {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        if v1.exists() {
            let dir = v1.join(sandbox.cgroup.file_name().unwrap());
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("memory.limit_in_bytes"), bytes.to_string()).unwrap();
            self.v1.push(dir.clone());
            self.memory = Some(dir);
        } else {
            for parent in [unified(), sandbox.cgroup.clone()] {
                fs::write(parent.join("cgroup.subtree_control"), "+memory").unwrap();
            }
            fs::write(self.cgroup.join("memory.max"), bytes.to_string()).unwrap();
            self.memory = Some(self.cgroup.clone());
        }
    }

    /// As on a host that has v1 hierarchies only; false where there are none.
    pub(crate) fn only_v1(&mut self) -> bool {
        let v1 = Path::new("/sys/fs/cgroup/freezer");
        if !v1.exists() {
            return false;
        }
        let dir = v1.join(format!("berth-monitor-test-{}-{}", std::process::id(), self.id));
        fs::create_dir(&dir).unwrap();
        self.v1.push(dir.clone());
        self.freezer = Some(dir);
        true
    }

    pub(crate) fn remove_v1(&self) {
        self.v1.iter().for_each(|dir| fs::remove_dir(dir).unwrap());
    }

    pub(crate) fn log(&self, name: &str) -> Vec<String> {
        let text = self.raw_log(name);
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

pub(crate) fn cgroup_is_empty(cgroup: &Path) -> bool {
    // One that is not there any more is as empty as can be.
    fs::read_to_string(cgroup.join("cgroup.events")).map_or(true, |text| text.contains("populated 0"))
}

/// /dev/zero, made by the container.
pub(crate) fn zero_device() -> [Step; 1] {
    [step(Action::MakeNode(MakeNode {
        path: "/dev/zero".to_owned(),
        mode: libc::S_IFCHR | 0o666,
        major: 1,
        minor: 5,
        uid: 0,
        gid: 0,
    }))]
}

pub(crate) fn bind(source: &Path) -> FdSource {
    FdSource::Bind(Bind {
        source: source.to_owned(),
        recursive: false,
        attributes: Attributes::default(),
        recursive_attributes: Attributes::default(),
        propagation: Propagation::Private,
        missing: Missing::Fail,
        relabel: None,
        idmapped: false,
    })
}

/// As the agent does on this kernel.
pub(crate) fn open_sources(sources: &[FdSource]) -> Result<Vec<OwnedFd>, run::OpenError> {
    run::open(sources, None, &|overlay| run::mount_overlay(overlay, None))
}
