//! Create and start: from the request to a running program.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::getpid;

use super::connection::Requester;
use super::container::{Cgroup, Container, External, Input, Phase, Stdio};
use super::events::Source;
use super::exec_cgroup::ExecCgroups;
use super::log::{Log, Output, StreamName};
use super::monitor::{Monitor, Outcome, now_ns};
use super::oom_kills::OomKills;
use super::requests::wrong_state;
use super::spawner::{internal, invalid, with_kind};
use crate::libcontainer::plan::{InitPlan, PidNamespace};
use crate::libcontainer::run::external::{self, PodProcesses};
use crate::libcontainer::run::failure::{InitFailure, Step};
use crate::libcontainer::run::{self, Launch, Launched, Ready, Report, launch, receive_report};
use crate::monitor::protocol::{Body, Create, Created, Failure, FailureKind, Started};

impl Monitor {
    /// Clones init; the answer comes when it has set everything up.
    pub(super) fn create(&mut self, to: Requester, create: Create, fds: Vec<OwnedFd>) -> Result<Outcome, Failure> {
        if self.find(&create.id).is_ok() {
            return Err(wrong_state("a container of that id exists"));
        }
        if self.leaving.is_some() {
            // It would keep the monitor from leaving.
            return Err(wrong_state("the pod is being ended"));
        }
        let Create {
            id,
            plan,
            unified_fd,
            v1_tasks_fds,
            memory_fd,
            log_dir_fd,
            log_name,
            record_dir_fd,
            freezer_fd,
            runtime,
        } = create;
        let mut fds = Fds::new(fds);
        let mut cgroup = Cgroup {
            unified: unified_fd.map(|index| fds.take(index)).transpose()?,
            v1_tasks: v1_tasks_fds.into_iter().map(|index| fds.take(index)).collect::<Result<_, _>>()?,
            memory: memory_fd.map(|index| fds.take(index)).transpose()?,
            freezer: freezer_fd.map(|index| fds.take(index)).transpose()?,
            oom_kills_before: OomKills::default(),
            oom_kills_of_execs: 0,
            execs: ExecCgroups::default(),
        };
        cgroup.oom_kills_before = OomKills::of(&cgroup);
        let record_dir = fds.take(record_dir_fd)?;
        let log_dir = log_dir_fd.map(|index| fds.take(index)).transpose()?;
        let runtime = runtime.map(|runtime| External::of(&id, runtime, &mut fds)).transpose()?;
        let namespaces = &plan.namespaces;
        if namespaces.user != self.kept.user.is_some() {
            return Err(invalid("a pod's containers are all in its user namespace, or none is"));
        }
        let (stdio, theirs) = make_stdio(&plan).map_err(internal)?;
        let unified = cgroup.unified.as_ref().map(AsFd::as_fd);
        let (joined, host, fds) = (self.pid_namespace(&plan)?, self.kept.host(), fds.first_ones());
        let launched = match &runtime {
            None => {
                let launch_plan = Launch {
                    plan: &plan,
                    fds: &fds,
                    cgroup: unified,
                    v1_tasks: &cgroup.v1_tasks,
                    new_pid_namespace: namespaces.pid() == PidNamespace::Container,
                    join_pid_namespace: joined.map(|(_, pidfd)| pidfd),
                };
                launch(host, &launch_plan, theirs)
            }
            Some(external) => {
                let pod = PodProcesses { monitor: getpid().as_raw_pid(), pid: joined.map(|(pid, _)| pid) };
                external::create(host, &external.runtime, &plan, &fds, pod, unified, theirs)
            }
        }
        .map_err(init)?;
        let Launched { pid, pidfd, control } = launched;
        let serial = self.serial();
        let container = Container {
            serial,
            id,
            phase: Phase::Creating { requester: to, control, ready: false, failure: None },
            pid,
            pidfd: Some(pidfd),
            // A runtime's own helpers are in the cgroup alone.
            own_pid_namespace: namespaces.pid() == PidNamespace::Container && runtime.is_none(),
            cgroup_namespace: namespaces.cgroup,
            runtime,
            cgroup,
            tty: plan.tty,
            input: input_of(&plan),
            stdio,
            log: Log::default(),
            paused: false,
            reopening: None,
            record_dir,
            stop: None,
            removal: Vec::new(),
            killed: false,
            restorer: None,
            death: None,
        };
        let watched = container.control().map_or(Ok(()), |control| self.watch(control, Source::Control, serial));
        self.containers.push(container);
        let watched = watched.and_then(|()| self.watch_output(serial));
        // While init is set up.
        let watched = watched.and_then(|()| match &log_dir {
            Some(dir) => self.open_log(serial, dir, &log_name),
            None => Ok(()),
        });
        if let Err(failure) = watched {
            // Out of memory or processes: the container cannot be looked after.
            self.fail(serial, failure);
        }
        Ok(Outcome::Later)
    }

