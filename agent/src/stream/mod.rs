//! The streaming server behind the CRI's Exec, Attach and PortForward. `ops` gives it a [`Session`] and hands the URL to
//! kubelet; the client that comes with that URL is served over SPDY/3.1 or WebSocket.
//!
//! Every byte is a client's: frames, headers, streams and windows are bounded before anything is kept.

/// What a token stands for.
mod session;

pub use session::{ConnectPort, ProcessIo, ProcessStreams, Session, StartProcess, TerminalSize};
