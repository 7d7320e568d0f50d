//! A process's pipe or terminal in the reactor. tokio's own pipes take no pty.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::unix::AsyncFd;

use crate::sys::async_fd;

/// What one read takes at most, in bytes: half of a pipe.
const CHUNK: usize = 32 << 10;

/// One end of a pipe, or a pty's master.
#[derive(Debug)]
pub(super) struct Descriptor(AsyncFd<OwnedFd>);

impl Descriptor {
    /// Makes it nonblocking and registers it.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        async_fd::register(fd).map(Self)
    }

    /// What is there, at least a byte; `None` at the end, which of a terminal is its hang-up (EIO, pty(7)).
    pub(super) async fn read(&self) -> io::Result<Option<Bytes>> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut chunk = Vec::with_capacity(CHUNK);
            let read = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), spare_capacity(&mut chunk))?));
            match read {
                Err(_would_block) => {}
                Ok(Ok(0)) => return Ok(None),
                // Much is handed on as it is; of little, the memory around it is not kept alive.
                Ok(Ok(count)) if count > CHUNK / 2 => return Ok(Some(chunk.into())),
                Ok(Ok(_)) => return Ok(Some(Bytes::copy_from_slice(&chunk))),
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Ok(None),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    /// Writes all of it.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Err(_would_block) => {}
                Ok(Ok(count)) => bytes = &bytes[count..],
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }
}
