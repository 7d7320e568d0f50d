//! seccomp and AppArmor: which profile a request means.

use cri_api::v1::security_profile::ProfileType;
use cri_api::v1::{LinuxContainerSecurityContext, SecurityProfile};
use oci_spec::runtime::LinuxSeccomp;

use super::error::invalid;
use super::{Defaults, HostFacts, SpecError, SpecInput, capability};
use crate::libcontainer::seccomp;

/// Which seccomp profile a request means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeccompChoice {
    /// No filter.
    Unconfined,
    /// Our own profile.
    RuntimeDefault,
    /// A JSON file of the node.
    Localhost(String),
}

/// Privileged and nil are unconfined, an empty profile is RuntimeDefault, and the new field beats the deprecated one. A handler's
/// own profile is as good as one of the node's that the request names.
///
/// # Errors
/// `SpecError::Invalid`: a name that is none, or a localhost profile that is not an absolute path.
pub fn seccomp_choice(
    context: Option<&LinuxContainerSecurityContext>,
    defaults: &Defaults,
) -> Result<SeccompChoice, SpecError> {
    let default = || match &defaults.seccomp_profile {
        Some(path) => SeccompChoice::Localhost(path.clone()),
        None => SeccompChoice::RuntimeDefault,
    };
    let Some(context) = context else { return Ok(SeccompChoice::Unconfined) };
    if context.privileged {
        return Ok(SeccompChoice::Unconfined);
    }
    if let Some(profile) = &context.seccomp {
        const FIELD: &str = "linux.security_context.seccomp";
        return match profile_type(FIELD, profile)? {
            ProfileType::RuntimeDefault => Ok(default()),
            ProfileType::Unconfined => Ok(SeccompChoice::Unconfined),
            ProfileType::Localhost => localhost(FIELD, &profile.localhost_ref),
        };
    }
    #[allow(deprecated)]
    let old = context.seccomp_profile_path.as_str();
    const FIELD: &str = "linux.security_context.seccomp_profile_path";
    match old {
        "" | "unconfined" => Ok(SeccompChoice::Unconfined),
        "runtime/default" | "docker/default" => Ok(default()),
        text => match text.strip_prefix("localhost/") {
            Some(path) => localhost(FIELD, path),
            None => Err(invalid(FIELD, text, "is not runtime/default, docker/default, unconfined or localhost/<path>")),
        },
    }
}

fn profile_type(field: &'static str, profile: &SecurityProfile) -> Result<ProfileType, SpecError> {
    ProfileType::try_from(profile.profile_type)
        .map_err(|_| invalid(field, profile.profile_type, "is no known profile type"))
}

fn localhost(field: &'static str, path: &str) -> Result<SeccompChoice, SpecError> {
    if path.starts_with('/') && !path.split('/').any(|part| part == "..") {
        Ok(SeccompChoice::Localhost(path.to_owned()))
    } else {
        Err(invalid(field, path, "is not an absolute path of a profile on this node"))
    }
}

/// The profile as it goes into the `Spec`. A profile's conditions see the capabilities that the container gets.
pub(super) fn seccomp(input: &SpecInput<'_>) -> Result<Option<LinuxSeccomp>, SpecError> {
    let sets = capability::for_container(input.context(), input.defaults)?;
    let context = seccomp::ProfileContext {
        capabilities: capability::mask(sets.bounding().as_ref()),
        kernel: input.host.kernel,
        machine: seccomp::Machine::native(),
    };
    Ok(match seccomp_choice(input.context(), input.defaults)? {
        SeccompChoice::Unconfined => None,
        SeccompChoice::RuntimeDefault => Some(seccomp::default_profile(&context)),
        SeccompChoice::Localhost(path) => {
            let Some(json) = input.seccomp_profile else {
                return Err(invalid("linux.security_context.seccomp", path, "is a profile that was not read"));
            };
            let profile = seccomp::load_profile(json, &context);
            Some(profile.map_err(|source| SpecError::Seccomp { path, source })?)
        }
    })
}

/// Which AppArmor profile a request means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum AppArmorChoice {
    /// Nothing was said: the default profile where there is one.
    Unsaid,
    /// No profile.
    Unconfined,
    /// Our own profile, and no container without it.
    RuntimeDefault,
    /// A profile that the node's operator has loaded.
    Localhost(String),
}

/// The new field beats the deprecated one; privileged alone is unconfined.
///
/// # Errors
/// `SpecError::Invalid`: a kind or a name that is none.
fn apparmor_choice(context: Option<&LinuxContainerSecurityContext>) -> Result<AppArmorChoice, SpecError> {
    let named = |name: &str| {
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(invalid(APPARMOR, name, "is no profile name"));
        }
        Ok(AppArmorChoice::Localhost(name.to_owned()))
    };
    let Some(context) = context else { return Ok(AppArmorChoice::Unsaid) };
    if let Some(profile) = &context.apparmor {
        return match profile_type(APPARMOR, profile)? {
            ProfileType::RuntimeDefault => Ok(AppArmorChoice::RuntimeDefault),
            ProfileType::Unconfined => Ok(AppArmorChoice::Unconfined),
            ProfileType::Localhost => {
                named(profile.localhost_ref.strip_prefix("localhost/").unwrap_or(&profile.localhost_ref))
            }
        };
    }
    #[allow(deprecated)]
    match context.apparmor_profile.as_str() {
        "" if context.privileged => Ok(AppArmorChoice::Unconfined),
        "" => Ok(AppArmorChoice::Unsaid),
        "runtime/default" => Ok(AppArmorChoice::RuntimeDefault),
        "unconfined" => Ok(AppArmorChoice::Unconfined),
        text => match text.strip_prefix("localhost/") {
            Some(name) => named(name),
            None => Err(invalid(APPARMOR, text, "is not runtime/default, unconfined or localhost/<name>")),
        },
    }
}

