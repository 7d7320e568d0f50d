//! Requests that make something under a name, while they are under way. A second request for the same name joins the
//! first; and when the client of a finished one had hung up, its retry is given what was made, never "name in use".

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tracing::Instrument;

use super::Error;

type Outcome<V> = Option<Result<V, Arc<Error>>>;

/// The requests under way, and the finished ones that nobody was told of.
pub(super) struct Inflight<K, V> {
    slots: Mutex<HashMap<K, watch::Receiver<Outcome<V>>>>,
}

impl<K, V> Default for Inflight<K, V> {
    fn default() -> Self {
        Self { slots: Mutex::default() }
    }
}

impl<K, V> Inflight<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Runs `make` to its end whatever happens to the caller, unless one for `key` is under way or unclaimed: then
    /// that one's result is awaited and returned.
    ///
    /// # Errors
    /// What `make` failed with; then the name is free again.
    pub(super) async fn join_or_run<F>(self: &Arc<Self>, key: K, make: F) -> Result<V, Error>
    where
        F: Future<Output = Result<V, Error>> + Send + 'static,
    {
        let mut outcome = self.subscribe(&key, make);
        let result = match outcome.wait_for(Option::is_some).await {
            Ok(result) => Option::clone(&result),
            Err(_) => None,
        };
        self.claim(&key, &outcome);
        match result {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(Error::Joined(error)),
            None => Err(Error::Cancelled),
        }
    }

    fn subscribe<F>(self: &Arc<Self>, key: &K, make: F) -> watch::Receiver<Outcome<V>>
    where
        F: Future<Output = Result<V, Error>> + Send + 'static,
    {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(key) {
            return slot.clone();
        }
        let (sender, receiver) = watch::channel(None);
        slots.insert(key.clone(), receiver.clone());
        let (this, key) = (self.clone(), key.clone());
        let run = async move {
            let result = make.await.map_err(Arc::new);
            if result.is_err() {
                this.forget(&key);
            }
            sender.send_replace(Some(result));
        };
        tokio::spawn(run.in_current_span());
        receiver
    }

    /// The result was told to a client; a later run of the same name is none of this one's business.
    fn claim(&self, key: &K, outcome: &watch::Receiver<Outcome<V>>) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.get(key).is_some_and(|slot| slot.same_channel(outcome)) {
            slots.remove(key);
        }
    }

    /// The name's object was removed: the next request of that name starts anew.
    pub(super) fn forget(&self, key: &K) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    async fn slow(runs: &'static AtomicU32) -> Result<u32, Error> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(runs.fetch_add(1, Ordering::SeqCst))
    }

    #[tokio::test]
    async fn requests_of_one_name_share_one_run() {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let inflight = Arc::new(Inflight::<&str, u32>::default());
        let (a, b) = tokio::join!(inflight.join_or_run("x", slow(&RUNS)), inflight.join_or_run("x", slow(&RUNS)));
        assert_eq!((a.unwrap(), b.unwrap()), (0, 0));
        assert_eq!(inflight.join_or_run("x", slow(&RUNS)).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_retry_after_a_hang_up_gets_what_was_made() {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let inflight = Arc::new(Inflight::<&str, u32>::default());
        let (go_on, told) = tokio::sync::oneshot::channel();
        let run = async move {
            let _ = told.await;
            slow(&RUNS).await
        };
        let hung_up = tokio::time::timeout(Duration::from_millis(2), inflight.join_or_run("x", run)).await;
        assert!(hung_up.is_err());
        go_on.send(()).unwrap();
        let went_on = async {
            while RUNS.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), went_on).await.expect("the run went on without its client");
        assert_eq!(inflight.join_or_run("x", slow(&RUNS)).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_run_that_panics_hangs_nobody() {
        let inflight = Arc::new(Inflight::<&str, u32>::default());
        let run = inflight.join_or_run("x", async { panic!("a broken invariant") });
        assert!(matches!(run.await, Err(Error::Cancelled)));
        assert_eq!(inflight.join_or_run("x", async { Ok(7) }).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_failed_name_is_free_again() {
        let inflight = Arc::new(Inflight::<&str, u32>::default());
        let failed = inflight.join_or_run("x", async { Err(Error::NoSuchPod("p".into())) }).await;
        assert!(matches!(failed, Err(Error::Joined(_))));
        assert_eq!(inflight.join_or_run("x", async { Ok(7) }).await.unwrap(), 7);
    }
}
