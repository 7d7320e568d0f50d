//! The agent's part of a container's mounts: each `FdSource` becomes a detached mount fd. Blocking: a source may be on a
//! slow disk or a remote file system.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::failure::InitFailure;
use super::image_tree;
use super::mounts::new_fs;
use super::relabel::relabel;
use crate::libcontainer::plan::{Attributes, Bind, FdSource, Missing, MountFs, Overlay, Propagation};
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

    /// As a step of init's.
    pub(super) fn as_failure(&self) -> InitFailure {
        let path = self.path.display().to_string();
        let errno = self.source.raw_os_error().unwrap_or(libc::EIO);
        InitFailure { step: format!("{}{}", self.step, self.detail), path, errno }
    }

    fn of(fs: &MountFs, failure: &InitFailure) -> Self {
        let error = io::Error::from_raw_os_error(failure.errno);
        Self { detail: format!(": {}", failure.step), ..Self::new("mount", Path::new(&fs.target), error) }
    }
}

/// How an overlay is mounted: by the agent (`mount_overlay`), or by who can where it cannot.
pub type Mount<'a, E> = &'a dyn Fn(&Overlay) -> Result<OwnedFd, E>;

/// Opens all sources, in their order, overlays by `mount`. `user_namespace` is the pod's, for those that are `idmapped`.
///
/// # Errors
/// The first that fails; nothing stays open then.
pub fn open<E: From<OpenError>>(
    sources: &[FdSource],
    user_namespace: Option<BorrowedFd<'_>>,
    mount: Mount<'_, E>,
) -> Result<Vec<OwnedFd>, E> {
    sources
        .iter()
        .map(|source| match source {
            FdSource::Overlay(overlay) => open_overlay(overlay, user_namespace, mount),
            FdSource::Image(image) => image_tree::open(image, user_namespace, mount),
            FdSource::Bind(bind) => Ok(open_bind(bind, user_namespace)?),
            FdSource::FileSystem(fs) => Ok(new_fs(fs).map_err(|failure| OpenError::of(fs, &failure))?),
        })
        .collect()
}

pub(super) fn open_overlay<E: From<OpenError>>(
    overlay: &Overlay,
    user_namespace: Option<BorrowedFd<'_>>,
    mount: Mount<'_, E>,
) -> Result<OwnedFd, E> {
    if let (None, [only]) = (&overlay.upper, overlay.lower.as_slice()) {
        return Ok(open_single_layer(only, overlay.idmapped, user_namespace)?);
    }
    mount(overlay)
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
            Propagation::Shared => mount::SHARED,
            Propagation::Unbindable => mount::UNBINDABLE,
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

pub(super) fn map_ids(mount: &OwnedFd, path: &Path, user_namespace: Option<BorrowedFd<'_>>) -> Result<(), OpenError> {
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

pub(super) fn clone_tree(path: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
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
