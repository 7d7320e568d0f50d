//! What the image store can be told. The configuration file's defaults are these.

use std::path::PathBuf;
use std::time::Duration;

/// The image store's settings, resolved.
#[derive(Debug, Clone)]
pub struct ImageConfig {
    /// Where `<host>/hosts.toml` is looked for, in the layout containerd uses. Default `/etc/berth/certs.d`,
    /// then `/etc/containerd/certs.d`: the first folder that has the host (or `_default`) counts.
    pub registry_dirs: Vec<PathBuf>,
    /// A docker `config.json` with credentials for pulls that bring none.
    pub docker_config: Option<PathBuf>,
    /// Which images may be pulled (containers-policy.json(5)), read anew for each pull. `None`: all.
    pub signature_policy: Option<PathBuf>,
    /// References that are never removed; `*` stands for any text.
    pub pinned: Vec<String>,
    /// Layers downloaded at one time, over all pulls.
    pub parallel_layers: usize,
    /// The most a layer may unpack to, in bytes of file content (a decompression bomb ends here).
    pub max_layer_bytes: u64,
    /// The most entries a layer's archive may have.
    pub max_layer_entries: u64,
    /// A download that brings less than `stall_bytes` in `stall_period` has failed.
    pub stall_bytes: u64,
    /// See `stall_bytes`.
    pub stall_period: Duration,
    /// Time to reach a registry (TCP and TLS).
    pub connect_timeout: Duration,
    /// How often a failed request is tried again.
    pub retries: u32,
    /// The pause before the first retry; it doubles each time, with jitter, up to 16 times itself.
    pub retry_pause: Duration,
}

impl Default for ImageConfig {
    fn default() -> Self {
        Self {
            registry_dirs: vec!["/etc/berth/certs.d".into(), "/etc/containerd/certs.d".into()],
            docker_config: None,
            signature_policy: None,
            pinned: Vec::new(),
            parallel_layers: 6,
            max_layer_bytes: 64 << 30,
            max_layer_entries: 4_000_000,
            stall_bytes: 16 << 10,
            stall_period: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            retries: 4,
            retry_pause: Duration::from_millis(250),
        }
    }
}
