//! Recovery: what an earlier agent left is taken over, completed or rolled back, and what nobody knows is swept. The
//! decisions are `model::recovery`'s table; here are the facts and the deeds. Requests wait until this is done.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc::UnboundedReceiver;

use super::monitors::{PodMonitor, end_execs, gone};
use super::{Engine, Error, chain, now};
use crate::libcontainer::cgroup::Cgroup;
use crate::model::recovery::{
    ContainerAction, ContainerFacts, PodAction, PodFacts, Seen, container_action, pod_action,
};
use crate::model::{Container, ContainerEvent, ContainerId, ContainerSpec, ContainerState, Pod, PodId, PodPhase};
use crate::monitor::client::{ExitRecord, Monitor, MonitorError, MonitorEvent, MonitorState, Phase};
use crate::monitor::protocol::exit_file;
use crate::network::Party;

/// What was done.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Pods that are known again.
    pub pods: usize,
    /// Containers that are known again.
    pub containers: usize,
    /// Half-made pods and containers that were taken back.
    pub rolled_back: usize,
}

/// How long a monitor may take to answer a new agent. It needs a millisecond; one that writes a log to a dead disk takes for
/// ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a recorded container.
enum Outcome {
    /// It is known again.
    Kept,
    /// It was only half made, or its pod is gone.
    RolledBack,
    /// Its pod could not be recovered: nothing of it is changed.
    Untouched,
}

/// A monitor that goes on.
struct Living {
    monitor: Arc<PodMonitor>,
    events: UnboundedReceiver<MonitorEvent>,
}

impl Engine {
    /// Takes over from the agent before. One object's trouble is told and does not keep the others from being served.
    ///
    /// # Errors
    /// When the run folder itself cannot be read.
    pub async fn recover(self: &Arc<Self>) -> Result<Recovered, Error> {
        let mut done = Recovered::default();
        let (mut seen, mut living, mut untouched) = (Vec::new(), Vec::new(), HashSet::new());
        let ids = self.state.records().pod_ids()?;
        // All at once, so that one monitor that does not answer costs its own pod and delays nobody.
        let recoveries = join_all(ids.iter().map(|id| self.recover_pod_in_time(id))).await;
        for (id, recovery) in ids.into_iter().zip(recoveries) {
            match recovery {
                Ok(Some((monitor_state, monitor))) => {
                    done.pods += 1;
                    living.extend(monitor.map(|monitor| (id.clone(), monitor)));
                    seen.push((id, monitor_state));
                }
                Ok(None) => done.rolled_back += 1,
                Err(error) => {
                    tracing::error!(pod = %id, error = chain(&error), "the pod could not be recovered; it is left as it is until the next start");
                    untouched.insert(id);
                }
            }
        }
        for id in self.state.records().container_ids()? {
            match self.recover_container(&id, &seen, &untouched).await {
                Ok(Outcome::Kept) => done.containers += 1,
                Ok(Outcome::RolledBack) => done.rolled_back += 1,
                Ok(Outcome::Untouched) => {}
                Err(error) => {
                    tracing::error!(container = %id, error = chain(&error), "the container could not be recovered")
                }
            }
        }
        for (id, Living { monitor, events }) in living {
            self.follow(id, monitor, events);
        }
        self.end_checkpoints().await;
        self.sweep(untouched).await;
        Ok(done)
    }

    async fn recover_pod_in_time(
        self: &Arc<Self>,
        id: &PodId,
    ) -> Result<Option<(MonitorState, Option<Living>)>, Error> {
        match tokio::time::timeout(PATIENCE, self.recover_pod(id)).await {
            Ok(recovery) => recovery,
            Err(_) => Err(Error::MonitorSilent { pod: id.to_string(), seconds: PATIENCE.as_secs() }),
        }
    }

