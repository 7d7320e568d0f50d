//! One output stream of one attached client. Its pipe is written without ever blocking; what does not fit waits in a memory
//! file until the client reads on. So a slow client holds up neither the container, nor its log, nor others.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};
use rustix::io::Errno;

use super::create::set_nonblocking;
use crate::libcontainer::run::failure::InitFailure;

/// How much of the spool is moved at once: what a pipe holds by default.
const CHUNK: u64 = 64 << 10;

/// A client's pipe, and what waits for it.
#[derive(Debug)]
pub(super) struct Sink {
    pipe: OwnedFd,
    spool: Option<Spool>,
    /// Nothing more will come.
    pub(super) ended: bool,
}

/// Why a client gets no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// It closed its end.
    Gone,
    /// It is too far behind, or what it has not read cannot be kept.
    Behind,
}

/// Output in a memory file, which takes no memory of this process's own.
#[derive(Debug)]
struct Spool {
    file: OwnedFd,
    read: u64,
    written: u64,
}

impl Sink {
    pub(super) fn new(pipe: OwnedFd) -> Result<Self, InitFailure> {
        set_nonblocking(&pipe)?;
        Ok(Self { pipe, spool: None, ended: false })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Waits for room in the pipe.
    pub(super) fn is_waiting(&self) -> bool {
        self.spool.is_some()
    }

    /// How many bytes the client is behind, beside what its pipe holds.
    pub(super) fn lag(&self) -> u64 {
        self.spool.as_ref().map_or(0, |spool| spool.written - spool.read)
    }

    /// Takes output, in the order it comes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        let written = if self.is_waiting() { 0 } else { fill(&self.pipe, bytes)? };
        if written == bytes.len() {
            return Ok(());
        }
        // Out of memory or descriptors: it cannot be kept.
        let spool = match &mut self.spool {
            Some(spool) => spool,
            none => none.insert(Spool::new().map_err(|_| Lost::Behind)?),
        };
        spool.append(&bytes[written..])
    }

    /// There is room: what waits moves on. `scratch` holds at least `CHUNK` bytes.
    pub(super) fn drain(&mut self, scratch: &mut [u8]) -> Result<(), Lost> {
        while let Some(spool) = &mut self.spool {
            let chunk = spool.peek(scratch).map_err(|_| Lost::Behind)?;
            let written = fill(&self.pipe, chunk)?;
            let is_full = written < chunk.len();
            if spool.consume(written as u64) {
                self.spool = None;
            }
            if is_full {
                break;
            }
        }
        Ok(())
    }
}

/// Writes until the pipe is full; how much.
fn fill(pipe: &OwnedFd, bytes: &[u8]) -> Result<usize, Lost> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::write(pipe, &bytes[done..]) {
            Ok(written) => done += written,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(_) => return Err(Lost::Gone),
        }
    }
    Ok(done)
}

impl Spool {
    fn new() -> Result<Self, Errno> {
        let file = memfd_create(c"berth-attach", MemfdFlags::CLOEXEC)?;
        Ok(Self { file, read: 0, written: 0 })
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<(), Lost> {
        while !bytes.is_empty() {
            match rustix::io::pwrite(&self.file, bytes, self.written) {
                Err(Errno::INTR) => {}
                Ok(0) | Err(_) => return Err(Lost::Behind),
                Ok(written) => {
                    self.written += written as u64;
                    bytes = &bytes[written..];
                }
            }
        }
        Ok(())
    }

    /// What comes next, at least one byte.
    fn peek<'a>(&self, scratch: &'a mut [u8]) -> Result<&'a [u8], Errno> {
        let len = (self.written - self.read).min(CHUNK).min(scratch.len() as u64);
        let place = &mut scratch[..len as usize];
        loop {
            match rustix::io::pread(&self.file, &mut *place, self.read) {
                Err(Errno::INTR) => {}
                Ok(0) => return Err(Errno::IO),
                other => return other.map(|len| &place[..len]),
            }
        }
    }

    /// Forgets what moved on, and gives its memory back; whether nothing is left.
    fn consume(&mut self, len: u64) -> bool {
        if len != 0 {
            // A hole that cannot be made costs memory until the file is closed, and nothing else.
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = fallocate(&self.file, flags, self.read, len);
            self.read += len;
        }
        self.read == self.written
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn sink() -> (Sink, std::io::PipeReader) {
        let (read, write) = std::io::pipe().unwrap();
        (Sink::new(write.into()).unwrap(), read)
    }

    fn bytes(from: usize, len: usize) -> Vec<u8> {
        (from..from + len).map(|i| (i * 31 % 251) as u8).collect()
    }

    #[test]
    fn how_far_a_client_is_behind_is_known() {
        let (mut sink, mut read) = sink();
        sink.write(&vec![0; 64 << 10]).unwrap();
        assert_eq!((sink.lag(), sink.is_waiting()), (0, false), "its pipe holds that");
        sink.write(&vec![0; 100 << 10]).unwrap();
        assert_eq!((sink.lag(), sink.is_waiting()), (100 << 10, true));
        read.read_exact(&mut vec![0; 32 << 10]).unwrap();
        sink.drain(&mut vec![0; CHUNK as usize]).unwrap();
        assert_eq!(sink.lag(), 68 << 10);
    }

    #[test]
    fn a_client_that_is_gone_is_noticed() {
        let (mut sink, read) = sink();
        drop(read);
        assert_eq!(sink.write(b"x"), Err(Lost::Gone));
    }

    #[test]
    fn what_moved_on_takes_no_memory() {
        let (mut sink, mut read) = sink();
        let (mut scratch, mut buffer) = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
        sink.write(&vec![0; 1 << 20]).unwrap();
        for _ in 0..200 {
            read.read_exact(&mut buffer).unwrap();
            sink.drain(&mut scratch).unwrap();
            sink.write(&buffer).unwrap();
        }
        let blocks = rustix::fs::fstat(&sink.spool.as_ref().unwrap().file).unwrap().st_blocks * 512;
        assert!(blocks <= 2 << 20, "{blocks} bytes");
    }

    proptest! {
        // Megabytes each.
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// However writes and reads come, the client gets every byte once and in order.
        #[test]
        fn nothing_is_lost_or_mixed(steps in proptest::collection::vec((any::<bool>(), 1usize..300_000), 1..40)) {
            let (mut sink, mut read) = sink();
            let (mut scratch, mut buffer) = (vec![0; CHUNK as usize], vec![0; 300_000]);
            let (mut written, mut got) = (0, Vec::new());
            let mut take = |sink: &mut Sink, got: &mut Vec<u8>, most: usize| {
                let len = read.read(&mut buffer[..most]).unwrap();
                got.extend_from_slice(&buffer[..len]);
                sink.drain(&mut scratch).unwrap();
            };
            for (is_write, len) in steps {
                if is_write {
                    sink.write(&bytes(written, len)).unwrap();
                    written += len;
                } else if got.len() < written {
                    take(&mut sink, &mut got, len);
                }
            }
            while got.len() < written {
                take(&mut sink, &mut got, 300_000);
            }
            prop_assert!(!sink.is_waiting());
            prop_assert!(got == bytes(0, written));
        }
    }
}
