//! RunPodSandbox: name → record → monitor and its namespaces → network and files → Ready.

use std::path::Path;
use std::sync::Arc;

use cri_api::v1::{NamespaceMode, PodSandboxConfig};
use rustix::fs::XattrFlags;

use super::target_network::Target;
use super::undo::Undo;
use super::user_namespace::ids_of;
use super::{Engine, Error, now, of_pod};
use crate::fault;
use crate::libcontainer::spec::{selinux, sysctl};
use crate::model::{Pod, PodId, PodKey, PodSpec, PodState, namespace_options};
use crate::monitor::client::{MonitorError, PodMonitor, PodNamespaces};
use crate::network::{self, Attached, HostPort, NewPod, Party, dns};
use crate::telemetry::phases::Phases;

/// What a pod's /dev/shm holds at most (rules of the CRI: 64 MiB, pod-wide).
const SHM_BYTES: u64 = 64 << 20;

impl Engine {
    /// Makes a pod, or joins the request that is making it.
    ///
    /// # Errors
    /// When the request is wrong, the name is in use, or a step fails; then nothing of the pod is left.
    pub async fn run_pod(self: &Arc<Self>, config: PodSandboxConfig, handler: String) -> Result<PodId, Error> {
        let metadata = config.metadata.as_ref().filter(|metadata| !metadata.name.is_empty());
        let Some(metadata) = metadata else {
            return Err(Error::Invalid { field: "config.metadata.name", reason: "must not be empty".into() });
        };
        let key = PodKey::new(metadata);
        let engine = self.clone();
        let run = async move {
            let mut undo = Undo::default();
            match engine.make_pod(config, handler, &mut undo).await {
                Ok(id) => Ok(id),
                Err(error) => Err(undo.after(error).await),
            }
        };
        self.pods_under_way.join_or_run(key, run).await
    }

    async fn make_pod(
        self: &Arc<Self>,
        config: PodSandboxConfig,
        handler: String,
        undo: &mut Undo,
    ) -> Result<PodId, Error> {
        let mut phases = Phases::start("run_pod");
        let _held = self.nri.hold().await;
        self.handlers.check(&handler, &config)?;
        validate(&config)?;
        self.check_cgroup_parent(&config)?;
        self.check_user_namespace(&config)?;
        self.refuse_used_name(&config)?;
        let id = PodId::random().map_err(|source| Error::System { op: "get random bytes for an id", source })?;
        // Held until the pod is in the state, so that no other one is given it.
        let level = self.selinux_level(&config)?;
        let target = self.target_network(&config).await?;
        let mut spec = self.pod_spec(config, handler, level.text.clone());
        spec.network_of = target.as_ref().map(|target| target.pod.id.to_string());

        let records = self.state.records().clone();
        let of_undo = (records, id.clone());
        undo.push_record("remove the pod's records", move || async move { Ok(of_undo.0.remove_pod(&of_undo.1)?) });
        let dir = self.begin_pod(&id, &mut spec)?;
        fault::point("run_pod.recorded");
        phases.mark("record");

        let namespaces = self.fork_monitor(&id, &spec, &dir, target.as_ref(), undo).await?;
        fault::point("run_pod.monitor_forked");
        phases.mark("monitor");

        let attached = match &target {
            Some(target) => target.attached(&id, &namespaces)?,
            None => self.attach_network(&id, &spec, namespaces, undo).await?,
        };
        fault::point("run_pod.network_added");
        phases.mark("network");

        write_pod_files(&dir, &spec, &attached)?;
        let pod = Pod { id: id.clone(), spec, state: PodState::ready(attached.addresses) };
        self.introduce_pod(&pod, undo).await?;
        self.state.put_pod(pod)?;
        fault::point("run_pod.ready");
        phases.mark("files");
        phases.finish();
        Ok(id)
    }

    fn refuse_used_name(&self, config: &PodSandboxConfig) -> Result<(), Error> {
        let Some(metadata) = &config.metadata else { return Ok(()) };
        let key = PodKey::new(metadata);
        let snapshot = self.state.snapshot();
        match snapshot.pods.values().find(|pod| pod.spec.config.metadata.as_ref() == Some(metadata)) {
            Some(pod) => Err(Error::NameInUse { what: "pod sandbox", name: key.to_string(), id: pod.id.to_string() }),
            None => Ok(()),
        }
    }

