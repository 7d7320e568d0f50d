//! The messages between agent, spawner and monitor, as protobuf: fields are only ever added, so that a newer agent
//! drives an older monitor. File descriptors travel beside a message; a field named `*_fd` is an index among them.

use prost::{Enumeration, Message, Oneof};

use crate::libcontainer::plan::{InitPlan, ProcessPlan, UserNamespace};

/// The protocol's version. Raised when a meaning changes, not when a field is added.
pub const VERSION: u32 = 1;

/// From the agent to a spawner or a monitor.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// Chosen by the agent, never 0; the answer repeats it.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What is asked.
    #[prost(oneof = "Call", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 20, 21")]
    pub call: Option<Call>,
}

/// See `Request::call`.
#[derive(Clone, PartialEq, Oneof)]
pub enum Call {
    /// First on every connection.
    #[prost(message, tag = "2")]
    Hello(Hello),
    /// Spawner: fork a monitor for a pod.
    #[prost(message, tag = "3")]
    ForkMonitor(ForkMonitor),
    /// Clone a container's init and set it up; it waits for `Start`.
    #[prost(message, tag = "4")]
    Create(Create),
    /// Release a created container's init.
    #[prost(message, tag = "5")]
    Start(ContainerRef),
    /// Send a signal.
    #[prost(message, tag = "6")]
    Signal(Signal),
    /// Signal, wait, then kill the whole tree; answered when the exit is published.
    #[prost(message, tag = "7")]
    Stop(Stop),
    /// Run one more process in a container.
    #[prost(message, tag = "8")]
    Exec(Exec),
    /// Kill an exec'd process with all its descendants.
    #[prost(message, tag = "9")]
    KillExec(ExecRef),
    /// Go on in a new log file.
    #[prost(message, tag = "10")]
    ReopenLog(ReopenLog),
    /// Forget an exited container, or kill and forget one that is not.
    #[prost(message, tag = "11")]
    Remove(ContainerRef),
    /// Tell everything known.
    #[prost(message, tag = "12")]
    Inspect(Nothing),
    /// Kill what is left and exit.
    #[prost(message, tag = "13")]
    Shutdown(Nothing),
    /// Change the size of a container's terminal.
    #[prost(message, tag = "14")]
    Resize(Resize),
    /// Spawner: fork a process that only waits.
    #[prost(message, tag = "15")]
    ForkPlaceholder(ForkPlaceholder),
    /// Copy a container's output to a client and give it the way to its input.
    #[prost(message, tag = "16")]
    Attach(Attach),
    /// Make a TCP socket in the pod's network namespace.
    #[prost(message, tag = "17")]
    OpenSocket(OpenSocket),
    /// Spawner: fork a process that mounts an overlay.
    #[prost(message, tag = "20")]
    MountOverlay(MountOverlay),
    /// Instead of `Start`: have a program remake the container's processes from a checkpoint.
    #[prost(message, tag = "21")]
    Restore(Restore),
}

/// No arguments.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Nothing {}

/// See `Call::Hello`.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// The agent's `VERSION`.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// To the spawner: `tasks` (v1) and cgroup.procs (v2) files that it moves itself to, one a hierarchy.
    #[prost(uint32, repeated, tag = "2")]
    pub cgroup_procs_fds: Vec<u32>,
}

/// See `Call::ForkMonitor`. Fds: the listening socket, then the monitor's end of the agent's first connection.
#[derive(Clone, PartialEq, Message)]
pub struct ForkMonitor {
    /// The pod's id.
    #[prost(string, tag = "1")]
    pub pod: String,
    /// Set in the pod's own uts namespace.
    #[prost(string, tag = "2")]
    pub hostname: String,
    /// A network namespace of the pod's own; otherwise the host's.
    #[prost(bool, tag = "3")]
    pub private_net: bool,
    /// An ipc namespace of the pod's own.
    #[prost(bool, tag = "4")]
    pub private_ipc: bool,
    /// A uts namespace of the pod's own.
    #[prost(bool, tag = "5")]
    pub private_uts: bool,
    /// One PID namespace for the whole pod, with a reaping pid 1.
    #[prost(bool, tag = "6")]
    pub shared_pid: bool,
    /// Written in the pod's namespaces.
    #[prost(message, repeated, tag = "7")]
    pub sysctls: Vec<SysctlSetting>,
    /// Size of the pod's /dev/shm tmpfs; 0: none.
    #[prost(uint64, tag = "8")]
    pub shm_bytes: u64,
    /// Index of the listening socket.
    #[prost(uint32, tag = "9")]
    pub listener_fd: u32,
    /// Index of the monitor's end of the agent's first connection.
    #[prost(uint32, tag = "10")]
    pub connection_fd: u32,
    /// The SELinux label of the pod's /dev/shm; empty: none.
    #[prost(string, tag = "11")]
    pub shm_label: String,
    /// A user namespace of the pod's own, which owns all the others; it goes with `private_net`, `private_ipc` and
    /// `private_uts`.
    #[prost(message, optional, tag = "12")]
    pub user_namespace: Option<UserNamespace>,
    /// Index of another pod's network namespace, which this one is to live in; it goes without `private_net`.
    #[prost(uint32, optional, tag = "13")]
    pub network_fd: Option<u32>,
}

