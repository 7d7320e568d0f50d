//! From a fork of the spawner to a pod's monitor: its namespaces, what lives in them, and the event loop.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, openat};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};
use rustix::process::{
    PidfdFlags, Signal, getpid, pidfd_open, set_child_subreaper, set_parent_process_death_signal, setsid,
};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::monitor::{Kept, Monitor};
use super::user_namespace::{self, UserNamespace};
use super::{spawner, template};
use crate::libcontainer::run::failure::{InitFailure, Step};
use crate::libcontainer::run::write_sysctl;
use crate::monitor::protocol::frame::{self, PACKET_LIMIT};
use crate::monitor::protocol::{Body, ForkMonitor, Request};
use crate::sys::clone::{Child, CloneConfig, Cloned, SingleThreaded, clone, close_all_and_wait_forever, exit_now};
use crate::sys::signal;

/// Who the pod's pid 1 is, as everywhere: nobody who owns anything.
pub(super) const POD_INIT_ID: u32 = 65535;
/// The netlink protocol 0.
const NETLINK_ROUTE: Option<Protocol> = None;

/// How long a monitor that cannot be waits to say so.
const HELLO_PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// What the spawner hands on.
pub(super) struct Start {
    pub(super) threads: SingleThreaded,
    pub(super) host: template::Host,
    pub(super) pod: ForkMonitor,
    pub(super) fds: Vec<OwnedFd>,
}

/// The pod's network namespace and a socket in it.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) namespace: OwnedFd,
    pub(super) netlink: OwnedFd,
}

/// The forked process's whole life.
pub(super) fn become_monitor(start: Start) -> ! {
    let code = match run(start) {
        Ok(()) => 0,
        Err(failure) => {
            spawner::complain(&failure.to_string());
            1
        }
    };
    exit_now(code)
}

fn run(start: Start) -> Result<(), InitFailure> {
    let Start { threads, host, pod, fds } = start;
    let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
    let mut take = |index: u32| {
        fds.get_mut(index as usize)
            .and_then(Option::take)
            .ok_or_else(|| InitFailure::refused("a socket is missing", ""))
    };
    let (listener, connection) = (take(pod.listener_fd)?, take(pod.connection_fd)?);
    let others = pod.network_fd.map(&mut take).transpose()?;
    let made = make_namespaces(threads, &host, &pod, others);
    let Made { own_pidfd, network, pod_init, user } = match made {
        Ok(made) => made,
        Err(failure) => {
            refuse(&connection, &failure);
            return Err(failure);
        }
    };
    let kept = Kept { threads, host, own_pidfd, pod: pod.pod, network, pod_init, user };
    let mut monitor = Monitor::new(kept, listener, connection)?;
    monitor.greet();
    monitor.run()
}

/// What a monitor has made for its pod.
struct Made {
    own_pidfd: OwnedFd,
    network: Option<Network>,
    pod_init: Option<Child>,
    user: Option<UserNamespace>,
}

