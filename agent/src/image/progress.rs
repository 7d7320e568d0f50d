//! How far a pull is, for those who watch it. Events may be lost where a watcher is slow: each tells a whole truth.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::model::Digest;

/// One event of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The manifest is known: the layers, the bottom one first.
    Layers(Vec<LayerSize>),
    /// Compressed bytes of a layer that have come until now.
    Received {
        /// The layer's blob.
        layer: Digest,
        /// Bytes.
        bytes: u64,
    },
    /// A layer is unpacked and verified.
    Unpacked {
        /// The layer's blob.
        layer: Digest,
    },
}

/// A layer of the image that is pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSize {
    /// The layer's blob.
    pub layer: Digest,
    /// Compressed, in bytes.
    pub size: u64,
    /// The store has it already.
    pub present: bool,
}

/// Where events go; a full channel loses them.
pub type ProgressSender = mpsc::Sender<Progress>;

#[derive(Debug, Clone)]
pub(crate) enum Listener {
    Sender(ProgressSender),
    /// Those who watch the image that this layer belongs to.
    Group(Arc<Listeners>),
}

/// The watchers of one operation.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Mutex<Vec<Listener>>);

impl Listeners {
    pub(crate) fn add(&self, listener: Option<Listener>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(listener);
    }

    pub(crate) fn tell(&self, event: &Progress) {
        for listener in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            match listener {
                Listener::Sender(sender) => {
                    let _ = sender.try_send(event.clone());
                }
                Listener::Group(group) => group.tell(event),
            }
        }
    }
}
