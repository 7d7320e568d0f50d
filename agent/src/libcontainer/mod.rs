//! Containers as the kernel knows them: from an OCI runtime `Spec` to a running process.

/// AppArmor: the default profile, and what is loaded.
pub mod apparmor;
/// Classes of block I/O.
pub mod blockio;
/// Devices of the Container Device Interface.
pub mod cdi;
/// cgroups v1, v2 and hybrid: make, limit, enter, kill, freeze, measure.
pub mod cgroup;
/// Which class a container is in, by annotations.
pub mod classes;
/// Containers that an OCI runtime runs: `Spec` to config.json. Pure.
pub mod external;
/// What this host can do and has.
pub mod host;
/// The pure middle: `Spec` to `InitPlan`.
pub mod plan;
/// Classes of cache and memory bandwidth.
pub mod rdt;
/// What runs between clone and execve, and how the agent opens what it needs.
pub mod run;
/// seccomp profiles compiled to BPF.
pub mod seccomp;
/// CRI request and image configuration to an OCI runtime `Spec`. Pure.
pub mod spec;
