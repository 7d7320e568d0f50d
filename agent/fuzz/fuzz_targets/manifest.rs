//! The fuzz target `manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: berth::fuzz::seeds::write_if_asked("manifest"),
    |data: &[u8]| berth::fuzz::manifest(data)
);
