//! A container that is being made: each plugin sees it as those before it have left it.

use nri_api::removed;
use nri_api::v1alpha1::{
    Container, ContainerAdjustment, ContainerUpdate, CreateContainerRequest, CreateContainerResponse, Field, Hooks,
    LinuxContainerAdjustment, LinuxDevice, LinuxRdt, Mount, PluginInstance, PodSandbox, PosixRlimit,
    ValidateContainerAdjustmentRequest,
};

use super::owners::{Claim, Owners};
use super::updates::Updates;
use super::{MergeError, resources};

/// What the plugins that were asked so far make of a container.
#[derive(Debug, Clone)]
pub(crate) struct Creation {
    pod: PodSandbox,
    /// As it is without any plugin.
    original: Container,
    /// As the plugins so far have left it.
    shown: Container,
    adjust: ContainerAdjustment,
    updates: Updates,
    asked: Vec<PluginInstance>,
}

/// A list or map of a container whose entries have names.
struct Entries<'a, T> {
    field: Field,
    name: fn(&T) -> &str,
    /// What has been asked for so far, with marks for what is taken away.
    collected: &'a mut Vec<T>,
}

impl<T: Clone> Entries<'_, T> {
    /// Adds what a plugin asks for; `show` changes what the next plugin sees: the entry of that name is gone, or is this.
    fn merge(
        self,
        owners: &mut Owners,
        by: Claim<'_>,
        asked: Vec<T>,
        mut show: impl FnMut(&str, Option<&T>),
    ) -> Result<(), MergeError> {
        let Self { field, name, collected } = self;
        let (gone, wanted): (Vec<T>, Vec<T>) = asked.into_iter().partition(|entry| removed(name(entry)).is_some());
        let bare = |entry: &T| removed(name(entry)).unwrap_or(name(entry)).to_owned();
        for entry in gone {
            let key = bare(&entry);
            owners.release(by, field, &key);
            collected.retain(|other| bare(other) != key);
            show(&key, None);
            collected.push(entry);
        }
        for entry in wanted {
            let key = bare(&entry);
            owners.claim(by, field, &key)?;
            collected.retain(|other| bare(other) != key);
            show(&key, Some(&entry));
            collected.push(entry);
        }
        Ok(())
    }
}

impl Creation {
    pub(crate) fn new(pod: PodSandbox, container: Container) -> Self {
        Self {
            pod,
            original: container.clone(),
            shown: container,
            adjust: ContainerAdjustment::default(),
            updates: Updates::default(),
            asked: Vec::new(),
        }
    }

    /// The question to the next plugin.
    pub(crate) fn request(&self) -> CreateContainerRequest {
        CreateContainerRequest { pod: Some(self.pod.clone()), container: Some(self.shown.clone()) }
    }

    /// The question to those who may refuse the result.
    pub(crate) fn validation(&self) -> ValidateContainerAdjustmentRequest {
        ValidateContainerAdjustmentRequest {
            pod: Some(self.pod.clone()),
            container: Some(self.original.clone()),
            adjust: Some(self.adjust.clone()),
            update: self.updates.list().to_vec(),
            owners: Some(self.updates.owners.message()),
            plugins: self.asked.clone(),
        }
    }

    /// The container as it is to be, what makes it so, and the changes of others.
    pub(crate) fn finish(self) -> (Container, ContainerAdjustment, Vec<ContainerUpdate>) {
        (self.shown, self.adjust, self.updates.others())
    }

    /// Remembers that a plugin was asked.
    pub(crate) fn asked(&mut self, index: &str, name: &str) {
        self.asked.push(PluginInstance { name: name.to_owned(), index: index.to_owned() });
    }

