//! The file work of CreateContainer: root opened → user, spec, plan → cgroup, and everything that the plan mounts.

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri_api::v1::{LinuxContainerResources, LinuxContainerSecurityContext, Mount};
use oci_spec::runtime::{LinuxResources, Spec};
use prost::Message;

use super::external::Bundle;
use super::handlers::Program;
use super::node_extras::rdt_tasks;
use super::reopen_log::open_log_target;
use super::undo::Undo;
use super::user_namespace::PodUser;
use super::{Engine, Error, accounts};
use crate::image::Image;
use crate::libcontainer::apparmor;
use crate::libcontainer::cgroup::{Cgroup, CgroupFds};
use crate::libcontainer::external::{ExternalInput, external};
use crate::libcontainer::host;
use crate::libcontainer::plan::{
    Attributes, ContainerPlan, FdSource, ImageTree, InitPlan, Overlay, PlanInput, ProcessPlan, Upper, Warning, plan,
};
use crate::libcontainer::run;
use crate::libcontainer::spec::security::{self, SeccompChoice};
use crate::libcontainer::spec::{self, Defaults, PodPaths, ResolvedUser, SpecInput, selinux};
use crate::model::{ContainerId, ContainerSpec, ImageVolume, Pod, ProcessUser};
use crate::monitor::client::{self, LogTarget, Placeholder};
use crate::nri::Adjusted;

/// The record of what an exec inherits: an encoded `ProcessPlan`.
const PROCESS_RECORD: &str = "process";

/// What `prepare` needs on its thread.
pub(super) struct Work {
    pub(super) pod: Pod,
    /// The pod's user namespace, if it has one of its own.
    pub(super) user: Option<PodUser>,
    pub(super) id: ContainerId,
    pub(super) spec: ContainerSpec,
    pub(super) image: Arc<Image>,
    pub(super) dir: PathBuf,
}

/// What the file work of a creation leaves for the monitor.
pub(super) struct Prepared {
    pub(super) plan: InitPlan,
    pub(super) fds: Vec<OwnedFd>,
    pub(super) cgroup: client::CgroupFds,
    pub(super) log: Option<LogTarget>,
    pub(super) record_dir: OwnedFd,
    pub(super) runtime: Option<client::Runtime>,
    pub(super) user: ProcessUser,
    /// When they are not the request's any more.
    pub(super) limits: Option<LinuxContainerResources>,
}

/// What NRI plugins may change before it is planned.
pub(super) struct Draft {
    pub(super) oci: Spec,
    pub(super) adjusted: Option<Adjusted>,
    layers: Vec<PathBuf>,
    upper: Upper,
    root: Vec<OwnedFd>,
    pub(super) user: ResolvedUser,
}

/// What `plan` leaves for `open`.
struct Planned {
    init: InitPlan,
    /// What the plan's fds are; the first is the root's.
    sources: Vec<FdSource>,
    /// The root, opened already for the user's sake.
    root: Vec<OwnedFd>,
    limits: Option<LinuxResources>,
    /// If somebody else runs it.
    bundle: Option<Bundle>,
    /// Lets a process into its class of cache and memory bandwidth.
    rdt: Option<OwnedFd>,
    user: ResolvedUser,
    /// As plugins have left them, when they are not the request's any more.
    changed: Option<LinuxContainerResources>,
}

