//! A container: what was asked for, and the states it goes through.
//!
//! ```text
//!             StartContainer            exit
//!   Created ────────────────► Running ───────► Exited
//!      │   start failed, killed, monitor lost     ▲
//!      └──────────────────────────────────────────┘
//! ```

use std::path::PathBuf;

use cri_api::v1::{ContainerConfig, ContainerMetadata, LinuxContainerResources, Mount};
use serde::{Deserialize, Serialize};

use super::{ContainerId, Digest, PodId, Resources};

/// A container that was made whole; a half-made one is never seen outside `ops::create_container`.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// What does not change from its first moment.
    pub spec: ContainerSpec,
    /// What does.
    pub state: ContainerState,
    /// Its limits, when they were changed since.
    pub resources: Option<Resources>,
}

/// The unchanging part, kept in the container's `spec` file. Written before anything else is made for the container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The pod it belongs to.
    pub pod: String,
    /// The request, unaltered.
    pub config: ContainerConfig,
    /// The image's config digest.
    pub image_id: Digest,
    /// Diff ids of the image's layers, the bottom one first: they stay on disk as long as the container does, even when
    /// the image is removed.
    pub layers: Vec<Digest>,
    /// The images of the request's mounts that name one, in their order. Records of agents that had none lack it.
    #[serde(default)]
    pub image_volumes: Vec<ImageVolume>,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Absolute path of the log; empty when the pod or the container has none.
    pub log_path: String,
    /// Its cgroup, as a path from the hierarchy's root.
    pub cgroup: String,
    /// The soft stop signal: CRI `stop_signal`, else the image's, else SIGTERM.
    pub stop_signal: i32,
    /// An OCI runtime runs it. Records of agents that had none lack it.
    #[serde(default)]
    pub external: bool,
    /// The archive of a checkpoint that its processes come from. Records of agents that had none lack it.
    #[serde(default)]
    pub checkpoint: Option<PathBuf>,
}

/// What an image volume is made of; like the container's own image it stays on disk as long as the container does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVolume {
    /// The image's config digest.
    pub image_id: Digest,
    /// Diff ids of its layers, the bottom one first.
    pub layers: Vec<Digest>,
}

impl ContainerSpec {
    /// The layers that the container stands on: its root's and its image volumes'.
    pub fn all_layers(&self) -> Vec<Digest> {
        let volumes = self.image_volumes.iter().flat_map(|volume| &volume.layers);
        self.layers.iter().chain(volumes).cloned().collect()
    }

    /// The request's mounts, and of image volumes what their reference meant (CRI `ImageSpec.image_ref`).
    pub fn mounts(&self) -> Vec<Mount> {
        let mut mounts = self.config.mounts.clone();
        let images = mounts.iter_mut().filter_map(|mount| mount.image.as_mut());
        for (image, volume) in images.zip(&self.image_volumes) {
            image.image_ref = volume.image_id.to_string();
        }
        mounts
    }
}

/// The exit code of a container whose program could not be executed (kubelet and docker show it so).
const START_FAILED: i32 = 128;

/// Everything that an exit leaves behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0 when the program never ran.
    pub started_at: i64,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
    /// The program's code, 128 + signal, or one of ours (128 start failed, 255 unknown).
    pub exit_code: i32,
    /// One CamelCase word.
    pub reason: ExitReason,
    /// For people; may be empty.
    pub message: String,
}

/// Why a container is exited; kubelet shows the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Any other exit code.
    Error,
    /// The kernel killed a process of it for memory.
    #[serde(rename = "OOMKilled")]
    OomKilled,
    /// StartContainer failed; the program never ran.
    StartError,
    /// The monitor was lost, and with it the exit code.
    ContainerStatusUnknown,
}

impl ExitReason {
    /// As kubelet and `kubectl describe` show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::ContainerStatusUnknown => "ContainerStatusUnknown",
        }
    }
}

/// The changing part, kept in the container's `state` file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Its init is set up and waits for release.
    Created {
        /// Init's process id in the host's view.
        pid: i32,
        /// The ids its process runs with.
        user: ProcessUser,
    },
    /// Its program runs.
    Running {
        /// The program's process id in the host's view.
        pid: i32,
        /// The ids its process runs with.
        user: ProcessUser,
        /// Nanoseconds since the epoch.
        started_at: i64,
    },
    /// It ended, or never ran.
    Exited {
        /// The ids its process ran with.
        user: ProcessUser,
        /// How.
        exit: Exit,
    },
}

/// CRI `LinuxContainerUser`: the ids in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids, the primary one included as the CRI shows it.
    pub groups: Vec<u32>,
}

