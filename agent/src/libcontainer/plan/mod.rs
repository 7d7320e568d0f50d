//! `Spec` to `InitPlan`: data in, data out, tested without root.

/// The plan's types; they cross the monitor's socket.
mod init_plan;

pub use init_plan::*;
