//! The `InitPlan`: everything a container's init does between clone and execve, as data.
//!
//! `plan` makes it from an OCI `Spec` without touching the system; the agent opens the file descriptors it asks for
//! (`FdSource`), and the monitor's init interprets the steps one after the other. It crosses the monitor's socket as
//! protobuf, so that a newer agent can drive an older monitor: fields are only ever added.

use prost::{Message, Oneof};

/// What init needs to become the container's first process. All paths are inside the container's root.
#[derive(Clone, PartialEq, Message)]
pub struct InitPlan {
    /// The namespaces that the container gets for itself; net, ipc and uts are the pod's and are inherited from the
    /// monitor.
    #[prost(message, required, tag = "1")]
    pub namespaces: Namespaces,
    /// Carried out in this order after init entered its cgroup and its mount namespace.
    #[prost(message, repeated, tag = "2")]
    pub steps: Vec<Step>,
    /// The program, and the credentials it runs with. Applied after all steps, on release.
    #[prost(message, required, tag = "3")]
    pub process: ProcessPlan,
    /// A terminal is made from the container's own devpts and becomes fds 0–2 (OCI runtime-spec `process.terminal`).
    #[prost(bool, tag = "4")]
    pub tty: bool,
    /// Standard input stays open for attach; otherwise it is /dev/null.
    #[prost(bool, tag = "5")]
    pub stdin: bool,
    /// What the first attached client's end of input does: with `true` the program sees end-of-file.
    #[prost(bool, tag = "6")]
    pub stdin_once: bool,
    /// Run after the release and before the program, by the container's user (OCI runtime-spec hooks, `startContainer`).
    #[prost(message, repeated, tag = "7")]
    pub start_hooks: Vec<Hook>,
}

/// Where the container's process id and cgroup views come from.
#[derive(Clone, PartialEq, Message)]
pub struct Namespaces {
    /// Whose process ids the container sees.
    #[prost(enumeration = "PidNamespace", tag = "1")]
    pub pid: i32,
    /// The container whose PID namespace is joined when `pid` is `Target`.
    #[prost(string, tag = "2")]
    pub pid_target: String,
    /// A cgroup namespace of its own. Init unshares it itself once it is in its cgroup: clone3 would root it at the
    /// monitor's cgroup, since `copy_cgroup_ns` reads the parent's.
    #[prost(bool, tag = "3")]
    pub cgroup: bool,
    /// The pod's user namespace. Init is born in it, and becomes its root before the first step.
    #[prost(bool, tag = "4")]
    pub user: bool,
}

/// CRI `NamespaceOption.pid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum PidNamespace {
    /// The pod's one PID namespace, whose pid 1 is the monitor's reaping `init` (CRI `POD`).
    Pod = 0,
    /// One of its own (CRI `CONTAINER`).
    Container = 1,
    /// The host's (CRI `NODE`).
    Node = 2,
    /// That of another container of the pod (CRI `TARGET`).
    Target = 3,
}

/// One thing init does. The order of the list is the order of doing.
#[derive(Clone, PartialEq, Message)]
pub struct Step {
    /// What to do.
    #[prost(oneof = "Action", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14")]
    pub action: Option<Action>,
}

