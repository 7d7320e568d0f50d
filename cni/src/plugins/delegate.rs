//! The plugin that manages addresses, called by the one that needs them.

use serde_json::Value;

use super::link::{host_name, host_socket, kernel};
use super::request::Network;
use crate::call::{Call, RunError};
use crate::types::{AddResult, CniError, Code, Command};

/// The name in `ipam.type`; none: the network has no addresses.
fn kind<'a>(network: &'a Network<'_>) -> Option<&'a str> {
    network.config.get("ipam")?.get("type")?.as_str().filter(|kind| !kind.is_empty())
}

/// Addresses for the target; none when the network has none.
pub(super) fn add(network: &Network<'_>) -> Result<Option<AddResult>, CniError> {
    let Some(kind) = kind(network) else { return Ok(None) };
    let output = run(network, kind, Command::Add)?;
    let value: Value = serde_json::from_slice(&output)
        .map_err(|error| CniError::of(Code::DECODING, &error).context(format!("answer of {kind}")))?;
    let result = AddResult::read(&value, network.version)
        .map_err(|error| CniError::of(Code::DECODING, &error).context(format!("answer of {kind}")))?;
    match result.ips.is_empty() {
        false => Ok(Some(result)),
        true => Err(CniError::config(format!("ipam: {kind} gave no address"))),
    }
}

/// Gives addresses back.
pub(super) fn del(network: &Network<'_>) -> Result<(), CniError> {
    pass_on(network, Command::Del)
}

/// An ADD after an ADD is refused before it gets addresses, which nobody would give back: the link of the first is there.
pub(super) fn refuse_second(network: &Network<'_>, owner: &str) -> Result<(), CniError> {
    if kind(network).is_none() {
        return Ok(());
    }
    match host_socket()?.link_by_name(&host_name(owner, 0)) {
        Ok(link) if link.alias.as_deref() == Some(owner) => {
            let reason = format!("{} is there already: ADD without a DEL between", link.name);
            Err(CniError::new(Code::INTERNAL, reason))
        }
        Err(error) if !error.not_found() => Err(kernel(error)),
        _ => Ok(()),
    }
}

/// Gives back the addresses of an ADD that has failed, and none besides; returns its error.
pub(super) fn undo(network: &Network<'_>, leased: &AddResult, error: CniError) -> CniError {
    let mut config = network.config.clone();
    config.insert("prevResult".into(), leased.to_value(network.version));
    let given_back = match kind(network) {
        Some(kind) => run_with(network, kind, Command::Del, Value::Object(config).to_string().into_bytes()).map(drop),
        None => Ok(()),
    };
    match given_back {
        Ok(()) => error,
        Err(undo) => {
            CniError { msg: format!("{}; and then giving back the addresses failed: {undo}", error.msg), ..error }
        }
    }
}

/// CHECK, GC and STATUS of the addresses.
pub(super) fn pass_on(network: &Network<'_>, command: Command) -> Result<(), CniError> {
    match kind(network) {
        Some(kind) => run(network, kind, command).map(drop),
        None => Ok(()),
    }
}

fn run(network: &Network<'_>, kind: &str, command: Command) -> Result<Vec<u8>, CniError> {
    run_with(network, kind, command, network.call.input.clone())
}

fn run_with(network: &Network<'_>, kind: &str, command: Command, input: Vec<u8>) -> Result<Vec<u8>, CniError> {
    let call = Call { command, input, ..network.call.clone() };
    network.others.run(kind, &call).map_err(|error| match error {
        RunError::Failed { error, .. } => error.context(kind),
        other => CniError::of(Code::INTERNAL, &other),
    })
}
