//! What a container has of the node beyond its image and its request: CDI devices, and classes of block I/O, cache and
//! memory bandwidth. All of it is edits of the OCI `Spec`.

use std::os::fd::OwnedFd;

use oci_spec::runtime::{LinuxIntelRdt, Spec};

use super::{Engine, Error};
use crate::libcontainer::classes::{Kind, class};
use crate::libcontainer::{blockio, cdi, rdt};
use crate::model::{ContainerId, ContainerSpec, Pod};

impl Engine {
    /// Edits a container's `Spec`.
    pub(super) fn add_node_extras(
        &self,
        oci: &mut Spec,
        pod: &Pod,
        id: &ContainerId,
        spec: &ContainerSpec,
    ) -> Result<(), Error> {
        let names = cdi::requested(&spec.config)?;
        cdi::apply(&cdi::resolve(&self.node.cdi_dirs, &names)?, oci)?;

        let name = spec.config.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
        let class = |kind| class(kind, name, &spec.config.annotations, &pod.spec.config.annotations);
        let Some(linux) = oci.linux_mut() else { return Ok(()) };
        if let Some(class) = class(Kind::BlockIo) {
            let found = blockio::class(self.node.blockio_config.as_deref(), class)?;
            for reason in &found.passed_over {
                tracing::warn!(container = %id, class, "block I/O class: {reason}");
            }
            linux.resources_mut().get_or_insert_default().set_block_io(Some(found.limits));
        }
        if let Some(class) = class(Kind::Rdt) {
            let mut rdt = LinuxIntelRdt::default();
            rdt.set_clos_id(Some(class.to_owned()));
            linux.set_intel_rdt(Some(rdt));
        }
        Ok(())
    }
}

/// What lets a container's processes into their class of cache and memory bandwidth, if they have one.
pub(super) fn rdt_tasks(oci: &Spec) -> Result<Option<OwnedFd>, Error> {
    let rdt = oci.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
    let class = rdt.and_then(|rdt| rdt.clos_id().as_deref());
    Ok(class.map(rdt::tasks).transpose()?)
}