/// See `Call::ForkPlaceholder`. It ends when the agent closes its end of the pipe, at the latest by its death.
#[derive(Clone, PartialEq, Message)]
pub struct ForkPlaceholder {
    /// Index of the pipe's end that is read.
    #[prost(uint32, tag = "1")]
    pub pipe_fd: u32,
}

/// See `Call::MountOverlay`. Fds: the socket on which `Mounted` or a failure comes (with request id 1), the detached mounts of
/// the layers, the topmost first, and, if it is `writable`, that of the folder with `upper` and `work`.
#[derive(Clone, PartialEq, Message)]
pub struct MountOverlay {
    /// No sync at umount.
    #[prost(bool, tag = "1")]
    pub volatile: bool,
    /// The last fd is that of the writable layer.
    #[prost(bool, tag = "2")]
    pub writable: bool,
    /// The SELinux label of everything inside; empty: none.
    #[prost(string, tag = "3")]
    pub selinux_context: String,
}

/// The answer to `MountOverlay`. Fd 0: the detached mount.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Mounted {}

/// A key with dots or slashes (`net.ipv4.ip_forward`) and its value.
#[derive(Clone, PartialEq, Message)]
pub struct SysctlSetting {
    /// Below /proc/sys.
    #[prost(string, tag = "1")]
    pub key: String,
    /// What to write.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// See `Call::Create`. The plan's own fds come first.
#[derive(Clone, PartialEq, Message)]
pub struct Create {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What init does.
    #[prost(message, required, tag = "2")]
    pub plan: InitPlan,
    /// The container's folder in the unified hierarchy.
    #[prost(uint32, optional, tag = "3")]
    pub unified_fd: Option<u32>,
    /// `tasks` of each v1 hierarchy, open for writing.
    #[prost(uint32, repeated, tag = "4")]
    pub v1_tasks_fds: Vec<u32>,
    /// The folder with memory.events (v2) or memory.oom_control (v1).
    #[prost(uint32, optional, tag = "5")]
    pub memory_fd: Option<u32>,
    /// The folder of the log file.
    #[prost(uint32, optional, tag = "6")]
    pub log_dir_fd: Option<u32>,
    /// The log file's name in that folder.
    #[prost(string, tag = "7")]
    pub log_name: String,
    /// Where the exit record goes.
    #[prost(uint32, tag = "8")]
    pub record_dir_fd: u32,
    /// The container's folder in v1's freezer hierarchy, where there is no unified one.
    #[prost(uint32, optional, tag = "9")]
    pub freezer_fd: Option<u32>,
    /// The OCI runtime that runs it, if it is not the monitor itself. The plan's steps are then what is mounted for the runtime.
    #[prost(message, optional, tag = "10")]
    pub runtime: Option<Runtime>,
}

/// See `Create::runtime`.
#[derive(Clone, PartialEq, Message)]
pub struct Runtime {
    /// The program, by an absolute path of the host.
    #[prost(string, tag = "1")]
    pub program: String,
    /// The bundle's folder, with config.json in it; what is exec'd has its process in `exec-<id>.json` there.
    #[prost(string, tag = "2")]
    pub folder: String,
    /// The agent's mount namespace.
    #[prost(uint32, tag = "3")]
    pub mounts_fd: u32,
    /// The host has cgroup v1 and v2.
    #[prost(bool, tag = "4")]
    pub hybrid: bool,
    /// The runtime has `exec --cgroup`.
    #[prost(bool, tag = "5")]
    pub exec_cgroup: bool,
}

/// A container by its id.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerRef {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// See `Call::Restore`. The init that `Create` left waiting lends its mounts, standard input and output and cgroup to what the program
/// remakes, and ends. The answer is `Started`.
#[derive(Clone, PartialEq, Message)]
pub struct Restore {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The program, found by `path`, and its arguments. It leaves the id of the new first process, its sibling, in the file
    /// `RESTORED_PID` of the container's records.
    #[prost(string, repeated, tag = "2")]
    pub args: Vec<String>,
    /// Its PATH.
    #[prost(string, tag = "3")]
    pub path: String,
    /// Index of the mount namespace that the program is in, a copy of it.
    #[prost(uint32, tag = "4")]
    pub mount_namespace_fd: u32,
    /// Mounts of the waiting init, by their paths in it: there they are `staging/0`, `staging/1` …
    #[prost(string, repeated, tag = "5")]
    pub mounts: Vec<String>,
    /// A folder of that mount namespace.
    #[prost(string, tag = "6")]
    pub staging: String,
    /// What becomes of the waiting init's standard input and output.
    #[prost(message, repeated, tag = "7")]
    pub inherited: Vec<Inherited>,
    /// What the processes, which the program leaves stopped, are held against before they go on.
    #[prost(message, required, tag = "8")]
    pub confinement: Confinement,
}

/// The most that restored processes may have. Their images say what they had; what they may have is the request's.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Confinement {
    /// Capabilities, as a mask.
    #[prost(fixed64, tag = "1")]
    pub capabilities: u64,
    /// They have to have a system call filter.
    #[prost(bool, tag = "2")]
    pub seccomp: bool,
    /// They have to have no_new_privs.
    #[prost(bool, tag = "3")]
    pub no_new_privileges: bool,
    /// They may be user 0.
    #[prost(bool, tag = "4")]
    pub root: bool,
}

