//! What can go wrong between a runtime and its plugins.

use super::RecordError;
use crate::call::RunError;
use crate::conf::InvalidConf;
use crate::types::{Code, Command, ContainerId, InvalidName, InvalidResult, NetworkName, Version};

/// A verb that has failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A plugin could not be run, or has failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// What a plugin printed is no JSON.
    #[error("CNI plugin {plugin}: its answer is no JSON")]
    NoJson {
        /// The plugin.
        plugin: String,
        /// Where reading stopped.
        source: serde_json::Error,
    },
    /// What a plugin printed is no result.
    #[error("CNI plugin {plugin}")]
    Result {
        /// The plugin.
        plugin: String,
        /// What is wrong with it.
        source: InvalidResult,
    },
    /// A record could not be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A record holds a configuration that cannot be used.
    #[error("the recorded configuration")]
    RecordedConf(#[from] InvalidConf),
    /// A record holds a result that cannot be read.
    #[error("the recorded result")]
    RecordedResult(#[from] InvalidResult),
    /// A record holds a name that cannot be.
    #[error("the recorded attachment")]
    RecordedName(#[from] InvalidName),
    /// The network's version has no such verb.
    #[error("network {network}: there is no {command} in version {version}")]
    Unsupported {
        /// The network.
        network: NetworkName,
        /// The verb.
        command: Command,
        /// The network's version.
        version: Version,
    },
    /// The container was not added to the network, as far as the records say.
    #[error("network {network}: container {container} has no recorded result")]
    Unknown {
        /// The network.
        network: NetworkName,
        /// The container.
        container: ContainerId,
    },
    /// GC went on behind its first failure and met others.
    #[error("{first}; and {} more: {}", others.len(), others.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several {
        /// The first.
        #[source]
        first: Box<ClientError>,
        /// The others.
        others: Vec<ClientError>,
    },
}

impl ClientError {
    /// The code of the plugin's own error.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Run(error) => error.plugin_error().map(|error| error.code),
            Self::Several { first, .. } => first.code(),
            _ => None,
        }
    }
}
