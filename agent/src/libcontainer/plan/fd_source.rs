//! What the agent opens for an `InitPlan`: a container's mounts, as data.
//!
//! `plan` lists them; `run::open` turns each into a *detached* mount fd (it belongs to no mount table until init moves
//! it into the container's). The index in the list is the fd index that the plan's steps name.

use std::path::PathBuf;

use super::MountFs;

/// One detached mount.
#[derive(Debug, Clone, PartialEq)]
pub enum FdSource {
    /// An overlay file system: a container's root.
    Overlay(Overlay),
    /// An image, or a part of one: an image volume.
    Image(ImageTree),
    /// A clone of what is at a host path (open_tree(2)): volumes, devices, the pod's /etc files.
    Bind(Bind),
    /// A file system of the host's making, of any type: what a bundle mounts that does not belong to a namespace.
    FileSystem(MountFs),
}

/// See `FdSource::Overlay`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Layer folders, the topmost first (the order of `ImageStore::layer_dirs`); at least one, at most 127.
    pub lower: Vec<PathBuf>,
    /// The writable layer; without one the mount is read-only by nature.
    pub upper: Option<Upper>,
    /// MOUNT_ATTR_RDONLY from the start. A container's read-only root is *not* made this way, since its mount points
    /// may have to be made first: it gets `Action::ReadonlyRoot` as its last step.
    pub readonly: bool,
    /// The SELinux label of everything inside (`context=`), if any.
    pub selinux_context: Option<String>,
    /// Layers are shown with the owners that they have in the pod's user namespace. The writable layer is not: its files
    /// have their owners on the host.
    pub idmapped: bool,
}

/// The writable layer of an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upper {
    /// Where changes go. Both folders exist already and are on one file system.
    pub upper: PathBuf,
    /// overlayfs's own work folder, empty.
    pub work: PathBuf,
    /// No sync at umount: the content dies with the container (floors.md: 25 ms otherwise).
    pub volatile: bool,
}

/// See `FdSource::Image`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageTree {
    /// The CRI mount's container_path, for errors.
    pub volume: String,
    /// The image's layers, without an upper one.
    pub overlay: Overlay,
    /// What of it is mounted: a folder or a file, symbolic links followed inside the image's root. Empty: all.
    pub sub_path: String,
    /// Which MOUNT_ATTR_* bits the mount has.
    pub attributes: Attributes,
}

/// See `FdSource::Bind`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bind {
    /// A host path; symbolic links are followed.
    pub source: PathBuf,
    /// With everything that is mounted below it.
    pub recursive: bool,
    /// Which MOUNT_ATTR_* bits change on the topmost mount.
    pub attributes: Attributes,
    /// Which MOUNT_ATTR_* bits change on it and on everything below: CRI's recursive read-only.
    pub recursive_attributes: Attributes,
    /// What later mounts on either side do.
    pub propagation: Propagation,
    /// What to do when nothing is at `source`.
    pub missing: Missing,
    /// The SELinux label that the source and everything below it is to have (CRI `selinux_relabel`), if any.
    pub relabel: Option<String>,
    /// Owners on the disk are shown as the same ids in the pod's user namespace; not of what is mounted below it.
    pub idmapped: bool,
}

/// MOUNT_ATTR_* bits (mount_setattr(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Bits to set, e.g. MOUNT_ATTR_RDONLY.
    pub set: u64,
    /// Bits to clear; for an atime mode the whole MOUNT_ATTR__ATIME mask.
    pub clear: u64,
}

/// CRI `MountPropagation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Propagation {
    /// Nothing crosses (CRI `PROPAGATION_PRIVATE`; rprivate).
    #[default]
    Private,
    /// The host's later mounts show in the container (CRI `PROPAGATION_HOST_TO_CONTAINER`; rslave). When the source
    /// is not shared on the host there is nothing to receive, and the mount is as good as private.
    HostToContainer,
    /// Both ways (CRI `PROPAGATION_BIDIRECTIONAL`; rshared): the clone stays in the source's peer group. A source that
    /// is not shared is an error.
    Bidirectional,
    /// As `Bidirectional`, and a source that is not shared begins a peer group of its own (mount(8), rshared).
    Shared,
    /// As `Private`, and nobody can bind it elsewhere (runbindable).
    Unbindable,
}

/// See `Bind::missing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missing {
    /// Opening fails (devices, the pod's own files).
    #[default]
    Fail,
    /// A folder is made, mode 0755, with its parents (CRI rule 27: a missing host path).
    MakeDir,
}