/// The interpreter's whole vocabulary.
#[derive(Clone, PartialEq, Oneof)]
pub enum Action {
    /// The root file system: move the detached mount there, pivot into it, and drop everything else. Always first:
    /// afterwards no path can lead out of the container by construction.
    #[prost(message, tag = "1")]
    EnterRoot(EnterRoot),
    /// Attach a detached mount that the agent opened (or one that the monitor keeps for the pod).
    #[prost(message, tag = "2")]
    MoveMount(MoveMount),
    /// Make a file system that belongs to the container's own namespaces (proc, sysfs, mqueue, cgroup …) and attach it.
    #[prost(message, tag = "3")]
    MountFs(MountFs),
    /// A device node (mknod), or, where mknod is refused, nothing: the plan then holds a `MoveMount`.
    #[prost(message, tag = "4")]
    MakeNode(MakeNode),
    /// A symbolic link, when nothing is there yet.
    #[prost(message, tag = "5")]
    Symlink(Symlink),
    /// A folder and its missing parents.
    #[prost(message, tag = "6")]
    MakeDir(MakeDir),
    /// Cover a path so that nothing can be read from it; a path that does not exist is skipped.
    #[prost(message, tag = "7")]
    MaskPath(PathStep),
    /// Make a path read-only, with all below it; a path that does not exist is skipped.
    #[prost(message, tag = "8")]
    ReadonlyPath(PathStep),
    /// Write /proc/sys/<key>, before /proc/sys becomes read-only.
    #[prost(message, tag = "9")]
    Sysctl(Sysctl),
    /// Make the root mount itself read-only (not what is mounted below it).
    #[prost(message, tag = "10")]
    ReadonlyRoot(Unit),
    /// Change the attributes of a mount that is in place already, e.g. /sys to read-only at the end.
    #[prost(message, tag = "11")]
    SetMountAttr(SetMountAttr),
    /// The names of the UTS namespace, which is the container's own or one that it was told to join.
    #[prost(message, tag = "12")]
    SetNames(Names),
    /// Programs of the host, run in the container's namespaces before it leaves the host's files (OCI runtime-spec hooks,
    /// `createContainer`).
    #[prost(message, tag = "13")]
    RunHooks(Hooks),
    /// What `EnterRoot` leaves for later where it was told where the root file system is on the host.
    #[prost(message, tag = "14")]
    LeaveHost(LeaveHost),
}

/// No arguments.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Unit {}

/// See `Action::EnterRoot`.
#[derive(Clone, PartialEq, Message)]
pub struct EnterRoot {
    /// Index of the detached root mount in the message's fds.
    #[prost(uint32, tag = "1")]
    pub fd: u32,
    /// MS_SHARED, MS_SLAVE or MS_PRIVATE | MS_REC for the whole namespace afterwards (OCI `rootfsPropagation`);
    /// 0 leaves it private.
    #[prost(uint64, tag = "2")]
    pub propagation: u64,
    /// Where the root file system is on the host, for a container without a monitor: it is attached there, and the host's
    /// files stay in sight until `Action::LeaveHost`, for the sake of hooks. Empty: they are left at once.
    #[prost(string, tag = "3")]
    pub at: String,
    /// With `at`: the mount namespace is one that others are in, whose mounts are not ours to make private.
    #[prost(bool, tag = "4")]
    pub foreign_mounts: bool,
}

/// See `Action::LeaveHost`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct LeaveHost {
    /// By chroot(2), in a mount namespace that others are in; otherwise by pivot_root(2).
    #[prost(bool, tag = "1")]
    pub chroot: bool,
    /// MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE, perhaps with MS_REC, for the root afterwards; 0 leaves it as it is.
    #[prost(uint64, tag = "2")]
    pub propagation: u64,
}

/// See `Action::SetNames`.
#[derive(Clone, PartialEq, Message)]
pub struct Names {
    /// sethostname(2); empty leaves it.
    #[prost(string, tag = "1")]
    pub hostname: String,
    /// setdomainname(2); empty leaves it.
    #[prost(string, tag = "2")]
    pub domainname: String,
}

/// See `Action::RunHooks`.
#[derive(Clone, PartialEq, Message)]
pub struct Hooks {
    /// In their order.
    #[prost(message, repeated, tag = "1")]
    pub hooks: Vec<Hook>,
}

/// A program that is given the container's state on its standard input (OCI runtime-spec, hooks).
#[derive(Clone, PartialEq, Message)]
pub struct Hook {
    /// Absolute.
    #[prost(string, tag = "1")]
    pub path: String,
    /// argv with its first; empty: the path alone.
    #[prost(string, repeated, tag = "2")]
    pub args: Vec<String>,
    /// `KEY=value`; nothing else is in its environment.
    #[prost(string, repeated, tag = "3")]
    pub env: Vec<String>,
    /// Seconds after which it is killed and has failed; 0: none.
    #[prost(uint64, tag = "4")]
    pub timeout: u64,
}

/// See `Action::MoveMount`.
#[derive(Clone, PartialEq, Message)]
pub struct MoveMount {
    /// Where the mount comes from.
    #[prost(oneof = "MountSource", tags = "1, 2")]
    pub source: Option<MountSource>,
    /// Where it goes; a missing mount point is made (a folder 0755 or an empty file, as the source is).
    #[prost(string, tag = "3")]
    pub target: String,
}

