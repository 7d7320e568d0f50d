//! The monitor with real containers: needs root. Everything is in folders, cgroups and namespaces of its own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

/// Attached clients, and sockets in the network namespace of the pod.
mod attach;
/// Latencies, printed and not judged: `cargo test --release -p berth --test monitor -- --ignored --nocapture`.
mod bench;
/// What a container can see and do.
mod confinement;
/// From create to exit, execs, stops.
mod lifecycle;
/// The CRI log.
mod logs;
/// OOM kills, and whose they are.
mod oom;
/// What processes have open on their way to their program.
mod setup;
/// Spawner, pods and containers for the tests.
mod support;
/// Agents that die, and what goes on without them.
mod survival;
/// Terminals.
mod terminals;
/// Pods in user namespaces.
mod user_namespaces;
/// Hosts without the unified hierarchy.
mod v1;
