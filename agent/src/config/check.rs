//! What is well-formed and cannot work: refused here by key, before anything is made by it.

use tracing_subscriber::filter::Targets;

use super::handlers::check_runtimes;
use super::resolve::ConfigError;
use super::settings::{CgroupDriver, Ipv6Subnet, Network, Settings, UserNamespaces};

/// Refuses settings that cannot work together or at all.
pub(super) fn check(settings: &Settings) -> Result<(), ConfigError> {
    let refuse = |key: &str, reason: String| Err(ConfigError::Value { key: key.to_owned(), reason });
    let absolute = [
        ("root", Some(&settings.root)),
        ("run_root", Some(&settings.run_root)),
        ("socket", settings.socket.as_ref()),
        ("monitor", settings.monitor.as_ref()),
        ("image.docker_config", settings.image.docker_config.as_ref()),
        ("image.signature_policy", settings.image.signature_policy.as_ref()),
        ("blockio.config", settings.blockio.config.as_ref()),
        ("network.conf_dir", Some(&settings.network.conf_dir)),
        ("network.cache_dir", settings.network.cache_dir.as_ref()),
        ("nri.socket_path", Some(&settings.nri.socket_path)),
        ("nri.plugin_path", Some(&settings.nri.plugin_path)),
        ("nri.plugin_config_path", Some(&settings.nri.plugin_config_path)),
    ];
    for (key, path) in absolute.into_iter().filter_map(|(key, path)| Some((key, path?))) {
        if !path.is_absolute() {
            return refuse(key, format!("{} is not an absolute path", path.display()));
        }
    }
    if settings.root.starts_with(&settings.run_root) || settings.run_root.starts_with(&settings.root) {
        // One of them is swept at a reboot and the other must not be.
        return refuse("run_root", "it and `root` must not contain each other".to_owned());
    }
    if let Some(path) = &settings.cgroups.monitor_cgroup {
        let (fits, form) = match settings.cgroups.driver {
            CgroupDriver::Cgroupfs => (
                path.starts_with('/') && !path.contains(".."),
                "a path from the hierarchy's root, like /berth-monitors",
            ),
            CgroupDriver::Systemd => (is_scope(path), "a scope in a slice, like system.slice/berth-monitors.scope"),
        };
        if !fits {
            let reason = format!("with the {} driver it is {form}", settings.cgroups.driver);
            return refuse("cgroups.monitor_cgroup", reason);
        }
    }
    if let Some(parent) = &settings.cgroups.pod_parent {
        let (fits, form) = match settings.cgroups.driver {
            CgroupDriver::Cgroupfs => (parent.starts_with('/') && !parent.contains(".."), "a path like /berth"),
            CgroupDriver::Systemd => (parent.ends_with(".slice") && !parent.contains('/'), "a slice like berth.slice"),
        };
        if !fits {
            let reason = format!("with the {} driver it is {form}", settings.cgroups.driver);
            return refuse("cgroups.pod_parent", reason);
        }
    }
    if let Err(error) = settings.log.level.parse::<Targets>() {
        return refuse(
            "log.level",
            format!("{:?} is neither a level nor a list of module=level: {error}", settings.log.level),
        );
    }
    if settings.image.parallel_layers == 0 {
        return refuse("image.parallel_layers", "at least 1 is needed".to_owned());
    }
    if settings.image.stall_period.0.is_zero() || settings.image.connect_timeout.0.is_zero() {
        return refuse("image.stall_period", "it and `connect_timeout` must be above zero".to_owned());
    }
    if settings.nri.plugin_request_timeout.0.is_zero() || settings.nri.plugin_registration_timeout.0.is_zero() {
        let reason = "it and `plugin_registration_timeout` must be above zero".to_owned();
        return refuse("nri.plugin_request_timeout", reason);
    }
    check_user_namespaces(&settings.user_namespaces)?;
    check_runtimes(&settings.runtimes, settings.cgroups.driver)?;
    check_network(&settings.network)
}

fn check_user_namespaces(settings: &UserNamespaces) -> Result<(), ConfigError> {
    let refuse = |key: &str, reason: String| Err(ConfigError::Value { key: key.to_owned(), reason });
    let UserNamespaces { first_id, ids_per_pod, pods } = *settings;
    if ids_per_pod == 0 {
        return refuse("user_namespaces.ids_per_pod", "at least 1 is needed".to_owned());
    }
    let Some(first) = first_id else { return Ok(()) };
    if first == 0 {
        return refuse("user_namespaces.first_id", "0 is the host's root".to_owned());
    }
    // The last number is no id but "nobody" to the kernel.
    if u64::from(first) + u64::from(ids_per_pod) * u64::from(pods) > u64::from(u32::MAX) {
        let reason =
            format!("{pods} pods of {ids_per_pod} ids from {first} on lead beyond the last id, {}", u32::MAX - 1);
        return refuse("user_namespaces.first_id", reason);
    }
    Ok(())
}

/// `a-b.slice/c.scope`.
fn is_scope(path: &str) -> bool {
    path.split_once('/')
        .is_some_and(|(slice, scope)| slice.ends_with(".slice") && scope.ends_with(".scope") && !scope.contains('/'))
}

fn check_network(network: &Network) -> Result<(), ConfigError> {
    let refuse = |key: &str, reason: String| Err(ConfigError::Value { key: key.to_owned(), reason });
    // dev_valid_name() of the kernel, and no character that means something in a firewall rule.
    let name = network.bridge.as_str();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if !(1..=15).contains(&name.len()) || !name.bytes().all(plain) || name.starts_with(['-', '.']) {
        let reason = format!("{name:?} is no interface name: 1 to 15 letters, digits, '-', '_' or '.'");
        return refuse("network.bridge", reason);
    }
    if network.ipv4.is_none() && network.ipv6 == Ipv6Subnet::Off {
        return refuse("network.ipv4", "without it and without `ipv6` a pod has no address".to_owned());
    }
    if let Some(net) = network.ipv4.filter(|net| net.prefix_len() > 29) {
        return refuse("network.ipv4", format!("{net} is too small: /29 or wider"));
    }
    if let Ipv6Subnet::Net(net) = network.ipv6
        && net.prefix_len() > 112
    {
        return refuse("network.ipv6", format!("{net} is too small: /112 or wider"));
    }
    if let Some(path) = network.bin_dirs.iter().find(|path| !path.is_absolute()) {
        return refuse("network.bin_dirs", format!("{} is not an absolute path", path.display()));
    }
    if network.plugin_timeout.0.is_zero() {
        return refuse("network.plugin_timeout", "must be above zero".to_owned());
    }
    // RFC 8200 §5: IPv6 wants links of 1280 bytes; RFC 791: IPv4 of 68.
    let least = if network.ipv6 != Ipv6Subnet::Off { 1280 } else { 68 };
    match network.mtu {
        Some(mtu) if !(least..=65535).contains(&mtu) => {
            refuse("network.mtu", format!("{mtu} is not from {least} to 65535"))
        }
        _ => Ok(()),
    }
}