    /// `None`: it was rolled back. A living monitor's events wait until the pod's containers are known, too: one that
    /// exits meanwhile is told by them.
    async fn recover_pod(self: &Arc<Self>, id: &PodId) -> Result<Option<(MonitorState, Option<Living>)>, Error> {
        let dir = self.state.records().pod_dir(id);
        let (spec, state) = self.state.records().read_pod(id).unwrap_or_else(|error| {
            tracing::error!(pod = %id, error = chain(&error), "the pod's record is unreadable; the pod is removed");
            (None, None)
        });
        let monitor =
            Monitor::connect(&dir.join("monitor.sock")).await.ok().map(|(client, _, events)| (client, events));
        let phase = state.as_ref().map(|state| state.phase);
        let facts = PodFacts { spec: spec.is_some(), phase, monitor: monitor.is_some() };
        let action = pod_action(facts);
        let (Some(spec), Some(mut state)) = (spec, state) else {
            return self.roll_back_pod(id, monitor.map(|(client, _)| client)).await.map(|()| None);
        };
        match (action, monitor) {
            (PodAction::Keep, Some((client, events))) => match client.inspect().await {
                Ok(seen) => {
                    end_execs(&client, &seen.execs).await;
                    let monitor = self.monitors.insert(id.clone(), client);
                    self.state.put_pod(Pod { id: id.clone(), spec, state })?;
                    return Ok(Some((seen, Some(Living { monitor, events }))));
                }
                // It died in between.
                Err(MonitorError::Lost) => {}
                Err(error) => return Err(super::of_pod(id)(error)),
            },
            (PodAction::RollBack, monitor) => {
                return self.roll_back_pod(id, monitor.map(|(client, _)| client)).await.map(|()| None);
            }
            // What still ran in it is dead once it has gone, and its exit records tell how: nothing it says before counts.
            (_, Some((client, _))) => {
                self.network.remove(id, Some(client.pid())).await?;
                client.shutdown().await.or_else(gone).map_err(super::of_pod(id))?;
            }
            (_, None) => self.network.remove(id, None).await?,
        }
        state.phase = PodPhase::NotReady;
        self.state.put_pod(Pod { id: id.clone(), spec, state })?;
        Ok(Some((MonitorState::default(), None)))
    }

    async fn roll_back_pod(&self, id: &PodId, monitor: Option<Monitor>) -> Result<(), Error> {
        // While its monitor keeps its namespace: some plugins find only there what they have to take back.
        self.network.remove(id, monitor.as_ref().map(Monitor::pid)).await?;
        if let Some(monitor) = monitor {
            monitor.shutdown().await.or_else(gone).map_err(super::of_pod(id))?;
        }
        Ok(self.state.records().remove_pod(id)?)
    }

    async fn recover_container(
        self: &Arc<Self>,
        id: &ContainerId,
        pods: &[(PodId, MonitorState)],
        untouched: &HashSet<PodId>,
    ) -> Result<Outcome, Error> {
        let (spec, state) = self.state.records().read_container(id).unwrap_or_else(|error| {
            tracing::error!(container = %id, error = chain(&error), "the container's record is unreadable; it is removed");
            (None, None)
        });
        if let Some(spec) = spec.as_ref().filter(|spec| untouched.contains(spec.pod.as_str())) {
            self.images.hold(&spec.all_layers(), id);
            return Ok(Outcome::Untouched);
        }
        let pod = spec.as_ref().and_then(|spec| pods.iter().find(|(pod, _)| pod.as_str() == spec.pod));
        let facts = ContainerFacts {
            spec: pod.is_some(),
            state: state.clone(),
            seen: self.seen(id, pod.map(|(_, state)| state)),
            now: now(),
        };
        match (container_action(&facts), spec, state) {
            (ContainerAction::Keep(events), Some(spec), Some(state)) => {
                if events.iter().any(|event| matches!(event, ContainerEvent::Lost { .. })) {
                    self.kill_processes(&spec.cgroup).await;
                }
                let mut state = events.into_iter().try_fold(state, ContainerState::step)?;
                let told = pod.and_then(|(_, told)| told.containers.iter().find(|told| told.id == id.as_str()));
                if let (ContainerState::Running { pid, .. }, Some(told)) = (&mut state, told) {
                    // Processes that came from a checkpoint have another first one than the record knew.
                    *pid = told.pid;
                }
                self.keep_container(id, spec, state).await?;
                Ok(Outcome::Kept)
            }
            (_, spec, _) => {
                self.roll_back_container(id, spec, pod.map(|(pod, _)| pod)).await?;
                Ok(Outcome::RolledBack)
            }
        }
    }

    async fn keep_container(
        self: &Arc<Self>,
        id: &ContainerId,
        spec: ContainerSpec,
        state: ContainerState,
    ) -> Result<(), Error> {
        if !self.images.hold(&spec.all_layers(), id) {
            tracing::error!(container = %id, image = %spec.image_id, "layers of the container are not in the store any more");
        }
        let resources = self.settle_resources(id, &spec.cgroup).await;
        Ok(self.state.put_container(Container { id: id.clone(), spec, state, resources })?)
    }

