//! Devices of the Container Device Interface (CDI): what a vendor's file on the node says a container needs in order to use a
//! device, put into its OCI `Spec`. Names come from requests and are hostile; the files are the operator's, and still bounded.
//!
//! Called by `ops::create_container` between the `Spec` and the plan.

/// Edits into a `Spec`.
mod apply;
/// A vendor's file.
mod document;
/// Names of devices.
mod name;
/// Names to edits, by the files of the node.
mod resolve;

use std::path::PathBuf;

pub use apply::{Maker, apply};
pub use name::{DeviceName, requested};
pub use resolve::{Injection, resolve};

/// Why a container cannot have its CDI devices.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// A name that is none.
    #[error("CDI device {name:?}: {reason}")]
    Name {
        /// As requested.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No file of the node knows them.
    #[error("unresolvable CDI devices {}: no file in {} has them{hint}", names.join(", "), list(dirs))]
    Unresolvable {
        /// Which.
        names: Vec<String>,
        /// Where was looked.
        dirs: Vec<PathBuf>,
        /// Files that could not be used, and devices that two files have; empty if there are none.
        hint: String,
    },
    /// The node's file asks for what this runtime does not do.
    #[error("CDI device {name}: {what}")]
    Unsupported {
        /// Which device, or which kind.
        name: String,
        /// What, and why not.
        what: String,
    },
    /// A device node that the file names and the host does not have as it says.
    #[error("CDI device {name}: device node {}: {reason}", path.display())]
    Node {
        /// Which device, or which kind.
        name: String,
        /// On the host.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

fn list(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
}
