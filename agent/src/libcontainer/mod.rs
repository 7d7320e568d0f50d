//! Containers as the kernel knows them: from an OCI runtime `Spec` to a running process.

/// AppArmor: the default profile, and what is loaded.
pub mod apparmor;
/// cgroups v1, v2 and hybrid: make, limit, enter, kill, freeze, measure.
pub mod cgroup;
/// What this host can do and has.
pub mod host;
/// The pure middle: `Spec` to `InitPlan`.
pub mod plan;
/// What runs between clone and execve, and how the agent opens what it needs.
pub mod run;
/// seccomp profiles compiled to BPF.
pub mod seccomp;
/// CRI request and image configuration to an OCI runtime `Spec`. Pure.
pub mod spec;
