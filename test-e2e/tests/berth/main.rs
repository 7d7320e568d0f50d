//! What Berth promises beyond the CRI: it survives its own death, leaves nothing behind, and costs little. Each test has an
//! agent of its own; with `CRI_ENDPOINT` they refuse to run.

mod agent;
mod apparmor;
mod budgets;
mod checkpoints;
mod cni;
mod cni_many;
mod containerd;
mod disk;
mod fault_points;
mod handlers;
mod images;
mod isolation;
mod leaks;
mod node_extras;
mod nri;
mod nri_adjust;
mod oci;
mod oci_runtimes;
mod recovery;
mod registries;
mod resize;
mod selinux;
mod shared_network;
mod streams;
mod systemd;
mod traffic;
mod user_namespaces;
