//! The Node Resource Interface (NRI), version `v1alpha1`, as a Rust crate: every message and enum, the names of both services'
//! methods, and the frames that the messages travel in. Pure: bytes in, messages out.

/// Messages and enums of the protobuf package `nri.pkg.api.v1alpha1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1alpha1 {
    include!(concat!(env!("OUT_DIR"), "/nri.pkg.api.v1alpha1.rs"));
}

/// Messages of the protobuf package `ttrpc`: what a frame holds.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod ttrpc {
    include!(concat!(env!("OUT_DIR"), "/ttrpc.rs"));
}

/// Frames: two ttrpc connections over one socket.
pub mod wire;

/// The service that a plugin serves.
pub const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
/// The service that the runtime serves.
pub const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";

/// What a removal is marked with: `-NAME` takes away what is called `NAME`.
pub const REMOVAL: char = '-';

/// The name behind a removal's mark, if there is one.
pub fn removed(name: &str) -> Option<&str> {
    name.strip_prefix(REMOVAL)
}

impl v1alpha1::Event {
    /// Its bit in a plugin's subscription; 0 for what is no event.
    pub fn bit(self) -> i32 {
        match self {
            Self::Unknown | Self::Last => 0,
            event => 1 << (event as i32 - 1),
        }
    }

    /// All events there are, as a subscription.
    pub fn all() -> i32 {
        (1 << (Self::Last as i32 - 1)) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::v1alpha1::Event;

    #[test]
    fn subscriptions_are_numbered_as_the_reference_numbers_them() {
        assert_eq!((Event::Unknown.bit(), Event::Last.bit()), (0, 0));
        assert_eq!((Event::RunPodSandbox.bit(), Event::RemoveContainer.bit()), (1, 1 << 10));
        assert_eq!((Event::ValidateContainerAdjustment.bit(), Event::all()), (1 << 13, 0x3fff));
    }
}
