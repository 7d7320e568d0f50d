//! A folder of leases that is not read: what is asked costs the same however many leases there are.
//!
//! The layout is the store's, and so is the lock. The next free address is found by trying: making its file fails when it has an
//! owner, and the search begins behind the address that was handed out last, where the first one is free nearly always.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::store::{Lease, StoreError, address_of, check_owner, failed, last_of, lease_of};
use super::{Pool, Store};

/// How often a folder that is locked elsewhere is tried: it is locked for a millisecond.
const POLL: Duration = Duration::from_millis(1);
/// After so many addresses that have owners the folder is listed: the pool is full, or nearly.
const FEW: usize = 8;

/// A locked folder.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    /// Holds the lock of the folder until it is dropped.
    _lock: File,
}

/// What came of making an address's file.
pub(super) enum Made {
    /// It is leased.
    Leased,
    /// It has this owner.
    Taken(Lease),
}

impl Files {
    /// Opens a folder, making it when it is not there, and locks it, waiting for who has it locked.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when it is still locked at the deadline.
    pub fn open_until(folder: impl Into<PathBuf>, deadline: Instant) -> Result<Self, StoreError> {
        let folder = folder.into();
        let mut folders = fs::DirBuilder::new();
        folders.recursive(true).mode(0o755).create(&folder).map_err(|source| failed("create", &folder, source))?;
        let path = folder.join("lock");
        let mut options = OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.map_err(|source| failed("open", &path, source))?;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { folder, _lock: lock }),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(POLL),
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::Locked { path: folder }),
                Err(errno) => return Err(failed("lock", &path, errno.into())),
            }
        }
    }

    /// Reads all leases.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read_all(self) -> Result<Store, StoreError> {
        Store::read(self)
    }

    /// Leases the next free address of a pool, as [`Store::allocate`] does.
    ///
    /// # Errors
    /// As there.
    pub fn allocate(&self, index: usize, pool: &Pool, lease: &Lease) -> Result<IpAddr, StoreError> {
        check_owner(lease)?;
        let (last, mut taken) = (self.last(index)?, HashSet::new());
        loop {
            let Some(address) = pool.next_free(last, |address| taken.contains(&address)) else {
                return Err(StoreError::exhausted(pool, self.addresses()?.len()));
            };
            match self.make(address, lease)? {
                Made::Leased => {
                    return match self.remember(index, address) {
                        Ok(()) => Ok(address),
                        Err(error) => self.release(address).and(Err(error)),
                    };
                }
                Made::Taken(_) => drop(taken.insert(address)),
            }
            if taken.len() == FEW {
                taken.extend(self.addresses()?);
            }
        }
    }

    /// Leases one address. False when it has an owner.
    ///
    /// # Errors
    /// When the lease cannot be written down.
    pub fn take(&self, address: IpAddr, lease: &Lease) -> Result<bool, StoreError> {
        check_owner(lease)?;
        Ok(matches!(self.make(address, lease)?, Made::Leased))
    }

    /// Returns one address; no error when it is free.
    ///
    /// # Errors
    /// When its file cannot be removed: the address stays leased.
    pub fn release(&self, address: IpAddr) -> Result<(), StoreError> {
        let path = self.path(address);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path, error)),
            _ => Ok(()),
        }
    }

    /// Whose an address is; none when it is free.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn lease(&self, address: IpAddr) -> Result<Option<Lease>, StoreError> {
        let path = self.path(address);
        match fs::read(&path) {
            Ok(text) => Ok(lease_of(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("read", &path, source)),
        }
    }

    /// The addresses that have files, in no order.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, StoreError> {
        let failed = |source| failed("list", &self.folder, source);
        let mut addresses = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            addresses.extend(name.to_str().and_then(address_of));
        }
        Ok(addresses)
    }

    /// Makes an address's file. One without an owner is the trace of a crash, since we have the lock, and makes room.
    pub(super) fn make(&self, address: IpAddr, lease: &Lease) -> Result<Made, StoreError> {
        let path = self.path(address);
        for _ in 0..2 {
            let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match self.lease(address)? {
                    Some(lease) => return Ok(Made::Taken(lease)),
                    None => {
                        self.release(address)?;
                        continue;
                    }
                },
                Err(source) => return Err(failed("create", &path, source)),
            };
            if let Err(source) = file.write_all(format!("{}\r\n{}", lease.owner, lease.interface).as_bytes()) {
                let _ = fs::remove_file(&path);
                return Err(failed("write", &path, source));
            }
            return Ok(Made::Leased);
        }
        // Somebody who takes no lock makes it again and again.
        Ok(Made::Taken(Lease { owner: "unknown".into(), interface: String::new() }))
    }

    /// The address that was handed out last.
    pub(super) fn last(&self, index: usize) -> Result<Option<IpAddr>, StoreError> {
        let path = self.last_path(index);
        match fs::read(&path) {
            Ok(text) => Ok(last_of(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("read", &path, source)),
        }
    }

    /// Where the next search starts. Losing it costs nothing but an early reuse, so it is neither synced nor renamed.
    pub(super) fn remember(&self, index: usize, address: IpAddr) -> Result<(), StoreError> {
        let path = self.last_path(index);
        fs::write(&path, address.to_string()).map_err(|source| failed("write", &path, source))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, address: IpAddr) -> PathBuf {
        self.folder.join(address.to_string())
    }

    fn last_path(&self, index: usize) -> PathBuf {
        self.folder.join(format!("last_reserved_ip.{index}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Range;
    use super::*;

    fn pool(subnet: &str) -> Pool {
        Pool::new(vec![Range::whole(subnet.parse().unwrap()).unwrap()])
    }

    fn lease(owner: &str) -> Lease {
        Lease { owner: owner.into(), interface: "eth0".into() }
    }

    fn open(folder: &Path) -> Files {
        Files::open_until(folder, Instant::now()).unwrap()
    }

    /// The one that reads everything and the one that reads nothing hand out the same.
    #[test]
    fn addresses_are_those_that_the_store_would_hand_out() {
        let (read, unread) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let pool = pool("10.1.0.0/27");
        let mut full = 0;
        for round in 0..200_usize {
            let owner = lease(&format!("owner-{round}"));
            let mut store = Store::open(read.path()).unwrap();
            let files = open(unread.path());
            let (by_store, by_files) = (store.allocate(0, &pool, &owner), files.allocate(0, &pool, &owner));
            assert_eq!(by_store.as_ref().ok(), by_files.as_ref().ok(), "{round}");
            full += usize::from(by_files.is_err());
            // Some go, so that there are holes.
            if round % 3 == 1 {
                let gone: IpAddr = format!("10.1.0.{}", 2 + round * 7 % 29).parse().unwrap();
                store.release(gone).unwrap();
                files.release(gone).unwrap();
            }
        }
        assert!((1..170).contains(&full), "the pool was full {full} times, and not always");
        assert_eq!(Store::open(read.path()).unwrap().leases(), open(unread.path()).read_all().unwrap().leases());
    }

    #[test]
    fn a_file_without_an_owner_makes_room_and_others_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let files = open(folder.path());
        fs::write(folder.path().join("10.1.0.2"), "").unwrap();
        fs::write(folder.path().join("10.1.0.3"), "x\r\neth0").unwrap();
        let one = files.allocate(0, &pool("10.1.0.0/29"), &lease("a")).unwrap();
        let two = files.allocate(0, &pool("10.1.0.0/29"), &lease("b")).unwrap();
        assert_eq!([one.to_string(), two.to_string()], ["10.1.0.2", "10.1.0.4"]);
        assert!(!files.take(one, &lease("c")).unwrap());
        assert_eq!(files.lease(one).unwrap(), Some(lease("a")));
        assert!(matches!(Files::open_until(folder.path(), Instant::now()), Err(StoreError::Locked { .. })));
    }
}