/// `others`: the network namespace of another pod, to be this one's, too.
fn make_namespaces(
    threads: SingleThreaded,
    host: &template::Host,
    pod: &ForkMonitor,
    others: Option<OwnedFd>,
) -> Result<Made, InitFailure> {
    setsid().step("start a session", "")?;
    // Orphans of the pod are this process's to reap.
    set_child_subreaper(Some(getpid())).step("become the pod's reaper", "")?;
    let own_pidfd = pidfd_open(getpid(), PidfdFlags::empty()).step("open this process", "")?;
    let (user, pod_init) = match pod.user_namespace {
        None => {
            unshare(namespaces_of(pod) | CloneFlags::CLONE_NEWNS).step("make the pod's namespaces", "")?;
            (None, None)
        }
        Some(ids) => {
            // This one stays the host's: the monitor mounts in it what only the host's root may.
            unshare(CloneFlags::CLONE_NEWNS).step("make the monitor's mount namespace", "")?;
            let (user, pod_init) = user_namespace::make(threads, host, ids, namespaces_of(pod), pod.shared_pid)?;
            template::mount_views()?;
            (Some(user), pod_init)
        }
    };
    if let Some(namespace) = &others {
        setns(namespace, CloneFlags::CLONE_NEWNET).step("enter the other pod's network namespace", "")?;
    }
    if pod.private_uts && !pod.hostname.is_empty() {
        rustix::system::sethostname(pod.hostname.as_bytes()).step("set the host name", &pod.hostname)?;
    }
    for setting in &pod.sysctls {
        let write = || write_sysctl(host.procfs.as_fd(), &setting.key, &setting.value);
        match (write(), pod.user_namespace) {
            (Err(failure), Some(ids)) if failure.errno == libc::EACCES => user_namespace::as_its_root(ids, write)?,
            (written, _) => written?,
        }
    }
    if pod.shm_bytes != 0 {
        let root = pod.user_namespace.map_or((0, 0), |ids| (ids.uids.first, ids.gids.first));
        template::mount_shm(pod.shm_bytes, root, &pod.shm_label)?;
        if !pod.shm_label.is_empty() {
            template::label_mqueue(&pod.shm_label)?;
        }
    }
    let network = if pod.private_net || others.is_some() { Some(open_network(host)?) } else { None };
    let pod_init = match (pod_init, pod.shared_pid) {
        (None, true) => Some(start_pod_init(threads)?),
        (pod_init, _) => pod_init,
    };
    Ok(Made { own_pidfd, network, pod_init, user })
}

/// The namespaces that all of the pod's processes share, but for that of mounts, which nobody shares.
fn namespaces_of(pod: &ForkMonitor) -> CloneFlags {
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET, pod.private_net);
    flags.set(CloneFlags::CLONE_NEWIPC, pod.private_ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, pod.private_uts);
    flags
}

fn open_network(host: &template::Host) -> Result<Network, InitFailure> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = openat(&host.procfs, "self/ns/net", flags, Mode::empty()).step("open the network namespace", "")?;
    let netlink = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, NETLINK_ROUTE)
        .step("open a netlink socket", "")?;
    Ok(Network { namespace, netlink })
}

fn start_pod_init(threads: SingleThreaded) -> Result<Child, InitFailure> {
    let config = CloneConfig { flags: libc::CLONE_NEWPID as u64, cgroup: None };
    match clone(threads, config).step("start the pod's init", "")? {
        Cloned::Parent(child) => Ok(child),
        Cloned::Child => become_pod_init(POD_INIT_ID, POD_INIT_ID),
    }
}

/// The pid 1 of a pod that shares one PID namespace: it only reaps, which the kernel does for who ignores SIGCHLD. It
/// owns nothing, and containers that look into it see nothing.
pub(super) fn become_pod_init(uid: u32, gid: u32) -> ! {
    let result = (|| -> rustix::io::Result<()> {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        // After the change of user, which clears it.
        set_parent_process_death_signal(Some(Signal::KILL))
    })();
    signal::ignore_children();
    let _ = rustix::thread::set_name(c"berth-pod-init");
    if result.is_ok() {
        let _ = close_all_and_wait_forever();
    }
    exit_now(1)
}

/// The agent's hello gets the failure for an answer. It may be still to come, when the agent is kept from the processor
/// between its two messages; one that dies hangs up, and one that hangs is not waited for.
fn refuse(connection: &OwnedFd, failure: &InitFailure) {
    let _ = poll(&mut [PollFd::new(connection, PollFlags::IN)], Some(&HELLO_PATIENCE));
    let mut buffer = vec![0; PACKET_LIMIT];
    if let Ok((Request { id, .. }, _)) = frame::receive::<Request>(connection, &mut buffer) {
        let body = Body::Failure(spawner::internal(failure.clone()));
        // An agent that is gone does not mind.
        let _ = spawner::answer(connection, id, body, Vec::new());
    }
}
