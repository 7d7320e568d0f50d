//! Every key of the configuration file, once: its name, type, default and what it means to an operator. The comments on
//! the fields are the text of the default file and of the reference page.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::handlers::{CapabilityName, ProcessLimit, Runtimes, runtimes};
use super::values::{Entry, Shown, Size, Span, Yaml};

/// A section whose keys are all commented out reads as null.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

macro_rules! section {
    ($(#[doc = $about:literal])* $name:ident { $($(#[doc = $doc:literal])* $(#[serde($($serde:tt)*)])? $key:ident: $kind:ty = $default:expr,)* }) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $doc])* $(#[serde($($serde)*)])? pub $key: $kind,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        impl Yaml for $name {
            fn shown(&self) -> Shown {
                Shown::Section(vec![$(Entry { key: stringify!($key), doc: vec![$($doc.trim()),*], value: self.$key.shown() }),*])
            }
        }
    };
}

macro_rules! choice {
    ($(#[doc = $about:literal])* $name:ident { $($(#[doc = $doc:literal])* $variant:ident = $word:literal,)* }) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
        pub enum $name {
            $($(#[doc = $doc])* #[serde(rename = $word)] $variant,)*
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(format!("{text:?} is none of {}", [$($word),*].join(", "))),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)* })
            }
        }

        impl Yaml for $name {
            fn shown(&self) -> Shown {
                Shown::Value(self.to_string())
            }
        }
    };
}

choice! {
    /// How a log line looks.
    LogFormat {
        /// For people.
        Text = "text",
        /// For machines: one object a line.
        Json = "json",
    }
}

choice! {
    /// Who makes cgroups.
    CgroupDriver {
        /// The agent itself.
        Cgroupfs = "cgroupfs",
        /// systemd, over D-Bus.
        Systemd = "systemd",
    }
}

choice! {
    /// Where pods get their network from.
    NetworkMode {
        /// CNI plugins where there is a network list, and else the agent.
        Auto = "auto",
        /// The agent: a bridge and a veth pair a pod.
        Embedded = "embedded",
        /// CNI plugins.
        Cni = "cni",
    }
}

/// Where pods' IPv6 addresses come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6Subnet {
    /// A unique local /64 (RFC 4193) made from the machine's id.
    Ula,
    /// Pods have none.
    Off,
    /// This network.
    Net(Ipv6Net),
}

impl<'de> Deserialize<'de> for Ipv6Subnet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "ula" => Ok(Self::Ula),
            "off" => Ok(Self::Off),
            net => net
                .parse()
                .map(Self::Net)
                .map_err(|_| D::Error::custom(format!("{net:?} is no IPv6 network, ula or off"))),
        }
    }
}

impl Yaml for Ipv6Subnet {
    fn shown(&self) -> Shown {
        match self {
            Self::Ula => "ula".to_owned().shown(),
            Self::Off => "off".to_owned().shown(),
            Self::Net(net) => net.to_string().shown(),
        }
    }
}

section! {
    /// Log lines; they go to standard error.
    Log {
        /// Least level that is written: error, warn, info, debug or trace; of libraries never more than info. Single
        /// modules can be named instead, as in `info,berth::network=debug`.
        level: String = "info".to_owned(),
        /// text or json.
        format: LogFormat = LogFormat::Text,
    }
}

section! {
    /// Prometheus metrics.
    Metrics {
        /// Where GET /metrics is answered, as in "127.0.0.1:9191". There is no authentication. null: nowhere.
        address: Option<SocketAddr> = None,
    }
}

section! {
    /// The server that kubelet takes the clients of exec, attach and port-forward to.
    Streaming {
        /// Where it listens. Its URLs are for kubelet on this node: nobody else has to reach it. Port 0: any free one.
        address: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0),
    }
}

section! {
    /// Control groups.
    Cgroups {
        /// cgroupfs or systemd; kubelet adopts it. Where systemd is the init, systemd should be the one that writes.
        driver: CgroupDriver = CgroupDriver::Cgroupfs,
        /// The cgroup of the monitors, the small processes that pods' containers are children of. With systemd it is a
        /// scope in a slice. null: /berth-monitors with cgroupfs, system.slice/berth-monitors.scope with systemd.
        monitor_cgroup: Option<String> = None,
        /// The cgroup parent of pods that name none. null: /berth with cgroupfs, berth.slice with systemd.
        pod_parent: Option<String> = None,
    }
}

