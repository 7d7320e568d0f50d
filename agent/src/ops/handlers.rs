//! Runtime handlers: what the operator lets a pod's RuntimeClass choose. A pod keeps its handler's name for life; what the name
//! means is looked up anew for each container, so that a pod whose handler is configured no more can still be stopped and removed.

use std::collections::BTreeMap;

use cri_api::v1::{NamespaceMode, PodSandboxConfig};

use super::Error;
use crate::libcontainer::external::Features;
use crate::libcontainer::spec::Defaults;
use crate::model::{Pod, namespace_options};

/// One handler.
#[derive(Debug, Clone)]
pub struct Handler {
    /// What its containers get where their requests leave it open.
    pub defaults: Defaults,
    /// Its pods and containers may be privileged.
    pub privileged: bool,
    /// Who runs its containers; `None`: we do.
    pub program: Option<Program>,
}

/// An OCI runtime.
#[derive(Debug, Clone)]
pub struct Program {
    /// Absolute.
    pub path: String,
    /// Which annotations it is given; `*` stands for any text.
    pub annotations: Vec<String>,
    /// What it said that it can do.
    pub features: Features,
}

/// All of them by name; the default one is "".
#[derive(Debug)]
pub struct Handlers(BTreeMap<String, Handler>);

impl Default for Handler {
    fn default() -> Self {
        Self { defaults: Defaults::default(), privileged: true, program: None }
    }
}

impl Handler {
    /// Its pods can be in user namespaces, where the host can have such.
    pub fn user_namespaces(&self) -> bool {
        self.program.is_none()
    }
}

impl Handlers {
    /// What is configured, and the default handler if nothing is said of it.
    pub fn new(mut configured: BTreeMap<String, Handler>) -> Self {
        configured.entry(String::new()).or_default();
        Self(configured)
    }

    /// All by their names; the first is "".
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Handler)> {
        self.0.iter().map(|(name, handler)| (name.as_str(), handler))
    }

    /// Refuses a pod whose handler is not there or does not allow it.
    pub(super) fn check(&self, name: &str, config: &PodSandboxConfig) -> Result<(), Error> {
        let Some(handler) = self.0.get(name) else {
            let all: Vec<_> = self.iter().map(|(name, _)| format!("{name:?}")).collect();
            let reason = format!("{name:?} is not configured; these are: {}", all.join(", "));
            return Err(Error::Invalid { field: "runtime_handler", reason });
        };
        let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        if !handler.privileged && context.is_some_and(|context| context.privileged) {
            let reason =
                format!("pods of the runtime handler {name:?} must not be privileged (runtimes.{name}.privileged)");
            return Err(Error::Invalid { field: "linux.security_context.privileged", reason });
        }
        if !handler.user_namespaces() && is_in_user_namespace(config) {
            let reason = format!(
                "pods of the runtime handler {name:?} are an OCI runtime's, and those are not made in user namespaces"
            );
            return Err(Error::Invalid { field: "linux.security_context.namespace_options.userns_options", reason });
        }
        Ok(())
    }

    /// A pod's, for a new container.
    pub(super) fn of_pod(&self, pod: &Pod) -> Result<&Handler, Error> {
        let name = &pod.spec.runtime_handler;
        self.0.get(name).ok_or_else(|| Error::NoHandler { pod: pod.id.to_string(), handler: name.clone() })
    }
}

/// Whether the request is for one, well-formed or not.
fn is_in_user_namespace(config: &PodSandboxConfig) -> bool {
    let options = namespace_options(config).userns_options;
    options.is_some_and(|options| options.mode() != NamespaceMode::Node)
}

#[cfg(test)]
mod tests {
    use cri_api::v1::{LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceOption, UserNamespace};

    use super::*;

    fn handlers() -> Handlers {
        let strict = Handler { privileged: false, ..Handler::default() };
        Handlers::new(BTreeMap::from([("strict".to_owned(), strict)]))
    }

    #[test]
    fn an_unknown_handler_is_told_which_there_are() {
        let error = handlers().check("kata", &PodSandboxConfig::default()).unwrap_err().to_string();
        assert_eq!(error, r#"runtime_handler: "kata" is not configured; these are: "", "strict""#);
        handlers().check("", &PodSandboxConfig::default()).unwrap();
    }

    #[test]
    fn a_handler_can_refuse_the_privileged() {
        let context = LinuxSandboxSecurityContext { privileged: true, ..Default::default() };
        let linux = LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
        let config = PodSandboxConfig { linux: Some(linux), ..Default::default() };
        let error = handlers().check("strict", &config).unwrap_err().to_string();
        assert!(
            error.starts_with("linux.security_context.privileged: ") && error.contains("runtimes.strict"),
            "{error}"
        );
        handlers().check("strict", &PodSandboxConfig::default()).unwrap();
        handlers().check("", &config).unwrap();
    }

    #[test]
    fn an_oci_runtime_has_no_pods_in_user_namespaces() {
        let program = Program { path: "/usr/bin/runc".into(), annotations: vec![], features: Features::default() };
        let handlers =
            Handlers::new([("runc".to_owned(), Handler { program: Some(program), ..Handler::default() })].into());
        let pod = |mode: NamespaceMode| {
            let userns_options = Some(UserNamespace { mode: mode.into(), ..Default::default() });
            let namespace_options = Some(NamespaceOption { userns_options, ..Default::default() });
            let context = LinuxSandboxSecurityContext { namespace_options, ..Default::default() };
            let linux = LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
            PodSandboxConfig { linux: Some(linux), ..Default::default() }
        };
        let error = handlers.check("runc", &pod(NamespaceMode::Pod)).unwrap_err().to_string();
        assert!(error.contains("userns_options") && error.contains("\"runc\""), "{error}");
        handlers.check("runc", &pod(NamespaceMode::Node)).unwrap();
        handlers.check("", &pod(NamespaceMode::Pod)).unwrap();
    }
}
