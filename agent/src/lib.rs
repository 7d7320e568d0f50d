//! Berth: a Kubernetes node agent. kubelet talks CRI to it; it keeps images, pods and containers.
//!
//! Imports point one way only, and a test reads the `use` lines: cli → cri and admin → ops → image, network, stream, monitor's
//! client, libcontainer and state → model and sys. The monitor's server sees libcontainer and sys, and never tokio.

/// Berth's own small gRPC service: what the command line needs and the CRI does not have.
pub mod admin;
/// Checkpoints of containers: criu and the archive.
pub mod checkpoint;
/// The command line: `berth serve`, `doctor`, `config`, `image`.
pub mod cli;
/// The configuration file and flags, resolved.
pub mod config;
/// The CRI face: one short body a verb, pure conversions, error kinds to gRPC codes, one logging layer.
pub mod cri;
/// Abort points for crash tests; nothing at all in an ordinary build.
pub mod fault;
/// Doors for `agent/fuzz`: a parser's input, and what has to hold for any; nothing at all in an ordinary build.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
/// Images: references, registry client, pull pipeline, layer store.
pub mod image;
/// Containers: OCI spec, init plan, the code that carries it out, cgroups, seccomp.
pub mod libcontainer;
/// Ids, pods, containers and their states. Pure.
pub mod model;
/// The monitor: protocol, the agent's client, and the process that parents a pod's containers.
pub mod monitor;
/// The pod network: addresses, bridge and veth, DNS files.
pub mod network;
/// The Node Resource Interface: plugins that are told of pods and containers, and change them.
pub mod nri;
/// Containers of OCI bundles, without an agent.
pub mod oci;
/// The verbs: one file a verb, each the story of a request with its undo.
pub mod ops;
/// The agent's memory of pods and containers: snapshot reads, one writer, files.
pub mod state;
/// The streaming server: exec, attach and port-forward over SPDY and WebSocket.
pub mod stream;
/// The kernel: the only place with `unsafe`.
pub mod sys;
/// Logs, spans and metrics.
pub mod telemetry;
