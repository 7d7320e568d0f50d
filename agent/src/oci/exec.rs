//! The verb `exec`: one more process in a running container.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxCapabilities, LinuxNamespaceType, Process, Spec};

use super::create::{await_report, flag, own_stdio, wants_terminal, write_pid};
use super::run::{Signals, exit_code, wait};
use super::{Error, Runtime, Status, console};
use crate::libcontainer::cgroup::{Cgroup, CgroupFds};
use crate::libcontainer::plan::process_plan;
use crate::libcontainer::run::{Join, Launched, Report, Stdio, join};
use crate::libcontainer::seccomp::compile;
use crate::libcontainer::spec::capability;

/// What is to be run.
#[derive(Debug)]
pub enum ExecProcess {
    /// A file with the `process` of a config.json.
    File(PathBuf),
    /// The container's own process, with these changes.
    Changes {
        /// The command.
        args: Vec<String>,
        /// A terminal.
        tty: bool,
        /// The working directory.
        cwd: Option<PathBuf>,
        /// `KEY=value`, added.
        env: Vec<String>,
        /// `uid` or `uid:gid`.
        user: Option<String>,
        /// Supplementary groups, added.
        additional_gids: Vec<u32>,
        /// Capabilities, added.
        caps: Vec<String>,
        /// No execve gives more privileges.
        no_new_privs: bool,
    },
}

/// What `exec` takes.
#[derive(Debug)]
pub struct ExecOptions {
    /// The container.
    pub id: String,
    /// What to run.
    pub process: ExecProcess,
    /// Do not wait for its end.
    pub detach: bool,
    /// Where its process id is written.
    pub pid_file: Option<PathBuf>,
    /// Where its terminal's master side is sent.
    pub console_socket: Option<PathBuf>,
    /// Descriptors that its program gets under their numbers, from `enter`.
    pub passed: Vec<OwnedFd>,
}

impl Runtime {
    /// Runs a process in a container; its exit code, or 0 when it is left alone.
    ///
    /// # Errors
    /// The container does not run, or the process cannot be had.
    pub fn exec(&self, options: &ExecOptions) -> Result<i32, Error> {
        let folder = self.store.open(&options.id)?;
        let (record, mut spec) = (folder.read()?, folder.read_spec()?);
        let wrong = |status| Error::Status { id: options.id.clone(), status, wanted: "running" };
        let container = match folder.status(&record) {
            Status::Created | Status::Running => record.process().ok_or_else(|| wrong(Status::Stopped))?,
            status => return Err(wrong(status)),
        };
        let namespaces = namespaces_of(&spec)?;
        set_process(&mut spec, &options.process)?;
        let tty = wants_terminal(&spec);
        check_console(tty, options)?;
        let starter = self.starter()?;
        let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let filter = seccomp.map(compile).transpose()?;
        let (process, warnings) = process_plan(&spec, &starter.facts, filter.as_ref())?;
        warnings.iter().for_each(|warning| self.log.warn(&warning.to_string()));
        let CgroupFds { unified, v1_tasks, .. } = Cgroup::open(&self.cgroups, &record.cgroup).join_fds()?;
        let stdio = if tty { Stdio::default() } else { own_stdio()? };
        let cgroup_namespace = namespaces.contains(CloneFlags::CLONE_NEWCGROUP);
        let launched = join(
            starter.host.lend(starter.threads),
            &Join {
                process: &process,
                tty,
                container: container.as_fd(),
                cgroup_namespace,
                namespaces: namespaces.difference(CloneFlags::CLONE_NEWCGROUP),
                passed: &options.passed,
                cgroup: unified.as_ref().map(AsFd::as_fd),
                v1_tasks: &v1_tasks,
                own_v1_tasks: None,
            },
            stdio,
        )?;
        let mut terminal = match await_program(&launched) {
            Ok(terminal) => terminal,
            Err(error) => {
                // Nobody else knows of it, and as long as it is not reaped the container's PID namespace cannot end.
                exit_code(&launched.pidfd)?;
                return Err(error);
            }
        };
        write_pid(options.pid_file.as_deref(), launched.pid)?;
        if let (Some(socket), Some(master)) =
            (&options.console_socket, terminal.take_if(|_| options.console_socket.is_some()))
        {
            console::send(socket, &master)?;
        }
        if options.detach {
            return Ok(0);
        }
        wait(&launched.pidfd, terminal.as_ref(), &Signals::take()?)
    }
}

/// Waits until the program runs; its terminal.
fn await_program(launched: &Launched) -> Result<Option<OwnedFd>, Error> {
    let mut terminal = None;
    loop {
        match await_report(&launched.control)? {
            Report::Ready(ready) => terminal = ready.terminal,
            Report::Failed(failure) => return Err(failure.into()),
            Report::Closed => return Ok(terminal),
        }
    }
}

fn check_console(tty: bool, options: &ExecOptions) -> Result<(), Error> {
    let wrong = match (tty, options.console_socket.is_some(), options.detach) {
        (true, false, true) => "a terminal needs --console-socket with --detach",
        (false, true, _) => "--console-socket needs --tty, or a process with a terminal",
        _ => return Ok(()),
    };
    Err(Error::Arguments(wrong.to_owned()))
}

