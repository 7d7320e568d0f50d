//! A volume's files get a container's SELinux label (CRI `selinux_relabel`). The volume is hostile: others may change it
//! meanwhile, so folders are walked by fd and no link in it is followed.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, XattrFlags, fstat, lgetxattr, lsetxattr, openat, setxattr};
use rustix::io::Errno;

const NAME: &str = "security.selinux";
/// Folders within folders, each of which is an open file.
const DEEPEST: usize = 256;
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What the node itself needs as it is.
const SYSTEM_FOLDERS: [&str; 21] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/media", "/mnt", "/opt", "/proc",
    "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var",
];

/// Labels what is at `path`, links followed, and everything below it. A file system without labels keeps its own.
///
/// # Errors
/// One of the node's own folders; too deep a tree; what the kernel refuses.
pub(super) fn relabel(path: &Path, label: &str) -> io::Result<()> {
    let real = std::fs::canonicalize(path)?;
    if SYSTEM_FOLDERS.iter().any(|folder| real == Path::new(folder)) {
        return Err(io::Error::other("this is one of the node's own folders, which keep their labels"));
    }
    let top = openat(CWD, &real, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    // An O_PATH descriptor takes no fsetxattr(2); its link in /proc leads to the file itself.
    supported(setxattr(format!("/proc/self/fd/{}", top.as_raw_fd()), NAME, label.as_bytes(), XattrFlags::empty()))?;
    if FileType::from_raw_mode(fstat(&top)?.st_mode).is_dir() {
        below(openat(&top, ".", FOLDER, Mode::empty())?, label, DEEPEST)?;
    }
    Ok(())
}

fn below(folder: OwnedFd, label: &str, depth: usize) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other(format!("it has more than {DEEPEST} folders within each other")));
    }
    for entry in Dir::read_from(folder.as_fd())? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if let Err(error) = label_entry(&folder, name, label)
            && error != Errno::NOENT
        {
            return Err(error.into());
        }
        match openat(&folder, name, FOLDER, Mode::empty()) {
            Ok(child) => below(child, label, depth - 1)?,
            // No folder, a link, or gone by now.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// One file of an open folder; a link is labelled itself. What has the label already is not written to.
fn label_entry(folder: &OwnedFd, name: &CStr, label: &str) -> rustix::io::Result<()> {
    let path = [format!("/proc/self/fd/{}/", folder.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
    let mut present = [0u8; 256];
    match lgetxattr(path.as_slice(), NAME, &mut present) {
        // The kernel's own answers end with a NUL byte.
        Ok(len) if present[..len].strip_suffix(&[0]).unwrap_or(&present[..len]) == label.as_bytes() => Ok(()),
        _ => supported(lsetxattr(path.as_slice(), NAME, label.as_bytes(), XattrFlags::empty())),
    }
}

fn supported(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    if result == Err(Errno::OPNOTSUPP) { Ok(()) } else { result }
}
