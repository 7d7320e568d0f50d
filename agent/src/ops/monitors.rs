//! Which monitor belongs to which pod, who waits for which exec, and how a monitor is ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Engine, Error, of_pod};
use crate::model::PodId;
use crate::monitor::client::{Monitor, MonitorError};

/// The monitors of all pods that are ready.
#[derive(Default)]
pub(super) struct Monitors {
    by_pod: Mutex<HashMap<PodId, Arc<PodMonitor>>>,
}

/// One pod's monitor.
pub(super) struct PodMonitor {
    /// The connection.
    pub(super) client: Monitor,
    /// When it was made.
    pub(super) since: Instant,
    execs: Mutex<HashMap<String, oneshot::Sender<i32>>>,
    /// The connection is lost: the pod is stopped, or its monitor is.
    lost: CancellationToken,
}

impl Monitors {
    /// A new pod's, or a recovered one's.
    pub(super) fn insert(&self, pod: PodId, client: Monitor) -> Arc<PodMonitor> {
        let monitor = Arc::new(PodMonitor::new(client));
        self.lock().insert(pod, monitor.clone());
        monitor
    }

    /// A new connection to the pod's monitor in place of a broken one; none if that one is not the pod's any more.
    pub(super) fn replace(&self, pod: &PodId, broken: &Arc<PodMonitor>, client: Monitor) -> Option<Arc<PodMonitor>> {
        let mut by_pod = self.lock();
        let current = by_pod.get_mut(pod).filter(|current| Arc::ptr_eq(current, broken))?;
        *current = Arc::new(PodMonitor::new(client));
        Some(current.clone())
    }

    /// The pod's, if it is ready.
    pub(super) fn get(&self, pod: &PodId) -> Option<Arc<PodMonitor>> {
        self.lock().get(pod).cloned()
    }

    /// The pod's, which from now on has none.
    pub(super) fn take(&self, pod: &PodId) -> Option<Arc<PodMonitor>> {
        self.lock().remove(pod)
    }

    /// The pod's after all: it could not be ended.
    pub(super) fn put_back(&self, pod: PodId, monitor: Arc<PodMonitor>) {
        self.lock().insert(pod, monitor);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PodId, Arc<PodMonitor>>> {
        self.by_pod.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PodMonitor {
    fn new(client: Monitor) -> Self {
        Self { client, since: Instant::now(), execs: Mutex::default(), lost: CancellationToken::new() }
    }

    /// Announces an exec before it is asked for: its exit may come before the answer is read.
    pub(super) fn expect_exec(&self, exec: String) -> oneshot::Receiver<i32> {
        let (sender, receiver) = oneshot::channel();
        self.execs.lock().unwrap_or_else(PoisonError::into_inner).insert(exec, sender);
        receiver
    }

    /// An exec will not be waited for any longer.
    pub(super) fn forget_exec(&self, exec: &str) {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner).remove(exec);
    }

    /// Refuses what a monitor of an older version does not know.
    pub(super) fn check_streams(&self, pod: &PodId) -> Result<(), Error> {
        if self.client.has_streams() { Ok(()) } else { Err(Error::OldMonitor { pod: pod.to_string() }) }
    }

    /// An exec ended.
    pub(super) fn exec_exited(&self, exec: &str, exit_code: i32) {
        let waiting = self.execs.lock().unwrap_or_else(PoisonError::into_inner).remove(exec);
        if let Some(waiting) = waiting {
            // The receiver is gone when the exec's client gave up: then nobody needs the code.
            let _ = waiting.send(exit_code);
        }
    }

    /// The connection is lost: nobody will hear of these execs any more.
    pub(super) fn end(&self) {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.lost.cancel();
    }

    /// Returns when the connection is lost.
    pub(super) fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        self.lost.clone().cancelled_owned()
    }
}

/// A monitor that is gone has ended and forgotten whatever it was asked to end or forget.
pub(super) fn gone(error: MonitorError) -> Result<(), MonitorError> {
    match error {
        MonitorError::Lost => Ok(()),
        error => Err(error),
    }
}

/// Kills what an earlier connection ran in containers for its clients, who are gone with it: nobody hears of its end.
pub(super) async fn end_execs(client: &Monitor, execs: &[String]) {
    for exec in execs {
        // One that is over by now is as good; a monitor that is lost has its loss seen elsewhere.
        let _ = client.kill_exec(exec).await;
    }
}

impl Engine {
    /// Ends the pod's monitor and with it every process of the pod and its namespaces. Without one there is nothing
    /// to end.
    pub(super) async fn end_monitor(&self, id: &PodId) -> Result<(), Error> {
        let Some(monitor) = self.monitors.take(id) else { return Ok(()) };
        let ended = match monitor.client.shutdown().await {
            Err(MonitorError::Lost) => self.end_cut_off(id).await,
            ended => ended,
        };
        match ended {
            Ok(()) => Ok(()),
            Err(error) => {
                // It lives on: the next try has to find it.
                self.monitors.put_back(id.clone(), monitor);
                Err(of_pod(id)(error))
            }
        }
    }

    /// Ends a monitor whose connection is lost. It is gone itself if nobody answers.
    async fn end_cut_off(&self, id: &PodId) -> Result<(), MonitorError> {
        let socket = self.state.records().pod_dir(id).join("monitor.sock");
        match Monitor::connect(&socket).await {
            Ok((client, ..)) => client.shutdown().await.or_else(gone),
            Err(_) => Ok(()),
        }
    }
}
