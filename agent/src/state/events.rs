//! Who follows the changes, for GetContainerEvents: each change is told after it is visible, in its order, to everybody who
//! subscribed before. Nobody is waited for: one who does not keep up is let go, and learns of it by the end of the events.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

use super::Snapshot;
use crate::model::{Container, ContainerState, Pod};

/// How many events may wait for one subscriber: those of some two hundred pods that start at once.
const QUEUE: usize = 1024;

/// What happened to a pod or a container (CRI `ContainerEventType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It can be seen.
    Created,
    /// Its program runs; a pod: its namespaces are there.
    Started,
    /// It ended.
    Stopped,
    /// It cannot be seen any more.
    Deleted,
}

/// One change, with the pod as it was right after it.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The container's id, or the pod's.
    pub subject: String,
    /// When it became visible, in nanoseconds since the epoch.
    pub at: i64,
    /// The pod; one that is deleted as it was at last.
    pub pod: Option<Arc<Pod>>,
    /// The pod's containers, oldest first.
    pub containers: Vec<Arc<Container>>,
}

/// The subscribers.
#[derive(Default)]
pub(super) struct Events {
    subscribers: Mutex<Vec<mpsc::Sender<Arc<Event>>>>,
}

impl Events {
    pub(super) fn subscribe(&self) -> mpsc::Receiver<Arc<Event>> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    /// Tells what happened; the writer's lock is held, so that the order is the changes' own.
    pub(super) fn tell(&self, kinds: &[EventKind], subject: &str, pod: Option<&Arc<Pod>>, snapshot: &Snapshot) {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        if subscribers.is_empty() {
            return;
        }
        let containers = pod.map(|pod| snapshot.containers_of(&pod.id)).unwrap_or_default();
        for kind in kinds {
            let event = Arc::new(Event {
                kind: *kind,
                subject: subject.to_owned(),
                at: now(),
                pod: pod.cloned(),
                containers: containers.clone(),
            });
            // A full queue, or a client that is gone.
            subscribers.retain(|subscriber| subscriber.try_send(event.clone()).is_ok());
        }
    }
}

/// What a container's step is, to those who follow. A life that was over before its start was recorded has both.
pub(super) fn of_step(before: &ContainerState, after: &ContainerState) -> &'static [EventKind] {
    match (before, after) {
        (ContainerState::Created { .. }, ContainerState::Running { .. }) => &[EventKind::Started],
        (ContainerState::Created { .. }, ContainerState::Exited { exit, .. }) if exit.started_at != 0 => {
            &[EventKind::Started, EventKind::Stopped]
        }
        (ContainerState::Created { .. } | ContainerState::Running { .. }, ContainerState::Exited { .. }) => {
            &[EventKind::Stopped]
        }
        _ => &[],
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContainerEvent, ProcessUser};

    #[test]
    fn a_step_is_told_by_what_it_did() {
        use EventKind::{Started, Stopped};
        let created = ContainerState::Created { pid: 7, user: ProcessUser::default() };
        let running = created.clone().step(ContainerEvent::Started { at: 10 }).unwrap();
        let exited = |state: &ContainerState, started_at| {
            let event = ContainerEvent::Exited { started_at, at: 11, exit_code: 0, oom_killed: false };
            state.clone().step(event).unwrap()
        };
        assert_eq!(of_step(&created, &running), [Started]);
        assert_eq!(of_step(&running, &exited(&running, Some(10))), [Stopped]);
        assert_eq!(of_step(&created, &exited(&created, Some(10))), [Started, Stopped], "over before it was recorded");
        assert_eq!(of_step(&created, &exited(&created, None)), [Stopped], "it never ran");
    }

    #[test]
    fn who_does_not_keep_up_hears_the_first_ones_and_then_the_end() {
        let events = Events::default();
        let (mut slow, mut quick) = (events.subscribe(), events.subscribe());
        for n in 0..=QUEUE {
            events.tell(&[EventKind::Created], &n.to_string(), None, &Snapshot::default());
            assert_eq!(quick.try_recv().unwrap().subject, n.to_string(), "in the order they happened");
        }
        for n in 0..QUEUE {
            assert_eq!(slow.try_recv().unwrap().subject, n.to_string());
        }
        assert_eq!(slow.try_recv().unwrap_err(), mpsc::error::TryRecvError::Disconnected, "no event is left out");
        assert_eq!(quick.try_recv().unwrap_err(), mpsc::error::TryRecvError::Empty);
    }
}
