//! The fuzz target `tar_read`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: berth::fuzz::seeds::write_if_asked("tar_read"),
    |data: &[u8]| berth::fuzz::tar_read(data)
);