    /// A container would fail later, with no pod's name in the message.
    fn check_cgroup_parent(&self, config: &PodSandboxConfig) -> Result<(), Error> {
        let parent = config.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str());
        let checked = self.cgroups.check_parent(parent);
        checked.map_err(|error| Error::Invalid { field: "linux.cgroup_parent", reason: error.to_string() })
    }

    fn pod_spec(&self, config: PodSandboxConfig, handler: String, selinux_level: String) -> PodSpec {
        let asked = config.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str());
        let cgroup_parent = if asked.is_empty() { &self.cgroup_parent } else { asked }.to_owned();
        let hostname = if config.hostname.is_empty() || namespace_options(&config).network() == NamespaceMode::Node {
            self.host.hostname.clone()
        } else {
            config.hostname.clone()
        };
        let (runtime_handler, created_at) = (handler, now());
        PodSpec { config, runtime_handler, created_at, hostname, cgroup_parent, selinux_level, network_of: None }
    }

    async fn fork_monitor(
        self: &Arc<Self>,
        id: &PodId,
        spec: &PodSpec,
        dir: &Path,
        target: Option<&Target>,
        undo: &mut Undo,
    ) -> Result<PodNamespaces, Error> {
        let options = spec.namespaces();
        let private = |mode: NamespaceMode| mode != NamespaceMode::Node;
        let request = PodMonitor {
            pod: id.clone(),
            socket: dir.join("monitor.sock"),
            hostname: private(options.network()).then(|| spec.hostname.clone()),
            private_net: private(options.network()) && target.is_none(),
            network: target.map(Target::namespace).transpose()?,
            private_ipc: private(options.ipc()),
            private_uts: private(options.network()),
            shared_pid: options.pid() == NamespaceMode::Pod,
            sysctls: self.sysctls(spec),
            shm_bytes: private(options.ipc()).then_some(SHM_BYTES),
            shm_label: file_label(spec),
            user_namespace: ids_of(&spec.config)?,
        };
        let in_user_namespace = request.user_namespace.is_some();
        let engine = self.clone();
        let of_undo = id.clone();
        undo.push("end the pod's monitor", move || async move { engine.end_monitor(&of_undo).await });
        let (client, namespaces, events) = self.spawner.fork_monitor(request).await.map_err(of_pod(id))?;
        let monitor = self.monitors.insert(id.clone(), client);
        let has_user_namespace = monitor.client.user_namespace().is_some();
        self.follow(id.clone(), monitor, events);
        if in_user_namespace != has_user_namespace {
            // A `berth-monitor` that is older than the agent would make a pod of the host's ids.
            return Err(of_pod(id)(MonitorError::Unexpected));
        }
        Ok(namespaces)
    }

    /// Gives the pod its network; in the host's, and in one of its own without links (CONTAINER), it has no address.
    async fn attach_network(
        self: &Arc<Self>,
        id: &PodId,
        spec: &PodSpec,
        namespaces: PodNamespaces,
        undo: &mut Undo,
    ) -> Result<Attached, Error> {
        let none = Attached { addresses: Vec::new(), dns: None };
        let (Some(netns), Some(netlink)) = (namespaces.netns, namespaces.netlink) else { return Ok(none) };
        if spec.namespaces().network() == NamespaceMode::Container {
            network::loopback_up(netlink).await?;
            return Ok(none);
        }
        let engine = self.clone();
        let of_undo = id.clone();
        undo.push("take the pod out of its network", move || async move {
            engine.leave_network(&of_undo).await?;
            engine.network.wait_left(&of_undo).await;
            Ok(())
        });
        let (config, ports) = (&spec.config, host_ports(&spec.config)?);
        let new = NewPod { id, config, cgroup_parent: &spec.cgroup_parent, ports, netns, netlink };
        let attached = self.network.add(new).await?;
        self.network.admit(id, party(&spec.config)?, attached.addresses.clone()).await?;
        Ok(attached)
    }

    /// What the pod network needs first, then what was asked for, so that the request has the last word.
    fn sysctls(&self, spec: &PodSpec) -> Vec<(String, String)> {
        let needed = self.network.pod_sysctls().filter(|_| !spec.host_network() && spec.network_of.is_none());
        let mut sysctls: Vec<(String, String)> = needed.map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let asked = spec.config.linux.as_ref().map(|linux| linux.sysctls.iter().map(|(k, v)| (k.clone(), v.clone())));
        let mut asked: Vec<_> = asked.into_iter().flatten().collect();
        asked.sort();
        sysctls.extend(asked);
        sysctls
    }
}

