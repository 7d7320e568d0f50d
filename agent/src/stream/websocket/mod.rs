//! WebSocket as Kubernetes clients speak it: channels in messages, or SPDY inside them.

/// Channels in messages.
mod channels;
/// Frames: bytes in, pieces out.
mod codec;
/// A connection: messages to channels.
mod connection;
/// What has to hold for any input.
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
/// Port-forward: two channels a port.
mod port_forward;
/// Exec and attach: channels by their number.
mod remote_command;
/// SPDY inside binary messages.
mod tunnel;

pub(super) use channels::Format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::messages as fuzz_messages;
pub(super) use port_forward::port_forward;
pub(super) use remote_command::remote_command;
pub(super) use tunnel::tunnel;
