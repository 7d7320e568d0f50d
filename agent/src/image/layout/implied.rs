//! Folders that a layer's archive only implied. A layer is unpacked by itself, shared by every image that has it, so it
//! cannot see the layers below; where its archive has `tmp/x` without `tmp/`, the folder would hide their mode 1777. The
//! image that first brings the layer settles them: they take what its layers below say.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self as sys, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::Layout;
use crate::image::error::ImageError;
use crate::model::Digest;

impl Layout {
    /// Owner, mode, time and xattrs of implied folders, from the nearest layer below. `layers`: the bottom one first, so
    /// that what is copied has been settled itself.
    pub(super) fn settle_implied(&self, layers: &[Digest]) -> Result<(), ImageError> {
        for (n, diff_id) in layers.iter().enumerate() {
            let folders = self.layers().take_implied(diff_id);
            if folders.is_empty() {
                continue;
            }
            let dir = self.layer_dir(diff_id);
            let below: Vec<OwnedFd> =
                layers[..n].iter().rev().filter_map(|lower| root(&self.layer_dir(lower)).ok()).collect();
            let own = root(&dir).map_err(|e| ImageError::io("open", &dir, e))?;
            for path in folders {
                let Some(model) = below.iter().find_map(|lower| folder(lower, &path).ok()) else { continue };
                let copied = folder(&own, &path).and_then(|copy| copy_attributes(&model, &copy));
                copied.map_err(|e| ImageError::io("set attributes of", &dir.join(&path), e))?;
            }
        }
        Ok(())
    }
}

fn root(dir: &Path) -> Result<OwnedFd, Errno> {
    sys::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Without following symlinks: what a symlink below leads to is another folder.
fn folder(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    sys::openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let stat = sys::fstat(from)?;
    sys::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    sys::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let mut names = vec![0u8; 64 << 10];
    let length = match sys::flistxattr(from, names.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    let names = names[..length].split(|b| *b == 0);
    for name in names.filter(|name| !name.is_empty() && !name.starts_with(b"trusted.overlay.")) {
        let mut value = vec![0u8; 64 << 10];
        let length = sys::fgetxattr(from, name, value.as_mut_slice())?;
        sys::fsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    sys::futimens(to.as_fd(), &Timestamps { last_access: time, last_modification: time })
}
