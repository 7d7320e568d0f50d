//! Runtime handlers: what the operator lets a pod's RuntimeClass choose. A pod keeps its handler's name for life; what the name
//! means is looked up anew for each container, so that a pod whose handler is configured no more can still be stopped and removed.

use std::collections::BTreeMap;

use cri_api::v1::PodSandboxConfig;

use super::Error;
use crate::libcontainer::spec::Defaults;
use crate::model::Pod;

/// One handler.
#[derive(Debug, Clone)]
pub struct Handler {
    /// What its containers get where their requests leave it open.
    pub defaults: Defaults,
    /// Its pods and containers may be privileged.
    pub privileged: bool,
}

/// All of them by name; the default one is "".
#[derive(Debug)]
pub struct Handlers(BTreeMap<String, Handler>);

impl Default for Handler {
    fn default() -> Self {
        Self { defaults: Defaults::default(), privileged: true }
    }
}

impl Handlers {
    /// What is configured, and the default handler if nothing is said of it.
    pub fn new(mut configured: BTreeMap<String, Handler>) -> Self {
        configured.entry(String::new()).or_default();
        Self(configured)
    }

    /// Their names; the first is "".
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Refuses a pod whose handler is not there or does not allow it.
    pub(super) fn check(&self, name: &str, config: &PodSandboxConfig) -> Result<(), Error> {
        let Some(handler) = self.0.get(name) else {
            let all: Vec<_> = self.names().map(|name| format!("{name:?}")).collect();
            let reason = format!("{name:?} is not configured; these are: {}", all.join(", "));
            return Err(Error::Invalid { field: "runtime_handler", reason });
        };
        let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        if !handler.privileged && context.is_some_and(|context| context.privileged) {
            let reason =
                format!("pods of the runtime handler {name:?} must not be privileged (runtimes.{name}.privileged)");
            return Err(Error::Invalid { field: "linux.security_context.privileged", reason });
        }
        Ok(())
    }

    /// A pod's, for a new container.
    pub(super) fn of_pod(&self, pod: &Pod) -> Result<&Handler, Error> {
        let name = &pod.spec.runtime_handler;
        self.0.get(name).ok_or_else(|| Error::NoHandler { pod: pod.id.to_string(), handler: name.clone() })
    }
}

#[cfg(test)]
mod tests {
    use cri_api::v1::{LinuxPodSandboxConfig, LinuxSandboxSecurityContext};

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
}
