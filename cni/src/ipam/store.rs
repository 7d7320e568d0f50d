//! The record of leases: a folder with one file an address, named like it, holding its owner.
//!
//! The layout is the one of the reference plugin host-local (`<address>` = owner CR LF interface, `last_reserved_ip.<n>`,
//! `lock`). Files are made with O_EXCL and the folder is locked while a store is open, so nothing is handed out twice; a
//! file without an owner is the trace of a crash between two system calls and is removed at the next opening.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::files::Made;
use super::{Files, Pool};

/// Who has an address: a container and the name of its interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The owner's id.
    pub owner: String,
    /// The interface inside the owner's network namespace.
    pub interface: String,
}

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file or the folder could not be used.
    #[error("address store: {operation} {}", path.display())]
    File {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process holds the store.
    #[error("address store: {} is in use by another process", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// An owner that cannot be written down in one line.
    #[error("address store: {0:?} is no owner: it must be one non-empty line")]
    InvalidOwner(String),
    /// Every address of the pool has an owner.
    #[error("no free address in {pool}: {leases} addresses are leased")]
    Exhausted {
        /// The pool's subnets.
        pool: String,
        /// How many leases the store holds.
        leases: usize,
    },
}

impl StoreError {
    pub(super) fn exhausted(pool: &Pool, leases: usize) -> Self {
        let pool = pool.ranges().iter().map(|r| r.subnet().to_string()).collect::<Vec<_>>().join(", ");
        Self::Exhausted { pool, leases }
    }
}

/// Leases on disk, and the same in memory.
#[derive(Debug)]
pub struct Store {
    files: Files,
    leases: HashMap<IpAddr, Lease>,
    last: HashMap<usize, IpAddr>,
}

impl Store {
    /// Opens a folder, making it when it is not there, and locks it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another store is open on it.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Self::open_until(folder, Instant::now())
    }

    /// The same, waiting for a store that is open on it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when it is still open at the deadline.
    pub fn open_until(folder: impl Into<PathBuf>, deadline: Instant) -> Result<Self, StoreError> {
        Files::open_until(folder, deadline)?.read_all()
    }

    pub(super) fn read(files: Files) -> Result<Self, StoreError> {
        let mut store = Self { files, leases: HashMap::new(), last: HashMap::new() };
        store.load()?;
        Ok(store)
    }

    fn load(&mut self) -> Result<(), StoreError> {
        let failed_to_list = |source| failed("list", self.files.folder(), source);
        let listing = fs::read_dir(self.files.folder()).map_err(failed_to_list)?;
        for entry in listing {
            let entry = entry.map_err(failed_to_list)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = entry.path();
            if let Some(index) = name.strip_prefix("last_reserved_ip.").and_then(|n| n.parse::<usize>().ok()) {
                let text = fs::read(&path).map_err(|source| failed("read", &path, source))?;
                self.last.extend(last_of(&text).map(|address| (index, address)));
            } else if let Some(address) = address_of(&name) {
                let text = fs::read(&path).map_err(|source| failed("read", &path, source))?;
                match lease_of(&text) {
                    Some(lease) => drop(self.leases.insert(address, lease)),
                    None => fs::remove_file(&path).map_err(|source| failed("remove", &path, source))?,
                }
            }
        }
        Ok(())
    }

    /// Leases the next free address of a pool. `index` tells pools of one store apart: each goes around on its own.
    ///
    /// # Errors
    /// [`StoreError::Exhausted`] when the pool has none left, or when the lease cannot be written down: then the address
    /// is free as before.
    pub fn allocate(&mut self, index: usize, pool: &Pool, lease: &Lease) -> Result<IpAddr, StoreError> {
        check_owner(lease)?;
        loop {
            let last = self.last.get(&index).copied();
            let Some(address) = pool.next_free(last, |address| self.leases.contains_key(&address)) else {
                return Err(StoreError::exhausted(pool, self.leases.len()));
            };
            if self.reserve(address, lease)? {
                return match self.remember(index, address) {
                    Ok(()) => Ok(address),
                    Err(error) => self.release(address).and(Err(error)),
                };
            }
        }
    }

    /// Leases one address. False when it has an owner.
    ///
    /// # Errors
    /// When the lease cannot be written down.
    pub fn take(&mut self, address: IpAddr, lease: &Lease) -> Result<bool, StoreError> {
        check_owner(lease)?;
        Ok(!self.leases.contains_key(&address) && self.reserve(address, lease)?)
    }

    /// Makes an address's file. False when it was there though the store did not know it: it is known now.
    fn reserve(&mut self, address: IpAddr, lease: &Lease) -> Result<bool, StoreError> {
        let (leased, lease) = match self.files.make(address, lease)? {
            Made::Leased => (true, lease.clone()),
            Made::Taken(other) => (false, other),
        };
        self.leases.insert(address, lease);
        Ok(leased)
    }

    fn remember(&mut self, index: usize, address: IpAddr) -> Result<(), StoreError> {
        self.last.insert(index, address);
        self.files.remember(index, address)
    }

    /// The addresses of an owner, lowest first.
    pub fn addresses_of(&self, owner: &str) -> Vec<IpAddr> {
        let mut addresses: Vec<_> =
            self.leases.iter().filter(|(_, lease)| lease.owner == owner).map(|(address, _)| *address).collect();
        addresses.sort_unstable();
        addresses
    }

    /// All leases.
    pub fn leases(&self) -> &HashMap<IpAddr, Lease> {
        &self.leases
    }

    /// Returns one address; no error when it is free.
    ///
    /// # Errors
    /// When its file cannot be removed: the address stays leased.
    pub fn release(&mut self, address: IpAddr) -> Result<(), StoreError> {
        self.files.release(address)?;
        self.leases.remove(&address);
        Ok(())
    }

    /// Returns all addresses of an owner and tells which they were.
    ///
    /// # Errors
    /// When a file cannot be removed; the other addresses are returned all the same.
    pub fn release_owner(&mut self, owner: &str) -> Result<Vec<IpAddr>, StoreError> {
        self.release_where(|lease| lease.owner == owner)
    }

    /// Returns the addresses of every owner that is not alive and tells which they were.
    ///
    /// # Errors
    /// As for [`Store::release_owner`].
    pub fn sweep(&mut self, mut alive: impl FnMut(&str) -> bool) -> Result<Vec<IpAddr>, StoreError> {
        self.release_where(|lease| !alive(&lease.owner))
    }

    /// Returns the addresses of all leases that `doomed` says so of and tells which they were.
    ///
    /// # Errors
    /// As for [`Store::release_owner`].
    pub fn release_where(&mut self, mut doomed: impl FnMut(&Lease) -> bool) -> Result<Vec<IpAddr>, StoreError> {
        let mut addresses: Vec<_> =
            self.leases.iter().filter(|(_, lease)| doomed(lease)).map(|(address, _)| *address).collect();
        addresses.sort_unstable();
        let outcomes: Vec<_> = addresses.iter().map(|address| self.release(*address)).collect();
        outcomes.into_iter().collect::<Result<(), _>>().map(|()| addresses)
    }
}

