//! What runs between clone and execve, and how the agent opens what it needs.
//!
//! `launch` (a container), `join` (an exec) and `restore` are called by the monitor; all end in `process`. The agent calls `open`.

/// A container without a monitor.
mod alone;
/// Masked and read-only paths.
mod cover;
/// Containers that an OCI runtime runs.
pub mod external;
/// Steps that failed, as data.
pub(crate) mod failure;
/// Programs that are run at points of a container's life.
mod hooks;
/// Image volumes.
mod image_tree;
/// A container's first process until it is released.
mod init;
/// One more process in a running container.
mod join;
/// AppArmor profile and SELinux label.
mod labels;
/// The monitor's part of starting a process.
mod launch;
/// Mounts inside the container.
mod mounts;
/// Folders, links and device nodes.
mod nodes;
/// The agent's part: detached mounts from `FdSource`s.
mod open;
/// Layers put together.
mod overlay;
/// What a command without a monitor lends to what it starts.
mod own_host;
/// Credentials, limits and execve.
mod process;
/// SELinux labels of volumes.
mod relabel;
/// Processes from a checkpoint, in a container that is ready for them.
mod restore;
/// Entering the root file system.
mod root;
/// Kernel settings of the pod's namespaces.
mod sysctl;
/// What masks are made of.
pub(crate) mod template;
/// Terminals.
mod terminal;
/// Into the pod's user namespace.
mod user_namespace;

pub use alone::{Alone, HookStates, NEWTIME, Started, blank, launch_alone, listen, proceed, start};
pub use failure::InitFailure;
pub use hooks::{run_hook, run_hooks};
pub use join::{Join, join};
pub use launch::{Host, Launch, Launched, Ready, Report, Stdio, launch, receive_report, release};
pub use open::{Mount, OpenError, open};
pub use overlay::{mount_overlay, mount_overlay_at, open_folder, open_mapped_layers};
pub use own_host::OwnHost;
pub use restore::{Restore, restore};
pub use sysctl::write as write_sysctl;
pub use terminal::resize as resize_terminal;
pub use user_namespace::PodUser;
