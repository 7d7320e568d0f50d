//! CreateContainer: image held → record → root opened → user, spec, plan → cgroup → init cloned, set up and waiting, so
//! that whatever is wrong with the mounts or the limits surfaces here and StartContainer is only a release.

use std::path::PathBuf;
use std::sync::Arc;

use cri_api::v1::{ContainerConfig, ImageSpec, Mount};

use super::monitors::gone;
use super::prepare_container::{Prepared, Work};
use super::restore_container::checkpoint_of;
use super::undo::Undo;
use super::{Engine, Error, now, of_pod};
use crate::fault;
use crate::image::Image;
use crate::model::{
    Container, ContainerId, ContainerKey, ContainerSpec, ContainerState, ImageVolume, Pod, PodPhase, ProcessUser,
    signal,
};
use crate::monitor::client::CreateContainer;
use crate::telemetry::phases::Phases;

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
        let checkpoint = checkpoint_of(&config);
        self.create_container_from(pod_id, config, checkpoint).await
    }

    /// The same, with processes that come from an archive, if there is one.
    pub(super) async fn create_container_from(
        self: &Arc<Self>,
        pod_id: &str,
        config: ContainerConfig,
        checkpoint: Option<PathBuf>,
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
            match engine.make_container(&pod, config, checkpoint, &mut undo).await {
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
        checkpoint: Option<PathBuf>,
        undo: &mut Undo,
    ) -> Result<ContainerId, Error> {
        let mut phases = Phases::start("create_container");
        let _held = self.nri.hold().await;
        let _pod_lock = self.pod_locks.lock(&pod.id).await;
        self.require_ready(pod)?;
        self.refuse_used_container_name(pod, &config)?;
        let image = match checkpoint.clone() {
            Some(archive) => self.image_of_checkpoint(archive).await?,
            None => self.image_of(&config)?,
        };
        if image.artifact {
            let reason = format!("{} is an OCI artifact: files for an image volume, nothing that can run", image.id);
            return Err(Error::Invalid { field: "config.image.image", reason });
        }
        let image_volumes = self.image_volumes(&config)?;
        let id = ContainerId::random().map_err(|source| Error::System { op: "get random bytes for an id", source })?;

        let spec = ContainerSpec { checkpoint, ..self.container_spec(pod, &id, config, &image, image_volumes)? };
        let engine = self.clone();
        let of_undo = (id.clone(), spec.cgroup.clone());
        undo.push_record("remove the container's records", {
            let (records, id) = (self.state.records().clone(), id.clone());
            move || async move { Ok(records.remove_container(&id)?) }
        });
        undo.push("discard the container's cgroup, layer and image hold", move || async move {
            engine.discard_container(of_undo.0, of_undo.1).await
        });
        if !self.images.hold(&spec.all_layers(), &id) {
            // One of them was removed since it was looked up.
            return Err(Error::NoSuchImage(image.id.to_string()));
        }
        let dir = self.state.records().begin_container(&id, &spec)?;
        fault::point("create_container.recorded");
        phases.mark("record");

        let user = self.pod_user(pod)?;
        let work = Work { pod: pod.clone(), user, id: id.clone(), spec: spec.clone(), image, dir };
        let (prepared, placeholder) = self.prepare(work, undo).await?;
        fault::point("create_container.prepared");
        phases.mark("prepare");

        let limits = prepared.limits.clone();
        let (user, pid) = self.clone_init(&pod.id, &id, prepared, undo).await?;
        if let Some(placeholder) = placeholder {
            placeholder.end().await;
        }
        fault::point("create_container.cloned");
        phases.mark("init");
        let state = ContainerState::Created { pid, user };
        let resources = self.adjusted_limits(&id, limits)?;
        self.state.put_container(Container { id: id.clone(), spec, state, resources })?;
        fault::point("create_container.created");
        phases.finish();
        self.tell_created(&id).await;
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
            client.client.remove(&of_undo).await.or_else(gone).map_err(of_pod(&pod_id))
        });
        let Prepared { plan, fds, cgroup, log, record_dir, runtime, user, limits: _ } = prepared;
        let request = CreateContainer { id: id.clone(), plan, fds, cgroup, log, record_dir, runtime };
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

    /// What the mounts that name an image mean, in their order.
    fn image_volumes(&self, config: &ContainerConfig) -> Result<Vec<ImageVolume>, Error> {
        let named = config.mounts.iter().filter_map(|mount| Some((mount, mount.image.as_ref()?)));
        let resolve = |(mount, image): (&Mount, &ImageSpec)| match self.images.resolve(&image.image) {
            Some(image) => Ok(ImageVolume { image_id: image.id.clone(), layers: image.layers.clone() }),
            None => Err(Error::ImageVolume {
                container_path: mount.container_path.clone(),
                source: Box::new(Error::NoSuchImage(image.image.clone())),
            }),
        };
        named.map(resolve).collect()
    }

    fn container_spec(
        &self,
        pod: &Pod,
        id: &ContainerId,
        config: ContainerConfig,
        image: &Image,
        image_volumes: Vec<ImageVolume>,
    ) -> Result<ContainerSpec, Error> {
        let log_path = log_path(&pod.spec.config.log_directory, &config.log_path)?;
        let stop_signal = stop_signal(&config, image)?;
        let cgroup = self.cgroups.container_path(&pod.spec.cgroup_parent, id)?;
        Ok(ContainerSpec {
            pod: pod.id.to_string(),
            image_id: image.id.clone(),
            layers: image.layers.clone(),
            image_volumes,
            created_at: now(),
            log_path,
            cgroup,
            stop_signal,
            external: self.handlers.of_pod(pod)?.program.is_some(),
            checkpoint: None,
            config,
        })
    }
}

pub(super) fn not_ready(pod: &crate::model::PodId) -> Error {
    Error::WrongState { what: "pod sandbox", id: pod.to_string(), state: "not ready", wanted: "ready" }
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
