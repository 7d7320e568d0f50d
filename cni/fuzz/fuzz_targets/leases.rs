//! The fuzz target `leases`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: cni::fuzz::seeds::write_if_asked("leases"),
    |data: &[u8]| cni::fuzz::leases(data)
);
