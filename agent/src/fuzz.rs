//! The doors of the fuzz targets (`agent/fuzz`): a parser's input goes in, and what has to hold for any input is asserted on
//! the way. Each parser's own module has the assertions; tests run them on the seeds.

/// Cuts a target's input into the parts that it is made of.
mod input;
/// Small inputs that every target begins with.
pub mod seeds;

pub(crate) use input::Input;

/// What a client of the streaming server sends over SPDY.
pub fn spdy(data: &[u8]) {
    crate::stream::fuzz_spdy(data);
}

/// What a client of the streaming server sends over WebSocket.
pub fn websocket(data: &[u8]) {
    crate::stream::fuzz_websocket(data);
}

/// The bytes of a layer's archive.
pub fn tar_read(data: &[u8]) {
    crate::image::fuzz_layer::read(data);
}

/// The entries of a layer, unpacked beside a folder that must not change. Needs root.
pub fn tar_apply(data: &[u8]) {
    crate::image::fuzz_layer::apply(data);
}

/// Image references, and the addresses that come of them.
pub fn reference(data: &[u8]) {
    crate::image::fuzz::reference(data);
}

/// Manifests, indexes and configurations of images.
pub fn manifest(data: &[u8]) {
    crate::image::fuzz::manifest(data);
}

/// `hosts.toml`.
pub fn hosts(data: &[u8]) {
    crate::image::fuzz::hosts(data);
}

/// `WWW-Authenticate`.
pub fn challenge(data: &[u8]) {
    crate::image::fuzz::challenge(data);
}

/// An image's passwd and group, and who asks for what of them.
pub fn passwd(data: &[u8]) {
    crate::libcontainer::spec::fuzz_user(data);
}

/// A seccomp profile, and the program that it becomes.
pub fn seccomp(data: &[u8]) {
    crate::libcontainer::seccomp::fuzz_profile(data);
}

/// What agent and monitor say to each other, and the exit record.
pub fn monitor(data: &[u8]) {
    crate::monitor::protocol::fuzz(data);
}

/// What an NRI plugin sends, and what it wants.
pub fn nri(data: &[u8]) {
    crate::nri::fuzz_plugin(data);
}

/// A container's output on its way into the log.
pub fn log_lines(data: &[u8]) {
    crate::monitor::server::fuzz_log_lines(data);
}