/// A descriptor of the waiting init, which the program gets as an option `--inherit-fd fd[N]:KEY`.
#[derive(Clone, PartialEq, Message)]
pub struct Inherited {
    /// Its number: 0, 1 or 2.
    #[prost(uint32, tag = "1")]
    pub fd: u32,
    /// What it was when the checkpoint was taken.
    #[prost(string, tag = "2")]
    pub key: String,
}

/// See `Restore::args`.
pub const RESTORED_PID: &str = "restored.pid";

/// See `Call::Signal`.
#[derive(Clone, PartialEq, Message)]
pub struct Signal {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The signal's number.
    #[prost(int32, tag = "2")]
    pub signal: i32,
    /// To every process of the container instead of its first.
    #[prost(bool, tag = "3")]
    pub tree: bool,
}

/// See `Call::Stop`.
#[derive(Clone, PartialEq, Message)]
pub struct Stop {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The polite signal, sent once.
    #[prost(int32, tag = "2")]
    pub signal: i32,
    /// How long after this message the tree is killed. A later Stop may shorten it, never lengthen.
    #[prost(uint64, tag = "3")]
    pub grace_ms: u64,
}

/// See `Call::Exec`.
#[derive(Clone, PartialEq, Message)]
pub struct Exec {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Chosen by the agent, unique in the pod.
    #[prost(string, tag = "2")]
    pub exec: String,
    /// What to run.
    #[prost(message, required, tag = "3")]
    pub process: ProcessPlan,
    /// With a terminal; its master side comes back with the answer.
    #[prost(bool, tag = "4")]
    pub tty: bool,
    /// Standard input; absent: /dev/null.
    #[prost(uint32, optional, tag = "5")]
    pub stdin_fd: Option<u32>,
    /// Standard output; absent: /dev/null.
    #[prost(uint32, optional, tag = "6")]
    pub stdout_fd: Option<u32>,
    /// Standard error; absent: /dev/null.
    #[prost(uint32, optional, tag = "7")]
    pub stderr_fd: Option<u32>,
}

/// An exec'd process by its id.
#[derive(Clone, PartialEq, Message)]
pub struct ExecRef {
    /// The exec's id.
    #[prost(string, tag = "1")]
    pub exec: String,
}