    /// The process whose PID namespace the container joins, if it does, by its id and its pidfd.
    fn pid_namespace(&self, plan: &InitPlan) -> Result<Option<(i32, BorrowedFd<'_>)>, Failure> {
        match plan.namespaces.pid() {
            PidNamespace::Container | PidNamespace::Node => Ok(None),
            PidNamespace::Pod => match &self.kept.pod_init {
                Some(init) => Ok(Some((init.pid, init.pidfd.as_fd()))),
                None => Err(invalid("the pod has no PID namespace to share")),
            },
            PidNamespace::Target => {
                let target = self.containers.iter().find(|container| container.id == plan.namespaces.pid_target);
                let target = target.filter(|target| target.death.is_none() && !target.is_being_made());
                match target.and_then(|target| Some((target.pid, target.pidfd()?))) {
                    Some(target) => Ok(Some(target)),
                    None => Err(wrong_state("the container whose PID namespace is to be joined does not run")),
                }
            }
        }
    }

    pub(super) fn watch_output(&self, serial: u32) -> Result<(), InitFailure> {
        let Some(at) = self.position(serial) else { return Ok(()) };
        let stdio = &self.containers[at].stdio;
        for (output, source) in [(&stdio.stdout, Source::Stdout), (&stdio.stderr, Source::Stderr)] {
            if let Some(output) = output {
                self.watch(output.fd(), source, serial)?;
            }
        }
        Ok(())
    }

    /// Releases init; the answer comes when its program runs.
    pub(super) fn start(&mut self, to: Requester, id: &str) -> Result<Outcome, Failure> {
        let container = self.find(id)?;
        match std::mem::replace(&mut container.phase, Phase::Running { started_at_ns: 0 }) {
            Phase::Created { control } if container.death.is_none() => {
                // A send that fails means that init has been killed: its death is the answer.
                let _ = run::release(&control);
                container.phase = Phase::Starting { requester: to, control, failure: None };
                Ok(Outcome::Later)
            }
            other => {
                container.phase = other;
                Err(wrong_state("the container is not waiting to be started"))
            }
        }
    }

