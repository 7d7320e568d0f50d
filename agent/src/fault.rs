//! Abort points for crash tests. In a build with the feature `fault-points`, `fault::point("run_pod.recorded")` ends the
//! process as `kill -9` would, when the file that `BERTH_FAULT_FILE` names holds that name. Any other build contains
//! none of it. `berth debug fault-points` lists the names, so that the tests visit every one.

/// Every abort point there is; the tests arm them one after the other.
pub const POINTS: &[&str] = &[
    "checkpoint_container.frozen",
    "checkpoint_container.dumped",
    "checkpoint_container.archived",
    "checkpoint_pod.frozen",
    "checkpoint_pod.archived",
    "create_container.recorded",
    "create_container.prepared",
    "create_container.cloned",
    "create_container.created",
    "events.exit_received",
    "image.layer_unpacked",
    "image.layer_placed",
    "image.layers_ready",
    "image.synced",
    "image.documents_written",
    "image.index_staged",
    "image.indexed",
    "import_image.read",
    "network.leased",
    "network.linked",
    "network.plugin_add",
    "network.plugin_added",
    "network.plugin_delete",
    "network.plugin_deleted",
    "pull_image.resolved",
    "pull_image.layer_downloaded",
    "remove_container.unmonitored",
    "remove_container.discarded",
    "remove_container.forgotten",
    "remove_image.index_staged",
    "remove_image.indexed",
    "remove_image.layers_set_aside",
    "remove_image.documents_deleted",
    "remove_image.layers_deleted",
    "remove_pod.containers_removed",
    "remove_pod.forgotten",
    "run_pod.recorded",
    "run_pod.monitor_forked",
    "run_pod.network_added",
    "run_pod.ready",
    "start_container.released",
    "start_container.recorded",
    "stop_container.signalled",
    "stop_pod.containers_killed",
    "stop_pod.network_removed",
    "stop_pod.monitor_ended",
    "stop_pod.recorded",
    "update_container_resources.intended",
    "update_container_resources.written",
    "update_container_resources.recorded",
];

/// A place where a crash test may kill the agent.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn point(_name: &str) {}

/// A place where a crash test may kill the agent.
#[cfg(feature = "fault-points")]
pub fn point(name: &str) {
    assert!(POINTS.contains(&name), "{name} is not listed in POINTS");
    let Some(file) = std::env::var_os("BERTH_FAULT_FILE") else { return };
    if std::fs::read_to_string(&file).is_ok_and(|armed| armed.trim() == name) {
        // Disarmed first: the next agent must not die of it again.
        let _ = std::fs::remove_file(&file);
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
