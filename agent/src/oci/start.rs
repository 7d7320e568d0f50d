//! The verb `start`: the container's process becomes its program.

use std::fs;
use std::io::ErrorKind;

use super::{Error, Runtime, Status};
use crate::libcontainer::run::{self, Started};

impl Runtime {
    /// Starts a container that was created.
    ///
    /// # Errors
    /// It is not created; a `startContainer` hook failed; the program cannot be executed. It is stopped then.
    pub fn start(&self, id: &str) -> Result<(), Error> {
        let (folder, record) = self.locked(id)?;
        let spec = folder.read_spec()?;
        let wrong = |status| Error::Status { id: id.to_owned(), status, wanted: "created" };
        match folder.status(&record) {
            Status::Created => {}
            status => return Err(wrong(status)),
        }
        let socket = folder.socket();
        match run::start(&socket) {
            Ok(Started::Running) => {}
            Ok(Started::Failed(failure)) => return Err(failure.into()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Err(wrong(Status::Stopped)),
            Err(error) => return Err(Error::io("start by", &socket)(error)),
        }
        // Nobody listens there any more, and without it that is seen at once.
        let _ = fs::remove_file(&socket);
        self.run_tolerantly("poststart", &spec, &record, Status::Running);
        Ok(())
    }
}
