//! What an OCI runtime says that it can do (runtime-spec, features.md): `runtime features`, of runc 1.1 and crun 1.8.6 on. What it
//! does not say it is trusted with.

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::Deserialize;

use crate::libcontainer::plan::PlanError;

/// Of one runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    said: Said,
    /// `exec --cgroup`: what is exec'd can have a cgroup of its own below the container's.
    pub exec_cgroup: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Said {
    linux: LinuxSaid,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct LinuxSaid {
    namespaces: Option<Vec<String>>,
    seccomp: Switch,
    apparmor: Switch,
    selinux: Switch,
    #[serde(rename = "intelRdt")]
    intel_rdt: Switch,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Switch {
    enabled: Option<bool>,
}

impl Features {
    /// From what `features` and `exec --help` print; `None` and what is no JSON of that kind say nothing.
    pub fn parse(features: Option<&[u8]>, exec_help: &str) -> Self {
        let said = features.and_then(|text| serde_json::from_slice(text).ok()).unwrap_or_default();
        Self { said, exec_cgroup: exec_help.contains("--cgroup") }
    }

    /// Refuses what the runtime would leave out or fail at.
    pub(super) fn check(&self, spec: &Spec) -> Result<(), PlanError> {
        let said = &self.said.linux;
        let refuse =
            |field| Err(PlanError::Unsupported { field, reason: "is nothing that this pod's OCI runtime can do" });
        let (process, linux) = (spec.process().as_ref(), spec.linux().as_ref());
        if let (Some(known), Some(linux)) = (&said.namespaces, linux) {
            let known: Vec<_> =
                known.iter().filter_map(|name| LinuxNamespaceType::try_from(name.as_str()).ok()).collect();
            if linux.namespaces().iter().flatten().any(|namespace| !known.contains(&namespace.typ())) {
                return refuse("a namespace of linux.namespaces");
            }
        }
        let off = |switch: &Switch| switch.enabled == Some(false);
        let has_profile = |profile: Option<&Option<String>>| profile.is_some_and(Option::is_some);
        if off(&said.seccomp) && linux.is_some_and(|linux| linux.seccomp().is_some()) {
            return refuse("linux.security_context.seccomp");
        }
        if off(&said.apparmor) && has_profile(process.map(|process| process.apparmor_profile())) {
            return refuse("linux.security_context.apparmor");
        }
        if off(&said.selinux) && has_profile(process.map(|process| process.selinux_label())) {
            return refuse("linux.security_context.selinux_options");
        }
        if off(&said.intel_rdt) && linux.is_some_and(|linux| linux.intel_rdt().is_some()) {
            return refuse("a class of cache and memory bandwidth");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libcontainer::spec::tests::Fixture;

    fn spec() -> Spec {
        let mut fixture = Fixture::new();
        fixture.context().seccomp = Some(cri_api::v1::SecurityProfile::default());
        fixture.build().unwrap()
    }

    #[test]
    fn what_is_said_to_be_off_is_refused() {
        let check = |text: &str| Features::parse(Some(text.as_bytes()), "").check(&spec());
        let all = r#"{"linux": {"namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"]}}"#;
        check(all).unwrap();
        check(r#"{"ociVersionMin": "1.0.0", "linux": {"seccomp": {"enabled": true, "actions": ["SCMP_ACT_ALLOW"]}}}"#)
            .unwrap();
        let refused = check(r#"{"linux": {"seccomp": {"enabled": false}}}"#).unwrap_err().to_string();
        assert!(refused.starts_with("linux.security_context.seccomp "), "{refused}");
        let refused = check(r#"{"linux": {"namespaces": ["mount", "network"]}}"#).unwrap_err().to_string();
        assert!(refused.contains("namespace"), "{refused}");
    }

    #[test]
    fn who_says_nothing_is_trusted() {
        for said in [None, Some(&b"unknown command"[..]), Some(b"{}"), Some(b"[1]")] {
            Features::parse(said, "").check(&spec()).unwrap();
        }
        assert!(Features::parse(None, "   --cgroup value   run in a sub-cgroup").exec_cgroup);
    }
}
