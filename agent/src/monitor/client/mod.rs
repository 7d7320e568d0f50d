//! The agent's side of the spawner's and the monitors' sockets (tokio).
//!
//! One task a connection receives; callers send for themselves and wait for the answer with their request's id.

/// Requests matched with answers, events handed on.
mod connection;
/// What can go wrong.
mod error;
/// One pod's monitor.
mod monitor;
/// The process that forks monitors.
mod spawner;
/// What the verbs take and give.
mod types;

pub use error::MonitorError;
pub use monitor::Monitor;
pub use spawner::{Placeholder, Spawner, SpawnerConfig};
pub use types::*;
