//! The plugins. Each reads its configuration (`Conf`), decides what is to be (pure), and asks the kernel for it by netlink.
//!
//! [`run`] is the one door, for the program `berth-cni` and for a runtime that links this crate: the input is the same JSON
//! and so is the output, whoever calls. [`InProcess`] puts it behind a client, with programs for plugins that are not here.
//! A call that fails takes back what it did; DEL succeeds whatever is gone already.

mod bandwidth;
mod bridge;
mod delegate;
mod firewall;
mod host_local;
mod link;
mod loopback;
mod portmap;
mod ptp;
mod request;
mod sandbox;
mod sockets;
mod stacked;
mod static_addresses;
mod tuning;
mod veth;

use std::sync::Arc;

use serde_json::json;

use crate::call::{Call, RunError, Runner};
use crate::types::{AddResult, CniError, Code, Command, Version, pretty};
use request::{Living, Network, Target};
use sockets::Sockets;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use host_local::fuzz::ranges as fuzz_pools;

/// The names of the plugins.
pub const NAMES: [&str; 12] = [
    "bandwidth",
    "bridge",
    "firewall",
    "host-local",
    "ipvlan",
    "loopback",
    "macvlan",
    "portmap",
    "ptp",
    "static",
    "tuning",
    "vlan",
];

/// What a plugin does for each verb.
trait Plugin: Sync {
    /// Connects the target; takes everything back when it fails.
    fn add(&self, network: &Network<'_>, target: &Target) -> Result<AddResult, CniError>;
    /// Disconnects it; no error for what is not there.
    fn del(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError>;
    /// Complains when it is not as ADD left it.
    fn check(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError>;
    /// Drops what belongs to nobody who lives.
    fn gc(&self, _network: &Network<'_>, _living: &Living) -> Result<(), CniError> {
        Ok(())
    }
    /// Complains when an ADD could not succeed.
    fn status(&self, _network: &Network<'_>) -> Result<(), CniError> {
        Ok(())
    }
}

fn plugin(name: &str) -> Option<&'static dyn Plugin> {
    Some(match name {
        "bandwidth" => &bandwidth::Bandwidth,
        "bridge" => &bridge::Bridge,
        "firewall" => &firewall::Firewalling,
        "host-local" => &host_local::HostLocal,
        "ipvlan" => &stacked::Stacked::IpVlan,
        "loopback" => &loopback::Loopback,
        "macvlan" => &stacked::Stacked::MacVlan,
        "portmap" => &portmap::Portmap,
        "ptp" => &ptp::Ptp,
        "static" => &static_addresses::Static,
        "tuning" => &tuning::Tuning,
        "vlan" => &stacked::Stacked::Vlan,
        _ => return None,
    })
}

/// Runs one of the plugins in this process and returns what it prints; none when `name` is none of them. Plugins that
/// it delegates to are run by `others`, which may be an [`InProcess`] again.
pub fn run(name: &str, call: &Call, others: &dyn Runner) -> Option<Result<Vec<u8>, CniError>> {
    run_with(name, call, others, &Sockets::default())
}

fn run_with(name: &str, call: &Call, others: &dyn Runner, sockets: &Sockets) -> Option<Result<Vec<u8>, CniError>> {
    let plugin = plugin(name)?;
    Some(carry_out(plugin, call, others, sockets).map_err(|error| in_version(call, error)))
}

fn carry_out(plugin: &dyn Plugin, call: &Call, others: &dyn Runner, sockets: &Sockets) -> Result<Vec<u8>, CniError> {
    if call.command == Command::Version {
        return print_versions(call);
    }
    let network = Network::read(call, others, sockets)?;
    if !network.version.has(call.command) {
        let details = format!("{} came later than version {}", call.command, network.version);
        let error = CniError::new(Code::INCOMPATIBLE_VERSION, "this version has no such command");
        return Err(CniError { details, ..error });
    }
    match call.command {
        Command::Add => {
            let result = plugin.add(&network, &Target::read(call)?)?;
            result.print(network.version).map_err(|error| CniError::of(Code::IO, &error))
        }
        Command::Del => plugin.del(&network, &Target::read(call)?).map(|()| Vec::new()),
        Command::Check => plugin.check(&network, &Target::read(call)?).map(|()| Vec::new()),
        Command::Gc => plugin.gc(&network, &Living::read(&network)?).map(|()| Vec::new()),
        Command::Status => plugin.status(&network).map(|()| Vec::new()),
        Command::Version => print_versions(call),
    }
}

fn print_versions(call: &Call) -> Result<Vec<u8>, CniError> {
    let input: serde_json::Value = serde_json::from_slice(&call.input).unwrap_or_default();
    let asked = input["cniVersion"].as_str().unwrap_or(Version::CURRENT.as_str());
    let supported = Version::ALL.map(Version::as_str);
    Ok(json!({"cniVersion": asked, "supportedVersions": supported}).to_string().into_bytes())
}

/// An error says with which version it was called; so says the specification since 1.0.0.
fn in_version(call: &Call, error: CniError) -> CniError {
    let input: serde_json::Value = serde_json::from_slice(&call.input).unwrap_or_default();
    let version =
        input["cniVersion"].as_str().filter(|text| text.parse::<Version>().is_ok_and(|it| it >= Version::V1_0_0));
    CniError { version: version.map(str::to_owned), ..error }
}

/// An error as a plugin prints it.
pub fn print_error(error: &CniError) -> Vec<u8> {
    pretty(error).unwrap_or_default()
}

/// A runner that runs the plugins of this crate in this process, and all others by another runner.
#[derive(Debug, Clone)]
pub struct InProcess<R> {
    others: R,
    except: Vec<String>,
    sockets: Arc<Sockets>,
}

impl<R: Runner> InProcess<R> {
    /// `others` runs what is not here, and what is delegated to what is not here.
    pub fn new(others: R) -> Self {
        Self { others, except: Vec::new(), sockets: Arc::default() }
    }

    /// Whether a plugin is run in this process.
    pub fn has(&self, name: &str) -> bool {
        NAMES.contains(&name) && !self.except.iter().any(|one| one == name)
    }

    /// These are run by the other runner though they are here: the operator wants another program of that name.
    pub fn except(self, names: Vec<String>) -> Self {
        Self { except: names, ..self }
    }
}

impl<R: Runner> Runner for InProcess<R> {
    fn run(&self, name: &str, call: &Call) -> Result<Vec<u8>, RunError> {
        let here = if self.has(name) { run_with(name, call, self, &self.sockets) } else { None };
        match here {
            Some(Ok(output)) => Ok(output),
            Some(Err(error)) => Err(RunError::Failed { plugin: name.into(), command: call.command, error }),
            None => self.others.run(name, call),
        }
    }
}
