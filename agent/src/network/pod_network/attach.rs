//! The way of one `add`, and its way back.

use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use cni::ipam::Lease;
use cni::netlink::{
    MacAddr, NetlinkError, Socket, VethPair, configure_port, create_veth_pair, delete_link, raise_link,
};
use ipnet::IpNet;

use super::{PodNetwork, lock};
use crate::fault;
use crate::model::PodId;
use crate::network::NetworkError;
use crate::network::sandbox::{self, Attachment, POD_INTERFACE};

impl PodNetwork {
    pub(super) fn add_blocking(
        &self,
        pod: &PodId,
        netns: BorrowedFd<'_>,
        netlink: OwnedFd,
    ) -> Result<Attachment, NetworkError> {
        let mut inside = Socket::from_fd(netlink)?;
        let leased = self.lease(pod).and_then(|mut attachment| {
            fault::point("network.leased");
            let mac = mac_of(&attachment);
            attachment.mac = mac.to_string();
            self.connect(pod, netns, mac, &mut attachment)?;
            fault::point("network.linked");
            let configured = self.configure(&mut inside, mac, &mut attachment);
            configured.map_err(|error| self.unlink(&attachment.host_interface, error))?;
            Ok(attachment)
        });
        leased.map_err(|error| match lock(&self.store).release_owner(pod.as_str()) {
            Ok(_) => error,
            Err(undo) => NetworkError::RollbackFailed { error: error.into(), undo: Box::new(undo.into()) },
        })
    }

    /// Configures the pod's side. Where the pod's own sysctls turn IPv6 off, it does without.
    fn configure(&self, inside: &mut Socket, mac: MacAddr, attachment: &mut Attachment) -> Result<(), NetworkError> {
        match sandbox::configure(inside, mac, attachment) {
            Err(error) if error.errno() == Some(libc::EACCES) && attachment.ips().any(|ip| ip.is_ipv4()) => {
                let mut store = lock(&self.store);
                attachment.ips().filter(IpAddr::is_ipv6).try_for_each(|ip| store.release(ip))?;
                drop(store);
                attachment.addresses.retain(|net| net.addr().is_ipv4());
                attachment.gateways.retain(IpAddr::is_ipv4);
                Ok(sandbox::configure(inside, mac, attachment)?)
            }
            other => Ok(other?),
        }
    }

    /// One address of each subnet: the pod's own from before, or the next free one.
    fn lease(&self, pod: &PodId) -> Result<Attachment, NetworkError> {
        let subnets = self.subnets.load();
        let lease = Lease { owner: pod.as_str().into(), interface: POD_INTERFACE.into() };
        let mut store = lock(&self.store);
        let before = store.addresses_of(pod.as_str());
        let mut attachment = Attachment {
            interface: POD_INTERFACE.into(),
            host_interface: String::new(),
            mac: String::new(),
            mtu: 0,
            addresses: Vec::with_capacity(2),
            gateways: Vec::with_capacity(2),
        };
        for ((index, pool), range) in subnets.pools().zip(subnets.ranges()) {
            let address = match before.iter().find(|address| range.offers(**address)) {
                Some(address) => *address,
                None => store.allocate(index, &pool, &lease)?,
            };
            let subnet = IpNet::new(address, range.subnet().prefix_len()).ok();
            // A neighbour is asked for by its Ethernet address, and who is kept apart gets no answer: everything goes to the gateway.
            attachment.addresses.push(subnet.filter(|_| self.config.icc).unwrap_or(address.into()));
            attachment.gateways.push(range.gateway());
        }
        for address in before.into_iter().filter(|old| attachment.ips().all(|ip| ip != *old)) {
            store.release(address)?;
        }
        Ok(attachment)
    }

    /// Makes the veth pair. A bridge that somebody deleted meanwhile is made again, once.
    fn connect(
        &self,
        pod: &PodId,
        netns: BorrowedFd<'_>,
        mac: MacAddr,
        attachment: &mut Attachment,
    ) -> Result<(), NetworkError> {
        match self.try_connect(pod, netns, mac, attachment) {
            Err(error) if bridge_is_gone(&error) => {
                self.reassert_blocking()?;
                self.try_connect(pod, netns, mac, attachment)
            }
            other => other,
        }
    }

