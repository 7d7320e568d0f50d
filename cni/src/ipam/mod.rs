//! Which address a pod gets, and the record of who has which.
//!
//! [`Pool`] decides (pure); [`Store`] keeps, and [`Files`] does for who comes for one address and goes. An address is its owner's exactly as long as its file exists, and the file is
//! made before anything uses the address, so a crash can only leave an address with an owner that never came to be: a
//! sweep against the living returns it.

mod files;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
mod range;
mod store;

pub use files::Files;
pub use range::{InvalidRange, Pool, Range};
pub use store::{Lease, Store, StoreError};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::leases as fuzz_leases;
