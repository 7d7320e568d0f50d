//! The agent's part of a container's mounts: each `FdSource` becomes a detached mount fd. Blocking: a source may be on a
//! slow disk or a remote file system.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};

use super::image_tree;
use super::relabel::relabel;
use crate::libcontainer::plan::{Attributes, Bind, FdSource, Missing, Overlay, Propagation};
use crate::sys::mount::{self, SetAttr};

/// A mount that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{step} {path:?}{detail}")]
pub struct OpenError {
    /// What was being done.
    pub step: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the file system's own log says about it, if anything.
    pub detail: String,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl OpenError {
    pub(super) fn new(step: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { step, path: path.to_owned(), detail: String::new(), source: source.into() }
    }
}

/// Opens all sources, in their order. `user_namespace` is the pod's, for those that are `idmapped`.
///
/// # Errors
/// The first that fails; nothing stays open then.
pub fn open(sources: &[FdSource], user_namespace: Option<BorrowedFd<'_>>) -> Result<Vec<OwnedFd>, OpenError> {
    sources
        .iter()
        .map(|source| match source {
            FdSource::Overlay(overlay) => open_overlay(overlay, user_namespace),
            FdSource::Image(image) => image_tree::open(image, user_namespace),
            FdSource::Bind(bind) => open_bind(bind, user_namespace),
        })
        .collect()
}

pub(super) fn open_overlay(overlay: &Overlay, user_namespace: Option<BorrowedFd<'_>>) -> Result<OwnedFd, OpenError> {
    if let (None, [only]) = (&overlay.upper, overlay.lower.as_slice()) {
        return open_single_layer(only, overlay.idmapped, user_namespace);
    }
    if overlay.idmapped {
        return mount_overlay(overlay, &Layers::Mapped(open_mapped_layers(&overlay.lower, user_namespace)?));
    }
    match mount_overlay(overlay, &Layers::OneByOne) {
        // Linux before 6.8 does not know `lowerdir+`; if it was something else, that is told.
        Err(first) if first.source.raw_os_error() == Some(libc::EINVAL) => {
            mount_overlay(overlay, &Layers::Joined).map_err(|_| first)
        }
        other => other,
    }
}

/// A detached mount of each layer, with mapped owners.
///
/// # Errors
/// A layer that is not there, or a file system that cannot map owners.
pub fn open_mapped_layers(
    layers: &[PathBuf],
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<Vec<OwnedFd>, OpenError> {
    let open = |layer: &PathBuf| {
        let clone = open_folder(layer)?;
        map_ids(&clone, layer, user_namespace).map(|()| clone)
    };
    layers.iter().map(open).collect()
}

/// A detached mount of a folder.
///
/// # Errors
/// It is not there.
pub fn open_folder(path: &Path) -> Result<OwnedFd, OpenError> {
    let clone = clone_tree(path, false).map_err(|errno| OpenError::new("open layer", path, errno))?;
    // Of a shared mount it is a peer, and what is mounted on it would show on the host.
    let private = SetAttr { propagation: mount::PRIVATE, ..SetAttr::default() };
    mount::set_attr(&clone, private, false).map_err(|error| OpenError::new("make private", path, error))?;
    Ok(clone)
}

/// How overlayfs is told its layers.
enum Layers {
    /// `lowerdir+` for each, which is a detached mount (Linux 6.15).
    Mapped(Vec<OwnedFd>),
    /// `lowerdir+` for each: any path, any number.
    OneByOne,
    /// One `lowerdir`, 255 bytes at most: short names for about a dozen layers.
    Joined,
}

fn mount_overlay(overlay: &Overlay, layers: &Layers) -> Result<OwnedFd, OpenError> {
    let top = overlay.lower.first().map_or(Path::new(""), PathBuf::as_path);
    let failed = |step, path| move |errno: rustix::io::Errno| OpenError::new(step, path, errno);
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("open overlay for", top))?;
    let with_log = |error: OpenError| OpenError { detail: kernel_log(&fs), ..error };
    let set = |key: &'static str, path: &Path| {
        fsconfig_set_string(&fs, key, path).map_err(|errno| with_log(OpenError::new(key, path, errno)))
    };
    fsconfig_set_string(&fs, "source", "overlay").map_err(failed("source", top))?;
    let mut kept_open = Vec::new();
    match layers {
        Layers::Mapped(clones) => {
            for (layer, clone) in overlay.lower.iter().zip(clones) {
                fsconfig_set_fd(&fs, "lowerdir+", clone).map_err(failed("lowerdir+", layer)).map_err(with_log)?;
            }
        }
        Layers::OneByOne => {
            for layer in &overlay.lower {
                set("lowerdir+", layer)?;
            }
        }
        Layers::Joined => {
            let mut names = Vec::new();
            for layer in &overlay.lower {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let fd = openat(CWD, layer, flags, Mode::empty()).map_err(failed("open layer", layer))?;
                names.push(format!("/proc/self/fd/{}", fd.as_raw_fd()));
                kept_open.push(fd);
            }
            set("lowerdir", Path::new(&names.join(":")))?;
        }
    }
    if let Some(upper) = &overlay.upper {
        set("upperdir", &upper.upper)?;
        set("workdir", &upper.work)?;
        if upper.volatile {
            fsconfig_set_flag(&fs, "volatile").map_err(failed("volatile", &upper.upper)).map_err(with_log)?;
        }
    }
    if let Some(context) = &overlay.selinux_context {
        fsconfig_set_string(&fs, "context", context.as_str()).map_err(failed("context", top)).map_err(with_log)?;
    }
    fsconfig_create(&fs).map_err(failed("mount overlay on", top)).map_err(with_log)?;
    let attributes = if overlay.readonly { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed("mount overlay on", top))
}

