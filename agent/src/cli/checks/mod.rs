//! What the agent needs of its host: facts are gathered in one place, judged in another without a system call, and
//! shown by `berth doctor` as a table and by `berth serve` as errors.

/// The judgement. Pure.
mod evaluate;
/// The gathering.
mod facts;

pub(super) use evaluate::{Check, Level, evaluate};
pub(super) use facts::Facts;