/// See `Call::ReopenLog`.
#[derive(Clone, PartialEq, Message)]
pub struct ReopenLog {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The folder of the log file.
    #[prost(uint32, tag = "2")]
    pub log_dir_fd: u32,
    /// The log file's name in that folder.
    #[prost(string, tag = "3")]
    pub log_name: String,
}

/// See `Call::Resize`.
#[derive(Clone, PartialEq, Message)]
pub struct Resize {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Characters in a line.
    #[prost(uint32, tag = "2")]
    pub columns: u32,
    /// Lines.
    #[prost(uint32, tag = "3")]
    pub rows: u32,
}

/// See `Call::Attach`.
#[derive(Clone, PartialEq, Message)]
pub struct Attach {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The client wants to write to standard input.
    #[prost(bool, tag = "2")]
    pub stdin: bool,
    /// The writing end of a pipe that gets standard output from now on; absent: not wanted.
    #[prost(uint32, optional, tag = "3")]
    pub stdout_fd: Option<u32>,
    /// The same for standard error, of which a container with a terminal has none.
    #[prost(uint32, optional, tag = "4")]
    pub stderr_fd: Option<u32>,
    /// The writing end of a pipe that is the session: closing its other end detaches the client, and one byte (a
    /// `SessionEnd`) tells that the monitor did.
    #[prost(uint32, tag = "5")]
    pub session_fd: u32,
}

/// What a monitor writes into a session's pipe before it closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SessionEnd {
    /// The container ended, and all its output is in the client's pipes.
    ContainerEnded = b'E',
    /// The client read too slowly: output is missing, and no more will come.
    FellBehind = b'B',
}

/// See `Call::OpenSocket`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct OpenSocket {
    /// IPv6 instead of IPv4.
    #[prost(bool, tag = "1")]
    pub ipv6: bool,
}

/// From a spawner or a monitor to the agent.
#[derive(Clone, PartialEq, Message)]
pub struct Answer {
    /// The request's id; 0: an event nobody asked for.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What is told.
    #[prost(oneof = "Body", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 20")]
    pub body: Option<Body>,
}

/// See `Answer::body`.
#[derive(Clone, PartialEq, Oneof)]
pub enum Body {
    /// The request failed and changed nothing.
    #[prost(message, tag = "2")]
    Failure(Failure),
    /// To `Hello`.
    #[prost(message, tag = "3")]
    Hello(HelloAnswer),
    /// To `ForkMonitor`, `ForkPlaceholder` and `MountOverlay`. Fd 0: the new process's pidfd.
    #[prost(message, tag = "4")]
    Forked(Forked),
    /// To `Create`.
    #[prost(message, tag = "5")]
    Created(Created),
    /// To `Start`: execve succeeded. To `Restore`: the processes run.
    #[prost(message, tag = "6")]
    Started(Started),
    /// To whatever has nothing to tell.
    #[prost(message, tag = "7")]
    Done(Nothing),
    /// To `Stop`.
    #[prost(message, tag = "8")]
    Stopped(ExitRecord),
    /// To `Exec`: execve succeeded. With a terminal fd 0 is its master side.
    #[prost(message, tag = "9")]
    Execed(Created),
    /// To `Inspect`.
    #[prost(message, tag = "10")]
    State(MonitorState),
    /// Event: a container ended; its exit record is on disk already.
    #[prost(message, tag = "11")]
    ContainerExited(ContainerExited),
    /// Event: an exec'd process ended.
    #[prost(message, tag = "12")]
    ExecExited(ExecExited),
    /// To `Attach`. Fd 0, if it was asked for and the container takes any: the way to its standard input.
    #[prost(message, tag = "13")]
    Attached(Nothing),
    /// To `OpenSocket`. Fd 0: the socket, nonblocking.
    #[prost(message, tag = "14")]
    Socket(Nothing),
    /// To `MountOverlay`, from the process that was forked.
    #[prost(message, tag = "20")]
    Mounted(Mounted),
}

/// See `Body::Failure`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Failure {
    /// What sort of failure.
    #[prost(enumeration = "FailureKind", tag = "1")]
    pub kind: i32,
    /// What was being done, e.g. "mount proc".
    #[prost(string, tag = "2")]
    pub step: String,
    /// On what, when there is a path.
    #[prost(string, tag = "3")]
    pub path: String,
    /// The system's error number; 0: none, `step` says it all.
    #[prost(int32, tag = "4")]
    pub errno: i32,
}

