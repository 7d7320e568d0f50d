//! ReopenContainerLog: the monitor makes the new file and writes on in it, after kubelet renamed the old one.

use std::path::Path;
use std::sync::Arc;

use super::{Engine, Error, of_pod};
use crate::model::Container;
use crate::monitor::client::LogTarget;

impl Engine {
    /// Reopens the log of a running container; the new file is there when this returns.
    ///
    /// # Errors
    /// When the container is not running (no file is made then) or the file cannot be made.
    pub async fn reopen_log(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let container = self.running_container(id)?;
        let (pod, monitor) = self.monitor_of(&container)?;
        let Some(log) = self.log_target(&container).await? else { return Ok(()) };
        monitor.client.reopen_log(&container.id, log).await.map_err(of_pod(&pod))
    }

    async fn log_target(self: &Arc<Self>, container: &Container) -> Result<Option<LogTarget>, Error> {
        let path = container.spec.log_path.clone();
        self.on_disk(move |_| open_log_target(&path)).await
    }
}

/// Opens the folder of a log and makes it when it is missing; an empty path means no log.
pub(super) fn open_log_target(path: &str) -> Result<Option<LogTarget>, Error> {
    let path = Path::new(path);
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(None);
    };
    let failed = |op| move |source| Error::Io { op, path: dir.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(failed("make the log folder"))?;
    let dir = std::fs::File::open(dir).map_err(failed("open the log folder"))?;
    Ok(Some(LogTarget { dir: dir.into(), name: name.to_owned() }))
}
