//! The JSON profile format of docker and containerd: an OCI `LinuxSeccomp` whose rules carry conditions.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::Deserialize;

use super::Machine;
use crate::libcontainer::spec::capability;

/// What a profile's conditions are judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProfileContext {
    /// The container's bounding set.
    pub capabilities: u64,
    /// `(major, minor)` of the running kernel.
    pub kernel: (u32, u32),
    /// What the container runs on.
    pub machine: Machine,
}

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not the format; the message has line and column.
    #[error("not a seccomp profile: {0}")]
    Json(#[from] serde_json::Error),
    /// A condition on the kernel that is no version.
    #[error("minKernel {0:?} is not a version such as 4.8")]
    MinKernel(String),
    /// Both `architectures` and `archMap`.
    #[error("has both `architectures` and `archMap`")]
    TwoArchitectureLists,
    /// Both `name` and `names` in a rule.
    #[error("the rule for {0:?} has both `name` and `names`")]
    TwoNameLists(String),
}

/// Profiles of hundreds of kilobytes are not profiles.
const MAX_PROFILE: usize = 4 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<std::path::PathBuf>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// A localhost profile, with its conditions decided.
///
/// # Errors
/// `ProfileError`: not the format. A system call that is not known is no error; it is never allowed by accident, since
/// what no rule names falls to the default action.
pub fn load_profile(json: &[u8], context: &ProfileContext) -> Result<LinuxSeccomp, ProfileError> {
    if json.len() > MAX_PROFILE {
        return Err(ProfileError::Json(serde::de::Error::custom("larger than 4 MiB")));
    }
    let profile: Profile = serde_json::from_slice(json)?;
    let architectures = architectures(profile.architectures, profile.arch_map, context)?;
    let mut syscalls = Vec::new();
    for rule in profile.syscalls.unwrap_or_default() {
        let names = match (rule.names.unwrap_or_default(), rule.name) {
            (names, name) if name.is_empty() => names,
            (names, name) if names.is_empty() => vec![name],
            (_, name) => return Err(ProfileError::TwoNameLists(name)),
        };
        let included = rule.includes.as_ref().map_or(Ok(true), |one| one.all_hold(context))?;
        let excluded = rule.excludes.as_ref().map_or(Ok(false), |one| one.any_holds(context))?;
        if !included || excluded || names.is_empty() {
            continue;
        }
        let mut syscall = LinuxSyscall::default();
        syscall.set_names(names).set_action(rule.action).set_errno_ret(rule.errno_ret).set_args(rule.args);
        syscalls.push(syscall);
    }
    let mut seccomp = LinuxSeccomp::default();
    seccomp
        .set_default_action(profile.default_action)
        .set_default_errno_ret(profile.default_errno_ret)
        .set_architectures(Some(architectures))
        .set_flags(profile.flags)
        .set_listener_path(profile.listener_path)
        .set_listener_metadata(profile.listener_metadata)
        .set_syscalls(Some(syscalls));
    Ok(seccomp)
}

fn architectures(
    list: Option<Vec<Arch>>,
    map: Option<Vec<ArchMap>>,
    context: &ProfileContext,
) -> Result<Vec<Arch>, ProfileError> {
    let (list, map) = (list.unwrap_or_default(), map.unwrap_or_default());
    if !list.is_empty() && !map.is_empty() {
        return Err(ProfileError::TwoArchitectureLists);
    }
    let native = context.machine.arch();
    let Some(entry) = map.into_iter().find(|entry| entry.architecture == native) else { return Ok(list) };
    Ok(std::iter::once(native).chain(entry.sub_architectures.unwrap_or_default()).collect())
}

impl Condition {
    /// `includes`: each kind of condition that is given has to hold; for capabilities, all of them.
    fn all_hold(&self, context: &ProfileContext) -> Result<bool, ProfileError> {
        let arches = self.arches.as_deref().unwrap_or_default();
        let caps = self.caps.as_deref().unwrap_or_default();
        Ok((arches.is_empty() || arches.iter().any(|arch| context.machine.is_named(arch)))
            && caps.iter().all(|name| holds(context, name))
            && self.kernel_is_new_enough(context)?.unwrap_or(true))
    }

    /// `excludes`: one that holds is enough.
    fn any_holds(&self, context: &ProfileContext) -> Result<bool, ProfileError> {
        let arches = self.arches.as_deref().unwrap_or_default();
        let caps = self.caps.as_deref().unwrap_or_default();
        Ok(arches.iter().any(|arch| context.machine.is_named(arch))
            || caps.iter().any(|name| holds(context, name))
            || self.kernel_is_new_enough(context)?.unwrap_or(false))
    }

    fn kernel_is_new_enough(&self, context: &ProfileContext) -> Result<Option<bool>, ProfileError> {
        let Some(text) = self.min_kernel.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
        let version = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        match version {
            Some(version) => Ok(Some(context.kernel >= version)),
            None => Err(ProfileError::MinKernel(text.to_owned())),
        }
    }
}

fn holds(context: &ProfileContext, name: &str) -> bool {
    let held = capability::from_mask(context.capabilities);
    held.iter().any(|one| name.strip_prefix("CAP_").unwrap_or(name) == one.to_string())
}
