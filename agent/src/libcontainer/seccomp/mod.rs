//! seccomp: profiles in the docker/containerd JSON format, our own default, and a compiler to classic BPF.
//!
//! libseccomp takes 12 ms for a profile of docker's size and the kernel 1 ms to load the result; a balanced tree over
//! intervals of system call numbers takes 0.1 ms for both. Pure but for the cache.

/// Compiled filters, kept by content.
mod cache;
/// Profile to program.
mod compile;
/// The profile of containers that ask for RuntimeDefault.
mod default;
/// What has to hold for any input.
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
/// Programs, run as the kernel runs them.
#[cfg(any(test, feature = "fuzzing"))]
mod interpreter;
/// What a profile means, rule by rule.
#[cfg(any(test, feature = "fuzzing"))]
mod meaning;
/// The JSON format, with its conditions.
mod profile;
/// System call numbers by name and machine.
mod table;

pub use cache::FilterCache;
pub use compile::{CompileError, Filter, compile};
pub use default::default_profile;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::profile as fuzz_profile;
pub use profile::{ProfileContext, ProfileError, load_profile};
pub use table::Machine;

#[cfg(test)]
mod tests;
