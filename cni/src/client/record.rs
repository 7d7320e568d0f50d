//! Records of attachments, in the form and place of libcni's cache: `<folder>/results/<network>-<container>-<interface>`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Attachment, ClientError};
use crate::conf::{Capabilities, NetworkList};
use crate::types::{AddResult, Args, ContainerId, InterfaceName, NetworkName};

const KIND: &str = "cniCacheV1";
const LARGEST: u64 = 8 << 20;

/// One attachment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    kind: String,
    container_id: String,
    /// The list, in base64: Go's way with bytes.
    config: String,
    if_name: String,
    #[serde(rename = "networkName")]
    pub(super) network: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    netns: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capability_args: Option<Capabilities>,
    /// None until ADD has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<Value>,
}

/// A record could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A file could not be used.
    #[error("CNI record: {operation} {}", path.display())]
    File {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// It cannot be read as what it should be.
    #[error("CNI record {} is damaged: remove it, and what its container had in the network may have to be removed by hand", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where reading stopped.
        source: serde_json::Error,
    },
    /// The recorded configuration is no base64.
    #[error("CNI record of {0}: its configuration is damaged")]
    Configuration(String),
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecordError + use<> {
    let path = path.to_owned();
    move |source| RecordError::File { operation, path, source }
}

impl Record {
    pub(super) fn new(list: &NetworkList, attachment: &Attachment) -> Self {
        let pairs = attachment.args.pairs();
        Self {
            kind: KIND.into(),
            container_id: attachment.container.to_string(),
            config: STANDARD.encode(&list.text),
            if_name: attachment.interface.to_string(),
            network: list.name.to_string(),
            netns: attachment.netns.clone().unwrap_or_default(),
            cni_args: (!pairs.is_empty()).then(|| pairs.to_vec()),
            capability_args: Some(attachment.capabilities.clone()).filter(|it| *it != Capabilities::default()),
            result: None,
        }
    }

    pub(super) fn is(&self, container: &ContainerId, interface: &InterfaceName) -> bool {
        self.container_id == container.as_str() && self.if_name == interface.as_str()
    }

    /// The network as it was when the container was added to it.
    pub(super) fn list(&self) -> Result<NetworkList, ClientError> {
        let damaged = || RecordError::Configuration(self.container_id.clone());
        let text = STANDARD.decode(&self.config).map_err(|_| damaged())?;
        Ok(NetworkList::parse(&text)?)
    }

    /// The result of the last plugin; its version is in it.
    pub(super) fn previous(&self) -> Result<Option<AddResult>, ClientError> {
        let Some(result) = &self.result else { return Ok(None) };
        Ok(Some(AddResult::read(result, self.list()?.version)?))
    }

    /// What the container was added with, in the namespace that the caller knows of.
    pub(super) fn attachment(&self, asked: &Attachment) -> Result<Attachment, ClientError> {
        Ok(Attachment { netns: asked.netns.clone(), ..self.recorded_attachment()? })
    }

    pub(super) fn recorded_attachment(&self) -> Result<Attachment, ClientError> {
        Ok(Attachment {
            container: self.container_id.parse()?,
            // A namespace that is gone must not be looked for.
            netns: Some(self.netns.clone()).filter(|path| !path.is_empty() && Path::new(path).exists()),
            interface: self.if_name.parse()?,
            args: Args::new(self.cni_args.clone().unwrap_or_default())?,
            capabilities: self.capability_args.clone().unwrap_or_default(),
        })
    }
}

/// Whose a record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The network.
    pub network: NetworkName,
    /// The container.
    pub container: ContainerId,
    /// Its interface.
    pub interface: InterfaceName,
    /// Whether its ADD has come to its end.
    pub result: bool,
    /// As [`NetworkList::kinds`]; none when its list cannot be read.
    pub kinds: Vec<String>,
}

