//! What a container has of the node beyond its image and its request: CDI devices, and classes of block I/O, cache and
//! memory bandwidth. All of it is edits of the OCI `Spec`.

use std::os::fd::OwnedFd;

use cri_api::v1::LinuxContainerResources;
use oci_spec::runtime::{Linux, LinuxIntelRdt, Spec};

use super::{Engine, Error};
use crate::libcontainer::classes::{Kind, class};
use crate::libcontainer::{blockio, cdi, rdt};
use crate::model::{ContainerId, ContainerSpec, Pod};
use crate::nri::{Adjusted, adjust_spec};

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
        cdi::apply(&cdi::resolve(&self.node.cdi_dirs, &names)?, oci, maker(spec))?;

        let name = spec.config.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
        let class = |kind| class(kind, name, &spec.config.annotations, &pod.spec.config.annotations);
        let Some(linux) = oci.linux_mut() else { return Ok(()) };
        if let Some(class) = class(Kind::BlockIo) {
            self.set_block_io_class(linux, id, class)?;
        }
        if let Some(class) = class(Kind::Rdt) {
            set_rdt_class(linux, class);
        }
        Ok(())
    }

    fn set_block_io_class(&self, linux: &mut Linux, id: &ContainerId, class: &str) -> Result<(), Error> {
        let found = blockio::class(self.node.blockio_config.as_deref(), class)?;
        for reason in &found.passed_over {
            tracing::warn!(container = %id, class, "block I/O class: {reason}");
        }
        linux.resources_mut().get_or_insert_default().set_block_io(Some(found.limits));
        Ok(())
    }

    /// Edits a container's `Spec` as NRI plugins want it; limits come back that are not the request's any more.
    pub(super) fn adjust(
        &self,
        oci: &mut Spec,
        pod: &Pod,
        id: &ContainerId,
        spec: &ContainerSpec,
        adjusted: Adjusted,
    ) -> Result<Option<LinuxContainerResources>, Error> {
        let Adjusted { container, adjustment, .. } = adjusted;
        let names = adjustment.cdi_devices.iter().map(|device| cdi::DeviceName::parse(&device.name));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        cdi::apply(&cdi::resolve(&self.node.cdi_dirs, &names)?, oci, maker(spec))?;
        let requested = spec.config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        let limits = adjust_spec(oci, &adjustment, &pod.spec.config, requested, &self.host)?;
        if let (Some(asked), Some(linux)) = (&adjustment.linux, oci.linux_mut()) {
            let resources = asked.resources.as_ref();
            match resources.and_then(|resources| resources.blockio_class.as_ref()) {
                Some(class) if class.value.is_empty() => {
                    linux.resources_mut().get_or_insert_default().set_block_io(None);
                }
                Some(class) => self.set_block_io_class(linux, id, &class.value)?,
                None => {}
            }
            if asked.rdt.as_ref().is_some_and(|rdt| rdt.remove) {
                linux.set_intel_rdt(None);
            }
            let class = asked.rdt.as_ref().and_then(|rdt| rdt.clos_id.as_ref());
            match class.or_else(|| resources.and_then(|resources| resources.rdt_class.as_ref())) {
                Some(class) if class.value.is_empty() => drop(linux.set_intel_rdt(None)),
                Some(class) => set_rdt_class(linux, &class.value),
                None => {}
            }
        }
        self.write_told(id, &container)?;
        Ok(limits)
    }
}

fn maker(spec: &ContainerSpec) -> cdi::Maker {
    if spec.external { cdi::Maker::OciRuntime } else { cdi::Maker::Berth }
}

fn set_rdt_class(linux: &mut Linux, class: &str) {
    let mut rdt = LinuxIntelRdt::default();
    rdt.set_clos_id(Some(class.to_owned()));
    linux.set_intel_rdt(Some(rdt));
}

/// What lets a container's processes into their class of cache and memory bandwidth, if they have one.
pub(super) fn rdt_tasks(oci: &Spec) -> Result<Option<OwnedFd>, Error> {
    let rdt = oci.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
    let class = rdt.and_then(|rdt| rdt.clos_id().as_deref());
    Ok(class.map(rdt::tasks).transpose()?)
}
