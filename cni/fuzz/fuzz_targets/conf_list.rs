//! The fuzz target `conf_list`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: cni::fuzz::seeds::write_if_asked("conf_list"),
    |data: &[u8]| cni::fuzz::conf_list(data)
);
