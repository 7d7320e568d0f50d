//! What monitors tell: each exit becomes a state step that is recorded and visible, in the order it happened.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use super::monitors::PodMonitor;
use super::{Engine, chain, now};
use crate::fault;
use crate::model::{ContainerEvent, ContainerId, PodId, PodPhase};
use crate::monitor::client::MonitorEvent;

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
                        let exited = ContainerEvent::Exited {
                            started_at: (record.started_at_ns != 0).then_some(record.started_at_ns),
                            at: record.finished_at_ns,
                            exit_code: record.exit_code,
                            oom_killed: record.oom_killed,
                        };
                        engine.step(&id, exited);
                    }
                    MonitorEvent::ExecExited { exec, exit_code } => monitor.exec_exited(&exec, exit_code),
                    MonitorEvent::Lost => break,
                }
            }
            monitor.forget_execs();
            engine.monitor_ended(&pod, &monitor);
        });
    }

    fn step(&self, id: &ContainerId, event: ContainerEvent) {
        fault::point("events.exit_received");
        if let Err(error) = self.state.change_container(id, |state| state.step(event).ok()) {
            tracing::error!(container = %id, error = chain(&error), "an exit is known but could not be recorded");
        }
    }

    /// A monitor that ended although its pod is ready was lost: its processes died with it.
    fn monitor_ended(&self, pod: &PodId, monitor: &Arc<PodMonitor>) {
        // Whoever ends a monitor takes it out of the table first.
        if !self.monitors.get(pod).is_some_and(|current| Arc::ptr_eq(&current, monitor)) {
            return;
        }
        self.monitors.take(pod);
        tracing::error!(%pod, "the pod's monitor is gone; the pod is not ready any more");
        for container in self.state.snapshot().containers_of(pod) {
            self.step(&container.id, ContainerEvent::Lost { at: now() });
        }
        if let Err(error) = self.state.change_pod(pod, |state| state.phase = PodPhase::NotReady) {
            tracing::error!(%pod, error = chain(&error), "the pod's loss could not be recorded");
        }
    }
}