section! {
    /// Images and registries.
    Image {
        /// Folders with `<host>/hosts.toml` (mirrors, TLS), as containerd has them; the first that knows a host counts.
        registry_dirs: Vec<PathBuf> = vec!["/etc/berth/certs.d".into(), "/etc/containerd/certs.d".into()],
        /// A docker config.json with credentials for pulls that bring none; its credential helpers are not run. null: none.
        docker_config: Option<PathBuf> = None,
        /// A containers-policy.json that says which images may be pulled, by cosign signatures. null: all.
        signature_policy: Option<PathBuf> = None,
        /// Images that are never removed; `*` stands for any text.
        pinned: Vec<String> = Vec::new(),
        /// Layers that are fetched at one time, over all pulls.
        parallel_layers: usize = 6,
        /// The most that one layer may unpack to.
        max_layer_size: Size = Size(64 << 30),
        /// The most files, folders and links that one layer may have.
        max_layer_entries: u64 = 4_000_000,
        /// A download that brings less than `stall_size` in `stall_period` has failed.
        stall_size: Size = Size(16 << 10),
        /// See `stall_size`.
        stall_period: Span = Span(Duration::from_secs(30)),
        /// How long reaching a registry may take.
        connect_timeout: Span = Span(Duration::from_secs(10)),
        /// How often a failed request is sent again.
        retries: u32 = 4,
    }
}

section! {
    /// The pod network.
    Network {
        /// embedded: the agent makes it, with a bridge and one veth pair a pod. cni: CNI plugins make it, by the first network
        /// list of `conf_dir`. auto: cni for new pods as soon as there is a file in `conf_dir`, embedded while there is none.
        mode: NetworkMode = NetworkMode::Auto,
        /// Where network lists are looked for (`.conflist`, `.conf`, `.json`, by name); a change takes effect for the next pod.
        conf_dir: PathBuf = "/etc/cni/net.d".into(),
        /// Where the programs of CNI plugins are, in turn.
        bin_dirs: Vec<PathBuf> = vec!["/opt/cni/bin".into()],
        /// What was added by CNI, for taking it back; of this agent alone, since what it does not know there is taken back.
        /// null: cni in `root`.
        cache_dir: Option<PathBuf> = None,
        /// How long the plugins of a list may take together to add a pod, or to take it out.
        plugin_timeout: Span = Span(Duration::from_secs(60)),
        /// Plugins that are run from `bin_dirs` although Berth has them itself, as in [bridge, host-local]; all others of its
        /// own it runs without a program. See network.md.
        exec_plugins: Vec<String> = Vec::new(),
        /// Name of the bridge.
        bridge: String = "berth0".to_owned(),
        /// Pod addresses until the client names the node's pod CIDR (UpdateRuntimeConfig). null: no IPv4.
        ipv4: Option<Ipv4Net> = Some(Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 88, 0, 0), 16)),
        /// The same for IPv6: a network, `ula` (a unique local /64 made from the machine's id) or `off`.
        ipv6: Ipv6Subnet = Ipv6Subnet::Ula,
        /// Largest packet of pod interfaces, in bytes. null: that of the node's default route.
        mtu: Option<u32> = None,
        /// Whether pods reach each other. false: only those do that name each other in the annotation
        /// `io.berth.network/talks-to`; the node, what lies behind it and its host ports are there for all of them.
        icc: bool = true,
    }
}

section! {
    /// Pods in user namespaces.
    UserNamespaces {
        /// First of the host's ids for pods whose client asks for a user namespace and leaves the ids to the runtime;
        /// kubelet does not. Nobody else may use the ids from here on. null: such pods are refused.
        first_id: Option<u32> = None,
        /// How many ids each of them gets.
        ids_per_pod: u32 = 65536,
        /// How many of them there can be at one time.
        pods: u32 = 128,
    }
}

section! {
    /// Devices of the Container Device Interface (CDI).
    Cdi {
        /// Folders with vendors' files; where two have a device, the later folder's counts. []: containers get none.
        spec_dirs: Vec<PathBuf> = vec!["/etc/cdi".into(), "/var/run/cdi".into()],
    }
}

section! {
    /// Classes of block I/O, which pods ask for by annotation.
    Blockio {
        /// A file with classes, in the format of containerd and CRI-O. null: containers that ask for a class are refused.
        config: Option<PathBuf> = None,
    }
}

