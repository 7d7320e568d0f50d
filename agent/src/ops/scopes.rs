//! With the systemd driver a container's cgroup is a scope that systemd makes and ends. With the cgroupfs driver nothing
//! here does anything.

use cri_api::v1::LinuxContainerResources;
use oci_spec::runtime::LinuxResources;

use super::{Engine, Error};
use crate::libcontainer::cgroup::Systemd;
use crate::libcontainer::spec::resources::to_oci;
use crate::monitor::client::Placeholder;

impl Engine {
    /// Has systemd make a container's scope. The placeholder keeps it until init is in it: systemd ends a scope that
    /// nobody is in.
    pub(super) async fn start_scope(
        &self,
        systemd: &Systemd,
        cgroup: &str,
        limits: Option<&LinuxResources>,
    ) -> Result<Placeholder, Error> {
        let placeholder = self.spawner.fork_placeholder().await.map_err(Error::Spawner)?;
        systemd.start_scope(cgroup, placeholder.pid(), limits, self.cgroups.is_unified()).await?;
        Ok(placeholder)
    }

    /// Tells systemd of limits that are `wanted` from now on, where they were those `before`.
    pub(super) async fn tell_limits(
        &self,
        cgroup: &str,
        before: &LinuxContainerResources,
        wanted: &LinuxContainerResources,
    ) -> Result<(), Error> {
        let Some(systemd) = self.systemd.as_ref().filter(|_| cgroup.ends_with(".scope")) else { return Ok(()) };
        let (before, wanted) = (to_oci(Some(before), &self.host)?, to_oci(Some(wanted), &self.host)?);
        Ok(systemd.set_limits(cgroup, &before, &wanted, self.cgroups.is_unified()).await?)
    }

    /// Has systemd end a container's scope; one that is gone has ended. A container that an agent with the other driver
    /// made has none.
    pub(super) async fn stop_scope(&self, cgroup: &str) -> Result<(), Error> {
        match &self.systemd {
            Some(systemd) if cgroup.ends_with(".scope") => Ok(systemd.stop_scope(cgroup).await?),
            _ => Ok(()),
        }
    }
}