/// None for a file that a crash left without an owner.
pub(super) fn lease_of(text: &[u8]) -> Option<Lease> {
    let text = std::str::from_utf8(text).ok()?;
    let mut lines = text.split(['\r', '\n']).map(str::trim).filter(|line| !line.is_empty());
    let owner = lines.next()?.to_owned();
    Some(Lease { owner, interface: lines.next().unwrap_or_default().to_owned() })
}

/// The address whose file has this name. An address can be written in several ways, and its file is named in one.
pub(super) fn address_of(name: &str) -> Option<IpAddr> {
    name.parse().ok().filter(|address: &IpAddr| address.to_string() == name)
}

/// None for a damaged file: where the search begins is a matter of taste, and no reason to hand nothing out.
pub(super) fn last_of(text: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

pub(super) fn check_owner(lease: &Lease) -> Result<(), StoreError> {
    let one_line = |text: &str| !text.contains(['\r', '\n']);
    let good = !lease.owner.trim().is_empty() && one_line(&lease.owner) && one_line(&lease.interface);
    if good { Ok(()) } else { Err(StoreError::InvalidOwner(lease.owner.clone())) }
}

pub(super) fn failed(operation: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::File { operation, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::super::Range;
    use super::*;

    fn pool(subnet: &str) -> Pool {
        Pool::new(vec![Range::whole(subnet.parse().unwrap()).unwrap()])
    }

    fn lease(owner: &str) -> Lease {
        Lease { owner: owner.into(), interface: "eth0".into() }
    }

    #[test]
    fn leases_survive_a_restart_and_the_search_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool("10.1.0.0/24");
        let mut store = Store::open(folder.path()).unwrap();
        let first = store.allocate(0, &pool, &lease("a")).unwrap();
        let second = store.allocate(0, &pool, &lease("b")).unwrap();
        store.release(second).unwrap();
        drop(store);

        let mut store = Store::open(folder.path()).unwrap();
        assert_eq!(store.addresses_of("a"), [first]);
        assert_eq!(store.leases()[&first], lease("a"));
        let third = store.allocate(0, &pool, &lease("c")).unwrap();
        assert_ne!(third, second, "a released address comes last");
        assert_eq!(fs::read(folder.path().join(third.to_string())).unwrap(), b"c\r\neth0");
    }

    #[test]
    fn a_file_without_an_owner_is_the_trace_of_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("10.1.0.2"), "").unwrap();
        fs::write(folder.path().join("last_reserved_ip.0"), "").unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        assert_eq!(store.allocate(0, &pool("10.1.0.0/30"), &lease("a")).unwrap().to_string(), "10.1.0.2");
    }

    /// Found by fuzzing: it was leased to whoever read all files and free to who looked for it by name, and never given back.
    #[test]
    fn an_address_in_other_words_is_no_lease() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("fd00:1:0::2"), "other\r\neth0").unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        assert!(store.leases().is_empty());
        assert_eq!(store.allocate(0, &pool("fd00:1::/125"), &lease("a")).unwrap().to_string(), "fd00:1::2");
        assert_eq!(store.release_owner("a").unwrap().len(), 1);
        drop(store);
        assert!(Files::open_until(folder.path(), Instant::now()).unwrap().addresses().unwrap().is_empty());
    }

    /// Found by fuzzing: no pod had an address any more.
    #[test]
    fn a_damaged_file_of_the_last_address_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let damaged = || fs::write(folder.path().join("last_reserved_ip.0"), b"10.1.0.\xff").unwrap();
        damaged();
        let first = Store::open(folder.path()).unwrap().allocate(0, &pool("10.1.0.0/29"), &lease("a")).unwrap();
        damaged();
        let files = Files::open_until(folder.path(), Instant::now()).unwrap();
        let second = files.allocate(0, &pool("10.1.0.0/29"), &lease("b")).unwrap();
        assert_eq!([first.to_string(), second.to_string()], ["10.1.0.2", "10.1.0.3"]);
    }

    #[test]
    fn an_address_file_of_another_maker_is_respected() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        fs::write(folder.path().join("10.1.0.2"), "other\r\neth0").unwrap();
        assert_eq!(store.allocate(0, &pool("10.1.0.0/29"), &lease("a")).unwrap().to_string(), "10.1.0.3");
        assert_eq!(store.addresses_of("other").len(), 1);
    }

    #[test]
    fn a_second_store_on_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert!(matches!(Store::open(folder.path()), Err(StoreError::Locked { .. })));
        drop(store);
        Store::open(folder.path()).unwrap();
    }

    #[test]
    fn a_full_pool_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let pool = pool("10.1.0.0/30");
        store.allocate(0, &pool, &lease("a")).unwrap();
        let error = store.allocate(0, &pool, &lease("b")).unwrap_err();
        assert_eq!(error.to_string(), "no free address in 10.1.0.0/30: 1 addresses are leased");
        store.release_owner("a").unwrap();
        store.allocate(0, &pool, &lease("b")).unwrap();
    }

    #[test]
    fn owners_that_would_forge_a_line_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        for owner in ["", " ", "a\nb", "a\rb"] {
            let refused = store.allocate(0, &pool("10.1.0.0/24"), &lease(owner));
            assert!(matches!(refused, Err(StoreError::InvalidOwner(_))), "{owner:?}");
        }
        assert!(store.leases().is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Allocate(u8),
        Release(u8),
        Sweep(Vec<u8>),
        /// The process dies: between two operations, or after making a file and before writing the owner.
        Crash {
            torn: bool,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => (0u8..6).prop_map(Step::Allocate),
            3 => (0u8..6).prop_map(Step::Release),
            1 => proptest::collection::vec(0u8..6, 0..4).prop_map(Step::Sweep),
            2 => any::<bool>().prop_map(|torn| Step::Crash { torn }),
        ];
        proptest::collection::vec(step, 0..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn nothing_is_lost_or_handed_out_twice(steps in steps()) {
            let folder = tempfile::tempdir().unwrap();
            let pool = pool("10.1.0.0/28");
            let mut store = Some(Store::open(folder.path()).unwrap());
            let mut model: HashMap<IpAddr, String> = HashMap::new();
            for step in steps {
                let open = store.as_mut().unwrap();
                match step {
                    Step::Allocate(owner) => match open.allocate(0, &pool, &lease(&owner.to_string())) {
                        Ok(address) => prop_assert!(model.insert(address, owner.to_string()).is_none()),
                        Err(_) => prop_assert_eq!(model.len(), 13),
                    },
                    Step::Release(owner) => {
                        let owner = owner.to_string();
                        let released: HashSet<_> = open.release_owner(&owner).unwrap().into_iter().collect();
                        let expected: HashSet<_> =
                            model.iter().filter(|(_, o)| **o == owner).map(|(a, _)| *a).collect();
                        prop_assert_eq!(released, expected);
                        model.retain(|_, o| *o != owner);
                    }
                    Step::Sweep(living) => {
                        let living: HashSet<_> = living.iter().map(u8::to_string).collect();
                        open.sweep(|owner| living.contains(owner)).unwrap();
                        model.retain(|_, owner| living.contains(owner));
                    }
                    Step::Crash { torn } => {
                        if torn && let Some(free) = pool.next_free(None, |a| model.contains_key(&a)) {
                            fs::write(folder.path().join(free.to_string()), "").unwrap();
                        }
                        drop(store.take());
                        store = Some(Store::open(folder.path()).unwrap());
                    }
                }
                let open = store.as_ref().unwrap();
                let kept: HashMap<_, _> = open.leases().iter().map(|(a, l)| (*a, l.owner.clone())).collect();
                prop_assert_eq!(&kept, &model);
            }
        }
    }
}
