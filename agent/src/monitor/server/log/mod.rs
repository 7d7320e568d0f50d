//! A container's output on its way into the CRI log.

/// The log file and what happens when it cannot be written.
mod file;
/// What has to hold for any input.
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
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

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::lines as fuzz_lines;
pub(super) use output::{Buffers, Output, Progress, StreamName};
pub(super) use queue::{Log, Start};
pub(super) use writer::Fork;
