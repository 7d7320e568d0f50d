//! SELinux labels: what a container's process and its files carry. Pure; `HostFacts.selinux` says whether there are any.
//!
//! Kubernetes' isolation between pods is in the level: a pair of categories that no other pod has (multi-category security).
//! A container's own options may replace each part.

use std::collections::HashSet;

use cri_api::v1::{LinuxContainerSecurityContext, SeLinuxOption};

use super::error::invalid;
use super::{HostFacts, SpecError};

/// The categories that the targeted policy has.
const CATEGORIES: u16 = 1024;
/// Its sensitivities: `s0` alone is in use outside of multi-level security.
const SENSITIVITIES: u16 = 16;

/// The level of a pod that asks for none: two categories that are not in `used`. `random` gives numbers, evenly spread.
///
/// # Errors
/// `random`'s.
pub fn choose_level<E>(used: &HashSet<&str>, mut random: impl FnMut() -> Result<u32, E>) -> Result<String, E> {
    // There are half a million pairs, and a node has some hundred pods: the first is free nearly always.
    loop {
        let number = random()?;
        let (one, other) = (number as u16 % CATEGORIES, (number >> 16) as u16 % CATEGORIES);
        let level = format!("s0:c{},c{}", one.min(other), one.max(other));
        if one != other && !used.contains(level.as_str()) {
            return Ok(level);
        }
    }
}

/// The level that a pod or a container asks for, if any.
///
/// # Errors
/// `SpecError::Invalid`: parts that no label has. They are an error even where SELinux is off, so that a pod behaves the same
/// on every node.
pub fn asked_level(asked: Option<&SeLinuxOption>) -> Result<Option<&str>, SpecError> {
    let Some(asked) = asked else { return Ok(None) };
    const FIELD: &str = "linux.security_context.selinux_options";
    for part in [&asked.user, &asked.role, &asked.r#type] {
        if !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')) {
            return Err(invalid(FIELD, part, "has characters that no label has"));
        }
    }
    match asked.level.as_str() {
        "" => Ok(None),
        level if level_is_valid(level) => Ok(Some(level)),
        level => Err(invalid(FIELD, level, "is not a level such as s0 or s0:c1,c2")),
    }
}

/// The label of the process; `None` where SELinux is off. A privileged one is `spc_t`, which the policy does not confine.
/// `pod_level` is what all containers of the pod share.
///
/// # Errors
/// As `asked_level`.
pub(super) fn process_label(
    context: Option<&LinuxContainerSecurityContext>,
    host: &HostFacts,
    pod_level: &str,
) -> Result<Option<String>, SpecError> {
    let Some(level) = level(context, host, pod_level)? else { return Ok(None) };
    let kind = if context.is_some_and(|context| context.privileged) { "spc_t" } else { "container_t" };
    let part = |part: fn(&SeLinuxOption) -> &str, default| match options(context).map(part) {
        None | Some("") => default,
        Some(asked) => asked,
    };
    let (user, role) = (part(|asked| &asked.user, "system_u"), part(|asked| &asked.role, "system_r"));
    Ok(Some(format!("{user}:{role}:{}:{level}", part(|asked| &asked.r#type, kind))))
}

/// The label of the container's own files and of volumes that are to be relabelled; `None` where SELinux is off. User, role and
/// type of the options are a process's: files have their own.
///
/// # Errors
/// As `asked_level`.
pub fn file_label(
    context: Option<&LinuxContainerSecurityContext>,
    host: &HostFacts,
    pod_level: &str,
) -> Result<Option<String>, SpecError> {
    Ok(level(context, host, pod_level)?.map(pod_file_label))
}

/// The label of files that all containers of that level share, such as their pod's /dev/shm and /etc/hosts.
pub fn pod_file_label(level: &str) -> String {
    format!("system_u:object_r:container_file_t:{level}")
}

/// The container's own level, else its pod's.
fn level<'a>(
    context: Option<&'a LinuxContainerSecurityContext>,
    host: &HostFacts,
    pod_level: &'a str,
) -> Result<Option<&'a str>, SpecError> {
    let asked = asked_level(options(context))?;
    Ok(host.selinux.then_some(asked.unwrap_or(pod_level)))
}

fn options(context: Option<&LinuxContainerSecurityContext>) -> Option<&SeLinuxOption> {
    context?.selinux_options.as_ref()
}

/// `s0`, `s0-s15:c0.c1023`, `s0:c1,c2`: a sensitivity, or a range of two, each with its categories.
fn level_is_valid(level: &str) -> bool {
    fn number(text: &str, letter: char, end: u16) -> Option<u16> {
        let digits = text.strip_prefix(letter).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse().ok().filter(|number| *number < end)
    }
    fn category(text: &str) -> bool {
        let numbers: Option<Vec<u16>> = text.split('.').map(|part| number(part, 'c', CATEGORIES)).collect();
        matches!(numbers.as_deref(), Some([_])) || matches!(numbers.as_deref(), Some([first, last]) if first < last)
    }
    fn one(text: &str) -> bool {
        let (sensitivity, categories) = match text.split_once(':') {
            Some((sensitivity, categories)) => (sensitivity, Some(categories)),
            None => (text, None),
        };
        number(sensitivity, 's', SENSITIVITIES).is_some() && categories.is_none_or(|list| list.split(',').all(category))
    }
    match level.split_once('-') {
        Some((low, high)) => one(low) && one(high),
        None => one(level),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn levels() {
        for good in ["s0", "s0:c1,c2", "s0-s0:c0.c1023", "s15:c3.c7,c9"] {
            assert!(level_is_valid(good), "{good}");
        }
        for bad in [
            "s",
            "c1",
            "s0:",
            "s0:1,2",
            "s0:c1.c2.c3",
            "s0:c",
            "s0-",
            "s0:c1;c2",
            "rotten",
            "s16",
            "s0:c1024",
            "s0:c5.c2",
        ] {
            assert!(!level_is_valid(bad), "{bad}");
        }
    }

    #[test]
    fn a_level_is_nobody_elses() {
        let numbers = [0x0001_0001, 0x0002_0001, 0x0001_0002, 0x0405_0003];
        let mut next = numbers.into_iter();
        let used = HashSet::from(["s0:c1,c2"]);
        let level = choose_level(&used, || next.next().ok_or("no more")).unwrap();
        assert_eq!(level, "s0:c3,c5", "one category twice is none; both orders of a used pair are it");
        assert_eq!(choose_level(&used, || next.next().ok_or("no more")), Err("no more"));
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_valid(number in any::<u32>()) {
            let mut numbers = [number, 0x0001_0002].into_iter();
            let level = choose_level(&HashSet::new(), || numbers.next().ok_or(())).unwrap();
            prop_assert!(level_is_valid(&level));
        }
    }
}
