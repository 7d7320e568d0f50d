//! Runtime handlers as the file spells them: names of the operator's choice, each with the keys of `settings::Runtime`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use oci_spec::runtime::{Capability, PosixRlimitType};
use serde::{Deserialize, Deserializer, de};

use super::resolve::ConfigError;
use super::settings::{CgroupDriver, Runtime};
use super::values::{Shown, Yaml};

/// Handlers by their names.
pub type Runtimes = BTreeMap<String, Runtime>;

/// A capability, with the prefix `CAP_` or without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapabilityName(pub Capability);

/// A limit on what one process may use (setrlimit(2)): `nofile=1024:524288`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessLimit {
    /// Of what.
    pub kind: PosixRlimitType,
    /// In force.
    pub soft: u64,
    /// The most that the process may raise it to; `u64::MAX` is no limit.
    pub hard: u64,
}

/// A handler whose keys are all left out reads as null.
pub(super) fn runtimes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Runtimes, D::Error> {
    let read: Option<BTreeMap<String, Option<Runtime>>> = Option::deserialize(deserializer)?;
    Ok(read.into_iter().flatten().map(|(name, runtime)| (name, runtime.unwrap_or_default())).collect())
}

/// Refuses handlers that no pod could name, and keys that would do nothing.
pub(super) fn check_runtimes(runtimes: &Runtimes, driver: CgroupDriver) -> Result<(), ConfigError> {
    for (name, runtime) in runtimes {
        let refuse = |key: &str, reason: String| {
            Err(ConfigError::Value { key: format!("runtimes.{name}{key}").trim_end_matches('.').to_owned(), reason })
        };
        if !name.is_empty() && !is_label(name) {
            let reason =
                "a handler's name is that of a RuntimeClass's handler: up to 63 small letters, digits and inner '-'";
            return refuse("", reason.to_owned());
        }
        for (key, path) in [(".path", &runtime.path), (".seccomp_profile", &runtime.seccomp_profile)] {
            if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
                return refuse(key, format!("{} is not an absolute path", path.display()));
            }
        }
        if runtime.path.is_some() && driver == CgroupDriver::Systemd {
            return refuse(".path", "OCI runtimes are not for the cgroup driver systemd".to_owned());
        }
        if runtime.path.is_none() && !runtime.annotations.is_empty() {
            return refuse(".annotations", "only an OCI runtime (`path`) is given annotations".to_owned());
        }
        if let Some(limit) = runtime.rlimits.iter().find(|limit| limit.soft > limit.hard) {
            return refuse(".rlimits", format!("{limit}: the soft limit is above the hard one"));
        }
    }
    Ok(())
}

/// RFC 1123, which Kubernetes holds handlers' names to.
fn is_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    name.len() <= 63 && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

impl FromStr for CapabilityName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        Capability::from_str(short).map(Self).map_err(|_| format!("{text:?} is not a capability"))
    }
}

impl FromStr for ProcessLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a limit: write nofile=1024:524288, core=0 or memlock=unlimited");
        let (kind, values) = text.split_once('=').ok_or_else(wrong)?;
        let kind = format!("RLIMIT_{}", kind.to_ascii_uppercase()).parse().map_err(|_| wrong())?;
        let value = |text: &str| match text {
            "unlimited" => Ok(u64::MAX),
            number => number.parse().map_err(|_| wrong()),
        };
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        Ok(Self { kind, soft: value(soft)?, hard: value(hard)? })
    }
}

impl fmt::Display for CapabilityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CAP_{}", self.0)
    }
}

impl fmt::Display for ProcessLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.to_string().to_ascii_lowercase();
        let value = |value: u64| if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() };
        write!(f, "{}={}:{}", kind.trim_start_matches("rlimit_"), value(self.soft), value(self.hard))
    }
}

macro_rules! by_text {
    ($($kind:ty),*) => {$(
        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }

        impl Yaml for $kind {
            fn shown(&self) -> Shown {
                self.to_string().shown()
            }
        }
    )*};
}

by_text!(CapabilityName, ProcessLimit);

impl Yaml for Runtimes {
    fn shown(&self) -> Shown {
        match Runtime::default().shown() {
            Shown::Section(entries) => Shown::Named(entries),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::settings::Settings;
    use super::super::{Config, ConfigError};
    use super::*;

    fn resolve(text: &str) -> Result<Config, ConfigError> {
        let settings = Settings::parse(text, Path::new("/etc/berth/config.yaml"))?;
        Config::resolve(settings, Path::new("/usr/bin/berth"))
    }

    #[test]
    fn a_handler_is_its_keys_or_all_defaults() {
        let text = "runtimes:\n  runc: {path: /usr/sbin/runc, annotations: [io.x/*]}\n  plain:\n  strict:\n    \
                    capabilities: [CAP_CHOWN, kill]\n    rlimits: [nofile=1024:524288, memlock=unlimited]\n";
        let runtimes = resolve(text).unwrap().runtimes;
        assert_eq!(runtimes["plain"], Runtime::default());
        assert_eq!(runtimes["runc"].path.as_deref(), Some(Path::new("/usr/sbin/runc")));
        let names = [Capability::Chown, Capability::Kill].map(CapabilityName);
        assert_eq!(runtimes["strict"].capabilities.as_deref(), Some(&names[..]));
        let limits: Vec<_> = runtimes["strict"].rlimits.iter().map(ToString::to_string).collect();
        assert_eq!(limits, ["nofile=1024:524288", "memlock=unlimited:unlimited"]);
    }

    #[test]
    fn what_is_misspelt_is_told_with_its_place() {
        for (text, place, word) in [
            ("runtimes:\n  runc:\n    paht: /usr/sbin/runc\n", ":3:5: ", "paht"),
            ("runtimes:\n  a:\n    capabilities: [CHOWN, FLY]\n", ":3:27: ", "FLY"),
            ("runtimes:\n  a:\n    rlimits: [files=3]\n", ":3:15: ", "nofile="),
        ] {
            let error = resolve(text).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains(word), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_by_handler_and_key() {
        for (text, key) in [
            ("runtimes: {Kata: {path: /usr/bin/kata}}", "runtimes.Kata"),
            ("runtimes: {runc: {path: bin/runc}}", "runtimes.runc.path"),
            ("runtimes: {\"\": {seccomp_profile: default.json}}", "runtimes..seccomp_profile"),
            ("runtimes: {a: {annotations: [x]}}", "runtimes.a.annotations"),
            ("cgroups: {driver: systemd}\nruntimes: {a: {path: /usr/bin/runc}}", "runtimes.a.path"),
            ("runtimes: {a: {rlimits: [\"nofile=3:2\"]}}", "runtimes.a.rlimits"),
        ] {
            match resolve(text) {
                Err(ConfigError::Value { key: told, .. }) => assert_eq!(told, key, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
