//! The fuzz target `tar_apply`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: berth::fuzz::seeds::write_if_asked("tar_apply"),
    |data: &[u8]| berth::fuzz::tar_apply(data)
);
