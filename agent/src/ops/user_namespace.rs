//! Pods in user namespaces: whose ids they have. kubelet names them; to a client that does not, blocks of a configured range
//! are given. The pods' records are all that is kept of who has which, so that no agent can forget it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use cri_api::v1::{IdMapping, PodSandboxConfig};

use super::{Engine, Error};
use crate::libcontainer::plan::{IdRange, UserNamespace};
use crate::libcontainer::spec;
use crate::model::{Pod, PodId, PodSpec};

const MODE: &str = "linux.security_context.namespace_options.userns_options.mode";

/// The range of ids from which pods get theirs when the client names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdBlocks {
    /// The first id.
    pub first: u32,
    /// How many each pod gets.
    pub per_pod: u32,
    /// How many pods can have some.
    pub pods: u32,
}

impl IdBlocks {
    /// The first block of which nobody has an id.
    fn free(&self, taken: &[IdRange]) -> Option<IdRange> {
        let block = |n: u32| {
            let first = self.first.checked_add(self.per_pod.checked_mul(n)?)?;
            Some(IdRange { first, count: self.per_pod })
        };
        (0..self.pods).filter_map(block).find(|block| !taken.iter().any(|other| other.overlaps(block)))
    }
}

/// Hands out ids, one pod after the other.
#[derive(Debug, Default)]
pub(super) struct Ids {
    blocks: Option<IdBlocks>,
    /// From the choice of a block until the record tells of it.
    choosing: Mutex<()>,
}

impl Ids {
    pub(super) fn new(blocks: Option<IdBlocks>) -> Self {
        Self { blocks, choosing: Mutex::default() }
    }
}

/// A pod's user namespace with who is who in it.
pub(super) struct PodUser {
    namespace: Arc<OwnedFd>,
    /// Who is who.
    pub(super) ids: UserNamespace,
}

impl PodUser {
    /// The namespace.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

/// The ids of a pod in a user namespace; `None` for one in the host's.
pub(super) fn ids_of(config: &PodSandboxConfig) -> Result<Option<UserNamespace>, Error> {
    let range = |mapping: IdMapping| IdRange { first: mapping.host_id, count: mapping.length };
    Ok(spec::user_namespace(config)?.map(|(uids, gids)| UserNamespace { uids: range(uids), gids: range(gids) }))
}

impl Engine {
    /// Refuses what cannot be, before anything is made. Ids that the runtime is to choose are not known yet.
    pub(super) fn check_user_namespace(&self, config: &PodSandboxConfig) -> Result<(), Error> {
        let asks = spec::asks_for_ids(config);
        if !asks && ids_of(config)?.is_none() {
            return Ok(());
        }
        let refuse = |reason: &str| Err(Error::Invalid { field: MODE, reason: reason.to_owned() });
        if !self.host.user_namespaces {
            return refuse(
                "POD is not possible on this host: it takes Linux 6.3 or newer and a sysctl \
                 user.max_user_namespaces above 0",
            );
        }
        if asks && self.ids.blocks.is_none() {
            return refuse(
                "POD without mappings leaves the ids to the runtime, which has none to give: name them, or set \
                 `user_namespaces.first_id` in the configuration",
            );
        }
        Ok(())
    }

    /// Writes the pod's record, with the ids that it is given if it asks for some.
    pub(super) fn begin_pod(&self, id: &PodId, spec: &mut PodSpec) -> Result<PathBuf, Error> {
        let records = self.state.records();
        if !spec::asks_for_ids(&spec.config) {
            return Ok(records.begin_pod(id, spec)?);
        }
        let _alone = self.ids.choosing.lock().unwrap_or_else(PoisonError::into_inner);
        give(&mut spec.config, self.free_block()?);
        // The other options were not looked at as long as there were no ids.
        ids_of(&spec.config)?;
        Ok(records.begin_pod(id, spec)?)
    }

    fn free_block(&self) -> Result<IdRange, Error> {
        let mut taken = Vec::new();
        let records = self.state.records();
        for id in records.pod_ids()? {
            // One that is being removed at this moment has none any more.
            if let (Some(spec), _) = records.read_pod(&id)?
                && let Some(UserNamespace { uids, gids }) = ids_of(&spec.config)?
            {
                taken.extend([uids, gids]);
            }
        }
        self.ids
            .blocks
            .and_then(|blocks| blocks.free(&taken))
            .ok_or_else(|| Error::NoIds { pods: self.ids.blocks.map_or(0, |blocks| blocks.pods) })
    }

    /// The user namespace that a container of the pod is to be made for.
    pub(super) fn pod_user(&self, pod: &Pod) -> Result<Option<PodUser>, Error> {
        let Some(ids) = ids_of(&pod.spec.config)? else { return Ok(None) };
        let namespace = self.monitors.get(&pod.id).and_then(|monitor| monitor.client.user_namespace().cloned());
        namespace
            .map(|namespace| Some(PodUser { namespace, ids }))
            .ok_or_else(|| super::create_container::not_ready(&pod.id))
    }
}

/// From here on it is as if the client had named them.
fn give(config: &mut PodSandboxConfig, block: IdRange) {
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    let options = context.and_then(|context| context.namespace_options.as_mut());
    if let Some(user) = options.and_then(|options| options.userns_options.as_mut()) {
        let mapping = IdMapping { host_id: block.first, container_id: 0, length: block.count };
        (user.uids, user.gids) = (vec![mapping], vec![mapping]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCKS: IdBlocks = IdBlocks { first: 1000, per_pod: 100, pods: 3 };

    fn range(first: u32, count: u32) -> IdRange {
        IdRange { first, count }
    }

    #[test]
    fn the_first_free_block_is_given() {
        assert_eq!(BLOCKS.free(&[]), Some(range(1000, 100)));
        assert_eq!(BLOCKS.free(&[range(1000, 100)]), Some(range(1100, 100)));
        assert_eq!(BLOCKS.free(&[range(1100, 100)]), Some(range(1000, 100)));
        // A client's own mapping counts, wherever it begins.
        assert_eq!(BLOCKS.free(&[range(0, 1101)]), Some(range(1200, 100)));
        assert_eq!(BLOCKS.free(&[range(1050, 200)]), None);
    }

    #[test]
    fn what_was_given_is_what_the_pod_has() {
        let mut config: PodSandboxConfig = serde_json::from_value(serde_json::json!({
            "linux": { "security_context": { "namespace_options": { "userns_options": { "mode": 0 } } } }
        }))
        .unwrap();
        assert!(spec::asks_for_ids(&config));
        give(&mut config, range(1000, 100));
        assert!(!spec::asks_for_ids(&config));
        let ids = ids_of(&config).unwrap().unwrap();
        assert_eq!((ids.uids, ids.gids), (range(1000, 100), range(1000, 100)));
    }

    proptest! {
        #[test]
        fn a_block_is_nobody_elses(taken in prop::collection::vec((0u32..2000, 1u32..300), 0..6)) {
            let taken: Vec<IdRange> = taken.into_iter().map(|(first, count)| range(first, count)).collect();
            if let Some(block) = BLOCKS.free(&taken) {
                prop_assert!(taken.iter().all(|other| !other.overlaps(&block)));
                prop_assert!(block.first >= 1000 && block.first + block.count <= 1300);
            }
        }
    }
}
