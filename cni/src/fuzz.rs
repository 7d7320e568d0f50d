//! The doors of the fuzz targets (`cni/fuzz`): a parser's input goes in, and what has to hold for any input is asserted on the
//! way. Each parser's own module has the assertions; tests run them on the seeds.

/// Small inputs that every target begins with.
pub mod seeds;

/// A network's configuration, what its plugins are given, and the ranges of its addresses.
pub fn conf_list(data: &[u8]) {
    crate::conf::fuzz_list(data);
}

/// What plugins answer with: results of every version, errors.
pub fn cni_result(data: &[u8]) {
    crate::types::fuzz::result(data);
}

/// `CNI_ARGS`, and the names in the other variables.
pub fn cni_args(data: &[u8]) {
    crate::types::fuzz::args(data);
}

/// A folder of leases that somebody else has written.
pub fn leases(data: &[u8]) {
    crate::ipam::fuzz_leases(data);
}