    fn try_connect(
        &self,
        pod: &PodId,
        netns: BorrowedFd<'_>,
        mac: MacAddr,
        attachment: &mut Attachment,
    ) -> Result<(), NetworkError> {
        let mut host = lock(&self.host);
        let Some(bridge) = host.bridge else {
            return Err(NetworkError::NotReady(self.status().err().unwrap_or_else(|| "there is no bridge".into())));
        };
        attachment.mtu = bridge.mtu;
        for name in interface_names(pod) {
            let pair = VethPair {
                name: &name,
                mac: None,
                master: Some(bridge.index),
                mtu: bridge.mtu,
                peer_name: POD_INTERFACE,
                peer_mac: Some(mac),
                peer_netns: netns,
            };
            let create = [create_veth_pair(&pair)];
            attachment.host_interface = name.clone();
            match host.socket.execute(&create) {
                Ok(()) => {}
                Err(error) if error.already_exists() => {
                    if !delete_own(&mut host.socket, &name, pod, error)? {
                        continue;
                    }
                    host.socket.execute(&create)?;
                }
                Err(error) => return Err(error.into()),
            }
            // A batch does not stop at a refusal, and these go by the name: not before the name is known to be ours.
            let settle = [configure_port(&name, pod.as_str(), self.port()), raise_link(&name)];
            let configured = host.socket.execute(&settle);
            drop(host);
            return configured.map_err(|error| self.unlink(&name, error.into()));
        }
        Err(NetworkError::NoInterfaceName(pod.clone()))
    }

    /// Takes a link back after `error`, which it returns.
    fn unlink(&self, name: &str, error: NetworkError) -> NetworkError {
        match lock(&self.host).socket.execute(&[delete_link(name)]) {
            Ok(()) => error,
            Err(undo) if undo.not_found() => error,
            Err(undo) => NetworkError::RollbackFailed { error: error.into(), undo: Box::new(undo.into()) },
        }
    }
}

/// Deletes the link in the way when it is an earlier one of this very pod; false when it is somebody else's.
fn delete_own(socket: &mut Socket, name: &str, pod: &PodId, error: NetlinkError) -> Result<bool, NetworkError> {
    match socket.link_by_name(name) {
        Ok(link) if link.alias.as_deref() == Some(pod.as_str()) => {
            socket.execute(&[delete_link(name)])?;
            Ok(true)
        }
        Ok(_) => Ok(false),
        // Then it was the pod's end that is in the way.
        Err(missing) if missing.not_found() => Err(error.into()),
        Err(other) => Err(other.into()),
    }
}

/// Names for the host's end, in the order to try: `veth` and 44 bits of the pod's id.
fn interface_names(pod: &PodId) -> impl Iterator<Item = String> {
    let id = pod.as_str().to_owned();
    (0..5).map(move |attempt| format!("veth{}", &id[attempt * 11..][..11]))
}

fn mac_of(attachment: &Attachment) -> MacAddr {
    let v4 = attachment.ips().find_map(|ip| match ip {
        IpAddr::V4(v4) => Some(MacAddr::of_ipv4(v4)),
        IpAddr::V6(_) => None,
    });
    let v6 = attachment.ips().find_map(|ip| match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(MacAddr::of_ipv6(v6)),
    });
    v4.or(v6).unwrap_or(MacAddr::local([0; 5]))
}

/// The kernel answers EINVAL or ENODEV to a master that is not there.
fn bridge_is_gone(error: &NetworkError) -> bool {
    let gone = [libc::EINVAL, libc::ENODEV];
    matches!(error, NetworkError::Netlink(error) if error.errno().is_some_and(|errno| gone.contains(&errno)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn interface_names_fit_and_differ() {
        let names: HashSet<_> = interface_names(&PodId::random().unwrap()).collect();
        assert_eq!(names.len(), 5);
        assert!(names.iter().all(|name| name.len() == 15));
    }
}
