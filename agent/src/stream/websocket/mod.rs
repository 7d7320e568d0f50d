//! WebSocket as Kubernetes clients speak it: channels in messages, or SPDY inside them.

/// Channels in messages.
mod channels;
/// Frames: bytes in, pieces out.
mod codec;
/// A connection: messages to channels.
mod connection;
/// Port-forward: two channels a port.
mod port_forward;
/// Exec and attach: channels by their number.
mod remote_command;
/// SPDY inside binary messages.
mod tunnel;

pub(super) use channels::Format;
pub(super) use port_forward::port_forward;
pub(super) use remote_command::remote_command;
pub(super) use tunnel::tunnel;