/// What moves a container from one state to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerEvent {
    /// Its init was released and execve succeeded.
    Started {
        /// Nanoseconds since the epoch.
        at: i64,
    },
    /// Its processes came back from a checkpoint.
    Restored {
        /// Nanoseconds since the epoch.
        at: i64,
        /// The new first process, in the host's view.
        pid: i32,
    },
    /// Its init was released and could not become the program.
    StartFailed {
        /// Nanoseconds since the epoch.
        at: i64,
        /// Step, path and errno.
        message: String,
    },
    /// Its first process ended.
    Exited {
        /// When its program was released, if it was: a short life may be over before its start was recorded.
        started_at: Option<i64>,
        /// Nanoseconds since the epoch.
        at: i64,
        /// Exit code, or 128 + signal.
        exit_code: i32,
        /// The kernel killed a process in its cgroup for memory.
        oom_killed: bool,
    },
    /// Nothing can be known of it any more: its monitor is gone and left no exit record.
    Lost {
        /// Nanoseconds since the epoch.
        at: i64,
    },
}

/// An event that the state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a container that is {state} cannot take the event {event:?}")]
pub struct IllegalStep {
    /// Where it is.
    pub state: &'static str,
    /// What came.
    pub event: ContainerEvent,
}

impl ContainerState {
    /// The next state, or a refusal. Pure.
    ///
    /// # Errors
    /// When the event cannot happen in this state.
    pub fn step(self, event: ContainerEvent) -> Result<Self, IllegalStep> {
        match (self, event) {
            (Self::Created { pid, user }, ContainerEvent::Started { at }) => {
                Ok(Self::Running { pid, user, started_at: at })
            }
            (Self::Created { user, .. }, ContainerEvent::Restored { at, pid }) => {
                Ok(Self::Running { pid, user, started_at: at })
            }
            (Self::Created { user, .. }, ContainerEvent::StartFailed { at, message }) => {
                let reason = ExitReason::StartError;
                let exit = Exit { started_at: 0, finished_at: at, exit_code: START_FAILED, reason, message };
                Ok(Self::Exited { user, exit })
            }
            (state @ (Self::Created { .. } | Self::Running { .. }), event) => match event {
                ContainerEvent::Exited { started_at, at, exit_code, oom_killed } => {
                    // Only a start that failed ends so: a killed init has 128 + signal.
                    let never_ran = matches!(state, Self::Created { .. }) && started_at.is_none();
                    let reason = match exit_code {
                        _ if oom_killed => ExitReason::OomKilled,
                        START_FAILED if never_ran => ExitReason::StartError,
                        0 => ExitReason::Completed,
                        _ => ExitReason::Error,
                    };
                    Ok(state.exited(started_at, at, exit_code, reason, String::new()))
                }
                ContainerEvent::Lost { at } => {
                    let message = "the monitor of its pod is gone and left no exit record".to_owned();
                    Ok(state.exited(None, at, 255, ExitReason::ContainerStatusUnknown, message))
                }
                event => Err(IllegalStep { state: state.name(), event }),
            },
            (state, event) => Err(IllegalStep { state: state.name(), event }),
        }
    }

    fn exited(self, started: Option<i64>, at: i64, exit_code: i32, reason: ExitReason, message: String) -> Self {
        let started_at = match &self {
            Self::Running { started_at, .. } => *started_at,
            _ => started.unwrap_or(0),
        };
        let exit = Exit { started_at, finished_at: at.max(started_at), exit_code, reason, message };
        Self::Exited { user: self.user().clone(), exit }
    }

    /// The ids its process runs or ran with.
    pub fn user(&self) -> &ProcessUser {
        match self {
            Self::Created { user, .. } | Self::Running { user, .. } | Self::Exited { user, .. } => user,
        }
    }

    /// The process id in the host's view, while there is one.
    pub fn pid(&self) -> Option<i32> {
        match self {
            Self::Created { pid, .. } | Self::Running { pid, .. } => Some(*pid),
            Self::Exited { .. } => None,
        }
    }

    /// The state's name in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::Running { .. } => "running",
            Self::Exited { .. } => "exited",
        }
    }
}

/// What makes two requests the same container: a retry carries the same key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerKey {
    pod: PodId,
    name: String,
    attempt: u32,
}

impl ContainerKey {
    /// The key of a request.
    pub fn new(pod: &PodId, metadata: &ContainerMetadata) -> Self {
        Self { pod: pod.clone(), name: metadata.name.clone(), attempt: metadata.attempt }
    }
}

impl std::fmt::Display for ContainerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (attempt {}) of pod {}", self.name, self.attempt, self.pod)
    }
}

impl Container {
    /// The request's metadata; `ops::create_container` refuses a container without.
    pub fn metadata(&self) -> ContainerMetadata {
        self.spec.config.metadata.clone().unwrap_or_default()
    }

