//! A bundle: a folder with a `config.json` and, mostly, the root file system beside it.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};

use super::Error;
use crate::libcontainer::spec::usual_device_rules;

/// Where containers' cgroups are that say nothing about it.
const CGROUP_PARENT: &str = "berth-oci";

/// A bundle that was read.
#[derive(Debug)]
pub(super) struct Bundle {
    /// Absolute.
    pub(super) path: PathBuf,
    /// Absolute, without symbolic links.
    pub(super) rootfs: PathBuf,
    pub(super) spec: Spec,
}

impl Bundle {
    /// Reads `config.json` and looks for the root file system.
    pub(super) fn load(path: &Path) -> Result<Self, Error> {
        let path = fs::canonicalize(path).map_err(Error::io("find the bundle", path))?;
        let config = path.join("config.json");
        let text = fs::read(&config).map_err(Error::io("read", &config))?;
        let spec: Spec = serde_json::from_slice(&text).map_err(|source| Error::Json { path: config, source })?;
        check_version(spec.version())?;
        let Some(root) = spec.root() else { return Err(Error::Config("has no root".to_owned())) };
        let rootfs = path.join(root.path());
        let rootfs = fs::canonicalize(&rootfs).map_err(Error::io("find the root file system", &rootfs))?;
        if !rootfs.is_dir() {
            return Err(Error::Config(format!("root.path {:?} is not a folder", root.path())));
        }
        Ok(Self { path, rootfs, spec })
    }

    /// Where the container's cgroup is, below the root of each hierarchy.
    pub(super) fn cgroup(&self, id: &str) -> Result<String, Error> {
        let asked = self.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        let Some(asked) = asked.filter(|path| !path.as_os_str().is_empty()) else {
            return Ok(format!("{CGROUP_PARENT}/{id}"));
        };
        let text = asked.to_str().ok_or_else(|| Error::Config(format!("linux.cgroupsPath {asked:?} is not UTF-8")))?;
        // A relative path is relative to wherever the runtime likes (OCI runtime-spec, cgroups path).
        Ok(match text.strip_prefix('/') {
            Some(absolute) => absolute.trim_matches('/').to_owned(),
            None => format!("{CGROUP_PARENT}/{}", text.trim_matches('/')),
        })
    }

    /// The limits, with the devices that every container has added to a list of rules.
    pub(super) fn limits(&self) -> Option<LinuxResources> {
        let mut limits = self.spec.linux().as_ref()?.resources().clone()?;
        if let Some(rules) = limits.devices().clone().filter(|rules| !rules.is_empty()) {
            limits.set_devices(Some(rules.into_iter().chain(usual_device_rules()).collect()));
        }
        Some(limits)
    }
}

/// `1.x.y`, with anything behind it (semver.org). Minor versions add, and do not change what was there.
fn check_version(version: &str) -> Result<(), Error> {
    let numbers: Vec<&str> = version.split(['-', '+']).next().unwrap_or_default().split('.').collect();
    let all_numbers = numbers.iter().all(|part| part.parse::<u32>().is_ok());
    match numbers.as_slice() {
        ["1", _, _] if all_numbers => Ok(()),
        _ => Err(Error::Config(format!("ociVersion {version:?} is not a version 1.x.y of the specification"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(config: &str) -> Result<Bundle, Error> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), config).unwrap();
        fs::create_dir(dir.path().join("rootfs")).unwrap();
        Bundle::load(dir.path())
    }

    #[test]
    fn a_version_is_one_of_ours_or_newer() {
        for good in ["1.0.0", "1.0.2-dev", "1.3.0", "1.2.0-rc.1+x"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["", "invalid", "1", "1.0", "2.0.0", "0.9.0", "1.x.0", "-1.0.0"] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_bundle_is_refused() {
        assert!(bundle(r#"{"ociVersion":"1.0.0","root":{"path":"rootfs"}}"#).is_ok());
        for bad in ["", "{}", r#"{"ociVersion":"1.0.0"}"#, r#"{"ociVersion":"1.0.0","root":{"path":"none"}}"#] {
            assert!(bundle(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cgroups_are_where_the_bundle_says() {
        let path = |path: &str| {
            let linux = format!(r#""linux":{{"cgroupsPath":"{path}"}}"#);
            bundle(&format!(r#"{{"ociVersion":"1.0.0","root":{{"path":"rootfs"}},{linux}}}"#)).unwrap().cgroup("c")
        };
        assert_eq!(path("/a/b").unwrap(), "a/b");
        assert_eq!(path("a/b").unwrap(), "berth-oci/a/b");
        assert_eq!(path("").unwrap(), "berth-oci/c");
    }
}
