//! CreateContainer: image held → record → root opened → user, spec, plan → cgroup → init cloned, set up and waiting, so
//! that whatever is wrong with the mounts or the limits surfaces here and StartContainer is only a release.

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri_api::v1::{ContainerConfig, LinuxContainerSecurityContext};
use oci_spec::runtime::LinuxResources;
use prost::Message;

use super::reopen_log::open_log_target;
use super::undo::Undo;
use super::{Engine, Error, accounts, now, of_pod};
use crate::fault;
use crate::image::Image;
use crate::libcontainer::cgroup::{Cgroup, CgroupFds};
use crate::libcontainer::host;
use crate::libcontainer::plan::{FdSource, InitPlan, Overlay, PlanInput, ProcessPlan, Upper, Warning, plan};
use crate::libcontainer::run;
use crate::libcontainer::spec::security::{self, SeccompChoice};
use crate::libcontainer::spec::{self, PodPaths, ResolvedUser, SpecInput};
use crate::model::{
    Container, ContainerId, ContainerKey, ContainerSpec, ContainerState, Pod, PodPhase, ProcessUser, signal,
};
use crate::monitor::client::{self, CreateContainer, LogTarget, Placeholder};
use crate::telemetry::phases::Phases;

/// The record of what an exec inherits: an encoded `ProcessPlan`.
const PROCESS_RECORD: &str = "process";

/// What the file work of a creation leaves for the monitor.
struct Prepared {
    plan: InitPlan,
    fds: Vec<OwnedFd>,
    cgroup: client::CgroupFds,
    log: Option<LogTarget>,
    record_dir: OwnedFd,
    user: ProcessUser,
}

impl Engine {
    /// Makes a container, or joins the request that is making it.
    ///
    /// # Errors
    /// When the request is wrong, the pod is not ready, the image is not here, or a step fails; then nothing of the
    /// container is left.
    pub async fn create_container(
        self: &Arc<Self>,
        pod_id: &str,
        config: ContainerConfig,
    ) -> Result<ContainerId, Error> {
        let pod = self.pod(pod_id)?;
        let metadata = config.metadata.as_ref().filter(|metadata| !metadata.name.is_empty());
        let Some(metadata) = metadata else {
            return Err(Error::Invalid { field: "config.metadata.name", reason: "must not be empty".into() });
        };
        let key = ContainerKey::new(&pod.id, metadata);
        let engine = self.clone();
        let create = async move {
            let mut undo = Undo::default();
            match engine.make_container(&pod, config, &mut undo).await {
                Ok(id) => Ok(id),
                Err(error) => Err(undo.after(error).await),
            }
        };
        self.containers_under_way.join_or_run(key, create).await
    }

    async fn make_container(
        self: &Arc<Self>,
        pod: &Pod,
        config: ContainerConfig,
        undo: &mut Undo,
    ) -> Result<ContainerId, Error> {
        let mut phases = Phases::start("create_container");
        let _pod_lock = self.pod_locks.lock(&pod.id).await;
        self.require_ready(pod)?;
        self.refuse_used_container_name(pod, &config)?;
        let image = self.image_of(&config)?;
        let id = ContainerId::random().map_err(|source| Error::System { op: "get random bytes for an id", source })?;

        let spec = self.container_spec(pod, &id, config, &image)?;
        let engine = self.clone();
        let of_undo = (id.clone(), spec.cgroup.clone());
        undo.push("remove the container's records", {
            let (records, id) = (self.state.records().clone(), id.clone());
            move || async move { Ok(records.remove_container(&id)?) }
        });
        undo.push("discard the container's cgroup, layer and image hold", move || async move {
            engine.discard_container(of_undo.0, of_undo.1).await
        });
        if !self.images.hold(&image.layers, &id) {
            return Err(Error::NoSuchImage(image.id.to_string()));
        }
        let dir = self.state.records().begin_container(&id, &spec)?;
        fault::point("create_container.recorded");
        phases.mark("record");

        let work = Work { pod: pod.clone(), id: id.clone(), spec: spec.clone(), image, dir };
        let (prepared, placeholder) = self.prepare(work).await?;
        fault::point("create_container.prepared");
        phases.mark("prepare");

        let (user, pid) = self.clone_init(&pod.id, &id, prepared, undo).await?;
        if let Some(placeholder) = placeholder {
            placeholder.end().await;
        }
        fault::point("create_container.cloned");
        phases.mark("init");
        phases.finish();
        self.state.put_container(Container { id: id.clone(), spec, state: ContainerState::Created { pid, user } })?;
        fault::point("create_container.created");
        Ok(id)
    }

