//! SPDY/3.1 as kubelet, kubectl and crictl speak it (moby/spdystream).

/// Frames: bytes in, frames out.
mod codec;
/// A connection: frames to streams.
mod connection;
/// Port-forward: pairs of streams.
mod port_forward;
/// Exec and attach: streams by their type.
mod remote_command;
/// One stream of a connection.
mod stream;
/// Flow control.
mod windows;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use codec::fuzz::frames as fuzz;
pub(super) use port_forward::port_forward;
pub(super) use remote_command::remote_command;

#[cfg(test)]
pub(super) mod test_client;