const APPARMOR: &str = "linux.security_context.apparmor";

/// `None`: no profile is set on exec. Who asks for one gets it or an error; who says nothing gets what there is.
pub(super) fn apparmor_profile(
    context: Option<&LinuxContainerSecurityContext>,
    defaults: &Defaults,
    host: &HostFacts,
) -> Result<Option<String>, SpecError> {
    let off = |name| Err(invalid(APPARMOR, name, "cannot be applied: AppArmor is not active on this node"));
    let default = defaults.apparmor_profile.as_ref().or(host.apparmor_default.as_ref());
    match apparmor_choice(context)? {
        AppArmorChoice::Unsaid => Ok(default.filter(|_| host.apparmor).cloned()),
        AppArmorChoice::Unconfined => Ok(None),
        AppArmorChoice::RuntimeDefault if !host.apparmor => off("RuntimeDefault".to_owned()),
        AppArmorChoice::RuntimeDefault => match default {
            Some(name) => Ok(Some(name.clone())),
            None => Err(invalid(
                APPARMOR,
                "RuntimeDefault",
                "cannot be applied: the default profile could not be loaded, as the agent's log says",
            )),
        },
        AppArmorChoice::Localhost(name) if !host.apparmor => off(name),
        AppArmorChoice::Localhost(name) => Ok(Some(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seccomp_choices() {
        use SeccompChoice::{Localhost, RuntimeDefault, Unconfined};
        #[allow(deprecated)]
        let old = |path: &str| {
            let context = LinuxContainerSecurityContext { seccomp_profile_path: path.to_owned(), ..Default::default() };
            seccomp_choice(Some(&context), &Defaults::default())
        };
        let new = |kind: i32, path: &str, privileged| {
            let seccomp = Some(SecurityProfile { profile_type: kind, localhost_ref: path.to_owned() });
            let context = LinuxContainerSecurityContext { seccomp, privileged, ..Default::default() };
            seccomp_choice(Some(&context), &Defaults::default())
        };
        assert_eq!(seccomp_choice(None, &Defaults::default()).unwrap(), Unconfined);
        assert_eq!(old("").unwrap(), Unconfined);
        assert_eq!(old("docker/default").unwrap(), RuntimeDefault);
        assert_eq!(old("localhost//p.json").unwrap(), Localhost("/p.json".to_owned()));
        assert!(old("localhost/p.json").is_err());
        assert!(old("strict").is_err());
        assert_eq!(new(0, "", false).unwrap(), RuntimeDefault);
        assert_eq!(new(0, "", true).unwrap(), Unconfined);
        assert_eq!(new(1, "", false).unwrap(), Unconfined);
        assert_eq!(new(2, "/p.json", false).unwrap(), Localhost("/p.json".to_owned()));
        assert!(new(2, "/a/../p.json", false).is_err());
        assert!(new(3, "", false).is_err());
    }

    #[test]
    fn a_handlers_own_profiles_are_the_defaults() {
        let defaults = Defaults {
            seccomp_profile: Some("/etc/berth/seccomp.json".into()),
            apparmor_profile: Some("node-default".into()),
            ..Default::default()
        };
        let asked = |kind: i32| SecurityProfile { profile_type: kind, localhost_ref: String::new() };
        let context = |kind| LinuxContainerSecurityContext {
            seccomp: Some(asked(kind)),
            apparmor: Some(asked(kind)),
            ..Default::default()
        };
        let seccomp = |context: &LinuxContainerSecurityContext| seccomp_choice(Some(context), &defaults).unwrap();
        assert_eq!(seccomp(&context(0)), SeccompChoice::Localhost("/etc/berth/seccomp.json".into()));
        assert_eq!(seccomp(&context(1)), SeccompChoice::Unconfined);
        let mut host = crate::libcontainer::spec::tests::host();
        (host.apparmor, host.apparmor_default) = (true, Some("berth-default".into()));
        let apparmor = |context: &LinuxContainerSecurityContext, host: &HostFacts| {
            apparmor_profile(Some(context), &defaults, host).unwrap()
        };
        assert_eq!(apparmor(&context(0), &host).as_deref(), Some("node-default"));
        assert_eq!(apparmor(&LinuxContainerSecurityContext::default(), &host).as_deref(), Some("node-default"));
        assert_eq!(apparmor(&context(1), &host), None);
        host.apparmor = false;
        assert_eq!(apparmor(&LinuxContainerSecurityContext::default(), &host), None);
    }
}
