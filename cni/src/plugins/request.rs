//! A call, read and checked.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::call::{Call, Runner};
use crate::conf::Capabilities;
use crate::netns::{Netns, NetnsError};
use crate::nftables::Nftables;
use crate::types::{AddResult, Args, CniError, Code, ContainerId, InterfaceName, NetworkName, Version};

use super::link::kernel;
use super::sockets::Sockets;

/// What the configuration says.
pub(super) struct Network<'a> {
    pub(super) name: NetworkName,
    pub(super) version: Version,
    /// The result of the plugins before this one.
    pub(super) previous: Option<AddResult>,
    pub(super) config: Map<String, Value>,
    pub(super) call: &'a Call,
    pub(super) others: &'a dyn Runner,
    pub(super) sockets: &'a Sockets,
}

/// Whom it is about.
pub(super) struct Target {
    pub(super) container: ContainerId,
    pub(super) interface: InterfaceName,
    pub(super) args: Args,
    netns: String,
}

/// Whoever is to stay in a network.
pub(super) struct Living {
    network: String,
    /// As [`Network::owner`] writes them.
    owners: Vec<String>,
}

/// The longest owner: a link's alias and a set element's comment have to hold it.
const LONGEST_OWNER: usize = 250;

/// What every plugin's configuration may have.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Common {
    pub(super) runtime_config: Capabilities,
    pub(super) args: ConfArgs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConfArgs {
    pub(super) cni: CniArgs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CniArgs {
    pub(super) mac: Option<String>,
    pub(super) ips: Vec<String>,
}

impl<'a> Network<'a> {
    pub(super) fn read(call: &'a Call, others: &'a dyn Runner, sockets: &'a Sockets) -> Result<Self, CniError> {
        let decode = |error: serde_json::Error| CniError::of(Code::DECODING, &error).context("network configuration");
        let value: Value = serde_json::from_slice(&call.input).map_err(decode)?;
        let Value::Object(config) = value else {
            return Err(CniError::new(Code::DECODING, "network configuration: is no JSON object"));
        };
        let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
        let version = text("cniVersion").parse::<Version>().map_err(|error| {
            let supported = Version::ALL.map(Version::as_str).join(", ");
            let details = format!("{error}; supported: {supported}");
            CniError { details, ..CniError::new(Code::INCOMPATIBLE_VERSION, "incompatible CNI versions") }
        })?;
        let name = text("name").parse().map_err(|error| CniError::of(Code::INVALID_CONFIG, &error))?;
        let previous = match config.get("prevResult") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let read = AddResult::read(value, version);
                Some(read.map_err(|error| CniError::of(Code::DECODING, &error).context("prevResult"))?)
            }
        };
        Ok(Self { name, version, previous, config, call, others, sockets })
    }

    /// The part of the configuration that a plugin knows.
    pub(super) fn conf<T: DeserializeOwned>(&self) -> Result<T, CniError> {
        T::deserialize(&Value::Object(self.config.clone())).map_err(|error| CniError::of(Code::INVALID_CONFIG, &error))
    }

    /// The plugin's own `ipam` section.
    pub(super) fn ipam<T: DeserializeOwned>(&self) -> Result<T, CniError> {
        let section = self.config.get("ipam").ok_or_else(|| CniError::config("ipam: is missing"))?;
        T::deserialize(section).map_err(|error| CniError::of(Code::INVALID_CONFIG, &error).context("ipam"))
    }

    /// As links and rules name their owner: three words, none of which can have a blank.
    pub(super) fn owner(&self, target: &Target) -> Result<String, CniError> {
        let owner = owner(self.name.as_str(), target.container.as_str(), target.interface.as_str());
        match owner.len() <= LONGEST_OWNER {
            true => Ok(owner),
            false => {
                Err(CniError::new(Code::INVALID_ENVIRONMENT, "the network's name and the container's id are too long"))
            }
        }
    }

    /// Does something with the socket for rules.
    pub(super) fn with_nftables<T>(
        &self,
        work: impl FnOnce(&mut Nftables) -> Result<T, CniError>,
    ) -> Result<T, CniError> {
        self.sockets.with_nftables(work).map_err(kernel)?
    }

    /// The result of the plugins before this one, for one that cannot be the first.
    pub(super) fn previous(&self) -> Result<&AddResult, CniError> {
        self.previous.as_ref().ok_or_else(|| CniError::config("prevResult: is missing: the plugin must be chained"))
    }
}

