//! End-to-end tests of a CRI runtime: what the tests in `tests/` and the binary `cri-bench` are built from.
//! It knows the CRI and nothing of Berth's code, so that the same tests run against any runtime (`CRI_ENDPOINT`).

/// `berth serve` with folders, a socket, a bridge and a cgroup of its own.
pub mod agent;
/// The typed client: one method a verb, with the deadlines a kubelet uses.
pub mod client;
/// The CRI log format, read strictly.
pub mod cri_log;
/// What a test begins with: an endpoint, a registry, images, and pods that go away with it.
pub mod fixture;
/// A machine of its own for the runtime: network and mount namespace, and an ancestor that reaps.
pub mod host;
/// Images made from nothing but Debian's static busybox and installed files.
pub mod image;
/// What a runtime may leave on a machine, counted before and after.
pub mod leaks;
/// A runtime with what it needs around it.
pub mod machine;
/// A plugin of the Node Resource Interface.
pub mod nri;
/// Pods and containers as a test handles them.
pub mod pod;
/// Processes as /proc tells: trees, proportional memory, CPU time.
pub mod process;
/// Registries: Debian's docker-registry, and one that misbehaves.
pub mod registry;
/// Pod and container configurations, built step by step.
pub mod spec;
/// A WebSocket client of Exec, Attach and PortForward.
pub mod stream;
/// A client that keeps no deadline itself.
pub mod untimed;
