//! What plugins are told of a pod, and what is read from their answer. Pure.

use std::net::IpAddr;

use cni::client::Attachment;
use cni::conf::{Capabilities, DnsCapability, IpRange, PortMapping};
use cni::types::{AddResult, Args, InterfaceName, InvalidName};
use cri_api::v1::{DnsConfig, PodSandboxConfig};
use ipnet::IpNet;

use super::quantity::{self, InvalidBandwidth};
use crate::model::PodId;
use crate::network::hostport::{HostPort, PortProtocol};
use crate::network::networks::Attached;
use crate::network::sandbox::POD_INTERFACE;

/// A request that plugins cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// The pod's name, or what stands for it, cannot be passed on.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A limit on its traffic.
    #[error(transparent)]
    Bandwidth(#[from] InvalidBandwidth),
}

/// What there is to know of a pod that is to be added.
pub(in crate::network) struct PodFacts<'a> {
    pub(in crate::network) id: &'a PodId,
    pub(in crate::network) config: &'a PodSandboxConfig,
    pub(in crate::network) cgroup_parent: &'a str,
    pub(in crate::network) ports: &'a [HostPort],
    /// The node's, as kubelet named them.
    pub(in crate::network) pod_cidrs: &'a [IpNet],
    /// The path of its network namespace.
    pub(in crate::network) netns: String,
}

/// The pod's place in a network: names and capability arguments as other runtimes pass them on.
pub(super) fn attachment(pod: &PodFacts<'_>) -> Result<Attachment, InvalidRequest> {
    let dns = pod.config.dns_config.as_ref().map(|dns| DnsCapability {
        servers: dns.servers.clone(),
        searches: dns.searches.clone(),
        options: dns.options.clone(),
    });
    let range =
        |subnet: &IpNet| vec![IpRange { subnet: subnet.trunc(), range_start: None, range_end: None, gateway: None }];
    let capabilities = Capabilities {
        port_mappings: pod.ports.iter().map(mapping).collect(),
        bandwidth: quantity::bandwidth(|key| pod.config.annotations.get(key))?,
        ip_ranges: pod.pod_cidrs.iter().map(range).collect(),
        dns,
        cgroup_path: Some(pod.cgroup_parent.to_owned()).filter(|path| !path.is_empty()),
        ..Capabilities::default()
    };
    Ok(Attachment { netns: Some(pod.netns.clone()), args: args(pod)?, capabilities, ..bare(pod.id)? })
}

/// The same for a pod of which nothing but the id is known.
pub(super) fn bare(pod: &PodId) -> Result<Attachment, InvalidName> {
    Ok(Attachment {
        container: pod.as_str().parse()?,
        netns: None,
        interface: interface()?,
        args: Args::default(),
        capabilities: Capabilities::default(),
    })
}

/// Of pods, in any network.
pub(super) fn interface() -> Result<InterfaceName, InvalidName> {
    POD_INTERFACE.parse()
}

fn args(pod: &PodFacts<'_>) -> Result<Args, InvalidName> {
    let metadata = pod.config.metadata.clone().unwrap_or_default();
    let pairs = [
        ("IgnoreUnknown", "1".to_owned()),
        ("K8S_POD_NAMESPACE", metadata.namespace),
        ("K8S_POD_NAME", metadata.name),
        ("K8S_POD_INFRA_CONTAINER_ID", pod.id.to_string()),
        ("K8S_POD_UID", metadata.uid),
    ];
    Args::new(pairs.map(|(key, value)| (key.to_owned(), value)).into())
}

fn mapping(port: &HostPort) -> PortMapping {
    let protocol = match port.protocol {
        PortProtocol::Tcp => "tcp",
        PortProtocol::Udp => "udp",
        PortProtocol::Sctp => "sctp",
    };
    PortMapping {
        host_port: port.host_port,
        container_port: port.pod_port,
        protocol: protocol.to_owned(),
        host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    }
}

/// What a pod has by the result of its ADD: the addresses of its interface, IPv4 first, and name servers. None when it has no
/// address.
pub(super) fn attached(result: &AddResult) -> Option<Attached> {
    let of_pod = |index: usize| {
        result.interfaces.get(index).is_some_and(|one| !one.sandbox.is_empty() && one.name == POD_INTERFACE)
    };
    // Which interface an address is on need not be said.
    let of_pod = |interface: Option<usize>| interface.is_none_or(of_pod);
    let mut addresses: Vec<IpAddr> =
        result.ips.iter().filter(|ip| of_pod(ip.interface)).map(|ip| ip.address.addr()).collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    let dns = &result.dns;
    let searches = dns.search.iter().chain(Some(&dns.domain).filter(|domain| !domain.is_empty()));
    let dns = (!dns.nameservers.is_empty()).then(|| DnsConfig {
        servers: dns.nameservers.clone(),
        searches: searches.cloned().collect(),
        options: dns.options.clone(),
    });
    (!addresses.is_empty()).then_some(Attached { addresses, dns })
}

