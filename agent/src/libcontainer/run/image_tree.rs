//! An image volume as a detached mount: the image's layers, or a folder or file of them.
//!
//! A part of a detached mount cannot be cloned before Linux 6.15, so a folder is put together from what each layer has of
//! it, by overlayfs's own rules: a layer's whiteout, other kind of file, or opaque folder hides what is below.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fgetxattr, fstat, openat};
use rustix::io::Errno;

use super::open::{Mount, OpenError, open_bind, open_overlay};
use crate::libcontainer::plan::{Attributes, Bind, ImageTree, Missing, Overlay, Propagation};
use crate::sys::in_root;
use crate::sys::mount::{SetAttr, set_attr};

/// What overlayfs marks a folder with that hides those below.
const OPAQUE: &str = "trusted.overlay.opaque";

/// Opens an image volume.
///
/// # Errors
/// When the sub path is not there or is neither file nor folder, or a layer cannot be mounted.
pub(super) fn open<E: From<OpenError>>(
    image: &ImageTree,
    user_namespace: Option<BorrowedFd<'_>>,
    mount: Mount<'_, E>,
) -> Result<OwnedFd, E> {
    let whole = open_overlay(&image.overlay, user_namespace, mount)?;
    let mount = if image.sub_path.is_empty() { whole } else { open_part(image, &whole, user_namespace, mount)? };
    let Attributes { set, clear } = image.attributes;
    let change = SetAttr { set, clear, propagation: 0 };
    set_attr(&mount, change, false).map_err(|error| OpenError::new("set attributes of", top(image), error))?;
    Ok(mount)
}

fn open_part<E: From<OpenError>>(
    image: &ImageTree,
    whole: &OwnedFd,
    user_namespace: Option<BorrowedFd<'_>>,
    mount: Mount<'_, E>,
) -> Result<OwnedFd, E> {
    let asked = Path::new(&image.sub_path);
    let found = in_root::open(whole, &image.sub_path, OFlags::PATH);
    let found = found.map_err(|errno| OpenError::new("find image_sub_path", asked, errno))?;
    let failed = |step| move |error: std::io::Error| OpenError::new(step, asked, error);
    let kind = fstat(&found).map_err(|errno| failed("look at image_sub_path")(errno.into()))?.st_mode;
    // The kernel has followed the links: what the fd is called has none.
    let path = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(failed("name image_sub_path"))?;
    let path = path.strip_prefix("/").unwrap_or(&path);
    match FileType::from_raw_mode(kind) {
        FileType::Directory => {
            let lower = parts(&image.overlay.lower, path, true)?;
            open_overlay(&Overlay { lower, ..image.overlay.clone() }, user_namespace, mount)
        }
        FileType::RegularFile => {
            let parts = parts(&image.overlay.lower, path, false)?;
            let source = parts.into_iter().next().ok_or_else(|| OpenError::new("find", asked, Errno::NOENT))?;
            let bind = Bind {
                source,
                recursive: false,
                attributes: image.attributes,
                recursive_attributes: Attributes::default(),
                propagation: Propagation::Private,
                missing: Missing::Fail,
                relabel: None,
                idmapped: image.overlay.idmapped,
            };
            Ok(open_bind(&bind, user_namespace)?)
        }
        _ => Err(failed("mount image_sub_path")(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "it is neither a folder nor a file",
        ))
        .into()),
    }
}

fn top(image: &ImageTree) -> &Path {
    image.overlay.lower.first().map_or(Path::new(""), PathBuf::as_path)
}

/// What one layer has at a path, and whether layers below still show through it.
struct Seen {
    kind: Option<FileType>,
    hides: bool,
}

/// What the layers (the topmost first) have of a folder, or the one file that shows.
fn parts(layers: &[PathBuf], path: &Path, folder: bool) -> Result<Vec<PathBuf>, OpenError> {
    let mut parts = Vec::new();
    for layer in layers {
        let seen = look(layer, path).map_err(|errno| OpenError::new("look into layer", layer, errno))?;
        let fits = seen.kind.is_some_and(|kind| (kind == FileType::Directory) == folder);
        if fits {
            parts.push(layer.join(path));
        }
        if seen.hides {
            break;
        }
    }
    Ok(parts)
}

fn look(layer: &Path, path: &Path) -> Result<Seen, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut here = openat(CWD, layer, flags, Mode::empty())?;
    let mut hides = false;
    let names: Vec<&OsStr> = path.iter().collect();
    for (n, name) in names.iter().enumerate() {
        let is_last = n + 1 == names.len();
        let next = match openat(&here, *name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT) => return Ok(Seen { kind: None, hides }),
            Err(errno) => return Err(errno),
        };
        let stat = fstat(&next)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory {
            let shows = is_last && !is_whiteout(&stat);
            return Ok(Seen { kind: shows.then_some(kind), hides: true });
        }
        here = openat(&here, *name, flags | OFlags::NOFOLLOW, Mode::empty())?;
        hides |= is_opaque(&here)?;
    }
    Ok(Seen { kind: Some(FileType::Directory), hides })
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(folder: &OwnedFd) -> Result<bool, Errno> {
    let mut value = [0u8; 1];
    match fgetxattr(folder, OPAQUE, &mut value) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without root there are no whiteouts and no trusted attributes; kinds and order are what is left to see.
    #[test]
    fn a_folder_is_made_of_every_layers_part_until_one_hides_it() {
        let root = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = ["top", "middle", "base", "hidden"].map(|name| root.path().join(name)).into();
        fs::create_dir_all(layers[0].join("a/b")).unwrap();
        fs::create_dir_all(layers[1].join("a")).unwrap();
        fs::create_dir_all(layers[2].join("a/b")).unwrap();
        fs::create_dir_all(layers[3].join("a/b")).unwrap();
        let path = Path::new("a/b");
        let expected = [layers[0].join(path), layers[2].join(path), layers[3].join(path)];
        assert_eq!(parts(&layers, path, true).unwrap(), expected);
        fs::remove_dir(layers[1].join("a")).unwrap();
        fs::write(layers[1].join("a"), "a file hides the folders below").unwrap();
        assert_eq!(parts(&layers, path, true).unwrap(), expected[..1]);
        std::os::unix::fs::symlink("/etc", layers[0].join("a/link")).unwrap();
        assert_eq!(look(&layers[0], Path::new("a/link/passwd")).unwrap().kind, None, "links are not followed");
    }

    #[test]
    fn a_file_is_the_topmost_layers() {
        let root = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = ["top", "base"].map(|name| root.path().join(name)).into();
        for layer in &layers {
            fs::create_dir(layer).unwrap();
            fs::write(layer.join("f"), "x").unwrap();
        }
        assert_eq!(parts(&layers, Path::new("f"), false).unwrap(), [layers[0].join("f")]);
        assert!(parts(&layers, Path::new("g"), false).unwrap().is_empty());
    }
}