    async fn clone_init(
        self: &Arc<Self>,
        pod: &crate::model::PodId,
        id: &ContainerId,
        prepared: Prepared,
        undo: &mut Undo,
    ) -> Result<(ProcessUser, i32), Error> {
        let Some(monitor) = self.monitors.get(pod) else { return Err(not_ready(pod)) };
        let (client, of_undo) = (monitor.clone(), id.clone());
        let pod_id = pod.clone();
        undo.push("end the container's init", move || async move {
            client.client.remove(&of_undo).await.map_err(of_pod(&pod_id))
        });
        let Prepared { plan, fds, cgroup, log, record_dir, user } = prepared;
        let request = CreateContainer { id: id.clone(), plan, fds, cgroup, log, record_dir };
        let pid = monitor.client.create(request).await.map_err(of_pod(pod))?;
        Ok((user, pid))
    }

    fn require_ready(&self, pod: &Pod) -> Result<(), Error> {
        let snapshot = self.state.snapshot();
        match snapshot.pods.get(&pod.id).map(|pod| pod.state.phase) {
            Some(PodPhase::Ready) => Ok(()),
            Some(PodPhase::NotReady) => Err(not_ready(&pod.id)),
            None => Err(Error::NoSuchPod(pod.id.to_string())),
        }
    }

    fn refuse_used_container_name(&self, pod: &Pod, config: &ContainerConfig) -> Result<(), Error> {
        let snapshot = self.state.snapshot();
        let containers = snapshot.containers_of(&pod.id);
        match containers.iter().find(|container| container.spec.config.metadata == config.metadata) {
            Some(container) => Err(Error::NameInUse {
                what: "container",
                name: ContainerKey::new(&pod.id, &container.metadata()).to_string(),
                id: container.id.to_string(),
            }),
            None => Ok(()),
        }
    }

    fn image_of(&self, config: &ContainerConfig) -> Result<Arc<Image>, Error> {
        let name = config.image.as_ref().map_or("", |image| image.image.as_str());
        if name.is_empty() {
            return Err(Error::Invalid { field: "config.image.image", reason: "must not be empty".into() });
        }
        self.images.resolve(name).ok_or_else(|| Error::NoSuchImage(name.to_owned()))
    }

    fn container_spec(
        &self,
        pod: &Pod,
        id: &ContainerId,
        config: ContainerConfig,
        image: &Image,
    ) -> Result<ContainerSpec, Error> {
        let log_path = log_path(&pod.spec.config.log_directory, &config.log_path)?;
        let stop_signal = stop_signal(&config, image)?;
        let cgroup = self.cgroups.container_path(&pod.spec.cgroup_parent, id)?;
        Ok(ContainerSpec {
            pod: pod.id.to_string(),
            image_id: image.id.clone(),
            layers: image.layers.clone(),
            created_at: now(),
            log_path,
            cgroup,
            stop_signal,
            config,
        })
    }

    /// All that touches a disk or a user's volume, on a thread that may hang. systemd makes the scope between its two
    /// halves, and only then are there two; the placeholder keeps the scope.
    async fn prepare(self: &Arc<Self>, work: Work) -> Result<(Prepared, Option<Placeholder>), Error> {
        let Some(systemd) = &self.systemd else {
            let prepared = self.on_disk(move |engine| engine.open(&work, engine.plan(&work)?)).await?;
            return Ok((prepared, None));
        };
        let (work, planned) = self.on_disk(move |engine| engine.plan(&work).map(|planned| (work, planned))).await?;
        let placeholder = self.start_scope(systemd, &work.spec.cgroup, planned.limits.as_ref()).await?;
        let prepared = self.on_disk(move |engine| engine.open(&work, planned)).await?;
        Ok((prepared, Some(placeholder)))
    }

