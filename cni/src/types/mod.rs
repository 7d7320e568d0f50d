//! The words of the CNI specification: versions, results, errors, names. Pure.
//!
//! There is one [`AddResult`] in memory, the newest; older versions are ways to read and write it.

mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod names;
mod result;
mod version;
mod wire;

pub use error::{CniError, Code};
pub use names::{Args, ContainerId, InterfaceName, InvalidName, NetworkName};
pub use result::{AddResult, Dns, Interface, InvalidResult, IpConfig, Route};
pub use version::{Command, UnknownVersion, Version};

/// JSON as plugins print it: four blanks, no newline at the end.
pub(crate) fn pretty(value: &impl serde::Serialize) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))?;
    Ok(out)
}
