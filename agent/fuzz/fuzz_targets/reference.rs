//! The fuzz target `reference`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: berth::fuzz::seeds::write_if_asked("reference"),
    |data: &[u8]| berth::fuzz::reference(data)
);