    /// From the image and the request to the plan.
    fn plan(&self, work: &Work) -> Result<Planned, Error> {
        let Work { pod, id, spec, image, .. } = work;
        let layer = self.paths.container_layer(id);
        let (layers, upper) = (self.images.layer_dirs(image), make_layer(&layer)?);
        let root = FdSource::Overlay(Overlay {
            lower: layers.clone(),
            upper: Some(upper.clone()),
            readonly: false,
            selinux_context: None,
        });
        let root_fd = run::open(std::slice::from_ref(&root))?;

        let passwd = accounts::read(&root_fd[0], "etc/passwd")?;
        let group = accounts::read(&root_fd[0], "etc/group")?;
        let context = spec.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let user = spec::user::resolve(context, image_user(image), &passwd, &group)?;
        let profile = self.seccomp_profile(context)?;
        let run_dir = self.state.records().pod_dir(&pod.id);
        let oci = spec::build(&SpecInput {
            sandbox: &pod.spec.config,
            container: &spec.config,
            image: &image.config,
            user: &user,
            pod: &pod_paths(&run_dir),
            devices: &host::devices(&spec.config)?,
            seccomp_profile: profile.as_deref(),
            cgroups_path: &spec.cgroup,
            host: &self.host,
        })?;
        let linux = oci.linux().as_ref();
        let seccomp = linux.and_then(|linux| linux.seccomp().as_ref());
        let filter = seccomp.map(|profile| self.filters.get(profile)).transpose()?;
        let planned = plan(
            &oci,
            &PlanInput {
                layers,
                upper: Some(upper),
                filter: filter.as_deref(),
                stdin: spec.config.stdin,
                stdin_once: spec.config.stdin_once,
                host: &self.host,
            },
        )?;
        self.warn_once(&planned.warnings);
        let limits = linux.and_then(|linux| linux.resources().clone());
        Ok(Planned { init: planned.init, sources: planned.fds, root: root_fd, limits, user })
    }

    /// From the plan to what the monitor needs for it.
    fn open(&self, work: &Work, planned: Planned) -> Result<Prepared, Error> {
        let (spec, dir) = (&work.spec, &work.dir);
        let Planned { init, sources, root: mut fds, limits, user } = planned;
        let cgroup = Cgroup::create(&self.cgroups, &spec.cgroup, limits.as_ref())?;
        write_process(dir, &init.process)?;
        fds.extend(run::open(&sources[1..])?);
        let CgroupFds { unified, v1_procs, memory } = cgroup.join_fds()?;
        Ok(Prepared {
            plan: init,
            fds,
            cgroup: client::CgroupFds { unified, v1_procs, memory },
            log: open_log_target(&spec.log_path)?,
            record_dir: open_dir(dir)?,
            user: ProcessUser { uid: user.uid, gid: user.gid, groups: user.groups },
        })
    }

    fn seccomp_profile(&self, context: Option<&LinuxContainerSecurityContext>) -> Result<Option<Vec<u8>>, Error> {
        let SeccompChoice::Localhost(name) = security::seccomp_choice(context)? else { return Ok(None) };
        match std::fs::read(&name) {
            Ok(profile) => Ok(Some(profile)),
            Err(error) => Err(Error::Invalid {
                field: "linux.security_context.seccomp",
                reason: format!("the localhost profile {name:?} cannot be read: {error}"),
            }),
        }
    }

    /// A warning is the same for every container: it is told once.
    fn warn_once(&self, warnings: &[Warning]) {
        let mut told = self.warned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for warning in warnings {
            if told.insert(warning.clone()) {
                tracing::warn!("{warning}");
            }
        }
    }

    /// What an exec in the container inherits.
    pub(super) fn read_process(&self, id: &ContainerId) -> Result<ProcessPlan, Error> {
        let path = self.state.records().container_dir(id).join(PROCESS_RECORD);
        let failed = |source| Error::Io { op: "read the record", path: path.clone(), source };
        let bytes = std::fs::read(&path).map_err(failed)?;
        ProcessPlan::decode(bytes.as_slice()).map_err(|error| failed(std::io::Error::other(error)))
    }
}

