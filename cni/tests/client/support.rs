//! A folder of plugins, a folder of records, and a client of both.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cni::client::{Attachment, Client, Exec, Records};
use cni::conf::{Capabilities, NetworkList};
use cni::types::Args;
use serde_json::Value;

pub(crate) struct Node {
    folder: tempfile::TempDir,
    pub(crate) client: Client<Exec>,
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

impl Node {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = vec![folder.path().join("none"), folder.path().join("bin")];
        fs::create_dir(folder.path().join("bin")).unwrap();
        let client = Client::new(Exec::new(path.clone()), Records::new(folder.path().join("lib")), path);
        Self { folder, client }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A plugin that runs a script, in the node's folder.
    pub(crate) fn plugin(&self, name: &str, script: &str) -> &Self {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\ncd {}\n{script}\n", self.folder.path().display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// A plugin that notes its call in `log` and its input in `<name>.<command>`, and answers ADD with a result.
    pub(crate) fn noting(&self, name: &str, result: &str) -> &Self {
        let note =
            r#"echo "$0 $CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS" | sed "s,.*/bin/,," >>log"#;
        self.plugin(
            name,
            &format!("{note}\ncat >{name}.$CNI_COMMAND\nif [ $CNI_COMMAND = ADD ]; then echo '{result}'; fi"),
        )
    }

    /// The calls so far.
    pub(crate) fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    pub(crate) fn input(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    pub(crate) fn records(&self) -> Vec<String> {
        let Ok(listing) = fs::read_dir(self.path("lib/results")) else { return Vec::new() };
        let mut names: Vec<_> = listing.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub(crate) fn list(version: &str, plugins: &[&str]) -> NetworkList {
    let plugins: Vec<_> = plugins.iter().map(|kind| format!(r#"{{"type":"{kind}"}}"#)).collect();
    let text = format!(r#"{{"cniVersion":"{version}","name":"net","plugins":[{}]}}"#, plugins.join(","));
    NetworkList::parse(text.as_bytes()).unwrap()
}

pub(crate) fn attachment(container: &str) -> Attachment {
    Attachment {
        container: container.parse().unwrap(),
        netns: Some("/proc/self/ns/net".into()),
        interface: "eth0".parse().unwrap(),
        args: "A=1;B=2".parse::<Args>().unwrap(),
        capabilities: Capabilities::default(),
    }
}
