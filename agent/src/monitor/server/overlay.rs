//! A process that mounts one overlay for the agent: before Linux 6.8 many layers can only be named to mount(2), and before
//! 6.15 overlayfs takes as layers only what is mounted in the mount table of whoever asks. The agent's is the host's; this
//! one's is its own and ends with it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, move_mount};

use super::create::init;
use super::{spawner, template};
use crate::libcontainer::plan::{Overlay, Upper};
use crate::libcontainer::run;
use crate::libcontainer::run::failure::{InitFailure, Step};
use crate::libcontainer::run::template::VOID;
use crate::monitor::protocol::{Body, MountOverlay, Mounted};
use crate::sys::clone::exit_now;

/// The forked process's whole life.
pub(super) fn serve(fds: Vec<OwnedFd>, request: MountOverlay) -> ! {
    // Otherwise it is taken for a monitor by whoever looks.
    let _ = rustix::thread::set_name(c"berth-overlay");
    let mut fds = fds.into_iter();
    let Some(socket) = fds.next() else { exit_now(1) };
    let (body, fds) = match mount(fds.collect(), request) {
        Ok(mount) => (Body::Mounted(Mounted {}), vec![mount]),
        Err(failure) => (Body::Failure(init(failure)), Vec::new()),
    };
    // An agent that is gone does not mind.
    let _ = spawner::answer(&socket, 1, body, fds);
    exit_now(0)
}

/// `mounts` are the layers, then the folder of the writable one if there is one.
fn mount(mut mounts: Vec<OwnedFd>, request: MountOverlay) -> Result<OwnedFd, InitFailure> {
    unshare(CloneFlags::CLONE_NEWNS).step("make a mount namespace", "")?;
    template::mount_views()?;
    for mount in &mounts {
        move_mount(mount, "", CWD, VOID, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).step("mount a layer", "")?;
    }
    let path = |fd: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let writable = if request.writable { mounts.pop() } else { None };
    let upper = writable.as_ref().map(path).map(|folder| Upper {
        upper: folder.join("upper"),
        work: folder.join("work"),
        volatile: request.volatile,
    });
    let overlay = Overlay {
        lower: mounts.iter().map(path).collect(),
        upper,
        readonly: !request.writable,
        selinux_context: Some(request.selinux_context).filter(|context| !context.is_empty()),
        idmapped: false,
    };
    run::mount_overlay_at(&overlay, VOID).map_err(|error| InitFailure {
        step: format!("{}{}", error.step, error.detail),
        path: error.path.display().to_string(),
        errno: error.source.raw_os_error().unwrap_or(libc::EIO),
    })
}
