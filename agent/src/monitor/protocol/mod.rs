//! What agent, spawner and monitor say to each other over a SEQPACKET socket.

/// The exit record on disk.
pub mod exit_file;
/// One message a packet, with its fds; large ones in a sealed memfd.
pub mod frame;
/// What has to hold for any input.
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
/// The messages.
mod messages;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::messages as fuzz;
pub use messages::*;