impl Target {
    pub(super) fn read(call: &Call) -> Result<Self, CniError> {
        let invalid = |variable: &'static str| {
            move |error: crate::types::InvalidName| CniError::of(Code::INVALID_ENVIRONMENT, &error).context(variable)
        };
        Ok(Self {
            container: call.container.parse().map_err(invalid("CNI_CONTAINERID"))?,
            interface: call.interface.parse().map_err(invalid("CNI_IFNAME"))?,
            args: call.args.parse().map_err(invalid("CNI_ARGS"))?,
            netns: call.netns.clone(),
        })
    }

    /// Its namespace, which has to be there and not be the host's.
    pub(super) fn netns(&self) -> Result<Netns, CniError> {
        if self.netns.is_empty() {
            return Err(CniError::new(Code::INVALID_ENVIRONMENT, "CNI_NETNS: is missing"));
        }
        let netns = Netns::open(&self.netns).map_err(netns_error)?;
        if netns.is_own() {
            let reason = format!("CNI_NETNS: {} is the network namespace of the host", self.netns);
            return Err(CniError::new(Code::INVALID_ENVIRONMENT, reason));
        }
        Ok(netns)
    }

    /// Its namespace; none when it is gone.
    pub(super) fn netns_if_there(&self) -> Result<Option<Netns>, CniError> {
        if self.netns.is_empty() {
            return Ok(None);
        }
        match Netns::open(&self.netns) {
            Ok(netns) if netns.is_own() => Ok(None),
            Ok(netns) => Ok(Some(netns)),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(netns_error(error)),
        }
    }
}

pub(super) fn netns_error(error: NetnsError) -> CniError {
    let code = if error.is_gone() { Code::UNKNOWN_CONTAINER } else { Code::IO };
    CniError::of(code, &error)
}

impl Living {
    pub(super) fn read(network: &Network<'_>) -> Result<Self, CniError> {
        #[derive(Deserialize)]
        struct Attachment {
            #[serde(rename = "containerID")]
            container: String,
            ifname: String,
        }
        let key = "cni.dev/valid-attachments";
        // Without the list nobody knows who lives, and that is not the same as nobody.
        let value = network.config.get(key).or_else(|| network.config.get("cni.dev/attachments"));
        let value = value.ok_or_else(|| CniError::config(format!("{key}: is missing")))?;
        let read = Vec::<Attachment>::deserialize(value);
        let list = read.map_err(|error| CniError::of(Code::INVALID_CONFIG, &error).context(key))?;
        let network = network.name.to_string();
        let owners = list.into_iter().map(|one| owner(&network, &one.container, &one.ifname)).collect();
        Ok(Self { network, owners })
    }

    /// Whether an owner belongs to the network and is not among them.
    pub(super) fn misses(&self, owner: &str) -> bool {
        let of_network = owner.strip_prefix(&self.network).is_some_and(|rest| rest.starts_with(' '));
        of_network && !self.owners.iter().any(|living| living == owner)
    }

    /// Whether a container lives, with that interface or, when it is empty, with any.
    pub(super) fn has(&self, container: &str, interface: &str) -> bool {
        let whole = owner(&self.network, container, interface);
        match interface {
            "" => self.owners.iter().any(|living| living.starts_with(&whole)),
            _ => self.owners.contains(&whole),
        }
    }
}

fn owner(network: &str, container: &str, interface: &str) -> String {
    format!("{network} {container} {interface}")
}
