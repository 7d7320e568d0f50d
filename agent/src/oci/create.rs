//! The verb `create`: everything up to the program, whose place init holds until `start`.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::bundle::Bundle;
use super::record::{Folder, Record};
use super::undo::Undo;
use super::{Error, Runtime, Starter, Status, console, process};
use crate::libcontainer::cgroup::{Cgroup, CgroupFds};
use crate::libcontainer::plan::{self, BundleInput, BundlePlan, NamespaceSet, bundle};
use crate::libcontainer::run::{
    self, Alone, HookStates, InitFailure, Launched, Report, Stdio, launch_alone, proceed, receive_report, run_hooks,
};
use crate::libcontainer::seccomp::compile;

/// What `create` takes.
#[derive(Debug, Default)]
pub struct CreateOptions {
    /// The container's name.
    pub id: String,
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// Where its process id is written.
    pub pid_file: Option<PathBuf>,
    /// Where its terminal's master side is sent.
    pub console_socket: Option<PathBuf>,
    /// Descriptors that its program gets under their numbers, from `enter`.
    pub passed: Vec<OwnedFd>,
}

/// A container that waits for `start`.
pub(super) struct Created {
    /// A child of this process.
    pub(super) pidfd: OwnedFd,
    /// Its terminal, unless it was sent away.
    pub(super) terminal: Option<OwnedFd>,
}

impl Runtime {
    /// Creates a container; it outlives this process.
    ///
    /// # Errors
    /// What cannot be had; nothing stays then.
    pub fn create(&self, options: &CreateOptions) -> Result<(), Error> {
        if wants_terminal(&Bundle::load(&options.bundle)?.spec) && options.console_socket.is_none() {
            return Err(Error::Arguments("process.terminal needs --console-socket".to_owned()));
        }
        self.create_here(options).map(drop)
    }

    /// The same; the caller stays its parent.
    pub(super) fn create_here(&self, options: &CreateOptions) -> Result<Created, Error> {
        let bundle = Bundle::load(&options.bundle)?;
        if options.console_socket.is_some() && !wants_terminal(&bundle.spec) {
            return Err(Error::Arguments("--console-socket needs process.terminal in config.json".to_owned()));
        }
        let starter = self.starter()?;
        let cgroup = bundle.cgroup(&options.id)?;
        let plan = plan_bundle(&bundle, &cgroup, &starter)?;
        plan.container.warnings.iter().for_each(|warning| self.log.warn(&warning.to_string()));

        let folder = self.store.create(&options.id)?;
        let mut undo = Undo { folder: Some(folder), cgroup: None, process: None };
        let mut record = Record::new(&options.id, &bundle.path, &bundle.rootfs, &cgroup, &bundle.spec);
        let launched = self.launch(&bundle, &plan, &starter, &mut record, &mut undo, &options.passed)?;
        let done = finish(&bundle.spec, &launched, &record, options);
        let Launched { pid, pidfd, .. } = launched;
        match done.and_then(|terminal| {
            let folder = undo.folder.as_ref().ok_or_else(|| Error::NotFound(options.id.clone()))?;
            record.created = true;
            folder.write(&record)?;
            write_pid(options.pid_file.as_deref(), pid)?;
            Ok(terminal)
        }) {
            Ok(terminal) => {
                undo.keep();
                Ok(Created { pidfd, terminal })
            }
            Err(error) => {
                drop(undo);
                // The life of the container goes on at its end (OCI runtime-spec, lifecycle).
                self.run_tolerantly("poststop", &bundle.spec, &record, Status::Stopped);
                Err(error)
            }
        }
    }

