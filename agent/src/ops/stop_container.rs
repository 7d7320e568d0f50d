//! StopContainer: the soft signal once, the grace period, then the whole tree is killed. Takes no lock, so that a later
//! call with a shorter timeout can shorten the wait.

use std::sync::Arc;
use std::time::Duration;

use super::events::exit_event;
use super::{Engine, Error, detached, of_pod};
use crate::model::{Container, ContainerId, ContainerState};
use crate::monitor::client::MonitorError;
use crate::state::Lookup;

/// How long a killed tree may take to be gone. The kernel needs milliseconds; a process in an uninterruptible call on
/// a dead disk needs for ever.
const AFTER_KILL: Duration = Duration::from_secs(30);

impl Engine {
    /// Stops a container; `timeout` 0 kills at once. An unknown or exited one is stopped already.
    ///
    /// # Errors
    /// When its monitor cannot be asked, or it does not die.
    pub async fn stop_container(self: &Arc<Self>, id: &str, timeout: i64) -> Result<(), Error> {
        let container = match self.state.snapshot().container(id) {
            Lookup::Found(container) => container,
            Lookup::Absent => return Ok(()),
            Lookup::Ambiguous => return Err(Error::AmbiguousId(id.to_owned())),
        };
        let grace = Duration::from_secs(u64::try_from(timeout).unwrap_or(0));
        let engine = self.clone();
        detached(async move { engine.kill_container(&container, grace).await }).await
    }

    /// The steps: tells the monitor, and waits until the exit is visible.
    pub(super) async fn kill_container(self: &Arc<Self>, container: &Container, grace: Duration) -> Result<(), Error> {
        let id = &container.id;
        if self.has_exited(id) {
            return Ok(());
        }
        let Ok((pod, monitor)) = self.monitor_of(container) else {
            self.lose_container(container).await;
            return Ok(());
        };
        // A container that never ran has no program that could take the soft signal.
        let never_ran = matches!(container.state, ContainerState::Created { .. });
        let grace = if never_ran { Duration::ZERO } else { grace };
        let stop = async {
            match monitor.client.stop(id, container.spec.stop_signal, grace).await {
                // The event came first, unless it came before the container was known.
                Ok(record) => self.step(id, exit_event(&record)),
                // Somebody else removes it, or the monitor dies at this moment: its end is about to be visible.
                Err(MonitorError::NotFound(_) | MonitorError::Lost) => {}
                Err(error) => return Err(of_pod(&pod)(error)),
            }
            crate::fault::point("stop_container.signalled");
            self.wait_for_exit(id).await;
            self.tell_stopped(id).await;
            Ok(())
        };
        let stopped = tokio::time::timeout(grace.saturating_add(AFTER_KILL), stop).await;
        stopped.unwrap_or_else(|_| Err(Error::StopTimeout(id.to_string())))
    }

    fn has_exited(&self, id: &ContainerId) -> bool {
        let snapshot = self.state.snapshot();
        snapshot.containers.get(id).is_none_or(|found| matches!(found.state, ContainerState::Exited { .. }))
    }

    async fn wait_for_exit(&self, id: &ContainerId) {
        loop {
            let changed = self.state.changed();
            if self.has_exited(id) {
                return;
            }
            changed.await;
        }
    }
}