impl Engine {
    /// All that touches a disk or a user's volume, on a thread that may hang. NRI plugins are asked before the plan is made, and
    /// systemd makes the scope after it, and only then are there several parts; the placeholder keeps the scope.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        work: Work,
        undo: &mut Undo,
    ) -> Result<(Prepared, Option<Placeholder>), Error> {
        let (work, draft) = match (&self.systemd, self.nri.is_idle()) {
            (None, true) => {
                let at_once = move |engine: &Engine| engine.open(&work, engine.plan(&work, engine.draft(&work)?)?);
                return Ok((self.on_disk(at_once).await?, None));
            }
            (_, idle) => {
                let (work, draft) = self.on_disk(move |engine| engine.draft(&work).map(|draft| (work, draft))).await?;
                let draft = if idle { draft } else { self.ask_plugins(&work, draft, undo).await? };
                (work, draft)
            }
        };
        let planned = self.on_disk(move |engine| engine.plan(&work, draft).map(|planned| (work, planned)));
        let (work, planned) = planned.await?;
        let Some(systemd) = &self.systemd else {
            return Ok((self.on_disk(move |engine| engine.open(&work, planned)).await?, None));
        };
        let placeholder = self.start_scope(systemd, &work.spec.cgroup, planned.limits.as_ref()).await?;
        let prepared = self.on_disk(move |engine| engine.open(&work, planned)).await?;
        Ok((prepared, Some(placeholder)))
    }

    /// From the image and the request to the spec.
    fn draft(&self, work: &Work) -> Result<Draft, Error> {
        let Work { pod, user: pod_user, id, spec, image, .. } = work;
        let layer = self.paths.container_layer(id);
        let (layers, upper) = (self.images.layer_dirs(&image.layers), make_layer(&layer, pod_user.as_ref())?);
        let context = spec.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        self.fill_from_checkpoint(work)?;
        let label = selinux::file_label(context, &self.host, &pod.spec.selinux_level)?;
        let root = FdSource::Overlay(Overlay {
            lower: layers.clone(),
            upper: Some(upper.clone()),
            readonly: false,
            selinux_context: label,
            idmapped: pod_user.is_some(),
        });
        let root_fd = self.open_sources(work, std::slice::from_ref(&root))?;

        let passwd = accounts::read(&root_fd[0], "etc/passwd")?;
        let group = accounts::read(&root_fd[0], "etc/group")?;
        let user = spec::user::resolve(context, image_user(image), &passwd, &group)?;
        let handler = self.handlers.of_pod(pod)?;
        let defaults = &handler.defaults;
        let profile = seccomp_profile(context, defaults)?;
        let run_dir = self.state.records().pod_dir(&pod.id);
        let mut oci = spec::build(&SpecInput {
            sandbox: &pod.spec.config,
            container: &spec.config,
            image: &image.config,
            user: &user,
            pod: &pod_paths(&run_dir),
            devices: &host::devices(&spec.config, defaults)?,
            seccomp_profile: profile.as_deref(),
            cgroups_path: &spec.cgroup,
            selinux_level: &pod.spec.selinux_level,
            defaults,
            host: &self.host,
        })?;
        self.require_apparmor_profile(&oci)?;
        self.add_node_extras(&mut oci, pod, id, spec)?;
        Ok(Draft { oci, adjusted: None, layers, upper, root: root_fd, user })
    }

    /// From the spec to the plan.
    fn plan(&self, work: &Work, draft: Draft) -> Result<Planned, Error> {
        let Work { pod, user: pod_user, id, spec, .. } = work;
        let Draft { mut oci, adjusted, layers, upper, root, user } = draft;
        let handler = self.handlers.of_pod(pod)?;
        let changed = adjusted.map(|adjusted| self.adjust(&mut oci, pod, id, spec, adjusted)).transpose()?.flatten();
        let rdt = rdt_tasks(&oci)?;
        let linux = oci.linux().as_ref();
        let seccomp = linux.and_then(|linux| linux.seccomp().as_ref());
        // An OCI runtime compiles it itself.
        let ours = seccomp.filter(|_| handler.program.is_none());
        let filter = ours.map(|profile| self.filters.get(profile)).transpose()?;
        let label = linux.and_then(|linux| linux.mount_label().clone());
        let input = PlanInput {
            layers,
            upper: Some(upper),
            image_volumes: &self.image_trees(spec, label, pod_user.is_some()),
            filter: filter.as_deref(),
            stdin: spec.config.stdin,
            stdin_once: spec.config.stdin_once,
            host: &self.host,
        };
        let (planned, bundle) = match &handler.program {
            None => (plan(&oci, &input)?, None),
            Some(program) => self.plan_bundle(work, &oci, &input, program)?,
        };
        self.warn_once(&planned.warnings);
        let limits = linux.and_then(|linux| linux.resources().clone());
        // With the groups that a device brought.
        let groups = bundle.as_ref().map_or(&planned.init.process, |bundle| &bundle.container.process).groups.clone();
        let user = ResolvedUser { groups, ..user };
        Ok(Planned { init: planned.init, sources: planned.fds, root, limits, bundle, rdt, user, changed })
    }

    /// The plan and the bundle of a container that an OCI runtime runs.
    fn plan_bundle(
        &self,
        work: &Work,
        oci: &Spec,
        plan: &PlanInput<'_>,
        program: &Program,
    ) -> Result<(ContainerPlan, Option<Bundle>), Error> {
        let input = ExternalInput {
            plan,
            folder: &self.bundle_folder(&work.id),
            annotations: &work.pod.spec.config.annotations,
            allowed: &program.annotations,
            features: &program.features,
        };
        let container = external(oci, &input)?;
        Ok((container.plan.clone(), Some(Bundle { program: program.clone(), container })))
    }

    /// What the request's image volumes are made of, in their order.
    fn image_trees(&self, spec: &ContainerSpec, label: Option<String>, idmapped: bool) -> Vec<ImageTree> {
        let mounts = spec.config.mounts.iter().filter(|mount| mount.image.is_some());
        let tree = |(mount, volume): (&Mount, &ImageVolume)| ImageTree {
            volume: mount.container_path.clone(),
            overlay: Overlay {
                lower: self.images.layer_dirs(&volume.layers),
                upper: None,
                readonly: true,
                selinux_context: label.clone(),
                idmapped,
            },
            sub_path: mount.image_sub_path.clone(),
            attributes: Attributes::default(),
        };
        mounts.zip(&spec.image_volumes).map(tree).collect()
    }

    fn open_sources(&self, work: &Work, sources: &[FdSource]) -> Result<Vec<OwnedFd>, Error> {
        let user = work.user.as_ref().map(PodUser::fd);
        run::open(sources, user, &|overlay| self.mount_overlay(&work.pod.id, user, overlay))
    }

    /// From the plan to what the monitor needs for it.
    fn open(&self, work: &Work, planned: Planned) -> Result<Prepared, Error> {
        let (spec, dir) = (&work.spec, &work.dir);
        let Planned { init, sources, root: mut fds, limits, bundle, rdt, user, changed } = planned;
        let cgroup = Cgroup::create(&self.cgroups, &spec.cgroup, limits.as_ref())?;
        write_process(
            &dir.join(PROCESS_RECORD),
            bundle.as_ref().map_or(&init.process, |bundle| &bundle.container.process),
        )?;
        for source in &sources[1..] {
            fds.extend(self.open_sources(work, std::slice::from_ref(source)).map_err(of_source(source))?);
        }
        let runtime = bundle.map(|bundle| self.write_bundle(&work.id, bundle, &fds)).transpose()?;
        let CgroupFds { unified, mut v1_tasks, memory, freezer } = cgroup.join_fds()?;
        // It is entered as a cgroup of v1 is, by init and by whatever is exec'd later.
        v1_tasks.extend(rdt);
        Ok(Prepared {
            plan: init,
            fds,
            cgroup: client::CgroupFds { unified, v1_tasks, memory, freezer },
            log: open_log_target(&spec.log_path)?,
            record_dir: open_dir(dir)?,
            runtime,
            user: ProcessUser { uid: user.uid, gid: user.gid, groups: user.groups },
            limits: changed,
        })
    }

    /// The kernel would refuse a profile that is not loaded, too, but with a bare ENOENT.
    fn require_apparmor_profile(&self, oci: &Spec) -> Result<(), Error> {
        let profile = oci.process().as_ref().and_then(|process| process.apparmor_profile().as_ref());
        let Some(name) = profile.filter(|name| self.host.apparmor_default.as_ref() != Some(name)) else {
            return Ok(());
        };
        let reason = match apparmor::is_loaded(name) {
            Ok(true) => return Ok(()),
            Ok(false) => format!("the profile {name:?} is not loaded on this node (apparmor_parser -r FILE loads it)"),
            Err(error) => format!("cannot tell whether the profile {name:?} is loaded: {error}"),
        };
        Err(Error::Invalid { field: "linux.security_context.apparmor", reason })
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

    /// Changes what an exec in the container inherits; one at the same time has the old or the new.
    pub(super) fn write_process(&self, id: &ContainerId, process: &ProcessPlan) -> Result<(), Error> {
        let path = self.state.records().container_dir(id).join(PROCESS_RECORD);
        let new = path.with_extension("new");
        write_process(&new, process)?;
        std::fs::rename(&new, &path).map_err(|source| Error::Io { op: "replace the record", path, source })
    }

    /// What an exec in the container inherits.
    pub(super) fn read_process(&self, id: &ContainerId) -> Result<ProcessPlan, Error> {
        let path = self.state.records().container_dir(id).join(PROCESS_RECORD);
        let failed = |source| Error::Io { op: "read the record", path: path.clone(), source };
        let bytes = std::fs::read(&path).map_err(failed)?;
        ProcessPlan::decode(bytes.as_slice()).map_err(|error| failed(std::io::Error::other(error)))
    }
}

