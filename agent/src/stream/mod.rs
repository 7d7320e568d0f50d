//! The streaming server behind the CRI's Exec, Attach and PortForward. `ops` gives it a [`Session`] and hands the URL to
//! kubelet; the client that comes with that URL is served over SPDY/3.1 or WebSocket.
//!
//! Every byte is a client's: frames, headers, streams and windows are bounded before anything is kept. One task serves
//! one client, and whatever it uses ends with it.

/// What both protocols give, and the limits.
mod client;
/// A process's pipes and terminals in the reactor.
mod descriptor;
/// Port-forward: a stream joined to a TCP connection.
mod forward;
/// Bounded bytes between a connection and who takes them.
mod inbox;
/// Exec and attach: streams joined to a process.
mod process;
/// Which protocol a request asks for. Pure.
mod request;
/// Terminal sizes. Pure.
mod resize;
/// HTTP, tokens and upgrades.
mod server;
/// What a token stands for.
mod session;
/// SPDY/3.1.
mod spdy;
/// What a client is told at the end. Pure.
mod status;
/// One-shot tokens.
mod tokens;
/// WebSocket.
mod websocket;

pub use server::{StreamError, StreamServer};
pub use session::{ConnectPort, ProcessIo, ProcessStreams, Session, StartProcess, TerminalSize};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use spdy::fuzz as fuzz_spdy;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use websocket::fuzz_messages as fuzz_websocket;

#[cfg(test)]
mod tests;
