//! CheckpointContainer: staging folder → cgroup frozen → processes taken by criu → writable layer packed → thawed → archive written
//! beside its place, and renamed. The container goes on afterwards, whatever happens. It is frozen until its files are packed, so
//! that they are those of the moment in which its memory was taken.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cri_api::v1::NamespaceMode;

use super::{Engine, Error, chain, detached};
use crate::checkpoint::{self, CheckpointError, Config, Criu, Dump, Namespaces, Spec, Staging};
use crate::fault;
use crate::libcontainer::cgroup::Cgroup;
use crate::model::{Container, ContainerId, ContainerSpec, ContainerState, Pod};

/// For a request that names no time.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// What the thread works on.
pub(super) struct Work {
    pub(super) container: Arc<Container>,
    pod: Arc<Pod>,
    /// The container's first process.
    pid: i32,
    /// The pod's monitor, which lives in its namespaces.
    monitor: i32,
}

/// A cgroup that goes on in any case.
pub(super) struct Frozen(Cgroup);

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = self.0.thaw() {
            // It was killed, and is gone with its cgroup; otherwise the next start thaws it.
            tracing::debug!(cgroup = self.0.path(), error = chain(&error), "a container was not thawed");
        }
    }
}

impl Engine {
    /// Puts a running container's processes and files into a new archive at `location`. `timeout` in seconds; 0 is the default.
    ///
    /// # Errors
    /// When it does not run, has what cannot be checkpointed, criu is not there or cannot, or time runs out. There is no archive
    /// then, and the container goes on.
    pub async fn checkpoint_container(
        self: &Arc<Self>,
        id: &str,
        location: PathBuf,
        timeout: i64,
    ) -> Result<(), Error> {
        let container = self.running_container(id)?;
        check_location("location", &location)?;
        let timeout = match u64::try_from(timeout) {
            Ok(0) => DEFAULT_TIMEOUT,
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => return Err(Error::Invalid { field: "timeout", reason: format!("{timeout} is negative") }),
        };
        let (engine, late, id) = (self.clone(), Arc::new(AtomicBool::new(false)), container.id.clone());
        let is_late = late.clone();
        // criu is never cut short: a process that it is busy with would be left broken. It ends, and what it made is thrown away.
        let work = detached(async move { engine.checkpoint(&container.id, location, is_late).await });
        match tokio::time::timeout(timeout, work).await {
            Ok(result) => result,
            Err(_) => {
                late.store(true, Ordering::Relaxed);
                Err(Error::CheckpointTimeout { id: id.to_string(), seconds: timeout.as_secs() })
            }
        }
    }

    async fn checkpoint(
        self: &Arc<Self>,
        id: &ContainerId,
        location: PathBuf,
        late: Arc<AtomicBool>,
    ) -> Result<(), Error> {
        // Not the container's own: it can be stopped meanwhile.
        let _lock = self.checkpoint_locks.lock(id).await;
        let work = self.work(id)?;
        self.on_disk(move |engine| engine.take(&work, &location, &late)).await
    }

    /// A running container that can be taken.
    pub(super) fn work(&self, id: &ContainerId) -> Result<Work, Error> {
        let container = self.running_container(id.as_str())?;
        let ContainerState::Running { pid, .. } = container.state else { return Err(Error::Cancelled) };
        let (pod, monitor) = self.monitor_of(&container)?;
        let pod = self.pod(pod.as_str())?;
        let in_user_namespace = self.pod_user(&pod)?.is_some();
        refuse(&container.spec, in_user_namespace).map_err(of(id))?;
        Ok(Work { container, pod, pid, monitor: monitor.client.pid() })
    }

    fn take(&self, work: &Work, location: &Path, late: &AtomicBool) -> Result<(), Error> {
        let id = &work.container.id;
        let criu = Criu::find(&self.criu).map_err(of(id))?;
        let staging = self.staging(id)?;
        let frozen = self.freeze(work)?;
        fault::point("checkpoint_container.frozen");
        self.dump(work, &criu, &staging)?;
        drop(frozen);
        fault::point("checkpoint_container.dumped");
        self.add_documents(work, &criu, &staging)?;
        let written = checkpoint::write(&staging, location, || {
            fault::point("checkpoint_container.archived");
            !late.load(Ordering::Relaxed)
        });
        written.map_err(of(id))
    }

