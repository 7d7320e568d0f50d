//! Abort points for crash tests. `fault::point("run_pod.network_added")` ends the process there, as `kill -9` would,
//! when the file named by `BERTH_FAULT_FILE` holds that name. Only builds with the feature `fault-points` contain any of it.

/// A place where a crash test may kill the agent.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn point(_name: &str) {}

/// A place where a crash test may kill the agent.
#[cfg(feature = "fault-points")]
pub fn point(name: &str) {
    let Some(file) = std::env::var_os("BERTH_FAULT_FILE") else { return };
    if std::fs::read_to_string(file).is_ok_and(|armed| armed.trim() == name) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
