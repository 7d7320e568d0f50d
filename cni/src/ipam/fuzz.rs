//! What has to hold for any folder of leases: files of other plugins, of older versions, of a crash, or of nobody.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Instant;

use super::{Files, Lease, Pool, Range, Store, StoreError};

/// The first byte chooses the pool, the second the address that is asked for by name; then names of files and what is in them,
/// each to its NUL.
pub(crate) fn leases(data: &[u8]) {
    let Some(([pool, wanted], files)) = data.split_first_chunk() else { return };
    let pool = pool_of(*pool);
    let folder = Folder::new();
    let mut parts = files.split(|byte| *byte == 0);
    while let Some(name) = parts.next() {
        folder.write(name, parts.next().unwrap_or_default());
    }
    let before = open(&folder.0).read_all().expect("there is nothing in it but files").leases().clone();
    hand_out(&folder, &pool, &before);
    by_name(&folder, *wanted, &before);
    give_back(&folder);
}

/// Whoever reads all leases and whoever reads none hand out the same address, which nobody has, until there is none.
fn hand_out(folder: &Folder, pool: &Pool, before: &HashMap<IpAddr, Lease>) {
    let (lease, mut taken) = (Lease { owner: "us".into(), interface: "eth0".into() }, before.clone());
    for _ in 0..4 {
        let mut store = open(&folder.0).read_all().expect("as before");
        let by_store = store.allocate(0, pool, &lease);
        if let Ok(address) = by_store {
            store.release(address).expect("it was made a moment ago");
        }
        drop(store);
        // Both look behind the address that was handed out last; giving it back does not turn that back.
        let by_files = open(&folder.0).allocate(0, pool, &lease);
        match (by_files, by_store) {
            (Ok(address), by_store) => {
                assert!(by_store.is_ok(), "{by_store:?}");
                assert!(pool.range_of(address).is_some(), "{address} is not handed out");
                assert_eq!(taken.insert(address, lease.clone()), None, "{address} had an owner");
                assert_eq!(open(&folder.0).lease(address).ok(), Some(Some(lease.clone())));
            }
            (Err(StoreError::Exhausted { .. }), Err(StoreError::Exhausted { .. })) => {
                let free = pool.next_free(None, |address| taken.contains_key(&address));
                assert_eq!(free, None, "it was said that there is none");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(Store::open(&folder.0).expect("as before").leases(), &taken);
}

/// An address that is asked for by its name is given to one only.
fn by_name(folder: &Folder, wanted: u8, before: &HashMap<IpAddr, Lease>) {
    let address = IpAddr::from([10, 2, 0, wanted]);
    let files = open(&folder.0);
    let lease = Lease { owner: "other".into(), interface: "net1".into() };
    assert_eq!(files.take(address, &lease).ok(), Some(!before.contains_key(&address)));
    assert_eq!(files.take(address, &lease).ok(), Some(false));
    assert!(files.addresses().is_ok_and(|all| all.contains(&address)));
}

/// What an owner gives back is free, and nothing else is.
fn give_back(folder: &Folder) {
    let mut store = Store::open(&folder.0).expect("as before");
    let mut rest = store.leases().clone();
    let released = store.release_owner("us").expect("its files are there");
    for address in &released {
        assert_eq!(rest.remove(address).map(|lease| lease.owner), Some("us".into()));
    }
    assert!(rest.values().all(|lease| lease.owner != "us"));
    drop(store);
    assert_eq!(Store::open(&folder.0).expect("as before").leases(), &rest);
}

fn pool_of(choice: u8) -> Pool {
    let range = |subnet: &str| Range::whole(subnet.parse().expect("a subnet")).expect("a range");
    Pool::new(match choice % 3 {
        0 => vec![range("10.1.0.0/29")],
        1 => vec![range("fd00:1::/125")],
        _ => vec![range("10.1.0.0/30"), range("10.1.0.8/29")],
    })
}

fn open(folder: &std::path::Path) -> Files {
    Files::open_until(folder, Instant::now()).expect("nobody else has it")
}

/// In memory, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        // Tests run it on several threads.
        let name = format!("cni-fuzz-{}-{:?}", std::process::id(), std::thread::current().id());
        let folder = PathBuf::from("/dev/shm").join(name);
        fs::create_dir(&folder).expect("/dev/shm");
        Self(folder)
    }

    /// A name that is a path, or none, is no file of this folder.
    fn write(&self, name: &[u8], text: &[u8]) {
        if name.is_empty() || name.len() > 255 || name.contains(&b'/') || name == b"." || name == b".." {
            return;
        }
        fs::write(self.0.join(OsStr::from_bytes(name)), text).expect("/dev/shm");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
