//! A vendor's file (CDI specification 1.1): devices, and the edits that each needs. Pure.

use serde::Deserialize;

use super::name::{check_device, check_kind};

/// Versions of the specification whose files mean what is read here.
const VERSIONS: [&str; 9] = ["0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// The file. An unknown field is refused: it may be what makes the device work.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Document {
    pub(super) cdi_version: String,
    pub(super) kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "the specification has it, and nothing follows from it")]
    annotations: std::collections::BTreeMap<String, String>,
    pub(super) devices: Vec<Device>,
    /// For whoever uses any of the devices.
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// One device.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default)]
    #[expect(dead_code, reason = "as for the file")]
    annotations: std::collections::BTreeMap<String, String>,
    pub(super) container_edits: Edits,
}

/// What is changed in a container.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<Node>,
    pub(super) net_devices: Vec<NetDevice>,
    pub(super) hooks: Vec<Hook>,
    pub(super) mounts: Vec<Mount>,
    pub(super) intel_rdt: Option<IntelRdt>,
    pub(super) additional_gids: Vec<u32>,
}

/// A device node.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Node {
    /// In the container.
    pub(super) path: String,
    /// On the host; empty: the same.
    pub(super) host_path: String,
    /// `b`, `c`, `u` or `p`; empty: as it is on the host.
    pub(super) r#type: String,
    pub(super) major: i64,
    pub(super) minor: i64,
    pub(super) file_mode: Option<u32>,
    /// Of `rwm`; empty: all; `none`: none.
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// A network interface that would move into the container.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct NetDevice {
    pub(super) host_interface_name: String,
    pub(super) name: String,
}

/// A program of the host's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: String,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<String>,
    #[serde(default)]
    pub(super) timeout: Option<i64>,
}

/// A bind mount, mostly.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    pub(super) options: Vec<String>,
    pub(super) r#type: String,
}

/// Cache and memory bandwidth.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct IntelRdt {
    #[serde(rename = "closID")]
    pub(super) clos_id: String,
    #[serde(rename = "l3CacheSchema")]
    pub(super) l3_cache_schema: String,
    #[serde(rename = "memBwSchema")]
    pub(super) mem_bw_schema: String,
    pub(super) schemata: Vec<String>,
    #[serde(rename = "enableMonitoring")]
    pub(super) enable_monitoring: bool,
}

impl Document {
    /// Reads a file's text, which is JSON or YAML by the file's name.
    pub(super) fn parse(text: &str, yaml: bool) -> Result<Self, String> {
        let document: Self = if yaml {
            serde_saphyr::from_str(text).map_err(|error| error.without_snippet().to_string())?
        } else {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        };
        document.check()?;
        Ok(document)
    }

    fn check(&self) -> Result<(), String> {
        let version = self.cdi_version.strip_prefix('v').unwrap_or(&self.cdi_version);
        if !VERSIONS.contains(&version) {
            return Err(format!("cdiVersion {:?} is not known", self.cdi_version));
        }
        check_kind(&self.kind).map_err(|reason| format!("kind {:?} {reason}", self.kind))?;
        if self.devices.is_empty() {
            return Err("it has no devices".to_owned());
        }
        self.container_edits.check()?;
        for (index, device) in self.devices.iter().enumerate() {
            let name = &device.name;
            check_device(name).map_err(|reason| format!("device {name:?} {reason}"))?;
            if device.container_edits == Edits::default() {
                return Err(format!("device {name:?} has no edits"));
            }
            device.container_edits.check().map_err(|reason| format!("device {name:?}: {reason}"))?;
            if self.devices[..index].iter().any(|other| other.name == *name) {
                return Err(format!("device {name:?} is there twice"));
            }
        }
        Ok(())
    }
}

