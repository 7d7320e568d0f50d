//! What agent, spawner and monitor say to each other over a SEQPACKET socket.

/// The exit record on disk.
pub mod exit_file;
/// One message a packet, with its fds; large ones in a sealed memfd.
pub mod frame;
/// The messages.
mod messages;

pub use messages::*;
