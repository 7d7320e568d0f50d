//! What monitors tell: each exit becomes a state step that is recorded and visible, in the order it happened.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::monitors::PodMonitor;
use super::{Engine, chain, now};
use crate::fault;
use crate::libcontainer::cgroup::Cgroup;
use crate::model::{Container, ContainerEvent, ContainerId, ContainerState, PodId, PodPhase};
use crate::monitor::client::{Monitor, MonitorEvent};

/// How long a monitor that was thought dead may take to end.
const LAST_WORD: Duration = Duration::from_secs(5);

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
            engine.monitor_ended(&pod, &monitor).await;
        });
    }

    fn step(&self, id: &ContainerId, event: ContainerEvent) {
        fault::point("events.exit_received");
        if let Err(error) = self.state.change_container(id, |state| state.step(event).ok()) {
            tracing::error!(container = %id, error = chain(&error), "an exit is known but could not be recorded");
        }
    }

    /// A monitor that ended although its pod is ready was lost. Its children live on without it, nobody's: they are killed
    /// before the pod counts as stopped, since kubelet may then start it anew.
    async fn monitor_ended(self: &Arc<Self>, pod: &PodId, monitor: &Arc<PodMonitor>) {
        // Whoever ends a monitor takes it out of the table first.
        if !self.monitors.get(pod).is_some_and(|current| Arc::ptr_eq(&current, monitor)) {
            return;
        }
        self.monitors.take(pod);
        tracing::error!(%pod, "the pod's monitor is gone; the pod is not ready any more");
        self.end_if_alive(pod).await;
        for container in self.state.snapshot().containers_of(pod) {
            self.kill_orphans(&container).await;
            self.step(&container.id, ContainerEvent::Lost { at: now() });
        }
        // StopPodSandbox finds nothing to do any more.
        if let Err(error) = self.network.remove(pod).await {
            tracing::error!(%pod, error = chain(&error), "the lost pod's addresses could not be released");
        }
        if let Err(error) = self.state.change_pod(pod, |state| state.phase = PodPhase::NotReady) {
            tracing::error!(%pod, error = chain(&error), "the pod's loss could not be recorded");
        }
    }

    /// A monitor that only cut the connection (this agent did not read for long) would go on for ever.
    async fn end_if_alive(&self, pod: &PodId) {
        let socket = self.state.records().pod_dir(pod).join("monitor.sock");
        let end = async {
            let (client, ..) = Monitor::connect(&socket).await?;
            client.shutdown().await
        };
        // Nobody listens any more: that is the rule. A stuck one is not waited for.
        let _ = tokio::time::timeout(LAST_WORD, end).await;
    }

    /// Kills what a container's monitor left running when it died.
    pub(super) async fn kill_orphans(self: &Arc<Self>, container: &Container) {
        if matches!(container.state, ContainerState::Exited { .. }) {
            return;
        }
        let path = container.spec.cgroup.clone();
        let kill = move |engine: &Engine| Ok(Cgroup::open(&engine.cgroups, &path).kill()?);
        if let Err(error) = self.on_disk(kill).await {
            tracing::error!(container = %container.id, error = chain(&error), "processes of a lost container may live on");
        }
    }
}
