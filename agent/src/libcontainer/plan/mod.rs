//! `Spec` to `InitPlan`: data in, data out, tested without root.

/// What the agent opens for a plan.
mod fd_source;
/// The plan's types; they cross the monitor's socket.
mod init_plan;

pub use fd_source::*;
pub use init_plan::*;
