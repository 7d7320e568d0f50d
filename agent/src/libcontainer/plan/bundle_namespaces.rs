//! The namespaces of a bundle: all of them its own business, while those of a pod's container are mostly the pod's.

use std::path::PathBuf;

use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};

use super::{PlanError, is_mapped};

/// Where a container without a monitor lives. What is in neither list is the caller's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceSet {
    /// Made for it.
    pub new: Vec<LinuxNamespaceType>,
    /// There already, in the order of config.json.
    pub joined: Vec<(LinuxNamespaceType, PathBuf)>,
}

impl NamespaceSet {
    /// Takes the list of a bundle and checks what else in it needs a namespace of its own.
    pub(super) fn of(spec: &Spec, linux: &Linux) -> Result<Self, PlanError> {
        let mut set = Self::default();
        for namespace in linux.namespaces().iter().flatten() {
            let kind = namespace.typ();
            if set.has(kind) {
                return Err(refuse("linux.namespaces", "has two of one type"));
            }
            match namespace.path() {
                Some(path) if path.is_absolute() => set.joined.push((kind, path.clone())),
                Some(path) => {
                    let path = path.display().to_string();
                    return Err(PlanError::Relative { field: "linux.namespaces.path", path });
                }
                None => set.new.push(kind),
            }
        }
        set.check(spec, linux)?;
        Ok(set)
    }

    /// Whether it is made or joined.
    pub fn has(&self, kind: LinuxNamespaceType) -> bool {
        self.makes(kind) || self.joined.iter().any(|(joined, _)| *joined == kind)
    }

    /// Whether it is made.
    pub fn makes(&self, kind: LinuxNamespaceType) -> bool {
        self.new.contains(&kind)
    }

    fn check(&self, spec: &Spec, linux: &Linux) -> Result<(), PlanError> {
        let mapped = is_mapped(linux.uid_mappings().as_ref()) && is_mapped(linux.gid_mappings().as_ref());
        let any_mapping = is_mapped(linux.uid_mappings().as_ref()) || is_mapped(linux.gid_mappings().as_ref());
        let names = [spec.hostname(), spec.domainname()];
        let wrong = if self.makes(LinuxNamespaceType::User) && !mapped {
            Some(("linux.uidMappings and gidMappings", "are missing for the new user namespace"))
        } else if any_mapping && !self.has(LinuxNamespaceType::User) {
            Some(("linux.uidMappings and gidMappings", "need a user namespace"))
        } else if names.iter().any(|name| name.is_some()) && !self.has(LinuxNamespaceType::Uts) {
            Some(("hostname or domainname", "would be the host's: it needs a uts namespace"))
        } else if linux.time_offsets().is_some() && !self.makes(LinuxNamespaceType::Time) {
            Some(("linux.timeOffsets", "needs a new time namespace"))
        } else {
            None
        };
        if let Some((field, reason)) = wrong {
            return Err(refuse(field, reason));
        }
        linux.sysctl().iter().flatten().try_for_each(|(key, _)| self.check_sysctl(key))
    }

    /// CVE-2022-0811: a setting that is no namespace's, or that of a namespace which the container shares with the host,
    /// would be the host's.
    fn check_sysctl(&self, key: &str) -> Result<(), PlanError> {
        use LinuxNamespaceType::{Ipc, Network, Uts};
        let dotted = key.replace('/', ".");
        let kind = match dotted.as_str() {
            "kernel.domainname" | "kernel.hostname" => Uts,
            "kernel.sem" | "kernel.shm_rmid_forced" => Ipc,
            other if ["kernel.msg", "kernel.shm", "fs.mqueue."].iter().any(|known| other.starts_with(known)) => Ipc,
            other if other.starts_with("net.") => Network,
            _ => return Err(PlanError::Sysctl { key: key.to_owned(), reason: "is not a setting of a namespace" }),
        };
        if self.has(kind) {
            return Ok(());
        }
        Err(PlanError::Sysctl {
            key: key.to_owned(),
            reason: "would be the host's: the container shares that namespace",
        })
    }
}

fn refuse(field: &'static str, reason: &'static str) -> PlanError {
    PlanError::Unsupported { field, reason }
}