    /// From the plan to a process that waits to be let on.
    fn launch(
        &self,
        bundle: &Bundle,
        plan: &BundlePlan,
        starter: &Starter,
        record: &mut Record,
        undo: &mut Undo,
        passed: &[OwnedFd],
    ) -> Result<Launched, Error> {
        let folder = undo.folder.as_ref().ok_or_else(|| Error::NotFound(record.id.clone()))?;
        folder.write_spec(&bundle.spec)?;
        folder.write(record)?;
        let cgroup = Cgroup::create(&self.cgroups, &record.cgroup, bundle.limits().as_ref())?;
        let CgroupFds { unified, v1_tasks, .. } = undo.cgroup.insert(cgroup).join_fds()?;
        let (joined, joined_late) = open_namespaces(&plan.namespaces)?;
        // Of a container in a user namespace all are opened here.
        let sources = plan.container.fds.as_slice();
        let opened = if plan.namespaces.has(LinuxNamespaceType::User) { sources } else { &sources[..1] };
        let fds: Vec<OwnedFd> = run::open::<Error>(opened, None, &|overlay| Ok(run::mount_overlay(overlay, None)?))?;
        let socket = folder.socket();
        let listener = run::listen(&socket).map_err(Error::io("listen at", &socket))?;
        let template = run::blank()?;
        let offsets = plan.namespaces.makes(LinuxNamespaceType::Time).then(|| time_offsets(&bundle.spec));
        let alone = Alone {
            plan: &plan.container.init,
            fds: &fds,
            sources,
            cgroup: unified.as_ref().map(AsFd::as_fd),
            v1_tasks: &v1_tasks,
            new: new_namespaces(&plan.namespaces),
            joined: &joined,
            joined_late: &joined_late,
            time_offsets: offsets.as_deref(),
            template: &template,
            listener: &listener,
            passed,
        };
        let stdio = if plan.container.init.tty { Stdio::default() } else { own_stdio()? };
        let launched = launch_alone(starter.host.lend(starter.threads), &alone, stdio)?;
        undo.process = Some(launched.pidfd.try_clone().map_err(Error::io("keep", "the container's process"))?);
        record.pid = launched.pid;
        record.began = process::start_time(launched.pid).unwrap_or(0);
        folder.write(record)?;
        if plan.namespaces.has(LinuxNamespaceType::User) {
            let linux = bundle.spec.linux().as_ref();
            let makes = plan.namespaces.makes(LinuxNamespaceType::User);
            let map = |list: Option<&Vec<LinuxIdMapping>>| if makes { map_lines(list) } else { String::new() };
            let uids = map(linux.and_then(|linux| linux.uid_mappings().as_ref()));
            let gids = map(linux.and_then(|linux| linux.gid_mappings().as_ref()));
            starter.host.admit(launched.pid, &uids, &gids)?;
        }
        Ok(launched)
    }
}

/// Runs the hooks of the creation and has init do its part; its terminal, if nobody else got it.
fn finish(
    spec: &Spec,
    launched: &Launched,
    record: &Record,
    options: &CreateOptions,
) -> Result<Option<OwnedFd>, Error> {
    let creating = record.state(Status::Creating).to_string();
    for kind in ["prestart", "createRuntime"] {
        run_hooks(&plan::hooks(spec, kind)?, &creating)?;
    }
    let states = HookStates { creating, created: record.state(Status::Created).to_string() };
    proceed(&launched.control, &states).map_err(Error::io("let on", "the container's process"))?;
    let terminal = await_ready(&launched.control)?;
    match (terminal, &options.console_socket) {
        (Some(master), Some(socket)) => console::send(socket, &master).map(|()| None),
        (terminal, _) => Ok(terminal),
    }
}

/// Waits until a process that was cloned is set up; its terminal.
pub(super) fn await_ready(control: &OwnedFd) -> Result<Option<OwnedFd>, Error> {
    match await_report(control)? {
        Report::Ready(ready) => Ok(ready.terminal),
        Report::Failed(failure) => Err(failure.into()),
        Report::Closed => {
            Err(InitFailure::refused("the container's process was killed while it was set up", "").into())
        }
    }
}

/// Waits for the next word of a process that was cloned.
pub(super) fn await_report(control: &OwnedFd) -> Result<Report, Error> {
    loop {
        match poll(&mut [PollFd::new(control, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::io("wait for", "the container's process")(errno)),
        }
        match receive_report(control) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            other => return other.map_err(Error::io("hear from", "the container's process")),
        }
    }
}

pub(super) fn wants_terminal(spec: &Spec) -> bool {
    spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false)
}

