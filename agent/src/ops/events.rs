//! What monitors tell: each exit becomes a state step that is recorded and visible, in the order it happened.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::monitors::{PodMonitor, end_execs};
use super::{Engine, chain, now};
use crate::fault;
use crate::libcontainer::cgroup::Cgroup;
use crate::model::recovery::{ContainerAction, ContainerFacts, container_action};
use crate::model::{Container, ContainerEvent, ContainerId, ContainerState, PodId, PodPhase};
use crate::monitor::client::{ExitRecord, Monitor, MonitorEvent, MonitorState};

/// How long a monitor that was thought dead may take to answer.
const LAST_WORD: Duration = Duration::from_secs(5);

/// A monitor whose connections break at once is not asked more often.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

impl Engine {
    /// Follows a monitor's events until its connection ends.
    pub(super) fn follow(
        self: &Arc<Self>,
        pod: PodId,
        monitor: Arc<PodMonitor>,
        mut events: UnboundedReceiver<MonitorEvent>,
    ) {
        let engine = self.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    MonitorEvent::ContainerExited { id, record } => {
                        fault::point("events.exit_received");
                        engine.step(&id, exit_event(&record));
                    }
                    MonitorEvent::ExecExited { exec, exit_code } => monitor.exec_exited(&exec, exit_code),
                    MonitorEvent::Lost => break,
                }
            }
            monitor.end();
            engine.monitor_ended(&pod, &monitor).await;
        });
    }

    pub(super) fn step(self: &Arc<Self>, id: &ContainerId, event: ContainerEvent) {
        if let Err(error) = self.state.change_container(id, |state| state.step(event).ok()) {
            tracing::error!(container = %id, error = chain(&error), "an exit is known but could not be recorded");
        }
        self.container_ended(id);
    }

    /// A monitor that ended although its pod is ready was lost. Its children live on without it, nobody's: they are killed
    /// before the pod counts as stopped, since kubelet may then start it anew.
    async fn monitor_ended(self: &Arc<Self>, pod: &PodId, monitor: &Arc<PodMonitor>) {
        // Whoever ends a monitor takes it out of the table first.
        if !self.monitors.get(pod).is_some_and(|current| Arc::ptr_eq(&current, monitor)) {
            return;
        }
        // A stuck one is not waited for.
        if let Ok(true) = tokio::time::timeout(LAST_WORD, self.reconnect(pod, monitor)).await {
            return;
        }
        // Somebody who stops the pod may have come first.
        if self.monitors.get(pod).is_some_and(|current| Arc::ptr_eq(&current, monitor)) {
            self.monitors.take(pod);
        }
        tracing::error!(%pod, "the pod's monitor is gone; the pod is not ready any more");
        for container in self.state.snapshot().containers_of(pod) {
            self.lose_container(&container).await;
        }
        // Not only when the pod is stopped: its host ports lead nowhere.
        if let Err(error) = self.network.remove(pod, None).await {
            tracing::error!(%pod, error = chain(&error), "the lost pod's addresses could not be released");
        }
        if let Err(error) = self.state.change_pod(pod, |state| state.phase = PodPhase::NotReady) {
            tracing::error!(%pod, error = chain(&error), "the pod's loss could not be recorded");
        }
    }

    /// A connection may end and its monitor live on (one of the two could not keep up, or ran out of descriptors): it is
    /// asked what has happened meanwhile. False: it is gone.
    async fn reconnect(self: &Arc<Self>, pod: &PodId, lost: &Arc<PodMonitor>) -> bool {
        let socket = self.state.records().pod_dir(pod).join("monitor.sock");
        let Ok((client, _, events)) = Monitor::connect(&socket).await else { return false };
        if lost.since.elapsed() < RECONNECT_PAUSE {
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
        let Ok(told) = client.inspect().await else { return false };
        end_execs(&client, &told.execs).await;
        let Some(monitor) = self.monitors.replace(pod, lost, client) else { return false };
        tracing::warn!(%pod, "the connection to the pod's monitor broke; there is a new one");
        for container in self.state.snapshot().containers_of(pod) {
            self.catch_up(&container, &told).await;
        }
        self.follow(pod.clone(), monitor, events);
        true
    }

    /// What happened to a container while nobody listened.
    async fn catch_up(self: &Arc<Self>, container: &Container, told: &MonitorState) {
        let state = Some(container.state.clone());
        let facts = ContainerFacts { spec: true, state, seen: self.seen(&container.id, Some(told)), now: now() };
        let ContainerAction::Keep(events) = container_action(&facts) else { return };
        for event in events {
            match event {
                ContainerEvent::Lost { .. } => self.lose_container(container).await,
                event => self.step(&container.id, event),
            }
        }
    }

    /// Ends a container whose monitor is gone: nobody reads its output or would see its end, so it is killed before it
    /// is said to have exited.
    pub(super) async fn lose_container(self: &Arc<Self>, container: &Container) {
        if matches!(container.state, ContainerState::Exited { .. }) {
            return;
        }
        self.kill_processes(&container.spec.cgroup).await;
        self.step(&container.id, ContainerEvent::Lost { at: now() });
    }

    /// Kills who is in a cgroup, if anybody is. Whoever survives it hinders the cgroup's removal, which tells.
    pub(super) async fn kill_processes(self: &Arc<Self>, cgroup: &str) {
        let path = cgroup.to_owned();
        let killed = self.on_disk(move |engine| Ok(Cgroup::open(&engine.cgroups, &path).kill()?)).await;
        if let Err(error) = killed {
            tracing::warn!(cgroup, error = chain(&error), "processes without monitor could not be killed");
        }
    }
}

/// What a monitor's exit record says.
pub(super) fn exit_event(record: &ExitRecord) -> ContainerEvent {
    ContainerEvent::Exited {
        started_at: (record.started_at_ns != 0).then_some(record.started_at_ns),
        at: record.finished_at_ns,
        exit_code: record.exit_code,
        oom_killed: record.oom_killed,
    }
}