/// The SELinux label of what its containers share.
fn file_label(spec: &PodSpec) -> Option<String> {
    (!spec.selinux_level.is_empty()).then(|| selinux::pod_file_label(&spec.selinux_level))
}

fn host_ports(config: &PodSandboxConfig) -> Result<Vec<HostPort>, Error> {
    HostPort::of_mappings(&config.port_mappings)
        .map_err(|error| Error::Invalid { field: "config.port_mappings", reason: error.to_string() })
}

fn party(config: &PodSandboxConfig) -> Result<Option<Party>, Error> {
    Party::of(config).map_err(|error| Error::Invalid { field: "config.annotations", reason: error.to_string() })
}

fn validate(config: &PodSandboxConfig) -> Result<(), Error> {
    let invalid = |field, reason| Err(Error::Invalid { field, reason });
    if !config.log_directory.is_empty() && !config.log_directory.starts_with('/') {
        return invalid("config.log_directory", format!("{:?} is not an absolute path", config.log_directory));
    }
    host_ports(config)?;
    party(config)?;
    let options = namespace_options(config);
    let portless = match options.network() {
        NamespaceMode::Container => "the pod has no network (namespace_options.network is CONTAINER)",
        NamespaceMode::Target => "the pod has no network of its own (namespace_options.network is TARGET)",
        _ => "",
    };
    if !portless.is_empty() && config.port_mappings.iter().any(|mapping| mapping.host_port != 0) {
        return invalid("config.port_mappings", format!("{portless} that a host port could lead to"));
    }
    if options.pid() == NamespaceMode::Target {
        let reason = "TARGET is for containers, a pod has nothing to target".to_owned();
        return invalid("linux.security_context.namespace_options.pid", reason);
    }
    if let Some(linux) = &config.linux {
        let others_network = matches!(options.network(), NamespaceMode::Node | NamespaceMode::Target);
        let host_ipc = options.ipc() == NamespaceMode::Node;
        for (key, value) in &linux.sysctls {
            sysctl::check(key, value, others_network, host_ipc)
                .map_err(|error| Error::Invalid { field: "linux.sysctls", reason: error.to_string() })?;
        }
        if linux.cgroup_parent.split('/').any(|part| part == "..") {
            return invalid("linux.cgroup_parent", format!("{:?} must not contain \"..\"", linux.cgroup_parent));
        }
    }
    Ok(())
}

/// The files that the pod's containers see in /etc unless they mount their own.
fn write_pod_files(dir: &Path, spec: &PodSpec, attached: &Attached) -> Result<(), Error> {
    let label = file_label(spec);
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|source| Error::Io { op: "write", path: path.clone(), source })?;
        let Some(label) = &label else { return Ok(()) };
        rustix::fs::setxattr(&path, "security.selinux", label.as_bytes(), XattrFlags::empty())
            .map_err(|errno| Error::Io { op: "label", path, source: errno.into() })
    };
    write("hostname", &dns::hostname(&spec.hostname)?)?;
    // kubelet always names servers; who names none gets the network's, and the host's when it has none either.
    let dns_config = spec.config.dns_config.as_ref().or(attached.dns.as_ref());
    write("resolv.conf", &dns::resolv_conf(dns_config, &dns::host_resolv_conf())?)?;
    let hosts = if spec.host_network() {
        std::fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        dns::hosts(&attached.addresses, &spec.hostname)?
    };
    write("hosts", &hosts)
}