/// See `MoveMount::source`.
#[derive(Clone, PartialEq, Eq, Hash, Oneof)]
pub enum MountSource {
    /// Index of a detached mount in the message's fds.
    #[prost(uint32, tag = "1")]
    Fd(u32),
    /// The pod's own tmpfs of that name in the monitor's mount namespace ("shm"): init clones it before `EnterRoot`.
    #[prost(string, tag = "2")]
    Pod(String),
}

/// See `Action::MountFs`. Made with fsopen/fsconfig/fsmount by init itself.
#[derive(Clone, PartialEq, Message)]
pub struct MountFs {
    /// "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup2", "cgroup".
    #[prost(string, tag = "1")]
    pub fstype: String,
    /// Where it goes; made when missing.
    #[prost(string, tag = "2")]
    pub target: String,
    /// The `source` shown in the mount table.
    #[prost(string, tag = "3")]
    pub source: String,
    /// MOUNT_ATTR_* bits for fsmount.
    #[prost(uint64, tag = "4")]
    pub attributes: u64,
    /// `key=value` or plain flags for fsconfig, e.g. `size=65536k`, `mode=755`, `newinstance`.
    #[prost(string, repeated, tag = "5")]
    pub options: Vec<String>,
    /// MS_SHARED, MS_SLAVE or MS_UNBINDABLE; 0 leaves it private.
    #[prost(uint64, tag = "7")]
    pub propagation: u64,
}

/// See `Action::MakeNode`.
#[derive(Clone, PartialEq, Message)]
pub struct MakeNode {
    /// Where.
    #[prost(string, tag = "1")]
    pub path: String,
    /// S_IFCHR, S_IFBLK or S_IFIFO with the permission bits.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Device major number.
    #[prost(uint32, tag = "3")]
    pub major: u32,
    /// Device minor number.
    #[prost(uint32, tag = "4")]
    pub minor: u32,
    /// Owner.
    #[prost(uint32, tag = "5")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "6")]
    pub gid: u32,
}

/// See `Action::Symlink`.
#[derive(Clone, PartialEq, Message)]
pub struct Symlink {
    /// What the link says.
    #[prost(string, tag = "1")]
    pub points_to: String,
    /// Where the link is.
    #[prost(string, tag = "2")]
    pub path: String,
}

/// See `Action::MakeDir`.
#[derive(Clone, PartialEq, Message)]
pub struct MakeDir {
    /// Where.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits of a folder that is made.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
}

/// A path inside the container.
#[derive(Clone, PartialEq, Message)]
pub struct PathStep {
    /// Absolute, inside the container's root.
    #[prost(string, tag = "1")]
    pub path: String,
}