/// The records' folder.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// Where libcni keeps them.
    pub const DEFAULT_FOLDER: &'static str = "/var/lib/cni";

    /// Records below a folder, which need not be there.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into().join("results") }
    }

    /// Who is recorded as being in a network.
    ///
    /// # Errors
    /// When the folder or a record cannot be read.
    pub fn attachments(&self, network: &NetworkName) -> Result<Vec<Attachment>, ClientError> {
        let of_network = |record: &Record| record.network == network.as_str();
        self.all()?.iter().filter(|record| of_network(record)).map(Record::recorded_attachment).collect()
    }

    /// Whose records there are, and of which networks. What cannot be read is told one by one, and does not hide the others. Removes
    /// what a crash left of a record that was being written, so nobody may be writing.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn take_stock(&self) -> Result<Vec<Result<Recorded, ClientError>>, RecordError> {
        let mut found = Vec::new();
        for path in self.paths()? {
            match path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                true => fs::remove_file(&path).map_err(failed("remove", &path))?,
                false => found.extend(read(&path).map_err(ClientError::from).and_then(recorded).transpose()),
            }
        }
        Ok(found)
    }

    /// All networks that the records know of, each once.
    ///
    /// # Errors
    /// When the folder or a record cannot be read.
    pub fn networks(&self) -> Result<Vec<NetworkName>, ClientError> {
        let mut names = self.all()?.iter().map(|record| record.network.parse()).collect::<Result<Vec<_>, _>>()?;
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Written whole or not at all, so that a crash leaves the one before.
    pub(super) fn write(&self, record: &Record) -> Result<(), RecordError> {
        let mut folders = fs::DirBuilder::new();
        folders.recursive(true).mode(0o700).create(&self.folder).map_err(failed("create", &self.folder))?;
        let path = self.folder.join(name(&record.network, &record.container_id, &record.if_name));
        let new = self.folder.join(format!(".{}.new", record.container_id));
        let damaged = |source| RecordError::Damaged { path: path.clone(), source };
        let text = serde_json::to_vec(record).map_err(damaged)?;
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed("create", &new))?;
        file.write_all(&text).map_err(failed("write", &new))?;
        fs::rename(&new, &path).map_err(failed("rename", &new))
    }

    pub(super) fn read(
        &self,
        network: &NetworkName,
        container: &ContainerId,
        interface: &InterfaceName,
    ) -> Result<Option<Record>, RecordError> {
        read(&self.folder.join(name(network.as_str(), container.as_str(), interface.as_str())))
    }

    pub(super) fn remove(
        &self,
        network: &NetworkName,
        container: &ContainerId,
        interface: &InterfaceName,
    ) -> Result<(), RecordError> {
        let path = self.folder.join(name(network.as_str(), container.as_str(), interface.as_str()));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// All records; a file that begins with a dot is one that is being written.
    pub(super) fn all(&self) -> Result<Vec<Record>, RecordError> {
        let mut records = Vec::new();
        for path in self.paths()? {
            if !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                records.extend(read(&path)?);
            }
        }
        records.sort_by(|a, b| (&a.container_id, &a.if_name).cmp(&(&b.container_id, &b.if_name)));
        Ok(records)
    }

    fn paths(&self) -> Result<Vec<PathBuf>, RecordError> {
        let listing = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed("list", &self.folder))?,
        };
        let path = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.path());
        listing.map(path).collect::<io::Result<_>>().map_err(failed("list", &self.folder))
    }
}

fn recorded(record: Option<Record>) -> Result<Option<Recorded>, ClientError> {
    let Some(record) = record else { return Ok(None) };
    let (network, container, interface) =
        (record.network.parse()?, record.container_id.parse()?, record.if_name.parse()?);
    let list = record.list().ok();
    let kinds = list.iter().flat_map(NetworkList::kinds).map(str::to_owned).collect();
    Ok(Some(Recorded { network, container, interface, result: record.result.is_some(), kinds }))
}

fn name(network: &str, container: &str, interface: &str) -> String {
    format!("{network}-{container}-{interface}")
}

fn read(path: &Path) -> Result<Option<Record>, RecordError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed("open", path))?,
    };
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).map_err(failed("read", path))?;
    match serde_json::from_slice(&text) {
        Ok(record) => Ok(Some(record)),
        Err(source) => Err(RecordError::Damaged { path: path.into(), source }),
    }
}
