//! Terminals, made from the container's own devpts.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, fstatfs, major, minor, openat2};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::ioctl_tiocsctty;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::failure::{InitFailure, Step};
use super::mounts::{PROC, cover, type_of};
use crate::sys::in_root;

const PTMX: &str = "/dev/pts/ptmx";
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// A terminal's two ends.
#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// Opens a new terminal. A container's programs may have put anything where its devpts was, so the multiplexer is checked
/// to be one, and the slave is taken from the master rather than from a path.
pub(super) fn open(root: &OwnedFd, columns: u32, rows: u32) -> Result<Terminal, InitFailure> {
    let step = "open a terminal from";
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    // First without opening: merely to open a device or a fifo can have effects or block.
    let place = openat2(root, PTMX, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).step(step, PTMX)?;
    let stat = fstat(&place).step(step, PTMX)?;
    let is_ptmx = FileType::from_raw_mode(stat.st_mode).is_char_device()
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (5, 2)
        && fstatfs(&place).step(step, PTMX)?.f_type == DEVPTS_SUPER_MAGIC;
    if !is_ptmx {
        return Err(InitFailure::refused("this is no devpts:", PTMX));
    }
    let master = openat2(root, PTMX, flags, Mode::empty(), resolve).step(step, PTMX)?;
    if fstat(&master).step(step, PTMX)?.st_rdev != stat.st_rdev {
        return Err(InitFailure::refused("this is no devpts:", PTMX));
    }
    unlockpt(&master).step(step, PTMX)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .step("open the terminal's other end from", PTMX)?;
    if columns != 0 && rows != 0 {
        resize(&master, columns, rows).step("set the terminal's size", "")?;
    }
    Ok(Terminal { master, slave })
}

/// Makes it this session's controlling terminal.
pub(super) fn take_control(slave: &OwnedFd) -> Result<(), InitFailure> {
    ioctl_tiocsctty(slave).step("take control of the terminal", "")
}

/// Shows it as /dev/console, as programs that write to the console expect (OCI runtime-spec, default devices). What is
/// shown is the terminal itself, by its fd, and not what a path of the container leads to by now.
pub(super) fn as_console(root: &OwnedFd, slave: &OwnedFd) -> Result<(), InitFailure> {
    let path = "/dev/console";
    let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = open_tree(slave, "", flags).step("mount", path)?;
    let place = in_root::ensure_file(root, path).step("make", path)?;
    // CVE-2025-52565: who shares a volume at /dev decides what is there.
    if type_of(&place, path)? == PROC {
        return Err(InitFailure::refused("this leads into proc:", path));
    }
    cover(mount, place).step("mount", path)
}

/// Changes a terminal's size.
///
/// # Errors
/// The ioctl's.
pub fn resize(master: impl AsFd, columns: u32, rows: u32) -> rustix::io::Result<()> {
    let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    tcsetwinsize(master, Winsize { ws_row: clamp(rows), ws_col: clamp(columns), ws_xpixel: 0, ws_ypixel: 0 })
}
