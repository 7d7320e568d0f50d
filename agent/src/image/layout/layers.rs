//! Which layers are on disk, and who holds them. In memory only; its lock is never held over a system call.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::image::image::Usage;
use crate::model::{ContainerId, Digest};

/// Someone a layer must not be taken from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// A container's root file system is built on it.
    Container(ContainerId),
    /// A pull or import needs it for the image it is about to commit.
    Operation(u64),
}

/// How far a layer is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Wanted, not there yet.
    #[default]
    Pending,
    /// Found at start without a name in the index: of a removed image whose containers live on, or half written by a
    /// crash. Only a container's hold tells which.
    Leftover,
    /// Whole, not yet synced.
    Volatile,
    /// Whole and synced.
    Durable,
}

#[derive(Debug, Default)]
struct Layer {
    holders: HashSet<Holder>,
    state: State,
    usage: Usage,
    /// Parent folders that the archive implied without an entry of their own, until a commit has settled them.
    implied: Vec<PathBuf>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct LayerTable(Mutex<HashMap<Digest, Layer>>);

impl LayerTable {
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Layer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found on disk at start; only layers that the index names are known to be whole.
    pub(super) fn load<'a>(&self, on_disk: HashMap<Digest, Usage>, named: impl Iterator<Item = &'a Digest>) {
        let named: HashSet<&Digest> = named.collect();
        let mut table = self.lock();
        for (diff_id, usage) in on_disk {
            let state = if named.contains(&diff_id) { State::Durable } else { State::Leftover };
            table.insert(diff_id, Layer { state, usage, ..Layer::default() });
        }
    }

    /// A container's hold: all of the layers, or none if one of them is gone.
    pub(crate) fn hold(&self, layers: &[Digest], holder: &Holder) -> bool {
        let mut table = self.lock();
        let all = layers.iter().all(|diff_id| table.get(diff_id).is_some_and(|layer| layer.state != State::Pending));
        if all {
            for diff_id in layers {
                if let Some(layer) = table.get_mut(diff_id) {
                    layer.holders.insert(holder.clone());
                    if layer.state == State::Leftover {
                        // It carries a container, so an image named it once, and it was synced before that.
                        layer.state = State::Durable;
                    }
                }
            }
        }
        all
    }

    /// An operation's hold on layers that are there or will be.
    pub(crate) fn claim(&self, layers: &[Digest], holder: &Holder) {
        let mut table = self.lock();
        for diff_id in layers {
            table.entry(diff_id.clone()).or_default().holders.insert(holder.clone());
        }
    }

    /// There and whole: nothing has to be downloaded for it.
    pub(crate) fn is_usable(&self, diff_id: &Digest) -> bool {
        self.lock().get(diff_id).is_some_and(|layer| matches!(layer.state, State::Volatile | State::Durable))
    }

    /// Gives up whatever `holder` holds; answers the layers that nobody holds any more.
    pub(crate) fn release(&self, holder: &Holder) -> Vec<Digest> {
        let mut free = Vec::new();
        self.lock().retain(|diff_id, layer| {
            let held = layer.holders.remove(holder);
            if held && layer.holders.is_empty() {
                if layer.state == State::Pending {
                    return false;
                }
                free.push(diff_id.clone());
            }
            true
        });
        free
    }

    /// Of `candidates` (all layers, if none are given): those without holder that `named` does not know, forgotten.
    pub(super) fn take_garbage(&self, candidates: Option<&[Digest]>, named: &HashSet<&Digest>) -> Vec<Digest> {
        let mut table = self.lock();
        let candidates = candidates.map_or_else(|| table.keys().cloned().collect(), <[Digest]>::to_vec);
        let garbage = |table: &HashMap<Digest, Layer>, diff_id: &Digest| {
            !named.contains(diff_id)
                && table.get(diff_id).is_some_and(|layer| layer.state != State::Pending && layer.holders.is_empty())
        };
        candidates.into_iter().filter(|diff_id| garbage(&table, diff_id) && table.remove(diff_id).is_some()).collect()
    }

    pub(super) fn set_ready(&self, diff_id: &Digest, usage: Usage, implied: Vec<PathBuf>) {
        let mut table = self.lock();
        let layer = table.entry(diff_id.clone()).or_default();
        (layer.state, layer.usage, layer.implied) = (State::Volatile, usage, implied);
    }

    pub(super) fn any_volatile(&self, layers: &[Digest]) -> bool {
        let table = self.lock();
        layers.iter().any(|diff_id| table.get(diff_id).is_none_or(|layer| layer.state != State::Durable))
    }

    pub(super) fn set_durable(&self, layers: &[Digest]) {
        let mut table = self.lock();
        for diff_id in layers {
            if let Some(layer) = table.get_mut(diff_id) {
                layer.state = State::Durable;
            }
        }
    }

    pub(super) fn take_implied(&self, diff_id: &Digest) -> Vec<PathBuf> {
        self.lock().get_mut(diff_id).map(|layer| std::mem::take(&mut layer.implied)).unwrap_or_default()
    }

    pub(super) fn usage(&self) -> Usage {
        self.lock().values().filter(|layer| layer.state != State::Pending).fold(Usage::default(), |sum, layer| Usage {
            bytes: sum.bytes + layer.usage.bytes,
            inodes: sum.inodes + layer.usage.inodes,
        })
    }
}
