//! The fuzz target `challenge`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: berth::fuzz::seeds::write_if_asked("challenge"),
    |data: &[u8]| berth::fuzz::challenge(data)
);