    /// Init says something, or its socket closed.
    pub(super) fn on_report(&mut self, serial: u32) {
        let Some(at) = self.position(serial) else { return };
        let Some(control) = self.containers[at].control() else { return };
        match receive_report(control) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(Report::Ready(ready)) => self.on_ready(serial, ready),
            Ok(Report::Failed(failure)) => self.fail(serial, failure),
            Ok(Report::Closed) => self.on_executed(serial),
            // Out of file descriptors for a terminal: what it said is lost, and nobody would ever be answered.
            Err(error) => self.fail(serial, InitFailure::refused(&format!("init's report: {error}"), "")),
        }
    }

    fn on_ready(&mut self, serial: u32, Ready { terminal, pid }: Ready) {
        let Some(at) = self.position(serial) else { return };
        if let Some(pid) = pid {
            let adopted = self.adopt_process(pid).and_then(|process| {
                process.map_err(|(code, _)| {
                    InitFailure::refused(
                        &format!("the container's first process ended with {code} before its start"),
                        "",
                    )
                })
            });
            match adopted {
                Ok(pidfd) => (self.containers[at].pid, self.containers[at].pidfd) = (pid, Some(pidfd)),
                Err(failure) => return self.fail(serial, failure),
            }
        }
        if let Some(master) = terminal {
            let nonblocking = set_nonblocking(&master);
            self.containers[at].stdio.stdout = Some(Output::new(master, StreamName::Stdout));
            if let Err(failure) = nonblocking.and_then(|()| self.watch_output(serial)) {
                return self.fail(serial, failure);
            }
        }
        if let Phase::Creating { ready, .. } = &mut self.containers[at].phase {
            *ready = true;
        }
        self.answer_if_created(at);
    }

    /// Init has set everything up, and the log is open.
    pub(super) fn answer_if_created(&mut self, at: usize) {
        let container = &mut self.containers[at];
        let pid = container.pid;
        if container.log.is_opening() {
            return;
        }
        match std::mem::replace(&mut container.phase, Phase::Running { started_at_ns: 0 }) {
            Phase::Creating { requester, control, ready: true, failure: None } => {
                container.phase = Phase::Created { control };
                self.connection.answer(requester, Body::Created(Created { pid }), Vec::new());
            }
            other => container.phase = other,
        }
    }

    /// The socket closed: execve succeeded, or init died. The latter is seen by `reap`.
    fn on_executed(&mut self, serial: u32) {
        let Some(at) = self.position(serial) else { return };
        if let Some(control) = self.containers[at].control() {
            self.unwatch(control);
        }
        let container = &mut self.containers[at];
        match std::mem::replace(&mut container.phase, Phase::Running { started_at_ns: 0 }) {
            // What has been executed is no program of the container's.
            starting if container.restorer.is_some() => container.phase = starting,
            Phase::Starting { requester, failure: None, .. } => {
                // An OCI runtime tells later than it starts.
                let started_at_ns = container.death.map_or_else(now_ns, |death| death.at_ns);
                container.phase = Phase::Running { started_at_ns };
                self.connection.answer(requester, Body::Started(Started { started_at_ns, pid: 0 }), Vec::new());
                self.publish_if_dry(serial);
            }
            Phase::Created { control } if container.runtime.is_some() => {
                // Its runner is gone, without which it cannot be started.
                container.phase = Phase::Created { control };
                container.kill_tree();
            }
            other => container.phase = other,
        }
    }

    /// A step failed. It is answered once init is reaped, so that nothing of it is left then.
    pub(super) fn fail(&mut self, serial: u32, why: InitFailure) {
        let Some(at) = self.position(serial) else { return };
        if let Some(control) = self.containers[at].control() {
            self.unwatch(control);
        }
        let container = &mut self.containers[at];
        if let Phase::Creating { failure, .. } | Phase::Starting { failure, .. } = &mut container.phase {
            failure.get_or_insert(why);
        }
        container.kill_tree();
        // A program that an OCI runtime failed to start may be over by now.
        self.publish_if_dry(serial);
    }
}

/// Fds of a message: the plan's come first, the others are taken out by their index.
pub(super) struct Fds(Vec<Option<OwnedFd>>);

impl Fds {
    pub(super) fn new(fds: Vec<OwnedFd>) -> Self {
        Self(fds.into_iter().map(Some).collect())
    }

    pub(super) fn take(&mut self, index: u32) -> Result<OwnedFd, Failure> {
        let place = self.0.get_mut(index as usize);
        place.and_then(Option::take).ok_or_else(|| invalid("a file descriptor is missing"))
    }

    /// What comes before everything that was taken.
    fn first_ones(self) -> Vec<OwnedFd> {
        self.0.into_iter().map_while(|fd| fd).collect()
    }
}

fn input_of(plan: &InitPlan) -> Input {
    match (plan.stdin, plan.stdin_once) {
        (false, _) => Input::None,
        (true, false) => Input::Kept,
        (true, true) => Input::Once,
    }
}

/// Our ends of a container's standard input and output, and its own.
fn make_stdio(plan: &InitPlan) -> Result<(Stdio, run::Stdio), InitFailure> {
    let (mut ours, mut theirs) = (Stdio::default(), run::Stdio::default());
    if plan.tty {
        return Ok((ours, theirs));
    }
    let pipe = || pipe_with(PipeFlags::CLOEXEC).step("make a pipe", "");
    let output = |name| -> Result<(Output, OwnedFd), InitFailure> {
        let (read, write) = pipe()?;
        set_nonblocking(&read)?;
        Ok((Output::new(read, name), write))
    };
    let (stdout, write) = output(StreamName::Stdout)?;
    (ours.stdout, theirs.stdout) = (Some(stdout), Some(write));
    let (stderr, write) = output(StreamName::Stderr)?;
    (ours.stderr, theirs.stderr) = (Some(stderr), Some(write));
    if plan.stdin {
        let (read, write) = pipe()?;
        (ours.stdin, theirs.stdin) = (Some(write), Some(read));
    }
    Ok((ours, theirs))
}

pub(super) fn set_nonblocking(fd: &OwnedFd) -> Result<(), InitFailure> {
    let flags = rustix::fs::fcntl_getfl(fd).step("read a pipe's flags", "")?;
    rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK).step("set a pipe nonblocking", "")
}

/// A failure between clone and execve.
pub(super) fn init(failure: InitFailure) -> Failure {
    with_kind(failure, FailureKind::Init)
}
