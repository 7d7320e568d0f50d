//! The agent's memory of pods and containers. Readers take one immutable snapshot by an atomic load and never wait;
//! writers go one at a time: file first, then the new snapshot. `ops` is the only caller that writes.

/// Who follows the changes.
mod events;
/// Records on disk: versioned JSON, written by rename.
mod records;
/// The immutable picture that readers see.
mod snapshot;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};

pub use events::{Event, EventKind};
pub use records::{RecordError, Records};
pub use snapshot::{Lookup, Snapshot};

use crate::model::{Container, ContainerId, ContainerState, Pod, PodId, PodPhase, PodState, Resources};

/// Pods and containers: what is true now, in memory and in the run folder.
pub struct State {
    records: Records,
    snapshot: ArcSwap<Snapshot>,
    writer: Mutex<()>,
    changed: Notify,
    events: events::Events,
}

impl State {
    /// An empty state whose records live below `run_root`; `ops::recover` fills it.
    ///
    /// # Errors
    /// When the folders cannot be made.
    pub fn open(run_root: &Path) -> Result<Self, RecordError> {
        let records = Records::open(run_root)?;
        Ok(Self {
            records,
            snapshot: ArcSwap::default(),
            writer: Mutex::new(()),
            changed: Notify::new(),
            events: events::Events::default(),
        })
    }

    /// What is true now. Never blocks; the answer stays the same however long it is held.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The files, for what is written before the object is visible.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Wakes when anything changed after this call was made.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// What happens from now on, in its order, each event after it is visible. A queue that is not emptied in time ends with
    /// the last event that it had room for.
    pub fn events(&self) -> mpsc::Receiver<Arc<Event>> {
        self.events.subscribe()
    }

    /// Makes a finished pod visible, or changes it: record first, then the snapshot.
    ///
    /// # Errors
    /// When the record cannot be written; the snapshot is then unchanged.
    pub fn put_pod(&self, pod: Pod) -> Result<(), RecordError> {
        let _writer = self.lock();
        self.records.write_pod_state(&pod.id, &pod.state)?;
        let known = self.snapshot.load().pods.contains_key(&pod.id);
        let pod = Arc::new(pod);
        let snapshot = self.publish(|snapshot| drop(snapshot.pods.insert(pod.id.clone(), pod.clone())));
        if !known {
            self.events.tell(&[EventKind::Created, EventKind::Started], pod.id.as_str(), Some(&pod), &snapshot);
        }
        Ok(())
    }

    /// Makes a finished container visible: record first, then the snapshot.
    ///
    /// # Errors
    /// When the record cannot be written; the snapshot is then unchanged.
    pub fn put_container(&self, container: Container) -> Result<(), RecordError> {
        let _writer = self.lock();
        self.records.write_container_state(&container.id, &container.state)?;
        let known = self.snapshot.load().containers.contains_key(&container.id);
        let container = Arc::new(container);
        let snapshot =
            self.publish(|snapshot| drop(snapshot.containers.insert(container.id.clone(), container.clone())));
        if !known {
            self.tell(&[EventKind::Created], &container, &snapshot);
        }
        Ok(())
    }

    /// Moves a container to the state that `change` makes of its present one; an unknown container or a refused
    /// change does nothing. The new state is visible even when its record could not be written (a full tmpfs must not
    /// hide an exit); the failure is returned all the same.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn change_container(
        &self,
        id: &ContainerId,
        change: impl FnOnce(ContainerState) -> Option<ContainerState>,
    ) -> Result<Option<Arc<Container>>, RecordError> {
        let _writer = self.lock();
        let current = self.snapshot.load();
        let Some(container) = current.containers.get(id) else { return Ok(None) };
        let Some(state) = change(container.state.clone()) else { return Ok(None) };
        let changed = Arc::new(Container { state, ..Container::clone(container) });
        let written = self.records.write_container_state(id, &changed.state);
        let kinds = events::of_step(&container.state, &changed.state);
        let snapshot = self.publish(|snapshot| drop(snapshot.containers.insert(id.clone(), changed.clone())));
        self.tell(kinds, &changed, &snapshot);
        written.map(|()| Some(changed))
    }

    /// Gives a container other limits: record first, then the snapshot. An unknown container has none.
    ///
    /// # Errors
    /// When the record cannot be written; the snapshot is then unchanged.
    pub fn change_resources(&self, id: &ContainerId, resources: Resources) -> Result<(), RecordError> {
        let _writer = self.lock();
        let current = self.snapshot.load();
        let Some(container) = current.containers.get(id) else { return Ok(()) };
        self.records.write_resources(id, Some(&resources))?;
        let changed = Arc::new(Container { resources: Some(resources), ..Container::clone(container) });
        self.publish(|snapshot| drop(snapshot.containers.insert(id.clone(), changed)));
        Ok(())
    }

    /// As `change_container`, for a pod.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn change_pod(&self, id: &PodId, change: impl FnOnce(&mut PodState)) -> Result<Option<Arc<Pod>>, RecordError> {
        let _writer = self.lock();
        let current = self.snapshot.load();
        let Some(pod) = current.pods.get(id) else { return Ok(None) };
        let mut changed = Pod::clone(pod);
        change(&mut changed.state);
        let changed = Arc::new(changed);
        let written = self.records.write_pod_state(id, &changed.state);
        let snapshot = self.publish(|snapshot| drop(snapshot.pods.insert(id.clone(), changed.clone())));
        if pod.state.phase == PodPhase::Ready && changed.state.phase == PodPhase::NotReady {
            self.events.tell(&[EventKind::Stopped], id.as_str(), Some(&changed), &snapshot);
        }
        written.map(|()| Some(changed))
    }

    /// Makes a pod unknown; its folder is removed with it.
    ///
    /// # Errors
    /// When the folder cannot be removed; the pod then stays known, so that the removal can be asked for again.
    pub fn forget_pod(&self, id: &PodId) -> Result<(), RecordError> {
        let _writer = self.lock();
        self.records.remove_pod(id)?;
        let pod = self.snapshot.load().pods.get(id).cloned();
        let snapshot = self.publish(|snapshot| drop(snapshot.pods.remove(id)));
        if let Some(pod) = pod {
            self.events.tell(&[EventKind::Deleted], id.as_str(), Some(&pod), &snapshot);
        }
        Ok(())
    }

    /// Makes a container unknown; its folder is removed with it.
    ///
    /// # Errors
    /// When the folder cannot be removed; the container then stays known, so that the removal can be asked for again.
    pub fn forget_container(&self, id: &ContainerId) -> Result<(), RecordError> {
        let _writer = self.lock();
        self.records.remove_container(id)?;
        let container = self.snapshot.load().containers.get(id).cloned();
        let snapshot = self.publish(|snapshot| drop(snapshot.containers.remove(id)));
        if let Some(container) = container {
            self.tell(&[EventKind::Deleted], &container, &snapshot);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, change: impl FnOnce(&mut Snapshot)) -> Arc<Snapshot> {
        let mut next = Snapshot::clone(&self.snapshot.load());
        change(&mut next);
        let next = Arc::new(next);
        self.snapshot.store(next.clone());
        self.changed.notify_waiters();
        next
    }

    fn tell(&self, kinds: &[EventKind], container: &Container, snapshot: &Snapshot) {
        let pod = snapshot.pods.get(container.spec.pod.as_str());
        self.events.tell(kinds, container.id.as_str(), pod, snapshot);
    }
}
