//! The engine's parts, made from the configuration and put together. The only place that knows both.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use tokio::net::UnixListener;

use super::handlers::handlers;
use crate::config::{self, CgroupDriver, Config, Ipv6Subnet, UserNamespaces};
use crate::image::{ImageConfig, ImageError, ImageStore};
use crate::libcontainer::apparmor;
use crate::libcontainer::cgroup::{Cgroup, CgroupError, Driver, Layout, Systemd};
use crate::libcontainer::host::{self, HostError};
use crate::monitor::client::{MonitorError, Spawner, SpawnerConfig};
use crate::network::{
    Mode as NetworkMode, NetworkConfig, NetworkError, NetworksConfig, PluginConfig, PodNetworks, SubnetV6,
};
use crate::nri::{self, Nri};
use crate::ops::{self, Engine, IdBlocks, NodeFiles, Parts, Paths};
use crate::stream::StreamServer;

/// Where monitors are with the systemd driver, unless the configuration says otherwise.
const MONITOR_SCOPE: &str = "system.slice/berth-monitors.scope";

/// How often the pod networks are looked after.
const TEND_PERIOD: Duration = Duration::from_secs(10);

/// A part that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum StartError {
    #[error("cgroups")]
    Cgroups(#[from] CgroupError),
    #[error("the monitors' cgroup")]
    MonitorCgroup(#[source] std::io::Error),
    #[error("this host")]
    Host(#[from] HostError),
    #[error("the image store")]
    Images(#[from] ImageError),
    #[error("the pod network")]
    Network(#[from] NetworkError),
    #[error("the spawner of monitors")]
    Spawner(#[from] MonitorError),
    #[error(transparent)]
    Engine(#[from] ops::Error),
    #[error("a thread of the start broke off")]
    Broken,
}

/// Makes the engine and takes over what an earlier agent left.
pub(super) async fn start(
    config: &Config,
    streams: Arc<StreamServer>,
    plugins: Option<UnixListener>,
) -> Result<Arc<Engine>, StartError> {
    let driver = match config.cgroups.driver {
        CgroupDriver::Cgroupfs => Driver::Cgroupfs,
        CgroupDriver::Systemd => Driver::Systemd,
    };
    let cgroups = Layout::detect(driver)?;
    let systemd = match driver {
        Driver::Cgroupfs => None,
        Driver::Systemd => Some(Systemd::connect(None).await?),
    };
    let mut host = host::facts(cgroups.mounts().clone())?;
    let (root, image_config) = (config.paths.root.clone(), images(config));
    let configuration = config.clone();
    // The five do not need each other, and each has a disk or another process to wait for.
    let (images, network, profile, handlers, spawner) = tokio::join!(
        tokio::task::spawn_blocking(move || ImageStore::open(&root, image_config)),
        PodNetworks::open(networks(config)),
        default_profile(host.apparmor),
        tokio::task::spawn_blocking(move || handlers(&configuration)),
        Spawner::start(SpawnerConfig {
            binary: config.paths.monitor.clone(),
            cgroup_procs: monitor_cgroup(config, &cgroups)?,
            log: None,
        }),
    );
    let spawner = spawner?;
    host.apparmor_default = profile;
    if let Some(systemd) = &systemd {
        // Before it has forked anybody: every monitor is born there, and none ends with the agent's own unit.
        let scope = config.cgroups.monitor_cgroup.as_deref().unwrap_or(MONITOR_SCOPE);
        systemd.join_scope(scope, "Berth pod monitors", spawner.pid().await).await?;
    }
    let (nri, asks) = Nri::new(nri_settings(config));
    let parts = Parts {
        paths: Paths { root: config.paths.root.clone(), run_root: config.paths.run_root.clone() },
        images: images.map_err(|_| StartError::Broken)??,
        network: network?,
        spawner,
        streams,
        cgroups,
        systemd,
        cgroup_parent: pod_parent(config),
        host,
        handlers: handlers.map_err(|_| StartError::Broken)?,
        id_blocks: id_blocks(config),
        node: NodeFiles { cdi_dirs: config.cdi.spec_dirs.clone(), blockio_config: config.blockio.config.clone() },
        criu: config.checkpoint.criu.clone(),
        nri: nri.clone(),
    };
    tend(parts.network.clone());
    let engine = Engine::new(parts)?;
    let recovered = engine.recover().await?;
    tracing::info!(
        pods = recovered.pods,
        containers = recovered.containers,
        rolled_back = recovered.rolled_back,
        "recovered"
    );
    if config.nri.enabled {
        engine.answer_plugins(asks);
        nri.launch().await;
    }
    if let Some(listener) = plugins {
        nri.listen(listener);
    }
    Ok(engine)
}

/// The AppArmor profile of containers that ask for none. Without one they run unconfined, as on a host without AppArmor.
async fn default_profile(active: bool) -> Option<String> {
    if !active {
        return None;
    }
    match tokio::task::spawn_blocking(apparmor::load_default).await {
        Ok(Ok(())) => Some(apparmor::DEFAULT.to_owned()),
        Ok(Err(error)) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "AppArmor is active, but containers run without a default profile"
            );
            None
        }
        Err(error) => {
            tracing::warn!(%error, "AppArmor is active, but containers run without a default profile");
            None
        }
    }
}

/// Looks after the pod networks: one that is not ready is set up again (iptables was missing, another network overlapped), what others
/// took away is put back, and plugins are asked whether they are ready. An embedded network that is well costs next to nothing.
fn tend(network: Arc<PodNetworks>) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(TEND_PERIOD).await;
            network.tend().await;
        }
    });
}