/// The namespaces that have to be entered. One that is shared with the host is entered already, and in others' mounts the
/// container's root is no root.
fn namespaces_of(spec: &Spec) -> Result<CloneFlags, Error> {
    let mut flags = CloneFlags::empty();
    let mut own_mounts = false;
    for namespace in spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten()) {
        match namespace.typ() {
            LinuxNamespaceType::Mount => own_mounts = namespace.path().is_none(),
            LinuxNamespaceType::Pid => {}
            kind => flags |= flag(kind),
        }
    }
    if own_mounts {
        return Ok(flags);
    }
    Err(Error::Arguments("exec needs a container with a new mount namespace".to_owned()))
}

fn set_process(spec: &mut Spec, asked: &ExecProcess) -> Result<(), Error> {
    let process = match asked {
        ExecProcess::File(path) => read(path)?,
        ExecProcess::Changes { args, tty, cwd, env, user, additional_gids, caps, no_new_privs } => {
            let mut process = spec.process().clone().ok_or_else(|| Error::Config("has no process".to_owned()))?;
            process.set_args(Some(args.clone())).set_terminal(Some(*tty)).set_console_size(None);
            if let Some(cwd) = cwd {
                process.set_cwd(cwd.clone());
            }
            let both = process.env().iter().flatten().chain(env).cloned().collect();
            process.set_env(Some(both));
            if *no_new_privs {
                process.set_no_new_privileges(Some(true));
            }
            change_user(&mut process, user.as_deref(), additional_gids)?;
            add_capabilities(&mut process, caps)?;
            process
        }
    };
    spec.set_process(Some(process));
    Ok(())
}

fn read(path: &Path) -> Result<Process, Error> {
    let text = std::fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
}

fn change_user(process: &mut Process, user: Option<&str>, groups: &[u32]) -> Result<(), Error> {
    if let Some(text) = user {
        let wrong = || Error::Arguments(format!("--user {text:?} is not UID or UID:GID"));
        let (uid, gid) = text.split_once(':').map_or((text, None), |(uid, gid)| (uid, Some(gid)));
        process.user_mut().set_uid(uid.parse().map_err(|_| wrong())?);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid.parse().map_err(|_| wrong())?);
        }
    }
    if !groups.is_empty() {
        let all = process.user().additional_gids().iter().flatten().chain(groups).copied().collect();
        process.user_mut().set_additional_gids(Some(all));
    }
    Ok(())
}

fn add_capabilities(process: &mut Process, names: &[String]) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    let added = capability::named(names).map_err(|error| Error::Arguments(format!("--cap: {error}")))?;
    let mut sets = process.capabilities().clone().unwrap_or_else(|| {
        let mut none = LinuxCapabilities::default();
        let empty = || Some(capability::from_mask(0));
        none.set_bounding(empty()).set_effective(empty()).set_permitted(empty());
        none.set_inheritable(empty()).set_ambient(empty());
        none
    });
    let with = |set: &Option<oci_spec::runtime::Capabilities>| {
        Some(capability::from_mask(capability::mask(set.as_ref()) | added))
    };
    let (bounding, effective, permitted) = (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
    sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    process.set_capabilities(Some(sets));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(user: Option<&str>, caps: &[&str]) -> ExecProcess {
        ExecProcess::Changes {
            args: vec!["id".into()],
            tty: false,
            cwd: None,
            env: vec!["A=1".into()],
            user: user.map(str::to_owned),
            additional_gids: vec![7],
            caps: caps.iter().map(|&name| name.to_owned()).collect(),
            no_new_privs: true,
        }
    }

    #[test]
    fn the_containers_process_is_changed_where_asked() {
        let mut spec = Spec::default();
        set_process(&mut spec, &changes(Some("5:6"), &["CAP_NET_ADMIN"])).unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (5, 6));
        assert_eq!(process.user().additional_gids().as_deref(), Some([7].as_slice()));
        assert_eq!(process.env().as_ref().unwrap().last().unwrap(), "A=1");
        assert_eq!(process.args().as_deref(), Some(["id".to_owned()].as_slice()));
        assert_eq!(process.no_new_privileges(), Some(true));
        let effective = process.capabilities().as_ref().unwrap().effective().clone().unwrap();
        assert!(effective.contains(&oci_spec::runtime::Capability::NetAdmin));
        assert!(set_process(&mut spec, &changes(Some("root"), &[])).is_err());
        assert!(set_process(&mut spec, &changes(None, &["CAP_NOPE"])).is_err());
    }

    #[test]
    fn a_container_in_others_mounts_has_no_way_in() {
        assert!(namespaces_of(&Spec::default()).is_ok());
        let mut spec = Spec::default();
        let mut linux = spec.linux().clone().unwrap();
        linux.set_namespaces(Some(Vec::new()));
        spec.set_linux(Some(linux));
        assert!(namespaces_of(&spec).is_err());
    }
}
