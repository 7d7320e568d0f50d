//! The immutable picture of all pods and containers that every List and Status is answered from.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::model::{Container, ContainerId, Pod, PodId};

/// Everything that is known, at one moment.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// All pods by id.
    pub pods: BTreeMap<PodId, Arc<Pod>>,
    /// All containers by id.
    pub containers: BTreeMap<ContainerId, Arc<Container>>,
}

/// What an id or the beginning of one means.
#[derive(Debug)]
pub enum Lookup<T> {
    /// Exactly one object.
    Found(Arc<T>),
    /// None.
    Absent,
    /// The beginning of more than one.
    Ambiguous,
}

impl<T> Lookup<T> {
    /// The object, if it is exactly one.
    pub fn found(self) -> Option<Arc<T>> {
        match self {
            Self::Found(object) => Some(object),
            Self::Absent | Self::Ambiguous => None,
        }
    }
}

impl Snapshot {
    /// The pod of that id, or of the only id that begins so.
    pub fn pod(&self, id: &str) -> Lookup<Pod> {
        lookup(&self.pods, id)
    }

    /// The container of that id, or of the only id that begins so.
    pub fn container(&self, id: &str) -> Lookup<Container> {
        lookup(&self.containers, id)
    }

    /// The pod's containers, oldest first.
    pub fn containers_of(&self, pod: &PodId) -> Vec<Arc<Container>> {
        let mut of_pod: Vec<_> =
            self.containers.values().filter(|container| container.spec.pod == pod.as_str()).cloned().collect();
        of_pod.sort_by_key(|container| container.spec.created_at);
        of_pod
    }
}

fn lookup<K, T>(map: &BTreeMap<K, Arc<T>>, id: &str) -> Lookup<T>
where
    K: Ord + AsRef<str> + std::borrow::Borrow<str>,
{
    if id.is_empty() {
        return Lookup::Absent;
    }
    let mut from = map.range::<str, _>((Bound::Included(id), Bound::Unbounded));
    let mut matching = || from.next().filter(|(key, _)| (*key).as_ref().starts_with(id));
    match (matching(), matching()) {
        (None, _) => Lookup::Absent,
        (Some((key, object)), second) => {
            let key: &str = key.as_ref();
            if second.is_none() || key == id { Lookup::Found(object.clone()) } else { Lookup::Ambiguous }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ids: &[&'static str]) -> BTreeMap<&'static str, Arc<u32>> {
        ids.iter().zip(0..).map(|(id, n)| (*id, Arc::new(n))).collect()
    }

    #[test]
    fn a_unique_beginning_finds_and_a_shared_one_does_not() {
        let map = map(&["aab", "aac", "b", "bc"]);
        assert!(matches!(lookup(&map, "aab"), Lookup::Found(_)));
        assert!(matches!(lookup(&map, "aa"), Lookup::Ambiguous));
        assert!(matches!(lookup(&map, "bc"), Lookup::Found(_)));
        assert!(matches!(lookup(&map, "c"), Lookup::Absent));
        assert!(matches!(lookup(&map, ""), Lookup::Absent));
    }

    #[test]
    fn a_whole_id_is_found_though_another_begins_with_it() {
        assert_eq!(lookup(&map(&["b", "bc"]), "b").found().as_deref(), Some(&0));
    }
}
