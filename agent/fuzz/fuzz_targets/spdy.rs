//! The fuzz target `spdy`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: berth::fuzz::seeds::write_if_asked("spdy"),
    |data: &[u8]| berth::fuzz::spdy(data)
);
