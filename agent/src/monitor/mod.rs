//! The monitor: one small process a pod that parents and reaps its containers and outlives the agent.

/// The agent's side of the socket (tokio).
pub mod client;
/// Messages and their framing. Pure.
pub mod protocol;
/// The process itself: one thread, epoll, no tokio.
pub mod server;