    /// Comes before a container is frozen: by it the next agent knows that it may have to be thawed.
    pub(super) fn staging(&self, id: &ContainerId) -> Result<Staging, Error> {
        Staging::make(self.paths.checkpoints().join(id.as_str())).map_err(of(id))
    }

    pub(super) fn freeze(&self, work: &Work) -> Result<Frozen, Error> {
        // It goes on, too, when only some of it stopped in time.
        let frozen = Frozen(Cgroup::open(&self.cgroups, &work.container.spec.cgroup));
        frozen.0.freeze()?;
        Ok(frozen)
    }

    /// Memory and files of a frozen container.
    pub(super) fn dump(&self, work: &Work, criu: &Criu, staging: &Staging) -> Result<(), Error> {
        let Work { container, pid, monitor, .. } = work;
        let id = &container.id;
        let no_freezer = CheckpointError::Unsupported {
            what: "a container on this node",
            reason: "there is neither cgroup v2 nor v1's freezer to stop its processes with",
        };
        let folder = Cgroup::open(&self.cgroups, &container.spec.cgroup).freezer();
        let folder = folder.ok_or(no_freezer).map_err(of(id))?;
        let path = format!("/proc/{pid}/mountinfo");
        let mountinfo = std::fs::read_to_string(&path);
        let mountinfo = mountinfo.map_err(|source| Error::Io { op: "read", path: path.into(), source })?;
        let external = checkpoint::external(&mountinfo).map_err(of(id))?;
        let stdio = serde_json::to_vec(&checkpoint::stdio_of(*pid)).unwrap_or_default();
        let dump = Dump {
            pid: *pid,
            namespaces: Namespaces(*monitor),
            images: &staging.images(),
            work: &staging.content(),
            frozen: &folder,
            external: &external,
        };
        criu.dump(&dump).map_err(of(id))?;
        staging.add_rootfs_diff(&self.paths.container_layer(id).join("upper"))?;
        staging.add(&format!("{}/descriptors.json", checkpoint::IMAGES), &stdio).map_err(of(id))
    }

    /// Who it is.
    pub(super) fn add_documents(&self, work: &Work, criu: &Criu, staging: &Staging) -> Result<(), Error> {
        let Work { container, pod, .. } = work;
        let id = &container.id;
        let image = container.spec.config.image.as_ref().map_or("", |image| image.image.as_str());
        let config = Config {
            id: id.to_string(),
            name: container.metadata().name,
            rootfs_image: image.to_owned(),
            rootfs_image_ref: container.spec.image_id.to_string(),
            rootfs_image_name: image.to_owned(),
            runtime: "berth".to_owned(),
            created_time: time(container.spec.created_at),
            checkpointed_time: time(super::now()),
        };
        let process = self.read_process(id)?;
        let spec = Spec {
            args: process.args,
            env: process.env.iter().map(|entry| String::from_utf8_lossy(entry).into_owned()).collect(),
            cwd: process.cwd,
            user: (process.uid, process.gid),
            hostname: pod.spec.hostname.clone(),
            mounts: container
                .spec
                .config
                .mounts
                .iter()
                .map(|mount| (mount.host_path.clone(), mount.container_path.clone()))
                .collect(),
            cgroup: container.spec.cgroup.clone(),
            annotations: annotations(container, pod, image, criu.version()),
        };
        // Neither can fail: they are maps of texts.
        let config = serde_json::to_vec_pretty(&config).unwrap_or_default();
        staging.add("config.dump", &config).map_err(of(id))?;
        staging.add("spec.dump", spec.document().to_string().as_bytes()).map_err(of(id))
    }

