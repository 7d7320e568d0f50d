//! The fuzz target `websocket`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: berth::fuzz::seeds::write_if_asked("websocket"),
    |data: &[u8]| berth::fuzz::websocket(data)
);
