//! What Exec and Attach have in common: which streams a client may ask for, and the fds between the streaming server and a
//! process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};

use super::{Engine, Error};
use crate::stream::{ProcessStreams, Session};

/// Sizes of a client's terminal that may wait to be set; only the newest matters.
pub(super) const SIZES: usize = 4;

impl Engine {
    /// Where the client of a session finds it: a URL that serves once.
    pub(super) fn open_session(&self, session: Session) -> Result<String, Error> {
        Ok(self.streams.url(session)?)
    }
}

/// The rules of the CRI on what a client asks for (`ExecRequest` and `AttachRequest` in its definition).
pub(super) fn check(streams: ProcessStreams) -> Result<ProcessStreams, Error> {
    let refuse = |field, reason: &str| Err(Error::Invalid { field, reason: reason.into() });
    let ProcessStreams { tty, stdin, stdout, stderr } = streams;
    if !(stdin || stdout || stderr) {
        return refuse("stdin", "one of stdin, stdout and stderr must be true");
    }
    if tty && stderr {
        return refuse("stderr", "must be false with a tty, whose output is one stream");
    }
    Ok(streams)
}

/// A pipe that a process reads: its end, and ours, which does not block.
pub(super) fn input_pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let (theirs, ours) = pipe()?;
    set_nonblocking(&ours)?;
    Ok((theirs, ours))
}

/// A pipe that is written to: our end, which does not block, and the other.
pub(super) fn output_pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let (ours, theirs) = pipe()?;
    set_nonblocking(&ours)?;
    Ok((ours, theirs))
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))
}

pub(super) fn set_nonblocking(fd: impl AsFd) -> Result<(), Error> {
    let flags = fcntl_getfl(&fd).map_err(|errno| failed(errno.into()))?;
    fcntl_setfl(fd, flags | OFlags::NONBLOCK).map_err(|errno| failed(errno.into()))
}

pub(super) fn failed(source: io::Error) -> Error {
    Error::System { op: "make a pipe for a command's input and output", source }
}

/// A pair of optional ends, if the client wants that stream.
pub(super) fn wanted(
    is: bool,
    pipe: fn() -> Result<(OwnedFd, OwnedFd), Error>,
) -> Result<(Option<OwnedFd>, Option<OwnedFd>), Error> {
    Ok(if is { Some(pipe()?) } else { None }.unzip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ErrorKind;

    #[test]
    fn what_a_client_may_ask_for() {
        for bits in 0..16 {
            let [tty, stdin, stdout, stderr] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
            let answer = check(ProcessStreams { tty, stdin, stdout, stderr });
            let allowed = bits > 1 && !(tty && stderr);
            assert_eq!(answer.is_ok(), allowed, "{bits:b}");
            if let Err(error) = answer {
                assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            }
        }
    }
}
