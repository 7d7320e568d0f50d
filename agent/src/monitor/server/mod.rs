//! `berth-monitor`: the spawner and, forked from it, one monitor a pod. One thread each, epoll, no tokio.
//!
//! ```text
//! agent ──starts──► spawner ──forks──► monitor ──clones──► init ──execve──► the container's program
//!                                         └──borrower──clones──► exec'd program
//!                                         └──forks──► the writer of a container's log, while there is something to write
//! ```

/// Clients attached to containers.
mod attach;
/// A cgroup with all below it.
mod cgroup_tree;
/// What processes from a checkpoint may have.
mod confinement;
/// The agent's connection: answers, events, what could not be sent yet.
mod connection;
/// A container as its monitor knows it.
mod container;
/// Create and start.
mod create;
/// epoll, and what its events are about.
mod events;
/// Processes exec'd into a container.
mod exec;
/// The cgroups of execs.
mod exec_cgroup;
/// What happens when a process ends.
mod exit;
/// Containers that an OCI runtime runs.
mod external;
/// The CRI log: lines, timestamps, the process that writes the file.
mod log;
/// A container's log as the event loop sees it.
mod logging;
/// The event loop.
mod monitor;
/// Whether a container died by the OOM killer.
mod oom;
/// What the kernel has killed for want of memory.
mod oom_kills;
/// A process that mounts one overlay.
mod overlay;
/// A process that only waits.
mod placeholder;
/// From a fork of the spawner to a pod's monitor: namespaces and what lives in them.
mod pod;
/// From a request to its verb.
mod requests;
/// Processes from a checkpoint.
mod restore;
/// A client's pipe, and what waits for it.
mod sink;
/// The process that forks monitors.
mod spawner;
/// Signals, stops, removal.
mod stop;
/// Children that ended before anybody knew whose they are.
mod strays;
/// The mount namespace that holds nothing of the host.
mod template;
/// The namespaces of a pod in a user namespace.
mod user_namespace;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use log::fuzz_lines as fuzz_log_lines;
pub use spawner::main;