/// What sort of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum FailureKind {
    /// A step between clone and execve failed.
    Init = 0,
    /// No such container or exec.
    NotFound = 1,
    /// The object is not in a state for that.
    WrongState = 2,
    /// The request makes no sense.
    Invalid = 3,
    /// The monitor itself could not (out of memory, of fds, of processes …).
    Internal = 4,
}

/// See `Body::Hello`. A monitor adds fds: its network namespace, then a NETLINK_ROUTE socket in it, when it has one
/// of its own; then the pod's user namespace, when it has one.
#[derive(Clone, PartialEq, Message)]
pub struct HelloAnswer {
    /// The peer's `VERSION`.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The pod that a monitor serves; empty for a spawner.
    #[prost(string, tag = "2")]
    pub pod: String,
    /// The peer's process id on the host.
    #[prost(int32, tag = "3")]
    pub pid: i32,
    /// The two network fds are there.
    #[prost(bool, tag = "4")]
    pub network_fds: bool,
    /// It knows `Attach` and `OpenSocket`, which those of the first release do not.
    #[prost(bool, tag = "5")]
    pub streams: bool,
    /// The user namespace's fd is there.
    #[prost(bool, tag = "6")]
    pub user_namespace_fd: bool,
}

/// See `Body::Forked`.
#[derive(Clone, PartialEq, Message)]
pub struct Forked {
    /// The new process's id on the host.
    #[prost(int32, tag = "1")]
    pub pid: i32,
}

/// A process came to be.
#[derive(Clone, PartialEq, Message)]
pub struct Created {
    /// Its process id on the host.
    #[prost(int32, tag = "1")]
    pub pid: i32,
}

/// See `Body::Started`.
#[derive(Clone, PartialEq, Message)]
pub struct Started {
    /// When execve succeeded, ns since 1970.
    #[prost(int64, tag = "1")]
    pub started_at_ns: i64,
    /// After `Restore`, the process id of the container's new first process; else 0.
    #[prost(int32, tag = "2")]
    pub pid: i32,
}

/// How a container ended.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ExitRecord {
    /// What the program returned, or 128 + the signal that ended it.
    #[prost(int32, tag = "1")]
    pub exit_code: i32,
    /// The signal that ended it; 0: none.
    #[prost(int32, tag = "2")]
    pub signal: i32,
    /// The kernel's OOM killer took a process of the container, and the first process ended by a signal or not at all
    /// well. Decided from the cgroup's own counter.
    #[prost(bool, tag = "3")]
    pub oom_killed: bool,
    /// When it ended, ns since 1970.
    #[prost(int64, tag = "4")]
    pub finished_at_ns: i64,
    /// When execve succeeded, ns since 1970; 0: never.
    #[prost(int64, tag = "5")]
    pub started_at_ns: i64,
}

/// See `Body::ContainerExited`.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerExited {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// How it ended.
    #[prost(message, required, tag = "2")]
    pub record: ExitRecord,
}

/// See `Body::ExecExited`.
#[derive(Clone, PartialEq, Message)]
pub struct ExecExited {
    /// The exec's id.
    #[prost(string, tag = "1")]
    pub exec: String,
    /// What the program returned, or 128 + the signal that ended it.
    #[prost(int32, tag = "2")]
    pub exit_code: i32,
}

/// Everything a monitor knows.
#[derive(Clone, PartialEq, Message)]
pub struct MonitorState {
    /// Each container.
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<ContainerState>,
    /// Execs that run.
    #[prost(string, repeated, tag = "2")]
    pub execs: Vec<String>,
}

/// One container, as its monitor knows it.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerState {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Where in its life it is.
    #[prost(enumeration = "Phase", tag = "2")]
    pub phase: i32,
    /// Its first process's id on the host; 0 once it exited.
    #[prost(int32, tag = "3")]
    pub pid: i32,
    /// When execve succeeded, ns since 1970; 0: never.
    #[prost(int64, tag = "4")]
    pub started_at_ns: i64,
    /// Once it exited.
    #[prost(message, optional, tag = "5")]
    pub exit: Option<ExitRecord>,
}

/// Where in its life a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum Phase {
    /// Init is being set up.
    Creating = 0,
    /// Init waits for its release.
    Created = 1,
    /// The program runs.
    Running = 2,
    /// It ended, and the exit record is written.
    Exited = 3,
}
