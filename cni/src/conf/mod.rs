//! Network configuration: the files of an operator, and what a runtime adds to them for one call.
//!
//! [`Folder`] finds lists on disk; [`NetworkList::parse`] reads one (pure); [`Capabilities`] and [`PluginConf::input`] make
//! of it what a plugin gets on its standard input.

mod capabilities;
mod folder;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
mod list;

pub use capabilities::{Bandwidth, Capabilities, DnsCapability, IpRange, PortMapping};
pub use folder::{Folder, FolderError, RefusedFile};
pub use list::{InvalidConf, NetworkList, PluginConf};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::list as fuzz_list;
