//! What monitors tell: each exit becomes a state step that is recorded and visible, in the order it happened.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use super::monitors::PodMonitor;
use super::{Engine, chain, now};
use crate::fault;
use crate::libcontainer::cgroup::Cgroup;
use crate::model::{Container, ContainerEvent, ContainerId, PodId, PodPhase};
use crate::monitor::client::{ExitRecord, MonitorEvent};

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
            monitor.forget_execs();
            engine.monitor_ended(&pod, &monitor).await;
        });
    }

    pub(super) fn step(&self, id: &ContainerId, event: ContainerEvent) {
        if let Err(error) = self.state.change_container(id, |state| state.step(event).ok()) {
            tracing::error!(container = %id, error = chain(&error), "an exit is known but could not be recorded");
        }
    }

    /// A monitor that ended although its pod is ready was lost. The pod's addresses are released when it is stopped.
    async fn monitor_ended(self: &Arc<Self>, pod: &PodId, monitor: &Arc<PodMonitor>) {
        // Whoever ends a monitor takes it out of the table first.
        if !self.monitors.get(pod).is_some_and(|current| Arc::ptr_eq(&current, monitor)) {
            return;
        }
        self.monitors.take(pod);
        tracing::error!(%pod, "the pod's monitor is gone; the pod is not ready any more");
        if let Err(error) = self.state.change_pod(pod, |state| state.phase = PodPhase::NotReady) {
            tracing::error!(%pod, error = chain(&error), "the pod's loss could not be recorded");
        }
        for container in self.state.snapshot().containers_of(pod) {
            self.lose_container(&container).await;
        }
    }

    /// Ends a container whose monitor is gone: nobody reads its output or would see its end, so it is killed before it
    /// is said to have exited.
    pub(super) async fn lose_container(self: &Arc<Self>, container: &Container) {
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
