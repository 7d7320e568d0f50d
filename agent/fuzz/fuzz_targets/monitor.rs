//! The fuzz target `monitor`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: berth::fuzz::seeds::write_if_asked("monitor"),
    |data: &[u8]| berth::fuzz::monitor(data)
);
