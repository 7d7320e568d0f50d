//! The kernel: thin, safe wrappers where neither std nor rustix has one. The only `unsafe` of the crate is here.

/// The agent's reactor.
pub mod async_fd;
/// Device programs on cgroups.
pub mod bpf;
/// SCM_RIGHTS over SEQPACKET sockets.
pub mod fd_passing;
/// Sealed memory files.
pub mod memfd;
/// Mounts.
pub mod mount;
/// SEQPACKET sockets at paths.
pub mod unix_socket;