/// What `plan` leaves for `open`.
struct Planned {
    init: InitPlan,
    /// What the plan's fds are; the first is the root's.
    sources: Vec<FdSource>,
    /// The root, opened already for the user's sake.
    root: Vec<OwnedFd>,
    limits: Option<LinuxResources>,
    user: ResolvedUser,
}

/// What `prepare` needs on its thread.
struct Work {
    pod: Pod,
    id: ContainerId,
    spec: ContainerSpec,
    image: Arc<Image>,
    dir: PathBuf,
}

fn not_ready(pod: &crate::model::PodId) -> Error {
    Error::WrongState { what: "pod sandbox", id: pod.to_string(), state: "not ready", wanted: "ready" }
}

fn make_layer(layer: &Path) -> Result<Upper, Error> {
    let upper = Upper { upper: layer.join("upper"), work: layer.join("work"), volatile: true };
    let make = |path: &Path, mode| {
        let made = DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|source| Error::Io { op: "make the writable layer", path: path.to_owned(), source })
    };
    make(layer, 0o700)?;
    // The upper folder's mode shows as the mode of the container's "/".
    make(&upper.upper, 0o755)?;
    make(&upper.work, 0o700)?;
    Ok(upper)
}

fn pod_paths(dir: &Path) -> PodPaths {
    PodPaths {
        resolv_conf: Some(dir.join("resolv.conf")),
        hosts: Some(dir.join("hosts")),
        hostname: Some(dir.join("hostname")),
    }
}

fn write_process(dir: &Path, process: &ProcessPlan) -> Result<(), Error> {
    let path = dir.join(PROCESS_RECORD);
    std::fs::write(&path, process.encode_to_vec()).map_err(|source| Error::Io { op: "write the record", path, source })
}

fn open_dir(path: &Path) -> Result<OwnedFd, Error> {
    let opened = std::fs::File::open(path);
    opened.map(OwnedFd::from).map_err(|source| Error::Io { op: "open", path: path.to_owned(), source })
}

/// CRI: `log_directory` joined with `log_path`; no log when either is empty.
fn log_path(directory: &str, path: &str) -> Result<String, Error> {
    if directory.is_empty() || path.is_empty() {
        return Ok(String::new());
    }
    if !directory.starts_with('/') {
        let reason = format!("{directory:?} is not an absolute path");
        return Err(Error::Invalid { field: "sandbox_config.log_directory", reason });
    }
    if path.starts_with('/') || path.ends_with('/') || path.split('/').any(|part| part == "..") {
        let reason = format!("{path:?} is not a file below the pod's log_directory");
        return Err(Error::Invalid { field: "config.log_path", reason });
    }
    Ok(format!("{}/{path}", directory.trim_end_matches('/')))
}

/// The image's USER, `user[:group]`.
fn image_user(image: &Image) -> &str {
    image.config.config().as_ref().and_then(|config| config.user().as_deref()).unwrap_or_default()
}

/// CRI `stop_signal`, else the image's StopSignal, else SIGTERM.
fn stop_signal(config: &ContainerConfig, image: &Image) -> Result<i32, Error> {
    if let Some(asked) = signal::from_cri(config.stop_signal()) {
        return Ok(asked);
    }
    match image.config.config().as_ref().and_then(|config| config.stop_signal().as_deref()).unwrap_or_default() {
        "" => Ok(rustix::process::Signal::TERM.as_raw()),
        name => signal::parse(name).ok_or_else(|| Error::Invalid {
            field: "the image's StopSignal",
            reason: format!("{name:?} is no signal's name or number"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_below_the_pods_folder_or_nowhere() {
        assert_eq!(log_path("/var/log/pods/x/", "c/0.log").unwrap(), "/var/log/pods/x/c/0.log");
        assert_eq!(log_path("", "c/0.log").unwrap(), "");
        assert_eq!(log_path("/var/log", "").unwrap(), "");
        for (directory, path) in [("var", "x"), ("/var", "../x"), ("/var", "a/../../x"), ("/var", "/x"), ("/var", "x/")]
        {
            assert!(log_path(directory, path).is_err(), "{directory} {path}");
        }
    }
}
