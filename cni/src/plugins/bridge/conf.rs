//! What may be configured about a bridge.

use serde::Deserialize;

use crate::plugins::request::Network;
use crate::types::{CniError, Code, Dns};

/// The configuration, with the reference plugin's names and defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Conf {
    /// The bridge's name.
    pub(super) bridge: String,
    /// The bridge has the gateways' addresses.
    pub(super) is_gateway: bool,
    /// And is the container's default route.
    pub(super) is_default_gateway: bool,
    /// An address of the bridge that is in the way is taken off it.
    pub(super) force_address: bool,
    /// What leaves the subnet gets the host's address.
    pub(super) ip_masq: bool,
    pub(super) ip_masq_backend: Option<String>,
    /// Bytes a packet may have; 0: the kernel's choice.
    pub(super) mtu: u32,
    /// A frame may leave through the port it came in by.
    pub(super) hairpin_mode: bool,
    /// The bridge takes all frames.
    pub(super) promisc_mode: bool,
    pub(super) vlan: u32,
    pub(super) vlan_trunk: Vec<serde_json::Value>,
    pub(super) macspoofchk: bool,
    /// The container's interface stays down; then it has no addresses.
    pub(super) disable_container_interface: bool,
    /// Containers reach the host and what is behind it, but not each other.
    pub(super) port_isolation: bool,
    /// IPv6 addresses are checked for duplicates, which takes a second and more.
    #[serde(rename = "enabledad")]
    pub(super) enable_dad: bool,
    /// The container's Ethernet address.
    pub(super) mac: String,
    /// In place of the address plugin's.
    pub(super) dns: Dns,
}

impl Default for Conf {
    fn default() -> Self {
        Self {
            bridge: "cni0".into(),
            is_gateway: false,
            is_default_gateway: false,
            force_address: false,
            ip_masq: false,
            ip_masq_backend: None,
            mtu: 0,
            hairpin_mode: false,
            promisc_mode: false,
            vlan: 0,
            vlan_trunk: Vec::new(),
            macspoofchk: false,
            disable_container_interface: false,
            port_isolation: false,
            enable_dad: false,
            mac: String::new(),
            dns: Dns::default(),
        }
    }
}

impl Conf {
    pub(super) fn read(network: &Network<'_>) -> Result<Self, CniError> {
        let mut conf: Self = network.conf()?;
        conf.bridge
            .parse::<crate::types::InterfaceName>()
            .map_err(|error| CniError::of(Code::INVALID_CONFIG, &error).context("bridge"))?;
        if conf.hairpin_mode && conf.promisc_mode {
            return Err(CniError::config("hairpinMode and promiscMode cannot both be set"));
        }
        let has_ipam = network.config.get("ipam").and_then(|ipam| ipam.get("type")).is_some();
        if conf.disable_container_interface && has_ipam {
            return Err(CniError::config(
                "disableContainerInterface: a link that is down has no addresses: leave out ipam",
            ));
        }
        conf.is_gateway |= conf.is_default_gateway;
        conf.refuse_what_is_not_here()?;
        Ok(conf)
    }

    /// To go on without would be to promise what is not kept.
    fn refuse_what_is_not_here(&self) -> Result<(), CniError> {
        let unsupported = |field: &str| {
            let msg = format!("{field}: is not supported by this plugin");
            Err(CniError::new(Code::UNSUPPORTED_FIELD, msg))
        };
        match () {
            () if self.vlan != 0 || !self.vlan_trunk.is_empty() => unsupported("vlan, vlanTrunk"),
            () if self.macspoofchk => unsupported("macspoofchk"),
            () if self.ip_masq_backend.as_deref().is_some_and(|it| it != "nftables") => unsupported("ipMasqBackend"),
            () => Ok(()),
        }
    }
}
