//! The fuzz target `log_lines`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: berth::fuzz::seeds::write_if_asked("log_lines"),
    |data: &[u8]| berth::fuzz::log_lines(data)
);