#[cfg(test)]
mod tests {
    use cni::types::Version;
    use cri_api::v1::PodSandboxMetadata;
    use serde_json::json;

    use super::*;

    fn facts<'a>(
        id: &'a PodId,
        config: &'a PodSandboxConfig,
        ports: &'a [HostPort],
        cidrs: &'a [IpNet],
    ) -> PodFacts<'a> {
        PodFacts { id, config, cgroup_parent: "/kubepods/pod1", ports, pod_cidrs: cidrs, netns: "/proc/7/fd/9".into() }
    }

    #[test]
    fn plugins_are_told_what_other_runtimes_tell_them() {
        let id = PodId::random().unwrap();
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: "web-0".into(),
                namespace: "shop".into(),
                uid: "u-1".into(),
                attempt: 2,
            }),
            annotations: [("kubernetes.io/egress-bandwidth".to_owned(), "1M".to_owned())].into(),
            dns_config: Some(DnsConfig { servers: vec!["10.96.0.10".into()], ..DnsConfig::default() }),
            ..PodSandboxConfig::default()
        };
        let port =
            HostPort { protocol: PortProtocol::Udp, host_ip: "192.0.2.1".parse().ok(), host_port: 53, pod_port: 5353 };
        let cidrs = ["10.1.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
        let attachment = attachment(&facts(&id, &config, &[port], &cidrs)).unwrap();
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=u-1"
        );
        assert_eq!(attachment.args.to_string(), args);
        assert_eq!(attachment.netns.as_deref(), Some("/proc/7/fd/9"));
        assert_eq!(
            serde_json::Value::Object(attachment.capabilities.to_map()),
            json!({
                "portMappings": [{"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "192.0.2.1"}],
                "bandwidth": {"ingressRate": 0, "ingressBurst": 0, "egressRate": 1_000_000, "egressBurst": u32::MAX},
                "ipRanges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
                "dns": {"servers": ["10.96.0.10"], "searches": []},
                "cgroupPath": "/kubepods/pod1",
            })
        );
    }

    #[test]
    fn a_name_that_would_be_another_argument_is_refused() {
        let id = PodId::random().unwrap();
        let metadata = PodSandboxMetadata { name: "x;K8S_POD_NAMESPACE=kube-system".into(), ..Default::default() };
        let config = PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
        assert!(attachment(&facts(&id, &config, &[], &[])).is_err());
    }

    fn read(result: serde_json::Value) -> Option<Attached> {
        attached(&AddResult::read(&result, Version::V1_0_0).unwrap())
    }

    #[test]
    fn the_addresses_are_those_of_the_pods_own_interface() {
        let interfaces =
            json!([{"name": "veth1"}, {"name": "eth0", "sandbox": "/n"}, {"name": "net1", "sandbox": "/n"}]);
        let result = read(json!({"cniVersion": "1.0.0", "interfaces": interfaces, "ips": [
            {"interface": 1, "address": "fd00::5/64"}, {"interface": 2, "address": "192.168.0.9/24"},
            {"interface": 0, "address": "169.254.0.1/32"}, {"interface": 1, "address": "10.1.0.5/24"}]}));
        let expected: Vec<IpAddr> = vec!["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(result, Some(Attached { addresses: expected, dns: None }));
        assert_eq!(read(json!({"cniVersion": "1.0.0", "interfaces": interfaces})), None);
    }

    #[test]
    fn name_servers_of_a_result_are_a_dns_configuration() {
        let ips = json!([{"address": "10.1.0.5/24"}]);
        let dns = json!({"nameservers": ["10.1.0.1"], "domain": "d", "search": ["a"], "options": ["ndots:1"]});
        let dns = read(json!({"cniVersion": "1.0.0", "ips": ips, "dns": dns})).unwrap().dns.unwrap();
        assert_eq!(
            (dns.servers, dns.searches, dns.options),
            (vec!["10.1.0.1".into()], vec!["a".into(), "d".into()], vec!["ndots:1".into()])
        );
        assert_eq!(read(json!({"cniVersion": "1.0.0", "ips": ips, "dns": {"domain": "d"}})).unwrap().dns, None);
    }
}