/// See `Action::Sysctl`.
#[derive(Clone, PartialEq, Message)]
pub struct Sysctl {
    /// With dots or slashes, e.g. `net.ipv4.ip_forward`.
    #[prost(string, tag = "1")]
    pub key: String,
    /// What to write.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// See `Action::SetMountAttr`.
#[derive(Clone, PartialEq, Message)]
pub struct SetMountAttr {
    /// The mount's path.
    #[prost(string, tag = "1")]
    pub path: String,
    /// MOUNT_ATTR_* bits to set.
    #[prost(uint64, tag = "2")]
    pub set: u64,
    /// With everything mounted below it.
    #[prost(bool, tag = "3")]
    pub recursive: bool,
}

/// A program and its credentials: a container's own, or one exec'd into it (OCI runtime-spec `process`).
#[derive(Clone, PartialEq, Message)]
pub struct ProcessPlan {
    /// argv; `args[0]` is looked up in the environment's PATH when it has no slash.
    #[prost(string, repeated, tag = "1")]
    pub args: Vec<String>,
    /// `KEY=value`; bytes, since CRI's KeyValue.value is bytes.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub env: Vec<Vec<u8>>,
    /// Working directory; made when missing for a container, an error for an exec.
    #[prost(string, tag = "3")]
    pub cwd: String,
    /// User id.
    #[prost(uint32, tag = "4")]
    pub uid: u32,
    /// Primary group id.
    #[prost(uint32, tag = "5")]
    pub gid: u32,
    /// Supplementary group ids (setgroups).
    #[prost(uint32, repeated, tag = "6")]
    pub groups: Vec<u32>,
    /// umask; absent leaves 0022.
    #[prost(uint32, optional, tag = "7")]
    pub umask: Option<u32>,
    /// Capability sets, already clamped to what the agent holds.
    #[prost(message, required, tag = "8")]
    pub capabilities: Capabilities,
    /// PR_SET_NO_NEW_PRIVS.
    #[prost(bool, tag = "9")]
    pub no_new_privileges: bool,
    /// setrlimit calls.
    #[prost(message, repeated, tag = "10")]
    pub rlimits: Vec<Rlimit>,
    /// /proc/self/oom_score_adj; absent inherits the monitor's.
    #[prost(sint32, optional, tag = "11")]
    pub oom_score_adj: Option<i32>,
    /// A compiled classic BPF program (array of `sock_filter`, native endian); empty: unconfined.
    #[prost(bytes = "vec", tag = "12")]
    pub seccomp_filter: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_* for the load.
    #[prost(uint32, tag = "13")]
    pub seccomp_flags: u32,
    /// Profile for /proc/self/attr/apparmor/exec; empty: none.
    #[prost(string, tag = "14")]
    pub apparmor_profile: String,
    /// Label for /proc/self/attr/exec; empty: none.
    #[prost(string, tag = "15")]
    pub selinux_label: String,
    /// The terminal's size at start (columns, rows); 0: the kernel's default.
    #[prost(uint32, tag = "16")]
    pub tty_columns: u32,
    /// See `tty_columns`.
    #[prost(uint32, tag = "17")]
    pub tty_rows: u32,
    /// ioprio_set(2): the class in the bits from 13 on, the level below.
    #[prost(uint32, optional, tag = "18")]
    pub io_priority: Option<u32>,
    /// sched_setattr(2).
    #[prost(message, optional, tag = "19")]
    pub scheduler: Option<Scheduler>,
    /// personality(2): the execution domain.
    #[prost(uint32, optional, tag = "20")]
    pub personality: Option<u32>,
}

/// The kernel's `struct sched_attr`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Scheduler {
    /// SCHED_*.
    #[prost(uint32, tag = "1")]
    pub policy: u32,
    /// SCHED_FLAG_*.
    #[prost(uint64, tag = "2")]
    pub flags: u64,
    /// For SCHED_OTHER and SCHED_BATCH.
    #[prost(sint32, tag = "3")]
    pub nice: i32,
    /// For SCHED_FIFO and SCHED_RR.
    #[prost(uint32, tag = "4")]
    pub priority: u32,
    /// For SCHED_DEADLINE, ns.
    #[prost(uint64, tag = "5")]
    pub runtime: u64,
    /// For SCHED_DEADLINE, ns.
    #[prost(uint64, tag = "6")]
    pub deadline: u64,
    /// For SCHED_DEADLINE, ns.
    #[prost(uint64, tag = "7")]
    pub period: u64,
}

/// The five capability sets as bit masks (capabilities(7)).
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Capabilities {
    /// Upper bound for what an execve can gain.
    #[prost(fixed64, tag = "1")]
    pub bounding: u64,
    /// In force.
    #[prost(fixed64, tag = "2")]
    pub effective: u64,
    /// May be made effective.
    #[prost(fixed64, tag = "3")]
    pub permitted: u64,
    /// Kept across execve of a file that has them as inheritable.
    #[prost(fixed64, tag = "4")]
    pub inheritable: u64,
    /// Kept across execve of any file.
    #[prost(fixed64, tag = "5")]
    pub ambient: u64,
}

/// One setrlimit (getrlimit(2)).
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Rlimit {
    /// RLIMIT_* number.
    #[prost(uint32, tag = "1")]
    pub resource: u32,
    /// Soft limit.
    #[prost(uint64, tag = "2")]
    pub soft: u64,
    /// Hard limit.
    #[prost(uint64, tag = "3")]
    pub hard: u64,
}