    /// What an agent that was killed left of checkpoints: frozen containers go on, half archives are taken away.
    pub(super) async fn end_checkpoints(self: &Arc<Self>) {
        let end = |engine: &Engine| {
            let dir = engine.paths.checkpoints();
            let entries = std::fs::read_dir(&dir).map_err(|source| Error::Io { op: "list", path: dir, source })?;
            for entry in entries.filter_map(Result::ok) {
                let snapshot = engine.state.snapshot();
                let name = entry.file_name();
                let container = name.to_str().and_then(|id| snapshot.containers.get(id));
                if let Some(container) = container {
                    drop(Frozen(Cgroup::open(&engine.cgroups, &container.spec.cgroup)));
                }
                Staging::sweep(&entry.path());
            }
            Ok(())
        };
        if let Err(error) = self.on_disk(end).await {
            tracing::error!(error = chain(&error), "unfinished checkpoints could not be swept");
        }
    }
}

/// Says whose checkpoint it is.
pub(super) fn of(id: &ContainerId) -> impl FnOnce(CheckpointError) -> Error + use<> {
    let id = id.to_string();
    move |source| Error::Checkpoint { id, source }
}

pub(super) fn check_location(field: &'static str, location: &Path) -> Result<(), Error> {
    let reason = match location.file_name() {
        _ if !location.is_absolute() => "is not an absolute path",
        None => "does not name a file",
        _ if location.is_dir() => "is a folder",
        Some(_) => return Ok(()),
    };
    Err(Error::Invalid { field, reason: format!("{:?} {reason}", location.display().to_string()) })
}

/// What cannot be remade, and is better refused now than at a restore.
pub(super) fn refuse(spec: &ContainerSpec, in_user_namespace: bool) -> Result<(), CheckpointError> {
    let config = &spec.config;
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = context.and_then(|context| context.namespace_options.as_ref());
    let own_processes = options.is_some_and(|options| options.pid() == NamespaceMode::Container);
    let (what, reason) = if config.tty {
        ("a container with a terminal", "its other side belongs to a client that is not there when it is restored")
    } else if !own_processes {
        (
            "a container without a PID namespace of its own",
            "its process ids would have to be free again where it is restored (the request's namespace_options.pid is not CONTAINER)",
        )
    } else if in_user_namespace {
        ("a container of a pod in a user namespace", "criu has to own the namespaces that it works in")
    } else if spec.external {
        ("a container that an OCI runtime runs", "the runtime keeps more of it than Berth knows")
    } else {
        return Ok(());
    };
    Err(CheckpointError::Unsupported { what, reason })
}

/// By which tools that read archives find names: as containerd calls them, and as checkpoints in general do.
fn annotations(container: &Container, pod: &Pod, image: &str, criu: &str) -> BTreeMap<String, String> {
    let sandbox = pod.spec.config.metadata.clone().unwrap_or_default();
    let name = container.metadata().name;
    let pairs = [
        ("io.kubernetes.cri.container-type", "container".to_owned()),
        ("io.kubernetes.cri.container-name", name.clone()),
        ("io.kubernetes.cri.image-name", image.to_owned()),
        ("io.kubernetes.cri.sandbox-id", pod.id.to_string()),
        ("io.kubernetes.cri.sandbox-name", sandbox.name),
        ("io.kubernetes.cri.sandbox-namespace", sandbox.namespace),
        ("io.kubernetes.cri.sandbox-uid", sandbox.uid),
        ("org.criu.checkpoint.container.name", name),
        ("org.criu.checkpoint.criu.version", criu.to_owned()),
    ];
    let own = pairs.into_iter().map(|(key, value)| (key.to_owned(), value));
    own.chain(pod_annotations(pod)).collect()
}

/// The same of a pod.
pub(super) fn pod_annotations(pod: &Pod) -> BTreeMap<String, String> {
    let sandbox = pod.spec.config.metadata.clone().unwrap_or_default();
    let pairs = [
        ("org.criu.checkpoint.pod.id", pod.id.to_string()),
        ("org.criu.checkpoint.pod.name", sandbox.name),
        ("org.criu.checkpoint.pod.namespace", sandbox.namespace),
        ("org.criu.checkpoint.pod.uid", sandbox.uid),
        ("org.criu.checkpoint.engine.name", "berth".to_owned()),
        ("org.criu.checkpoint.engine.version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// RFC 3339; what a clock cannot have shown is 1970.
fn time(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default().to_string()
}