/// overlayfs wants two layers when there is no upper; one alone needs no overlay.
fn open_single_layer(
    layer: &Path,
    idmapped: bool,
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, OpenError> {
    let bind = Bind {
        source: layer.to_owned(),
        recursive: false,
        attributes: Attributes { set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()), clear: 0 },
        recursive_attributes: Attributes::default(),
        propagation: Propagation::Private,
        missing: Missing::Fail,
        relabel: None,
        idmapped,
    };
    open_bind(&bind, user_namespace)
}

pub(super) fn open_bind(bind: &Bind, user_namespace: Option<BorrowedFd<'_>>) -> Result<OwnedFd, OpenError> {
    let path = bind.source.as_path();
    let failed = |step| move |error: io::Error| OpenError::new(step, path, error);
    let tree = match clone_tree(path, bind.recursive) {
        Err(rustix::io::Errno::NOENT) if bind.missing == Missing::MakeDir => {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path)
                .map_err(failed("make the missing folder"))?;
            clone_tree(path, bind.recursive)
        }
        other => other,
    }
    .map_err(|errno| OpenError::new("open mount source", path, errno))?;
    if let Some(label) = &bind.relabel {
        relabel(path, label).map_err(failed("relabel"))?;
    }
    if bind.propagation == Propagation::Bidirectional && !is_shared(path).map_err(failed("propagation of"))? {
        let error = io::Error::other("it is not a shared mount, so nothing can be propagated to the host");
        return Err(OpenError::new("bidirectional mount of", path, error));
    }
    let Attributes { set, clear } = bind.attributes;
    let top = SetAttr { set, clear, propagation: 0 };
    let everywhere = SetAttr {
        set: bind.recursive_attributes.set,
        clear: bind.recursive_attributes.clear,
        propagation: match bind.propagation {
            Propagation::Private => mount::PRIVATE,
            Propagation::HostToContainer => mount::SLAVE,
            Propagation::Bidirectional => 0,
        },
    };
    if everywhere != SetAttr::default() {
        mount::set_attr(&tree, everywhere, true).map_err(failed("set attributes of everything below"))?;
    }
    if top != SetAttr::default() {
        mount::set_attr(&tree, top, false).map_err(failed("set attributes of"))?;
    }
    if bind.idmapped {
        map_ids(&tree, path, user_namespace)?;
    }
    Ok(tree)
}

fn map_ids(mount: &OwnedFd, path: &Path, user_namespace: Option<BorrowedFd<'_>>) -> Result<(), OpenError> {
    let step = "map the owners of";
    let Some(user_namespace) = user_namespace else {
        return Err(OpenError::new(step, path, io::Error::other("the pod has no user namespace")));
    };
    mount::set_idmap(mount, user_namespace).map_err(|source| {
        let cannot = source.raw_os_error() == Some(libc::EINVAL);
        let detail = if cannot { ": its file system cannot map owners for a pod in a user namespace" } else { "" };
        OpenError { detail: detail.to_owned(), ..OpenError::new(step, path, source) }
    })
}

fn clone_tree(path: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(CWD, path, flags)
}

/// Whether what is mounted at `path` is in a peer group, by the agent's own mount table: a detached clone is in none.
fn is_shared(path: &Path) -> io::Result<bool> {
    let id = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?.stx_mnt_id.to_string();
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().filter(|line| line.split(' ').next() == Some(id.as_str())).any(has_peer_group))
}

/// Optional fields stand between the sixth field and a lone dash (proc_pid_mountinfo(5)).
fn has_peer_group(line: &str) -> bool {
    line.split(' ').skip(6).take_while(|field| *field != "-").any(|field| field.starts_with("shared:"))
}

/// What the file system had to say (`fsopen(2)`: messages are read from the context's fd).
fn kernel_log(fs: impl AsFd) -> String {
    let mut text = String::new();
    let mut buffer = [0u8; 512];
    while let Ok(len) = rustix::io::read(&fs, &mut buffer) {
        let line = String::from_utf8_lossy(&buffer[..len]);
        text.push_str(": ");
        text.push_str(line.trim_start_matches(['e', 'w', 'i', ' ']).trim_end());
    }
    text
}
