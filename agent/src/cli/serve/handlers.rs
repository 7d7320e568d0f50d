//! Runtime handlers, from the configuration's words to the engine's.

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder};

use crate::config::{Config, ProcessLimit, Runtime};
use crate::libcontainer::spec::Defaults;
use crate::ops::{Handler, Handlers};

/// Those of the configuration.
pub(super) fn handlers(config: &Config) -> Handlers {
    Handlers::new(config.runtimes.iter().map(|(name, runtime)| (name.clone(), handler(runtime))).collect())
}

fn handler(runtime: &Runtime) -> Handler {
    let names = runtime.capabilities.as_ref();
    let profile = runtime.seccomp_profile.as_ref();
    Handler {
        defaults: Defaults {
            capabilities: names.map(|names| names.iter().map(|name| name.0).collect()),
            rlimits: runtime.rlimits.iter().flat_map(limit).collect(),
            seccomp_profile: profile.map(|path| path.to_string_lossy().into_owned()),
            apparmor_profile: runtime.apparmor_profile.clone(),
            without_host_devices: runtime.privileged_without_host_devices,
        },
        privileged: runtime.privileged,
    }
}

fn limit(limit: &ProcessLimit) -> Option<PosixRlimit> {
    let ProcessLimit { kind, soft, hard } = *limit;
    // Every field is set, so that nothing can be missing.
    PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build().ok()
}