    async fn roll_back_container(
        self: &Arc<Self>,
        id: &ContainerId,
        spec: Option<ContainerSpec>,
        pod: Option<&PodId>,
    ) -> Result<(), Error> {
        if let Some(pod) = pod
            && let Some(monitor) = self.monitors.get(pod)
        {
            monitor.client.remove(id).await.or_else(gone).map_err(super::of_pod(pod))?;
        }
        match spec {
            Some(spec) => self.discard_container(id.clone(), spec.cgroup).await?,
            // No record tells where it is. systemd takes a scope away that nobody is in any more.
            None => {
                let name = id.clone();
                let sweep = move |engine: &Engine| {
                    Cgroup::sweep(&engine.cgroups, name.as_str());
                    Ok(())
                };
                self.on_disk(sweep).await?;
            }
        }
        Ok(self.state.records().remove_container(id)?)
    }

    /// What the monitor says of a container, else its exit record.
    pub(super) fn seen(&self, id: &ContainerId, monitor: Option<&MonitorState>) -> Seen {
        let told = monitor.and_then(|state| state.containers.iter().find(|told| told.id == id.as_str()));
        let exited = |record: ExitRecord| Seen::Exited {
            started_at: (record.started_at_ns != 0).then_some(record.started_at_ns),
            finished_at: record.finished_at_ns,
            exit_code: record.exit_code,
            oom_killed: record.oom_killed,
        };
        match told {
            Some(told) => match (told.phase(), &told.exit) {
                (Phase::Creating | Phase::Created, _) => Seen::Waiting,
                // It is on its way to its program when it has no time yet.
                (Phase::Running, _) if told.started_at_ns == 0 => Seen::Running(now()),
                (Phase::Running, _) => Seen::Running(told.started_at_ns),
                (Phase::Exited, Some(record)) => exited(record.clone()),
                (Phase::Exited, None) => Seen::Nothing,
            },
            None => self.exit_record(id).map_or(Seen::Nothing, exited),
        }
    }

    /// What a monitor that is gone wrote of the container's end.
    fn exit_record(&self, id: &ContainerId) -> Option<ExitRecord> {
        let path = self.state.records().container_dir(id).join("exit");
        match exit_file::decode(&std::fs::read(&path).ok()?) {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the exit record cannot be understood");
                None
            }
        }
    }

    /// What no record names: addresses, writable layers, the trash. After a reboot the run folder is empty, so this is
    /// all of it.
    async fn sweep(self: &Arc<Self>, untouched: HashSet<PodId>) {
        let snapshot = self.state.snapshot();
        let ready = snapshot.pods.values().filter(|pod| pod.state.phase == PodPhase::Ready);
        let pods: HashSet<PodId> = ready.map(|pod| pod.id.clone()).chain(untouched).collect();
        if let Err(error) = self.network.sweep(&pods).await {
            tracing::error!(error = chain(&error), "addresses could not be swept");
        }
        self.readmit().await;
        if let Err(error) = self.images.sweep().await {
            tracing::error!(error = chain(&error), "image layers could not be swept");
        }
        // By the records, not the snapshot: those of a pod that could not be recovered keep their layers, too.
        let sweep_layers = |engine: &Engine| {
            let recorded = engine.state.records().container_ids()?.into_iter().collect();
            engine.sweep_layers(&recorded)
        };
        let swept = self.on_disk(sweep_layers).await;
        if let Err(error) = swept {
            tracing::error!(error = chain(&error), "writable layers could not be swept");
        }
    }

    /// Where pods are kept apart: those that may talk to each other do so again.
    async fn readmit(&self) {
        for pod in self.state.snapshot().pods.values().filter(|pod| pod.state.phase == PodPhase::Ready) {
            let addresses = pod.state.addresses.clone();
            // The request was checked when it came.
            let party = Party::of(&pod.spec.config).unwrap_or_default();
            if let Err(error) = self.network.admit(&pod.id, party, addresses).await {
                tracing::error!(pod = %pod.id, error = chain(&error), "the pod cannot talk to those it names");
            }
        }
    }

    fn sweep_layers(&self, live: &HashSet<ContainerId>) -> Result<(), Error> {
        let list = |path: &std::path::Path| match std::fs::read_dir(path) {
            Ok(entries) => Ok(entries.filter_map(Result::ok).map(|entry| entry.path()).collect::<Vec<_>>()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(Error::Io { op: "list", path: path.to_owned(), source }),
        };
        let is_live = |path: &std::path::PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| live.contains(name))
        };
        list(&self.paths.trash())?.iter().for_each(|path| super::remove_container::remove_tree(path));
        for path in list(&self.paths.container_layers())?.iter().filter(|path| !is_live(path)) {
            super::remove_container::remove_tree(path);
        }
        Ok(())
    }
}
