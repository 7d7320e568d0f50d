//! The runtime's side: networks are added to containers, checked, and taken away again.
//!
//! A [`Client`] calls the plugins of a list one after the other and keeps a record of every attachment, in libcni's form and
//! place, from before the first plugin runs until all have taken back what they did. So a DEL needs neither the list nor
//! the network namespace, and another runtime can take over. Calls block; each has a deadline, over all of its plugins.

mod error;
mod exec;
mod gc;
mod record;

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Map, Value};

pub use error::ClientError;
pub use exec::Exec;
pub use record::{RecordError, Recorded, Records};

use crate::call::{Call, Runner};
use crate::conf::{Capabilities, NetworkList, PluginConf};
use crate::types::{AddResult, Args, Command, ContainerId, InterfaceName, NetworkName, Version};
use record::Record;

/// A container's place in a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    /// The container.
    pub container: ContainerId,
    /// The path of its network namespace; none when it is gone.
    pub netns: Option<String>,
    /// The name of its interface there.
    pub interface: InterfaceName,
    /// `CNI_ARGS`
    pub args: Args,
    /// For the plugins that take them.
    pub capabilities: Capabilities,
}

/// Calls plugins and keeps the records.
#[derive(Debug)]
pub struct Client<R> {
    runner: R,
    records: Records,
    path: Vec<PathBuf>,
}

impl<R: Runner> Client<R> {
    /// A client that runs plugins by `runner` and tells them that others are in `path` (`CNI_PATH`).
    pub fn new(runner: R, records: Records, path: Vec<PathBuf>) -> Self {
        Self { runner, records, path }
    }

    /// What runs its plugins.
    pub fn runner(&self) -> &R {
        &self.runner
    }

    /// Its records.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Adds a container to a network. When it fails, [`Client::del`] takes back what was done; the record is there.
    ///
    /// # Errors
    /// The first plugin's that fails.
    pub fn add(
        &self,
        list: &NetworkList,
        attachment: &Attachment,
        deadline: Instant,
    ) -> Result<AddResult, ClientError> {
        let mut record = Record::new(list, attachment);
        self.records.write(&record)?;
        let mut previous: Option<AddResult> = None;
        for plugin in &list.plugins {
            let input = plugin.input(&list.name, list.version, Some(&attachment.capabilities), previous.as_ref());
            let output = self.call(plugin, Command::Add, Some(attachment), input, deadline)?;
            let invalid = |source| ClientError::Result { plugin: plugin.kind.clone(), source };
            let value = serde_json::from_slice::<Value>(&output)
                .map_err(|source| ClientError::NoJson { plugin: plugin.kind.clone(), source })?;
            previous = Some(AddResult::read(&value, list.version).map_err(invalid)?);
        }
        let result = previous.unwrap_or_default();
        record.result = Some(result.to_value(list.version));
        self.records.write(&record)?;
        Ok(result)
    }

    /// Takes a container out of a network, last plugin first, with the configuration and the arguments that it was added with,
    /// or with `list` when there is no record. No error when there is neither: then nothing was added.
    ///
    /// # Errors
    /// The first plugin's that fails; the record stays, and a later call tries again.
    pub fn del(
        &self,
        network: &NetworkName,
        list: Option<&NetworkList>,
        attachment: &Attachment,
        deadline: Instant,
    ) -> Result<(), ClientError> {
        let record = self.records.read(network, &attachment.container, &attachment.interface)?;
        let (list, attachment, previous) = match record {
            Some(record) => {
                let previous = record.previous()?;
                (record.list()?, record.attachment(attachment)?, previous)
            }
            None => match list {
                Some(list) => (list.clone(), attachment.clone(), None),
                None => return Ok(()),
            },
        };
        let previous = previous.filter(|_| list.version >= Version::V0_4_0);
        for plugin in list.plugins.iter().rev() {
            let input = plugin.input(&list.name, list.version, Some(&attachment.capabilities), previous.as_ref());
            self.call(plugin, Command::Del, Some(&attachment), input, deadline)?;
        }
        Ok(self.records.remove(network, &attachment.container, &attachment.interface)?)
    }

    /// Asks all plugins whether a container's network is as they left it.
    ///
    /// # Errors
    /// The first plugin's that finds it is not; [`ClientError::Unsupported`] before 0.4.0; [`ClientError::Unknown`] for an
    /// attachment without a record.
    pub fn check(&self, list: &NetworkList, attachment: &Attachment, deadline: Instant) -> Result<(), ClientError> {
        supported(list, Command::Check)?;
        if list.disable_check {
            return Ok(());
        }
        let record = self.records.read(&list.name, &attachment.container, &attachment.interface)?;
        let previous = record.as_ref().map(Record::previous).transpose()?.flatten();
        let Some(previous) = previous else {
            let container = attachment.container.clone();
            return Err(ClientError::Unknown { network: list.name.clone(), container });
        };
        for plugin in &list.plugins {
            let input = plugin.input(&list.name, list.version, Some(&attachment.capabilities), Some(&previous));
            self.call(plugin, Command::Check, Some(attachment), input, deadline)?;
        }
        Ok(())
    }

    /// Asks all plugins whether an ADD can succeed. Before 1.1.0 there is no such question, and so no complaint.
    ///
    /// # Errors
    /// The first plugin's that says no, or that is not there.
    pub fn status(&self, list: &NetworkList, deadline: Instant) -> Result<(), ClientError> {
        if !list.version.has(Command::Status) {
            return Ok(());
        }
        for plugin in &list.plugins {
            let input = plugin.input(&list.name, list.version, None, None);
            self.call(plugin, Command::Status, None, input, deadline)?;
        }
        Ok(())
    }

    /// The versions that a plugin says it speaks.
    ///
    /// # Errors
    /// When it cannot be run, or its answer is none.
    pub fn versions(&self, plugin: &str, deadline: Instant) -> Result<Vec<String>, ClientError> {
        #[derive(serde::Deserialize)]
        struct Answer {
            #[serde(rename = "supportedVersions")]
            supported: Vec<String>,
        }
        let input = serde_json::json!({ "cniVersion": Version::CURRENT.as_str() }).to_string().into_bytes();
        let output = self.runner.run(plugin, &self.call_of(Command::Version, None, input, deadline))?;
        let answer: Answer =
            serde_json::from_slice(&output).map_err(|source| ClientError::NoJson { plugin: plugin.into(), source })?;
        Ok(answer.supported)
    }

    fn call(
        &self,
        plugin: &PluginConf,
        command: Command,
        attachment: Option<&Attachment>,
        input: Map<String, Value>,
        deadline: Instant,
    ) -> Result<Vec<u8>, ClientError> {
        let input = Value::Object(input).to_string().into_bytes();
        Ok(self.runner.run(&plugin.kind, &self.call_of(command, attachment, input, deadline))?)
    }

    fn call_of(&self, command: Command, attachment: Option<&Attachment>, input: Vec<u8>, deadline: Instant) -> Call {
        let text = |part: fn(&Attachment) -> String| attachment.map(part).unwrap_or_default();
        Call {
            command,
            container: text(|attachment| attachment.container.to_string()),
            netns: text(|attachment| attachment.netns.clone().unwrap_or_default()),
            interface: text(|attachment| attachment.interface.to_string()),
            args: text(|attachment| attachment.args.to_string()),
            path: self.path.clone(),
            input,
            deadline,
        }
    }
}

fn supported(list: &NetworkList, command: Command) -> Result<(), ClientError> {
    match list.version.has(command) {
        true => Ok(()),
        false => Err(ClientError::Unsupported { network: list.name.clone(), command, version: list.version }),
    }
}
