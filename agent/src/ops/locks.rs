//! One lock per object: mutating verbs of the same pod or container go one after the other, those of different ones
//! never wait for each other.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Locks by key; a lock nobody holds or awaits costs nothing.
pub(super) struct Locks<K> {
    locks: Mutex<HashMap<K, Weak<AsyncMutex<()>>>>,
}

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self { locks: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash> Locks<K> {
    /// Waits until nobody else holds the key's lock.
    pub(super) async fn lock(&self, key: &K) -> OwnedMutexGuard<()> {
        let lock = self.get(key);
        lock.lock_owned().await
    }

    fn get(&self, key: &K) -> Arc<AsyncMutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(AsyncMutex::new(()));
        locks.insert(key.clone(), Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_key_excludes_and_two_do_not() {
        let locks = Locks::<u32>::default();
        let held = locks.lock(&1).await;
        let _other = locks.lock(&2).await;
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(5), locks.lock(&1)).await;
        assert!(waiting.is_err());
        drop(held);
        locks.lock(&1).await;
        assert!(locks.locks.lock().unwrap().len() <= 2, "unused locks are dropped");
    }
}
