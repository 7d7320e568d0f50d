//! What a new agent does about what an old one left behind: a pure table from facts to actions. `ops::recover` gathers
//! the facts (files under the run folder, answering monitors, exit records) and carries the actions out.

use super::{ContainerEvent, ContainerState, PodPhase};

/// What is known of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// The `spec` file can be read.
    pub spec: bool,
    /// The `state` file's phase; absent when the pod was never finished.
    pub phase: Option<PodPhase>,
    /// Its monitor answers on its socket.
    pub monitor: bool,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodAction {
    /// As it was: its monitor is ours now.
    Keep,
    /// It stays known, stopped; what it still holds (monitor, address) is released.
    Stop,
    /// It was only half made, or its record is unreadable: everything of it goes.
    RollBack,
}

/// The table for pods.
pub fn pod_action(facts: PodFacts) -> PodAction {
    match facts {
        PodFacts { spec: false, .. } | PodFacts { phase: None, .. } => PodAction::RollBack,
        PodFacts { phase: Some(PodPhase::Ready), monitor: true, .. } => PodAction::Keep,
        PodFacts { phase: Some(PodPhase::Ready), monitor: false, .. } => PodAction::Stop,
        PodFacts { phase: Some(PodPhase::NotReady), .. } => PodAction::Stop,
    }
}

/// What is known of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerFacts {
    /// The `spec` file can be read, and its pod stays known.
    pub spec: bool,
    /// The `state` file; absent when the container was never finished.
    pub state: Option<ContainerState>,
    /// What its pod's monitor says of it.
    pub seen: Seen,
    /// Now, in nanoseconds since the epoch, for what nobody dated.
    pub now: i64,
}

/// A monitor's word on a container, or its exit record's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// No monitor, no record: nothing is known.
    Nothing,
    /// Its init waits for release.
    Waiting,
    /// It runs since that time (ns).
    Running(i64),
    /// It ended.
    Exited {
        /// When it was released, if ever (ns).
        started_at: Option<i64>,
        /// When it ended (ns).
        finished_at: i64,
        /// With which code.
        exit_code: i32,
        /// By the kernel, for memory.
        oom_killed: bool,
    },
}

/// What is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerAction {
    /// Take the state as recorded, after these events happened to it while no agent looked.
    Keep(Vec<ContainerEvent>),
    /// It was only half made, or its record is unreadable: everything of it goes.
    RollBack,
}

/// The table for containers.
pub fn container_action(facts: &ContainerFacts) -> ContainerAction {
    let (true, Some(state)) = (facts.spec, &facts.state) else { return ContainerAction::RollBack };
    let events = match (state, &facts.seen) {
        (ContainerState::Exited { .. }, _) => Vec::new(),
        (_, Seen::Nothing) => vec![ContainerEvent::Lost { at: facts.now }],
        (_, Seen::Waiting) => Vec::new(),
        (ContainerState::Created { .. }, Seen::Running(since)) => vec![ContainerEvent::Started { at: *since }],
        (_, Seen::Running(_)) => Vec::new(),
        (_, Seen::Exited { started_at, finished_at, exit_code, oom_killed }) => {
            vec![ContainerEvent::Exited {
                started_at: *started_at,
                at: *finished_at,
                exit_code: *exit_code,
                oom_killed: *oom_killed,
            }]
        }
    };
    ContainerAction::Keep(events)
}

#[cfg(test)]
mod tests {
    use super::super::ProcessUser;
    use super::*;

    fn container(state: Option<ContainerState>, seen: Seen) -> ContainerAction {
        container_action(&ContainerFacts { spec: true, state, seen, now: 99 })
    }

    fn created() -> ContainerState {
        ContainerState::Created { pid: 1, user: ProcessUser::default() }
    }

    #[test]
    fn a_pod_is_kept_only_with_spec_state_and_monitor() {
        for spec in [true, false] {
            for phase in [None, Some(PodPhase::Ready), Some(PodPhase::NotReady)] {
                for monitor in [true, false] {
                    let whole = spec && phase == Some(PodPhase::Ready) && monitor;
                    let action = pod_action(PodFacts { spec, phase, monitor });
                    assert_eq!(action == PodAction::Keep, whole, "{spec} {phase:?} {monitor}");
                    assert_eq!(action == PodAction::RollBack, !spec || phase.is_none());
                }
            }
        }
    }

    #[test]
    fn a_container_without_a_state_is_rolled_back_whatever_runs() {
        for seen in [Seen::Nothing, Seen::Waiting, Seen::Running(1)] {
            assert_eq!(container(None, seen), ContainerAction::RollBack);
        }
    }

    #[test]
    fn an_agent_killed_between_release_and_record_finds_it_running() {
        let action = container(Some(created()), Seen::Running(42));
        assert_eq!(action, ContainerAction::Keep(vec![ContainerEvent::Started { at: 42 }]));
    }

    #[test]
    fn a_start_and_an_exit_that_nobody_saw_are_both_told() {
        let seen = Seen::Exited { started_at: Some(5), finished_at: 9, exit_code: 3, oom_killed: false };
        let ContainerAction::Keep(events) = container(Some(created()), seen) else { panic!() };
        let state = events.into_iter().fold(created(), |state, event| state.step(event).unwrap());
        let ContainerState::Exited { exit, .. } = state else { panic!() };
        assert_eq!((exit.started_at, exit.finished_at, exit.exit_code), (5, 9, 3));
    }

    #[test]
    fn a_lost_monitor_without_a_record_is_unknown() {
        let action = container(Some(created()), Seen::Nothing);
        assert_eq!(action, ContainerAction::Keep(vec![ContainerEvent::Lost { at: 99 }]));
    }

    #[test]
    fn every_event_the_table_gives_is_one_the_state_takes() {
        let running = created().step(ContainerEvent::Started { at: 3 }).unwrap();
        let exited = running.clone().step(ContainerEvent::Lost { at: 4 }).unwrap();
        let gone = Seen::Exited { started_at: None, finished_at: 9, exit_code: 0, oom_killed: false };
        for state in [created(), running, exited] {
            for seen in [Seen::Nothing, Seen::Waiting, Seen::Running(5), gone.clone()] {
                let ContainerAction::Keep(events) = container(Some(state.clone()), seen) else { panic!() };
                events.into_iter().fold(state.clone(), |state, event| state.step(event).unwrap());
            }
        }
    }
}
