//! A container's first process from its clone to its release. It interprets the plan's steps one after the other and
//! decides nothing.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::Mode;
use rustix::process::{setsid, umask};

use super::alone::{self, Alone, HookStates};
use super::cover;
use super::failure::{InitFailure, Step};
use super::hooks::run_hooks;
use super::labels;
use super::launch::{Host, READY, Stdio, await_release, enter_v1_cgroups, execute_alone, report};
use super::mounts;
use super::nodes;
use super::process;
use super::root::{self, Keepsakes};
use super::sysctl;
use super::terminal;
use super::user_namespace::become_root;
use crate::libcontainer::plan::{Action, EnterRoot, Hooks, InitPlan, MountSource, MoveMount};
use crate::sys::in_root;

/// What init works with.
pub(super) struct Init<'a> {
    pub(super) plan: &'a InitPlan,
    pub(super) fds: &'a [OwnedFd],
    pub(super) v1_tasks: &'a [OwnedFd],
    pub(super) host: Host<'a>,
    pub(super) control: &'a OwnedFd,
    /// What it does without a monitor.
    pub(super) alone: Option<&'a Alone<'a>>,
}

impl Init<'_> {
    /// Sets everything up, waits, executes. Only a failure comes back.
    pub(super) fn run(&self, mut stdio: Stdio) -> Result<Infallible, InitFailure> {
        let plan = self.plan;
        setsid().step("start a session", "")?;
        umask(Mode::empty());
        enter_v1_cgroups(self.v1_tasks)?;
        let states = match self.alone {
            Some(alone) => alone.begin(self.control)?,
            None => HookStates::default(),
        };
        if plan.namespaces.cgroup {
            unshare(CloneFlags::CLONE_NEWCGROUP).step("make a cgroup namespace", "")?;
        }
        let root = self.carry_out_steps(&states)?;
        let mut master = None;
        if plan.tty {
            let terminal = terminal::open(&root, plan.process.tty_columns, plan.process.tty_rows)?;
            terminal::as_console(&root, &terminal.slave)?;
            terminal::take_control(&terminal.slave)?;
            stdio = Stdio::terminal(terminal.slave)?;
            master = Some(terminal.master);
        }
        process::take_stdio(&root, stdio, self.host.null, &plan.process)?;
        if !plan.namespaces.user {
            // Who comes into a user namespace has brought it along.
            labels::ask_for_own(&plan.process)?;
        }
        process::prepare(&plan.process)?;
        report(self.control, READY, master.as_ref().map(AsFd::as_fd)).step("report to the monitor", "")?;
        drop(master);
        if let Some(alone) = self.alone {
            return alone.finish(plan, &states.created);
        }
        // It may wait long: the agent's connection, other containers' pipes and mounts must not stay open here meanwhile.
        execute_alone(self.control, || {
            await_release(self.control)?;
            process::execute(&plan.process)
        })
    }

    /// The container's root, and what is kept of the template.
    fn enter_root(&self, first: &EnterRoot) -> Result<(OwnedFd, Keepsakes), InitFailure> {
        let (plan, mount) = (self.plan, self.fd(first.fd)?);
        match self.alone {
            Some(alone) if !first.at.is_empty() => {
                // The way there may be open to the host's root only.
                let entered = root::attach(mount, first, alone.template, &plan.steps)?;
                if plan.namespaces.user {
                    become_root()?;
                }
                Ok(entered)
            }
            _ => {
                if plan.namespaces.user {
                    become_root()?;
                }
                let kept = Keepsakes::take("", &plan.steps, plan.namespaces.user)?;
                Ok((root::enter(mount, first.propagation)?, kept))
            }
        }
    }

    fn carry_out_steps(&self, states: &HookStates) -> Result<OwnedFd, InitFailure> {
        let mut actions = self.plan.steps.iter().filter_map(|step| step.action.as_ref());
        let Some(Action::EnterRoot(first)) = actions.next() else {
            return Err(InitFailure::refused("the plan does not begin with the root file system", ""));
        };
        let (root, kept) = self.enter_root(first)?;
        let (mut pod_mounts, mut views) = (kept.pod_mounts.iter(), kept.views.iter().peekable());
        let mut has_cwd = false;
        for action in actions {
            match action {
                Action::EnterRoot(_) => return Err(InitFailure::refused("the plan enters a second root", "")),
                Action::MoveMount(MoveMount { source, target }) => {
                    let opened;
                    let mount = match source {
                        Some(MountSource::Fd(index)) => match self.alone.and_then(|alone| alone.open(*index)) {
                            Some(mount) => {
                                opened = mount?;
                                &opened
                            }
                            None => self.fd(*index)?,
                        },
                        Some(MountSource::Pod(_)) => {
                            pod_mounts.next().ok_or_else(|| InitFailure::refused("no mount of the pod for", target))?
                        }
                        None => return Err(InitFailure::refused("no source for mount", target)),
                    };
                    mounts::attach(&root, mount, target)?;
                }
                Action::MountFs(step) => match views.next_if(|(target, _)| *target == step.target) {
                    Some((_, view)) => mounts::place_fs(&root, view, step)?,
                    None => mounts::mount_fs(&root, step)?,
                },
                Action::MakeNode(step) => nodes::make_node(&root, step)?,
                Action::Symlink(step) => nodes::symlink(&root, step)?,
                Action::MakeDir(step) => nodes::make_dir(&root, step)?,
                Action::MaskPath(step) => cover::mask(&root, &kept, &step.path)?,
                Action::ReadonlyPath(step) => cover::readonly(&root, &step.path)?,
                Action::Sysctl(step) => sysctl::write_in(&root, &step.key, &step.value)?,
                Action::SetMountAttr(step) => mounts::set_attributes(&root, step)?,
                Action::SetNames(names) => alone::set_names(names)?,
                Action::RunHooks(Hooks { hooks }) => run_hooks(hooks, &states.creating)?,
                Action::LeaveHost(step) => root::leave_host(&root, step)?,
                Action::ReadonlyRoot(_) => {
                    // The last moment at which the folder can be made.
                    self.make_cwd(&root)?;
                    has_cwd = true;
                    mounts::set_root_readonly(&root)?;
                }
            }
        }
        if !has_cwd {
            self.make_cwd(&root)?;
        }
        Ok(root)
    }

    fn fd(&self, index: u32) -> Result<&OwnedFd, InitFailure> {
        usize::try_from(index).ok().and_then(|index| self.fds.get(index)).ok_or_else(|| {
            InitFailure::refused(&format!("the plan names file descriptor {index}, which did not come"), "")
        })
    }

    fn make_cwd(&self, root: &OwnedFd) -> Result<(), InitFailure> {
        let cwd = &self.plan.process.cwd;
        if matches!(cwd.as_str(), "" | "/") {
            return Ok(());
        }
        in_root::ensure_dir(root, cwd, 0o755).step("make the working directory", cwd).map(drop)
    }
}
