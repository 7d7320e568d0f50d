//! What a verb can fail with. Each variant says which object, which step and why; `kind` is what the CRI face maps to a
//! gRPC code.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::checkpoint::CheckpointError;
use crate::image::{self, ImageError};
use crate::libcontainer::blockio::BlockIoError;
use crate::libcontainer::cdi::CdiError;
use crate::libcontainer::cgroup::CgroupError;
use crate::libcontainer::host::HostError;
use crate::libcontainer::plan::PlanError;
use crate::libcontainer::rdt::RdtError;
use crate::libcontainer::run::OpenError;
use crate::libcontainer::seccomp::CompileError;
use crate::libcontainer::spec::{SpecError, UserError};
use crate::model::{ErrorKind, IllegalStep};
use crate::monitor::client::MonitorError;
use crate::network::NetworkError;
use crate::network::dns::DnsError;
use crate::nri::message::LimitError;
use crate::nri::{AdjustError, NriError};
use crate::state::RecordError;
use crate::stream::StreamError;

/// A verb's failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No pod of that id.
    #[error("pod sandbox {0:?} does not exist")]
    NoSuchPod(String),
    /// No container of that id.
    #[error("container {0:?} does not exist")]
    NoSuchContainer(String),
    /// No image of that name or id.
    #[error("image {0:?} is not here; pull it first")]
    NoSuchImage(String),
    /// The beginning of more than one id.
    #[error("{0:?} is the beginning of more than one id")]
    AmbiguousId(String),
    /// A field of the request.
    #[error("{field}: {reason}")]
    Invalid {
        /// As the CRI names it.
        field: &'static str,
        /// What is wrong with it, with its value.
        reason: String,
    },
    /// Another object has the name already.
    #[error("{what} {name} exists already, with id {id}")]
    NameInUse {
        /// "pod sandbox" or "container".
        what: &'static str,
        /// The key.
        name: String,
        /// Whose it is.
        id: String,
    },
    /// The object's state does not allow it.
    #[error("{what} {id} is {state}; it must be {wanted}")]
    WrongState {
        /// "pod sandbox" or "container".
        what: &'static str,
        /// Which.
        id: String,
        /// What it is.
        state: &'static str,
        /// What the verb needs.
        wanted: &'static str,
    },
    /// The pod's handler was configured when it was made.
    #[error(
        "the runtime handler {handler:?} of pod {pod} is not configured any more: the pod can be stopped and removed, but no \
         container made in it"
    )]
    NoHandler {
        /// Which pod.
        pod: String,
        /// Its handler.
        handler: String,
    },
    /// A state was asked to take an impossible step.
    #[error(transparent)]
    Step(#[from] IllegalStep),
    /// The program could not be executed.
    #[error("container {id} did not start")]
    Start {
        /// Which.
        id: String,
        /// Step, path and errno, as the container's init told them.
        #[source]
        source: MonitorError,
    },
    /// A command could not be executed in a container.
    #[error("cannot run {command:?} in container {id}")]
    Exec {
        /// Which container.
        id: String,
        /// argv.
        command: Vec<String>,
        /// Step, path and errno, as the process itself told them.
        #[source]
        source: MonitorError,
    },
    /// ExecSync ran out of its time; everything it started is dead.
    #[error(
        "the command {command:?} in container {id} did not end within {seconds} s; all of its processes were killed"
    )]
    ExecTimeout {
        /// Which container.
        id: String,
        /// argv.
        command: Vec<String>,
        /// The request's timeout.
        seconds: i64,
    },
    /// The container did not end although it was killed.
    #[error(
        "container {0} did not end within the time it was given, although it was killed; a process of it may hang in the kernel"
    )]
    StopTimeout(String),
    /// A checkpoint of a container, or what one is made from.
    #[error("checkpoint of container {id}")]
    Checkpoint {
        /// Which.
        id: String,
        /// Why not.
        #[source]
        source: CheckpointError,
    },
    /// An archive that a container was to come from.
    #[error("restore from {}", path.display())]
    Archive {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: CheckpointError,
    },
    /// CheckpointContainer ran out of its time. The container goes on, and no archive appears.
    #[error(
        "the checkpoint of container {id} was not ready within {seconds} s and was given up; the container goes on"
    )]
    CheckpointTimeout {
        /// Which.
        id: String,
        /// The request's timeout.
        seconds: u64,
    },
    /// All blocks of the configured range are in use.
    #[error(
        "no ids are left for a pod in a user namespace: {pods} pods have some; raise `user_namespaces.pods` in the configuration"
    )]
    NoIds {
        /// How many blocks there are.
        pods: u32,
    },
    /// A file or folder of ours.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was being done.
        op: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A system call without a path.
    #[error("cannot {op}")]
    System {
        /// What was being done.
        op: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The image side.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The request cannot become a container. Nothing goes before the text: kubelet knows some by their beginning (rules.md, 5).
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The user of the container.
    #[error("container config")]
    User(#[from] UserError),
    /// The seccomp profile.
    #[error("seccomp profile")]
    Seccomp(#[from] CompileError),
    /// A device of the Container Device Interface.
    #[error(transparent)]
    Cdi(#[from] CdiError),
    /// A class of block I/O.
    #[error(transparent)]
    BlockIo(#[from] BlockIoError),
    /// A class of cache and memory bandwidth.
    #[error(transparent)]
    Rdt(#[from] RdtError),
    /// A device of the request, or the host's.
    #[error("devices")]
    Host(#[from] HostError),
    /// A file of the pod's /etc.
    #[error("pod config")]
    Dns(#[from] DnsError),
    /// The OCI spec cannot become a plan.
    #[error("container config")]
    Plan(#[from] PlanError),
    /// An image volume. kubelet knows the prefix (rules.md, 5).
    #[error("ImageVolumeMountFailed: mount {container_path:?}")]
    ImageVolume {
        /// Which one.
        container_path: String,
        /// Why not.
        #[source]
        source: Box<Error>,
    },
    /// A mount could not be opened.
    #[error("container mounts")]
    Open(#[from] OpenError),
    /// A cgroup.
    #[error("cgroup")]
    Cgroup(#[from] CgroupError),
    /// An NRI plugin refuses, or two cannot have what they want.
    #[error(transparent)]
    Nri(#[from] NriError),
    /// What NRI plugins want of a container and it cannot have.
    #[error(transparent)]
    Adjust(#[from] AdjustError),
    /// A limit that an NRI plugin wants changed and that cannot be.
    #[error("an NRI plugin's update of container {id}")]
    PluginLimits {
        /// Which container.
        id: String,
        /// Which limit.
        #[source]
        source: LimitError,
    },
    /// A change that an NRI plugin wants and that was not made.
    #[error("an NRI plugin's update of container {id}")]
    PluginUpdate {
        /// Which container.
        id: String,
        /// Why not.
        #[source]
        source: Box<Error>,
    },
    /// The pod's network.
    #[error("pod network")]
    Network(#[from] NetworkError),
    /// The pod's monitor.
    #[error("monitor of pod {pod}")]
    Monitor {
        /// Whose.
        pod: String,
        /// What it said, or why it could not be asked.
        #[source]
        source: MonitorError,
    },
    /// The spawner of monitors.
    #[error("spawner")]
    Spawner(#[source] MonitorError),
    /// A monitor that is there and says nothing.
    #[error("the monitor of pod {pod} did not answer within {seconds} s; a log on a disk that hangs can hold it")]
    MonitorSilent {
        /// Whose.
        pod: String,
        /// How long it was given.
        seconds: u64,
    },
    /// A monitor that was started by an older version of the agent.
    #[error(
        "the monitor of pod {pod} is of an older version of berth, which had neither Attach nor PortForward; a pod that is \
         started anew has both"
    )]
    OldMonitor {
        /// Whose.
        pod: String,
    },
    /// Nothing in the pod listens there, or it does not answer.
    #[error("cannot connect to {address} in pod {pod}")]
    Connect {
        /// The pod.
        pod: String,
        /// On its loopback.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The streaming server.
    #[error("streaming server")]
    Stream(#[from] StreamError),
    /// The records in the run folder.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The failure of an earlier request of the same name, which this one joined.
    #[error(transparent)]
    Joined(Arc<Error>),
    /// The agent is going down, or the verb broke an invariant (which the log tells).
    #[error("the operation was given up")]
    Cancelled,
}

impl Error {
    /// The kind that a client can react to.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchPod(_) | Self::NoSuchContainer(_) | Self::NoSuchImage(_) => ErrorKind::NotFound,
            Self::AmbiguousId(_) | Self::Invalid { .. } => ErrorKind::InvalidArgument,
            Self::NameInUse { .. } => ErrorKind::AlreadyExists,
            Self::NoIds { .. } => ErrorKind::ResourceExhausted,
            Self::WrongState { .. } | Self::Step(_) | Self::OldMonitor { .. } | Self::NoHandler { .. } => {
                ErrorKind::FailedPrecondition
            }
            Self::ExecTimeout { .. } | Self::StopTimeout(_) | Self::CheckpointTimeout { .. } => {
                ErrorKind::DeadlineExceeded
            }
            Self::Checkpoint { source, .. } | Self::Archive { source, .. } => checkpoint_kind(source),
            Self::Io { source, .. } | Self::System { source, .. } => io_kind(source),
            Self::Image(source) => image_kind(source),
            Self::Spec(_) | Self::User(_) | Self::Plan(_) | Self::Seccomp(_) | Self::Dns(_) => {
                ErrorKind::InvalidArgument
            }
            Self::Cdi(CdiError::Name { .. }) => ErrorKind::InvalidArgument,
            // The node's side: a file that is not there yet, or asks for too much.
            Self::Cdi(_) | Self::BlockIo(_) | Self::Rdt(_) => ErrorKind::FailedPrecondition,
            // The node's side, too.
            Self::Nri(_) | Self::Adjust(_) | Self::PluginLimits { .. } | Self::PluginUpdate { .. } => {
                ErrorKind::FailedPrecondition
            }
            Self::ImageVolume { source, .. } => source.kind(),
            Self::Host(source) => asked_for(&source.source),
            Self::Open(source) => asked_for(&source.source),
            Self::Cgroup(source) => cgroup_kind(source),
            Self::Network(source) => source.kind(),
            Self::Monitor { source, .. }
            | Self::Start { source, .. }
            | Self::Exec { source, .. }
            | Self::Spawner(source) => monitor_kind(source),
            Self::MonitorSilent { .. } | Self::Connect { .. } => ErrorKind::Unavailable,
            Self::Stream(_) => ErrorKind::ResourceExhausted,
            Self::Joined(error) => error.kind(),
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Record(RecordError::Io { source, .. }) => io_kind(source),
            Self::Record(_) => ErrorKind::Internal,
        }
    }
}

/// The kind of a failed system call of our own.
pub(crate) fn io_kind(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory => {
            ErrorKind::ResourceExhausted
        }
        _ => ErrorKind::Internal,
    }
}

/// The kind of a failed system call on what the request names: a path that is not there is the request's mistake.
fn asked_for(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::PermissionDenied => ErrorKind::InvalidArgument,
        _ if error.raw_os_error() == Some(libc::ENOEXEC) => ErrorKind::InvalidArgument,
        _ => io_kind(error),
    }
}

fn image_kind(error: &ImageError) -> ErrorKind {
    match error.kind() {
        image::ErrorKind::InvalidArgument => ErrorKind::InvalidArgument,
        image::ErrorKind::NotFound => ErrorKind::NotFound,
        image::ErrorKind::Unauthenticated => ErrorKind::Unauthenticated,
        image::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        image::ErrorKind::Unavailable => ErrorKind::Unavailable,
        image::ErrorKind::Corrupt => ErrorKind::Corrupt,
        image::ErrorKind::Unsupported | image::ErrorKind::FailedPrecondition => ErrorKind::FailedPrecondition,
        image::ErrorKind::Exhausted => ErrorKind::ResourceExhausted,
        image::ErrorKind::Cancelled => ErrorKind::Cancelled,
        image::ErrorKind::Internal => ErrorKind::Internal,
    }
}

fn checkpoint_kind(error: &CheckpointError) -> ErrorKind {
    match error {
        CheckpointError::NoCriu { .. }
        | CheckpointError::TooOld { .. }
        | CheckpointError::Kernel { .. }
        | CheckpointError::Unsupported { .. }
        | CheckpointError::Refused { .. } => ErrorKind::FailedPrecondition,
        CheckpointError::BadArchive { .. } => ErrorKind::InvalidArgument,
        CheckpointError::GivenUp => ErrorKind::DeadlineExceeded,
        CheckpointError::Io { source, .. } => asked_for(source),
    }
}

fn cgroup_kind(error: &CgroupError) -> ErrorKind {
    match error {
        CgroupError::Path { .. } | CgroupError::Devices(_) => ErrorKind::InvalidArgument,
        CgroupError::NoController { .. } | CgroupError::OnV1 { .. } | CgroupError::InUse { .. } => {
            ErrorKind::FailedPrecondition
        }
        CgroupError::NotUndone { .. } => ErrorKind::Internal,
        CgroupError::Write { source, .. } if refused(source) => ErrorKind::InvalidArgument,
        CgroupError::Write { source, .. } | CgroupError::Io { source, .. } => io_kind(source),
        CgroupError::Timeout { .. } => ErrorKind::DeadlineExceeded,
        CgroupError::NoHierarchy => ErrorKind::Unimplemented,
        CgroupError::Systemd { .. } => ErrorKind::Unavailable,
        CgroupError::Job { .. } => ErrorKind::Internal,
    }
}

/// What the kernel says of a value that it does not take: EINVAL, a number out of range, a device that is not there.
fn refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ERANGE | libc::ENODEV | libc::EOPNOTSUPP | libc::EACCES))
        || error.kind() == io::ErrorKind::InvalidInput
}

/// Init works on what the request and the image name: what it does not find is the request's mistake.
fn monitor_kind(error: &MonitorError) -> ErrorKind {
    match error {
        MonitorError::Init { errno, .. } => asked_for(&io::Error::from_raw_os_error(*errno)),
        MonitorError::NotFound(_) => ErrorKind::NotFound,
        MonitorError::WrongState(_) => ErrorKind::FailedPrecondition,
        MonitorError::Lost => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::chain;

    #[test]
    fn kubelet_finds_its_prefix_at_the_beginning() {
        let refused = SpecError::RecursiveReadOnlyUnsupported { container_path: "/data".into() };
        assert!(chain(&Error::from(refused)).starts_with("RROUnsupported: "));
    }
}
