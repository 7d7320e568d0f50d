//! With the systemd driver a container's cgroup is a scope that systemd makes and ends. With the cgroupfs driver nothing
//! here does anything.

use oci_spec::runtime::LinuxResources;

use super::{Engine, Error};
use crate::libcontainer::cgroup::Systemd;
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

    /// Has systemd end a container's scope; one that is gone has ended. A container that an agent with the other driver
    /// made has none.
    pub(super) async fn stop_scope(&self, cgroup: &str) -> Result<(), Error> {
        match &self.systemd {
            Some(systemd) if cgroup.ends_with(".scope") => Ok(systemd.stop_scope(cgroup).await?),
            _ => Ok(()),
        }
    }
}
