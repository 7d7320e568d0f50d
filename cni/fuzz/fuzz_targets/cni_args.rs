//! The fuzz target `cni_args`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: cni::fuzz::seeds::write_if_asked("cni_args"),
    |data: &[u8]| cni::fuzz::cni_args(data)
);
