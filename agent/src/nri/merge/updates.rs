//! Changes of containers that are there, as answers to an event of another container or of the same.

use nri_api::v1alpha1::{ContainerUpdate, LinuxContainerUpdate, LinuxResources};

use super::owners::{Claim, Owners};
use super::{MergeError, resources};

/// Changes so far, one a container, in the order in which they were first asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Updates {
    pub(super) owners: Owners,
    list: Vec<ContainerUpdate>,
    /// The container that a client resizes, and what it is to have so far.
    resized: Option<(String, LinuxResources)>,
}

impl Updates {
    /// Those around a resize that a client asks for.
    pub(crate) fn of_resize(container: &str, asked: LinuxResources) -> Self {
        Self { resized: Some((container.to_owned(), asked)), ..Self::default() }
    }

    /// What the resized container is to have.
    pub(crate) fn resized(&self) -> Option<&LinuxResources> {
        self.resized.as_ref().map(|(_, resources)| resources)
    }

    /// The changes of other containers.
    pub(crate) fn others(self) -> Vec<ContainerUpdate> {
        self.list
    }

    pub(super) fn list(&self) -> &[ContainerUpdate] {
        &self.list
    }

    /// Adds a plugin's.
    pub(crate) fn apply(&mut self, plugin: &str, asked: Vec<ContainerUpdate>) -> Result<(), MergeError> {
        for update in asked {
            // What may fail changes nothing when it does.
            let before = update.ignore_failure.then(|| self.clone());
            match (self.add(plugin, &update), before) {
                (Err(_), Some(before)) => *self = before,
                (added, _) => added?,
            }
        }
        Ok(())
    }

    fn add(&mut self, plugin: &str, update: &ContainerUpdate) -> Result<(), MergeError> {
        let id = update.container_id.as_str();
        let asked = update.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        let claim = Claim { container: id, plugin };
        if let Some((_, so_far)) = self.resized.as_mut().filter(|(resized, _)| resized == id) {
            return asked.map_or(Ok(()), |asked| resources::merge(&mut self.owners, claim, asked, so_far));
        }
        let at = match self.list.iter().position(|other| other.container_id == id) {
            Some(at) => at,
            None => {
                let linux = Some(LinuxContainerUpdate { resources: Some(LinuxResources::default()) });
                self.list.push(ContainerUpdate { container_id: id.to_owned(), linux, ignore_failure: true });
                self.list.len() - 1
            }
        };
        let Some(entry) = self.list.get_mut(at) else { return Ok(()) };
        entry.ignore_failure &= update.ignore_failure;
        let so_far = entry.linux.get_or_insert_default().resources.get_or_insert_default();
        asked.map_or(Ok(()), |asked| resources::merge(&mut self.owners, claim, asked, so_far))
    }
}
