//! The fuzz target `seccomp`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: berth::fuzz::seeds::write_if_asked("seccomp"),
    |data: &[u8]| berth::fuzz::seccomp(data)
);
