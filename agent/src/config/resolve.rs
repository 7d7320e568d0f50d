//! From the file and the flags to what holds: read, override, check, fill in what depends on the rest.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check::check;
use super::handlers::Runtimes;
use super::settings::{
    Blockio, Cdi, CgroupDriver, Cgroups, Checkpoint, Image, Log, LogFormat, Network, Nri, Settings, UserNamespaces,
};

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "/etc/berth/config.yaml";

/// What the agent runs with; it never changes while it runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where everything is.
    pub paths: Paths,
    /// How long requests may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Log level and format.
    pub log: Log,
    /// Where metrics are served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Where the clients of exec, attach and port-forward are served.
    pub streaming: SocketAddr,
    /// cgroup driver and the monitors' cgroup.
    pub cgroups: Cgroups,
    /// Image store and registries.
    pub image: Image,
    /// Pod network.
    pub network: Network,
    /// Devices of the Container Device Interface.
    pub cdi: Cdi,
    /// Classes of block I/O.
    pub blockio: Blockio,
    /// Node Resource Interface.
    pub nri: Nri,
    /// Ids that the runtime hands out itself.
    pub user_namespaces: UserNamespaces,
    /// What a pod's RuntimeClass can choose beside the default.
    pub runtimes: Runtimes,
    /// Checkpoints.
    pub checkpoint: Checkpoint,
}

/// Absolute paths.
#[derive(Debug, Clone, PartialEq)]
pub struct Paths {
    /// Survives a reboot.
    pub root: PathBuf,
    /// Does not.
    pub run_root: PathBuf,
    /// The CRI socket.
    pub socket: PathBuf,
    /// The monitor's program.
    pub monitor: PathBuf,
}

/// Flags; what is set wins over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// See `Settings::root`.
    pub root: Option<PathBuf>,
    /// See `Settings::run_root`.
    pub run_root: Option<PathBuf>,
    /// See `Settings::socket`.
    pub socket: Option<PathBuf>,
    /// See `Settings::monitor`.
    pub monitor: Option<PathBuf>,
    /// See `Cgroups::driver`.
    pub cgroup_driver: Option<CgroupDriver>,
    /// See `Log::level`.
    pub log_level: Option<String>,
    /// See `Log::format`.
    pub log_format: Option<LogFormat>,
    /// See `Metrics::address`.
    pub metrics_address: Option<SocketAddr>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no YAML, has an unknown key, or a value of the wrong kind.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// From 1.
        column: u64,
        /// What is wrong there.
        message: String,
    },
    /// A value that is well-formed and cannot work.
    #[error("configuration: {key}: {reason}")]
    Value {
        /// The key, with its section.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The agent does not know where its own program is.
    #[error("cannot tell where the agent's own program is; set `monitor` in the configuration")]
    OwnProgram(#[source] std::io::Error),
}

impl Config {
    /// Reads `file` (the default file, if there, when `None`), applies the flags and checks the result.
    ///
    /// # Errors
    /// When the file cannot be read or parsed, or a value cannot work.
    pub fn load(file: Option<&Path>, flags: Overrides) -> Result<Self, ConfigError> {
        let mut settings = match file {
            Some(path) => Settings::read(path)?,
            None => match Settings::read(Path::new(DEFAULT_FILE)) {
                Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    Settings::default()
                }
                other => other?,
            },
        };
        flags.apply(&mut settings);
        let own = std::env::current_exe().map_err(ConfigError::OwnProgram)?;
        Self::resolve(settings, &own)
    }

    /// Checks settings and fills in what depends on others. `own_program` is the agent's executable.
    ///
    /// # Errors
    /// When a value cannot work.
    pub fn resolve(settings: Settings, own_program: &Path) -> Result<Self, ConfigError> {
        check(&settings)?;
        let socket = settings.socket.unwrap_or_else(|| settings.run_root.join("berth.sock"));
        let monitor = settings.monitor.unwrap_or_else(|| own_program.with_file_name("berth-monitor"));
        Ok(Self {
            paths: Paths { root: settings.root, run_root: settings.run_root, socket, monitor },
            drain_timeout: settings.drain_timeout.0,
            log: settings.log,
            metrics: settings.metrics.address,
            streaming: settings.streaming.address,
            cgroups: settings.cgroups,
            image: settings.image,
            network: settings.network,
            cdi: settings.cdi,
            blockio: settings.blockio,
            nri: settings.nri,
            user_namespaces: settings.user_namespaces,
            runtimes: settings.runtimes,
            checkpoint: settings.checkpoint,
        })
    }
}

impl Settings {
    /// Reads a file; what it leaves out is the default.
    ///
    /// # Errors
    /// When the file cannot be read or parsed.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        Self::parse(&std::fs::read_to_string(path).map_err(read)?, path)
    }

    /// Parses a file's text; `path` is for messages.
    ///
    /// # Errors
    /// When the text is no YAML, or has an unknown key or a value of the wrong kind.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        // A file of comments alone is the null document.
        let settings = serde_saphyr::from_str::<Option<Self>>(text).map_err(|error| {
            let error = error.without_snippet();
            let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
            ConfigError::Parse { path: path.to_owned(), line, column, message: message(error) }
        })?;
        Ok(settings.unwrap_or_default())
    }
}

