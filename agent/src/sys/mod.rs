//! The kernel: thin, safe wrappers where neither std nor rustix has one. The only `unsafe` of the crate is here.

/// The agent's reactor.
pub mod async_fd;
/// Device programs on cgroups.
pub mod bpf;
/// Searching bytes.
pub mod bytes;
/// New processes.
pub mod clone;
/// Capabilities, no_new_privs and seccomp.
pub mod confine;
/// SCM_RIGHTS over SEQPACKET sockets.
pub mod fd_passing;
/// Paths that cannot lead out of a root.
pub mod in_root;
/// Descriptors that this process was started with.
pub mod inherited;
/// Sealed memory files.
pub mod memfd;
/// What of this process stays in memory.
pub mod memory;
/// Mounts.
pub mod mount;
/// Scheduler, I/O priority, personality.
pub mod scheduling;
/// A read buffer whose pages are given back.
pub mod scratch;
/// Signal dispositions and masks.
pub mod signal;
/// SEQPACKET sockets at paths.
pub mod unix_socket;
