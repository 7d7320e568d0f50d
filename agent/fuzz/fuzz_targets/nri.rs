//! The fuzz target `nri`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: berth::fuzz::seeds::write_if_asked("nri"),
    |data: &[u8]| berth::fuzz::nri(data)
);
