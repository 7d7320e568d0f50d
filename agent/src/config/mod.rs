//! The configuration: a YAML file (every key optional, an unknown one is an error with its line), overridden by flags,
//! resolved once into an immutable `Config`. The keys, their defaults and what they mean stand in `settings` alone; the
//! commented default file and docs/configuration.md are made from there.

/// Values that cannot work.
mod check;
/// Runtime handlers.
mod handlers;
/// The default file and the reference page.
mod reference;
/// From what was written to what holds.
mod resolve;
/// Every key: name, type, default and meaning.
mod settings;
/// Values as the file spells them: `30s`, `64GiB`.
mod values;

pub use handlers::{CapabilityName, ProcessLimit, Runtimes};
pub use reference::{default_yaml, reference_page};
pub use resolve::{Config, ConfigError, DEFAULT_FILE, Overrides, Paths};
pub use settings::{
    Blockio, Cdi, CgroupDriver, Cgroups, Checkpoint, Image, Ipv6Subnet, Log, LogFormat, Metrics, Network, NetworkMode,
    Runtime, Settings, Streaming, UserNamespaces,
};
pub use values::{Size, Span};
