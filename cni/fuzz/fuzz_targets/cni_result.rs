//! The fuzz target `cni_result`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: cni::fuzz::seeds::write_if_asked("cni_result"),
    |data: &[u8]| cni::fuzz::cni_result(data)
);
