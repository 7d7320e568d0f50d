//! The fuzz target `hosts`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: berth::fuzz::seeds::write_if_asked("hosts"),
    |data: &[u8]| berth::fuzz::hosts(data)
);
