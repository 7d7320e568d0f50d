//! What the client's verbs take and give.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub use crate::libcontainer::cgroup::CgroupFds;
use crate::libcontainer::plan::{InitPlan, ProcessPlan, UserNamespace};
use crate::model::{ContainerId, PodId};
pub use crate::monitor::protocol::{
    Confinement, ContainerState, ExitRecord, MonitorState, Phase, RESTORED_PID, SessionEnd,
};

/// What a pod's monitor is to be.
#[derive(Debug)]
pub struct PodMonitor {
    /// The pod.
    pub pod: PodId,
    /// Where the monitor listens for the next agent; made (mode 0600) by `Spawner::fork_monitor`.
    pub socket: PathBuf,
    /// Set in the pod's own uts namespace; ignored without one.
    pub hostname: Option<String>,
    /// A network namespace of the pod's own; otherwise that in `network`, or the host's.
    pub private_net: bool,
    /// Another pod's network namespace, to live in.
    pub network: Option<OwnedFd>,
    /// An ipc namespace of the pod's own.
    pub private_ipc: bool,
    /// A uts namespace of the pod's own.
    pub private_uts: bool,
    /// One PID namespace for the whole pod, with a reaping pid 1.
    pub shared_pid: bool,
    /// Key and value; only namespaced keys may be passed (the agent refuses others).
    pub sysctls: Vec<(String, String)>,
    /// Size of the pod's own /dev/shm ("shm" in `MountSource::Pod`), if it has one.
    pub shm_bytes: Option<u64>,
    /// Its SELinux label, where SELinux is on.
    pub shm_label: Option<String>,
    /// A user namespace of the pod's own, for a pod that shares nothing with the host.
    pub user_namespace: Option<UserNamespace>,
}

/// A pod's namespaces as the agent holds them.
#[derive(Debug)]
pub struct PodNamespaces {
    /// The monitor's process id on the host: /proc/<pid>/ns/* are the pod's.
    pub pid: i32,
    /// The pod's network namespace, when it is not the host's.
    pub netns: Option<OwnedFd>,
    /// A NETLINK_ROUTE socket that lives in it, so that the agent never has to enter it.
    pub netlink: Option<OwnedFd>,
}

/// Where a container's output goes.
#[derive(Debug)]
pub struct LogTarget {
    /// The folder, O_PATH will do.
    pub dir: OwnedFd,
    /// The file's name in it, without a slash.
    pub name: String,
}

/// Processes to remake.
#[derive(Debug)]
pub struct RestoreContainer {
    /// A created container.
    pub id: ContainerId,
    /// The program and its arguments, which are those of criu.
    pub args: Vec<String>,
    /// Its PATH.
    pub path: String,
    /// What the program sees.
    pub mount_namespace: OwnedFd,
    /// Mounts of the container that it finds as `staging/0`, `staging/1` …
    pub mounts: Vec<String>,
    /// A folder in that namespace.
    pub staging: String,
    /// Descriptors of the waiting init by their number, and what they were.
    pub inherited: Vec<(u32, String)>,
    /// The most that its processes may have; the program leaves them stopped.
    pub confinement: Confinement,
}

/// A container to create.
#[derive(Debug)]
pub struct CreateContainer {
    /// Its id.
    pub id: ContainerId,
    /// What its init does.
    pub plan: InitPlan,
    /// What the plan's fd indexes mean (`run::open`).
    pub fds: Vec<OwnedFd>,
    /// Where its processes are counted and killed.
    pub cgroup: CgroupFds,
    /// Where its output goes; `None`: it is read and dropped.
    pub log: Option<LogTarget>,
    /// The folder that gets the file `exit`.
    pub record_dir: OwnedFd,
    /// Who runs it, if it is not the monitor.
    pub runtime: Option<Runtime>,
}

/// An OCI runtime that runs a container. The plan's steps are what is mounted for it.
#[derive(Debug)]
pub struct Runtime {
    /// The program.
    pub program: String,
    /// The bundle's folder, with config.json in it.
    pub folder: String,
    /// The agent's mount namespace.
    pub mounts: OwnedFd,
    /// The host has cgroup v1 and v2.
    pub hybrid: bool,
    /// The runtime has `exec --cgroup`.
    pub exec_cgroup: bool,
}

/// A process to run in a running container.
#[derive(Debug)]
pub struct ExecRequest {
    /// In which.
    pub container: ContainerId,
    /// The exec's name, unique in the pod.
    pub exec: String,
    /// What to run.
    pub process: ProcessPlan,
    /// With a terminal; the three fds below are then ignored, and the master side is in `Execed`.
    pub tty: bool,
    /// Standard input; `None`: /dev/null.
    pub stdin: Option<OwnedFd>,
    /// Standard output; `None`: /dev/null.
    pub stdout: Option<OwnedFd>,
    /// Standard error; `None`: /dev/null.
    pub stderr: Option<OwnedFd>,
}

/// A process that was exec'd.
#[derive(Debug)]
pub struct Execed {
    /// Its process id on the host.
    pub pid: i32,
    /// The terminal's master side (nonblocking not set), when it has one.
    pub terminal: Option<OwnedFd>,
}

/// A client to attach to a container.
#[derive(Debug)]
pub struct AttachRequest {
    /// To which.
    pub container: ContainerId,
    /// It wants to write to standard input.
    pub stdin: bool,
    /// The writing end of a pipe for standard output, if it is wanted.
    pub stdout: Option<OwnedFd>,
    /// The same for standard error.
    pub stderr: Option<OwnedFd>,
    /// The writing end of a pipe: its other end is the session, whose closing detaches the client, and from which one byte
    /// (`SessionEnd`) comes when the container or the monitor ended it.
    pub session: OwnedFd,
}

/// Which internet protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Who gets a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The container's first process.
    Process,
    /// Every process in its cgroup.
    Tree,
}

/// What a monitor tells unasked.
#[derive(Debug)]
pub enum MonitorEvent {
    /// A container ended; its exit record is on disk.
    ContainerExited {
        /// Which.
        id: ContainerId,
        /// How.
        record: ExitRecord,
    },
    /// An exec'd process ended.
    ExecExited {
        /// Which.
        exec: String,
        /// What it returned, or 128 + the signal that ended it.
        exit_code: i32,
    },
    /// The connection ended: the monitor is gone, or another agent took it over. Always the last event.
    Lost,
}
