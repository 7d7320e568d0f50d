//! Operations that several callers wait for: the first starts it, others join, and it is cancelled when the last one
//! has gone away. It runs as a task of its own, so that a caller who hangs up interrupts nothing half way.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::ImageError;
use super::progress::{Listener, Listeners};

/// What a running operation knows about those who wait for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Operation {
    /// Cancelled when nobody waits any more.
    pub(crate) cancel: CancellationToken,
    /// Everyone who wants to know how far it is.
    pub(crate) listeners: Arc<Listeners>,
}

type Outcome<V> = Option<Result<V, Arc<ImageError>>>;

#[derive(Debug)]
struct Running<V> {
    /// Tells it from an earlier one on the same thing.
    id: u64,
    operation: Operation,
    waiting: usize,
    outcome: watch::Receiver<Outcome<V>>,
}

/// The running operations of one kind, by what they work on.
#[derive(Debug)]
pub(crate) struct Joins<K, V> {
    running: Mutex<HashMap<K, Running<V>>>,
    started: AtomicU64,
}

impl<K, V> Default for Joins<K, V> {
    fn default() -> Self {
        Self { running: Mutex::default(), started: AtomicU64::default() }
    }
}

impl<K, V> Joins<K, V> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Running<V>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> Joins<K, V>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Waits for the operation on `key`, starting it if none runs.
    pub(crate) async fn join<F>(
        self: &Arc<Self>,
        key: K,
        listener: Option<Listener>,
        start: impl FnOnce(Operation) -> F,
    ) -> Result<V, ImageError>
    where
        F: Future<Output = Result<V, ImageError>> + Send + 'static,
    {
        let (waiter, mut outcome) = self.enter(key, listener, start);
        let finished = outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        drop(waiter);
        match finished {
            Ok(Some(Ok(value))) => Ok(value),
            Ok(Some(Err(error))) => Err(Arc::try_unwrap(error).unwrap_or_else(ImageError::Joined)),
            // Its task is gone: the runtime is going down.
            _ => Err(ImageError::Cancelled),
        }
    }

    fn enter<F>(
        self: &Arc<Self>,
        key: K,
        listener: Option<Listener>,
        start: impl FnOnce(Operation) -> F,
    ) -> (Waiter<K, V>, watch::Receiver<Outcome<V>>)
    where
        F: Future<Output = Result<V, ImageError>> + Send + 'static,
    {
        let mut running = self.lock();
        let entry = running.entry(key.clone()).or_insert_with(|| {
            let id = self.started.fetch_add(1, Ordering::Relaxed);
            let operation = Operation::default();
            let (sender, outcome) = watch::channel(None);
            let (joins, key, work) = (self.clone(), key.clone(), start(operation.clone()));
            tokio::spawn(async move {
                let result = work.await.map_err(Arc::new);
                // First out of the table, then the word: a caller that asks again afterwards starts anew.
                joins.leave(&key, id);
                let _ = sender.send(Some(result));
            });
            Running { id, operation, waiting: 0, outcome }
        });
        entry.waiting += 1;
        entry.operation.listeners.add(listener);
        (Waiter { joins: self.clone(), key, id: entry.id }, entry.outcome.clone())
    }

    fn leave(&self, key: &K, id: u64) {
        let mut running = self.lock();
        if running.get(key).is_some_and(|entry| entry.id == id) {
            running.remove(key);
        }
    }
}

/// One caller's interest.
struct Waiter<K: Eq + Hash, V> {
    joins: Arc<Joins<K, V>>,
    key: K,
    id: u64,
}

impl<K: Eq + Hash, V> Drop for Waiter<K, V> {
    fn drop(&mut self) {
        let mut running = self.joins.lock();
        // It may have ended, and another one have started on the same thing.
        let Some(entry) = running.get_mut(&self.key).filter(|entry| entry.id == self.id) else { return };
        entry.waiting -= 1;
        if entry.waiting == 0 {
            entry.operation.cancel.cancel();
            running.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    #[tokio::test]
    async fn callers_of_one_key_share_one_run() {
        let joins: Arc<Joins<&str, usize>> = Arc::default();
        let runs = Arc::new(AtomicUsize::new(0));
        let run = |_| {
            let runs = runs.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(runs.fetch_add(1, Ordering::Relaxed))
            }
        };
        let (a, b) = tokio::join!(joins.join("k", None, run), joins.join("k", None, run));
        assert_eq!((a.unwrap(), b.unwrap()), (0, 0));
        assert_eq!(joins.join("k", None, run).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn it_is_cancelled_when_the_last_caller_leaves_and_not_before() {
        let joins: Arc<Joins<&str, ()>> = Arc::default();
        let (sender, mut cancelled) = watch::channel(false);
        let start = |operation: Operation| async move {
            operation.cancel.cancelled().await;
            let _ = sender.send(true);
            Err(ImageError::Cancelled)
        };
        let mut first = Box::pin(joins.join("k", None, start));
        let mut second = Box::pin(joins.join("k", None, |_| async { Ok(()) }));
        assert!(tokio::time::timeout(Duration::ZERO, &mut first).await.is_err());
        assert!(tokio::time::timeout(Duration::ZERO, &mut second).await.is_err());
        drop(first);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(!*cancelled.borrow());
        drop(second);
        cancelled.wait_for(|c| *c).await.unwrap();
        assert!(joins.lock().is_empty());
    }

    #[tokio::test]
    async fn a_failure_is_told_to_all() {
        let joins: Arc<Joins<&str, ()>> = Arc::default();
        let fail = |_| async { Err(ImageError::Pinned("x".to_owned())) };
        let (a, b) = tokio::join!(joins.join("k", None, fail), joins.join("k", None, fail));
        for error in [a.unwrap_err(), b.unwrap_err()] {
            assert!(error.to_string().starts_with("image x is pinned"));
        }
    }
}