/// The parser's message without the place it repeats.
fn message(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    match text.split_once(" at line ") {
        Some((message, _)) => message.trim_start_matches("error: ").to_owned(),
        None => text,
    }
}

impl Overrides {
    fn apply(self, settings: &mut Settings) {
        fn set<T>(to: &mut T, from: Option<T>) {
            if let Some(value) = from {
                *to = value;
            }
        }
        set(&mut settings.root, self.root);
        set(&mut settings.run_root, self.run_root);
        set(&mut settings.socket, self.socket.map(Some));
        set(&mut settings.monitor, self.monitor.map(Some));
        set(&mut settings.cgroups.driver, self.cgroup_driver);
        set(&mut settings.log.level, self.log_level);
        set(&mut settings.log.format, self.log_format);
        set(&mut settings.metrics.address, self.metrics_address.map(Some));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, ConfigError> {
        Settings::parse(text, Path::new("/etc/berth/config.yaml"))
    }

    fn resolve(text: &str) -> Result<Config, ConfigError> {
        Config::resolve(parse(text)?, Path::new("/usr/bin/berth"))
    }

    #[test]
    fn an_empty_file_is_the_default() {
        for text in ["", "\n", "# nothing\n", "log:\n"] {
            assert_eq!(parse(text).unwrap(), Settings::default(), "{text:?}");
        }
    }

    #[test]
    fn what_depends_on_the_rest_follows_it() {
        let config = resolve("run_root: /run/two\nnetwork: {mtu: 1400}\n").unwrap();
        assert_eq!(config.paths.socket, Path::new("/run/two/berth.sock"));
        assert_eq!(config.paths.monitor, Path::new("/usr/bin/berth-monitor"));
        assert_eq!(config.network.mtu, Some(1400));
    }

    #[test]
    fn an_unknown_key_is_told_with_its_place() {
        let text = "root: /x\nnetwork:\n  bridge: b0\n  brigde: b1\n";
        let error = parse(text).unwrap_err().to_string();
        assert!(error.starts_with("/etc/berth/config.yaml:4:3: "), "{error}");
        assert!(error.contains("brigde"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_told_with_its_place() {
        for (text, place, word) in [
            ("drain_timeout: soon\n", ":1:16: ", "30s"),
            ("log:\n  format: xml\n", ":2:11: ", "xml"),
            ("image:\n  max_layer_size: big\n", ":2:19: ", "size"),
            ("network:\n  ipv4: 10.0.0.0/99\n", ":2:9: ", ""),
            ("network:\n  ipv6: on\n", ":2:9: ", "ula"),
            ("root: [\n", ":", ""),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains(word), "{text:?}: {error}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let mut settings = parse("root: /a\nlog: {level: debug}\n").unwrap();
        let flags =
            Overrides { root: Some("/b".into()), cgroup_driver: Some(CgroupDriver::Systemd), ..Overrides::default() };
        flags.apply(&mut settings);
        assert_eq!((settings.root.to_str(), settings.log.level.as_str()), (Some("/b"), "debug"));
        assert_eq!(settings.cgroups.driver, CgroupDriver::Systemd);
    }

    #[test]
    fn what_cannot_work_is_refused_by_key() {
        for (text, key) in [
            ("root: var/lib", "root"),
            ("root: /run/berth/lib", "run_root"),
            ("network: {bridge: a-name-that-is-too-long}", "network.bridge"),
            ("network: {ipv4: null, ipv6: \"off\"}", "network.ipv4"),
            ("network: {ipv4: 10.0.0.0/30}", "network.ipv4"),
            ("network: {mtu: 1000}", "network.mtu"),
            ("network: {conf_dir: net.d}", "network.conf_dir"),
            ("network: {bin_dirs: [bin]}", "network.bin_dirs"),
            ("network: {plugin_timeout: 0s}", "network.plugin_timeout"),
            ("image: {parallel_layers: 0}", "image.parallel_layers"),
            ("log: {level: berth=loud}", "log.level"),
            ("nri: {socket_path: nri.sock}", "nri.socket_path"),
            ("nri: {plugin_request_timeout: 0s}", "nri.plugin_request_timeout"),
            ("user_namespaces: {ids_per_pod: 0}", "user_namespaces.ids_per_pod"),
            ("user_namespaces: {first_id: 0}", "user_namespaces.first_id"),
            ("user_namespaces: {first_id: 4294900000, pods: 2}", "user_namespaces.first_id"),
            ("cgroups: {monitor_cgroup: berth}", "cgroups.monitor_cgroup"),
            ("cgroups: {pod_parent: berth.slice}", "cgroups.pod_parent"),
            ("cgroups: {driver: systemd, pod_parent: /berth}", "cgroups.pod_parent"),
            ("cgroups: {driver: systemd, monitor_cgroup: /berth}", "cgroups.monitor_cgroup"),
        ] {
            match resolve(text) {
                Err(ConfigError::Value { key: told, .. }) => assert_eq!(told, key, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_missing_file_is_an_error_only_when_it_was_named() {
        let missing = Config::load(Some(Path::new("/does/not/exist.yaml")), Overrides::default());
        assert!(matches!(missing, Err(ConfigError::Read { .. })));
    }
}
