//! What runs between clone and execve, and how the agent opens what it needs.

/// The agent's part: detached mounts from `FdSource`s.
mod open;

pub use open::{OpenError, open};
