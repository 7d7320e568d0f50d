//! Overlays: layers and a writable one as a detached mount. By fsconfig(2) the agent mounts them itself; where the kernel is
//! too old for that, a lent process does it with a mount table of its own.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, open_tree,
};

use super::open::{OpenError, clone_tree, map_ids};
use crate::libcontainer::plan::Overlay;
use crate::sys::mount::{self, SetAttr};

/// mount(2) reads so much of its options, a NUL byte at the end included, on every kind of processor.
const MOST_OPTIONS: usize = 4096;

/// Mounts an overlay without any mount table. For layers that are not `idmapped` it takes Linux 6.8, for those that are 6.15
/// (`HostFacts::detached_overlay`).
///
/// # Errors
/// A layer that is not there or cannot map owners, and what overlayfs refuses.
pub fn mount_overlay(overlay: &Overlay, user_namespace: Option<BorrowedFd<'_>>) -> Result<OwnedFd, OpenError> {
    let mapped = match overlay.idmapped {
        true => Some(open_mapped_layers(&overlay.lower, user_namespace)?),
        false => None,
    };
    by_fsconfig(overlay, mapped.as_deref())
}

/// Mounts an overlay at `target` and answers a detached clone of it. Only where `target` and the layers are in the mount table
/// of the calling process, and that is its own.
///
/// # Errors
/// What overlayfs refuses.
pub fn mount_overlay_at(overlay: &Overlay, target: &str) -> Result<OwnedFd, OpenError> {
    match by_fsconfig(overlay, None) {
        // Linux before 6.8 does not know `lowerdir+`, and takes from fsconfig(2) no more than 255 bytes of layers. If it was
        // something else, that is told.
        Err(first) if first.source.raw_os_error() == Some(libc::EINVAL) => {
            by_mount(overlay, target).map_err(|errno| match errno {
                Errno::INVAL => first,
                other => OpenError::new("mount overlay on", top(overlay), other),
            })
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

fn top(overlay: &Overlay) -> &Path {
    overlay.lower.first().map_or(Path::new(""), PathBuf::as_path)
}

/// `mapped` are detached mounts of the layers, to be used in the place of their paths.
fn by_fsconfig(overlay: &Overlay, mapped: Option<&[OwnedFd]>) -> Result<OwnedFd, OpenError> {
    let top = top(overlay);
    let failed = |step, path| move |errno: Errno| OpenError::new(step, path, errno);
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("open overlay for", top))?;
    let with_log = |error: OpenError| OpenError { detail: kernel_log(&fs), ..error };
    let set = |key: &'static str, path: &Path| {
        fsconfig_set_string(&fs, key, path).map_err(|errno| with_log(OpenError::new(key, path, errno)))
    };
    fsconfig_set_string(&fs, "source", "overlay").map_err(failed("source", top))?;
    match mapped {
        Some(clones) => {
            for (layer, clone) in overlay.lower.iter().zip(clones) {
                fsconfig_set_fd(&fs, "lowerdir+", clone).map_err(failed("lowerdir+", layer)).map_err(with_log)?;
            }
        }
        None => overlay.lower.iter().try_for_each(|layer| set("lowerdir+", layer))?,
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

fn by_mount(overlay: &Overlay, target: &str) -> Result<OwnedFd, Errno> {
    let options = CString::new(options(overlay)).map_err(|_| Errno::INVAL)?;
    if options.as_bytes_with_nul().len() > MOST_OPTIONS {
        return Err(Errno::TOOBIG);
    }
    let flags = if overlay.readonly { MountFlags::RDONLY } else { MountFlags::empty() };
    mount("overlay", target, "overlay", flags, options.as_c_str())?;
    open_tree(CWD, target, OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE)
}

/// As mount(2) reads them; paths are taken to have none of the characters that mean something there.
fn options(overlay: &Overlay) -> Vec<u8> {
    let layers: Vec<&[u8]> = overlay.lower.iter().map(|layer| layer.as_os_str().as_bytes()).collect();
    let mut options = [b"lowerdir=".to_vec(), layers.join(&b':')].concat();
    if let Some(upper) = &overlay.upper {
        options.extend([b",upperdir=", upper.upper.as_os_str().as_bytes()].concat());
        options.extend([b",workdir=", upper.work.as_os_str().as_bytes()].concat());
        if upper.volatile {
            options.extend(b",volatile");
        }
    }
    if let Some(context) = &overlay.selinux_context {
        // In quotes, since there is a comma between its categories.
        options.extend(format!(",context=\"{context}\"").bytes());
    }
    options
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libcontainer::plan::Upper;

    fn overlay(layers: usize) -> Overlay {
        Overlay {
            lower: (0..layers).map(|n| PathBuf::from(format!("/proc/self/fd/{}", 100 + n))).collect(),
            upper: Some(Upper { upper: "/u/upper".into(), work: "/u/work".into(), volatile: true }),
            readonly: false,
            selinux_context: Some("system_u:object_r:container_file_t:s0:c1,c2".to_owned()),
            idmapped: false,
        }
    }

    #[test]
    fn an_overlay_in_the_words_of_mount() {
        assert_eq!(
            String::from_utf8(options(&overlay(2))).unwrap(),
            "lowerdir=/proc/self/fd/100:/proc/self/fd/101,upperdir=/u/upper,workdir=/u/work,volatile,\
             context=\"system_u:object_r:container_file_t:s0:c1,c2\""
        );
        assert_eq!(
            options(&Overlay { upper: None, selinux_context: None, ..overlay(1) }),
            b"lowerdir=/proc/self/fd/100"
        );
        assert!(options(&overlay(127)).len() < MOST_OPTIONS, "as many layers as an image may have");
    }
}