impl Edits {
    fn check(&self) -> Result<(), String> {
        if let Some(pair) = self.env.iter().find(|pair| pair.find('=').unwrap_or(0) == 0 || pair.contains('\0')) {
            return Err(format!("env {pair:?} is not NAME=value"));
        }
        for node in &self.device_nodes {
            let path = &node.path;
            if !is_inside(path) {
                return Err(format!("device node {path:?} is not an absolute path without `..`"));
            }
            if !matches!(node.r#type.as_str(), "" | "b" | "c" | "u" | "p") {
                return Err(format!("device node {path:?} has the type {:?}", node.r#type));
            }
            if node.permissions != "none" && !node.permissions.bytes().all(|b| b"rwm".contains(&b)) {
                return Err(format!("device node {path:?} has the permissions {:?}", node.permissions));
            }
        }
        for mount in &self.mounts {
            let path = &mount.container_path;
            if !is_inside(path) || path.trim_matches('/').is_empty() {
                return Err(format!("mount {path:?} is not an absolute path below the root without `..`"));
            }
            // As for the mounts of a request: what is bound there is how a process is lied to about itself.
            if path.split('/').find(|part| !part.is_empty()) == Some("proc") {
                return Err(format!("mount {path:?} is inside /proc"));
            }
            if mount.host_path.is_empty() || mount.host_path.contains('\0') {
                return Err(format!("mount {path:?} has no host path"));
            }
        }
        let bad = |hook: &&Hook| hook.path.is_empty() || !HOOKS.contains(&hook.hook_name.as_str());
        match self.hooks.iter().find(bad) {
            Some(hook) => Err(format!("hook {:?} {:?} is none", hook.hook_name, hook.path)),
            None => Ok(()),
        }
    }
}

const HOOKS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

fn is_inside(path: &str) -> bool {
    path.starts_with('/') && !path.contains('\0') && path.split('/').all(|part| part != ".." && part != ".")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"{
        "cdiVersion": "0.6.0", "kind": "vendor.com/class", "annotations": {"a": "b"},
        "containerEdits": {"env": ["A=b"], "additionalGids": [5]},
        "devices": [{"name": "one", "containerEdits": {
            "deviceNodes": [{"path": "/dev/one", "hostPath": "/dev/null", "permissions": "rw", "fileMode": 438}],
            "mounts": [{"hostPath": "/lib/x", "containerPath": "/lib/x", "options": ["ro"]}],
            "hooks": [{"hookName": "createContainer", "path": "/bin/x", "args": ["x"], "timeout": 5}],
            "intelRdt": {"closID": "gold"}}}]}"#;

    #[test]
    fn json_and_yaml_mean_the_same() {
        let json = Document::parse(GOOD, false).unwrap();
        // JSON is YAML.
        let yaml = Document::parse(GOOD, true).unwrap();
        assert_eq!(json.devices[0].container_edits, yaml.devices[0].container_edits);
        let yaml = "cdiVersion: 1.1.0\nkind: v/c\ndevices:\n- name: \"0\"\n  containerEdits:\n    deviceNodes:\n    - path: /dev/x\n";
        assert_eq!(Document::parse(yaml, true).unwrap().devices[0].container_edits.device_nodes[0].path, "/dev/x");
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (from, to, told) in [
            ("0.6.0", "9.0.0", "cdiVersion"),
            ("vendor.com/class", "vendor", "kind"),
            ("\"one\"", "\"-\"", "device \"-\""),
            ("\"env\"", "\"evn\"", "unknown field"),
            ("A=b", "=b", "env"),
            ("\"/dev/one\"", "\"/dev/../one\"", "device node"),
            ("\"rw\"", "\"rx\"", "permissions"),
            ("\"containerPath\": \"/lib/x\"", "\"containerPath\": \"/proc/self\"", "/proc"),
            ("\"containerPath\": \"/lib/x\"", "\"containerPath\": \"//\"", "mount"),
            ("createContainer", "whenever", "hook"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD);
            let error = Document::parse(&text, false).unwrap_err();
            assert!(error.contains(told), "{told}: {error}");
        }
        assert!(Document::parse(r#"{"cdiVersion": "0.6.0", "kind": "v/c", "devices": []}"#, false).is_err());
        let empty = r#"{"cdiVersion": "0.6.0", "kind": "v/c", "devices": [{"name": "x", "containerEdits": {}}]}"#;
        assert!(Document::parse(empty, false).unwrap_err().contains("no edits"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_document_or_an_error(at in 0usize..GOOD.len(), junk in "\\PC{0,8}", yaml in any::<bool>()) {
            let mut text = GOOD.to_owned();
            text.insert_str(at, &junk);
            if let Ok(document) = Document::parse(&text, yaml) {
                prop_assert!(document.devices.iter().all(|device| check_device(&device.name).is_ok()));
            }
        }
    }
}