    /// The limits in force: as they were changed last, else those of the request.
    pub fn limits(&self) -> Option<&LinuxContainerResources> {
        let requested = || self.spec.config.linux.as_ref()?.resources.as_ref();
        self.resources.as_ref().map(|resources| &resources.in_force).or_else(requested)
    }

    /// The image as the request names it.
    pub fn image(&self) -> cri_api::v1::ImageSpec {
        self.spec.config.image.clone().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created() -> ContainerState {
        ContainerState::Created { pid: 7, user: ProcessUser::default() }
    }

    #[test]
    fn a_record_from_before_image_volumes_is_read() {
        let id = Digest::from_sha256(&[7; 32]);
        let spec = ContainerSpec {
            pod: "p".to_owned(),
            config: ContainerConfig::default(),
            image_id: id.clone(),
            layers: vec![id.clone()],
            image_volumes: vec![ImageVolume { image_id: id.clone(), layers: vec![id.clone()] }],
            created_at: 1,
            log_path: String::new(),
            cgroup: "/c".to_owned(),
            stop_signal: 15,
            external: false,
            checkpoint: None,
        };
        let mut record = serde_json::to_value(&spec).unwrap();
        assert_eq!(serde_json::from_value::<ContainerSpec>(record.clone()).unwrap().image_volumes, spec.image_volumes);
        record.as_object_mut().unwrap().remove("image_volumes");
        let old: ContainerSpec = serde_json::from_value(record).unwrap();
        assert_eq!((old.image_volumes.len(), old.all_layers().len(), spec.all_layers().len()), (0, 1, 2));
    }

    fn exit_of(state: ContainerState) -> Exit {
        match state {
            ContainerState::Exited { exit, .. } => exit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_life_from_created_to_exited_keeps_its_times() {
        let running = created().step(ContainerEvent::Started { at: 10 }).unwrap();
        assert_eq!(running.pid(), Some(7));
        let event = ContainerEvent::Exited { started_at: Some(10), at: 30, exit_code: 0, oom_killed: false };
        let exit = exit_of(running.step(event).unwrap());
        assert_eq!((exit.started_at, exit.finished_at, exit.reason), (10, 30, ExitReason::Completed));
    }

    #[test]
    fn a_failed_start_is_128_and_never_started() {
        let event = ContainerEvent::StartFailed { at: 5, message: "no such file".into() };
        let exit = exit_of(created().step(event).unwrap());
        assert_eq!((exit.exit_code, exit.started_at, exit.reason), (128, 0, ExitReason::StartError));
    }

    #[test]
    fn a_failed_start_that_only_the_exit_record_tells_of_is_one_too() {
        let exited = |started_at, exit_code| ContainerEvent::Exited { started_at, at: 5, exit_code, oom_killed: false };
        assert_eq!(exit_of(created().step(exited(None, 128)).unwrap()).reason, ExitReason::StartError);
        assert_eq!(exit_of(created().step(exited(Some(4), 128)).unwrap()).reason, ExitReason::Error);
        assert_eq!(exit_of(created().step(exited(None, 137)).unwrap()).reason, ExitReason::Error);
    }

    #[test]
    fn an_oom_kill_is_told_whatever_the_code() {
        let event = ContainerEvent::Exited { started_at: None, at: 5, exit_code: 137, oom_killed: true };
        assert_eq!(exit_of(created().step(event).unwrap()).reason, ExitReason::OomKilled);
    }

    #[test]
    fn a_clock_that_went_back_never_shows_an_end_before_the_start() {
        let running = created().step(ContainerEvent::Started { at: 10 }).unwrap();
        let exit = exit_of(running.step(ContainerEvent::Lost { at: 3 }).unwrap());
        assert_eq!((exit.finished_at, exit.exit_code), (10, 255));
    }

    #[test]
    fn an_exit_seen_before_the_start_was_recorded_tells_the_start_too() {
        let event = ContainerEvent::Exited { started_at: Some(4), at: 5, exit_code: 0, oom_killed: false };
        assert_eq!(exit_of(created().step(event).unwrap()).started_at, 4);
    }

    #[test]
    fn an_exited_container_takes_no_event() {
        let exited = created().step(ContainerEvent::Lost { at: 3 }).unwrap();
        for event in [ContainerEvent::Started { at: 4 }, ContainerEvent::Lost { at: 4 }] {
            assert!(exited.clone().step(event).is_err());
        }
    }

    #[test]
    fn a_running_container_is_not_started_again() {
        let running = created().step(ContainerEvent::Started { at: 10 }).unwrap();
        assert!(running.clone().step(ContainerEvent::Started { at: 11 }).is_err());
        assert!(running.step(ContainerEvent::StartFailed { at: 11, message: String::new() }).is_err());
    }
}
