//! Runtime handlers, from the configuration's words to the engine's; OCI runtimes are asked what they can do.

use std::path::Path;
use std::process::{Command, Stdio};

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder};

use crate::config::{Config, ProcessLimit, Runtime};
use crate::libcontainer::external::Features;
use crate::libcontainer::spec::Defaults;
use crate::ops::{Handler, Handlers, Program};

/// Those of the configuration. Blocks: it runs their programs.
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
        program: runtime.path.as_ref().map(|path| Program {
            path: path.to_string_lossy().into_owned(),
            annotations: runtime.annotations.clone(),
            features: features(path),
        }),
    }
}

fn limit(limit: &ProcessLimit) -> Option<PosixRlimit> {
    let ProcessLimit { kind, soft, hard } = *limit;
    // Every field is set, so that nothing can be missing.
    PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build().ok()
}

/// One that cannot be run says nothing; it is told by the checks of the host, and by each container that it does not make.
fn features(program: &Path) -> Features {
    let ask = |arguments: &[&str]| {
        let output = Command::new(program).args(arguments).env_clear().stdin(Stdio::null()).output();
        output.ok().filter(|output| output.status.success()).map(|output| output.stdout)
    };
    let help = ask(&["exec", "--help"]).unwrap_or_default();
    Features::parse(ask(&["features"]).as_deref(), &String::from_utf8_lossy(&help))
}
