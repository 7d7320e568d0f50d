//! A container's output on its way into the CRI log.

/// The log file and what happens when it cannot be written.
mod file;
/// Bytes to lines. Pure.
mod lines;
/// A pipe or terminal that is read.
mod output;
/// Time as text. Pure.
mod timestamp;

pub(super) use file::LogFile;
pub(super) use output::{Buffers, Output, Progress, StreamName};
