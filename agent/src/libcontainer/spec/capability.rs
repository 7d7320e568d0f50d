//! Capabilities: names, numbers, and the CRI's lists to add and to drop.

use std::collections::HashSet;
use std::str::FromStr;

use cri_api::v1::LinuxContainerSecurityContext;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::Defaults;

/// By number (include/uapi/linux/capability.h).
pub const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// What a container gets that asks for nothing; the set that containerd and docker give.
pub const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// A name that is no capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a capability")]
pub struct UnknownCapability(String);

/// One entry of a CRI list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    All,
    One(Capability),
}

/// `NET_ADMIN`, `CAP_NET_ADMIN`, in either case, or `ALL`.
fn parse(name: &str) -> Result<Entry, UnknownCapability> {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" || upper == "CAP_ALL" {
        return Ok(Entry::All);
    }
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    match Capability::from_str(short) {
        Ok(capability) => Ok(Entry::One(capability)),
        Err(_) => Err(UnknownCapability(name.to_owned())),
    }
}

/// Capabilities by their names, as a bit mask.
///
/// # Errors
/// One that is none; `ALL` is none here.
pub fn named(names: &[String]) -> Result<u64, UnknownCapability> {
    names.iter().try_fold(0, |mask, name| match parse(name)? {
        Entry::One(capability) => Ok(mask | 1 << number(capability)),
        Entry::All => Err(UnknownCapability(name.clone())),
    })
}

/// The number of a capability.
pub fn number(capability: Capability) -> u32 {
    BY_NUMBER.iter().position(|&one| one == capability).map_or(63, |index| index as u32)
}

/// A set as a bit mask, as capset(2) takes it.
pub fn mask(set: Option<&Capabilities>) -> u64 {
    set.into_iter().flatten().fold(0, |mask, &capability| mask | 1 << number(capability))
}

/// The inverse of `mask`; unknown bits are dropped.
pub fn from_mask(mask: u64) -> Capabilities {
    BY_NUMBER.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, &one)| one).collect()
}

/// The defaults with `ALL` in either list taken first, then the single additions, then the single drops.
fn apply(base: Capabilities, add: &[String], drop: &[String]) -> Result<Capabilities, UnknownCapability> {
    let add = add.iter().map(|name| parse(name)).collect::<Result<Vec<_>, _>>()?;
    let drop = drop.iter().map(|name| parse(name)).collect::<Result<Vec<_>, _>>()?;
    let mut set = base;
    if add.contains(&Entry::All) {
        set = BY_NUMBER.into_iter().collect();
    }
    if drop.contains(&Entry::All) {
        set.clear();
    }
    for entry in add {
        if let Entry::One(capability) = entry {
            set.insert(capability);
        }
    }
    for entry in drop {
        if let Entry::One(capability) = entry {
            set.remove(&capability);
        }
    }
    Ok(set)
}

/// The capability sets of a container. Inheritable stays empty (CVE-2022-24769) but for what is asked for as ambient,
/// because the kernel refuses an ambient capability that is not inheritable.
pub(super) fn for_container(
    context: Option<&LinuxContainerSecurityContext>,
    defaults: &Defaults,
) -> Result<LinuxCapabilities, UnknownCapability> {
    let requested = context.and_then(|context| context.capabilities.clone()).unwrap_or_default();
    let mut granted: HashSet<Capability> = if context.is_some_and(|context| context.privileged) {
        BY_NUMBER.into_iter().collect()
    } else {
        let base = defaults.capabilities.clone().unwrap_or_else(|| DEFAULT.into_iter().collect());
        apply(base, &requested.add_capabilities, &requested.drop_capabilities)?
    };
    let ambient = apply(HashSet::new(), &requested.add_ambient_capabilities, &[])?;
    granted.extend(&ambient);

    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(granted.clone()))
        .set_effective(Some(granted.clone()))
        .set_permitted(Some(granted))
        .set_inheritable(Some(ambient.clone()))
        .set_ambient(Some(ambient));
    Ok(sets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn default_set() -> Capabilities {
        DEFAULT.into_iter().collect()
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(number(Capability::Chown), 0);
        assert_eq!(number(Capability::SysAdmin), 21);
        assert_eq!(number(Capability::SysResource), 24);
        assert_eq!(number(Capability::CheckpointRestore), 40);
    }

    #[test]
    fn the_default_mask_is_dockers() {
        assert_eq!(mask(Some(&default_set())), 0xa804_25fb);
    }

    #[test]
    fn all_works_both_ways() {
        let all = apply(default_set(), &names(&["ALL"]), &[]).unwrap();
        assert_eq!(all.len(), 41);
        let all_but_one = apply(default_set(), &names(&["all"]), &names(&["CAP_SYS_ADMIN"])).unwrap();
        assert_eq!(mask(Some(&all_but_one)), ((1 << 41) - 1) & !(1 << 21));
        let only_one = apply(default_set(), &names(&["net_admin"]), &names(&["ALL"])).unwrap();
        assert_eq!(mask(Some(&only_one)), 1 << 12);
        assert!(apply(default_set(), &names(&["ALL"]), &names(&["ALL"])).unwrap().is_empty());
    }

    #[test]
    fn a_handlers_own_are_what_is_added_to_and_dropped_from() {
        let defaults =
            Defaults { capabilities: Some([Capability::Kill, Capability::Chown].into()), ..Default::default() };
        let context = |add: &[&str], drop: &[&str], privileged| LinuxContainerSecurityContext {
            capabilities: Some(cri_api::v1::Capability {
                add_capabilities: names(add),
                drop_capabilities: names(drop),
                ..Default::default()
            }),
            privileged,
            ..Default::default()
        };
        let bounding = |context| mask(for_container(Some(&context), &defaults).unwrap().bounding().as_ref());
        assert_eq!(bounding(context(&["NET_ADMIN"], &["CHOWN"], false)), 1 << 12 | 1 << 5);
        assert_eq!(bounding(context(&[], &[], true)), (1 << 41) - 1);
    }

    #[test]
    fn ambient_comes_with_the_sets_it_needs() {
        let context = LinuxContainerSecurityContext {
            capabilities: Some(cri_api::v1::Capability {
                add_ambient_capabilities: names(&["NET_ADMIN"]),
                drop_capabilities: names(&["ALL"]),
                ..Default::default()
            }),
            ..Default::default()
        };
        let sets = for_container(Some(&context), &Defaults::default()).unwrap();
        for set in [sets.bounding(), sets.effective(), sets.permitted(), sets.inheritable(), sets.ambient()] {
            assert_eq!(mask(set.as_ref()), 1 << 12);
        }
    }

    proptest! {
        #[test]
        fn any_spelling_of_a_name_is_the_same(index in 0usize..41, prefix: bool, lower: bool) {
            let mut name = BY_NUMBER[index].to_string();
            if prefix {
                name = format!("CAP_{name}");
            }
            if lower {
                name = name.to_lowercase();
            }
            prop_assert_eq!(parse(&name), Ok(Entry::One(BY_NUMBER[index])));
        }

        #[test]
        fn no_other_string_is_a_capability(name in "\\PC{0,20}") {
            if let Ok(Entry::One(capability)) = parse(&name) {
                let short = name.to_ascii_uppercase();
                let short = short.strip_prefix("CAP_").unwrap_or(&short);
                prop_assert_eq!(short, capability.to_string());
            }
        }

        #[test]
        fn masks_round_trip(bits in 0u64..(1 << 41)) {
            prop_assert_eq!(mask(Some(&from_mask(bits))), bits);
        }
    }
}