fn images(config: &Config) -> ImageConfig {
    let image = &config.image;
    ImageConfig {
        registry_dirs: image.registry_dirs.clone(),
        docker_config: image.docker_config.clone(),
        signature_policy: image.signature_policy.clone(),
        pinned: image.pinned.clone(),
        parallel_layers: image.parallel_layers,
        max_layer_bytes: image.max_layer_size.0,
        max_layer_entries: image.max_layer_entries,
        stall_bytes: image.stall_size.0,
        stall_period: image.stall_period.0,
        connect_timeout: image.connect_timeout.0,
        retries: image.retries,
        ..ImageConfig::default()
    }
}

fn networks(config: &Config) -> NetworksConfig {
    let network = &config.network;
    NetworksConfig {
        mode: match network.mode {
            config::NetworkMode::Auto => NetworkMode::Auto,
            config::NetworkMode::Embedded => NetworkMode::Embedded,
            config::NetworkMode::Cni => NetworkMode::Plugins,
        },
        embedded: embedded_network(config),
        plugins: PluginConfig {
            conf_dir: network.conf_dir.clone(),
            bin_dirs: network.bin_dirs.clone(),
            cache_dir: network.cache_dir.clone().unwrap_or_else(|| config.paths.root.join("cni")),
            timeout: network.plugin_timeout.0,
            exec: network.exec_plugins.clone(),
        },
    }
}

fn embedded_network(config: &Config) -> NetworkConfig {
    let network = &config.network;
    NetworkConfig {
        bridge: network.bridge.clone(),
        subnet_v4: network.ipv4,
        subnet_v6: match network.ipv6 {
            Ipv6Subnet::Ula => SubnetV6::Ula,
            Ipv6Subnet::Off => SubnetV6::Off,
            Ipv6Subnet::Net(net) => SubnetV6::Net(net),
        },
        mtu: network.mtu,
        icc: network.icc,
        run_dir: config.paths.run_root.join("network"),
        state_dir: config.paths.root.join("network"),
    }
}

fn nri_settings(config: &Config) -> nri::Settings {
    nri::Settings {
        plugin_path: config.nri.plugin_path.clone(),
        plugin_config_path: config.nri.plugin_config_path.clone(),
        registration_timeout: config.nri.plugin_registration_timeout.0,
        request_timeout: config.nri.plugin_request_timeout.0,
    }
}

fn id_blocks(config: &Config) -> Option<IdBlocks> {
    let UserNamespaces { first_id, ids_per_pod, pods } = config.user_namespaces;
    first_id.map(|first| IdBlocks { first, per_pod: ids_per_pod, pods })
}

fn pod_parent(config: &Config) -> String {
    let by_driver = match config.cgroups.driver {
        CgroupDriver::Cgroupfs => "/berth",
        CgroupDriver::Systemd => "berth.slice",
    };
    config.cgroups.pod_parent.clone().unwrap_or_else(|| by_driver.to_owned())
}

/// The files that move the spawner, and so all monitors, out of the agent's own cgroup; none when systemd moves it.
fn monitor_cgroup(config: &Config, cgroups: &Layout) -> Result<Vec<OwnedFd>, StartError> {
    if config.cgroups.driver == CgroupDriver::Systemd {
        return Ok(Vec::new());
    }
    let path = config.cgroups.monitor_cgroup.as_deref().unwrap_or("/berth-monitors");
    let fds = Cgroup::create(cgroups, path, None)?.join_fds()?;
    let mut files = fds.v1_tasks;
    if let Some(folder) = fds.unified {
        let file = rustix::fs::openat(&folder, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        files.push(file.map_err(|errno| StartError::MonitorCgroup(errno.into()))?);
    }
    Ok(files)
}