fn plan_bundle(loaded: &Bundle, cgroup: &str, starter: &Starter) -> Result<BundlePlan, Error> {
    let seccomp = loaded.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = seccomp.map(compile).transpose()?;
    let input = BundleInput {
        bundle: &loaded.path,
        rootfs: &loaded.rootfs,
        cgroup,
        filter: filter.as_ref(),
        host: &starter.facts,
    };
    Ok(bundle(&loaded.spec, &input)?)
}

/// This process's own standard input and output.
pub(super) fn own_stdio() -> Result<Stdio, Error> {
    let copy = |fd: std::os::fd::BorrowedFd<'_>| match rustix::io::fcntl_dupfd_cloexec(fd, 3) {
        Ok(fd) => Ok(Some(fd)),
        // One that is closed becomes /dev/null.
        Err(rustix::io::Errno::BADF) => Ok(None),
        Err(errno) => Err(Error::io("hand on", "standard input and output")(errno)),
    };
    use rustix::stdio::{stderr, stdin, stdout};
    Ok(Stdio { stdin: copy(stdin())?, stdout: copy(stdout())?, stderr: copy(stderr())? })
}

pub(super) fn write_pid(path: Option<&Path>, pid: i32) -> Result<(), Error> {
    let Some(path) = path else { return Ok(()) };
    // Whoever waits for the file finds the number in it.
    let temporary = path.with_extension(format!("{pid}.new"));
    fs::write(&temporary, pid.to_string()).map_err(Error::io("write", &temporary))?;
    fs::rename(&temporary, path).map_err(Error::io("write", path))
}

/// `setns` and `clone3` know a namespace by its flag.
pub(super) fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    match kind {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Time => run::NEWTIME,
    }
}

/// Init makes its cgroup namespace once it is in its cgroup, and its time namespace is made before it.
fn new_namespaces(set: &NamespaceSet) -> CloneFlags {
    let early = set.new.iter().filter(|kind| !is_late(**kind));
    early.fold(CloneFlags::empty(), |flags, kind| flags | flag(*kind))
}

fn is_late(kind: LinuxNamespaceType) -> bool {
    matches!(kind, LinuxNamespaceType::Cgroup | LinuxNamespaceType::Time)
}

type Opened = Vec<(CloneFlags, OwnedFd)>;

/// The namespaces that init is born in, the user namespace last, since from within it others may be out of reach; and those
/// it enters itself.
fn open_namespaces(set: &NamespaceSet) -> Result<(Opened, Opened), Error> {
    let (mut early, mut late): (Opened, Opened) = (Vec::new(), Vec::new());
    let mut last = None;
    for (kind, path) in &set.joined {
        let fd = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let opened = (flag(*kind), fd.map_err(Error::io("open the namespace", path))?);
        match kind {
            LinuxNamespaceType::User => last = Some(opened),
            kind if is_late(*kind) => late.push(opened),
            _ => early.push(opened),
        }
    }
    early.extend(last);
    Ok((early, late))
}

/// The content of uid_map and gid_map (user_namespaces(7)).
fn map_lines(list: Option<&Vec<LinuxIdMapping>>) -> String {
    let line = |map: &LinuxIdMapping| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size());
    list.into_iter().flatten().map(line).collect()
}

/// The content of timens_offsets (time_namespaces(7)).
fn time_offsets(spec: &Spec) -> String {
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let mut lines: Vec<String> = offsets
        .into_iter()
        .flatten()
        .map(|(clock, offset)| format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0)))
        .collect();
    lines.sort();
    lines.concat()
}

impl Runtime {
    /// Runs hooks whose failure is a warning. For one that failed the next goes on.
    pub(super) fn run_tolerantly(&self, kind: &'static str, spec: &Spec, record: &Record, status: Status) {
        let state = record.state(status).to_string();
        let hooks = plan::hooks(spec, kind).unwrap_or_default();
        for failure in hooks.iter().filter_map(|hook| run::run_hook(hook, &state).err()) {
            self.log.warn(&format!("{kind}: {failure}"));
        }
    }

    /// The folder of a container that is to be changed, with what is remembered.
    pub(super) fn locked(&self, id: &str) -> Result<(Folder, Record), Error> {
        let folder = self.store.locked(id)?;
        let record = folder.read()?;
        Ok((folder, record))
    }
}
