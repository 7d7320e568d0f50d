//! The fuzz target `passwd`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: berth::fuzz::seeds::write_if_asked("passwd"),
    |data: &[u8]| berth::fuzz::passwd(data)
);