/// The file of the profile that is not our own.
fn seccomp_profile(
    context: Option<&LinuxContainerSecurityContext>,
    defaults: &Defaults,
) -> Result<Option<Vec<u8>>, Error> {
    let SeccompChoice::Localhost(name) = security::seccomp_choice(context, defaults)? else { return Ok(None) };
    match std::fs::read(&name) {
        Ok(profile) => Ok(Some(profile)),
        Err(error) => Err(Error::Invalid {
            field: "linux.security_context.seccomp",
            reason: format!("the localhost profile {name:?} cannot be read: {error}"),
        }),
    }
}

/// Says of an image volume's failure what it is.
fn of_source(source: &FdSource) -> impl FnOnce(Error) -> Error + use<> {
    let volume = match source {
        FdSource::Image(image) => Some(image.volume.clone()),
        FdSource::Overlay(_) | FdSource::Bind(_) | FdSource::FileSystem(_) => None,
    };
    |error| match volume {
        Some(container_path) => Error::ImageVolume { container_path, source: Box::new(error) },
        None => error,
    }
}

/// The root of a pod in a user namespace owns its writable layers, which it can then be let into as it is on the host.
fn make_layer(layer: &Path, user: Option<&PodUser>) -> Result<Upper, Error> {
    let upper = Upper { upper: layer.join("upper"), work: layer.join("work"), volatile: true };
    let make = |path: &Path, mode| {
        let made = DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|source| Error::Io { op: "make the writable layer", path: path.to_owned(), source })
    };
    make(layer, 0o700)?;
    // The upper folder's mode shows as the mode of the container's "/".
    make(&upper.upper, 0o755)?;
    make(&upper.work, 0o700)?;
    if let Some(user) = user {
        let chowned = chown(&upper.upper, Some(user.ids.uids.first), Some(user.ids.gids.first));
        chowned.map_err(|source| Error::Io {
            op: "give the writable layer away",
            path: upper.upper.clone(),
            source,
        })?;
    }
    Ok(upper)
}

fn pod_paths(dir: &Path) -> PodPaths {
    PodPaths {
        resolv_conf: Some(dir.join("resolv.conf")),
        hosts: Some(dir.join("hosts")),
        hostname: Some(dir.join("hostname")),
    }
}

fn write_process(path: &Path, process: &ProcessPlan) -> Result<(), Error> {
    let failed = |source| Error::Io { op: "write the record", path: path.to_owned(), source };
    std::fs::write(path, process.encode_to_vec()).map_err(failed)
}

fn open_dir(path: &Path) -> Result<OwnedFd, Error> {
    let opened = std::fs::File::open(path);
    opened.map(OwnedFd::from).map_err(|source| Error::Io { op: "open", path: path.to_owned(), source })
}

/// The image's USER, `user[:group]`.
fn image_user(image: &Image) -> &str {
    image.config.config().as_ref().and_then(|config| config.user().as_deref()).unwrap_or_default()
}
