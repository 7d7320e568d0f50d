//! Flags that several commands take.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::config::{CgroupDriver, Config, ConfigError, LogFormat, Overrides};

/// What `berth serve` takes.
#[derive(Debug, Args)]
pub(super) struct ServeFlags {
    #[command(flatten)]
    pub(super) config: ConfigFlags,
}

/// The configuration: a file, and flags that win over it. Every flag has a key of the same meaning in the file.
#[derive(Debug, Args)]
pub(super) struct ConfigFlags {
    /// Configuration file [default: /etc/berth/config.yaml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What has to survive a reboot: images, writable layers, addresses
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// What must not: records of pods and containers, sockets
    #[arg(long, value_name = "DIR")]
    run_root: Option<PathBuf>,
    /// The CRI socket
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The monitor's program
    #[arg(long, value_name = "PATH")]
    monitor: Option<PathBuf>,
    /// Who makes cgroups: cgroupfs or systemd
    #[arg(long, value_name = "DRIVER")]
    cgroup_driver: Option<CgroupDriver>,
    /// Least level of log lines: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How log lines look: text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Where GET /metrics is answered
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_address: Option<SocketAddr>,
}

impl ConfigFlags {
    /// The configuration that holds.
    pub(super) fn load(self) -> Result<Config, ConfigError> {
        let overrides = Overrides {
            root: self.root,
            run_root: self.run_root,
            socket: self.socket,
            monitor: self.monitor,
            cgroup_driver: self.cgroup_driver,
            log_level: self.log_level,
            log_format: self.log_format,
            metrics_address: self.metrics_address,
        };
        Config::load(self.config.as_deref(), overrides)
    }
}
