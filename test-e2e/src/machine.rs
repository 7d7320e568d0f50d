//! A runtime with what it needs around it: namespaces, a registry with an image in it, folders and a cgroup of its own.

use std::path::PathBuf;
use std::sync::Mutex;

use crate::agent::Agent;
use crate::host::{Host, Namespaces};
use crate::image::{self, Format};
use crate::registry::Registry;

/// A runtime and what it needs around it.
#[derive(Debug)]
pub struct Machine {
    /// Where it runs.
    pub host: Host,
    /// What it pulls from.
    pub registry: Registry,
    /// Berth's agent; `None` with `CRI_ENDPOINT`.
    pub agent: Option<Mutex<Agent>>,
    /// Whose namespaces the runtime lives in.
    pub inside: i32,
    /// Everything of this machine's, removed with it.
    pub folder: PathBuf,
    /// The cgroup that pods are put below, removed with it.
    pub cgroup: String,
    endpoint: String,
    busybox: String,
}

/// Whether cgroups are systemd's to make, which has to be the init for that: `E2E_CGROUP_DRIVER=systemd`.
pub fn with_systemd() -> bool {
    std::env::var_os("E2E_CGROUP_DRIVER").is_some_and(|driver| driver == "systemd")
}

/// What a machine is made of.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Tells the folders and cgroups of one process's machines apart.
    pub name: String,
    /// A running runtime; without one Berth's agent is started.
    pub endpoint: Option<String>,
    /// A process in whose namespaces that runtime lives; without one it is taken to be in ours.
    pub inside: Option<i32>,
    /// Put the agent's root on a tmpfs of so many MiB.
    pub root_size: Option<u64>,
    /// More of the agent's configuration: keys of the top level.
    pub configuration: String,
}

impl Setup {
    fn own_name(&self) -> String {
        format!("berth-e2e-{}-{}", std::process::id(), self.name)
    }

    /// The machine's folder, before it is made.
    pub fn folder(&self) -> PathBuf {
        std::env::temp_dir().join(self.own_name())
    }

    /// What `CRI_ENDPOINT` and `CRI_HOST_PID` say.
    pub fn from_environment(name: &str) -> Setup {
        let inside = std::env::var("CRI_HOST_PID").ok().and_then(|pid| pid.parse().ok());
        Setup { name: name.to_owned(), endpoint: std::env::var("CRI_ENDPOINT").ok(), inside, ..Setup::default() }
    }
}

impl Machine {
    /// Starts the host, a registry with the busybox image in it, and, if no runtime runs yet, the agent.
    pub fn start(setup: &Setup) -> std::io::Result<Machine> {
        let (name, folder) = (setup.own_name(), setup.folder());
        // A dash would make it a slice in a slice in a slice.
        let cgroup = if with_systemd() { format!("{}.slice", name.replace('-', "_")) } else { name };
        std::fs::create_dir_all(&folder)?;
        let namespaces = match (&setup.endpoint, setup.inside) {
            (None, _) => Namespaces::New,
            (Some(_), Some(pid)) => Namespaces::Of(pid),
            (Some(_), None) => Namespaces::Inherited,
        };
        let host = Host::start(namespaces, &folder, &cgroup)?;
        let registry = Registry::start(&host, &folder)?;
        // A label of its own: a runtime that has this image from an earlier run would know it by that run's name too.
        let label = serde_json::json!({ "e2e": registry.address });
        let image = image::busybox(Format::Docker)?.set("Labels", label).build();
        let busybox = registry.push("e2e/busybox", "1", &image)?;
        if let Some(size) = setup.root_size {
            let root = folder.join("root");
            std::fs::create_dir_all(&root)?;
            let options = format!("size={size}m");
            let flags = nix::mount::MsFlags::empty();
            host.run(|| nix::mount::mount(Some("e2e"), &root, Some("tmpfs"), flags, Some(options.as_str())))?;
        }
        let (agent, endpoint) = match &setup.endpoint {
            Some(endpoint) => (None, endpoint.clone()),
            None => {
                let agent = Agent::start(&host, &folder, &cgroup, &setup.configuration)?;
                let endpoint = agent.endpoint();
                (Some(Mutex::new(agent)), endpoint)
            }
        };
        let inside = host.pid();
        Ok(Machine { host, registry, agent, inside, folder, cgroup, endpoint, busybox })
    }

    /// The `cgroup_parent` of a pod: this machine's own cgroup, or the named one in it.
    pub fn cgroup_parent(&self, below: Option<&str>) -> String {
        match (self.cgroup.strip_suffix(".slice"), below) {
            (Some(_), None) => self.cgroup.clone(),
            (Some(slice), Some(name)) => format!("{slice}-{}.slice", name.replace('-', "_")),
            (None, None) => format!("/{}", self.cgroup),
            (None, Some(name)) => format!("/{}/{name}", self.cgroup),
        }
    }

    /// Where the runtime listens.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The reference of the image with a shell.
    pub fn busybox(&self) -> &str {
        &self.busybox
    }
}