    /// Adds what a plugin wants.
    pub(crate) fn apply(&mut self, plugin: &str, reply: CreateContainerResponse) -> Result<(), MergeError> {
        let id = self.original.id.clone();
        if reply.update.iter().any(|update| update.container_id == id) {
            return Err(MergeError::Premature { plugin: plugin.to_owned(), container: id });
        }
        let by = Claim { container: &id, plugin };
        if let Some(asked) = reply.adjust {
            self.adjust(by, asked)?;
        }
        self.updates.apply(plugin, reply.update)
    }

    fn adjust(&mut self, by: Claim<'_>, asked: ContainerAdjustment) -> Result<(), MergeError> {
        let ContainerAdjustment { annotations, mounts, env, hooks, linux, rlimits, cdi_devices, args } = asked;
        let (owners, shown, adjust) = (&mut self.updates.owners, &mut self.shown, &mut self.adjust);
        merge_map(Field::Annotations, owners, by, annotations, &mut adjust.annotations, &mut shown.annotations)?;
        let list = Entries { field: Field::Mounts, name: |m: &Mount| &m.destination, collected: &mut adjust.mounts };
        list.merge(owners, by, mounts, |name, entry| {
            shown.mounts.retain(|other| other.destination != name);
            shown.mounts.extend(entry.cloned());
        })?;
        let list = Entries {
            field: Field::Env,
            name: |pair: &nri_api::v1alpha1::KeyValue| &pair.key,
            collected: &mut adjust.env,
        };
        list.merge(owners, by, env, |name, entry| {
            shown.env.retain(|other| other.split('=').next() != Some(name));
            shown.env.extend(entry.map(|pair| format!("{}={}", pair.key, pair.value)));
        })?;
        merge_args(owners, by, args, &mut adjust.args, &mut shown.args)?;
        if let Some(hooks) = hooks {
            owners.join(by, Field::OciHooks);
            add_hooks(adjust.hooks.get_or_insert_default(), &hooks);
            add_hooks(shown.hooks.get_or_insert_default(), &hooks);
        }
        let list = Entries { field: Field::Rlimits, name: |l: &PosixRlimit| &l.r#type, collected: &mut adjust.rlimits };
        list.merge(owners, by, rlimits, |name, entry| {
            shown.rlimits.retain(|other| other.r#type != name);
            shown.rlimits.extend(entry.cloned());
        })?;
        // They are references to what the node knows, and nobody takes another's away.
        for device in cdi_devices {
            owners.claim(by, Field::CdiDevices, &device.name)?;
            adjust.cdi_devices.retain(|other| other.name != device.name);
            adjust.cdi_devices.push(device);
        }
        linux.map_or(Ok(()), |linux| self.adjust_linux(by, linux))
    }

    fn adjust_linux(&mut self, by: Claim<'_>, asked: LinuxContainerAdjustment) -> Result<(), MergeError> {
        let (owners, shown) = (&mut self.updates.owners, self.shown.linux.get_or_insert_default());
        let adjust = self.adjust.linux.get_or_insert_default();
        let list = Entries { field: Field::Devices, name: |d: &LinuxDevice| &d.path, collected: &mut adjust.devices };
        list.merge(owners, by, asked.devices, |name, entry| {
            shown.devices.retain(|other| other.path != name);
            shown.devices.extend(entry.cloned());
        })?;
        if let Some(limits) = &asked.resources {
            resources::merge(owners, by, limits, adjust.resources.get_or_insert_default())?;
            resources::merge(owners, by, limits, shown.resources.get_or_insert_default())?;
        }
        let list = Entries {
            field: Field::Namespace,
            name: |n: &nri_api::v1alpha1::LinuxNamespace| &n.r#type,
            collected: &mut adjust.namespaces,
        };
        list.merge(owners, by, asked.namespaces, |name, entry| {
            shown.namespaces.retain(|other| other.r#type != name);
            shown.namespaces.extend(entry.cloned());
        })?;
        merge_map(Field::Sysctl, owners, by, asked.sysctl, &mut adjust.sysctl, &mut shown.sysctl)?;
        merge_map(
            Field::LinuxNetDevices,
            owners,
            by,
            asked.net_devices,
            &mut adjust.net_devices,
            &mut shown.net_devices,
        )?;
        if !asked.cgroups_path.is_empty() {
            owners.claim(by, Field::CgroupsPath, "")?;
            shown.cgroups_path.clone_from(&asked.cgroups_path);
            adjust.cgroups_path = asked.cgroups_path;
        }
        macro_rules! whole {
            ($($name:ident: $field:ident,)*) => {
                $(if let Some(value) = asked.$name {
                    owners.claim(by, Field::$field, "")?;
                    shown.$name = Some(value.clone());
                    adjust.$name = Some(value);
                })*
            };
        }
        whole!(oom_score_adj: OomScoreAdj, io_priority: IoPriority, seccomp_policy: SeccompPolicy, scheduler: LinuxSched,);
        if let Some(policy) = asked.memory_policy {
            owners.claim(by, Field::MemoryPolicy, "")?;
            adjust.memory_policy = Some(policy);
        }
        asked.rdt.map_or(Ok(()), |rdt| {
            merge_rdt(owners, by, &rdt, adjust.rdt.get_or_insert_default())?;
            shown.rdt.clone_from(&adjust.rdt);
            Ok(())
        })
    }
}

type Map<T> = std::collections::BTreeMap<String, T>;

fn merge_map<T: Clone>(
    field: Field,
    owners: &mut Owners,
    by: Claim<'_>,
    asked: Map<T>,
    collected: &mut Map<T>,
    shown: &mut Map<T>,
) -> Result<(), MergeError> {
    let mut list: Vec<(String, T)> = std::mem::take(collected).into_iter().collect();
    let entries = Entries { field, name: |(key, _): &(String, T)| key, collected: &mut list };
    entries.merge(owners, by, asked.into_iter().collect(), |key, entry| {
        shown.remove(key);
        shown.extend(entry.cloned());
    })?;
    *collected = list.into_iter().collect();
    Ok(())
}

/// An empty first word says that another plugin's arguments may be replaced.
fn merge_args(
    owners: &mut Owners,
    by: Claim<'_>,
    mut asked: Vec<String>,
    collected: &mut Vec<String>,
    shown: &mut Vec<String>,
) -> Result<(), MergeError> {
    if asked.first().is_some_and(String::is_empty) {
        owners.release(by, Field::Args, "");
        asked.remove(0);
    }
    if asked.is_empty() {
        return Ok(());
    }
    owners.claim(by, Field::Args, "")?;
    shown.clone_from(&asked);
    *collected = asked;
    Ok(())
}

fn add_hooks(to: &mut Hooks, from: &Hooks) {
    to.prestart.extend(from.prestart.iter().cloned());
    to.create_runtime.extend(from.create_runtime.iter().cloned());
    to.create_container.extend(from.create_container.iter().cloned());
    to.start_container.extend(from.start_container.iter().cloned());
    to.poststart.extend(from.poststart.iter().cloned());
    to.poststop.extend(from.poststop.iter().cloned());
}

fn merge_rdt(owners: &mut Owners, by: Claim<'_>, asked: &LinuxRdt, into: &mut LinuxRdt) -> Result<(), MergeError> {
    if asked.remove {
        for field in [Field::RdtClosId, Field::RdtSchemata, Field::RdtEnableMonitoring] {
            owners.release(by, field, "");
        }
        *into = LinuxRdt { remove: true, ..LinuxRdt::default() };
    }
    macro_rules! take {
        ($($name:ident: $field:ident,)*) => {
            $(if let Some(value) = &asked.$name {
                owners.claim(by, Field::$field, "")?;
                into.$name = Some(value.clone());
                into.remove = false;
            })*
        };
    }
    take!(clos_id: RdtClosId, schemata: RdtSchemata, enable_monitoring: RdtEnableMonitoring,);
    Ok(())
}