section! {
    /// A runtime handler, by the name that a RuntimeClass has for it. "" is the handler of pods that name none.
    Runtime {
        /// The program of an OCI runtime, like /usr/bin/runc, that runs the containers. null: Berth does it itself.
        path: Option<PathBuf> = None,
        /// Whether pods and containers may be privileged; where not, those that ask to be are refused.
        privileged: bool = true,
        /// A privileged container gets only the devices that it names, not all of the host's.
        privileged_without_host_devices: bool = false,
        /// The capabilities of containers before their own are added and dropped. null: the usual fourteen.
        capabilities: Option<Vec<CapabilityName>> = None,
        /// Limits of containers' processes, like nofile=1024:524288. What is not named is as the agent's own.
        rlimits: Vec<ProcessLimit> = Vec::new(),
        /// A seccomp profile, a JSON file as docker has it, for containers that ask for the runtime's default. It is read
        /// for each. null: Berth's own.
        seccomp_profile: Option<PathBuf> = None,
        /// A loaded AppArmor profile for containers that ask for the runtime's default or say nothing. null: Berth's own.
        apparmor_profile: Option<String> = None,
        /// Annotations of pods and containers that an OCI runtime finds in config.json; `*` stands for any text. Some are
        /// commands to it: name only those that whoever makes pods may give.
        annotations: Vec<String> = Vec::new(),
    }
}

section! {
    /// Checkpoints of containers.
    Checkpoint {
        /// The program criu, which takes and remakes processes: a path, or a name that is looked up in PATH.
        criu: PathBuf = "criu".into(),
    }
}

section! {
    /// The Node Resource Interface (NRI).
    Nri {
        /// false: no plugin is started and none can connect.
        enabled: bool = true,
        /// Where plugins connect that are started by others. Whoever can connect can change any container: root alone.
        socket_path: PathBuf = "/var/run/nri/nri.sock".into(),
        /// true: only plugins that the agent starts itself.
        disable_connections: bool = false,
        /// Plugins that the agent starts: programs called NN-NAME, NN being their place in the order.
        plugin_path: PathBuf = "/opt/nri/plugins".into(),
        /// Their configuration: NN-NAME.conf, else NAME.conf.
        plugin_config_path: PathBuf = "/etc/nri/conf.d".into(),
        /// How long a plugin may take to say who it is, and then to learn what is there.
        plugin_registration_timeout: Span = Span(Duration::from_secs(5)),
        /// How long a plugin may take to answer; one that takes longer is disconnected.
        plugin_request_timeout: Span = Span(Duration::from_secs(2)),
    }
}

section! {
    /// The whole file.
    Settings {
        /// What has to survive a reboot: images, writable layers, addresses.
        root: PathBuf = "/var/lib/berth".into(),
        /// What must not: records of pods and containers, sockets. Should be a tmpfs.
        run_root: PathBuf = "/run/berth".into(),
        /// The CRI socket. null: berth.sock in `run_root`.
        socket: Option<PathBuf> = None,
        /// The monitor's program. null: berth-monitor beside the agent's own.
        monitor: Option<PathBuf> = None,
        /// How long requests under way may go on after SIGTERM. Pods are left running in any case.
        drain_timeout: Span = Span(Duration::from_secs(20)),
        /// Log lines; they go to standard error.
        #[serde(deserialize_with = "null_is_default")]
        log: Log = Log::default(),
        /// Prometheus metrics: latency by RPC and result, and the phases of a pod's start.
        #[serde(deserialize_with = "null_is_default")]
        metrics: Metrics = Metrics::default(),
        /// The server that kubelet takes the clients of exec, attach and port-forward to.
        #[serde(deserialize_with = "null_is_default")]
        streaming: Streaming = Streaming::default(),
        /// Control groups.
        #[serde(deserialize_with = "null_is_default")]
        cgroups: Cgroups = Cgroups::default(),
        /// Images and registries.
        #[serde(deserialize_with = "null_is_default")]
        image: Image = Image::default(),
        /// The pod network.
        #[serde(deserialize_with = "null_is_default")]
        network: Network = Network::default(),
        /// Devices of the Container Device Interface.
        #[serde(deserialize_with = "null_is_default")]
        cdi: Cdi = Cdi::default(),
        /// Classes of block I/O.
        #[serde(deserialize_with = "null_is_default")]
        blockio: Blockio = Blockio::default(),
        /// The Node Resource Interface: plugins that are told of pods and containers, and change them.
        #[serde(deserialize_with = "null_is_default")]
        nri: Nri = Nri::default(),
        /// Pods in user namespaces.
        #[serde(deserialize_with = "null_is_default")]
        user_namespaces: UserNamespaces = UserNamespaces::default(),
        /// Runtime handlers: each a name with the keys below, all of them optional. See runtimes.md.
        #[serde(deserialize_with = "runtimes")]
        runtimes: Runtimes = Runtimes::new(),
        /// Checkpoints of containers.
        #[serde(deserialize_with = "null_is_default")]
        checkpoint: Checkpoint = Checkpoint::default(),
    }
}
