//! Which SELinux level a new pod gets: one that no other pod has, whether it is there or being made.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use cri_api::v1::PodSandboxConfig;

use super::{Engine, Error};
use crate::libcontainer::spec::selinux;

/// The levels that were given to pods which are not in the state yet.
#[derive(Debug, Default)]
pub(super) struct Levels(Mutex<HashSet<String>>);

/// A level that nobody else is given while it is held: until its pod is in the state, or has failed.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) text: String,
    levels: Arc<Levels>,
}

impl Drop for Level {
    fn drop(&mut self) {
        self.levels.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.text);
    }
}

impl Engine {
    /// The level that is asked for, else one of the pod's own; empty where SELinux is off.
    pub(super) fn selinux_level(&self, config: &PodSandboxConfig) -> Result<Level, Error> {
        let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let asked = selinux::asked_level(context.and_then(|context| context.selinux_options.as_ref()))?;
        let mut under_way = self.levels.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = match asked {
            _ if !self.host.selinux => String::new(),
            Some(asked) => asked.to_owned(),
            None => {
                let snapshot = self.state.snapshot();
                let mut used: HashSet<&str> =
                    snapshot.pods.values().map(|pod| pod.spec.selinux_level.as_str()).collect();
                used.extend(under_way.iter().map(String::as_str));
                let random = || getrandom::u32().map_err(std::io::Error::other);
                selinux::choose_level(&used, random)
                    .map_err(|source| Error::System { op: "get random bytes for an SELinux level", source })?
            }
        };
        under_way.insert(text.clone());
        Ok(Level { text, levels: self.levels.clone() })
    }
}
