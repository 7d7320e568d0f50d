//! A container's output on its way into the CRI log.

/// The log file and what happens when it cannot be written.
mod file;
/// Bytes to lines. Pure.
mod lines;
/// A pipe or terminal that is read.
mod output;
/// Lines that wait for the writer.
mod queue;
/// Time as text. Pure.
mod timestamp;
/// The process that opens and writes the file.
mod writer;

pub(super) use output::{Buffers, Output, Progress, StreamName};
pub(super) use queue::{Log, Start};
pub(super) use writer::Fork;
